// What kills, lost files and full disks leave, and that the next start makes it good.
#include <signal.h>
#include <sys/wait.h>

#include <fstream>
#include <random>

#include "cni/bridge/testing/bridge_fixture.hpp"
#include "cni/bridge/testing/kill_points.hpp"

namespace pintle::bridge {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kill_at;
using testing::output_of;
using ::testing::SizeIs;

constexpr const char* kDualStack = R"({"podCIDR": ["10.85.0.0/16", "fd00:85::/64"]})";

class RecoveryTest : public testing::BridgeTest {
 protected:
  std::vector<std::string> records(const std::string& key = "net@1") const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder() / ("state-" + key) / "attachments")) {
      names.push_back(entry.path().filename());
    }
    return names;
  }
  std::vector<cni::HeldAddress> held_addresses() const {
    auto pool =
        cni::AddressPool::open(folder() / "shared" / "addresses", parse_config(kDualStack)->ranges, nullptr, nullptr);
    EXPECT_TRUE(pool);
    return *(*pool)->list();
  }
  /// Nothing of any pod is left: no link, no address, no record, no half-written file.
  void expect_no_pod(const std::string& context) {
    EXPECT_THAT(pod_links(), IsEmpty()) << context;
    EXPECT_THAT(held_addresses(), IsEmpty()) << context;
    EXPECT_THAT(records(), IsEmpty()) << context;
  }
  /// What became of the sandbox when the instance starts again after a kill.
  enum class Sandbox { gone, attached_again, forgotten };
  void recover(const std::string& context, const std::string& node, Sandbox sandbox) {
    if (sandbox == Sandbox::gone) remove_namespace(path_of("a"));
    {
      auto network = started(kDualStack);
      for (const Attachment& attachment : network->list()) {
        // A busy kernel takes a namespace down late; then it is the engine that says that the sandbox has gone.
        if (sandbox == Sandbox::gone) break;
        EXPECT_TRUE(network->check(attachment.sandbox, ""))
            << context << network->check(attachment.sandbox, "").message();
      }
      if (sandbox == Sandbox::attached_again) attach(*network, "a");
      if (sandbox != Sandbox::gone || network->size() != 0) {
        EXPECT_TRUE(network->collect({})) << context;
      }
      network->reap();
      EXPECT_EQ(machine(), node) << context;
    }
    expect_no_pod(context);
    if (sandbox == Sandbox::gone) make_namespace("a");
  }
};

TEST_F(RecoveryTest, AKillBeforeAnySystemCallOfAttachingLeavesNothingThatTheNextStartDoesNotSettle) {
  started(kDualStack);
  const std::string node = machine();
  make_namespace("a");
  std::unique_ptr<BridgeNetwork> network;
  int point = 1;
  const auto prepare = [&] { network = started(kDualStack); };
  const auto attach_it = [&] { return network->attach({"a", "eth0", path_of("a")}).is_ok(); };
  for (; kill_at(point, prepare, attach_it); ++point) {
    for (const Sandbox sandbox : {Sandbox::gone, Sandbox::attached_again, Sandbox::forgotten}) {
      if (sandbox != Sandbox::gone) kill_at(point, prepare, attach_it);
      recover("killed before call " + std::to_string(point) + ": ", node, sandbox);
    }
    if (HasFailure()) return;
  }
  std::printf("%d moments of attaching\n", point - 1);
  EXPECT_GT(point, 30);
}

TEST_F(RecoveryTest, AKillBeforeAnySystemCallOfDetachingLeavesNothingThatTheNextStartDoesNotSettle) {
  started(kDualStack);
  const std::string node = machine();
  make_namespace("a");
  std::unique_ptr<BridgeNetwork> network;
  int point = 1;
  const auto prepare = [&] {
    network = started(kDualStack);
    if (!network->attach({"a", "eth0", path_of("a")})) _exit(1);
  };
  const auto detach_it = [&] { return network->detach("a").is_ok(); };
  for (; kill_at(point, prepare, detach_it); ++point) {
    for (const Sandbox sandbox : {Sandbox::gone, Sandbox::attached_again, Sandbox::forgotten}) {
      if (sandbox != Sandbox::gone) kill_at(point, prepare, detach_it);
      recover("killed before call " + std::to_string(point) + ": ", node, sandbox);
    }
    if (HasFailure()) return;
  }
  std::printf("%d moments of detaching\n", point - 1);
  EXPECT_GT(point, 8);
}

