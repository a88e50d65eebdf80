#include "cni/bridge/host_ports.hpp"

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter_ipv4.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cstring>

namespace pintle::bridge {
namespace {

using namespace nftables;
using netlink::Flow;
using netlink::IpAddress;
namespace json = boost::json;

constexpr std::array<std::pair<uint8_t, std::string_view>, 3> kProtocols = {
    {{IPPROTO_TCP, "tcp"}, {IPPROTO_UDP, "udp"}, {IPPROTO_SCTP, "sctp"}}};
constexpr std::string_view kChain = "host-ports";
constexpr uint32_t kIpv4Source = 12, kIpv4Destination = 16, kIpv6Source = 8, kIpv6Destination = 24;
constexpr uint32_t kDestinationPort = 2;  // in the headers of all three protocols
/// Where a map's datum is loaded: the address, and the port behind it.
constexpr uint32_t kTargetAddress = NFT_REG32_08;

std::string_view protocol_name(uint8_t protocol) {
  for (const auto& [number, name] : kProtocols) {
    if (number == protocol) return name;
  }
  return "unknown";
}

bool is_loopback(const IpAddress& address) {
  static const auto v4 = *netlink::IpPrefix::parse("127.0.0.0/8"), v6 = *netlink::IpPrefix::parse("::1/128");
  return v4.contains(address) || v6.contains(address);
}

bool is_loopback_v4(const IpAddress& address) { return !address.is_v6() && is_loopback(address); }

bool is_unspecified(const IpAddress& address) {
  return std::ranges::all_of(address.bytes(), [](uint8_t byte) { return byte == 0; });
}

/// On all addresses of the family.
bool is_anywhere(const HostPort& port) { return !port.host_ip || is_unspecified(*port.host_ip); }

// ---- Elements -----------------------------------------------------------------------------------------------------------------

void append(Bytes& bytes, const IpAddress& address) {
  bytes.insert(bytes.end(), address.bytes().begin(), address.bytes().end());
}
void append_protocol(Bytes& bytes, uint8_t protocol) { bytes.insert(bytes.end(), {protocol, 0, 0, 0}); }
void append_port(Bytes& bytes, uint16_t port) {
  bytes.insert(bytes.end(), {static_cast<uint8_t>(port >> 8), static_cast<uint8_t>(port), 0, 0});
}

Set port_map(bool bound, bool ipv6) {
  const uint32_t address = ipv6 ? kTypeIpv6 : kTypeIpv4, address_size = ipv6 ? 16 : 4;
  const uint32_t key = joined(kTypeProtocol, kTypePort);
  return {.name = std::string(bound ? "bound" : "any") + (ipv6 ? "6" : "4"),
          .key_type = bound ? joined(joined(address, kTypeProtocol), kTypePort) : key,
          .key_size = 8 + (bound ? address_size : 0),
          .data_type = joined(address, kTypePort),
          .data_size = address_size + 4,
          .elements = {}};
}

/// The four maps with what one claim has in each.
std::vector<Set> maps_of(const PortClaim& claim) {
  std::vector<Set> maps;
  for (const bool ipv6 : {false, true}) {
    for (const bool bound : {false, true}) {
      Set map = port_map(bound, ipv6);
      const auto pod = std::ranges::find_if(claim.addresses, [&](const IpAddress& a) { return a.is_v6() == ipv6; });
      for (const HostPort& port : claim.ports) {
        if (pod == claim.addresses.end() || !port.serves(*pod) || is_anywhere(port) == bound) continue;
        Element element;
        if (bound) append(element.key, *port.host_ip);
        append_protocol(element.key, port.protocol);
        append_port(element.key, port.host_port);
        append(element.data, *pod);
        append_port(element.data, port.pod_port);
        map.elements.push_back(std::move(element));
      }
      maps.push_back(std::move(map));
    }
  }
  return maps;
}

// ---- Rules --------------------------------------------------------------------------------------------------------------------

Expression is_family(bool ipv6) { return Compare{.data = {static_cast<uint8_t>(ipv6 ? NFPROTO_IPV6 : NFPROTO_IPV4)}}; }

/// Loads what a key consists of, behind one another.
void load_key(std::vector<Expression>& expressions, bool bound, bool ipv6) {
  uint32_t to = NFT_REG32_00;
  if (bound) {
    const uint32_t size = ipv6 ? 16 : 4;
    expressions.push_back(Payload{NFT_PAYLOAD_NETWORK_HEADER, ipv6 ? kIpv6Destination : kIpv4Destination, size, to});
    to += size / 4;
  }
  expressions.push_back(Meta{.key = NFT_META_L4PROTO, .to = to});
  expressions.push_back(Payload{NFT_PAYLOAD_TRANSPORT_HEADER, kDestinationPort, 2, to + 1});
}

Rule translation(bool bound, bool ipv6) {
  const Set map = port_map(bound, ipv6);
  Rule rule{.expressions = {Meta{.key = NFT_META_NFPROTO}, is_family(ipv6)}, .comment = "host ports"};
  load_key(rule.expressions, bound, ipv6);
  rule.expressions.push_back(Lookup{.set = map.name, .to = kTargetAddress, .from = NFT_REG32_00});
  rule.expressions.push_back(Nat{.type = NFT_NAT_DNAT,
                                 .family = static_cast<uint32_t>(ipv6 ? NFPROTO_IPV6 : NFPROTO_IPV4),
                                 .address = kTargetAddress,
                                 .port = kTargetAddress + (ipv6 ? 4 : 1)});
  return rule;
}

/// "::1", which nothing can be sent from to a pod.
Rule loopback_v6_stays() {
  Bytes loopback(16);
  loopback[15] = 1;
  return {.expressions = {Meta{.key = NFT_META_NFPROTO}, is_family(true),
                          Payload{NFT_PAYLOAD_NETWORK_HEADER, kIpv6Destination, 16},
                          Compare{.data = std::move(loopback)}, Verdict{.code = NFT_RETURN}},
          .comment = "IPv6 loopback is not served"};
}

/// Loopback addresses but 127.0.0.1 have owners: 127.0.0.53 is the resolver's, whatever pod has port 53 of the node.
Rule other_loopback_stays() {
  return {.expressions = {Meta{.key = NFT_META_NFPROTO}, is_family(false),
                          Payload{NFT_PAYLOAD_NETWORK_HEADER, kIpv4Destination, 1}, Compare{.data = {127}},
                          Payload{NFT_PAYLOAD_NETWORK_HEADER, kIpv4Destination, 4},
                          Compare{.operation = NFT_CMP_NEQ, .data = {127, 0, 0, 1}}, Verdict{.code = NFT_RETURN}},
          .comment = "127.0.0.1 alone is served"};
}

/// Loopback is for the node itself.
Rule loopback_from_outside_stays() {
  return {.expressions = {Meta{.key = NFT_META_NFPROTO}, is_family(false),
                          Payload{NFT_PAYLOAD_NETWORK_HEADER, kIpv4Destination, 1}, Compare{.data = {127}},
                          Verdict{.code = NFT_RETURN}},
          .comment = "loopback is the node's own"};
}

Rule to_this_node() {
  const uint32_t local = RTN_LOCAL;
  Bytes type(sizeof local);
  std::memcpy(type.data(), &local, sizeof local);
  return {
      .expressions = {Fib{}, Compare{.data = std::move(type)}, Verdict{.code = NFT_JUMP, .chain = std::string(kChain)}},
      .comment = "to the node"};
}

/// A rule for packets of a family that a host port leads elsewhere.
Rule for_translated(bool ipv6, std::string comment) {
  const uint32_t translated = IPS_DST_NAT;
  Bytes mask(sizeof translated), zero(sizeof translated);
  std::memcpy(mask.data(), &translated, sizeof translated);
  return {
      .expressions = {Conntrack{.key = NFT_CT_STATUS}, Bitwise{.mask = std::move(mask), .exclusive_or = zero},
                      Compare{.operation = NFT_CMP_NEQ, .data = zero}, Meta{.key = NFT_META_NFPROTO}, is_family(ipv6)},
      .comment = std::move(comment)};
}

/// From a pod by a host port to a pod: the answer has to come by the bridge's address to be translated back.
Rule between_pods(bool ipv6) {
  const std::string pods = ipv6 ? "direct6" : "direct4";
  const uint32_t size = ipv6 ? 16 : 4;
  Rule rule = for_translated(ipv6, "pods to host ports of pods");
  rule.expressions.insert(
      rule.expressions.end(),
      {Payload{NFT_PAYLOAD_NETWORK_HEADER, ipv6 ? kIpv6Source : kIpv4Source, size}, Lookup{.set = pods},
       Payload{NFT_PAYLOAD_NETWORK_HEADER, ipv6 ? kIpv6Destination : kIpv4Destination, size}, Lookup{.set = pods},
       Counter{}, Masquerade{}});
  return rule;
}

/// A pod cannot answer 127.0.0.1: it would talk to itself.
Rule from_loopback() {
  Rule rule = for_translated(false, "the node's loopback to host ports");
  rule.expressions.insert(rule.expressions.end(), {Payload{NFT_PAYLOAD_NETWORK_HEADER, kIpv4Source, 1},
                                                   Compare{.data = {127}}, Counter{}, Masquerade{}});
  return rule;
}

}  // namespace

// ---- Values -------------------------------------------------------------------------------------------------------------------

std::string HostPort::to_string() const {
  std::string text;
  if (host_ip) text = host_ip->is_v6() ? "[" + host_ip->to_string() + "]:" : host_ip->to_string() + ":";
  return text + std::to_string(host_port) + "/" + std::string(protocol_name(protocol));
}

bool HostPort::serves_loopback() const {
  return !host_ip || is_loopback_v4(*host_ip) || (!host_ip->is_v6() && is_unspecified(*host_ip));
}

bool PortClaim::needs_loopback() const {
  return std::ranges::any_of(addresses, [](const IpAddress& address) { return !address.is_v6(); }) &&
         std::ranges::any_of(ports, &HostPort::serves_loopback);
}

bool HostPort::serves(const IpAddress& address) const { return !host_ip || host_ip->is_v6() == address.is_v6(); }

Result<uint8_t> parse_protocol(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const auto& [number, name] : kProtocols) {
    if (name == lower) return number;
  }
  return invalid_argument("protocol '" + std::string(text.substr(0, 20)) + "': tcp, udp or sctp is expected");
}

