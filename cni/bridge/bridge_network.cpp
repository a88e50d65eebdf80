#include "cni/bridge/bridge_network.hpp"

#include <linux/netconf.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "cni/bridge/packet_filter.hpp"
#include "sdk/support/netlink/namespaces.hpp"

namespace pintle::bridge {
namespace {

using netlink::Batch;
using netlink::InterfaceAddress;
using netlink::IpAddress;
using netlink::IpPrefix;
using netlink::Link;
using netlink::Socket;

constexpr uint32_t kUsualMtu = 1500;
/// Of the routes that the kernel makes for IPv6 addresses by itself.
constexpr uint32_t kKernelMetric = 256;

constexpr uint32_t kRouteGroups[] = {RTNLGRP_LINK,       RTNLGRP_IPV4_IFADDR,  RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE,
                                     RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF};

const Link* find(const std::vector<Link>& links, std::string_view name) {
  const auto found = std::find_if(links.begin(), links.end(), [&](const Link& link) { return link.name == name; });
  return found == links.end() ? nullptr : &*found;
}

const Link* find(const std::vector<Link>& links, int index) {
  const auto found = std::find_if(links.begin(), links.end(), [&](const Link& link) { return link.index == index; });
  return found == links.end() ? nullptr : &*found;
}

/// Keeps the first failure of several steps that are all taken.
void keep_first(Status& first, Status next) {
  if (first) first = std::move(next);
}

/// For things that a kernel without IPv6 does not have, and that nobody misses there.
Status unless_absent(Status status) { return status.code() == Code::not_found ? Status::ok() : status; }

std::string join(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : "; ") + item;
  return text;
}

}  // namespace

Result<std::unique_ptr<BridgeNetwork>> BridgeNetwork::create(Config config, std::string key, Directories directories,
                                                             Notice notice) {
  Result<Sockets> sockets = open_sockets();
  if (!sockets) return sockets.status();
  Result<Registry> registry = Registry::open(directories.shared);
  if (!registry) return registry.status();
  Result<Records> records = Records::open(records_folder(directories.state));
  if (!records) return records.status();
  std::unique_ptr<BridgeNetwork> network(new BridgeNetwork(std::move(config), std::move(key), std::move(directories),
                                                           std::move(notice), std::move(*sockets), std::move(*registry),
                                                           std::move(*records)));
  BridgeNetwork* self = network.get();
  auto pool = cni::AddressPool::open(
      self->directories_.shared + "/addresses", self->config_.ranges, [self] { return self->survivors(); },
      [self](const std::string& line) { self->tell(line); });
  if (!pool) return pool.status();
  self->pool_ = std::move(*pool);
  return network;
}

Result<BridgeNetwork::Sockets> BridgeNetwork::open_sockets() {
  Result<Socket> routes = Socket::open(NETLINK_ROUTE);
  if (!routes) return routes.status();
  Result<Socket> filters = Socket::open(NETLINK_NETFILTER);
  if (!filters) return filters.status();
  Result<netlink::Monitor> route_changes = netlink::Monitor::open(NETLINK_ROUTE, kRouteGroups);
  if (!route_changes) return route_changes.status();
  Result<netlink::Monitor> filter_changes = netlink::Monitor::open(NETLINK_NETFILTER, nftables::kChanges);
  if (!filter_changes) return filter_changes.status();
  return Sockets{std::move(*routes), std::move(*filters), std::move(*route_changes), std::move(*filter_changes)};
}

BridgeNetwork::BridgeNetwork(Config config, std::string key, Directories directories, Notice notice, Sockets sockets,
                             Registry registry, Records records)
    : config_(std::move(config)),
      key_(std::move(key)),
      directories_(std::move(directories)),
      notice_(std::move(notice)),
      routes_(std::move(sockets.routes)),
      filters_(std::move(sockets.filters)),
      route_changes_(std::move(sockets.route_changes)),
      filter_changes_(std::move(sockets.filter_changes)),
      registry_(std::move(registry)),
      records_(std::move(records)) {}

