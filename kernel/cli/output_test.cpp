#include "kernel/cli/output.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <sstream>

#include "kernel/cli/pods.hpp"
#include "sdk/support/container_log/container_log.hpp"

namespace pintle::cli {
namespace {

using namespace container_log;

std::string printed(const Table& table, bool wide = false, bool color = false) {
  std::ostringstream out;
  table.print(out, wide, color);
  return out.str();
}

TEST(Table, AlignsColumnsAndMarksWhatIsEmpty) {
  Table table({{"NAME"}, {"COUNT", false, true}, {"NOTE"}});
  table.add({"lan", "3", "first"});
  table.add({"n\xc3\xa4me-with-umlaut", "120", ""});
  table.add({"", "", ""});
  EXPECT_EQ(printed(table),
            "NAME              COUNT  NOTE\n"
            "lan                   3  first\n"
            "n\xc3\xa4me-with-umlaut    120\n"
            "-                     -\n");
}

TEST(Table, ShowsWideColumnsOnlyWhenAsked) {
  Table table({{"NAME"}, {"UID", true}, {"NOTE"}});
  table.add({"a", "u", "n"});
  EXPECT_EQ(printed(table), "NAME  NOTE\na     n\n");
  EXPECT_EQ(printed(table, true), "NAME  UID  NOTE\na     u    n\n");
}

TEST(Table, ColorsOnlyWhenEnabledAndWithoutShiftingColumns) {
  Table table({{"STATE"}, {"NOTE"}});
  table.add({{"up", Color::green}, "x"});
  EXPECT_EQ(printed(table), "STATE  NOTE\nup     x\n");
  EXPECT_EQ(printed(table, false, true), "\x1b[1mSTATE\x1b[0m  \x1b[1mNOTE\x1b[0m\n\x1b[32mup\x1b[0m     x\n");
}

TEST(Table, LetsNoEscapeSequenceThrough) {
  Table table({{"NOTE"}});
  table.add({"a\x1b[2J\nb"});
  EXPECT_EQ(printed(table), "NOTE\na [2J b\n");
}

TEST(Times, AreShownInTwoUnits) {
  using std::chrono::seconds;
  EXPECT_EQ(short_duration(seconds(-5)), "0s");
  EXPECT_EQ(short_duration(seconds(59)), "59s");
  EXPECT_EQ(short_duration(seconds(60)), "1m");
  EXPECT_EQ(short_duration(seconds(3 * 60 + 12)), "3m12s");
  EXPECT_EQ(short_duration(seconds(2 * 3600 + 3 * 60 + 59)), "2h3m");
  EXPECT_EQ(short_duration(seconds(100 * 3600)), "4d4h");
}

TEST(Times, AreReadAsRfc3339) {
  EXPECT_EQ(parse_time("1970-01-01T00:00:01Z"), 1'000'000'000);
  EXPECT_EQ(parse_time("2026-01-01T10:00:00.250Z"), 1'767'261'600'250'000'000);
  EXPECT_EQ(parse_time("yesterday"), 0);
  EXPECT_EQ(format_time(1'767'261'600'250'000'000), "2026-01-01T10:00:00Z");
  EXPECT_EQ(age(""), "");
}

TEST(Bytes, AreShownInPowersOf1024) {
  EXPECT_EQ(short_bytes(0), "0");
  EXPECT_EQ(short_bytes(1536), "1.5Ki");
  EXPECT_EQ(short_bytes(64u << 20), "64Mi");
  EXPECT_EQ(short_quantity("24593412Ki"), "23Gi");
  EXPECT_EQ(short_quantity("123456789"), "118Mi");
  EXPECT_EQ(short_quantity("1500M"), "1.4Gi");
  EXPECT_EQ(short_quantity("110x"), "110x");
  EXPECT_EQ(short_quantity(""), "");
}

TEST(PrettyJson, IsTheSameValueIndented) {
  const auto value = boost::json::parse(R"({"a":[1,{"b":"x\ny"}],"c":{},"d":[]})");
  const std::string text = pretty_json(value);
  EXPECT_EQ(text, "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x\\ny\"\n    }\n  ],\n  \"c\": {},\n  \"d\": []\n}\n");
  EXPECT_EQ(boost::json::parse(text), value);
}

TEST(CriLog, ReadsWholeAndPartialRecords) {
  LogRecord record;
  ASSERT_TRUE(parse_log_line("2026-01-01T10:00:00.1Z stdout F hello  world ", record));
  EXPECT_EQ(record.time, "2026-01-01T10:00:00.1Z");
  EXPECT_EQ(record.text, "hello  world ");
  EXPECT_FALSE(record.is_error || record.is_partial);
  ASSERT_TRUE(parse_log_line("t stderr P:x part", record));
  EXPECT_TRUE(record.is_error && record.is_partial);
  ASSERT_TRUE(parse_log_line("t stdout F", record));
  EXPECT_EQ(record.text, "");
  for (const char* wrong : {"", "t", "t stdout", "t stdin F x", "t stdout X x", " stdout F x"})
    EXPECT_FALSE(parse_log_line(wrong, record)) << wrong;
}

TEST(CriLog, FindsTheLastLines) {
  char name[] = "/tmp/pintle-log-XXXXXX";
  const int file = mkstemp(name);
  ASSERT_GE(file, 0);
  unlink(name);
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "line " + std::to_string(i) + "\n";
  ASSERT_EQ(write(file, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  const auto tail = [&](uint64_t lines) { return text.substr(static_cast<size_t>(tail_offset(file, lines))); };
  EXPECT_EQ(tail(0), "");
  EXPECT_EQ(tail(2), "line 19998\nline 19999\n");
  EXPECT_EQ(tail(15000).substr(0, 10), "line 5000\n") << "over several blocks";
  EXPECT_EQ(tail(20000), text);
  EXPECT_EQ(tail(1'000'000), text);
  ASSERT_EQ(write(file, "open", 4), 4);
  text += "open";
  EXPECT_EQ(tail(1), "open") << "a line whose end is not written yet is one";
  close(file);
}

TEST(CriLog, CutsPiecesIntoLines) {
  LineCutter cutter;
  std::vector<std::string> lines;
  const auto take = [&](std::string_view line) { lines.emplace_back(line); };
  cutter.add("a\nb", take);
  cutter.add("c\n\nd", take);
  EXPECT_EQ(lines, (std::vector<std::string>{"a", "bc", ""}));
  EXPECT_EQ(cutter.finish(), "d");
  EXPECT_EQ(cutter.finish(), "");
}

std::string status_of(const char* pod) { return pod_status(boost::json::parse(pod)); }

TEST(PodStatus, SaysWhatKubectlSays) {
  EXPECT_EQ(status_of(R"({"status": {"phase": "Pending"}})"), "Pending");
  EXPECT_EQ(status_of(R"({"status": {"phase": "Failed", "reason": "Evicted"}})"), "Evicted");
  EXPECT_EQ(status_of(R"({"status": {"phase": "Running", "containerStatuses": [
      {"name": "a", "ready": true, "state": {"running": {}}},
      {"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}})"),
            "CrashLoopBackOff");
  EXPECT_EQ(status_of(R"({"status": {"phase": "Failed", "containerStatuses": [
      {"name": "a", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}})"),
            "OOMKilled");
  EXPECT_EQ(status_of(R"({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}})"),
            "Terminating");
  EXPECT_EQ(status_of(R"({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
      "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}},
                            {"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}})"),
            "NotReady");
}

TEST(PodStatus, CountsInitContainersThatAreThrough) {
  EXPECT_EQ(status_of(R"({"spec": {"initContainers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Pending",
      "initContainerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0}}},
                                {"name": "b", "state": {"running": {}}}]}})"),
            "Init:1/2");
  EXPECT_EQ(status_of(R"({"spec": {"initContainers": [{"name": "a"}]}, "status": {"phase": "Pending",
      "initContainerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}})"),
            "Init:Error");
  EXPECT_EQ(
      status_of(
          R"({"spec": {"initContainers": [{"name": "a", "restartPolicy": "Always"}]}, "status": {"phase": "Running",
      "initContainerStatuses": [{"name": "a", "started": true, "state": {"running": {}}}],
      "containerStatuses": [{"name": "m", "ready": true, "state": {"running": {}}}]}})"),
      "Running");
}

}  // namespace
}  // namespace pintle::cli
