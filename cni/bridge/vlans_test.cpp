// Networks in VLANs. Where the kernel has none, what it says instead; tests/vm runs the rest in a machine that has.
#include "cni/bridge/testing/bridge_fixture.hpp"

namespace pintle::bridge {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::output_of;

constexpr const char* kHundred = R"({"vlan": 100, "podCIDR": ["10.85.0.0/16", "fd00:85::/64"]})";
constexpr const char* kTwoHundred = R"({"vlan": 200, "podCIDR": "10.86.0.0/16"})";
constexpr const char* kNone = R"({"podCIDR": "10.87.0.0/16"})";

class VlanTest : public testing::BridgeTest {
 protected:
  bool reaches(const std::string& from, const std::string& to, const std::string& address) {
    const std::string seen = connect(from, to, address);
    return seen.find('.') != std::string::npos || seen.find(':') != std::string::npos;
  }
  static std::string vlans_of(const std::string& port) { return output_of("bridge vlan show dev " + port); }
  Status refusal(const std::string& config) { return make(config, "refused@1")->start(); }
};

class WithoutVlanTest : public VlanTest {
 protected:
  void SetUp() override {
    VlanTest::SetUp();
    if (!IsSkipped() && make(kHundred)->check_abilities()) GTEST_SKIP() << "this kernel has VLANs";
  }
};

TEST_F(WithoutVlanTest, AVlanIsRefusedByWhatTheKernelLacksAndNothingIsChanged) {
  const std::string before = machine();
  const Status status = refusal(kHundred);
  EXPECT_EQ(status.code(), Code::unimplemented);
  EXPECT_THAT(status.message(), HasSubstr("'vlan' of network-bridge asks for VLAN 100: this kernel"));
  EXPECT_THAT(status.message(), AnyOf(HasSubstr("CONFIG_BRIDGE_VLAN_FILTERING"), HasSubstr("modprobe 8021q")));
  EXPECT_EQ(machine(), before);
  EXPECT_TRUE(make(kNone)->check_abilities()) << "nobody else needs them";
}

class WithVlanTest : public VlanTest {
 protected:
  void SetUp() override {
    VlanTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const Status able = make(kHundred)->check_abilities();
    if (!able) GTEST_SKIP() << able.message();
  }
};

TEST_F(WithVlanTest, PodsOfOneVlanReachEachOtherTheirGatewayAndTheOutside) {
  make_outside();
  auto network = started(kHundred);
  const Attachment a = attach(*network, "a"), b = attach(*network, "b");
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b)), ip_of(a));
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b, 1)), ip_of(a, 1));
  EXPECT_EQ(connect(path_of("a"), "", "10.85.0.1"), ip_of(a));
  EXPECT_EQ(connect("", path_of("a"), ip_of(a)), "10.85.0.1");
  EXPECT_EQ(connect(path_of("a"), path_of("outside"), "192.0.2.2"), "192.0.2.1");
  EXPECT_THAT(output_of("ip -o address show dev pintle0.100"), HasSubstr("10.85.0.1/16"));
  EXPECT_THAT(output_of("ip -o -4 address show dev pintle0"), IsEmpty());
  EXPECT_THAT(vlans_of(a.host_interface), HasSubstr("100 PVID Egress Untagged"));
  EXPECT_TRUE(network->check("a", path_of("a")));
}

TEST_F(WithVlanTest, PodsOfAnotherVlanAndOfNoneAreOutOfReach) {
  auto one = started(kHundred), two = started(kTwoHundred, "two@1"), none = started(kNone, "none@1");
  const Attachment a = attach(*one, "a"), b = attach(*two, "b"), c = attach(*none, "c");
  EXPECT_TRUE(reaches(path_of("c"), "", "10.87.0.1"));
  EXPECT_FALSE(reaches(path_of("a"), path_of("b"), ip_of(b))) << "the node is no router between VLANs";
  EXPECT_FALSE(reaches(path_of("b"), path_of("a"), ip_of(a)));
  EXPECT_FALSE(reaches(path_of("a"), path_of("c"), ip_of(c)));
  EXPECT_FALSE(reaches(path_of("c"), path_of("a"), ip_of(a)));
  // Nor by the wire, whatever address one gives oneself.
  for (const char* stranger : {"b", "c"}) {
    in_namespace(path_of(stranger), [] { EXPECT_EQ(output_of("ip address add 10.85.9.9/16 dev eth0"), ""); });
    EXPECT_FALSE(reaches(path_of("a"), path_of(stranger), "10.85.9.9")) << stranger;
    in_namespace(path_of(stranger), [] { EXPECT_EQ(output_of("ip address del 10.85.9.9/16 dev eth0"), ""); });
  }
}