Status check_ports(const PortClaim& claim, std::span<const PortClaim> others) {
  const auto collide = [](const HostPort& left, const HostPort& right) {
    if (left.protocol != right.protocol || left.host_port != right.host_port) return false;
    if (!left.host_ip || !right.host_ip || *left.host_ip == *right.host_ip) return true;
    return left.host_ip->is_v6() == right.host_ip->is_v6() && (is_anywhere(left) || is_anywhere(right));
  };
  for (auto port = claim.ports.begin(); port != claim.ports.end(); ++port) {
    const std::string what = "host port " + port->to_string() + ": ";
    if (port->host_port == 0 || port->pod_port == 0) return invalid_argument(what + "ports are 1 to 65535");
    if (protocol_name(port->protocol) == "unknown") return invalid_argument(what + "TCP, UDP or SCTP is expected");
    if (port->host_ip && port->host_ip->is_v6() && is_loopback(*port->host_ip)) {
      return invalid_argument(what +
                              "IPv6's loopback cannot be served; name 127.0.0.1, another address of the node, or none");
    }
    if (std::ranges::none_of(claim.addresses, [&](const IpAddress& address) { return port->serves(address); })) {
      return invalid_argument(what + "the pod has no address of that family");
    }
    if (std::any_of(claim.ports.begin(), port, [&](const HostPort& earlier) { return collide(earlier, *port); })) {
      return invalid_argument(what + "the pod names it twice");
    }
    for (const PortClaim& other : others) {
      if (std::ranges::none_of(other.ports, [&](const HostPort& taken) { return collide(taken, *port); })) continue;
      return Status(Code::already_exists, what + "sandbox " + other.sandbox + " has it");
    }
  }
  return Status::ok();
}

