#include "cni/ipam/address_pool.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

namespace pintle::cni {
namespace {

using netlink::IpAddress;
using netlink::IpPrefix;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

AddressRange range(const char* subnet) { return *AddressRange::of(*IpPrefix::parse(subnet)); }

class AddressPoolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "pintle-ipam-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    umount2((folder_ / "small").c_str(), MNT_DETACH);
    std::filesystem::remove_all(folder_);
  }

  std::unique_ptr<AddressPool> open(std::vector<AddressRange> ranges) {
    auto pool = AddressPool::open(
        folder_, std::move(ranges), [this] { return survivors_; },
        [this](const std::string& line) { recovered_.push_back(line); });
    EXPECT_TRUE(pool) << pool.status().to_string();
    return std::move(*pool);
  }
  static AddressOwner pod(const std::string& sandbox) { return {"bridge@1", sandbox, "eth0"}; }
  static std::vector<std::string> take(AddressPool& pool, const AddressOwner& owner) {
    Result<std::vector<AllocatedAddress>> addresses = pool.allocate(owner);
    if (!addresses) return {addresses.status().to_string()};
    std::vector<std::string> texts;
    for (const AllocatedAddress& allocated : *addresses) {
      texts.push_back(allocated.address.to_string() + " by " + allocated.gateway.to_string());
    }
    return texts;
  }
  std::string file(const std::string& name) const {
    std::ifstream stream(folder_ / name);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  std::filesystem::path folder_;
  std::vector<HeldAddress> survivors_;
  std::vector<std::string> recovered_;
};

TEST(AddressRange, LeavesOutNetworkBroadcastAndGateway) {
  const AddressRange v4 = range("10.85.0.9/24");
  EXPECT_EQ(v4.subnet.to_string(), "10.85.0.0/24");
  EXPECT_EQ(v4.gateway.to_string(), "10.85.0.1");
  EXPECT_EQ(v4.first.to_string(), "10.85.0.1");
  EXPECT_EQ(v4.last.to_string(), "10.85.0.254");
  const AddressRange v6 = range("fd00:85::/64");
  EXPECT_EQ(v6.gateway.to_string(), "fd00:85::1");
  EXPECT_EQ(v6.last.to_string(), "fd00:85::ffff:ffff:ffff:ffff");
  const AddressRange pair = range("10.0.0.0/31");
  EXPECT_EQ(pair.gateway.to_string(), "10.0.0.0");
  EXPECT_EQ(pair.last.to_string(), "10.0.0.1");
}

TEST(AddressRange, RefusesSubnetsWithoutRoom) {
  for (const char* subnet : {"10.0.0.1/32", "fd00::1/128", "224.0.0.0/8", "ff00::/16", "0.0.0.0/0"}) {
    EXPECT_EQ(AddressRange::of(*IpPrefix::parse(subnet)).status().code(), Code::invalid_argument) << subnet;
  }
}

TEST_F(AddressPoolTest, GivesOneAddressOfEachFamily) {
  auto pool = open({range("10.85.0.0/16"), range("fd00:85::/64")});
  EXPECT_THAT(take(*pool, pod("a")), ElementsAre("10.85.0.2/16 by 10.85.0.1", "fd00:85::2/64 by fd00:85::1"));
  EXPECT_THAT(take(*pool, pod("b")), ElementsAre("10.85.0.3/16 by 10.85.0.1", "fd00:85::3/64 by fd00:85::1"));
}

TEST_F(AddressPoolTest, TheFamilyNamedFirstIsPrimary) {
  auto pool = open({range("fd00:85::/64"), range("10.85.0.0/16")});
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(take(*pool, pod("a")), ElementsAre("fd00:85::2/64 by fd00:85::1", "10.85.0.2/16 by 10.85.0.1"));
  }
}

TEST_F(AddressPoolTest, TheSameOwnerGetsTheSameAgainAlsoFromAnotherProcess) {
  auto pool = open({range("10.85.0.0/16")});
  const auto first = take(*pool, pod("a"));
  EXPECT_EQ(take(*pool, pod("a")), first);
  EXPECT_EQ(take(*open({range("10.85.0.0/16")}), pod("a")), first);
  EXPECT_NE(take(*pool, {"bridge@1", "a", "eth1"}), first) << "another interface of the sandbox";
  EXPECT_NE(take(*pool, {"cni", "a", "eth0"}), first) << "another holder";
}

