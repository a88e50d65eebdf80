#include "plugins/runtime-oci/record.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plugins/runtime-oci/monitor.hpp"
#include "plugins/runtime-oci/settings.hpp"

namespace pintle::runtime_oci {
namespace {

TEST(Record, IsReadAsItWasWritten) {
  ContainerRecord record;
  record.id = std::string(64, 'a');
  record.sandbox_id = "s";
  record.labels = {{"a", "b"}};
  record.phase = Phase::started;
  record.process = {7, 8};
  record.finished_at = 1'700'000'000'123'456'789;
  record.out_of_memory = true;
  record.stop_signal = 37;
  auto again = ContainerRecord::parse(record.to_json());
  ASSERT_TRUE(again.is_ok()) << again.status().message();
  EXPECT_EQ(again->to_json(), record.to_json());
}

TEST(Record, EveryTruncationIsDamage) {
  ContainerRecord record;
  record.id = std::string(64, 'a');
  const std::string text = record.to_json();
  for (size_t size = 0; size + 2 < text.size(); ++size) {
    EXPECT_EQ(ContainerRecord::parse(text.substr(0, size)).status().code(), Code::data_loss) << size;
  }
}

TEST(Record, AProcessIsToldFromALaterOneWithItsPid) {
  auto start = start_time_of(getpid());
  ASSERT_TRUE(start.is_ok());
  EXPECT_TRUE(is_alive({getpid(), *start}));
  EXPECT_FALSE(is_alive({getpid(), *start + 1}));
  EXPECT_FALSE(is_alive({0, 0}));
  const pid_t child = fork();
  if (child == 0) _exit(0);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(start_time_of(child).status().code(), Code::not_found) << "a zombie has ended";
  waitpid(child, nullptr, 0);
}

TEST(Record, SignalsAreKnownByNameAndNumber) {
  EXPECT_EQ(signal_number("SIGTERM"), 15);
  EXPECT_EQ(signal_number("quit"), 3);
  EXPECT_EQ(signal_number("9"), 9);
  EXPECT_EQ(signal_number("SIGRTMIN+3"), 37);
  EXPECT_EQ(signal_number("RTMAX-1"), 63);
  EXPECT_EQ(signal_number("SIGNONSENSE"), 0);
  EXPECT_EQ(signal_number("65"), 0);
  EXPECT_EQ(signal_number(""), 0);
}

TEST(Monitor, ItsWordIsAPidOrAReason) {
  EXPECT_EQ(*parse_sync("{\"pid\": 42}\n"), 42);
  const Status failed =
      parse_sync(
          R"({"pid": -1, "message": "crun: executable file `x` not found in $PATH: No such file or directory\n"})")
          .status();
  EXPECT_EQ(failed.code(), Code::invalid_argument);
  EXPECT_EQ(failed.message(), "crun: executable file `x` not found in $PATH: No such file or directory");
  EXPECT_EQ(parse_sync("").status().code(), Code::internal);
  EXPECT_EQ(parse_sync("conmon: option parsing failed").status().code(), Code::internal);
}

TEST(Settings, DefaultsAndMissingProgramsAreNamed) {
  auto settings = Settings::parse("{}");
  EXPECT_EQ(settings->runtime, "auto");
  EXPECT_EQ(Settings::parse(R"({"cgroupParent":"/a/"})")->cgroup_parent, "/a");
  EXPECT_FALSE(Settings::parse(R"({"cgroupParent":"a"})").is_ok());
  settings->runtime = "no-such-runtime";
  const auto unified = *cgroup::Layout::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "cpu");
  const Status missing = find_programs(*settings, unified).status();
  EXPECT_EQ(missing.code(), Code::failed_precondition);
  EXPECT_NE(missing.message().find("apt install"), std::string::npos);
  Programs programs;
  EXPECT_TRUE(identify_runtime(programs, "runc version 1.1.5+ds1\ncommit: x\n").is_ok());
  EXPECT_EQ(programs.runtime_version, "1.1.5+ds1");
  EXPECT_EQ(programs.kind, RuntimeKind::runc);
  EXPECT_FALSE(identify_runtime(programs, "hello\n").is_ok());
}

TEST(Settings, AHostThatCrunRefusesIsNamedBeforehand) {
  const std::string mounts =
      "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n34 30 0:30 / /sys/fs/cgroup/unified rw - "
      "cgroup2 c rw\n";
  EXPECT_EQ(crun_obstacle(*cgroup::Layout::parse(mounts, "")), "");
  const auto mixed = *cgroup::Layout::parse(mounts, "hugetlb");
  EXPECT_NE(crun_obstacle(mixed).find("mount -t cgroup -o hugetlb"), std::string::npos);
  Settings settings;
  settings.runtime = "crun";
  EXPECT_EQ(find_programs(settings, mixed).status().code(), Code::failed_precondition);
}

}  // namespace
}  // namespace pintle::runtime_oci
