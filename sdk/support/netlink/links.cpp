#include "sdk/support/netlink/links.hpp"

#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

namespace pintle::netlink {
namespace {

constexpr std::chrono::microseconds kPatience = std::chrono::seconds(1), kInterval = std::chrono::microseconds(200);

ifinfomsg change_header(int index, const LinkChange& change) {
  ifinfomsg header{.ifi_family = AF_UNSPEC, .ifi_index = index};
  if (change.up) {
    header.ifi_change = IFF_UP;
    header.ifi_flags = *change.up ? unsigned{IFF_UP} : 0;
  }
  return header;
}

void put_change(Batch& batch, const LinkChange& change) {
  if (change.mtu) batch.put_u32(IFLA_MTU, *change.mtu);
  if (change.master) batch.put_u32(IFLA_MASTER, static_cast<uint32_t>(*change.master));
  if (change.hardware_address) batch.put(IFLA_ADDRESS, *change.hardware_address);
  if (change.alias)
    batch.put(IFLA_IFALIAS, {reinterpret_cast<const uint8_t*>(change.alias->data()), change.alias->size()});
  if (change.name_space) batch.put_u32(IFLA_NET_NS_FD, static_cast<uint32_t>(*change.name_space));
}

Batch link_request(std::string_view name) {
  Batch request;
  const ifinfomsg header{.ifi_family = AF_UNSPEC};
  request.begin(RTM_GETLINK, 0, header, "look up link " + std::string(name));
  request.put_text(IFLA_IFNAME, name);
  return request;
}

}  // namespace

std::string to_string(const HardwareAddress& address) {
  char text[18];
  std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", address[0], address[1], address[2], address[3],
                address[4], address[5]);
  return text;
}

Result<HardwareAddress> parse_hardware_address(std::string_view text) {
  HardwareAddress address;
  const std::string terminated(text);
  int end = 0;
  if (text.size() != 17 ||
      std::sscanf(terminated.c_str(), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &address[0], &address[1], &address[2],
                  &address[3], &address[4], &address[5], &end) != 6 ||
      end != 17) {
    return invalid_argument("'" + terminated + "' is not a hardware address as 0a:50:0a:55:00:07");
  }
  return address;
}

HardwareAddress hardware_address_for(std::span<const uint8_t> ip_address) {
  HardwareAddress address{0x0a, 0x50};
  std::copy(ip_address.end() - 4, ip_address.end(), address.begin() + 2);
  return address;
}

Status check_link_name(std::string_view name) {
  const auto complain = [&](std::string_view why) {
    return invalid_argument("'" + std::string(name) + "' is no interface name: " + std::string(why));
  };
  if (name.empty() || name.size() >= IFNAMSIZ) return complain("it has 1 to 15 characters");
  if (name == "." || name == ".." || name == "all" || name == "default") return complain("the name is reserved");
  const auto is_bad = [](char c) { return c <= ' ' || c >= 127 || c == '/' || c == ':' || c == '%' || c == '"'; };
  if (std::any_of(name.begin(), name.end(), is_bad)) return complain("letters, digits, '-', '_' and '.' will do");
  return Status::ok();
}

bool Link::is_up() const { return (flags & IFF_UP) != 0; }

