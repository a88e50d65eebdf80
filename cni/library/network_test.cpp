#include "cni/library/network.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "cni/protocol.hpp"

namespace pintle::cni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace json = boost::json;

constexpr const char* kList = R"({"cniVersion": "1.1.0", "name": "net", "plugins": [
  {"type": "one", "capabilities": {"portMappings": true, "mac": false}}, {"type": "two"}]})";
constexpr const char* kResult =
    R"({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/ns", "socketPath": "/x"}],
  "ips": [{"address": "10.0.0.2/24", "interface": 0}]})";

/// Answers as it is told, and remembers what it was asked. Real plugins run in tests/cni/foreign_cni_test.py.
class ScriptedRunner final : public Runner {
 public:
  Task<Result<Outcome>> run(Run request) override {
    const json::object config = json::parse(request.input).as_object();
    std::string call = std::string(config.at("type").as_string());
    for (const std::string& variable : request.environment) {
      if (variable.starts_with("CNI_COMMAND=")) call = variable.substr(12) + " " + call;
      if (variable.starts_with("CNI_ARGS=")) arguments = variable.substr(9);
    }
    calls.push_back(call);
    configs.push_back(config);
    if (call == failing)
      co_return Outcome{.wait_status = 1 << 8, .output = R"({"code": 7, "msg": "no"})", .errors = ""};
    co_return Outcome{.wait_status = 0, .output = call.starts_with("ADD") ? answer : "", .errors = ""};
  }
  std::vector<std::string> calls;
  std::vector<json::object> configs;
  std::string failing, answer = kResult, arguments;
};

/// For tasks that never wait.
template <class T>
T result_of(Task<T> task) {
  std::optional<T> result;
  const auto store = [](Task<T> inner, std::optional<T>& into) -> Task<void> {
    into.emplace(co_await std::move(inner));
  };
  Task<void> outer = store(std::move(task), result);
  struct Starter {
    struct promise_type {
      Starter get_return_object() { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() { std::terminate(); }
    };
  };
  const auto start = [](Task<void> inner) -> Starter { co_await std::move(inner); };
  start(std::move(outer));
  return std::move(*result);
}

class NetworkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "pintle-cni-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    std::filesystem::create_directories(folder_ / "bin");
    for (const char* plugin : {"one", "two"}) {
      std::ofstream(folder_ / "bin" / plugin) << "#!/bin/true\n";
      chmod((folder_ / "bin" / plugin).c_str(), 0755);
    }
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  Network network(const std::string& list = kList) {
    return Network(*parse_network_list(list),
                   {.binaries = {folder_ / "none", folder_ / "bin"}, .cache = folder_ / "cache"}, runner_);
  }
  void write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  std::vector<CachedAttachment> cached(const Network& network) {
    damaged_.clear();
    return *network.cached(damaged_);
  }

  std::filesystem::path folder_;
  ScriptedRunner runner_;
  std::vector<std::string> damaged_;
  Target target_{.container = "c1", .name_space = "/ns", .interface = "eth0", .arguments = {{"A", "1"}, {"B", "2"}}};
};

TEST_F(NetworkTest, AddsInOrderAndRemovesInReverse) {
  Network net = network();
  target_.capabilities = {{"portMappings", json::array{1}}, {"mac", "x"}};
  const Result<CachedAttachment> added = result_of(net.add(target_));
  ASSERT_TRUE(added) << added.status().to_string();
  EXPECT_EQ(added->result->ips[0].address.to_string(), "10.0.0.2/24");
  EXPECT_EQ(runner_.arguments, "A=1;B=2");
  EXPECT_EQ(runner_.configs[0].at("runtimeConfig"), (json::object{{"portMappings", json::array{1}}}));
  EXPECT_FALSE(runner_.configs[0].contains("capabilities"));
  EXPECT_FALSE(runner_.configs[1].contains("runtimeConfig")) << "it did not ask for it";
  EXPECT_EQ(runner_.configs[1].at("prevResult"), json::parse(kResult)) << "with what only plugins understand";
  EXPECT_TRUE(result_of(net.check(*added)));
  EXPECT_TRUE(result_of(net.collect({*added})));
  EXPECT_EQ(runner_.configs.back().at("cni.dev/valid-attachments").at(0),
            (json::object{{"containerID", "c1"}, {"ifname", "eth0"}}));
  ASSERT_EQ(cached(net).size(), 1u);
  EXPECT_EQ(write_cached(cached(net)[0]), write_cached(*added));
  EXPECT_TRUE(result_of(net.remove(*added)));
  EXPECT_EQ(cached(net).size(), 0u);
  EXPECT_THAT(runner_.calls,
              ElementsAre("ADD one", "ADD two", "CHECK one", "CHECK two", "GC one", "GC two", "DEL two", "DEL one"));
}

