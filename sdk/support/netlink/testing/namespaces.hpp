#pragma once

/// Network namespaces of a test: made empty, gone when the test's process ends, whatever became of it.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "sdk/support/netlink/links.hpp"
#include "sdk/support/netlink/namespaces.hpp"

namespace pintle::netlink::testing {

/// The base of tests on a real kernel: each test runs in a network namespace of its own with loopback up, and in a
/// mount namespace whose mounts die with the process. `folder()` is a temporary folder.
class NamespaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root for network namespaces";
    ASSERT_EQ(unshare(CLONE_NEWNET | CLONE_NEWNS), 0) << strerror(errno);
    ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    std::string name = (std::filesystem::temp_directory_path() / "pintle-net-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    Result<Socket> socket = Socket::open(NETLINK_ROUTE);
    ASSERT_TRUE(socket) << socket.status().to_string();
    Batch batch;
    change_link(batch, 1, {.up = true});
    ASSERT_TRUE(socket->send(batch));
    // A new namespace takes its settings of IPv4 from the machine's first one, which may be a node already.
    ASSERT_TRUE(write_sysctl("net/ipv4/ip_forward", "0"));
  }
  void TearDown() override {
    if (folder_.empty()) return;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) umount2(entry.path().c_str(), MNT_DETACH);
    std::filesystem::remove_all(folder_);
  }

  const std::filesystem::path& folder() const { return folder_; }

  /// A new network namespace, bind-mounted on folder()/name as the CRI engine does for a sandbox; returns the path.
  std::string make_namespace(const std::string& name) {
    const std::string path = (folder_ / name).string();
    close(open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    std::thread([&] {
      EXPECT_EQ(unshare(CLONE_NEWNET), 0) << strerror(errno);
      EXPECT_TRUE(write_sysctl("net/ipv4/ip_forward", "0"));
      EXPECT_EQ(mount("/proc/thread-self/ns/net", path.c_str(), nullptr, MS_BIND, nullptr), 0) << strerror(errno);
    }).join();
    return path;
  }
  /// As the CRI engine removes it: the file goes at once, the kernel tears the namespace down in its own time.
  static void remove_namespace(const std::string& path) {
    umount2(path.c_str(), MNT_DETACH);
    unlink(path.c_str());
  }
  /// Runs the function inside; failures of expectations in it count.
  static void in_namespace(const std::string& path, const std::function<void()>& function) {
    Result<UniqueFd> name_space = open_namespace(path);
    ASSERT_TRUE(name_space) << name_space.status().to_string();
    const Status status = run_in_namespace(name_space->get(), [&] {
      function();
      return Status::ok();
    });
    ASSERT_TRUE(status) << status.to_string();
  }

 private:
  std::filesystem::path folder_;
};

}  // namespace pintle::netlink::testing
