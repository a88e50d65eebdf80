#include "sdk/support/nftables/nftables.hpp"

#include <gmock/gmock.h>
#include <net/if.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <thread>

#include "sdk/support/netlink/testing/namespaces.hpp"

namespace pintle::nftables {
namespace {

using netlink::IpPrefix;
using netlink::Socket;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// What nft(8) shows: another program's reading of what this library wrote.
std::string nft(const std::string& arguments) {
  FILE* pipe = popen(("nft " + arguments + " 2>&1").c_str(), "re");
  std::string output;
  std::array<char, 4096> buffer;
  while (const size_t size = fread(buffer.data(), 1, buffer.size(), pipe)) output.append(buffer.data(), size);
  pclose(pipe);
  return output;
}

class NftablesTest : public netlink::testing::NamespaceTest {
 protected:
  void SetUp() override {
    NamespaceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Result<Socket> socket = Socket::open(NETLINK_NETFILTER);
    ASSERT_TRUE(socket) << socket.status().to_string();
    socket_ = std::make_unique<Socket>(std::move(*socket));
  }
  Status apply(const Table& table) {
    Transaction transaction;
    transaction.replace(table);
    return commit(*socket_, transaction);
  }
  std::optional<Table> read(const Table& table) {
    Result<std::optional<Table>> result = read_table(*socket_, table.family, table.name);
    EXPECT_TRUE(result) << result.status().to_string();
    return result ? *result : std::nullopt;
  }
  std::unique_ptr<Socket> socket_;
};

std::vector<IpPrefix> prefixes(std::initializer_list<const char*> texts) {
  std::vector<IpPrefix> list;
  for (const char* text : texts) list.push_back(*IpPrefix::parse(text));
  return list;
}

/// A table with every kind of expression, set and map that the library writes.
Table everything() {
  Table table{.family = Family::inet, .name = "pintle-test", .sets = {}, .chains = {}};
  table.sets.push_back(subnet_set("pods4", false, prefixes({"10.85.0.0/16", "10.86.0.0/16", "192.168.0.0/24"})));
  table.sets.push_back(subnet_set("pods6", true, prefixes({"fd00:85::/64"})));
  table.sets.push_back({.name = "bridges",
                        .key_type = kTypeInterfaceName,
                        .key_size = IFNAMSIZ,
                        .elements = {interface_element("br0"), interface_element("br1")}});
  table.sets.push_back({.name = "ports",
                        .key_type = kTypePort,
                        .key_size = 2,
                        .intervals = false,
                        .data_type = kTypePort,
                        .data_size = 2,
                        .elements = {{.key = {0x1f, 0x90}, .key_end = {}, .data = {0, 80}, .verdict = {}}}});
  table.sets.push_back(
      {.name = "ways",
       .key_type = kTypePort,
       .key_size = 2,
       .intervals = false,
       .data_type = kTypeVerdict,
       .elements = {{.key = {0, 22}, .key_end = {}, .data = {}, .verdict = Verdict{NF_DROP, ""}},
                    {.key = {0, 80}, .key_end = {}, .data = {}, .verdict = Verdict{NFT_GOTO, "web"}}}});
  table.chains.push_back(
      {.name = "web", .hook = {}, .rules = {{.expressions = {Counter{}, Verdict{NF_ACCEPT, ""}}, .comment = "web"}}});
  table.chains.push_back(
      {.name = "postrouting",
       .hook = Hook{.type = "nat", .number = NF_INET_POST_ROUTING, .priority = 100, .policy = NF_ACCEPT},
       .rules = {{.expressions = {Meta{NFT_META_NFPROTO}, Compare{NFT_CMP_EQ, {NFPROTO_IPV4}},
                                  Payload{NFT_PAYLOAD_NETWORK_HEADER, 12, 4}, Lookup{.set = "pods4"},
                                  Payload{NFT_PAYLOAD_NETWORK_HEADER, 16, 4}, Lookup{.set = "pods4", .inverted = true},
                                  Counter{}, Masquerade{}},
                  .comment = "to the outside"}}});
  table.chains.push_back(
      {.name = "forward",
       .hook = Hook{.type = "filter", .number = NF_INET_FORWARD, .priority = 0, .policy = NF_ACCEPT},
       .rules = {{.expressions = {Meta{NFT_META_IIFNAME}, Lookup{.set = "bridges"}, Verdict{NF_ACCEPT, ""}}},
                 {.expressions = {Conntrack{NFT_CT_STATE, NFT_REG32_00}, Bitwise{{6, 0, 0, 0}, {0, 0, 0, 0}},
                                  Compare{NFT_CMP_NEQ, {0, 0, 0, 0}}, Verdict{NFT_JUMP, "web"}}},
                 {.expressions = {Meta{NFT_META_L4PROTO}, Compare{NFT_CMP_EQ, {6}},
                                  Payload{NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2},
                                  Lookup{.set = "ways", .to = NFT_REG_VERDICT}}}}});
  table.chains.push_back(
      {.name = "prerouting",
       .hook = Hook{.type = "nat", .number = NF_INET_PRE_ROUTING, .priority = -100, .policy = NF_ACCEPT},
       .rules = {{.expressions = {Meta{NFT_META_NFPROTO}, Compare{NFT_CMP_EQ, {NFPROTO_IPV4}}, Meta{NFT_META_L4PROTO},
                                  Compare{NFT_CMP_EQ, {6}}, Payload{NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2},
                                  Lookup{.set = "ports", .to = NFT_REG_2}, Immediate{{10, 85, 0, 7}, NFT_REG_1},
                                  Nat{NFT_NAT_DNAT, NFPROTO_IPV4, NFT_REG_1, NFT_REG_2}}}}});
  return table;
}

TEST_F(NftablesTest, WhatIsWrittenIsReadBackAsEquivalent) {
  const Table table = everything();
  ASSERT_FALSE(read(table)) << "not there yet";
  const Status status = apply(table);
  ASSERT_TRUE(status) << status.to_string();
  const std::optional<Table> back = read(table);
  ASSERT_TRUE(back);
  EXPECT_TRUE(equivalent(table, *back)) << nft("list ruleset");
}

TEST_F(NftablesTest, NftShowsTheSameRules) {
  const Table table = everything();
  ASSERT_TRUE(apply(table));
  const std::string shown = nft("list table inet pintle-test");
  EXPECT_THAT(shown, HasSubstr("elements = { 10.85.0.0-10.86.255.255, 192.168.0.0/24 }"));
  EXPECT_THAT(
      shown,
      HasSubstr("ip saddr @pods4 ip daddr != @pods4 counter packets 0 bytes 0 masquerade comment \"to the outside\""));
  EXPECT_THAT(shown, HasSubstr("type nat hook postrouting priority srcnat; policy accept;"));
  EXPECT_THAT(shown, HasSubstr("iifname @bridges accept"));
  EXPECT_THAT(shown, HasSubstr("ct state established,related jump web"));
  EXPECT_THAT(shown, HasSubstr("80 : goto web"));
  EXPECT_THAT(shown, HasSubstr("dnat ip to 10.85.0.7:tcp dport map @ports"));
}

TEST_F(NftablesTest, EveryForeignChangeIsADifference) {
  const Table table = everything();
  for (const char* change :
       {"add rule inet pintle-test web drop", "flush chain inet pintle-test postrouting",
        "add element inet pintle-test pods4 { 10.99.0.0/16 }", "delete element inet pintle-test bridges { br0 }",
        "add chain inet pintle-test more", "chain inet pintle-test forward '{ policy drop; }'",
        "add element inet pintle-test ways { 443 : accept }",
        "insert rule inet pintle-test forward numgen random mod 2 0 accept"}) {
    ASSERT_TRUE(apply(table));
    ASSERT_THAT(nft(change), IsEmpty()) << change;
    const std::optional<Table> back = read(table);
    ASSERT_TRUE(back);
    EXPECT_FALSE(equivalent(table, *back)) << change;
  }
}

TEST_F(NftablesTest, CountsAreNoDifferenceButOrderOfRulesIs) {
  Table table{.family = Family::inet, .name = "t", .sets = {}, .chains = {}};
  table.chains.push_back(
      {.name = "c", .hook = {}, .rules = {{.expressions = {Counter{}}}, {.expressions = {Verdict{}}}}});
  Table counted = table;
  counted.chains[0].rules[0].expressions = {Counter{7, 900}};
  EXPECT_TRUE(equivalent(table, counted));
  std::swap(counted.chains[0].rules[0], counted.chains[0].rules[1]);
  EXPECT_FALSE(equivalent(table, counted));
}

TEST_F(NftablesTest, ATransactionIsAllOrNothingAndNamesWhatWasRefused) {
  Table table{.family = Family::inet, .name = "t", .sets = {}, .chains = {}};
  table.chains.push_back({.name = "good", .hook = {}, .rules = {}});
  table.chains.push_back(
      {.name = "bad",
       .hook = {},
       .rules = {{.expressions = {Meta{NFT_META_NFPROTO}, Lookup{.set = "nowhere"}}, .comment = "its comment"}}});
  const Status status = apply(table);
  EXPECT_EQ(status.code(), Code::not_found) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("add rule to inet t bad (its comment)"));
  EXPECT_FALSE(read(table)) << "nothing is left of it";
  EXPECT_TRUE(apply(everything())) << "the socket is as good as before";
}

TEST_F(NftablesTest, AnExpressionThatIsOnlyReadIsNotSent) {
  Transaction transaction;
  transaction.add_table(Family::inet, "t");
  transaction.add_rule(Family::inet, "t", "c", {.expressions = {Unknown{"numgen"}}});
  const Status status = commit(*socket_, transaction);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_THAT(status.message(), HasSubstr("numgen"));
}

TEST_F(NftablesTest, ElementsComeAndGoByThemselves) {
  Table table{
      .family = Family::inet, .name = "t", .sets = {subnet_set("s", false, prefixes({"10.85.0.0/16"}))}, .chains = {}};
  ASSERT_TRUE(apply(table));
  const Set more = subnet_set("s", false, prefixes({"255.255.255.0/24", "1.2.3.4/32"}));
  Transaction add;
  add.add_elements(Family::inet, "t", more, more.elements);
  Status status = commit(*socket_, add);
  ASSERT_TRUE(status) << status.to_string();
  EXPECT_THAT(read(table)->sets[0].elements, SizeIs(3));
  Transaction remove;
  remove.delete_elements(Family::inet, "t", more, more.elements);
  ASSERT_TRUE(commit(*socket_, remove));
  EXPECT_TRUE(equivalent(table, *read(table)));
  EXPECT_EQ(commit(*socket_, remove).code(), Code::not_found);
}

TEST_F(NftablesTest, TenThousandElementsAreOneTransaction) {
  Table table{.family = Family::ip, .name = "many", .sets = {}, .chains = {}};
  Set set{.name = "s", .key_type = kTypeIpv4, .key_size = 4};
  for (uint32_t i = 0; i < 10'000; ++i) {
    set.elements.push_back({.key = {10, 0, static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)},
                            .key_end = {},
                            .data = {},
                            .verdict = {}});
  }
  table.sets.push_back(set);
  const Status status = apply(table);
  ASSERT_TRUE(status) << status.to_string();
  EXPECT_TRUE(equivalent(table, *read(table)));
}

