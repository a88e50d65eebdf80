#include "cni/bridge/bridge_network.hpp"

#include <chrono>
#include <fstream>

#include "cni/bridge/testing/bridge_fixture.hpp"

namespace pintle::bridge {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::output_of;
using ::testing::SizeIs;

constexpr const char* kDualStack = R"({"podCIDR": ["10.85.0.0/16", "fd00:85::/64"]})";

class BridgeNetworkTest : public testing::BridgeTest {};

// ---- Attaching --------------------------------------------------------------------------------------------------------------

TEST_F(BridgeNetworkTest, TwoPodsReachEachOtherAndSeeTheirOwnAddresses) {
  auto network = started();
  const Attachment a = attach(*network, "a"), b = attach(*network, "b");
  EXPECT_EQ(ip_of(a), "10.85.0.2");
  EXPECT_EQ(ip_of(b), "10.85.0.3");
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b)), ip_of(a)) << "not masqueraded";
  EXPECT_EQ(connect("", path_of("b"), ip_of(b)), "10.85.0.1") << "the node reaches pods";
  EXPECT_EQ(connect(path_of("a"), "", "10.85.0.1"), ip_of(a)) << "pods reach the node";
}

TEST_F(BridgeNetworkTest, Ipv6AndDualStackWorkAtOnce) {
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a"), b = attach(*network, "b");
  ASSERT_THAT(a.ips, SizeIs(2));
  EXPECT_EQ(ip_of(a, 1), "fd00:85::2");
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b, 1)), ip_of(a, 1));
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b, 0)), ip_of(a, 0));
  EXPECT_EQ(connect(path_of("a"), "", "fd00:85::1"), ip_of(a, 1));
  auto only6 = started(R"({"bridge": "six0", "podCIDR": "fd00:86::/64"})", "six@1");
  const Attachment c = attach(*only6, "c"), d = attach(*only6, "d");
  EXPECT_EQ(connect(path_of("c"), path_of("d"), ip_of(d)), ip_of(c));
}

TEST_F(BridgeNetworkTest, TheOutsideSeesTheNodesAddressOnly) {
  make_outside();
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a");
  EXPECT_EQ(connect(path_of("a"), path_of("outside"), "192.0.2.2"), "192.0.2.1");
  EXPECT_EQ(connect(path_of("a"), path_of("outside"), "2001:db8::2"), "2001:db8::1");
  EXPECT_EQ(connect("", path_of("outside"), "192.0.2.2"), "192.0.2.1");
}

TEST_F(BridgeNetworkTest, WithoutMasqueradeTheOutsideSeesThePod) {
  make_outside();
  auto network = started(R"({"masquerade": false})");
  const Attachment a = attach(*network, "a");
  in_namespace(path_of("outside"), [] { EXPECT_EQ(output_of("ip route add 10.85.0.0/16 via 192.0.2.1"), ""); });
  EXPECT_EQ(connect(path_of("a"), path_of("outside"), "192.0.2.2"), ip_of(a));
}

TEST_F(BridgeNetworkTest, PodsOnTwoBridgesAreNotMasqueradedToEachOther) {
  auto one = started(), two = started(R"({"bridge": "lan0", "podCIDR": "10.86.0.0/16"})", "lan@1");
  const Attachment a = attach(*one, "a"), b = attach(*two, "b");
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b)), ip_of(a));
  EXPECT_EQ(connect(path_of("b"), path_of("a"), ip_of(a)), ip_of(b));
}

TEST_F(BridgeNetworkTest, AttachingTwiceAnswersTheSame) {
  auto network = started();
  const Attachment first = attach(*network, "a");
  const Attachment second = attach(*network, "a");
  EXPECT_EQ(second.result(), first.result());
  EXPECT_THAT(pod_links(), SizeIs(1));
  EXPECT_EQ(attach(*started(), "a").result(), first.result()) << "also from the next run";
}

