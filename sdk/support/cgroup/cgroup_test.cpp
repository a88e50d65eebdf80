#include "sdk/support/cgroup/cgroup.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "sdk/support/files/files.hpp"

namespace pintle::cgroup {
namespace {

TEST(CgroupLayout, ReadsWhatHostsMount) {
  const std::string v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
  const std::string v1 =
      "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
      "33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd\n";
  const std::string unified = "34 30 0:30 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n";
  auto pure = Layout::parse(v2, "cpu memory pids");
  ASSERT_TRUE(pure.is_ok());
  EXPECT_EQ(pure->mode(), Mode::v2);
  EXPECT_EQ(pure->of("memory")->mount, "/sys/fs/cgroup");
  EXPECT_EQ(pure->of("devices"), nullptr);
  EXPECT_TRUE(pure->tasks_files("/x").empty());

  auto old = Layout::parse(v1, "");
  EXPECT_EQ(old->mode(), Mode::v1);
  EXPECT_EQ(old->of("cpuacct")->mount, "/sys/fs/cgroup/cpu,cpuacct");
  EXPECT_EQ(old->folders("/x").size(), 3u);
  EXPECT_EQ(old->unified_folder("/x"), "");

  auto both = Layout::parse(v1 + unified + v1, "hugetlb");
  EXPECT_EQ(both->mode(), Mode::hybrid);
  EXPECT_EQ(both->unified_folder("/x"), "/sys/fs/cgroup/uni fied/x");
  EXPECT_EQ(both->folders("/x").size(), 4u) << "a second mount of a hierarchy is not another one";

  EXPECT_EQ(Layout::parse("nonsense\n- - -\n", "").status().code(), Code::failed_precondition);
}

TEST(CgroupLayout, SharesBecomeWeights) {
  EXPECT_EQ(weight_of_shares(2), 1u);
  EXPECT_EQ(weight_of_shares(1024), 39u);
  EXPECT_EQ(weight_of_shares(262144), 10000u);
  EXPECT_EQ(weight_of_shares(0), 1u);
}

class CgroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "cgroups need root";
    auto layout = Layout::detect();
    ASSERT_TRUE(layout.is_ok()) << layout.status().message();
    layout_ = std::move(*layout);
    path_ = "/pintle-cgroup-test-" + files::random_hex(8);
    const Status made = layout_.create(path_ + "/a");
    ASSERT_TRUE(made.is_ok()) << made.message();
  }
  void TearDown() override {
    (void)layout_.kill(path_);
    const Status removed = layout_.remove(path_, 2000);
    EXPECT_TRUE(removed.is_ok()) << removed.message();
    EXPECT_FALSE(layout_.exists(path_));
  }
  /// A child in the cgroup that runs `body` and ends with its result; what it waits for comes through a pipe.
  template <class Body>
  pid_t child(const std::string& path, Body body) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      for (const std::string& file : layout_.tasks_files(path)) {
        const int fd = open(file.c_str(), O_WRONLY);
        if (fd < 0 || write(fd, "0", 1) != 1) _exit(99);
        close(fd);
      }
      if (const std::string folder = layout_.unified_folder(path); !folder.empty()) {
        const int fd = open((folder + "/cgroup.procs").c_str(), O_WRONLY);
        if (fd < 0 || write(fd, "0", 1) != 1) _exit(98);
        close(fd);
      }
      if (write(ready[1], "x", 1) != 1) _exit(97);
      _exit(body());
    }
    close(ready[1]);
    char byte;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
  }
  static int status_of(pid_t pid) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return status;
  }
  Layout layout_;
  std::string path_;
};

TEST_F(CgroupTest, OpeningTheLockForMovesMovesNothing) {
  const auto membership = [] {
    std::ifstream file("/proc/self/cgroup");
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  ASSERT_TRUE(layout_.create(path_));
  const pid_t pid = child(path_, [&] {
    const std::string before = membership();
    if (before.find(path_) == std::string::npos) return 1;
    if (!layout_.open_attach_lock()) return 2;
    return membership() == before ? 0 : 3;
  });
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 0);
}

TEST_F(CgroupTest, CreateIsRepeatableAndRefusesPathsThatLeadUp) {
  EXPECT_TRUE(layout_.create(path_ + "/a").is_ok());
  for (const char* path : {"relative", "/a/../b", "", "/", "/a\nb"}) {
    EXPECT_EQ(layout_.create(path).code(), Code::invalid_argument) << path;
  }
}