TEST_F(AddressPoolTest, AReleasedAddressRestsUntilTheRangeHasGoneRound) {
  auto pool = open({range("10.85.0.0/29")});  // .2 to .6
  take(*pool, pod("a"));
  ASSERT_TRUE(pool->release(pod("a")));
  ASSERT_TRUE(pool->release(pod("a"))) << "twice is success";
  std::vector<std::string> given;
  for (const char* sandbox : {"b", "c", "d", "e", "f"}) {
    given.push_back(take(*open({range("10.85.0.0/29")}), pod(sandbox)).front().substr(0, 9));
  }
  EXPECT_THAT(given, ElementsAre("10.85.0.3", "10.85.0.4", "10.85.0.5", "10.85.0.6", "10.85.0.2"));
}

TEST_F(AddressPoolTest, AnExhaustedRangeSaysWhatToDoAndTakesNothing) {
  auto pool = open({range("10.85.0.0/30"), range("fd00:85::/64")});
  take(*pool, pod("a"));
  Result<std::vector<AllocatedAddress>> refused = pool->allocate(pod("b"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.status().code(), Code::resource_exhausted);
  EXPECT_THAT(refused.status().message(), HasSubstr("10.85.0.0/30"));
  EXPECT_THAT(refused.status().message(), HasSubstr("podCIDR"));
  EXPECT_THAT(*pool->list(), SizeIs(2)) << "the IPv6 address is not kept alone";
  ASSERT_TRUE(pool->release(pod("a")));
  EXPECT_EQ(take(*pool, pod("b")).front(), "10.85.0.2/30 by 10.85.0.1");
}

TEST_F(AddressPoolTest, SeveralRangesOfAFamilyStandInForOneAnother) {
  auto pool = open({range("10.85.0.0/30"), range("10.86.0.0/30")});
  EXPECT_THAT(take(*pool, pod("a")), ElementsAre("10.85.0.2/30 by 10.85.0.1"));
  EXPECT_THAT(take(*pool, pod("b")), ElementsAre("10.86.0.2/30 by 10.86.0.1"));
  EXPECT_EQ(pool->allocate(pod("c")).status().code(), Code::resource_exhausted);
}

TEST_F(AddressPoolTest, OverlappingRangesAreRefused) {
  auto pool = AddressPool::open(folder_, {range("10.85.0.0/16"), range("10.85.7.0/24")}, nullptr, nullptr);
  ASSERT_FALSE(pool);
  EXPECT_THAT(pool.status().message(), HasSubstr("10.85.7.0/24"));
}

TEST_F(AddressPoolTest, CollectReleasesOnlyTheHoldersOwnLosses) {
  auto pool = open({range("10.85.0.0/24")});
  take(*pool, pod("gone"));
  take(*pool, pod("there"));
  take(*pool, {"cni", "gone", "eth0"});
  auto collected = pool->collect("bridge@1", [](const AddressOwner& owner) { return owner.sandbox == "there"; });
  ASSERT_TRUE(collected);
  EXPECT_THAT(*collected, ElementsAre(pod("gone")));
  EXPECT_THAT(*pool->list(), SizeIs(2));
}

TEST_F(AddressPoolTest, ATruncatedFileIsMadeWholeFromWhatTheMachineShows) {
  const auto path = folder_ / "10.85.0.0-24";
  take(*open({range("10.85.0.0/24")}), pod("a"));
  const auto whole = std::filesystem::file_size(path);
  survivors_ = {{*IpAddress::parse("10.85.0.2"), pod("a")}, {*IpAddress::parse("10.99.0.2"), pod("x")}};
  for (uintmax_t size = 0; size < whole; ++size) {
    std::filesystem::remove(path);
    survivors_.resize(1);
    {
      auto pool = open({range("10.85.0.0/24")});
      ASSERT_TRUE(pool->list());
    }
    ASSERT_GE(std::filesystem::file_size(path), size);
    std::filesystem::resize_file(path, size);
    auto pool = open({range("10.85.0.0/24")});
    EXPECT_THAT(take(*pool, pod("b")), ElementsAre(::testing::Not("10.85.0.2/24 by 10.85.0.1"))) << size;
    EXPECT_THAT(take(*pool, pod("a")), ElementsAre("10.85.0.2/24 by 10.85.0.1")) << size;
  }
  EXPECT_THAT(recovered_, ::testing::Contains(HasSubstr("10.85.0.0-24")));
}

TEST_F(AddressPoolTest, ADamagedFileIsSetAside) {
  const auto path = folder_ / "10.85.0.0-24";
  take(*open({range("10.85.0.0/24")}), pod("a"));
  std::string text = file("10.85.0.0-24");
  text[text.size() / 2] ^= 1;
  std::ofstream(path, std::ios::trunc) << text;
  EXPECT_THAT(take(*open({range("10.85.0.0/24")}), pod("b")), ElementsAre("10.85.0.2/24 by 10.85.0.1"));
  ASSERT_THAT(recovered_, SizeIs(1));
  EXPECT_THAT(recovered_[0], HasSubstr("10.85.0.0-24"));
  EXPECT_EQ(file("10.85.0.0-24.damaged"), text);
}

TEST_F(AddressPoolTest, EveryKindOfDamageUnderARunningProcessIsRecoveredFromWithoutAHand) {
  for (const std::string& damage : {std::string(), std::string("{}\n"), std::string(100'000, '\0'), std::string("x")}) {
    auto pool = open({range("10.85.0.0/24")});
    take(*pool, pod("a"));
    std::ofstream(folder_ / "10.85.0.0-24", std::ios::trunc) << damage;
    EXPECT_THAT(take(*pool, pod("a")), ElementsAre("10.85.0.2/24 by 10.85.0.1")) << "this process had read it before";
    std::filesystem::remove(folder_ / "10.85.0.0-24");
    EXPECT_THAT(take(*pool, pod("a")), ElementsAre("10.85.0.2/24 by 10.85.0.1"));
    EXPECT_THAT(take(*open({range("10.85.0.0/24")}), pod("a")), ElementsAre("10.85.0.2/24 by 10.85.0.1"));
  }
}

TEST_F(AddressPoolTest, AllocationsOfAnEarlierBootAreVoid) {
  std::ofstream(folder_ / "10.85.0.0-24") << first_line(*IpPrefix::parse("10.85.0.0/24"), "another")
                                          << allocation_line(*IpAddress::parse("10.85.0.9"), pod("a"));
  auto pool = open({range("10.85.0.0/24")});
  EXPECT_THAT(*pool->list(), SizeIs(0));
  EXPECT_THAT(take(*pool, pod("b")), ElementsAre("10.85.0.10/24 by 10.85.0.1"));
  EXPECT_THAT(*open({range("10.85.0.0/24")})->list(), SizeIs(1));
}

TEST_F(AddressPoolTest, TwoProcessesSeeEachOthersChangesAndTheFileStaysSmall) {
  auto one = open({range("10.85.0.0/24")}), other = open({range("10.85.0.0/24")});
  for (int i = 0; i < 2000; ++i) {
    AddressPool& pool = i % 3 == 0 ? *other : *one;
    const std::string sandbox = "p" + std::to_string(i);
    ASSERT_TRUE(pool.allocate(pod(sandbox)));
    if (i >= 5) {
      ASSERT_TRUE((i % 2 == 0 ? one : other)->release(pod("p" + std::to_string(i - 5))));
    }
  }
  EXPECT_THAT(*one->list(), SizeIs(5));
  EXPECT_THAT(*other->list(), SizeIs(5));
  EXPECT_THAT(*open({range("10.85.0.0/24")})->list(), SizeIs(5));
  EXPECT_LT(std::filesystem::file_size(folder_ / "10.85.0.0-24"), 32u << 10);
  EXPECT_THAT(recovered_, SizeIs(0));
}

TEST_F(AddressPoolTest, AdoptRecordsWhatIsInUseAndNamesConflicts) {
  auto pool = open({range("10.85.0.0/24")});
  ASSERT_TRUE(pool->adopt(pod("a"), {*IpAddress::parse("10.85.0.2")}));
  ASSERT_TRUE(pool->adopt(pod("a"), {*IpAddress::parse("10.85.0.2")}));
  EXPECT_EQ(pool->adopt(pod("b"), {*IpAddress::parse("10.85.0.2")}).code(), Code::already_exists);
  EXPECT_THAT(take(*pool, pod("a")), ElementsAre("10.85.0.2/24 by 10.85.0.1"));
}

TEST_F(AddressPoolTest, OwnersThatWouldBreakTheFileAreRefused) {
  auto pool = open({range("10.85.0.0/24")});
  for (const char* sandbox : {"", "a b", "a\nend"}) {
    EXPECT_EQ(pool->allocate(pod(sandbox)).status().code(), Code::invalid_argument);
  }
}

TEST_F(AddressPoolTest, AFullDiskRefusesAllocationAndForgetsNoRelease) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to mount a small file system";
  const auto small = folder_ / "small";
  std::filesystem::create_directory(small);
  ASSERT_EQ(mount("tmpfs", small.c_str(), "tmpfs", 0, "size=64k"), 0);
  auto opened = AddressPool::open(small, {range("10.85.0.0/16")}, nullptr, nullptr);
  ASSERT_TRUE(opened);
  AddressPool& pool = **opened;
  ASSERT_TRUE(pool.allocate(pod("a")));
  std::ofstream(small / "filler") << std::string(1 << 20, 'x');
  Status status;
  size_t given = 1;  // until the file's last page is full
  for (; status && given < 10'000; ++given) status = pool.allocate(pod("b" + std::to_string(given))).status();
  EXPECT_EQ(status.code(), Code::resource_exhausted) << status.to_string();
  --given;
  EXPECT_THAT(*pool.list(), SizeIs(given)) << "the refused one is not held";
  ASSERT_TRUE(pool.release(pod("a"))) << "never fails for the lack of room";
  EXPECT_THAT(*pool.list(), SizeIs(given - 1));
  std::filesystem::remove(small / "filler");
  EXPECT_THAT(*pool.list(), SizeIs(given - 1));
  auto reopened = AddressPool::open(small, {range("10.85.0.0/16")}, nullptr, nullptr);
  EXPECT_THAT(*(*reopened)->list(), SizeIs(given - 1)) << "the release was written when there was room again";
}

TEST_F(AddressPoolTest, ProcessesThatAreKilledAtAnyMomentNeverShareAnAddress) {
  const std::vector<AddressRange> ranges = {range("10.85.0.0/20"), range("fd00:85::/64")};
  for (int round = 0; round < 12; ++round) {
    std::vector<pid_t> children;
    for (int child = 0; child < 3; ++child) {
      const pid_t pid = fork();
      if (pid == 0) {
        auto pool = AddressPool::open(folder_, ranges, nullptr, nullptr);
        for (int i = 0; pool; ++i) {
          const AddressOwner owner =
              pod("r" + std::to_string(round) + "c" + std::to_string(child) + "p" + std::to_string(i));
          if (!(*pool)->allocate(owner)) _exit(1);
          if (i % 2 == 0 && !(*pool)->release(owner)) _exit(1);
        }
        _exit(2);
      }
      children.push_back(pid);
    }
    usleep(static_cast<useconds_t>(2000 + 1700 * round));
    for (const pid_t pid : children) kill(pid, SIGKILL);
    for (const pid_t pid : children) {
      int status = 0;
      waitpid(pid, &status, 0);
      EXPECT_TRUE(WIFSIGNALED(status)) << "a child gave up by itself: " << WEXITSTATUS(status);
    }
    auto pool = open(ranges);
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      EXPECT_FALSE(entry.path().filename().string().starts_with('.')) << entry.path();
    }
    auto held = pool->list();
    ASSERT_TRUE(held);
    EXPECT_THAT(recovered_, SizeIs(0)) << "a kill never leaves a damaged file";
    std::set<IpAddress> addresses;
    std::map<AddressOwner, int> by_owner;
    for (const HeldAddress& one : *held) {
      EXPECT_TRUE(addresses.insert(one.address).second);
      EXPECT_LE(++by_owner[one.owner], 2);
    }
    ASSERT_TRUE(pool->collect("bridge@1", [](const AddressOwner&) { return false; }));
    EXPECT_THAT(*pool->list(), SizeIs(0));
  }
}

TEST(RangeFile, IsReadBackAndAnyFlippedByteIsNoticed) {
  const AddressOwner owner{"bridge@1", "a", "eth0"};
  const IpAddress held = *IpAddress::parse("fd00:85::9");
  const std::string text = first_line(*IpPrefix::parse("fd00:85::/64"), "b") + allocation_line(held, owner) +
                           allocation_line(*held.plus(1), owner) + release_line(*held.plus(1)) +
                           last_line(*held.plus(4));
  size_t used = 0;
  Result<RangeFile> back = read_range_file(text, used);
  ASSERT_TRUE(back) << back.status().to_string();
  EXPECT_EQ(used, text.size());
  EXPECT_EQ(back->held, (std::map<IpAddress, AddressOwner>{{held, owner}}));
  EXPECT_EQ(back->last.to_string(), "fd00:85::d");
  for (size_t i = 0; i < text.size(); ++i) {
    std::string flipped = text;
    flipped[i] = static_cast<char>(flipped[i] ^ 1);
    const Result<RangeFile> damaged = read_range_file(flipped, used);
    EXPECT_TRUE(!damaged || used < text.size()) << i;
  }
}

TEST(RangeFile, LinesThatMakeNoSenseAreRefused) {
  const std::string first = first_line(*IpPrefix::parse("10.85.0.0/24"), "b");
  const AddressOwner owner{"bridge@1", "a", "eth0"};
  const IpAddress address = *IpAddress::parse("10.85.0.2");
  for (const std::string& lines :
       {allocation_line(address, owner) + allocation_line(address, owner), release_line(address),
        allocation_line(*IpAddress::parse("10.86.0.2"), owner), std::string("\n")}) {
    size_t used = 0;
    EXPECT_EQ(read_range_file(first + lines, used).status().code(), Code::data_loss) << lines;
  }
}

}  // namespace
}  // namespace pintle::cni