void BridgeNetwork::tell(const std::string& line) const {
  if (notice_) notice_(line);
}

// ---- Start, converge, stop ------------------------------------------------------------------------------------------------

Status BridgeNetwork::start() {
  const Turn turn(*this);
  const Result<files::Lock> lock = registry_.lock();
  if (!lock) return lock.status();
  Result<std::vector<Link>> links = netlink::list_links(routes_);
  if (!links) return links.status();
  Result<std::vector<Registration>> registrations = registry_.load();
  if (!registrations) return registrations.status();
  const Registration own = registration_of(key_, config_, directories_.state);
  // Written only if it says something new: a full disk must not keep a node from finding its pods again.
  const bool is_known = std::find(registrations->begin(), registrations->end(), own) != registrations->end();
  std::erase_if(*registrations, [&](const Registration& other) { return other.key == key_; });
  if (Status status = check_collisions(*registrations, *links); !status) return status;
  if (Status status = check_vlan(*registrations, *links); !status) return status;
  if (!is_known) {
    if (Status status = registry_.save(own); !status) return status;
  }
  registrations->push_back(own);
  started_ = true;

  if (Status status = load_attachments(*links); !status) return status;
  if (Status status = converge_node(*registrations); !status) return status;
  // One pod that cannot be repaired is no reason to leave all others without a network.
  if (const Status adopted = adopt_attachments(); !adopted) tell(adopted.message());
  links = netlink::list_links(routes_);
  if (!links) return links.status();
  sweep(*links);
  return Status::ok();
}

Status BridgeNetwork::resume() {
  const Turn turn(*this);
  const Result<files::Lock> lock = registry_.lock();
  if (!lock) return lock.status();
  const Result<std::vector<Link>> links = netlink::list_links(routes_);
  if (!links) return links.status();
  const Result<std::vector<Registration>> registrations = registry_.load();
  if (!registrations) return registrations.status();
  const Registration own = registration_of(key_, config_, directories_.state);
  if (std::find(registrations->begin(), registrations->end(), own) == registrations->end()) {
    return failed_precondition("instance " + key_ + " is not registered");
  }
  const Link* bridge = find(*links, config_.bridge);
  if (!bridge || bridge->kind != "bridge" || !bridge->is_up()) {
    return failed_precondition("bridge " + config_.bridge + " is not there");
  }
  if (Status status = load_attachments(*links); !status) return status;
  const std::vector<std::string> problems = packet_filter_problems(filters_, *registrations, claims(*registrations));
  if (!problems.empty()) return failed_precondition(join(problems));
  bridge_index_ = gateway_index_ = bridge->index;
  default_vlan_ = bridge->default_vlan;
  if (config_.vlan != 0) {
    const Link* gateway = find(*links, config_.gateway_interface());
    if (!gateway || !gateway->is_up())
      return failed_precondition("interface " + config_.gateway_interface() + " is not there");
    gateway_index_ = gateway->index;
    if (const auto missing = vlan_problems(); !missing.empty()) return failed_precondition(join(missing));
  }
  mtu_ = config_.mtu != 0 ? config_.mtu : default_mtu();
  started_ = true;
  return Status::ok();
}

Status BridgeNetwork::look() {
  const Turn turn(*this);
  const Result<Link> bridge = netlink::find_link(routes_, config_.bridge);
  if (!bridge && bridge.status().code() != Code::not_found) return bridge.status();
  if (bridge) bridge_index_ = bridge->index;
  for (Attachment& attachment : Records::peek(records_folder(directories_.state))) {
    std::string name = attachment.host_interface;
    attachments_.emplace(std::move(name), std::move(attachment));
  }
  return Status::ok();
}

Status BridgeNetwork::converge() {
  const Turn turn(*this);
  if (!started_) return Status::ok();
  Status result = converge_shared();
  const Result<std::vector<Link>> links = netlink::list_links(routes_);
  if (!links) return links.status();
  keep_first(result, converge_pods(*links));
  return result;
}