TEST_F(BridgeNetworkTest, TheMtuIsThatOfTheDefaultRouteUnlessSet) {
  make_outside();
  output_of("ip link set up0 mtu 1380");
  auto network = started();
  EXPECT_EQ(attach(*network, "a").mtu, 1380u);
  in_namespace(path_of("a"), [] { EXPECT_THAT(output_of("ip link show eth0"), HasSubstr("mtu 1380")); });
  auto other = started(R"({"bridge": "lan0", "podCIDR": "10.86.0.0/16", "mtu": 1300})", "lan@1");
  EXPECT_EQ(attach(*other, "b").mtu, 1300u);
}

TEST_F(BridgeNetworkTest, APodCannotMakeItselfARouterOfTheNodeOrItsNeighbours) {
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a");
  EXPECT_EQ(*netlink::read_sysctl("net/ipv6/conf/" + a.host_interface + "/accept_ra"), "0");
  EXPECT_EQ(*netlink::read_sysctl("net/ipv6/conf/pintle0/accept_ra"), "0");
  EXPECT_EQ(*netlink::read_sysctl("net/ipv4/conf/pintle0/route_localnet"), "0");
  in_namespace(path_of("a"), [] { EXPECT_EQ(*netlink::read_sysctl("net/ipv6/conf/eth0/accept_ra"), "0"); });
}

TEST_F(BridgeNetworkTest, TheBridgesHardwareAddressStaysWhenPortsComeAndGo) {
  auto network = started();
  const std::string before = output_of("ip -br link show pintle0 | awk '{print $3}'");
  attach(*network, "a");
  ASSERT_TRUE(network->detach("a"));
  network->reap();
  EXPECT_EQ(output_of("ip -br link show pintle0 | awk '{print $3}'"), before);
  EXPECT_THAT(before, HasSubstr("0a:50:0a:55:00:01"));
}

TEST_F(BridgeNetworkTest, HairpinIsSetOnPorts) {
  auto network = started(R"({"hairpin": true})");
  const Attachment a = attach(*network, "a");
  Result<netlink::Socket> socket = netlink::Socket::open(NETLINK_ROUTE);
  EXPECT_TRUE(netlink::find_link(*socket, a.host_interface)->hairpin);
}

TEST_F(BridgeNetworkTest, BadRequestsAreRefusedInOneLineAndLeaveNothing) {
  auto network = started();
  const std::string before = machine();
  make_namespace("taken");
  in_namespace(path_of("taken"), [] { output_of("ip link add eth0 type bridge"); });
  std::ofstream(folder() / "file") << "not a namespace";
  const std::tuple<AttachRequest, Code, const char*> cases[] = {
      {{"", "eth0", path_of("taken")}, Code::invalid_argument, "sandbox id"},
      {{"../x", "eth0", path_of("taken")}, Code::invalid_argument, "sandbox id"},
      {{"a b", "eth0", path_of("taken")}, Code::invalid_argument, "sandbox id"},
      {{"x", "a/b", path_of("taken")}, Code::invalid_argument, "interface name"},
      {{"x", "eth0", "/nonexistent"}, Code::not_found, "/nonexistent"},
      {{"x", "eth0", folder() / "file"}, Code::failed_precondition, "not a network namespace"},
      {{"x", "eth0", path_of("taken")}, Code::failed_precondition, "has an interface eth0 already"},
  };
  for (const auto& [request, code, words] : cases) {
    Result<Attachment> result = network->attach(request);
    ASSERT_FALSE(result) << words;
    EXPECT_EQ(result.status().code(), code) << result.status().to_string();
    EXPECT_THAT(result.status().message(), HasSubstr(words));
    EXPECT_THAT(result.status().message(), Not(HasSubstr("\n")));
  }
  EXPECT_EQ(machine(), before);
  EXPECT_THAT(network->list(), IsEmpty());
  EXPECT_EQ(ip_of(attach(*network, "ok")), "10.85.0.3") << "the failed attempt at .2 was given back";
}