json::array to_json(std::span<const HostPort> ports) {
  json::array list;
  for (const HostPort& port : ports) {
    json::object item{
        {"protocol", protocol_name(port.protocol)}, {"hostPort", port.host_port}, {"podPort", port.pod_port}};
    if (port.host_ip) item["hostIP"] = port.host_ip->to_string();
    list.push_back(std::move(item));
  }
  return list;
}

Result<std::vector<HostPort>> parse_host_ports(const json::value& value) {
  if (!value.is_array()) return data_loss("'hostPorts' is no list");
  std::vector<HostPort> ports;
  for (const json::value& item : value.get_array()) {
    const json::object* object = item.if_object();
    const json::value* protocol = object ? object->if_contains("protocol") : nullptr;
    const json::value* host_port = object ? object->if_contains("hostPort") : nullptr;
    const json::value* pod_port = object ? object->if_contains("podPort") : nullptr;
    if (!protocol || !protocol->is_string() || !host_port || !pod_port) return data_loss("a host port is incomplete");
    const Result<uint8_t> number = parse_protocol(protocol->get_string());
    if (!number) return data_loss(number.status().message());
    boost::system::error_code error, another;
    HostPort port{.protocol = *number,
                  .host_ip = {},
                  .host_port = host_port->to_number<uint16_t>(error),
                  .pod_port = pod_port->to_number<uint16_t>(another)};
    if (error || another) return data_loss("a host port is no number from 1 to 65535");
    if (const json::value* host_ip = object->if_contains("hostIP")) {
      if (!host_ip->is_string()) return data_loss("'hostIP' is no text");
      const Result<IpAddress> address = IpAddress::parse(host_ip->get_string());
      if (!address) return data_loss(address.status().message());
      port.host_ip = *address;
    }
    ports.push_back(port);
  }
  return ports;
}