TEST_F(CgroupTest, KillEndsAllBelowAndRemoveTakesTheWholeTree) {
  ASSERT_TRUE(layout_.create(path_ + "/a/one").is_ok());
  ASSERT_TRUE(layout_.create(path_ + "/a/two").is_ok());
  const auto wait = [] {
    pause();
    return 0;
  };
  const pid_t one = child(path_ + "/a/one", wait), two = child(path_ + "/a/two", wait);
  auto pids = layout_.processes(path_);
  ASSERT_TRUE(pids.is_ok());
  EXPECT_EQ(pids->size(), 2u);
  EXPECT_FALSE(layout_.remove(path_ + "/a", 5).is_ok()) << "a cgroup with processes stays";
  ASSERT_TRUE(layout_.kill(path_ + "/a").is_ok());
  EXPECT_EQ(WTERMSIG(status_of(one)), SIGKILL);
  EXPECT_EQ(WTERMSIG(status_of(two)), SIGKILL);
  EXPECT_TRUE(layout_.remove(path_ + "/a", 2000).is_ok());
  EXPECT_EQ(layout_.stats(path_ + "/a").status().code(), Code::not_found);
  EXPECT_TRUE(layout_.remove(path_ + "/a").is_ok()) << "what is gone is removed";
}

TEST_F(CgroupTest, ALimitOfMemoryIsEnforcedAndItsKillIsCounted) {
  if (!layout_.of("memory")) GTEST_SKIP() << "no memory controller";
  const Status applied = layout_.apply(path_ + "/a", {.memory = 16 << 20, .memory_and_swap = 16 << 20});
  ASSERT_TRUE(applied.is_ok()) << applied.message();
  const pid_t pid = child(path_ + "/a", [] {
    volatile char* memory = static_cast<char*>(malloc(64 << 20));
    for (size_t i = 0; i < (64u << 20); i += 4096) memory[i] = 1;
    return 0;
  });
  const int status = status_of(pid);
  ASSERT_TRUE(WIFSIGNALED(status));
  auto stats = layout_.stats(path_ + "/a");
  ASSERT_TRUE(stats.is_ok());
  EXPECT_EQ(stats->memory_limit, 16u << 20);
  EXPECT_GE(stats->out_of_memory_kills, 1u);
  EXPECT_GT(stats->page_faults, 0u);
}

TEST_F(CgroupTest, LimitsGrowAndShrink) {
  if (!layout_.of("memory") || !layout_.of("pids") || !layout_.of("cpu")) GTEST_SKIP() << "controllers are missing";
  for (const int64_t bytes : {32 << 20, 64 << 20, 16 << 20}) {
    const Status applied = layout_.apply(path_ + "/a", {.cpu_shares = 512,
                                                        .cpu_quota = 50'000,
                                                        .cpu_period = 100'000,
                                                        .memory = bytes,
                                                        .memory_and_swap = bytes,
                                                        .processes = 5});
    ASSERT_TRUE(applied.is_ok()) << applied.message();
    EXPECT_EQ(layout_.stats(path_ + "/a")->memory_limit, static_cast<uint64_t>(bytes));
  }
  const pid_t pid = child(path_ + "/a", [] {
    for (int i = 0; i < 10; ++i) {
      const pid_t forked = fork();
      if (forked < 0) return 42;
      if (forked == 0) pause();
    }
    return 0;
  });
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 42);
  ASSERT_TRUE(layout_.kill(path_ + "/a").is_ok());
}

TEST_F(CgroupTest, AMissingControllerAndForeignFilesAreNamed) {
  EXPECT_EQ(layout_.apply(path_ + "/a", {.unified = {{"../x", "1"}}}).code(), Code::invalid_argument);
  EXPECT_EQ(layout_.apply(path_ + "/a", {.unified = {{"cgroup.procs", "1"}}}).code(), Code::invalid_argument);
  auto bare = Layout::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "");
  const Status status = bare->apply(path_, {.memory = 1});
  EXPECT_EQ(status.code(), Code::failed_precondition);
  EXPECT_NE(status.message().find("'memory'"), std::string::npos);
}

int try_devices() {
  const int null_device = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY),
            random = open("/dev/urandom", O_RDONLY);
  return (null_device >= 0 ? 1 : 0) + (zero >= 0 ? 2 : 0) + (random >= 0 ? 4 : 0);
}

TEST_F(CgroupTest, OnlyAllowedDevicesOpen) {
  const std::vector<DeviceRule> rules = {{'c', 1, 3, "rw"}, {'c', 1, 9, "w"}, {'b', {}, {}, "m"}};
  const Status status = layout_.allow_devices(path_ + "/a", rules);
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(WEXITSTATUS(status_of(child(path_ + "/a", try_devices))), 1) << "only /dev/null";
}

TEST_F(CgroupTest, TheDeviceProgramOfV2AllowsTheSame) {
  const std::string folder = layout_.unified_folder(path_ + "/a");
  if (folder.empty()) GTEST_SKIP() << "no v2 hierarchy";
  auto unified = Layout::parse(
      "30 23 0:26 / " + folder.substr(0, folder.size() - path_.size() - 2) + " rw - cgroup2 cgroup2 rw\n", "");
  const Status status = unified->allow_devices(path_ + "/a", {{'c', 1, 3, "rw"}, {'c', 1, 9, "w"}, {'b', {}, {}, "m"}});
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(WEXITSTATUS(status_of(child(path_ + "/a", try_devices))), 1) << "only /dev/null";
}

}  // namespace
}  // namespace pintle::cgroup