std::vector<int> BridgeNetwork::change_descriptors() const {
  return {route_changes_.descriptor(), filter_changes_.descriptor()};
}

/// Of the many messages that pods' coming and going makes, none does; so a quiet node costs nothing and a busy one little.
Status BridgeNetwork::follow_changes() {
  bool concerned = false;
  {
    const Turn turn(*this);
    std::set<std::string> links;
    std::map<int, netlink::PortVlans> ports;  // what was told last of each
    const bool all_routes = route_changes_.drain([&](const nlmsghdr& message) {
      if (std::optional<Link> link = netlink::parse_link(message)) {
        links.insert(std::move(link->name));
      } else if (std::optional<netlink::PortVlans> port = netlink::parse_port_vlans(message)) {
        ports.insert_or_assign(port->index, std::move(*port));
      } else {
        concerned = concerned || concerns(message);
      }
    });
    const bool all_filters = filter_changes_.drain([&](const nlmsghdr& message) {
      if (message.nlmsg_pid == filters_.port()) return;
      const std::optional<nftables::Change> change = nftables::parse_change(message);
      concerned = concerned || (change && concerns_packet_filter(*change, foreign_tables_));
    });
    concerned = concerned || !all_routes || !all_filters;
    for (const std::string& name : links) concerned = concerned || is_link_wrong(name);
    for (const auto& [index, port] : ports) concerned = concerned || !has_right_vlans(port);
  }
  return concerned ? converge() : Status::ok();
}

/// By what it is now: the messages also tell of all that it was while we made it.
bool BridgeNetwork::is_link_wrong(const std::string& name) {
  const bool is_bridge = name == config_.bridge, is_gateway = name == config_.gateway_interface();
  if (!is_bridge && !is_gateway && !attachments_.contains(name)) return false;
  const Result<Link> link = netlink::find_link(routes_, name);
  if (!link || !link->is_up()) return true;
  if (is_bridge && config_.vlan != 0 && !link->vlan_filtering) return true;
  if (is_bridge) return link->index != bridge_index_;
  return is_gateway ? link->index != gateway_index_ : link->master != bridge_index_;
}

bool BridgeNetwork::concerns(const nlmsghdr& message) const {
  switch (message.nlmsg_type) {
    case RTM_DELADDR: {
      const auto* header = netlink::payload_header<ifaddrmsg>(message);
      return header && static_cast<int>(header->ifa_index) == gateway_index_;
    }
    case RTM_DELROUTE: {
      const auto* header = netlink::payload_header<rtmsg>(message);
      return header && header->rtm_type == RTN_UNICAST &&
             static_cast<int>(netlink::Attributes(message, sizeof *header).u32(RTA_OIF)) == gateway_index_;
    }
    case RTM_NEWNETCONF: {
      const netlink::Attributes attributes(message, sizeof(netconfmsg));
      return static_cast<int>(attributes.u32(NETCONFA_IFINDEX)) == NETCONFA_IFINDEX_ALL &&
             attributes.has(NETCONFA_FORWARDING) && attributes.u32(NETCONFA_FORWARDING) == 0;
    }
    default:
      return false;
  }
}

Status BridgeNetwork::stop() {
  const Turn turn(*this);
  if (!started_ || !attachments_.empty()) return Status::ok();
  started_ = false;
  return release_node();
}

// ---- What belongs to the node -----------------------------------------------------------------------------------------------

