#pragma once

/// Routes and neighbours by rtnetlink.

#include "sdk/support/netlink/ip.hpp"
#include "sdk/support/netlink/links.hpp"
#include "sdk/support/netlink/netlink.hpp"

namespace pintle::netlink {

/// A unicast route of the main table.
struct Route {
  IpPrefix destination;              ///< 0.0.0.0/0 or ::/0 is the default route
  std::optional<IpAddress> gateway;  ///< absent: the destination is on the link itself
  int index = 0;                     ///< the interface it leaves by
  std::optional<IpAddress> source;   ///< the address preferred for what the host itself sends
  uint32_t metric = 0;               ///< 0: the kernel's default (IPv6: 1024)
  uint8_t protocol = 4;              ///< who made it: RTPROT_STATIC; RTPROT_RA for router advertisements
  bool is_default() const { return destination.length() == 0; }
};

Result<std::vector<Route>> list_routes(Socket& socket);
/// ALREADY_EXISTS if there is a route to that destination with that metric.
void add_route(Batch& batch, const Route& route);
/// The same, but an existing one is replaced.
void replace_route(Batch& batch, const Route& route);
/// NOT_FOUND if there is none.
void delete_route(Batch& batch, const Route& route);

/// An entry of the ARP or neighbour discovery table.
struct Neighbour {
  int index = 0;
  IpAddress address;
  HardwareAddress hardware_address{};
  uint16_t state = 0;  ///< NUD_*
};
Result<std::vector<Neighbour>> list_neighbours(Socket& socket, int index);
/// An entry that does not age (NUD_PERMANENT); replaces what is there.
void add_neighbour(Batch& batch, const Neighbour& neighbour);
/// NOT_FOUND if there is none.
void delete_neighbour(Batch& batch, const Neighbour& neighbour);

}  // namespace pintle::netlink
