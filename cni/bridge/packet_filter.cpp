#include "cni/bridge/packet_filter.hpp"

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter_ipv4.h>
#include <net/if.h>

#include <algorithm>
#include <set>

namespace pintle::bridge {
namespace {

using namespace nftables;
using netlink::IpPrefix;
using netlink::Socket;

constexpr std::string_view kCommentPrefix = "pintle: ";
constexpr uint32_t kIpv4Source = 12, kIpv4Destination = 16, kIpv6Source = 8, kIpv6Destination = 24;

/// What pods send is masqueraded if it comes from a masqueraded subnet and goes neither to a pod nor to many.
Rule masquerade_rule(bool ipv6) {
  const std::string digit = ipv6 ? "6" : "4";
  const uint32_t size = ipv6 ? 16 : 4;
  return {.expressions = {Meta{.key = NFT_META_NFPROTO},
                          Compare{.data = {static_cast<uint8_t>(ipv6 ? NFPROTO_IPV6 : NFPROTO_IPV4)}},
                          Payload{NFT_PAYLOAD_NETWORK_HEADER, ipv6 ? kIpv6Source : kIpv4Source, size},
                          Lookup{.set = "masqueraded" + digit},
                          Payload{NFT_PAYLOAD_NETWORK_HEADER, ipv6 ? kIpv6Destination : kIpv4Destination, size},
                          Lookup{.set = "direct" + digit, .inverted = true}, Counter{},
                          // Ports at random: two pods that ask one name server at once do not race for the same one.
                          Masquerade{.flags = NF_NAT_RANGE_PROTO_RANDOM_FULLY}},
          .comment = "pods to the outside"};
}

/// By which pods' packets come to the node.
std::set<std::string> interfaces_of(const std::vector<Registration>& registrations) {
  std::set<std::string> interfaces;
  for (const Registration& registration : registrations) interfaces.insert(registration.gateway_interface());
  return interfaces;
}

/// Between VLANs the node is no router: who asks for one wants its pods apart. What is led on by a host port passes, with its answers.
std::vector<Rule> isolation_rules(const std::vector<Registration>& registrations) {
  const auto number = [](uint32_t value) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    return Bytes(bytes, bytes + sizeof value);
  };
  std::set<std::string> apart;
  for (const Registration& registration : registrations) {
    if (registration.vlan != 0) apart.insert(registration.gateway_interface());
  }
  if (apart.empty()) return {};
  std::vector<Rule> rules = {
      {.expressions = {Conntrack{.key = NFT_CT_STATUS}, Bitwise{.mask = number(IPS_DST_NAT), .exclusive_or = number(0)},
                       Compare{.operation = NFT_CMP_NEQ, .data = number(0)}, Verdict{.code = NF_ACCEPT}},
       .comment = "host ports"}};
  for (const std::string& one : interfaces_of(registrations)) {
    for (const std::string& other : interfaces_of(registrations)) {
      if (one == other || !(apart.contains(one) || apart.contains(other))) continue;
      rules.push_back({.expressions = {Meta{.key = NFT_META_IIFNAME}, Compare{.data = interface_name(one)},
                                       Meta{.key = NFT_META_OIFNAME}, Compare{.data = interface_name(other)}, Counter{},
                                       Verdict{.code = NF_DROP}},
                       .comment = "another VLAN"});
    }
  }
  return rules;
}

/// Nobody but the node itself speaks to its loopback. Asked before connections are looked up: answers to the node's loopback, which are
/// translated back then, are still addressed to the gateway.
std::vector<Rule> loopback_rules(const std::vector<Registration>& registrations) {
  std::vector<Rule> rules;
  for (const std::string& interface : interfaces_of(registrations)) {
    rules.push_back({.expressions = {Meta{.key = NFT_META_IIFNAME}, Compare{.data = interface_name(interface)},
                                     Meta{.key = NFT_META_NFPROTO}, Compare{.data = {NFPROTO_IPV4}},
                                     Payload{NFT_PAYLOAD_NETWORK_HEADER, kIpv4Destination, 1}, Compare{.data = {127}},
                                     Counter{}, Verdict{.code = NF_DROP}},
                     .comment = "pods to the node's loopback"});
  }
  return rules;
}

std::vector<Rule> accept_rules(const std::set<std::string>& interfaces) {
  std::vector<Rule> rules;
  for (const std::string& interface : interfaces) {
    for (const uint32_t direction : {NFT_META_IIFNAME, NFT_META_OIFNAME}) {
      rules.push_back({.expressions = {Meta{.key = direction}, Compare{.data = interface_name(interface)}, Counter{},
                                       Verdict{.code = NF_ACCEPT}},
                       .comment = std::string(kCommentPrefix) + "pods of " + interface});
    }
  }
  return rules;
}

struct ForeignChain {
  BaseChain chain;
  std::vector<Rule> missing;
  std::vector<Rule> superfluous;
};

/// The forward chains of others, where they lack an accept or have one too many.
Result<std::vector<ForeignChain>> foreign_differences(Socket& socket, const std::vector<Registration>& registrations,
                                                      std::set<std::string>& tables) {
  Result<std::vector<BaseChain>> chains = list_base_chains(socket);
  if (!chains) return chains.status();
  const std::vector<Rule> accepts = accept_rules(interfaces_of(registrations));
  std::vector<ForeignChain> differences;
  for (const BaseChain& chain : *chains) {
    const bool is_forward = chain.hook.number == NF_INET_FORWARD && chain.hook.type == "filter" &&
                            (chain.family == Family::ip || chain.family == Family::ip6 || chain.family == Family::inet);
    if (!is_forward || chain.table == kTableName) continue;
    Result<std::vector<Rule>> rules = list_rules(socket, chain.family, chain.table, chain.chain);
    if (!rules && rules.status().code() == Code::not_found) continue;
    if (!rules) return rules.status();
    ForeignChain difference{.chain = chain, .missing = {}, .superfluous = {}};
    if (chain.hook.policy == NF_DROP) {
      difference.missing = accepts;
      tables.insert(chain.table);
    }
    for (const Rule& rule : *rules) {
      if (!rule.comment.starts_with(kCommentPrefix)) continue;
      const auto wanted = std::find_if(difference.missing.begin(), difference.missing.end(),
                                       [&](const Rule& candidate) { return equivalent(candidate, rule); });
      if (wanted != difference.missing.end()) {
        difference.missing.erase(wanted);
      } else {
        difference.superfluous.push_back(rule);
      }
    }
    if (!difference.missing.empty() || !difference.superfluous.empty()) differences.push_back(std::move(difference));
  }
  return differences;
}

std::string name_of(const BaseChain& chain) {
  return std::string(family_name(chain.family)) + " " + chain.table + " " + chain.chain;
}

Status converge_foreign(Socket& socket, const std::vector<Registration>& registrations, FilterReport& report) {
  const Result<std::vector<ForeignChain>> differences =
      foreign_differences(socket, registrations, report.foreign_tables);
  if (!differences) return differences.status();
  Status result;
  for (const ForeignChain& difference : *differences) {
    const BaseChain& chain = difference.chain;
    Transaction transaction;
    for (const Rule& rule : difference.superfluous) {
      transaction.delete_rule(chain.family, chain.table, chain.chain, rule.handle);
    }
    for (const Rule& rule : difference.missing) transaction.insert_rule(chain.family, chain.table, chain.chain, rule);
    const Status status = commit(socket, transaction);
    // The chain went meanwhile: so did what we wanted of it.
    if (status.code() == Code::not_found) continue;
    if (!status && result) result = status;
    if (status && !difference.missing.empty()) {
      report.changes.push_back("accepted pods in chain " + name_of(chain) + ", whose policy is drop");
    }
  }
  return result;
}

}  // namespace

