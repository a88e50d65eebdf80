#include "sdk/support/netlink/netlink.hpp"

#include <gmock/gmock.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>

#include <algorithm>

#include "sdk/support/netlink/addresses.hpp"
#include "sdk/support/netlink/links.hpp"
#include "sdk/support/netlink/namespaces.hpp"
#include "sdk/support/netlink/routes.hpp"
#include "sdk/support/netlink/testing/namespaces.hpp"

namespace pintle::netlink {
namespace {

using ::testing::HasSubstr;

class NetlinkTest : public testing::NamespaceTest {
 protected:
  void SetUp() override {
    NamespaceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Result<Socket> socket = Socket::open(NETLINK_ROUTE);
    ASSERT_TRUE(socket) << socket.status().to_string();
    socket_ = std::make_unique<Socket>(std::move(*socket));
  }
  Link link(const std::string& name) {
    Result<Link> found = find_link(*socket_, name);
    EXPECT_TRUE(found) << found.status().to_string();
    return found ? *found : Link{};
  }
  std::unique_ptr<Socket> socket_;
};

TEST_F(NetlinkTest, ABridgeHasTheAddressAndMtuItWasMadeWith) {
  const HardwareAddress hardware = hardware_address_for(IpAddress::parse("10.85.0.1")->bytes());
  Batch batch;
  add_bridge(batch, {.name = "br", .mtu = 1400, .hardware_address = hardware});
  change_link(batch, "br", {.up = true, .alias = "whose it is"});
  ASSERT_TRUE(socket_->send(batch));
  const Link made = link("br");
  EXPECT_EQ(made.kind, "bridge");
  EXPECT_EQ(made.mtu, 1400u);
  EXPECT_EQ(to_string(made.hardware_address), "0a:50:0a:55:00:01");
  EXPECT_EQ(made.alias, "whose it is");
  EXPECT_TRUE(made.is_up());
}

TEST_F(NetlinkTest, OneRequestMakesAVethOverTwoNamespaces) {
  const std::string pod = make_namespace("pod");
  Result<UniqueFd> name_space = open_namespace(pod);
  ASSERT_TRUE(name_space);
  Batch bridge;
  add_bridge(bridge, {.name = "br"});
  ASSERT_TRUE(socket_->send(bridge));
  const HardwareAddress hardware{0x0a, 0x50, 1, 2, 3, 4};
  Batch batch;
  add_veth(batch, {.name = "left",
                   .peer_name = "eth0",
                   .peer_namespace = name_space->get(),
                   .mtu = 1300,
                   .master = link("br").index,
                   .up = true,
                   .peer_hardware_address = hardware});
  change_link(batch, "left", {.alias = "sandbox 7"});
  ASSERT_TRUE(socket_->send(batch));
  const Link left = link("left");
  EXPECT_EQ(left.master, link("br").index);
  EXPECT_EQ(left.mtu, 1300u);
  EXPECT_TRUE(left.is_up());
  EXPECT_TRUE(left.peer_elsewhere);
  EXPECT_EQ(left.alias, "sandbox 7");
  in_namespace(pod, [&] {
    Result<Socket> inside = Socket::open(NETLINK_ROUTE);
    ASSERT_TRUE(inside);
    Result<Link> eth0 = find_link(*inside, "eth0");
    ASSERT_TRUE(eth0);
    EXPECT_EQ(eth0->hardware_address, hardware);
    EXPECT_EQ(eth0->mtu, 1300u);
    EXPECT_EQ(eth0->index, left.peer);
    EXPECT_FALSE(eth0->is_up());
  });
  Batch hairpin;
  set_hairpin(hairpin, left.index, true);
  ASSERT_TRUE(socket_->send(hairpin));
  EXPECT_TRUE(link("left").hairpin);
}

TEST_F(NetlinkTest, LinksAreRenamedMovedAndDeleted) {
  const std::string other = make_namespace("other");
  Result<UniqueFd> name_space = open_namespace(other);
  ASSERT_TRUE(name_space);
  Batch batch;
  add_veth(batch, {.name = "a", .peer_name = "b"});
  ASSERT_TRUE(socket_->send(batch));
  Batch change;
  change_link(change, link("a").index, {.new_name = "c"});
  change_link(change, "b", {.name_space = name_space->get()});
  ASSERT_TRUE(socket_->send(change));
  EXPECT_EQ(link("c").kind, "veth");
  EXPECT_EQ(find_link(*socket_, "b").status().code(), Code::not_found);
  Batch removal;
  delete_link(removal, "c");
  ASSERT_TRUE(socket_->send(removal));
  EXPECT_EQ(find_link(*socket_, "c").status().code(), Code::not_found);
  in_namespace(other, [] {
    Result<Socket> inside = Socket::open(NETLINK_ROUTE);
    EXPECT_FALSE(find_link(*inside, "b")) << "the other end went with it";
  });
}

TEST_F(NetlinkTest, ARefusalNamesTheRequestInTheKernelsOwnWords) {
  Batch batch;
  add_bridge(batch, {.name = "br"});
  add_bridge(batch, {.name = "br"});
  delete_link(batch, "nothing");
  add_route(batch, {.destination = *IpPrefix::parse("10.9.0.0/16"), .gateway = *IpAddress::parse("10.1.1.1")});
  change_link(batch, "br", {.mtu = 1234});
  const std::vector<Status> results = socket_->send_each(batch);
  ASSERT_EQ(results.size(), 5u);
  EXPECT_TRUE(results[0]);
  EXPECT_EQ(results[1].code(), Code::already_exists);
  EXPECT_THAT(results[1].message(), HasSubstr("create bridge br"));
  EXPECT_EQ(results[2].code(), Code::not_found);
  EXPECT_THAT(results[3].message(), HasSubstr("Nexthop has invalid gateway")) << "extended acknowledgement";
  EXPECT_TRUE(results[4]) << "a request behind a failed one runs all the same";
  EXPECT_EQ(link("br").mtu, 1234u);
}

TEST_F(NetlinkTest, AnIpv6AddressIsUsableAtOnce) {
  Batch batch;
  add_veth(batch, {.name = "a", .peer_name = "b", .up = true});
  change_link(batch, "b", {.up = true});
  ASSERT_TRUE(socket_->send(batch));
  const int index = link("a").index;
  Batch addresses;
  add_address(addresses, index, *IpPrefix::parse("10.85.0.1/16"));
  add_address(addresses, index, *IpPrefix::parse("fd00:85::1/64"));
  ASSERT_TRUE(socket_->send(addresses));
  Result<std::vector<InterfaceAddress>> list = list_addresses(*socket_, index);
  ASSERT_TRUE(list);
  std::vector<std::string> texts;
  for (const InterfaceAddress& address : *list) {
    if (address.is_link_local) continue;
    texts.push_back(address.prefix.to_string());
    EXPECT_EQ(address.flags & IFA_F_TENTATIVE, 0u) << texts.back();
  }
  EXPECT_THAT(texts, ::testing::UnorderedElementsAre("10.85.0.1/16", "fd00:85::1/64"));
  Batch again;
  add_address(again, index, *IpPrefix::parse("10.85.0.1/16"));
  delete_address(again, index, *IpPrefix::parse("fd00:85::1/64"));
  delete_address(again, index, *IpPrefix::parse("fd00:85::1/64"));
  const std::vector<Status> results = socket_->send_each(again);
  EXPECT_EQ(results[0].code(), Code::already_exists);
  EXPECT_TRUE(results[1]);
  EXPECT_EQ(results[2].code(), Code::not_found);
}

TEST_F(NetlinkTest, RoutesComeAndGo) {
  Batch batch;
  add_veth(batch, {.name = "a", .peer_name = "b", .up = true});
  change_link(batch, "b", {.up = true});
  ASSERT_TRUE(socket_->send(batch));
  const int index = link("a").index;
  const Route v4{
      .destination = *IpPrefix::parse("0.0.0.0/0"), .gateway = *IpAddress::parse("10.85.0.1"), .index = index};
  const Route v6{.destination = *IpPrefix::parse("::/0"), .gateway = *IpAddress::parse("fd00:85::1"), .index = index};
  const Route link_route{.destination = *IpPrefix::parse("10.99.0.0/24"), .index = index, .metric = 7};
  Batch routes;
  add_address(routes, index, *IpPrefix::parse("10.85.0.2/16"));
  add_address(routes, index, *IpPrefix::parse("fd00:85::2/64"));
  for (const Route& route : {v4, v6, link_route}) add_route(routes, route);
  replace_route(routes, v4);
  add_route(routes, v4);
  const std::vector<Status> results = socket_->send_each(routes);
  for (size_t i = 0; i < 6; ++i) EXPECT_TRUE(results[i]) << results[i].to_string();
  EXPECT_EQ(results[6].code(), Code::already_exists);

  const auto find = [&](const Route& wanted) {
    Result<std::vector<Route>> list = list_routes(*socket_);
    EXPECT_TRUE(list);
    return std::count_if(list->begin(), list->end(), [&](const Route& route) {
      return route.destination == wanted.destination && route.gateway == wanted.gateway && route.index == wanted.index;
    });
  };
  EXPECT_EQ(find(v4), 1);
  EXPECT_EQ(find(v6), 1);
  EXPECT_EQ(find(link_route), 1);
  Batch removal;
  for (const Route& route : {v4, v6, link_route}) delete_route(removal, route);
  ASSERT_TRUE(socket_->send(removal));
  EXPECT_EQ(find(v4) + find(v6) + find(link_route), 0);
}

TEST_F(NetlinkTest, NeighboursArePermanentUntilDeleted) {
  Batch batch;
  add_bridge(batch, {.name = "br"});
  change_link(batch, "br", {.up = true});
  ASSERT_TRUE(socket_->send(batch));
  const Neighbour neighbour{.index = link("br").index,
                            .address = *IpAddress::parse("10.85.0.7"),
                            .hardware_address = {0x0a, 0x50, 0, 0, 0, 7}};
  Batch add;
  add_neighbour(add, neighbour);
  ASSERT_TRUE(socket_->send(add));
  Result<std::vector<Neighbour>> list = list_neighbours(*socket_, neighbour.index);
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 1u);
  EXPECT_EQ(list->front().hardware_address, neighbour.hardware_address);
  EXPECT_EQ(list->front().state, NUD_PERMANENT);
  Batch removal;
  delete_neighbour(removal, neighbour);
  ASSERT_TRUE(socket_->send(removal));
  EXPECT_TRUE(list_neighbours(*socket_, neighbour.index)->empty());
}

TEST_F(NetlinkTest, ALongDumpIsReadToItsEnd) {
  Batch batch;
  for (int i = 0; i < 150; ++i)
    add_veth(batch, {.name = "l" + std::to_string(i), .peer_name = "r" + std::to_string(i)});
  ASSERT_TRUE(socket_->send(batch));
  Result<std::vector<Link>> links = list_links(*socket_);
  ASSERT_TRUE(links);
  EXPECT_EQ(std::count_if(links->begin(), links->end(), [](const Link& link) { return link.kind == "veth"; }), 300);
}

TEST_F(NetlinkTest, AMonitorHearsWhatOthersChange) {
  const uint32_t groups[] = {RTNLGRP_LINK};
  Result<Monitor> monitor = Monitor::open(NETLINK_ROUTE, groups);
  ASSERT_TRUE(monitor) << monitor.status().to_string();
  EXPECT_TRUE(monitor->drain([](const nlmsghdr&) { FAIL() << "nothing has changed yet"; }));
  Batch batch;
  add_bridge(batch, {.name = "br"});
  ASSERT_TRUE(socket_->send(batch));
  pollfd ready{.fd = monitor->descriptor(), .events = POLLIN};
  ASSERT_EQ(poll(&ready, 1, 5000), 1);
  std::vector<std::string> names;
  EXPECT_TRUE(monitor->drain([&](const nlmsghdr& message) {
    if (auto changed = parse_link(message)) names.push_back(changed->name);
  }));
  EXPECT_THAT(names, ::testing::Contains("br"));
}

TEST_F(NetlinkTest, SysctlsBelongToTheNamespace) {
  const std::string pod = make_namespace("pod");
  ASSERT_TRUE(write_sysctl("net/ipv4/ip_forward", "1"));
  in_namespace(pod, [] { EXPECT_EQ(*read_sysctl("net/ipv4/ip_forward"), "0"); });
  EXPECT_EQ(*read_sysctl("net/ipv4/ip_forward"), "1");
  EXPECT_EQ(read_sysctl("net/ipv4/no_such").status().code(), Code::not_found);
  EXPECT_FALSE(write_sysctl("net/ipv4/ip_forward", "many"));
}

TEST_F(NetlinkTest, AFileThatIsNoNamespaceIsToldApart) {
  EXPECT_EQ(open_namespace(folder() / "none").status().code(), Code::not_found);
  const std::string pod = make_namespace("pod");
  umount2(pod.c_str(), MNT_DETACH);
  EXPECT_EQ(open_namespace(pod).status().code(), Code::failed_precondition);
  EXPECT_EQ(open_namespace("/proc/self/ns/mnt").status().code(), Code::failed_precondition);
}

TEST(LinkName, FollowsTheKernelsRules) {
  EXPECT_TRUE(check_link_name("eth0"));
  EXPECT_TRUE(check_link_name("pod0123456789ab"));
  for (const char* name : {"", ".", "..", "a/b", "a b", "a:b", "sixteen-letters!", "e%d", "a\n", "all"}) {
    EXPECT_FALSE(check_link_name(name)) << name;
  }
}

TEST(HardwareAddressText, IsReadBack) {
  const HardwareAddress address{0x0a, 0x50, 1, 2, 0xff, 0};
  EXPECT_EQ(*parse_hardware_address(to_string(address)), address);
  for (const char* text : {"", "0a:50:01:02:ff", "0a:50:01:02:ff:0", "0a:50:01:02:ff:00:11", "0a-50-01-02-ff-00"}) {
    EXPECT_FALSE(parse_hardware_address(text)) << text;
  }
}

}  // namespace
}  // namespace pintle::netlink
