#pragma once

/// Addresses of interfaces by rtnetlink.

#include <span>

#include "sdk/support/netlink/ip.hpp"
#include "sdk/support/netlink/netlink.hpp"

namespace pintle::netlink {

struct InterfaceAddress {
  int index = 0;
  IpPrefix prefix;     ///< with host bits: "10.85.0.1/16"
  uint32_t flags = 0;  ///< IFA_F_*
  bool is_link_local = false;
};

/// All addresses of the socket's namespace, or those of one interface.
Result<std::vector<InterfaceAddress>> list_addresses(Socket& socket, int index = 0);

/// Waits until the kernel takes packets for these IPv6 addresses of the socket's namespace. It joins an address' solicited-node group and
/// then makes its local route in a worker, after it has said that the address is there; what comes before that is lost, and tried again a
/// second later. 0.1 ms as a rule; DEADLINE_EXCEEDED after a second. Addresses of IPv4 work at once.
Status await_usable(Socket& socket, std::span<const IpAddress> addresses);

/// IPv4 with its broadcast address; IPv6 without duplicate address detection, so that it may be used at once (whoever
/// hands out addresses has made sure). ALREADY_EXISTS if the interface has it.
void add_address(Batch& batch, int index, const IpPrefix& prefix);
/// NOT_FOUND if the interface does not have it.
void delete_address(Batch& batch, int index, const IpPrefix& prefix);

}  // namespace pintle::netlink
