#pragma once

/// Tracked connections (conntrack) by netlink: listed, and forgotten.
///
/// The kernel decides once for a connection how its packets are translated. For UDP a connection is a client's address and port that go on
/// sending, so it outlives the pod that it was translated to: whoever opens or closes a way to a pod makes the kernel forget the
/// connections that were decided before.
///
/// Sources: linux/netfilter/nfnetlink_conntrack.h.

#include <vector>

#include "sdk/support/netlink/ip.hpp"
#include "sdk/support/netlink/netlink.hpp"

namespace pintle::netlink {

/// One connection as its first packet was, and where it was really led.
struct Flow {
  uint8_t protocol = 0;  ///< IPPROTO_UDP, ...
  IpAddress source, destination;
  uint16_t source_port = 0, destination_port = 0;
  IpAddress answerer;  ///< whose answers belong to it: another than `destination` if that was translated
  uint16_t answerer_port = 0;
};

/// Those of one protocol that has ports, of both families. `socket`: of NETLINK_NETFILTER. Costs grow with all connections of the
/// namespace. Nothing where the kernel does not track.
Result<std::vector<Flow>> list_flows(Socket& socket, uint8_t protocol);
/// NOT_FOUND if it has ended.
void delete_flow(Batch& batch, const Flow& flow);

}  // namespace pintle::netlink