Status BridgeNetwork::check_collisions(const std::vector<Registration>& registrations, const std::vector<Link>& links) {
  for (const Registration& other : registrations) {
    if (other.bridge == config_.bridge && other.vlan == config_.vlan) continue;
    for (const cni::AddressRange& range : config_.ranges) {
      for (const IpPrefix& subnet : other.subnets) {
        if (!subnet.overlaps(range.subnet)) continue;
        return failed_precondition("podCIDR " + range.subnet.to_string() + " overlaps " + subnet.to_string() +
                                   " of instance " + other.key + " on " + other.gateway_interface() +
                                   "; take another subnet or the same bridge and VLAN");
      }
    }
  }
  const Link* bridge = find(links, config_.bridge);
  if (bridge && bridge->kind != "bridge") {
    return failed_precondition("interface " + config_.bridge +
                               " exists and is no bridge; choose another name for 'bridge'");
  }
  const Link* gateway = find(links, config_.gateway_interface());
  const Result<std::vector<InterfaceAddress>> addresses = netlink::list_addresses(routes_);
  if (!addresses) return addresses.status();
  for (const InterfaceAddress& address : *addresses) {
    if (address.is_link_local || (gateway && address.index == gateway->index)) continue;
    for (const cni::AddressRange& range : config_.ranges) {
      if (!range.subnet.contains(address.prefix.address())) continue;
      const Link* link = find(links, address.index);
      return failed_precondition("podCIDR " + range.subnet.to_string() + " contains the node's own address " +
                                 address.prefix.to_string() + " of " + (link ? link->name : "an interface") +
                                 "; take a subnet that is not in use here");
    }
  }
  return Status::ok();
}

Status BridgeNetwork::converge_shared() {
  const Result<files::Lock> lock = registry_.lock();
  if (!lock) return lock.status();
  Result<std::vector<Registration>> registrations = registry_.load();
  if (!registrations) return registrations.status();
  const auto is_own = [&](const Registration& other) { return other.key == key_; };
  if (std::none_of(registrations->begin(), registrations->end(), is_own)) {
    registrations->push_back(registration_of(key_, config_, directories_.state));
    if (Status status = registry_.save(registrations->back()); !status) return status;
  }
  return converge_node(*registrations);
}

Status BridgeNetwork::converge_node(const std::vector<Registration>& registrations) {
  mtu_ = config_.mtu != 0 ? config_.mtu : default_mtu();
  if (Status status = converge_bridge(); !status) return status;
  Status result = converge_gateways();
  keep_first(result, converge_forwarding());
  FilterReport report;
  const std::vector<PortClaim> ports = claims(registrations);
  const Status filtered = converge_packet_filter(filters_, registrations, ports, report);
  keep_first(result, filtered);
  if (filtered && std::ranges::any_of(ports, &PortClaim::needs_loopback)) try_to_pass_loopback();
  foreign_tables_ = std::move(report.foreign_tables);
  for (const std::string& change : report.changes) tell(change);
  return result;
}

/// The first gateway's address decides the bridge's hardware address, so that neither ports that come and go nor a new bridge of the same
/// name leave wrong neighbour entries in pods.
Status BridgeNetwork::converge_bridge() {
  Result<Link> bridge = netlink::find_link(routes_, config_.bridge);
  if (!bridge && bridge.status().code() != Code::not_found) return bridge.status();
  if (!bridge) {
    Batch batch;
    add_bridge(batch, {.name = config_.bridge,
                       .mtu = mtu_,
                       .hardware_address = netlink::hardware_address_for(config_.ranges.front().gateway.bytes()),
                       .vlan_filtering = config_.vlan != 0});
    change_link(batch, config_.bridge, {.alias = std::string(kBridgeAlias)});
    if (Status status = routes_.send(batch); !status) return status;
    tell("made bridge " + config_.bridge);
    bridge = netlink::find_link(routes_, config_.bridge);
    if (!bridge) return bridge.status();
  }
  bridge_index_ = gateway_index_ = bridge->index;
  default_vlan_ = bridge->default_vlan;
  if (config_.vlan != 0) {
    if (Status status = converge_vlan(*bridge); !status) return status;
  }
  // An administrator's bridge that has a VLAN of ours on top hears nothing of our pods itself.
  const bool is_heard = config_.vlan == 0 || is_ours(*bridge);
  Status result = is_heard ? distrust(config_.bridge) : Status::ok();
  keep_first(result, set_up(config_.bridge));
  if (config_.vlan == 0) return result;
  keep_first(result, distrust(config_.gateway_interface()));
  keep_first(result, set_up(config_.gateway_interface()));
  return result;
}