std::optional<Link> parse_link(const nlmsghdr& message) {
  if (message.nlmsg_type != RTM_NEWLINK && message.nlmsg_type != RTM_DELLINK) return std::nullopt;
  const auto* header = payload_header<ifinfomsg>(message);
  if (!header || header->ifi_family != AF_UNSPEC) return std::nullopt;
  const Attributes attributes(message, sizeof *header);
  Link link;
  link.index = header->ifi_index;
  link.flags = header->ifi_flags;
  link.name = attributes.text(IFLA_IFNAME);
  link.alias = attributes.text(IFLA_IFALIAS);
  link.mtu = attributes.u32(IFLA_MTU);
  link.master = static_cast<int>(attributes.u32(IFLA_MASTER));
  link.peer = static_cast<int>(attributes.u32(IFLA_LINK));
  link.operational = attributes.u8(IFLA_OPERSTATE) == IF_OPER_UP;
  link.peer_elsewhere = attributes.has(IFLA_LINK_NETNSID);
  const auto hardware = attributes.get(IFLA_ADDRESS);
  if (hardware.size() == link.hardware_address.size()) {
    std::copy(hardware.begin(), hardware.end(), link.hardware_address.begin());
  }
  const Attributes information(attributes.get(IFLA_LINKINFO));
  link.kind = information.text(IFLA_INFO_KIND);
  if (information.text(IFLA_INFO_SLAVE_KIND) == "bridge") {
    link.hairpin = Attributes(information.get(IFLA_INFO_SLAVE_DATA)).u8(IFLA_BRPORT_MODE) != 0;
  }
  const Attributes data(information.get(IFLA_INFO_DATA));
  if (link.kind == "bridge") {
    link.vlan_filtering = data.u8(IFLA_BR_VLAN_FILTERING) != 0;
    link.default_vlan = data.u16(IFLA_BR_VLAN_DEFAULT_PVID);
  }
  if (link.kind == "vlan") link.vlan = data.u16(IFLA_VLAN_ID);
  return link;
}

Result<std::vector<Link>> list_links(Socket& socket) {
  const ifinfomsg header{.ifi_family = AF_UNSPEC};
  return dump<Link>(socket, RTM_GETLINK, header, "list links", [](const nlmsghdr& message, std::vector<Link>& links) {
    if (std::optional<Link> link = parse_link(message)) links.push_back(std::move(*link));
  });
}

Result<Link> find_link(Socket& socket, std::string_view name) {
  std::optional<Link> found;
  Batch request = link_request(name);
  const Status status = socket.query(request, [&](const nlmsghdr& message) { found = parse_link(message); });
  if (!status) return status;
  if (!found) return internal_error("look up link " + std::string(name) + ": the kernel answered without a link");
  return *found;
}

Status await_operational(Socket& socket, std::string_view name) {
  for (int attempt = 0; attempt < kPatience / kInterval; ++attempt) {
    const Result<Link> link = find_link(socket, name);
    if (!link) return link.status();
    if (link->operational) return Status::ok();
    std::this_thread::sleep_for(kInterval);
  }
  return deadline_exceeded("link " + std::string(name) + " has been set up and does not become operational");
}

void add_bridge(Batch& batch, const BridgeSpec& spec) {
  const ifinfomsg header{.ifi_family = AF_UNSPEC};
  batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, header, "create bridge " + spec.name);
  batch.put_text(IFLA_IFNAME, spec.name);
  if (spec.mtu != 0) batch.put_u32(IFLA_MTU, spec.mtu);
  if (spec.hardware_address) batch.put(IFLA_ADDRESS, *spec.hardware_address);
  const size_t information = batch.begin_nest(IFLA_LINKINFO);
  batch.put_text(IFLA_INFO_KIND, "bridge");
  if (spec.vlan_filtering) {
    const size_t data = batch.begin_nest(IFLA_INFO_DATA);
    batch.put_u8(IFLA_BR_VLAN_FILTERING, 1);
    batch.end_nest(data);
  }
  batch.end_nest(information);
}

void set_vlan_filtering(Batch& batch, int bridge_index, bool filtering) {
  const ifinfomsg header{.ifi_family = AF_UNSPEC, .ifi_index = bridge_index};
  batch.begin(RTM_NEWLINK, 0, header, "set VLAN filtering of bridge " + std::to_string(bridge_index));
  const size_t information = batch.begin_nest(IFLA_LINKINFO);
  batch.put_text(IFLA_INFO_KIND, "bridge");
  const size_t data = batch.begin_nest(IFLA_INFO_DATA);
  batch.put_u8(IFLA_BR_VLAN_FILTERING, filtering ? 1 : 0);
  batch.end_nest(data);
  batch.end_nest(information);
}