TEST_F(WithVlanTest, HostPortsLeadFromOneVlanToAnother) {
  auto one = started(kHundred), two = started(kTwoHundred, "two@1");
  const Attachment a = attach(*one, "a");
  const std::string server = make_namespace("b");
  Result<Attachment> b =
      two->attach({.sandbox = "b",
                   .interface = "eth0",
                   .name_space = server,
                   .ports = {{.protocol = IPPROTO_TCP, .host_ip = {}, .host_port = 8080, .pod_port = 8080}}});
  ASSERT_TRUE(b) << b.status().to_string();
  EXPECT_THAT(connect(path_of("a"), server, "10.85.0.1", "0.0.0.0"), HasSubstr("10."));
  EXPECT_FALSE(reaches(path_of("a"), server, ip_of(*b)));
}

TEST_F(WithVlanTest, APortOfTheAdministratorsCarriesTheVlanTagged) {
  auto network = started(kHundred);
  const Attachment a = attach(*network, "a");
  const std::string wire = make_namespace("wire");
  EXPECT_EQ(output_of("ip link add trunk0 type veth peer name trunk1; ip link set trunk0 master pintle0 up;"
                      "bridge vlan add dev trunk0 vid 100; bridge vlan add dev trunk0 vid 200"),
            "");
  Result<UniqueFd> name_space = netlink::open_namespace(wire);
  Result<netlink::Socket> socket = netlink::Socket::open(NETLINK_ROUTE);
  netlink::Batch batch;
  change_link(batch, "trunk1", {.name_space = name_space->get()});
  ASSERT_TRUE(socket->send(batch));
  in_namespace(wire, [] {
    EXPECT_EQ(output_of("ip link set trunk1 up; for id in 100 200; do ip link add link trunk1 name t$id type vlan id "
                        "$id; ip link set t$id up; done; ip address add 10.85.9.1/16 dev t100"),
              "");
  });
  EXPECT_EQ(connect(path_of("a"), wire, "10.85.9.1"), ip_of(a));
  in_namespace(wire, [] { EXPECT_EQ(output_of("ip link del t100; ip address add 10.85.9.1/16 dev t200"), ""); });
  EXPECT_FALSE(reaches(path_of("a"), wire, "10.85.9.1"));
}

TEST_F(WithVlanTest, WhatAnotherProgramChangesComesBack) {
  auto network = started(kHundred);
  const Attachment a = attach(*network, "a"), b = attach(*network, "b");
  ASSERT_TRUE(network->follow_changes());
  const std::string port = a.host_interface;
  const std::vector<std::string> commands = {"bridge vlan del dev " + port + " vid 100",
                                             "bridge vlan add dev " + port + " vid 200",
                                             "bridge vlan add dev " + port + " vid 1 pvid untagged",
                                             "bridge vlan del dev pintle0 vid 100 self",
                                             "ip link set pintle0 type bridge vlan_filtering 0",
                                             "ip link del pintle0.100",
                                             "ip link set pintle0.100 down",
                                             "ip link set " + port + " nomaster",
                                             "ip link del pintle0",
                                             "nft flush ruleset"};
  for (const std::string& command : commands) {
    ASSERT_EQ(output_of(command), "");
    EXPECT_FALSE(network->check("a", path_of("a"))) << command;
    wait_for_change(*network);
    const Status status = network->follow_changes();
    EXPECT_TRUE(status) << command << ": " << status.to_string();
    const Status checked = network->check("a", path_of("a"));
    EXPECT_TRUE(checked) << command << ": " << checked.to_string();
    EXPECT_TRUE(reaches(path_of("a"), path_of("b"), ip_of(b))) << command;
    EXPECT_TRUE(reaches(path_of("a"), "", "10.85.0.1")) << command;
    EXPECT_THAT(vlans_of(port), Not(HasSubstr(" 200"))) << command;
  }
}