Table wanted_table(const std::vector<Registration>& registrations, std::span<const PortClaim> claims) {
  Table table{.family = Family::inet, .name = std::string(kTableName), .sets = {}, .chains = {}};
  if (registrations.empty()) return table;
  std::vector<IpPrefix> direct = {*IpPrefix::parse("224.0.0.0/4"), *IpPrefix::parse("255.255.255.255/32"),
                                  *IpPrefix::parse("ff00::/8")};
  std::vector<IpPrefix> masqueraded;
  for (const Registration& registration : registrations) {
    direct.insert(direct.end(), registration.subnets.begin(), registration.subnets.end());
    if (!registration.masquerade) continue;
    masqueraded.insert(masqueraded.end(), registration.subnets.begin(), registration.subnets.end());
  }
  for (const bool ipv6 : {false, true}) {
    const std::string digit = ipv6 ? "6" : "4";
    table.sets.push_back(subnet_set("direct" + digit, ipv6, direct));
    table.sets.push_back(subnet_set("masqueraded" + digit, ipv6, masqueraded));
  }
  table.chains.push_back(
      {.name = "postrouting",
       .hook = Hook{.type = "nat", .number = NF_INET_POST_ROUTING, .priority = NF_IP_PRI_NAT_SRC, .policy = NF_ACCEPT},
       .rules = {masquerade_rule(false), masquerade_rule(true)}});
  table.chains.push_back(
      {.name = "loopback",
       .hook = Hook{.type = "filter", .number = NF_INET_PRE_ROUTING, .priority = NF_IP_PRI_RAW, .policy = NF_ACCEPT},
       .rules = loopback_rules(registrations)});
  if (std::vector<Rule> rules = isolation_rules(registrations); !rules.empty())
    table.chains.push_back({.name = "forward", .hook = Hook{}, .rules = std::move(rules)});
  add_host_ports(table, claims);
  return table;
}

