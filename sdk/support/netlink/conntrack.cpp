#include "sdk/support/netlink/conntrack.hpp"

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <sys/socket.h>

namespace pintle::netlink {
namespace {

constexpr uint16_t kind(uint16_t message) { return static_cast<uint16_t>(NFNL_SUBSYS_CTNETLINK << 8 | message); }

nfgenmsg header_of(int family) {
  return {.nfgen_family = static_cast<uint8_t>(family), .version = NFNETLINK_V0, .res_id = 0};
}

struct Tuple {
  uint8_t protocol = 0;
  IpAddress source, destination;
  uint16_t source_port = 0, destination_port = 0;
};

Result<IpAddress> address_of(const Attributes& ip, uint16_t v4, uint16_t v6) {
  const auto bytes = ip.has(v4) ? ip.get(v4) : ip.get(v6);
  if (bytes.size() != 4 && bytes.size() != 16) return invalid_argument("a tracked connection without addresses");
  return IpAddress(bytes);
}

/// Nothing for connections without ports (ICMP).
std::optional<Tuple> parse_tuple(std::span<const uint8_t> bytes) {
  const Attributes tuple(bytes);
  const Attributes ip(tuple.get(CTA_TUPLE_IP)), proto(tuple.get(CTA_TUPLE_PROTO));
  const Result<IpAddress> source = address_of(ip, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
  const Result<IpAddress> destination = address_of(ip, CTA_IP_V4_DST, CTA_IP_V6_DST);
  if (!source || !destination || !proto.has(CTA_PROTO_SRC_PORT)) return std::nullopt;
  return Tuple{.protocol = proto.u8(CTA_PROTO_NUM),
               .source = *source,
               .destination = *destination,
               .source_port = ntohs(proto.u16(CTA_PROTO_SRC_PORT)),
               .destination_port = ntohs(proto.u16(CTA_PROTO_DST_PORT))};
}

}  // namespace

Result<std::vector<Flow>> list_flows(Socket& socket, uint8_t protocol) {
  Result<std::vector<Flow>> flows =
      dump<Flow>(socket, kind(IPCTNL_MSG_CT_GET), header_of(AF_UNSPEC), "list tracked connections",
                 [protocol](const nlmsghdr& message, std::vector<Flow>& items) {
                   const Attributes attributes(message, sizeof(nfgenmsg));
                   const std::optional<Tuple> first = parse_tuple(attributes.get(CTA_TUPLE_ORIG));
                   const std::optional<Tuple> answer = parse_tuple(attributes.get(CTA_TUPLE_REPLY));
                   if (!first || !answer || first->protocol != protocol) return;
                   items.push_back({.protocol = protocol,
                                    .source = first->source,
                                    .destination = first->destination,
                                    .source_port = first->source_port,
                                    .destination_port = first->destination_port,
                                    .answerer = answer->source,
                                    .answerer_port = answer->source_port});
                 });
  // A kernel without the module refuses the whole subsystem.
  if (!flows && flows.status().code() == Code::invalid_argument) return std::vector<Flow>();
  return flows;
}

void delete_flow(Batch& batch, const Flow& flow) {
  const auto put_address = [&](const IpAddress& address, uint16_t v4, uint16_t v6) {
    batch.put(address.is_v4() ? v4 : v6, address.bytes());
  };
  batch.begin(kind(IPCTNL_MSG_CT_DELETE), 0, header_of(flow.source.family()),
              "forget the connection from " + flow.source.to_string() + " to " + flow.destination.to_string());
  const size_t tuple = batch.begin_nest(CTA_TUPLE_ORIG);
  const size_t ip = batch.begin_nest(CTA_TUPLE_IP);
  put_address(flow.source, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
  put_address(flow.destination, CTA_IP_V4_DST, CTA_IP_V6_DST);
  batch.end_nest(ip);
  const size_t proto = batch.begin_nest(CTA_TUPLE_PROTO);
  batch.put_u8(CTA_PROTO_NUM, flow.protocol);
  batch.put_u16(CTA_PROTO_SRC_PORT, htons(flow.source_port));
  batch.put_u16(CTA_PROTO_DST_PORT, htons(flow.destination_port));
  batch.end_nest(proto);
  batch.end_nest(tuple);
}

}  // namespace pintle::netlink