// ---- In the packet filter -----------------------------------------------------------------------------------------------------

void add_host_ports(Table& table, std::span<const PortClaim> claims) {
  std::vector<Set> maps = maps_of({});
  for (const PortClaim& claim : claims) {
    const std::vector<Set> parts = maps_of(claim);
    for (size_t i = 0; i < maps.size(); ++i) {
      maps[i].elements.insert(maps[i].elements.end(), parts[i].elements.begin(), parts[i].elements.end());
    }
  }
  for (Set& map : maps) {
    std::stable_sort(map.elements.begin(), map.elements.end());
    const auto same_key = [](const Element& left, const Element& right) { return left.key == right.key; };
    map.elements.erase(std::unique(map.elements.begin(), map.elements.end(), same_key), map.elements.end());
    table.sets.push_back(std::move(map));
  }
  Chain chain{.name = std::string(kChain),
              .hook = {},
              .rules = {translation(true, false), translation(true, true), other_loopback_stays(), loopback_v6_stays(),
                        translation(false, false), translation(false, true)}};
  table.chains.push_back(std::move(chain));
  table.chains.push_back(
      {.name = "prerouting",
       .hook = Hook{.type = "nat", .number = NF_INET_PRE_ROUTING, .priority = NF_IP_PRI_NAT_DST, .policy = NF_ACCEPT},
       .rules = {loopback_from_outside_stays(), to_this_node()}});
  table.chains.push_back(
      {.name = "output",
       .hook = Hook{.type = "nat", .number = NF_INET_LOCAL_OUT, .priority = NF_IP_PRI_NAT_DST, .policy = NF_ACCEPT},
       .rules = {to_this_node()}});
  for (Chain& other : table.chains) {
    if (other.name == "postrouting")
      other.rules.insert(other.rules.begin(), {between_pods(false), between_pods(true), from_loopback()});
  }
}

void open_ports(Transaction& transaction, std::string_view table, const PortClaim& claim) {
  for (const Set& map : maps_of(claim)) transaction.add_elements(Family::inet, table, map, map.elements);
}

void close_ports(Transaction& transaction, std::string_view table, const PortClaim& claim) {
  for (const Set& map : maps_of(claim)) transaction.delete_elements(Family::inet, table, map, map.elements);
}

Status forget_flows(netlink::Socket& socket, const PortClaim& claim, bool closed) {
  const auto is_udp = [](const HostPort& port) { return port.protocol == IPPROTO_UDP; };
  if (std::ranges::none_of(claim.ports, is_udp)) return Status::ok();
  const Result<std::vector<Flow>> flows = netlink::list_flows(socket, IPPROTO_UDP);
  if (!flows) return flows.status();
  const auto is_stale = [&](const Flow& flow) {
    const bool leads_here = std::ranges::find(claim.addresses, flow.answerer) != claim.addresses.end();
    return std::ranges::any_of(claim.ports, [&](const HostPort& port) {
      return is_udp(port) && flow.destination_port == port.host_port && leads_here == closed &&
             port.serves(flow.destination) && (is_anywhere(port) || flow.destination == *port.host_ip);
    });
  };
  netlink::Batch batch;
  for (const Flow& flow : *flows) {
    if (is_stale(flow)) netlink::delete_flow(batch, flow);
  }
  Status result;
  for (Status& status : socket.send_each(batch)) {
    if (!status && status.code() != Code::not_found && result) result = std::move(status);
  }
  return result;
}

}  // namespace pintle::bridge