TEST_F(NetworkTest, AFailedAddIsUndone) {
  runner_.failing = "ADD two";
  Network net = network();
  const Status status = result_of(net.add(target_)).status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(), "CNI plugin two, ADD: no (CNI code 7)");
  EXPECT_THAT(runner_.calls, ElementsAre("ADD one", "ADD two", "DEL two", "DEL one"));
  EXPECT_EQ(cached(net).size(), 0u);
}

TEST_F(NetworkTest, ARemovalThatFailsIsKeptForAnother) {
  Network net = network();
  const Result<CachedAttachment> added = result_of(net.add(target_));
  runner_.failing = "DEL two";
  EXPECT_FALSE(result_of(net.remove(*added)));
  EXPECT_EQ(runner_.calls.back(), "DEL one") << "it goes on";
  EXPECT_EQ(cached(net).size(), 1u);
}

TEST_F(NetworkTest, AnswersThatAreNoResultsAreRefusedAndUndone) {
  Network net = network();
  for (const char* answer :
       {"", "[]", "{", R"({"ips": [{"address": "x"}]})", R"({"ips": [{"address": "10.0.0.1/8", "interface": 4}]})"}) {
    runner_.answer = answer;
    EXPECT_THAT(result_of(net.add(target_)).status().message(), HasSubstr("CNI plugin one, ADD")) << answer;
    EXPECT_EQ(cached(net).size(), 0u);
  }
}

TEST_F(NetworkTest, OldListsAreNotAskedWhatTheyDoNotKnow) {
  Network net = network(R"({"cniVersion": "0.3.1", "name": "net", "type": "one"})");
  const Result<CachedAttachment> added = result_of(net.add(target_));
  ASSERT_TRUE(added);
  EXPECT_TRUE(result_of(net.check(*added)));
  EXPECT_TRUE(result_of(net.collect({})));
  EXPECT_TRUE(result_of(net.status()));
  EXPECT_TRUE(result_of(net.remove(*added)));
  EXPECT_THAT(runner_.calls, ElementsAre("ADD one", "DEL one"));
  EXPECT_FALSE(runner_.configs.back().contains("prevResult")) << "0.3.1 does not tell DEL";
}

TEST_F(NetworkTest, DamagedFilesOfTheCacheAreSetAside) {
  std::filesystem::create_directories(folder_ / "cache");
  write("cache/x.json", "{");
  EXPECT_EQ(cached(network()).size(), 0u);
  ASSERT_EQ(damaged_.size(), 1u);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "cache/x.json.damaged"));
}

TEST_F(NetworkTest, TheFirstReadableListOfAFolderCounts) {
  write("10-broken.conflist", "{");
  write("20-old.conf", R"({"cniVersion": "0.4.0", "name": "old", "type": "one"})");
  write("30-net.conflist", kList);
  write("05-not.txt", kList);
  const Result<LoadedList> first = load_network_list(folder_, "");
  ASSERT_TRUE(first);
  EXPECT_EQ(first->list.name, "old");
  EXPECT_THAT(first->passed_over, ElementsAre(HasSubstr("10-broken.conflist: ")));
  EXPECT_EQ(load_network_list(folder_, "net")->list.plugins.size(), 2u);
  EXPECT_THAT(load_network_list(folder_, "other").status().message(), HasSubstr("no CNI network 'other'"));
}

TEST(NetworkList, WhatIsWrongIsNamed) {
  const auto complaint = [](const char* text) { return parse_network_list(text).status().message(); };
  EXPECT_THAT(complaint(R"({"cniVersion": "0.2.0", "name": "a", "type": "b"})"), HasSubstr("'0.2.0' is not supported"));
  EXPECT_THAT(complaint(R"({"cniVersion": "1.0.0", "name": "../a", "type": "b"})"), HasSubstr("name of a CNI network"));
  EXPECT_THAT(complaint(R"({"cniVersion": "1.0.0", "name": "a", "type": "../b"})"), HasSubstr("type of a CNI plugin"));
  EXPECT_THAT(complaint(R"({"cniVersion": "1.0.0", "name": "a", "plugins": []})"),
              HasSubstr("a list of 1 to 32 plugins"));
  EXPECT_THAT(complaint(R"({"cniVersion": "1.0.0", "name": "a", "plugins": [1]})"), HasSubstr("a list of objects"));
  EXPECT_EQ(parse_network_list(
                R"({"cniVersion": "9.0.0", "cniVersions": ["0.4.0", "1.0.0", "9.0.0"], "name": "a", "type": "b"})")
                ->version,
            "1.0.0");
}

}  // namespace
}  // namespace pintle::cni