TEST_F(RecoveryTest, AKillBeforeAnySystemCallOfTheFirstStartOrTheLastStopLeavesAMachineThatCanBeCleanedUp) {
  output_of("iptables -P FORWARD DROP");
  const std::string untouched = machine();
  // Every third: there are some 450, most of them before a mere look at something.
  constexpr int kStride = 3;
  int point = 1;
  std::unique_ptr<BridgeNetwork> network;
  const auto both = [&] {
    network = make(kDualStack);
    return network && network->start().is_ok() && network->stop().is_ok();
  };
  for (; kill_at(
           point, [] {}, both);
       point += kStride) {
    {
      auto next = started(kDualStack);
      attach(*next, "a");
      EXPECT_TRUE(next->check("a", "")) << next->check("a", "").message();
      EXPECT_TRUE(next->detach("a"));
      next->reap();
      EXPECT_TRUE(next->stop());
    }
    EXPECT_EQ(machine(), untouched) << "killed before call " << point;
    if (HasFailure()) return;
  }
  std::printf("%d moments of starting and stopping\n", point - 1);
  EXPECT_GT(point, 100);
}

TEST_F(RecoveryTest, TwoHundredAttachmentsWithKillsAtRandomLeakNothing) {
  constexpr int kSandboxes = 8, kWanted = 200;
  std::vector<std::string> sandboxes;
  for (int i = 0; i < kSandboxes; ++i) {
    sandboxes.push_back("s" + std::to_string(i));
    make_namespace(sandboxes.back());
  }
  started(kDualStack);
  const std::string node = machine();
  std::mt19937 random(20);
  int done = 0, kills = 0;
  while (done < kWanted) {
    int pipes[2];
    ASSERT_EQ(pipe2(pipes, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto network = started(kDualStack);
      for (unsigned i = 0;; ++i) {
        const std::string& sandbox = sandboxes[(i * 5 + i / 7) % kSandboxes];
        if (i % 3 == 2) {
          if (!network->detach(sandbox)) _exit(1);
        } else if (!network->attach({sandbox, "eth0", path_of(sandbox)})) {
          _exit(1);
        }
        if (write(pipes[1], "x", 1) != 1) _exit(1);
      }
    }
    close(pipes[1]);
    // Some operations, then a moment within the next one.
    const int operations = 3 + static_cast<int>(random() % 12);
    char byte = 0;
    for (int i = 0; i < operations && read(pipes[0], &byte, 1) == 1; ++i) ++done;
    usleep(static_cast<useconds_t>(random() % 2000));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    close(pipes[0]);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child gave up by itself";
    ++kills;
    auto network = started(kDualStack);
    std::set<std::string> addresses;
    for (const Attachment& attachment : network->list()) {
      EXPECT_TRUE(network->check(attachment.sandbox, "")) << network->check(attachment.sandbox, "").message();
      EXPECT_TRUE(addresses.insert(ip_of(attachment)).second) << "one address, two pods";
    }
    EXPECT_EQ(held_addresses().size(), 2 * network->size());
    EXPECT_EQ(records().size(), network->size());
    network->reap();
    EXPECT_EQ(pod_links().size(), network->size());
    if (HasFailure()) return;
  }
  std::printf("%d operations, %d kills\n", done, kills);
  auto network = started(kDualStack);
  ASSERT_TRUE(network->collect({}));
  network->reap();
  EXPECT_EQ(machine(), node);
  expect_no_pod("at the end");
}

TEST_F(RecoveryTest, LostRecordsAreFoundAgainOnTheMachine) {
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a"), b = attach(*network, "b");
  network.reset();
  std::filesystem::remove_all(folder() / "state-net@1" / "attachments");
  network = started(kDualStack);
  ASSERT_THAT(network->list(), SizeIs(2));
  EXPECT_EQ(attach(*network, "a").result(), a.result());
  EXPECT_EQ(attach(*network, "b").result(), b.result());
  EXPECT_THAT(records(), SizeIs(2)) << "written again";
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b)), ip_of(a));
}

TEST_F(RecoveryTest, ATruncatedRecordIsSetAsideAndBuiltFromTheMachine) {
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a");
  network.reset();
  std::filesystem::resize_file(folder() / "state-net@1" / "attachments" / (a.host_interface + ".json"), 30);
  notices_.clear();
  network = started(kDualStack);
  EXPECT_EQ(attach(*network, "a").result(), a.result());
  EXPECT_THAT(notices_, ::testing::Contains(HasSubstr("record set aside")));
}

