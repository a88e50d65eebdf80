#pragma once

/// Network interfaces by rtnetlink: what there is, and requests that create, change and delete them.

#include <array>
#include <optional>

#include "sdk/support/netlink/netlink.hpp"

namespace pintle::netlink {

using HardwareAddress = std::array<uint8_t, 6>;

/// "0a:58:0a:55:00:07".
std::string to_string(const HardwareAddress& address);
/// The reverse; INVALID_ARGUMENT for anything else.
Result<HardwareAddress> parse_hardware_address(std::string_view text);
/// A unicast, locally administered address that follows from an IP address: 0a:50 and its last 32 bits. Whoever gets
/// the same IP address later has the same hardware address, so no neighbour's cache goes stale.
HardwareAddress hardware_address_for(std::span<const uint8_t> ip_address);

/// Interface names are 1 to 15 bytes without slash, colon, percent, space or control characters, and neither "." nor
/// "..". INVALID_ARGUMENT says what is wrong with it.
Status check_link_name(std::string_view name);

struct Link {
  int index = 0;
  std::string name;
  std::string kind;   ///< "veth", "bridge", ...; empty for hardware and loopback
  std::string alias;  ///< free text of whoever made it (IFLA_IFALIAS)
  HardwareAddress hardware_address{};
  uint32_t mtu = 0;
  uint32_t flags = 0;           ///< IFF_*
  int master = 0;               ///< index of the bridge it is a port of; 0: none
  int peer = 0;                 ///< index of the other end (of a veth), in the peer's namespace
  bool peer_elsewhere = false;  ///< the other end is in another network namespace
  bool hairpin = false;         ///< of a bridge port
  bool vlan_filtering = false;  ///< of a bridge
  uint16_t default_vlan = 0;    ///< of a bridge: what its ports are in by themselves (default_pvid)
  uint16_t vlan = 0;            ///< of a link of kind "vlan", on top of the link `peer`
  bool operational = false;     ///< what is sent over it now is not lost (IF_OPER_UP)
  bool is_up() const;
};

/// Every interface of the socket's namespace.
Result<std::vector<Link>> list_links(Socket& socket);
/// NOT_FOUND when there is none of that name.
Result<Link> find_link(Socket& socket, std::string_view name);
/// Reads RTM_NEWLINK and RTM_DELLINK messages, also of a Monitor; nothing for others and for those of other families
/// (bridge port notices).
std::optional<Link> parse_link(const nlmsghdr& message);

struct BridgeSpec {
  std::string name;
  uint32_t mtu = 0;                                 ///< 0: the kernel's default
  std::optional<HardwareAddress> hardware_address;  ///< set: does not change when ports come and go
  bool vlan_filtering = false;                      ///< its ports hear only the VLANs that they are in
};
/// ALREADY_EXISTS if the name is taken.
void add_bridge(Batch& batch, const BridgeSpec& spec);
/// UNIMPLEMENTED where the kernel was built without.
void set_vlan_filtering(Batch& batch, int bridge_index, bool filtering);
/// A link that hears and sends the frames of one VLAN on another link. ALREADY_EXISTS if the name is taken, UNIMPLEMENTED where the kernel
/// was built without (8021q).
void add_vlan(Batch& batch, const std::string& name, int link_index, uint16_t vlan, uint32_t mtu);

struct VethSpec {
  std::string name;
  std::string peer_name;
  int peer_namespace = -1;  ///< descriptor of the network namespace of the peer; -1: the same
  uint32_t mtu = 0;
  int master = 0;   ///< bridge that `name` becomes a port of
  bool up = false;  ///< `name` only; the peer is set up by who configures it
  std::optional<HardwareAddress> peer_hardware_address;
};
/// One request makes both ends, in their namespaces. ALREADY_EXISTS if a name is taken.
void add_veth(Batch& batch, const VethSpec& spec);

/// Waits until the link is operational. A veth or bridge that has just got its carrier drops what is sent over it until the kernel's
/// link watch has run, which makes a first connection a second late. Asking for the link runs it (since Linux 6.8), so this takes 0.02
/// ms as a rule; DEADLINE_EXCEEDED after a second.
Status await_operational(Socket& socket, std::string_view name);

/// Changes only what is set.
struct LinkChange {
  std::optional<bool> up;
  std::optional<uint32_t> mtu;
  std::optional<int> master;  ///< 0: leaves its bridge
  std::optional<HardwareAddress> hardware_address;
  std::optional<std::string> new_name;
  std::optional<std::string> alias;
  std::optional<int> name_space;  ///< descriptor of the network namespace it moves to
};
void change_link(Batch& batch, int index, const LinkChange& change);
void change_link(Batch& batch, std::string_view name, const LinkChange& change);
/// A port that sends frames back where they came from, so that a pod reaches itself through a service address.
void set_hairpin(Batch& batch, int port_index, bool hairpin);

/// NOT_FOUND if there is none. Takes some 20 ms, as the kernel waits until nobody uses it.
void delete_link(Batch& batch, std::string_view name);
void delete_link(Batch& batch, int index);

}  // namespace pintle::netlink
