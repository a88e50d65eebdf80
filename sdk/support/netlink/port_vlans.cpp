#include "sdk/support/netlink/port_vlans.hpp"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cstring>

namespace pintle::netlink {
namespace {

void put_vlan(Batch& batch, const bridge_vlan_info& vlan, PortKind kind) {
  const size_t specification = batch.begin_nest(IFLA_AF_SPEC);
  if (kind == PortKind::bridge_itself) batch.put_u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_SELF);
  batch.put(IFLA_BRIDGE_VLAN_INFO, {reinterpret_cast<const uint8_t*>(&vlan), sizeof vlan});
  batch.end_nest(specification);
}

ifinfomsg header_of(int port_index) { return {.ifi_family = AF_BRIDGE, .ifi_index = port_index}; }

}  // namespace

std::optional<PortVlans> parse_port_vlans(const nlmsghdr& message) {
  const auto* header = payload_header<ifinfomsg>(message);
  if (message.nlmsg_type != RTM_NEWLINK || !header || header->ifi_family != AF_BRIDGE) return std::nullopt;
  const Attributes attributes(message, sizeof *header);
  PortVlans port{.index = header->ifi_index, .name = attributes.text(IFLA_IFNAME), .vlans = {}};
  uint16_t first = 0;
  for (const auto payload : Attributes(attributes.get(IFLA_AF_SPEC)).all(IFLA_BRIDGE_VLAN_INFO)) {
    bridge_vlan_info vlan{};
    if (payload.size() < sizeof vlan) continue;
    std::memcpy(&vlan, payload.data(), sizeof vlan);
    if (vlan.flags & BRIDGE_VLAN_INFO_RANGE_BEGIN) {
      first = vlan.vid;
      continue;
    }
    if (!(vlan.flags & BRIDGE_VLAN_INFO_RANGE_END)) first = vlan.vid;
    for (uint32_t id = first; id <= vlan.vid; ++id) {
      port.vlans.push_back({.id = static_cast<uint16_t>(id),
                            .is_pvid = (vlan.flags & BRIDGE_VLAN_INFO_PVID) != 0,
                            .is_untagged = (vlan.flags & BRIDGE_VLAN_INFO_UNTAGGED) != 0});
    }
  }
  return port;
}

Result<std::vector<PortVlans>> list_port_vlans(Socket& socket) {
  // The dump's filter stands in an attribute behind its header.
  struct {
    ifinfomsg header{.ifi_family = AF_BRIDGE};
    nlattr attribute{.nla_len = sizeof(nlattr) + sizeof(uint32_t), .nla_type = IFLA_EXT_MASK};
    uint32_t mask = RTEXT_FILTER_BRVLAN_COMPRESSED;
  } const request;
  return dump<PortVlans>(socket, RTM_GETLINK, request, "list VLANs of bridge ports",
                         [](const nlmsghdr& message, std::vector<PortVlans>& ports) {
                           if (std::optional<PortVlans> port = parse_port_vlans(message))
                             ports.push_back(std::move(*port));
                         });
}

void add_port_vlan(Batch& batch, int port_index, const PortVlan& vlan, PortKind kind) {
  batch.begin(RTM_SETLINK, 0, header_of(port_index),
              "put bridge port " + std::to_string(port_index) + " into VLAN " + std::to_string(vlan.id));
  const int flags = (vlan.is_pvid ? BRIDGE_VLAN_INFO_PVID : 0) | (vlan.is_untagged ? BRIDGE_VLAN_INFO_UNTAGGED : 0);
  put_vlan(batch, {.flags = static_cast<uint16_t>(flags), .vid = vlan.id}, kind);
}

void delete_port_vlan(Batch& batch, int port_index, uint16_t vlan, PortKind kind) {
  batch.begin(RTM_DELLINK, 0, header_of(port_index),
              "take bridge port " + std::to_string(port_index) + " out of VLAN " + std::to_string(vlan));
  put_vlan(batch, {.flags = 0, .vid = vlan}, kind);
}

}  // namespace pintle::netlink
