#include "cri/namespaces.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

namespace pintle::cri {
namespace {

namespace fs = std::filesystem;

class NamespacesTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "namespaces need root";
    char pattern[] = "/tmp/pintle-namespaces-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    root_ = pattern;
    folder_ = root_ / "sandboxes" / "pod";
  }
  void TearDown() override {
    if (root_.empty()) return;
    (void)release_namespaces(folder_);
    fs::remove_all(root_);
  }
  /// What `function` returns on a thread that has entered a pinned namespace.
  template <class F>
  static std::string inside(const std::string& pin, F function) {
    std::string result;
    std::thread([&] {
      const int fd = ::open(pin.c_str(), O_RDONLY | O_CLOEXEC);
      result = fd >= 0 && ::setns(fd, 0) == 0 ? function() : "could not enter " + pin;
      ::close(fd);
    }).join();
    return result;
  }
  static std::string read(const std::string& path) {
    std::ifstream in(path);
    std::string line;
    std::getline(in, line);
    return line;
  }
  static std::string hostname() {
    char name[65] = {};
    ::gethostname(name, sizeof name - 1);
    return name;
  }
  static std::string loopback() {
    const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    const int asked = ::ioctl(socket, SIOCGIFFLAGS, &request);
    ::close(socket);
    return asked == 0 && (request.ifr_flags & IFF_UP) != 0 ? "up" : "down";
  }
  fs::path root_;
  std::string folder_;
};

TEST_F(NamespacesTest, PinsOutliveTheThreadAndCarryTheirSettings) {
  NamespaceRequest request;
  request.folder = folder_;
  request.hostname = "web-0";
  request.sysctls = {{"net.ipv4.ip_local_port_range", "40000\t50000"}, {"kernel.msgmax", "12345"}};
  const std::string node = hostname();
  Result<Namespaces> made = make_namespaces(request);
  ASSERT_TRUE(made) << made.status().to_string();
  EXPECT_TRUE(is_pinned(made->network, made->network_inode));
  EXPECT_TRUE(is_pinned(made->ipc, made->ipc_inode));
  EXPECT_TRUE(is_pinned(made->uts, made->uts_inode));
  EXPECT_EQ(inside(made->uts, hostname), "web-0");
  EXPECT_EQ(inside(made->network, [] { return read("/proc/sys/net/ipv4/ip_local_port_range"); }), "40000\t50000");
  EXPECT_EQ(inside(made->ipc, [] { return read("/proc/sys/kernel/msgmax"); }), "12345");
  EXPECT_EQ(inside(made->network, loopback), "up");
  struct stat shm {};
  ASSERT_EQ(::stat(made->shm.c_str(), &shm), 0);
  EXPECT_EQ(shm.st_mode & 07777, 01777u);
  EXPECT_EQ(hostname(), node) << "the node's own hostname has changed";
}

TEST_F(NamespacesTest, ReleaseLeavesNothingAndIsIdempotent) {
  NamespaceRequest request;
  request.folder = folder_;
  ASSERT_TRUE(make_namespaces(request));
  EXPECT_TRUE(release_namespaces(folder_));
  EXPECT_FALSE(fs::exists(folder_));
  EXPECT_TRUE(release_namespaces(folder_));
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) EXPECT_EQ(line.find(folder_), std::string::npos) << line;
}

TEST_F(NamespacesTest, TheNodesNamespacesAreKeptWhereThePodSharesThem) {
  NamespaceRequest request;
  request.folder = folder_;
  request.network = false;
  request.ipc = false;
  request.uts = false;
  Result<Namespaces> made = make_namespaces(request);
  ASSERT_TRUE(made);
  EXPECT_TRUE(made->network.empty());
  EXPECT_TRUE(made->ipc.empty());
  EXPECT_TRUE(made->shm.empty());
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(NamespacesTest, ASysctlThatTheKernelRefusesLeavesNothingBehind) {
  NamespaceRequest request;
  request.folder = folder_;
  request.sysctls = {{"net.ipv4.no_such_setting", "1"}};
  Result<Namespaces> made = make_namespaces(request);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.status().code(), Code::invalid_argument);
  EXPECT_NE(made.status().message().find("net.ipv4.no_such_setting"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(NamespacesTest, APinThatVanishedIsPinnedAnewFromAProcessOfThePod) {
  NamespaceRequest request;
  request.folder = folder_;
  Result<Namespaces> made = make_namespaces(request);
  ASSERT_TRUE(made);
  int ready[2], done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(done[1]);
    const int fd = ::open(made->network.c_str(), O_RDONLY);
    char byte = ::setns(fd, 0) == 0 ? 'y' : 'n';
    (void)!::write(ready[1], &byte, 1);
    (void)!::read(done[0], &byte, 1);
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  ASSERT_TRUE(release_namespaces(folder_));
  EXPECT_EQ(namespace_of_process(child, "net"), made->network_inode);
  EXPECT_EQ(repin(child, "net", made->network_inode + 1, made->network).code(), Code::failed_precondition);
  EXPECT_TRUE(repin(child, "net", made->network_inode, made->network));
  ::close(done[1]);
  ::waitpid(child, nullptr, 0);
  for (const int fd : {ready[0], ready[1], done[0]}) ::close(fd);
  EXPECT_TRUE(is_pinned(made->network, made->network_inode));
  EXPECT_EQ(namespace_of_process(child, "net"), 0u);
}

TEST(SysctlCheck, TakesOnlyWhatBelongsToThePod) {
  EXPECT_TRUE(check_sysctls({{"net.core.somaxconn", "1024"}, {"kernel.shm_rmid_forced", "1"}}, true, true, true));
  EXPECT_TRUE(check_sysctls({{"net/ipv4/conf/eth0.1/forwarding", "1"}}, true, true, true));
  for (const char* name : {"vm.swappiness", "kernel.core_pattern", "kernel.shmmax2", "net..x",
                           "net/../kernel/core_pattern", "net.x\n", ""}) {
    EXPECT_EQ(check_sysctls({{name, "1"}}, true, true, true).code(), Code::invalid_argument) << name;
  }
  EXPECT_EQ(check_sysctls({{"kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x\n"}}, true, true, true).code(),
            Code::invalid_argument);
  EXPECT_EQ(check_sysctls({{"net.core.somaxconn", "1"}}, false, true, true).code(), Code::invalid_argument);
  EXPECT_EQ(check_sysctls({{"kernel.sem", "1"}}, true, false, true).code(), Code::invalid_argument);
}

TEST(HostnameCheck, FollowsTheKernelsLimit) {
  EXPECT_TRUE(check_hostname(""));
  EXPECT_TRUE(check_hostname("web-0.default"));
  EXPECT_TRUE(check_hostname(std::string(64, 'a')));
  for (const std::string& bad :
       {std::string(65, 'a'), std::string("a b"), std::string("a..b"), std::string("-a"), std::string("a\n")}) {
    EXPECT_EQ(check_hostname(bad).code(), Code::invalid_argument) << bad;
  }
}

}  // namespace
}  // namespace pintle::cri