TEST_F(NftablesTest, RulesAreInsertedBeforeOthersAndDeletedByHandle) {
  ASSERT_THAT(nft("add table ip filter"), IsEmpty());
  ASSERT_THAT(nft("'add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }'"),
              IsEmpty());
  ASSERT_THAT(nft("add rule ip filter FORWARD accept"), IsEmpty());
  const Rule rule{
      .expressions = {Meta{NFT_META_IIFNAME}, Compare{NFT_CMP_EQ, interface_name("br0")}, Counter{}, Verdict{}},
      .comment = "ours"};
  Transaction insert;
  insert.insert_rule(Family::ip, "filter", "FORWARD", rule);
  ASSERT_TRUE(commit(*socket_, insert));
  Result<std::vector<Rule>> rules = list_rules(*socket_, Family::ip, "filter", "FORWARD");
  ASSERT_TRUE(rules);
  ASSERT_THAT(*rules, SizeIs(2));
  EXPECT_TRUE(equivalent(rules->front(), rule));
  Transaction remove;
  remove.delete_rule(Family::ip, "filter", "FORWARD", rules->front().handle);
  ASSERT_TRUE(commit(*socket_, remove));
  EXPECT_THAT(*list_rules(*socket_, Family::ip, "filter", "FORWARD"), SizeIs(1));

  Result<std::vector<BaseChain>> chains = list_base_chains(*socket_);
  ASSERT_TRUE(chains);
  ASSERT_THAT(*chains, SizeIs(1));
  EXPECT_EQ(chains->front().table, "filter");
  EXPECT_EQ(chains->front().hook.number, static_cast<uint32_t>(NF_INET_FORWARD));
  EXPECT_EQ(chains->front().hook.policy, static_cast<uint32_t>(NF_DROP));
}

