#include "sdk/support/netlink/addresses.hpp"

#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <thread>

namespace pintle::netlink {
namespace {

ifaddrmsg header_of(int index, const IpPrefix& prefix) {
  return {.ifa_family = static_cast<uint8_t>(prefix.address().family()),
          .ifa_prefixlen = static_cast<uint8_t>(prefix.length()),
          .ifa_index = static_cast<uint32_t>(index)};
}

void put_address(Batch& batch, const IpPrefix& prefix) {
  batch.put(IFA_LOCAL, prefix.address().bytes());
  batch.put(IFA_ADDRESS, prefix.address().bytes());
}

std::optional<InterfaceAddress> parse_address(const nlmsghdr& message) {
  const auto* header = payload_header<ifaddrmsg>(message);
  if (message.nlmsg_type != RTM_NEWADDR || !header) return std::nullopt;
  const Attributes attributes(message, sizeof *header);
  const size_t size = header->ifa_family == AF_INET ? 4 : 16;
  // IPv4 says its own address in LOCAL and its peer's in ADDRESS; IPv6 has LOCAL only where there is a peer.
  auto bytes = attributes.get(IFA_LOCAL);
  if (bytes.size() != size) bytes = attributes.get(IFA_ADDRESS);
  if (bytes.size() != size || header->ifa_prefixlen > size * 8) return std::nullopt;
  return InterfaceAddress{.index = static_cast<int>(header->ifa_index),
                          .prefix = IpPrefix(IpAddress(bytes), header->ifa_prefixlen),
                          .flags = attributes.u32(IFA_FLAGS, header->ifa_flags),
                          .is_link_local = header->ifa_scope == RT_SCOPE_LINK};
}

/// ff02::1:ffXX:XXXX with the last 24 bits of the address.
IpAddress solicited_node_group(const IpAddress& address) {
  std::array<uint8_t, 16> bytes{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xff};
  std::copy(address.bytes().end() - 3, address.bytes().end(), bytes.end() - 3);
  return IpAddress(bytes);
}

Result<std::vector<IpAddress>> list_ipv6_groups(Socket& socket, int index) {
  const ifaddrmsg header{.ifa_family = AF_INET6, .ifa_index = static_cast<uint32_t>(index)};
  const auto append = [index](const nlmsghdr& message, std::vector<IpAddress>& groups) {
    const auto* group = payload_header<ifaddrmsg>(message);
    if (!group || static_cast<int>(group->ifa_index) != index) return;
    const auto bytes = Attributes(message, sizeof *group).get(IFA_MULTICAST);
    if (bytes.size() == 16) groups.emplace_back(bytes);
  };
  return dump<IpAddress>(socket, RTM_GETMULTICAST, header, "list multicast groups", append);
}

}  // namespace

Status await_solicitable(Socket& socket, int index, std::span<const IpAddress> addresses) {
  std::vector<IpAddress> wanted;
  for (const IpAddress& address : addresses) {
    if (address.is_v6()) wanted.push_back(solicited_node_group(address));
  }
  constexpr int kAttempts = 200;
  for (int attempt = 0; attempt < kAttempts && !wanted.empty(); ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    const Result<std::vector<IpAddress>> groups = list_ipv6_groups(socket, index);
    if (!groups) return groups.status();
    std::erase_if(wanted, [&](const IpAddress& group) {
      return std::find(groups->begin(), groups->end(), group) != groups->end();
    });
  }
  if (wanted.empty()) return Status::ok();
  return deadline_exceeded("interface " + std::to_string(index) + " does not answer for its IPv6 addresses yet");
}

Result<std::vector<InterfaceAddress>> list_addresses(Socket& socket, int index) {
  const ifaddrmsg header{.ifa_family = AF_UNSPEC, .ifa_index = static_cast<uint32_t>(index)};
  const auto append = [index](const nlmsghdr& message, std::vector<InterfaceAddress>& addresses) {
    std::optional<InterfaceAddress> address = parse_address(message);
    if (address && (index == 0 || address->index == index)) addresses.push_back(*address);
  };
  return dump<InterfaceAddress>(socket, RTM_GETADDR, header, "list addresses", append);
}

void add_address(Batch& batch, int index, const IpPrefix& prefix) {
  batch.begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, header_of(index, prefix), "add address " + prefix.to_string());
  put_address(batch, prefix);
  if (prefix.address().is_v6()) batch.put_u32(IFA_FLAGS, IFA_F_NODAD);
  if (prefix.address().is_v4() && prefix.length() < 31) batch.put(IFA_BROADCAST, prefix.last().bytes());
}

void delete_address(Batch& batch, int index, const IpPrefix& prefix) {
  batch.begin(RTM_DELADDR, 0, header_of(index, prefix), "delete address " + prefix.to_string());
  put_address(batch, prefix);
}

}  // namespace pintle::netlink
