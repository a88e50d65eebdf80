#pragma once

/// Host ports: ports of the node that lead into a pod.
///
///     a client --> 192.0.2.1:8080/tcp of the node --map--> 10.85.0.7:80 of the pod
///
/// Two maps a family, each looked up once a new connection, whatever their number of elements; no chain and no rule for a pod:
///
///     anyN    protocol . port            -> pod . port     for ports on all addresses of the node
///     boundN  address . protocol . port  -> pod . port     for ports with a hostIP, which come first
///
/// The packet filter asks them at prerouting (for others) and output (for the node itself). What a pod sends to a host port of a pod gets
/// the bridge's address as its source, because the answer would otherwise go past the translation.
///
/// Of loopback, 127.0.0.1 is served as any address of the node, and others of 127.0.0.0/8 by a hostIP only: 127.0.0.53 stays the resolver's
/// when a pod has port 53. Packets from there may leave the machine's loopback only with the sysctl route_localnet of the interface to the
/// pods, which by itself would open the node's own services on 127.0.0.1 to them (CVE-2020-8558). So it is on only while a pod has such a
/// port, and what pods send to 127.0.0.0/8 is dropped before anything is translated (packet_filter.hpp). IPv6 has no such sysctl: ::1 stays
/// with the programs of the node, and is refused as a hostIP.
///
/// Which pod has which ports stands in its record (attachments.hpp), so that whoever converges the packet filter can write the
/// maps of all instances.

#include <boost/json/fwd.hpp>
#include <optional>
#include <pintle/status.hpp>
#include <span>
#include <string>
#include <vector>

#include "sdk/support/netlink/conntrack.hpp"
#include "sdk/support/netlink/ip.hpp"
#include "sdk/support/nftables/nftables.hpp"

namespace pintle::bridge {

struct HostPort {
  uint8_t protocol = 0;                       ///< IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP
  std::optional<netlink::IpAddress> host_ip;  ///< absent: all addresses of both families; 0.0.0.0 and ::: all of one
  uint16_t host_port = 0;
  uint16_t pod_port = 0;
  bool operator==(const HostPort&) const = default;

  /// "8080/tcp", "192.0.2.1:8080/tcp".
  std::string to_string() const;
  bool serves(const netlink::IpAddress& address) const;
  /// Whether it is also one of 127.0.0.1, or of another IPv4 address of loopback.
  bool serves_loopback() const;
};

/// A pod's ports and where they lead.
struct PortClaim {
  std::string sandbox;
  std::vector<netlink::IpAddress> addresses;
  std::vector<HostPort> ports;

  /// Whether the pod's gateway has to pass on what comes from the node's loopback.
  bool needs_loopback() const;
};

/// "tcp", "udp" or "sctp", in any case; INVALID_ARGUMENT for others.
Result<uint8_t> parse_protocol(std::string_view text);

/// INVALID_ARGUMENT for what cannot be served; ALREADY_EXISTS names the pod that has a port.
Status check_ports(const PortClaim& claim, std::span<const PortClaim> others);

boost::json::array to_json(std::span<const HostPort> ports);
/// DATA_LOSS says what is wrong.
Result<std::vector<HostPort>> parse_host_ports(const boost::json::value& value);

/// Adds the maps with all claims, and the chains that ask them, to the table. Of two claims of one port the first counts.
void add_host_ports(nftables::Table& table, std::span<const PortClaim> claims);
/// Adds or removes the elements of one claim.
void open_ports(nftables::Transaction& transaction, std::string_view table, const PortClaim& claim);
void close_ports(nftables::Transaction& transaction, std::string_view table, const PortClaim& claim);

/// Makes the kernel forget UDP connections that were decided without these ports, or (`closed`) with them.
Status forget_flows(netlink::Socket& socket, const PortClaim& claim, bool closed);

}  // namespace pintle::bridge
