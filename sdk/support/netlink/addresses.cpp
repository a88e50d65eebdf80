#include "sdk/support/netlink/addresses.hpp"

#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

namespace pintle::netlink {
namespace {

/// A worker of the kernel takes its turn with everybody else on a busy machine.
constexpr std::chrono::microseconds kPatience = std::chrono::seconds(1), kInterval = std::chrono::microseconds(100);

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

bool is_local(Socket& socket, const IpAddress& address) {
  Batch request;
  const rtmsg header{.rtm_family = static_cast<uint8_t>(address.family()),
                     .rtm_dst_len = static_cast<uint8_t>(address.bits())};
  request.begin(RTM_GETROUTE, 0, header, "look up the route to " + address.to_string());
  request.put(RTA_DST, address.bytes());
  bool local = false;
  const Status status = socket.query(request, [&](const nlmsghdr& message) {
    const auto* route = payload_header<rtmsg>(message);
    local = route && route->rtm_type == RTN_LOCAL;
  });
  return status && local;
}

}  // namespace

Status await_usable(Socket& socket, std::span<const IpAddress> addresses) {
  std::vector<IpAddress> waiting;
  for (const IpAddress& address : addresses) {
    if (address.is_v6()) waiting.push_back(address);
  }
  for (int attempt = 0; attempt < kPatience / kInterval && !waiting.empty(); ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kInterval);
    std::erase_if(waiting, [&](const IpAddress& address) { return is_local(socket, address); });
  }
  if (waiting.empty()) return Status::ok();
  return deadline_exceeded("the kernel does not take packets for " + waiting.front().to_string() + " yet");
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