TEST_F(BridgeNetworkTest, AnExhaustedSubnetIsSaidAndHealsWhenAPodGoes) {
  auto network = started(R"({"podCIDR": "10.85.0.0/30"})");
  attach(*network, "a");
  make_namespace("b");
  EXPECT_EQ(network->attach({"b", "eth0", path_of("b")}).status().code(), Code::resource_exhausted);
  ASSERT_TRUE(network->detach("a"));
  EXPECT_EQ(ip_of(attach(*network, "b")), "10.85.0.2");
}

// ---- Detaching, collecting, checking ----------------------------------------------------------------------------------------------

TEST_F(BridgeNetworkTest, DetachingIsCompleteIdempotentAndOrderFree) {
  auto network = started();
  const std::string before = machine();
  attach(*network, "a");
  attach(*network, "b");
  remove_namespace(path_of("a"));  // the engine may remove the namespace first
  ASSERT_TRUE(network->detach("a"));
  ASSERT_TRUE(network->detach("b"));
  ASSERT_TRUE(network->detach("b"));
  ASSERT_TRUE(network->detach("never-attached"));
  EXPECT_NE(connect("", path_of("b"), "10.85.0.3"), "10.85.0.1") << "off the bridge at once";
  network->reap();
  EXPECT_THAT(network->list(), IsEmpty());
  EXPECT_EQ(machine(), before);
}

TEST_F(BridgeNetworkTest, AnAddressIsUsableForTheNextPodAlthoughNeighboursKnewTheLast) {
  auto network = started(R"({"podCIDR": "10.85.0.0/29"})");
  attach(*network, "watcher");
  for (int i = 0; i < 8; ++i) {
    const std::string sandbox = "p" + std::to_string(i);
    const Attachment pod = attach(*network, sandbox);
    EXPECT_EQ(connect(path_of("watcher"), path_of(sandbox), ip_of(pod)), "10.85.0.2") << i;
    ASSERT_TRUE(network->detach(sandbox));
  }
}

TEST_F(BridgeNetworkTest, CollectDetachesWhatIsNotNamed) {
  auto network = started();
  for (const char* sandbox : {"a", "b", "c"}) attach(*network, sandbox);
  Result<std::vector<std::string>> detached = network->collect({"b", "unknown"});
  ASSERT_TRUE(detached) << detached.status().to_string();
  EXPECT_THAT(*detached, ::testing::UnorderedElementsAre("a", "c"));
  ASSERT_THAT(network->list(), SizeIs(1));
  EXPECT_EQ(network->list()[0].sandbox, "b");
}

TEST_F(BridgeNetworkTest, CheckSaysWhatIsMissing) {
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a");
  EXPECT_TRUE(network->check("a", ""));
  EXPECT_EQ(network->check("b", "").code(), Code::not_found);
  const std::pair<std::string, const char*> damages[] = {
      {"ip address del 10.85.0.2/16 dev eth0", "address 10.85.0.2/16 is missing"},
      {"ip -6 route del default", "route to ::/0 is missing"},
      {"ip link set eth0 down", "eth0 is down in the pod"},
  };
  for (const auto& [damage, words] : damages) {
    in_namespace(path_of("a"), [&, command = damage] { EXPECT_EQ(output_of(command), ""); });
    const Status status = network->check("a", "");
    EXPECT_EQ(status.code(), Code::failed_precondition);
    EXPECT_THAT(status.message(), HasSubstr(words));
    attach(*network, "a");
    EXPECT_TRUE(network->check("a", "")) << "attaching again repairs: " << network->check("a", "").message();
  }
  output_of("ip link set " + a.host_interface + " nomaster");
  EXPECT_THAT(network->check("a", "").message(), HasSubstr("not on bridge pintle0"));
  output_of("nft flush ruleset");
  EXPECT_THAT(network->check("a", "").message(), HasSubstr("table inet pintle-network-bridge is missing"));
  output_of("ip link del " + a.host_interface);
  EXPECT_THAT(network->check("a", "").message(), HasSubstr("is missing on the node"));
}

// ---- What other programs do -----------------------------------------------------------------------------------------------------

