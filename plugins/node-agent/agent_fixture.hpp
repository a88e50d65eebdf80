#pragma once

/// The whole plugin on the fake node, over a container runtime that has no containers (fake_runtime.hpp).

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <pintle/plugin.hpp>

#include "pintle/node.pintle.hpp"
#include "plugins/node-agent/fake_runtime.hpp"
#include "sdk/testkit/fake_node.hpp"

namespace pintle::agent::test {

using namespace std::chrono_literals;
using node::v1::ApplyPodsRequest;
using node::v1::ApplyPodsResponse;
using node::v1::ListPodsRequest;
using node::v1::ListPodsResponse;
using node::v1::NodeAgentStub;
using node::v1::RemovePodRequest;
using node::v1::RemovePodResponse;
using testing::ElementsAre;
using testing::HasSubstr;
using testkit::FakeInstance;
using testkit::FakeNode;
namespace json = boost::json;

inline std::string pod_text(const std::string& name, const std::string& more = "",
                            const std::string& container_more = "") {
  return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n  terminationGracePeriodSeconds: 7\n" +
         more + "  containers:\n  - name: web\n    image: web:1\n" + container_more;
}

class NodeAgent : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* folder : {"manifests", "logs", "shared"}) std::filesystem::create_directories(path(folder));
    runtime_instance = &node.add<FakeRuntime>("cri", {"runtime.v1.RuntimeService", "runtime.v1.ImageService"});
    ASSERT_TRUE(node.start(*runtime_instance));
    runtime = FakeRuntime::instance;
    client = &node.client();
  }
  void TearDown() override {
    if (agent) stop();
    for (const std::string& violation : node.violations()) ADD_FAILURE() << violation;
  }

  std::string path(const std::string& name) const { return node.directory() + "/" + name; }

  void start(const std::string& key = "node-agent@1") {
    testkit::InstanceOptions options;
    options.name = "node-agent";
    options.key = key;
    options.shared_directory = path("shared");
    json::object config = {
        {"manifests", path("manifests")},
        {"rereadSeconds", reread},
        {"logs", path("logs")},
        {"nodeAddress", "192.0.2.7"},
        {"clusterDNS", json::array()},
        {"clusterDomain", "cluster.local"},
        {"cgroupRoot", ""},
        {"podPidsLimit", 0},
        {"seccompProfiles", path("seccomp")},
        {"containerLogs", {{"maxSize", "10Mi"}, {"maxFiles", 5}, {"everySeconds", 10}}},
        {"restartBackoff", {{"initialSeconds", 0.05}, {"maximumSeconds", 0.2}, {"resetSeconds", 10}}}};
    options.config = json::serialize(config);
    agent = &node.load(PLUGINS "/node-agent.so", options);
    node.bind(*agent, "runtime", {runtime_instance}, "runtime.v1.RuntimeService");
    node.bind(*agent, "images", {runtime_instance}, "runtime.v1.ImageService");
    const Status started = node.start(*agent);
    ASSERT_TRUE(started) << started.message();
    stub = node.stub<NodeAgentStub>(*client, *agent);
  }
  void stop() {
    EXPECT_TRUE(node.drain(*agent));
    EXPECT_TRUE(node.stop(*agent));
    node.destroy(*agent);
    agent = nullptr;
  }

  /// As careful writers do it: aside, then renamed.
  void drop(const std::string& file, const std::string& text) {
    const std::string aside = path("manifests/." + file + ".tmp");
    std::ofstream(aside) << text;
    std::filesystem::rename(aside, path("manifests/" + file));
  }
  void take_away(const std::string& file) { std::filesystem::remove(path("manifests/" + file)); }

  ListPodsResponse list(const std::string& name = "") {
    const auto call = [](NodeAgentStub agent_stub, ListPodsRequest request) -> Task<Result<ListPodsResponse>> {
      co_return co_await agent_stub.ListPods(request);
    };
    ListPodsRequest request;
    request.mutable_only()->set_name(name);
    auto answer = node.wait(call(stub, request));
    EXPECT_TRUE(answer && *answer);
    return answer && *answer ? **answer : ListPodsResponse();
  }
  node::v1::Pod pod(const std::string& name) {
    const ListPodsResponse all = list(name);
    return all.pods_size() == 1 ? all.pods(0) : node::v1::Pod();
  }
  json::value status(const std::string& name) { return json::parse(pod(name).json()).at("status"); }

  Result<ApplyPodsResponse> apply(const std::string& text, bool dry_run = false) {
    const auto call = [](NodeAgentStub agent_stub, ApplyPodsRequest request) -> Task<Result<ApplyPodsResponse>> {
      co_return co_await agent_stub.ApplyPods(request);
    };
    ApplyPodsRequest request;
    request.set_manifest(text);
    request.set_origin("my.yaml");
    request.set_dry_run(dry_run);
    auto answer = node.wait(call(stub, request));
    return answer ? *answer : Result<ApplyPodsResponse>(internal_error("hangs"));
  }
  Status remove(const std::string& name, std::optional<uint32_t> grace = std::nullopt) {
    const auto call = [](NodeAgentStub agent_stub, RemovePodRequest request) -> Task<Result<RemovePodResponse>> {
      co_return co_await agent_stub.RemovePod(request);
    };
    RemovePodRequest request;
    request.mutable_pod()->set_name(name);
    request.set_has_grace(grace.has_value());
    request.set_grace_seconds(grace.value_or(0));
    auto answer = node.wait(call(stub, request));
    return answer ? answer->status() : internal_error("hangs");
  }

  bool until(const std::function<bool()>& predicate, std::chrono::milliseconds limit = 5s) {
    return node.run_until(predicate, limit);
  }
  bool until_running(const std::string& container, size_t count = 1) {
    return until([&] { return runtime->running(container).size() == count; });
  }
  void let_pass(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    until([&] { return std::chrono::steady_clock::now() > end; }, time + 1s);
  }

  FakeNode node;
  FakeInstance* runtime_instance = nullptr;
  FakeInstance* agent = nullptr;
  FakeInstance* client = nullptr;
  FakeRuntime* runtime = nullptr;
  NodeAgentStub stub;
  double reread = 20;
};

}  // namespace pintle::agent::test