/// A pod may send router advertisements; the node must not believe them (CVE-2020-10749). Addresses on the bridge are ours alone, and
/// waiting for duplicates would leave pods without a gateway for a second.
Status BridgeNetwork::distrust(const std::string& name) {
  const std::string settings = "net/ipv6/conf/" + name;
  Status result = unless_absent(netlink::write_sysctl(settings + "/accept_ra", "0"));
  keep_first(result, unless_absent(netlink::write_sysctl(settings + "/accept_dad", "0")));
  return result;
}

Status BridgeNetwork::set_up(const std::string& name) {
  const Result<Link> link = netlink::find_link(routes_, name);
  if (!link) return link.status();
  if (link->is_up()) return Status::ok();
  Batch batch;
  change_link(batch, link->index, {.up = true});
  return routes_.send(batch);
}

Status BridgeNetwork::converge_gateways() {
  const Result<std::vector<InterfaceAddress>> addresses = netlink::list_addresses(routes_, gateway_index_);
  if (!addresses) return addresses.status();
  const Result<std::vector<netlink::Route>> routes = netlink::list_routes(routes_);
  if (!routes) return routes.status();
  std::vector<IpAddress> added;
  Batch batch;
  for (const cni::AddressRange& range : config_.ranges) {
    const IpPrefix gateway(range.gateway, range.subnet.length());
    const bool has_address = std::any_of(addresses->begin(), addresses->end(),
                                         [&](const InterfaceAddress& address) { return address.prefix == gateway; });
    if (!has_address) {
      add_address(batch, gateway_index_, gateway);
      added.push_back(range.gateway);
    }
    const bool has_route = std::any_of(routes->begin(), routes->end(), [&](const netlink::Route& route) {
      return route.destination == range.subnet && route.index == gateway_index_ && !route.gateway;
    });
    if (has_address && !has_route) {
      netlink::Route route{
          .destination = range.subnet, .gateway = {}, .index = gateway_index_, .protocol = RTPROT_KERNEL};
      if (range.subnet.address().is_v4()) route.source = range.gateway;
      if (range.subnet.address().is_v6()) route.metric = kKernelMetric;
      add_route(batch, route);
      tell("gave route to " + range.subnet.to_string() + " back");
    }
  }
  if (Status status = routes_.send(batch); !status) return status;
  if (const Status usable = netlink::await_usable(routes_, added); !usable) tell(usable.message());
  return Status::ok();
}

Status BridgeNetwork::converge_forwarding() {
  Status result;
  if (config_.has(AF_INET)) {
    registry_.remember_sysctl("net/ipv4/conf/all/accept_redirects");
    keep_first(result, converge_forwarding("net/ipv4/ip_forward", "net/ipv4/conf"));
  }
  if (config_.has(AF_INET6)) {
    const Result<std::string> now = netlink::read_sysctl("net/ipv6/conf/all/forwarding");
    if (!now) {
      keep_first(result,
                 failed_precondition("podCIDR asks for IPv6, which this kernel has switched off; leave it out"));
      return result;
    }
    if (*now == "0") keep_first(result, keep_router_advertisements());
    keep_first(result, converge_forwarding("net/ipv6/conf/all/forwarding", "net/ipv6/conf"));
  }
  return result;
}

