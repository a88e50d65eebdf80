#include "sdk/support/netlink/routes.hpp"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>

namespace pintle::netlink {
namespace {

IpAddress unspecified(int family) {
  constexpr uint8_t zeros[16] = {};
  return IpAddress({zeros, family == AF_INET ? size_t{4} : size_t{16}});
}

std::optional<IpAddress> address_of(const Attributes& attributes, uint16_t attribute, int family) {
  const auto bytes = attributes.get(attribute);
  if (bytes.size() != (family == AF_INET ? 4u : 16u)) return std::nullopt;
  return IpAddress(bytes);
}

void route_request(Batch& batch, uint16_t type, uint16_t flags, std::string_view verb, const Route& route) {
  const rtmsg header{
      .rtm_family = static_cast<uint8_t>(route.destination.address().family()),
      .rtm_dst_len = static_cast<uint8_t>(route.destination.length()),
      .rtm_table = RT_TABLE_MAIN,
      .rtm_protocol = route.protocol,
      .rtm_scope = static_cast<uint8_t>(type == RTM_DELROUTE ? RT_SCOPE_NOWHERE
                                        : route.gateway      ? RT_SCOPE_UNIVERSE
                                                             : RT_SCOPE_LINK),
      .rtm_type = RTN_UNICAST,
  };
  batch.begin(type, flags, header, std::string(verb) + " route to " + route.destination.to_string());
  if (!route.is_default()) batch.put(RTA_DST, route.destination.first().bytes());
  if (route.gateway) batch.put(RTA_GATEWAY, route.gateway->bytes());
  if (route.index != 0) batch.put_u32(RTA_OIF, static_cast<uint32_t>(route.index));
  if (route.source) batch.put(RTA_PREFSRC, route.source->bytes());
  if (route.metric != 0) batch.put_u32(RTA_PRIORITY, route.metric);
}

std::optional<Route> parse_route(const nlmsghdr& message) {
  const auto* header = payload_header<rtmsg>(message);
  if (message.nlmsg_type != RTM_NEWROUTE || !header || header->rtm_type != RTN_UNICAST) return std::nullopt;
  if (header->rtm_family != AF_INET && header->rtm_family != AF_INET6) return std::nullopt;
  const Attributes attributes(message, sizeof *header);
  if (attributes.u32(RTA_TABLE, header->rtm_table) != RT_TABLE_MAIN) return std::nullopt;
  const IpAddress destination =
      address_of(attributes, RTA_DST, header->rtm_family).value_or(unspecified(header->rtm_family));
  if (header->rtm_dst_len > destination.bits()) return std::nullopt;
  return Route{.destination = IpPrefix(destination, header->rtm_dst_len),
               .gateway = address_of(attributes, RTA_GATEWAY, header->rtm_family),
               .index = static_cast<int>(attributes.u32(RTA_OIF)),
               .source = address_of(attributes, RTA_PREFSRC, header->rtm_family),
               .metric = attributes.u32(RTA_PRIORITY),
               .protocol = header->rtm_protocol};
}

void neighbour_request(Batch& batch, uint16_t type, uint16_t flags, std::string_view verb, const Neighbour& neighbour) {
  const ndmsg header{.ndm_family = static_cast<uint8_t>(neighbour.address.family()),
                     .ndm_ifindex = neighbour.index,
                     .ndm_state = NUD_PERMANENT};
  batch.begin(type, flags, header, std::string(verb) + " neighbour " + neighbour.address.to_string());
  batch.put(NDA_DST, neighbour.address.bytes());
  if (type == RTM_NEWNEIGH) batch.put(NDA_LLADDR, neighbour.hardware_address);
}

}  // namespace

Result<std::vector<Route>> list_routes(Socket& socket) {
  return dump<Route>(socket, RTM_GETROUTE, rtmsg{}, "list routes",
                     [](const nlmsghdr& message, std::vector<Route>& routes) {
                       if (std::optional<Route> route = parse_route(message)) routes.push_back(*route);
                     });
}

void add_route(Batch& batch, const Route& route) {
  route_request(batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "add", route);
}

void replace_route(Batch& batch, const Route& route) {
  route_request(batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "replace", route);
}

void delete_route(Batch& batch, const Route& route) { route_request(batch, RTM_DELROUTE, 0, "delete", route); }

Result<std::vector<Neighbour>> list_neighbours(Socket& socket, int index) {
  const auto append = [index](const nlmsghdr& message, std::vector<Neighbour>& neighbours) {
    const auto* header = payload_header<ndmsg>(message);
    if (message.nlmsg_type != RTM_NEWNEIGH || !header || header->ndm_ifindex != index) return;
    if (header->ndm_family != AF_INET && header->ndm_family != AF_INET6) return;
    const Attributes attributes(message, sizeof *header);
    const std::optional<IpAddress> address = address_of(attributes, NDA_DST, header->ndm_family);
    if (!address) return;
    Neighbour neighbour{.index = index, .address = *address, .state = header->ndm_state};
    const auto hardware = attributes.get(NDA_LLADDR);
    if (hardware.size() == neighbour.hardware_address.size()) {
      std::copy(hardware.begin(), hardware.end(), neighbour.hardware_address.begin());
    }
    neighbours.push_back(neighbour);
  };
  return dump<Neighbour>(socket, RTM_GETNEIGH, ndmsg{}, "list neighbours", append);
}

void add_neighbour(Batch& batch, const Neighbour& neighbour) {
  neighbour_request(batch, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, "add", neighbour);
}

void delete_neighbour(Batch& batch, const Neighbour& neighbour) {
  neighbour_request(batch, RTM_DELNEIGH, 0, "delete", neighbour);
}

}  // namespace pintle::netlink
