#pragma once

/// The packet filter's part of the pod network.
///
/// One table, `inet pintle-network-bridge`, for all instances: sets of pod subnets, one masquerading rule a family,
/// maps of host ports (host_ports.hpp), rules that drop what pods send to the node's loopback, and between networks of which one is in a
/// VLAN, rules that drop. Its rules do not change when pods come and go, only elements of the maps do.
///
/// A foreign base chain at the forward hook with policy drop (Docker, ufw, a careful administrator) would drop what pods send,
/// whatever our own table says: every chain of a hook must let a packet pass. Into such chains, and only there, go two
/// rules a bridge that accept what comes from it and what goes to it; they carry a comment by which they are known
/// and removed again. They are of the kind that iptables-nft writes itself, so that `iptables -S` shows them.
/// Chains of the older xtables kernel interface (iptables-legacy) cannot be reached this way.

#include <set>
#include <string>
#include <vector>

#include "cni/bridge/host_ports.hpp"
#include "cni/bridge/registry.hpp"
#include "sdk/support/nftables/nftables.hpp"

namespace pintle::bridge {

inline constexpr std::string_view kTableName = "pintle-network-bridge";

/// What the kernel should have for these registrations. For none: a table without chains, which is never written.
nftables::Table wanted_table(const std::vector<Registration>& registrations, std::span<const PortClaim> claims);

struct FilterReport {
  std::vector<std::string> changes;      ///< what had to be done, for the log
  std::set<std::string> foreign_tables;  ///< tables with chains in which pods have to be accepted
};

/// Makes the machine so, touching only what differs; removes all of ours when there are no registrations.
Status converge_packet_filter(netlink::Socket& socket, const std::vector<Registration>& registrations,
                              std::span<const PortClaim> claims, FilterReport& report);
/// Whether the change of a table may have undone something of ours.
bool concerns_packet_filter(const nftables::Change& change, const std::set<std::string>& foreign_tables);
/// Without changing anything: what is missing or differs; empty when all is well.
std::vector<std::string> packet_filter_problems(netlink::Socket& socket, const std::vector<Registration>& registrations,
                                                std::span<const PortClaim> claims);

}  // namespace pintle::bridge