Status converge_packet_filter(Socket& socket, const std::vector<Registration>& registrations,
                              std::span<const PortClaim> claims, FilterReport& report) {
  const Table wanted = wanted_table(registrations, claims);
  const Result<std::optional<Table>> actual = read_table(socket, wanted.family, wanted.name);
  Status status = actual.status();
  if (actual) {
    Transaction transaction;
    if (registrations.empty()) {
      if (*actual) transaction.remove(wanted.family, wanted.name);
    } else if (!*actual || !equivalent(wanted, **actual)) {
      transaction.replace(wanted);
      report.changes.push_back("wrote table inet " + wanted.name);
    }
    status = commit(socket, transaction);
  }
  const Status foreign = converge_foreign(socket, registrations, report);
  return status ? foreign : status;
}

bool concerns_packet_filter(const Change& change, const std::set<std::string>& foreign_tables) {
  switch (change.type) {
    case NFT_MSG_NEWTABLE:
    case NFT_MSG_DELTABLE:
    case NFT_MSG_NEWCHAIN:
    case NFT_MSG_DELCHAIN:
      return true;
    default:
      return change.table == kTableName || foreign_tables.contains(change.table);
  }
}

std::vector<std::string> packet_filter_problems(Socket& socket, const std::vector<Registration>& registrations,
                                                std::span<const PortClaim> claims) {
  const Table wanted = wanted_table(registrations, claims);
  const Result<std::optional<Table>> actual = read_table(socket, wanted.family, wanted.name);
  if (!actual) return {actual.status().message()};
  std::vector<std::string> problems;
  if (!*actual) problems.push_back("table inet " + wanted.name + " is missing");
  if (*actual && !equivalent(wanted, **actual)) problems.push_back("table inet " + wanted.name + " was changed");
  std::set<std::string> tables;
  const Result<std::vector<ForeignChain>> differences = foreign_differences(socket, registrations, tables);
  if (!differences) return {differences.status().message()};
  for (const ForeignChain& difference : *differences) {
    if (!difference.missing.empty()) problems.push_back("chain " + name_of(difference.chain) + " drops what pods send");
  }
  return problems;
}

}  // namespace pintle::bridge