TEST_F(BridgeNetworkTest, WhatAnotherProgramRemovesComesBack) {
  make_outside();
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a"), b = attach(*network, "b");
  ASSERT_TRUE(network->follow_changes());
  const std::string before = machine();
  for (const std::string& damage :
       {std::string("nft flush ruleset"), std::string("nft delete table inet pintle-network-bridge"),
        std::string("nft flush chain inet pintle-network-bridge postrouting"),
        std::string("nft add element inet pintle-network-bridge direct4 '{ 192.0.2.0/24 }'"),
        std::string("ip link del pintle0"), std::string("ip link set pintle0 down"),
        std::string("ip address flush dev pintle0"), std::string("ip address del 10.85.0.1/16 dev pintle0"),
        std::string("ip route del 10.85.0.0/16"), std::string("ip -6 route del fd00:85::/64 dev pintle0"),
        "ip link del " + a.host_interface, "ip link set " + a.host_interface + " nomaster",
        "ip link set " + a.host_interface + " down", std::string("echo 0 > /proc/sys/net/ipv4/ip_forward"),
        std::string("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding")}) {
    ASSERT_EQ(output_of(damage), "") << damage;
    wait_for_change(*network);
    const Status status = network->follow_changes();
    EXPECT_TRUE(status) << damage << ": " << status.to_string();
    EXPECT_EQ(machine(), before) << damage;
    EXPECT_TRUE(network->check("a", "")) << damage << ": " << network->check("a", "").message();
    EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b)), ip_of(a)) << damage;
    EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b, 1)), ip_of(a, 1)) << damage;
    EXPECT_EQ(connect(path_of("a"), path_of("outside"), "192.0.2.2"), "192.0.2.1") << damage;
    ASSERT_TRUE(network->follow_changes()) << "what we did ourselves";
  }
}

TEST_F(BridgeNetworkTest, PodsThatComeAndGoCauseNoConverging) {
  auto network = started(kDualStack);
  attach(*network, "first");  // gives the bridge its carrier
  ASSERT_TRUE(network->follow_changes());
  // Nobody is told of this change, so it stays for as long as nothing else gives a reason to converge.
  const std::string unheard = "net/ipv6/conf/pintle0/accept_ra";
  ASSERT_TRUE(netlink::write_sysctl(unheard, "1"));
  for (int i = 0; i < 5; ++i) {
    attach(*network, "a");
    ASSERT_TRUE(network->follow_changes());
    ASSERT_TRUE(network->detach("a"));
    network->reap();
    remove_namespace(path_of("a"));
    ASSERT_TRUE(network->follow_changes());
  }
  EXPECT_EQ(*netlink::read_sysctl(unheard), "1");
  output_of("nft flush ruleset");
  ASSERT_TRUE(network->follow_changes());
  EXPECT_EQ(*netlink::read_sysctl(unheard), "0");
}

TEST_F(BridgeNetworkTest, AForeignForwardChainThatDropsGetsAnAcceptAndLosesItAgain) {
  make_outside();
  output_of("iptables -P FORWARD DROP; iptables -A FORWARD -p icmp -j ACCEPT");
  const std::string iptables = output_of("iptables -S FORWARD");
  ASSERT_THAT(iptables, HasSubstr("-P FORWARD DROP"));
  auto network = started();
  const Attachment a = attach(*network, "a");
  EXPECT_EQ(connect(path_of("a"), path_of("outside"), "192.0.2.2"), "192.0.2.1");
  EXPECT_THAT(output_of("iptables -S FORWARD"), ContainsRegex("-A FORWARD -i pintle0 .*-j ACCEPT"))
      << "iptables understands it";
  EXPECT_THAT(output_of("iptables -S FORWARD"), ContainsRegex("-A FORWARD -o pintle0 .*-j ACCEPT"));
  // Docker comes up later, or somebody flushes.
  ASSERT_TRUE(network->follow_changes());
  output_of("iptables -F FORWARD");
  wait_for_change(*network);
  ASSERT_TRUE(network->follow_changes());
  EXPECT_EQ(connect(path_of("a"), path_of("outside"), "192.0.2.2"), "192.0.2.1");
  output_of("iptables -P FORWARD ACCEPT");
  ASSERT_TRUE(network->follow_changes());
  EXPECT_THAT(output_of("iptables -S FORWARD"), Not(HasSubstr("pintle0"))) << "not needed any more";
  output_of("iptables -P FORWARD DROP; iptables -A FORWARD -p icmp -j ACCEPT");
  ASSERT_TRUE(network->follow_changes());
  EXPECT_EQ(connect(path_of("a"), path_of("outside"), "192.0.2.2"), "192.0.2.1");
  ASSERT_TRUE(network->detach("a"));
  ASSERT_TRUE(network->stop());
  EXPECT_EQ(output_of("iptables -S FORWARD"), iptables);
}

