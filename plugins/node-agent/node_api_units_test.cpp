// The parts of the node API that need no node: questions for logs, logs, /proc, and metrics as text.

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "plugins/node-agent/log_reader.hpp"
#include "plugins/node-agent/node_stats.hpp"
#include "plugins/node-agent/stats_metrics.hpp"

namespace pintle::agent {
namespace {

using testing::HasSubstr;
constexpr int64_t kNow = 1'800'000'000'000'000'000;

TEST(LogQueryTest, ReadsWhatKubectlSends) {
  const Result<LogQuery> query = parse_log_query({{"follow", "true"},
                                                  {"timestamps", ""},
                                                  {"tailLines", "5"},
                                                  {"limitBytes", "9"},
                                                  {"sinceSeconds", "2"},
                                                  {"x", "y"}},
                                                 kNow);
  ASSERT_TRUE(query) << query.status().message();
  EXPECT_TRUE(query->follow && query->timestamps && !query->previous);
  EXPECT_EQ(query->tail_lines, 5u);
  EXPECT_EQ(query->limit_bytes, 9u);
  EXPECT_EQ(query->since, kNow - 2'000'000'000);
  EXPECT_FALSE(parse_log_query({{"follow", "false"}}, kNow)->follow);
  EXPECT_EQ(parse_log_query({{"sinceTime", "2027-01-15T08:00:00.5Z"}}, kNow)->since, kNow + 500'000'000);
}

TEST(LogQueryTest, NamesTheParameterThatIsWrong) {
  for (const auto& [name, value] : {std::pair("tailLines", "-1"), std::pair("tailLines", "1x"),
                                    std::pair("limitBytes", "0"), std::pair("sinceSeconds", "99999999999999999999"),
                                    std::pair("sinceTime", "soon"), std::pair("stream", "stdin")}) {
    const Result<LogQuery> query = parse_log_query({{name, value}}, kNow);
    ASSERT_FALSE(query) << name;
    EXPECT_THAT(query.status().message(), HasSubstr(std::string(name) + "=" + value));
  }
}

class LogReaderTest : public testing::Test {
 protected:
  ~LogReaderTest() override { std::filesystem::remove_all(folder); }
  std::string read(LogQuery query) {
    LogReader reader(path, query);
    EXPECT_TRUE(reader.open());
    std::string all;
    while (true) {
      const Result<std::string> piece = reader.next();
      EXPECT_TRUE(piece);
      if (!piece || piece->empty()) return all;
      all += *piece;
    }
  }
  const std::string folder = [] {
    const std::string made = testing::TempDir() + "/logs-" + files::random_hex(8);
    std::filesystem::create_directories(made);
    return made;
  }();
  const std::string path = folder + "/0.log";
};

TEST_F(LogReaderTest, JoinsPartsOfALineAndStampsItOnce) {
  std::ofstream(path) << "2026-01-01T00:00:01Z stdout P beginning \n2026-01-01T00:00:02Z stdout F end\n"
                         "2026-01-01T00:00:03Z stderr F wrong\n";
  EXPECT_EQ(read({}), "beginning end\nwrong\n");
  EXPECT_EQ(read({.timestamps = true}), "2026-01-01T00:00:01Z beginning end\n2026-01-01T00:00:03Z wrong\n");
  EXPECT_EQ(read({.standard_output = false}), "wrong\n");
  EXPECT_EQ(read({.tail_lines = 1}), "wrong\n");
  EXPECT_EQ(read({.limit_bytes = 12}), "beginning en");
}

TEST_F(LogReaderTest, ReadsOnWhereALogWasRotated) {
  std::ofstream(path) << "t stdout F one\n";
  LogReader reader(path, {.follow = true});
  ASSERT_TRUE(reader.open());
  EXPECT_EQ(*reader.next(), "one\n");
  EXPECT_EQ(*reader.next(), "");
  const std::string rotated = path + ".20260101-000000-000";
  std::filesystem::rename(path, rotated);
  std::ofstream(rotated, std::ios::app) << "t stdout F two\n";
  std::ofstream(path) << "t stdout F three\n";
  EXPECT_EQ(*reader.next(), "two\nthree\n");
}

TEST_F(LogReaderTest, WhatIsNotTooOldMayStandInRotatedFiles) {
  std::ofstream(path + ".20260101-000002-000")
      << "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stdout F two\n";
  std::ofstream(path) << "2026-01-01T00:00:03Z stdout F three\n";
  LogQuery query;
  query.since = 1'767'225'602'000'000'000;  // the second of these
  EXPECT_EQ(read(query), "two\nthree\n");
  query.tail_lines = 1;
  EXPECT_EQ(read(query), "three\n");
}

TEST(NodeUsageTest, ReadsProc) {
  NodeUsage node;
  read_cpu("cpu  100 10 20 1000 5 1 2 3 50 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\nbtime 1700000000\n", 100, node);
  EXPECT_EQ(node.usage.cpu_nanoseconds, 136u * 10'000'000);
  EXPECT_EQ(node.cores, 2u);
  EXPECT_EQ(node.booted_at, 1'700'000'000'000'000'000);
  read_memory(
      "MemTotal:  1000 kB\nMemFree:  400 kB\nInactive(file):  100 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\nAnonPages: 70 "
      "kB\n",
      "pgfault 9\npgmajfault 4\n", node);
  EXPECT_EQ(node.usage.memory, 600u * 1024);
  EXPECT_EQ(node.usage.working_set, 500u * 1024);
  EXPECT_EQ(node.usage.memory_available, 500u * 1024);
  EXPECT_EQ(node.usage.swap, 30u * 1024);
  EXPECT_EQ(node.usage.page_faults, 9u);
  EXPECT_EQ(node.usage.major_page_faults, 4u);
  NodeUsage nothing;
  read_cpu("", 100, nothing);
  read_memory("MemTotal", "", nothing);
  EXPECT_EQ(nothing.usage.memory, 0u);
}

TEST(MetricsTextTest, WritesHeadsOnceAndEscapesLabels) {
  MetricsText text;
  text.family("empty", "gauge", "nothing");
  text.family("a", "counter", "Counts.");
  text.sample({{"x", "q\"u\\o\nte"}}, 3);
  text.sample({}, 0.25);
  EXPECT_EQ(text.text(), "# HELP a Counts.\n# TYPE a counter\na{x=\"q\\\"u\\\\o\\nte\"} 3\na 0.25\n");
}

}  // namespace
}  // namespace pintle::agent
