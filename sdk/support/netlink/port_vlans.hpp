#pragma once

/// The VLANs of a bridge's ports, where the bridge filters by them (`bridge vlan show`).
///
/// A port hears the frames of the VLANs that it is in. What comes in without a tag belongs to its *PVID*, if it has one; what goes out
/// loses its tag where the VLAN is `untagged` at the port. The bridge itself is a port too, by which frames reach the node: its index is
/// that of the bridge. The kernel puts a new port into the bridge's default VLAN (1, as PVID and untagged).
///
/// Sources: IEEE 802.1Q; linux/if_bridge.h.

#include <optional>
#include <string>
#include <vector>

#include "sdk/support/netlink/netlink.hpp"

namespace pintle::netlink {

struct PortVlan {
  uint16_t id = 0;  ///< 1 to 4094
  bool is_pvid = false;
  bool is_untagged = false;
  bool operator==(const PortVlan&) const = default;
};

struct PortVlans {
  int index = 0;
  std::string name;
  std::vector<PortVlan> vlans;  ///< in their order
};

/// All ports of all bridges, the bridges themselves among them. Its cost grows with their number.
Result<std::vector<PortVlans>> list_port_vlans(Socket& socket);
/// Reads what the kernel tells when VLANs of a port change, and whenever else it speaks of a bridge's port: each time all VLANs of it.
/// Nothing for other messages, and for a port that left its bridge.
std::optional<PortVlans> parse_port_vlans(const nlmsghdr& message);

enum class PortKind { port, bridge_itself };
/// Puts the port into the VLAN, or changes how it is in it.
void add_port_vlan(Batch& batch, int port_index, const PortVlan& vlan, PortKind kind = PortKind::port);
/// NOT_FOUND if it is not in it.
void delete_port_vlan(Batch& batch, int port_index, uint16_t vlan, PortKind kind = PortKind::port);

}  // namespace pintle::netlink
