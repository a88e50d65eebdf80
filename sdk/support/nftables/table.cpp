#include <algorithm>
#include <cstring>

#include "sdk/support/nftables/nftables.hpp"

namespace pintle::nftables {
namespace {

/// NFT_REG_1 to _4 and the 32-bit registers that begin at the same place are one to the kernel.
uint32_t canonical_register(uint32_t number) {
  if (number >= NFT_REG32_00 && number <= NFT_REG32_15 && (number - NFT_REG32_00) % 4 == 0) {
    return NFT_REG_1 + (number - NFT_REG32_00) / 4;
  }
  return number;
}

void canonicalize(std::optional<uint32_t>& number) {
  if (number) number = canonical_register(*number);
}

Expression canonical(Expression expression) {
  struct Visitor {
    void operator()(Meta& e) const { e.to = canonical_register(e.to); }
    void operator()(Payload& e) const { e.to = canonical_register(e.to); }
    void operator()(Conntrack& e) const { e.to = canonical_register(e.to); }
    void operator()(Fib& e) const { e.to = canonical_register(e.to); }
    void operator()(Compare& e) const { e.from = canonical_register(e.from); }
    void operator()(Bitwise& e) const {
      e.from = canonical_register(e.from);
      e.to = canonical_register(e.to);
    }
    void operator()(Lookup& e) const {
      e.from = canonical_register(e.from);
      canonicalize(e.to);
    }
    void operator()(Immediate& e) const { e.to = canonical_register(e.to); }
    void operator()(Nat& e) const {
      canonicalize(e.address);
      canonicalize(e.port);
    }
    void operator()(Verdict&) const {}
    void operator()(Counter&) const {}
    void operator()(Masquerade&) const {}
    void operator()(Unknown&) const {}
  };
  std::visit(Visitor{}, expression);
  return expression;
}

template <class Item>
std::vector<const Item*> by_name(const std::vector<Item>& items) {
  std::vector<const Item*> sorted;
  for (const Item& item : items) sorted.push_back(&item);
  std::sort(sorted.begin(), sorted.end(), [](const Item* left, const Item* right) { return left->name < right->name; });
  return sorted;
}

bool equivalent(const Set& left, const Set& right) {
  if (left.name != right.name || left.key_type != right.key_type || left.key_size != right.key_size ||
      left.intervals != right.intervals || left.data_type != right.data_type ||
      left.elements.size() != right.elements.size()) {
    return false;
  }
  std::vector<Element> one = left.elements, other = right.elements;
  std::sort(one.begin(), one.end());
  std::sort(other.begin(), other.end());
  return one == other;
}

bool equivalent(const Chain& left, const Chain& right) {
  return left.name == right.name && left.hook == right.hook &&
         std::equal(left.rules.begin(), left.rules.end(), right.rules.begin(), right.rules.end(),
                    [](const Rule& a, const Rule& b) { return nftables::equivalent(a, b); });
}

template <class Item>
bool all_equivalent(const std::vector<Item>& left, const std::vector<Item>& right) {
  const auto one = by_name(left), other = by_name(right);
  return std::equal(one.begin(), one.end(), other.begin(), other.end(),
                    [](const Item* a, const Item* b) { return equivalent(*a, *b); });
}

}  // namespace

std::string_view family_name(Family family) {
  switch (family) {
    case Family::inet:
      return "inet";
    case Family::ip:
      return "ip";
    case Family::ip6:
      return "ip6";
    case Family::arp:
      return "arp";
    case Family::bridge:
      return "bridge";
    case Family::netdev:
      return "netdev";
  }
  return "unknown";
}

Set subnet_set(std::string name, bool ipv6, std::span<const netlink::IpPrefix> subnets) {
  Set set{.name = std::move(name),
          .key_type = ipv6 ? kTypeIpv6 : kTypeIpv4,
          .key_size = ipv6 ? 16u : 4u,
          .intervals = true,
          .data_type = {},
          .elements = {}};
  std::vector<netlink::IpPrefix> sorted;
  for (const netlink::IpPrefix& subnet : subnets) {
    if (subnet.address().is_v6() == ipv6) sorted.push_back(subnet);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& left, const auto& right) { return left.first() < right.first(); });
  const auto bytes_of = [](const netlink::IpAddress& address) {
    return Bytes(address.bytes().begin(), address.bytes().end());
  };
  std::optional<netlink::IpAddress> last;
  for (const netlink::IpPrefix& subnet : sorted) {
    const bool joins = last && (subnet.first() <= *last || last->plus(1) == subnet.first());
    if (!joins) {
      set.elements.push_back({.key = bytes_of(subnet.first()), .key_end = {}, .data = {}, .verdict = {}});
      last = subnet.last();
    }
    last = std::max(*last, subnet.last());
    set.elements.back().key_end = bytes_of(*last);
  }
  return set;
}

Bytes interface_name(std::string_view name) {
  Bytes bytes(16);
  std::copy_n(name.begin(), std::min<size_t>(name.size(), 15), bytes.begin());
  return bytes;
}

Element interface_element(std::string_view name) {
  return {.key = interface_name(name), .key_end = {}, .data = {}, .verdict = {}};
}

bool equivalent(const Rule& left, const Rule& right) {
  return left.comment == right.comment &&
         std::equal(left.expressions.begin(), left.expressions.end(), right.expressions.begin(),
                    right.expressions.end(),
                    [](const Expression& a, const Expression& b) { return canonical(a) == canonical(b); });
}

bool equivalent(const Table& left, const Table& right) {
  return left.family == right.family && left.name == right.name && all_equivalent(left.sets, right.sets) &&
         all_equivalent(left.chains, right.chains);
}

}  // namespace pintle::nftables