TEST_F(NftablesTest, AMonitorTellsWhichTableChanged) {
  ASSERT_TRUE(apply(everything()));
  Result<netlink::Monitor> monitor = netlink::Monitor::open(NETLINK_NETFILTER, kChanges);
  ASSERT_TRUE(monitor) << monitor.status().to_string();
  ASSERT_THAT(nft("flush ruleset"), IsEmpty());
  pollfd ready{.fd = monitor->descriptor(), .events = POLLIN};
  ASSERT_EQ(poll(&ready, 1, 5000), 1);
  std::vector<Change> changes;
  EXPECT_TRUE(monitor->drain([&](const nlmsghdr& message) {
    if (std::optional<Change> change = parse_change(message)) changes.push_back(*change);
  }));
  const auto deleted = [](const Change& change) {
    return change.type == NFT_MSG_DELTABLE && change.table == "pintle-test";
  };
  EXPECT_TRUE(std::any_of(changes.begin(), changes.end(), deleted));
}

TEST_F(NftablesTest, ListsAreWholeWhileOthersChangeThem) {
  ASSERT_EQ(nft("add table inet lasting"), "");
  for (int i = 0; i < 200; ++i)  // more than one message's worth
    ASSERT_EQ(nft("add chain inet lasting c" + std::to_string(i) + " '{ type filter hook input priority 0; }'"), "");
  std::atomic<bool> ended = false;
  std::thread other([&] {
    for (int i = 0; i < 100; ++i)
      nft("'add table inet passing; add chain inet passing c { type filter hook input priority 0; }; delete table inet "
          "passing'");
    ended = true;
  });
  size_t rounds = 0;
  while (!ended) {
    const auto chains = list_base_chains(*socket_);
    EXPECT_TRUE(chains) << chains.status().message();
    if (chains) {
      EXPECT_GE(chains->size(), 200u);
    }
    ++rounds;
  }
  other.join();
  EXPECT_GT(rounds, 100u);
}

TEST_F(NftablesTest, RemovingWhatIsNotThereSucceeds) {
  Transaction transaction;
  transaction.remove(Family::inet, "nothing");
  EXPECT_TRUE(commit(*socket_, transaction));
  Transaction strict;
  strict.delete_table(Family::inet, "nothing");
  EXPECT_EQ(commit(*socket_, strict).code(), Code::not_found);
}

TEST(SubnetSet, MergesWhatOverlapsOrTouches) {
  const Set set =
      subnet_set("s", false, prefixes({"10.1.0.0/16", "10.0.0.0/16", "10.0.7.0/24", "10.3.0.0/16", "fd00::/64"}));
  ASSERT_THAT(set.elements, SizeIs(2));
  EXPECT_EQ(set.elements[0].key, (Bytes{10, 0, 0, 0}));
  EXPECT_EQ(set.elements[0].key_end, (Bytes{10, 1, 255, 255}));
  EXPECT_EQ(set.elements[1].key, (Bytes{10, 3, 0, 0}));
}

}  // namespace
}  // namespace pintle::nftables