/// Forwarding of the whole node; the kernel then sets it for each interface, so those that differed are remembered.
Status BridgeNetwork::converge_forwarding(const std::string& path, const std::string& interfaces) {
  const Result<std::string> now = netlink::read_sysctl(path);
  if (!now) return now.status();
  if (*now == "1") return Status::ok();
  const Result<files::Descriptor> folder = files::open_folder("/proc/sys/" + interfaces);
  const Result<std::vector<std::string>> names = folder ? files::list_folder(folder->get()) : folder.status();
  for (const std::string& name : names ? *names : std::vector<std::string>()) {
    const std::string forwarding = interfaces + "/" + name + "/forwarding";
    const Result<std::string> value = netlink::read_sysctl(forwarding);
    if (forwarding != path && value && *value == "1") registry_.remember_sysctl(forwarding);
  }
  return registry_.set_sysctl(path, "1");
}

/// A kernel that forwards IPv6 stops believing router advertisements where accept_ra is 1. The node's own uplinks that live by them get 2,
/// which believes them all the same.
Status BridgeNetwork::keep_router_advertisements() {
  const Result<std::vector<netlink::Route>> routes = netlink::list_routes(routes_);
  if (!routes) return routes.status();
  const Result<std::vector<Link>> links = netlink::list_links(routes_);
  if (!links) return links.status();
  std::set<int> uplinks;
  for (const netlink::Route& route : *routes) {
    if (route.protocol == RTPROT_RA) uplinks.insert(route.index);
  }
  Status result;
  for (const int index : uplinks) {
    const Link* link = find(*links, index);
    if (!link) continue;
    const std::string path = "net/ipv6/conf/" + link->name + "/accept_ra";
    const Result<std::string> now = netlink::read_sysctl(path);
    if (now && *now == "1") keep_first(result, registry_.set_sysctl(path, "2"));
  }
  return result;
}

uint32_t BridgeNetwork::default_mtu() {
  const Result<std::vector<netlink::Route>> routes = netlink::list_routes(routes_);
  const Result<std::vector<Link>> links = netlink::list_links(routes_);
  if (!routes || !links) return kUsualMtu;
  uint32_t mtu = 0;
  for (const netlink::Route& route : *routes) {
    const Link* link = route.is_default() ? find(*links, route.index) : nullptr;
    if (link && link->mtu != 0) mtu = mtu == 0 ? link->mtu : std::min(mtu, link->mtu);
  }
  return mtu == 0 ? kUsualMtu : mtu;
}

Status BridgeNetwork::release_node() {
  const Result<files::Lock> lock = registry_.lock();
  if (!lock) return lock.status();
  Status result = registry_.remove(key_);
  Result<std::vector<Registration>> others = registry_.load();
  if (!others) return others.status();
  std::erase_if(*others, [&](const Registration& other) { return other.key == key_; });

  FilterReport report;
  keep_first(result, converge_packet_filter(filters_, *others, claims(*others), report));
  const Result<std::vector<Link>> links = netlink::list_links(routes_);
  if (!links) return links.status();
  const Link* bridge = find(*links, config_.bridge);
  const bool shared = std::any_of(others->begin(), others->end(),
                                  [&](const Registration& other) { return other.bridge == config_.bridge; });
  const bool has_ports = bridge && std::any_of(links->begin(), links->end(),
                                               [&](const Link& link) { return link.master == bridge->index; });
  Batch batch;
  const Link* gateway = find(*links, config_.gateway_interface());
  if (bridge && !shared && is_ours(*bridge) && !has_ports) {
    delete_link(batch, bridge->index);  // a VLAN interface on top of it goes with it
  } else if (bridge && gateway) {
    const Registration own = registration_of(key_, config_, directories_.state);
    for (const IpPrefix& address : own.gateways) {
      const bool used = std::any_of(others->begin(), others->end(), [&](const Registration& other) {
        return other.shares_wire_with(own) &&
               std::find(other.gateways.begin(), other.gateways.end(), address) != other.gateways.end();
      });
      if (!used) delete_address(batch, gateway->index, address);
    }
    release_vlan(batch, *bridge, *links, *others);
  }
  for (Status& status : routes_.send_each(batch)) keep_first(result, unless_absent(std::move(status)));
  if (others->empty()) keep_first(result, registry_.restore_sysctls());
  return result;
}