TEST_F(RecoveryTest, WithTheSharedFolderLostAddressesAreNotHandedOutTwice) {
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a");
  network.reset();
  std::filesystem::remove_all(folder() / "shared");
  network = started(kDualStack);
  const Attachment b = attach(*network, "b");
  EXPECT_NE(ip_of(b), ip_of(a));
  EXPECT_NE(ip_of(b, 1), ip_of(a, 1));
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b)), ip_of(a));
}

TEST_F(RecoveryTest, ADamagedFileOfSettingsIsMadeAnewAndTheMachineGetsItsOwnBack) {
  make_outside();
  output_of("ip -6 route add default via 2001:db8::2 dev up0 proto ra metric 99");
  const std::string before = machine();
  started(kDualStack).reset();
  std::vector<std::filesystem::path> damaged;
  for (const auto& entry : std::filesystem::directory_iterator(folder() / "shared"))
    if (entry.path().filename().string().starts_with("settings")) damaged.push_back(entry.path());
  ASSERT_FALSE(damaged.empty());
  for (const std::filesystem::path& path : damaged) {
    for (const size_t kept : {std::filesystem::file_size(path) / 2, uintmax_t{0}}) {
      std::filesystem::resize_file(path, kept);
      started(kDualStack).reset();
      EXPECT_GT(std::filesystem::file_size(path), kept) << path;
    }
  }
  ASSERT_TRUE(started(kDualStack)->stop());
  EXPECT_EQ(machine(), before);
}

TEST_F(RecoveryTest, PodsWhoseNamespaceWentWhileNobodyLookedAreTakenBack) {
  auto network = started(kDualStack);
  const std::string node = machine();
  attach(*network, "a");
  attach(*network, "b");
  network.reset();
  remove_namespace(path_of("a"));
  network = started(kDualStack);
  ASSERT_THAT(network->list(), SizeIs(1));
  ASSERT_TRUE(network->detach("b"));
  network->reap();
  EXPECT_EQ(machine(), node);
  expect_no_pod("both are gone");
}

TEST_F(RecoveryTest, AFullDiskRefusesPodsAndStillLetsThemGo) {
  auto before = started(kDualStack);
  attach(*before, "a");
  before.reset();
  const auto small = folder() / "small";
  std::filesystem::create_directory(small);
  ASSERT_EQ(mount("tmpfs", small.c_str(), "tmpfs", 0, "size=128k"), 0);
  for (const char* part : {"state-net@1", "shared"}) {
    std::filesystem::copy(folder() / part, small / part, std::filesystem::copy_options::recursive);
    std::filesystem::remove_all(folder() / part);
    std::filesystem::create_directory_symlink(small / part, folder() / part);
  }
  auto network = started(kDualStack);
  std::ofstream(small / "filler") << std::string(1 << 20, 'x');
  make_namespace("b");
  const std::string node = machine();
  const Status status = network->attach({"b", "eth0", path_of("b")}).status();
  EXPECT_EQ(status.code(), Code::resource_exhausted) << status.to_string();
  EXPECT_EQ(machine(), node) << "nothing is half made";
  EXPECT_TRUE(network->check("a", ""));
  network.reset();
  network = started(kDualStack);
  EXPECT_TRUE(network->check("a", "")) << "the next start does not need the disk either";
  EXPECT_TRUE(network->detach("a"));
  network->reap();
  EXPECT_THAT(pod_links(), IsEmpty());
  std::filesystem::remove(small / "filler");
  EXPECT_EQ(ip_of(attach(*network, "b")).substr(0, 8), "10.85.0.");
  ASSERT_TRUE(network->detach("b"));
  network.reset();
  started(kDualStack)->reap();
  expect_no_pod("after the disk had room again");
}

TEST_F(RecoveryTest, ConcurrentCallsAreKeptApart) {
  constexpr int kThreads = 6, kRounds = 15;
  auto network = started(kDualStack);
  const std::string node = machine();
  for (int i = 0; i < kThreads; ++i) make_namespace("t" + std::to_string(i));
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, sandbox = "t" + std::to_string(i)] {
      for (int round = 0; round < kRounds; ++round) {
        const Result<Attachment> attached = network->attach({sandbox, "eth0", path_of(sandbox)});
        EXPECT_TRUE(attached) << attached.status().to_string();
        EXPECT_TRUE(network->check(sandbox, "")) << network->check(sandbox, "").message();
        EXPECT_TRUE(network->follow_changes());
        EXPECT_TRUE(network->detach(sandbox));
        network->reap();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  network->reap();
  EXPECT_EQ(machine(), node);
  expect_no_pod("all are detached");
}

}  // namespace
}  // namespace pintle::bridge
