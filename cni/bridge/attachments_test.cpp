#include "cni/bridge/attachments.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace pintle::bridge {
namespace {

using netlink::IpAddress;
using netlink::IpPrefix;
using ::testing::HasSubstr;
using ::testing::SizeIs;

Attachment example(const std::string& sandbox) {
  return {.sandbox = sandbox,
          .interface = "eth0",
          .host_interface = host_interface_name(sandbox, "eth0"),
          .name_space = "/run/netns/" + sandbox,
          .hardware_address = {0x0a, 0x50, 0x0a, 0x55, 0, 7},
          .mtu = 1400,
          .ips = {{*IpPrefix::parse("10.85.0.7/16"), *IpAddress::parse("10.85.0.1"), 1},
                  {*IpPrefix::parse("fd00:85::7/64"), *IpAddress::parse("fd00:85::1"), 1}},
          .routes = {{*IpPrefix::parse("0.0.0.0/0"), *IpAddress::parse("10.85.0.1")}}};
}

TEST(HostInterfaceName, FitsTheKernelAndIsStable) {
  const std::string name = host_interface_name("4f2a", "eth0");
  EXPECT_EQ(name, host_interface_name("4f2a", "eth0"));
  EXPECT_NE(name, host_interface_name("4f2a", "eth1"));
  EXPECT_NE(name, host_interface_name("4f2b", "eth0"));
  EXPECT_TRUE(netlink::check_link_name(name));
  EXPECT_TRUE(is_host_interface_name(name));
  EXPECT_FALSE(is_host_interface_name("pod1"));
  EXPECT_FALSE(is_host_interface_name("vethabcdef012345"));
}

TEST(Mark, IsReadBack) {
  const Attachment attachment = example("4f2a");
  const std::optional<Mark> mark = read_mark(write_mark("network-bridge@1", attachment));
  ASSERT_TRUE(mark);
  EXPECT_EQ(mark->holder, "network-bridge@1");
  EXPECT_EQ(mark->sandbox, "4f2a");
  EXPECT_EQ(mark->interface, "eth0");
  EXPECT_EQ(mark->name_space, "/run/netns/4f2a");
  ASSERT_THAT(mark->addresses, SizeIs(2));
  EXPECT_EQ(mark->addresses[1].to_string(), "fd00:85::7/64");
}

TEST(Mark, LeavesThePathOutWhereThereIsNoRoom) {
  Attachment attachment = example(std::string(64, 'a'));
  attachment.name_space = "/" + std::string(200, 'n');
  const std::string mark = write_mark("network-bridge@1", attachment);
  EXPECT_LE(mark.size(), 255u);
  ASSERT_TRUE(read_mark(mark));
  EXPECT_EQ(read_mark(mark)->name_space, "");
  EXPECT_EQ(read_mark(mark)->sandbox, attachment.sandbox);
}

TEST(Mark, OtherAliasesAreNone) {
  for (const char* alias :
       {"", "uplink to rack 7", "pintle", "pintle network-bridge", "pintle key sandbox eth0 nonsense"}) {
    EXPECT_FALSE(read_mark(alias)) << alias;
  }
}

TEST(Record, IsReadBackAndEveryTruncationIsNoticed) {
  const Attachment attachment = example("4f2a");
  const std::string text = write_record(attachment);
  Result<Attachment> back = read_record(text);
  ASSERT_TRUE(back) << back.status().to_string();
  EXPECT_EQ(write_record(*back), text);
  EXPECT_EQ(back->host_interface, attachment.host_interface);
  EXPECT_EQ(back->name_space, attachment.name_space);
  for (size_t size = 0; size + 1 < text.size(); ++size) {
    EXPECT_EQ(read_record(text.substr(0, size)).status().code(), Code::data_loss) << size;
  }
}

TEST(Record, OfAnotherSandboxsInterfaceIsRefused) {
  Attachment attachment = example("4f2a");
  attachment.host_interface = host_interface_name("other", "eth0");
  EXPECT_EQ(read_record(write_record(attachment)).status().code(), Code::data_loss);
}

TEST(Records, DamagedOnesAreSetAsideAndLeftoversRemoved) {
  std::string folder = (std::filesystem::temp_directory_path() / "pintle-records-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  {
    Result<Records> records = Records::open(folder);
    ASSERT_TRUE(records);
    ASSERT_TRUE(records->save(example("good")));
    ASSERT_TRUE(records->save(example("bad")));
    ASSERT_TRUE(records->save(example("removed")));
    ASSERT_TRUE(records->remove(example("removed")));
    ASSERT_TRUE(records->remove(example("removed"))) << "twice is success";
    std::filesystem::resize_file(folder + "/" + host_interface_name("bad", "eth0") + ".json", 20);
    std::ofstream(folder + "/.aside.new-1") << "half";
    std::vector<std::string> damaged;
    Result<std::vector<Attachment>> loaded = records->load(damaged);
    ASSERT_TRUE(loaded);
    ASSERT_THAT(*loaded, SizeIs(1));
    EXPECT_EQ(loaded->front().sandbox, "good");
    ASSERT_THAT(damaged, SizeIs(1));
    EXPECT_THAT(damaged[0], HasSubstr(host_interface_name("bad", "eth0")));
    EXPECT_FALSE(std::filesystem::exists(folder + "/.aside.new-1"));
    damaged.clear();
    EXPECT_THAT(*records->load(damaged), SizeIs(1));
    EXPECT_THAT(damaged, SizeIs(0)) << "told once";
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace pintle::bridge