void add_vlan(Batch& batch, const std::string& name, int link_index, uint16_t vlan, uint32_t mtu) {
  const ifinfomsg header{.ifi_family = AF_UNSPEC};
  batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, header, "create VLAN interface " + name);
  batch.put_text(IFLA_IFNAME, name);
  batch.put_u32(IFLA_LINK, static_cast<uint32_t>(link_index));
  if (mtu != 0) batch.put_u32(IFLA_MTU, mtu);
  const size_t information = batch.begin_nest(IFLA_LINKINFO);
  batch.put_text(IFLA_INFO_KIND, "vlan");
  const size_t data = batch.begin_nest(IFLA_INFO_DATA);
  batch.put_u16(IFLA_VLAN_ID, vlan);
  batch.end_nest(data);
  batch.end_nest(information);
}

void add_veth(Batch& batch, const VethSpec& spec) {
  const ifinfomsg header = change_header(0, {.up = spec.up});
  batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, header, "create veth " + spec.name);
  batch.put_text(IFLA_IFNAME, spec.name);
  if (spec.mtu != 0) batch.put_u32(IFLA_MTU, spec.mtu);
  if (spec.master != 0) batch.put_u32(IFLA_MASTER, static_cast<uint32_t>(spec.master));
  const size_t information = batch.begin_nest(IFLA_LINKINFO);
  batch.put_text(IFLA_INFO_KIND, "veth");
  const size_t data = batch.begin_nest(IFLA_INFO_DATA);
  const size_t peer = batch.begin_nest(VETH_INFO_PEER);
  batch.put_header(ifinfomsg{.ifi_family = AF_UNSPEC});
  batch.put_text(IFLA_IFNAME, spec.peer_name);
  if (spec.mtu != 0) batch.put_u32(IFLA_MTU, spec.mtu);
  if (spec.peer_hardware_address) batch.put(IFLA_ADDRESS, *spec.peer_hardware_address);
  if (spec.peer_namespace >= 0) batch.put_u32(IFLA_NET_NS_FD, static_cast<uint32_t>(spec.peer_namespace));
  batch.end_nest(peer);
  batch.end_nest(data);
  batch.end_nest(information);
}

void change_link(Batch& batch, int index, const LinkChange& change) {
  batch.begin(RTM_NEWLINK, 0, change_header(index, change), "change link " + std::to_string(index));
  if (change.new_name) batch.put_text(IFLA_IFNAME, *change.new_name);
  put_change(batch, change);
}

void change_link(Batch& batch, std::string_view name, const LinkChange& change) {
  batch.begin(RTM_NEWLINK, 0, change_header(0, change), "change link " + std::string(name));
  batch.put_text(IFLA_IFNAME, name);
  put_change(batch, change);
}

void set_hairpin(Batch& batch, int port_index, bool hairpin) {
  const ifinfomsg header{.ifi_family = AF_BRIDGE, .ifi_index = port_index};
  batch.begin(RTM_SETLINK, 0, header, "set hairpin mode of bridge port " + std::to_string(port_index));
  const size_t port = batch.begin_nest(IFLA_PROTINFO);
  batch.put_u8(IFLA_BRPORT_MODE, hairpin ? 1 : 0);
  batch.end_nest(port);
}

void delete_link(Batch& batch, std::string_view name) {
  const ifinfomsg header{.ifi_family = AF_UNSPEC};
  batch.begin(RTM_DELLINK, 0, header, "delete link " + std::string(name));
  batch.put_text(IFLA_IFNAME, name);
}

void delete_link(Batch& batch, int index) {
  const ifinfomsg header{.ifi_family = AF_UNSPEC, .ifi_index = index};
  batch.begin(RTM_DELLINK, 0, header, "delete link " + std::to_string(index));
}

}  // namespace pintle::netlink