// ---- What an earlier run left -------------------------------------------------------------------------------------------------

Status BridgeNetwork::load_attachments(const std::vector<Link>& links) {
  std::vector<std::string> damaged;
  Result<std::vector<Attachment>> records = records_.load(damaged);
  if (!records) return records.status();
  for (const std::string& record : damaged) tell("record set aside: " + record);
  attachments_.clear();
  for (Attachment& attachment : *records) {
    std::string name = attachment.host_interface;
    attachments_.emplace(std::move(name), std::move(attachment));
  }
  const Link* bridge = find(links, config_.bridge);
  for (const Link& link : links) {
    const std::optional<Mark> mark = read_mark(link.alias);
    // A link that is off the bridge was being detached when its record had gone already.
    const bool is_lost = mark && mark->holder == key_ && bridge && link.master == bridge->index &&
                         !mark->addresses.empty() && link.name == host_interface_name(mark->sandbox, mark->interface) &&
                         !attachments_.contains(link.name);
    if (!is_lost) continue;
    std::vector<cni::AllocatedAddress> addresses;
    for (const IpPrefix& prefix : mark->addresses) {
      for (const cni::AddressRange& range : config_.ranges) {
        if (range.subnet.contains(prefix.address())) addresses.push_back({prefix, range.gateway});
      }
    }
    if (addresses.empty()) continue;
    Attachment attachment = describe({mark->sandbox, mark->interface, mark->name_space}, addresses);
    attachment.mtu = link.mtu;
    if (const Status saved = records_.save(attachment); !saved) tell(saved.message());
    tell("the record of sandbox " + attachment.sandbox + " was lost; found its link " + link.name);
    attachments_.emplace(link.name, std::move(attachment));
  }
  return Status::ok();
}

Status BridgeNetwork::adopt_attachments() {
  Status result;
  std::vector<Attachment> gone;
  const auto has_link = [&](const std::string& name) { return netlink::find_link(routes_, name).is_ok(); };
  // A path can be missing while the pod's processes keep its namespace (an emptied run folder): then the link stays. That of a
  // namespace which is going follows within a few tens of milliseconds.
  const auto dying_until = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
  for (const auto& [name, attachment] : attachments_) {
    const bool has_path = !attachment.name_space.empty() && netlink::open_namespace(attachment.name_space).is_ok();
    bool is_there = has_path || has_link(name);
    while (is_there && !has_path && !attachment.name_space.empty() && std::chrono::steady_clock::now() < dying_until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      is_there = has_link(name);
    }
    if (!is_there) gone.push_back(attachment);
  }
  for (const Attachment& attachment : gone) {
    tell("sandbox " + attachment.sandbox + " has gone; took its interface and addresses back");
    keep_first(result, remove(attachment));
  }
  const auto exists = [&](const cni::AddressOwner& owner) {
    return attachments_.contains(host_interface_name(owner.sandbox, owner.interface));
  };
  keep_first(result, pool_->collect(key_, exists).status());
  for (const auto& [name, attachment] : attachments_) {
    std::vector<IpAddress> addresses;
    for (const cni::ResultIp& ip : attachment.ips) addresses.push_back(ip.address.address());
    if (const Status adopted = pool_->adopt(owner_of(attachment), addresses); !adopted) tell(adopted.message());
    keep_first(result, repair(attachment));
  }
  return result;
}

/// Links of this instance that belong to no attachment, and half-made ones that carry no mark yet: nobody else makes links of such names on
/// our bridge while we hold the lock.
void BridgeNetwork::sweep(const std::vector<Link>& links) {
  for (const Link& link : links) {
    if (!is_host_interface_name(link.name) || attachments_.contains(link.name)) continue;
    const std::optional<Mark> mark = read_mark(link.alias);
    const bool is_unmarked = link.alias.empty() && link.kind == "veth" && link.master == bridge_index_;
    if (is_unmarked || (mark && mark->holder == key_)) detached_links_.insert(link.index);
  }
}