// ---- Life cycle -----------------------------------------------------------------------------------------------------------------

TEST_F(BridgeNetworkTest, AStopWithoutPodsLeavesTheMachineAsItWas) {
  make_outside();
  output_of("echo 1 > /proc/sys/net/ipv4/conf/up0/forwarding");
  const std::string before = machine();
  auto network = started(kDualStack);
  EXPECT_NE(machine(), before);
  attach(*network, "a");
  ASSERT_TRUE(network->detach("a"));
  ASSERT_TRUE(network->stop());
  network->reap();
  EXPECT_EQ(machine(), before);
  EXPECT_EQ(network->attach({"b", "eth0", path_of("a")}).status().code(), Code::unavailable);
}

TEST_F(BridgeNetworkTest, AStopWithPodsTouchesNothing) {
  make_outside();
  auto network = started(kDualStack);
  const Attachment a = attach(*network, "a"), b = attach(*network, "b");
  const std::string before = machine();
  ASSERT_TRUE(network->stop());
  network.reset();
  EXPECT_EQ(machine(), before);
  EXPECT_EQ(connect(path_of("a"), path_of("outside"), "192.0.2.2"), "192.0.2.1");
  auto next = started(kDualStack);
  EXPECT_EQ(machine(), before) << "starting again changes nothing";
  EXPECT_EQ(attach(*next, "a").result(), a.result());
  EXPECT_THAT(next->list(), SizeIs(2));
}

TEST_F(BridgeNetworkTest, RouterAdvertisementsOfTheUplinkGoOnAndComeBackAsTheyWere) {
  make_outside();
  output_of("ip -6 route add default via 2001:db8::2 dev up0 proto ra metric 99");
  ASSERT_EQ(*netlink::read_sysctl("net/ipv6/conf/up0/accept_ra"), "1");
  const std::string before = machine();
  auto network = started(kDualStack);
  EXPECT_EQ(*netlink::read_sysctl("net/ipv6/conf/up0/accept_ra"), "2");
  ASSERT_TRUE(network->stop());
  EXPECT_EQ(machine(), before);
}

TEST_F(BridgeNetworkTest, WhatWasOnBeforeStaysOn) {
  output_of("echo 1 > /proc/sys/net/ipv4/ip_forward");
  auto network = started();
  ASSERT_TRUE(network->stop());
  EXPECT_EQ(*netlink::read_sysctl("net/ipv4/ip_forward"), "1");
}

TEST_F(BridgeNetworkTest, AnAdministratorsBridgeIsUsedAndNotRemoved) {
  output_of("ip link add pintle0 type bridge; ip link set pintle0 up");
  auto network = started();
  const Attachment a = attach(*network, "a"), b = attach(*network, "b");
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b)), ip_of(a));
  ASSERT_TRUE(network->detach("a"));
  ASSERT_TRUE(network->detach("b"));
  ASSERT_TRUE(network->stop());
  EXPECT_THAT(output_of("ip address show pintle0"), Not(HasSubstr("inet 10.85.0.1")));
  EXPECT_THAT(output_of("ip link show pintle0"), HasSubstr("state"));
}

