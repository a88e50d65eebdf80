// The VLAN of a network: what the kernel has to be able to do, the bridge's part, and that of pods' ports.
#include <algorithm>

#include "cni/bridge/bridge_network.hpp"
#include "sdk/support/netlink/namespaces.hpp"

namespace pintle::bridge {
namespace {

using netlink::Batch;
using netlink::Link;
using netlink::PortKind;
using netlink::PortVlan;
using netlink::PortVlans;
using netlink::Socket;

const Link* find(const std::vector<Link>& links, std::string_view name) {
  const auto found = std::find_if(links.begin(), links.end(), [&](const Link& link) { return link.name == name; });
  return found == links.end() ? nullptr : &*found;
}

/// How the bridge itself is in a VLAN: what it sends up keeps its tag, by which the VLAN interface knows it.
PortVlan tagged(uint16_t vlan) { return {.id = vlan, .is_pvid = false, .is_untagged = false}; }

bool is_in(const PortVlans& port, const PortVlan& vlan) {
  return std::find(port.vlans.begin(), port.vlans.end(), vlan) != port.vlans.end();
}

}  // namespace

Status BridgeNetwork::check_abilities() const {
  if (config_.vlan == 0) return Status::ok();
  const std::string asked = "'vlan' of network-bridge asks for VLAN " + std::to_string(config_.vlan) + ": ";
  return netlink::run_in_new_namespace([&]() -> Status {
    Result<Socket> socket = Socket::open(NETLINK_ROUTE);
    if (!socket) return socket.status();
    Batch bridge;
    add_bridge(bridge, {.name = "probe", .mtu = 0, .hardware_address = {}, .vlan_filtering = true});
    const Status made = socket->send(bridge);
    const Result<Link> link = made ? netlink::find_link(*socket, "probe") : made;
    if (!link && link.status().code() != Code::unimplemented) return link.status().with_context(asked + "try a bridge");
    // Some kernels take no notice of what they were built without.
    if (!link || !link->vlan_filtering)
      return unimplemented(asked +
                           "this kernel's bridges cannot filter VLANs; boot one with CONFIG_BRIDGE_VLAN_FILTERING, as "
                           "those of distributions have it, or leave 'vlan' out");
    Batch vlan;
    add_vlan(vlan, "probe.1", link->index, 1, 0);
    const Status added = socket->send(vlan);
    if (added.code() == Code::unimplemented)
      return unimplemented(
          asked + "this kernel has no VLAN interfaces; modprobe 8021q (CONFIG_VLAN_8021Q), or leave 'vlan' out");
    return added.with_context(asked + "try a VLAN interface");
  });
}

/// Before anything is changed.
Status BridgeNetwork::check_vlan(const std::vector<Registration>& registrations, const std::vector<Link>& links) const {
  const Link* bridge = find(links, config_.bridge);
  const uint16_t default_vlan = bridge ? bridge->default_vlan : 1;
  const auto is_default = [&](uint16_t vlan) { return vlan == 0 || vlan == default_vlan; };
  for (const Registration& other : registrations) {
    if (other.bridge != config_.bridge || other.vlan == config_.vlan) continue;
    if (is_default(other.vlan) && is_default(config_.vlan))
      return failed_precondition("VLAN " + std::to_string(default_vlan) + " of bridge " + config_.bridge +
                                 " is that of networks without 'vlan', and instance " + other.key +
                                 " uses it the other way; take another VLAN or another bridge");
  }
  if (config_.vlan == 0) return Status::ok();
  const std::string name = config_.gateway_interface();
  const Link* gateway = find(links, name);
  const bool is_right =
      gateway && bridge && gateway->kind == "vlan" && gateway->peer == bridge->index && gateway->vlan == config_.vlan;
  if (gateway && !is_right)
    return failed_precondition("interface " + name + " exists and is not VLAN " + std::to_string(config_.vlan) +
                               " of bridge " + config_.bridge + "; remove it or choose another name for 'bridge'");
  if (bridge && !bridge->vlan_filtering && !is_ours(*bridge))
    return failed_precondition("bridge " + config_.bridge +
                               " was not made by network-bridge and does not filter VLANs: ip link set " +
                               config_.bridge + " type bridge vlan_filtering 1, or choose another name for 'bridge'");
  if (gateway && bridge->vlan_filtering) return Status::ok();
  return check_abilities();
}

Status BridgeNetwork::converge_vlan(const Link& bridge) {
  Batch batch;
  if (!bridge.vlan_filtering) {
    set_vlan_filtering(batch, bridge.index, true);
    tell("bridge " + config_.bridge + " filters VLANs");
  }
  add_port_vlan(batch, bridge.index, tagged(config_.vlan), PortKind::bridge_itself);
  const std::string name = config_.gateway_interface();
  Result<Link> gateway = netlink::find_link(routes_, name);
  if (!gateway && gateway.status().code() != Code::not_found) return gateway.status();
  if (!gateway) {
    add_vlan(batch, name, bridge.index, config_.vlan, mtu_);
    change_link(batch, name, {.alias = std::string(kBridgeAlias)});
    tell("made interface " + name);
  }
  if (Status status = routes_.send(batch); !status) return status;
  if (!gateway) gateway = netlink::find_link(routes_, name);
  if (!gateway) return gateway.status();
  if (gateway->kind != "vlan" || gateway->peer != bridge.index || gateway->vlan != config_.vlan)
    return failed_precondition("interface " + name + " is not VLAN " + std::to_string(config_.vlan) + " of bridge " +
                               config_.bridge);
  gateway_index_ = gateway->index;
  return Status::ok();
}

/// For a bridge that stays.
void BridgeNetwork::release_vlan(Batch& batch, const Link& bridge, const std::vector<Link>& links,
                                 const std::vector<Registration>& others) const {
  if (config_.vlan == 0) return;
  const auto any_other = [&](const auto& condition) { return std::any_of(others.begin(), others.end(), condition); };
  const auto is_here = [&](const Registration& other) { return other.bridge == config_.bridge; };
  if (any_other([&](const Registration& other) { return is_here(other) && other.vlan == config_.vlan; })) return;
  const Link* gateway = find(links, config_.gateway_interface());
  if (gateway && is_ours(*gateway)) delete_link(batch, gateway->index);
  delete_port_vlan(batch, bridge.index, config_.vlan, PortKind::bridge_itself);
  const bool filters_for_others =
      any_other([&](const Registration& other) { return is_here(other) && other.vlan != 0; });
  if (is_ours(bridge) && !filters_for_others) set_vlan_filtering(batch, bridge.index, false);
}

bool BridgeNetwork::has_right_vlans(const PortVlans& port) const {
  if (config_.vlan == 0) return true;
  if (port.index == bridge_index_) return is_in(port, tagged(config_.vlan));
  if (!attachments_.contains(port.name)) return true;
  return port.vlans.size() == 1 && is_own_vlan(port.vlans.front());
}

std::vector<std::string> BridgeNetwork::vlan_problems() {
  if (config_.vlan == 0) return {};
  std::vector<std::string> problems;
  const Result<Link> bridge = netlink::find_link(routes_, config_.bridge);
  if (!bridge) return {bridge.status().message()};
  if (!bridge->vlan_filtering) problems.push_back("bridge " + config_.bridge + " does not filter VLANs");
  const Result<Link> gateway = netlink::find_link(routes_, config_.gateway_interface());
  if (!gateway || !gateway->is_up())
    problems.push_back("interface " + config_.gateway_interface() + " is missing or down");
  const Result<std::vector<PortVlans>> ports = netlink::list_port_vlans(routes_);
  if (!ports) return {ports.status().message()};
  const bool is_member = std::any_of(ports->begin(), ports->end(), [&](const PortVlans& port) {
    return port.index == bridge->index && is_in(port, tagged(config_.vlan));
  });
  if (!is_member)
    problems.push_back("bridge " + config_.bridge + " is not itself in VLAN " + std::to_string(config_.vlan));
  return problems;
}

void BridgeNetwork::inspect_vlans(Inspection& inspection) {
  const Link& host = *inspection.host;
  const Result<std::vector<PortVlans>> ports = netlink::list_port_vlans(routes_);
  if (!ports) {
    inspection.problems.push_back(ports.status().message());
    return;
  }
  bool is_member = false;
  for (const PortVlans& port : *ports) {
    if (port.index != host.index) continue;
    for (const PortVlan& vlan : port.vlans) {
      if (is_own_vlan(vlan)) is_member = true;
      if (vlan.id != config_.vlan) inspection.foreign_vlans.push_back(vlan.id);
    }
  }
  if (!is_member)
    inspection.problems.push_back("link " + host.name + " is not in VLAN " + std::to_string(config_.vlan));
  for (const uint16_t vlan : inspection.foreign_vlans)
    inspection.problems.push_back("link " + host.name + " is in VLAN " + std::to_string(vlan));
}

Status BridgeNetwork::join_bridge(Batch& batch, const Link& port, const std::vector<uint16_t>& foreign_vlans) {
  // A port that has just joined is in the default VLAN: it is down for as long.
  const bool joins = port.master != bridge_index_;
  Batch leaving;
  if (joins) {
    change_link(leaving, port.index, {.up = false, .master = bridge_index_});
    delete_port_vlan(leaving, port.index, default_vlan_);
  }
  for (const uint16_t vlan : foreign_vlans) {
    if (vlan != config_.vlan && !(joins && vlan == default_vlan_)) delete_port_vlan(leaving, port.index, vlan);
  }
  for (Status& status : routes_.send_each(leaving)) {
    if (!status && status.code() != Code::not_found) return status;
  }
  add_port_vlan(batch, port.index, {.id = config_.vlan, .is_pvid = true, .is_untagged = true});
  if (joins || !port.is_up()) change_link(batch, port.index, {.up = true});
  return Status::ok();
}

}  // namespace pintle::bridge