std::vector<cni::HeldAddress> BridgeNetwork::survivors() {
  std::vector<cni::HeldAddress> held;
  const Result<std::vector<Link>> links = netlink::list_links(routes_);
  if (!links) return held;
  for (const Link& link : *links) {
    const std::optional<Mark> mark = read_mark(link.alias);
    if (!mark || link.master == 0) continue;
    for (const IpPrefix& prefix : mark->addresses) {
      held.push_back({prefix.address(), {mark->holder, mark->sandbox, mark->interface}});
    }
  }
  return held;
}

// ---- Asked from outside -------------------------------------------------------------------------------------------------------

std::vector<Attachment> BridgeNetwork::list() {
  const Turn turn(*this);
  std::vector<Attachment> all;
  for (const auto& [name, attachment] : attachments_) all.push_back(attachment);
  return all;
}

Status BridgeNetwork::check(const std::string& sandbox, const std::string& name_space) {
  const Turn turn(*this);
  std::vector<std::string> problems;
  bool is_attached = false;
  for (auto& [name, attachment] : attachments_) {
    if (attachment.sandbox != sandbox) continue;
    is_attached = true;
    if (attachment.name_space.empty()) attachment.name_space = name_space;
    for (std::string& problem : inspect(attachment).problems) problems.push_back(std::move(problem));
  }
  if (!is_attached) return not_found("sandbox " + sandbox + " is not attached to " + config_.bridge + " by " + key_);
  const Result<files::Lock> lock = registry_.lock();
  if (!lock) return lock.status();
  const Result<std::vector<Registration>> registrations = registry_.load();
  if (!registrations) return registrations.status();
  for (std::string& problem : vlan_problems()) problems.push_back(std::move(problem));
  if (const auto problem = loopback_problem()) problems.push_back(*problem);
  for (std::string& problem : packet_filter_problems(filters_, *registrations, claims(*registrations)))
    problems.push_back(std::move(problem));
  if (problems.empty()) return Status::ok();
  return failed_precondition("sandbox " + sandbox + ": " + join(problems));
}

Result<std::vector<std::string>> BridgeNetwork::collect(const std::set<std::string>& sandboxes) {
  const Turn turn(*this);
  std::vector<Attachment> gone;
  for (const auto& [name, attachment] : attachments_) {
    if (!sandboxes.contains(attachment.sandbox)) gone.push_back(attachment);
  }
  Status result;
  std::vector<std::string> detached;
  for (const Attachment& attachment : gone) {
    keep_first(result, remove(attachment));
    if (std::find(detached.begin(), detached.end(), attachment.sandbox) == detached.end()) {
      detached.push_back(attachment.sandbox);
    }
  }
  if (!result) return result;
  return detached;
}

size_t BridgeNetwork::reap() {
  std::set<int> indexes;
  {
    const Turn turn(*this);
    indexes = std::exchange(detached_links_, {});
  }
  if (indexes.empty()) return 0;
  // A socket of its own: the kernel takes tens of milliseconds here, and pods are attached meanwhile.
  Result<Socket> socket = Socket::open(NETLINK_ROUTE);
  const Result<std::vector<Link>> links = socket ? netlink::list_links(*socket) : socket.status();
  if (!links) {
    const Turn turn(*this);
    detached_links_.merge(indexes);
    return 0;
  }
  Batch batch;
  for (const int index : indexes) {
    const Link* link = find(*links, index);
    if (!link || !is_host_interface_name(link->name)) continue;
    // Half made when it was seen, and somebody else's, as its mark says now.
    const std::optional<Mark> mark = read_mark(link->alias);
    if (!mark || mark->holder == key_) delete_link(batch, index);
  }
  size_t deleted = 0;
  for (const Status& status : socket->send_each(batch)) {
    if (status) ++deleted;
    if (!status && status.code() != Code::not_found) tell(status.message());
  }
  return deleted;
}

}  // namespace pintle::bridge