TEST_F(WithVlanTest, TheNextRunFindsItAll) {
  const std::string before = machine();
  {
    auto network = started(kHundred);
    attach(*network, "a");
  }
  const std::string attached = machine();
  auto next = make(kHundred);
  EXPECT_TRUE(next->resume());
  notices_.clear();
  next = started(kHundred);
  EXPECT_THAT(notices_, IsEmpty()) << "nothing had to be put right";
  EXPECT_EQ(machine(), attached);
  ASSERT_TRUE(next->detach("a"));
  next->reap();
  ASSERT_TRUE(next->stop());
  EXPECT_EQ(machine(), before);
}

TEST_F(WithVlanTest, TheLastOfAVlanTakesItsPartBackAndLeavesTheBridgeToOthers) {
  auto none = started(kNone, "none@1");
  const Attachment c = attach(*none, "c");
  const std::string before = machine(), ports = output_of("bridge vlan show");
  EXPECT_THAT(output_of("ip -d link show pintle0"), HasSubstr("vlan_filtering 0"));
  auto one = started(R"({"vlan": 100})");
  attach(*one, "a");
  EXPECT_TRUE(reaches(path_of("c"), "", "10.87.0.1"));
  EXPECT_THAT(output_of("ip -d link show pintle0"), HasSubstr("vlan_filtering 1"));
  ASSERT_TRUE(one->detach("a"));
  one->reap();
  ASSERT_TRUE(one->stop());
  ASSERT_TRUE(none->converge());
  EXPECT_EQ(machine(), before);
  EXPECT_EQ(output_of("bridge vlan show"), ports);
  EXPECT_THAT(output_of("ip -d link show pintle0"), HasSubstr("vlan_filtering 0"));
  EXPECT_TRUE(reaches(path_of("c"), "", "10.87.0.1"));
}

TEST_F(WithVlanTest, ABridgeOfTheAdministratorsIsUsedAsItIs) {
  ASSERT_EQ(output_of("ip link add lan0 type bridge; ip link set lan0 up"), "");
  std::string before = machine();
  Status status = refusal(R"({"bridge": "lan0", "vlan": 100})");
  EXPECT_EQ(status.code(), Code::failed_precondition);
  EXPECT_THAT(status.message(), HasSubstr("ip link set lan0 type bridge vlan_filtering 1"));
  EXPECT_EQ(machine(), before);
  ASSERT_EQ(output_of("ip link set lan0 type bridge vlan_filtering 1; ip link add lan0.100 type dummy"), "");
  before = machine();
  status = refusal(R"({"bridge": "lan0", "vlan": 100})");
  EXPECT_THAT(status.message(), HasSubstr("lan0.100 exists and is not VLAN 100 of bridge lan0"));
  EXPECT_EQ(machine(), before);
  ASSERT_EQ(output_of("ip link del lan0.100"), "");
  before = machine();
  const std::string ports = output_of("bridge vlan show");
  auto network = started(R"({"bridge": "lan0", "vlan": 100})");
  const Attachment a = attach(*network, "a");
  EXPECT_EQ(connect(path_of("a"), "", "10.85.0.1"), ip_of(a));
  ASSERT_TRUE(network->detach("a"));
  network->reap();
  ASSERT_TRUE(network->stop());
  EXPECT_EQ(machine(), before);
  EXPECT_EQ(output_of("bridge vlan show"), ports);
}

TEST_F(WithVlanTest, TheDefaultVlanAndNoneAreNotMixed) {
  auto none = started(kNone, "none@1");
  const Status status = refusal(R"({"vlan": 1, "podCIDR": "10.88.0.0/16"})");
  EXPECT_EQ(status.code(), Code::failed_precondition);
  EXPECT_THAT(status.message(), HasSubstr("VLAN 1 of bridge pintle0 is that of networks without 'vlan'"));
}

}  // namespace
}  // namespace pintle::bridge