TEST_F(BridgeNetworkTest, TwoInstancesShareABridgeAndTheLastOneRemovesIt) {
  const std::string before = machine();
  auto old = started(R"({"podCIDR": "10.85.0.0/16"})", "net@1");
  const Attachment a = attach(*old, "a");
  auto next = started(R"({"podCIDR": ["10.85.0.0/16", "10.86.0.0/16"], "mtu": 1400})", "net@2");
  const Attachment b = attach(*next, "b");
  EXPECT_NE(ip_of(a), ip_of(b)) << "one pool";
  EXPECT_EQ(connect(path_of("a"), path_of("b"), ip_of(b)), ip_of(a));
  EXPECT_THAT(*next->collect({"b"}), IsEmpty()) << "never what another instance owns";
  EXPECT_THAT(old->list(), SizeIs(1));
  ASSERT_TRUE(old->detach("a"));
  ASSERT_TRUE(old->stop());
  EXPECT_THAT(output_of("ip address show pintle0"), HasSubstr("10.85.0.1/16"));
  EXPECT_TRUE(next->check("b", "")) << next->check("b", "").message();
  EXPECT_EQ(connect("", path_of("b"), ip_of(b)), "10.85.0.1");
  ASSERT_TRUE(next->detach("b"));
  ASSERT_TRUE(next->stop());
  next->reap();
  old->reap();
  EXPECT_EQ(machine(), before);
}

TEST_F(BridgeNetworkTest, CollisionsAreRefusedBeforeAnythingIsChanged) {
  make_outside();
  const std::string before = machine();
  const std::pair<const char*, const char*> cases[] = {
      {R"({"podCIDR": "192.0.2.0/24"})", "contains the node's own address 192.0.2.1/24 of up0"},
      {R"({"bridge": "up0"})", "is no bridge"},
  };
  for (const auto& [config, words] : cases) {
    const Status status = make(config)->start();
    EXPECT_EQ(status.code(), Code::failed_precondition);
    EXPECT_THAT(status.message(), HasSubstr(words));
    EXPECT_EQ(machine(), before);
  }
  auto network = started();
  const Status status = make(R"({"bridge": "lan0", "podCIDR": "10.85.7.0/24"})", "lan@1")->start();
  EXPECT_EQ(status.code(), Code::failed_precondition);
  EXPECT_THAT(status.message(), HasSubstr("net@1"));
}

// ---- What it costs (printed, not judged: it depends on the machine) -------------------------------------------------------------

TEST_F(BridgeNetworkTest, TimesArePrinted) {
  constexpr int kPods = 100;
  auto network = started(kDualStack);
  for (int i = 0; i < kPods; ++i) make_namespace("t" + std::to_string(i));
  const auto measure = [&](const char* what, const std::function<void(const std::string&)>& action) {
    std::vector<double> times;
    for (int i = 0; i < kPods; ++i) {
      const auto start = std::chrono::steady_clock::now();
      action("t" + std::to_string(i));
      times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    std::printf("%-10s %d pods, dual stack: best %.2f ms, median %.2f ms, p95 %.2f ms\n", what, kPods, times[0],
                times[kPods / 2], times[kPods * 95 / 100]);
  };
  measure("attach", [&](const std::string& sandbox) { attach(*network, sandbox); });
  measure("again", [&](const std::string& sandbox) { attach(*network, sandbox); });
  measure("check", [&](const std::string& sandbox) { EXPECT_TRUE(network->check(sandbox, "")); });
  const auto before = std::chrono::steady_clock::now();
  ASSERT_TRUE(network->converge());
  std::printf("%-10s %.2f ms\n", "converge",
              std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - before).count());
  network.reset();
  network = make(kDualStack);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(network->start());
  std::printf("%-10s %.2f ms\n", "start",
              std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  measure("detach", [&](const std::string& sandbox) { EXPECT_TRUE(network->detach(sandbox)); });
}

}  // namespace
}  // namespace pintle::bridge
