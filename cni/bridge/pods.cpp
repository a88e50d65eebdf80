// Attaching pods, detaching them, and looking at them.
#include <net/if.h>

#include <algorithm>

#include "cni/bridge/bridge_network.hpp"
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

constexpr size_t kLongestSandbox = 128;

/// Sandbox ids name files and stand in marks: the alphabet of container runtimes, no more.
Status check_sandbox(const std::string& sandbox) {
  const auto is_bad = [](char c) {
    const bool is_good =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
    return !is_good;
  };
  if (sandbox.empty() || sandbox.size() > kLongestSandbox || std::any_of(sandbox.begin(), sandbox.end(), is_bad)) {
    return invalid_argument("sandbox id '" + sandbox.substr(0, kLongestSandbox) +
                            "': 1 to 128 letters, digits, '_', '.' and '-' are expected");
  }
  return Status::ok();
}

Status unless(Code tolerated, Status status) { return status.code() == tolerated ? Status::ok() : status; }

Result<bool> has_link(int name_space, const std::string& name) {
  bool found = false;
  const Status status = netlink::run_in_namespace(name_space, [&] {
    Result<Socket> socket = Socket::open(NETLINK_ROUTE);
    if (!socket) return socket.status();
    const Status listed = netlink::find_link(*socket, name).status();
    found = listed.is_ok();
    return unless(Code::not_found, listed);
  });
  if (!status) return status;
  return found;
}

const IpPrefix& everything(bool ipv6) {
  static const IpPrefix v4 = *IpPrefix::parse("0.0.0.0/0");
  static const IpPrefix v6 = *IpPrefix::parse("::/0");
  return ipv6 ? v6 : v4;
}

}  // namespace

cni::AddressOwner BridgeNetwork::owner_of(const Attachment& attachment) const {
  return {.holder = key_, .sandbox = attachment.sandbox, .interface = attachment.interface};
}

Attachment BridgeNetwork::describe(const AttachRequest& request,
                                   const std::vector<cni::AllocatedAddress>& addresses) const {
  Attachment attachment{.sandbox = request.sandbox,
                        .interface = request.interface,
                        .host_interface = host_interface_name(request.sandbox, request.interface),
                        .name_space = request.name_space,
                        .hardware_address = netlink::hardware_address_for(addresses.front().address.address().bytes()),
                        .mtu = mtu_,
                        .ips = {},
                        .routes = {},
                        .ports = request.ports};
  for (const cni::AllocatedAddress& allocated : addresses) {
    attachment.ips.push_back({.address = allocated.address, .gateway = allocated.gateway, .interface = 1});
    attachment.routes.push_back(
        {.destination = everything(allocated.address.address().is_v6()), .gateway = allocated.gateway});
  }
  return attachment;
}

// ---- Attaching ----------------------------------------------------------------------------------------------------------------

Result<Attachment> BridgeNetwork::attach(const AttachRequest& request) {
  if (Status status = check_sandbox(request.sandbox); !status) return status;
  if (Status status = netlink::check_link_name(request.interface); !status) return status;
  const Turn turn(*this);
  if (!started_) return unavailable("network " + key_ + " has not been started");
  const Result<UniqueFd> name_space = netlink::open_namespace(request.name_space);
  if (!name_space) return name_space.status();

  const std::string name = host_interface_name(request.sandbox, request.interface);
  const auto known = attachments_.find(name);
  if (known != attachments_.end() && known->second.name_space.empty()) known->second.name_space = request.name_space;
  if (known != attachments_.end() && known->second.name_space == request.name_space) {
    if (Status status = repair(known->second); !status) return status;
    return known->second;
  }
  const Result<std::vector<cni::AllocatedAddress>> addresses =
      pool_->allocate({.holder = key_, .sandbox = request.sandbox, .interface = request.interface});
  if (!addresses) return addresses.status();
  const Attachment attachment = describe(request, *addresses);
  Status status = record(attachment);
  if (!status) {
    const Status released = pool_->release(owner_of(attachment));
    if (!released) tell(released.message());
    return status.with_context("attach sandbox " + request.sandbox);
  }
  attachments_.insert_or_assign(name, attachment);
  status = plumb(attachment, name_space->get());
  if (status) status = open_ports(attachment);
  if (!status) {
    const Status undone = remove(attachment);
    if (!undone) tell("undo the failed attachment of sandbox " + request.sandbox + ": " + undone.message());
    return status.with_context("attach sandbox " + request.sandbox);
  }
  return attachment;
}

/// Under the lock of all instances, so that no other takes the same host ports meanwhile.
Status BridgeNetwork::record(const Attachment& attachment) {
  if (attachment.ports.empty()) return records_.save(attachment);
  const Result<files::Lock> lock = registry_.lock();
  if (!lock) return lock.status();
  const Result<std::vector<Registration>> registrations = registry_.load();
  if (!registrations) return registrations.status();
  std::vector<PortClaim> others = claims(*registrations);
  std::erase_if(others, [&](const PortClaim& other) { return other.sandbox == attachment.sandbox; });
  if (Status status = check_ports(attachment.claim(), others); !status) return status;
  return records_.save(attachment);
}

Status BridgeNetwork::plumb(const Attachment& attachment, int name_space) {
  if (Status status = make_link(attachment, name_space); !status) return status;
  const Result<Link> host = netlink::find_link(routes_, attachment.host_interface);
  if (!host) return host.status();
  return finish_link(attachment, *host, name_space, {default_vlan_});
}

/// What there is to do once the link is there; does no harm to what has been done.
Status BridgeNetwork::finish_link(const Attachment& attachment, const Link& host, int name_space,
                                  const std::vector<uint16_t>& foreign_vlans) {
  // The bridge takes all that its ports hear, but whoever takes a port off it by hand must not open it to the pod's router
  // advertisements.
  Status status = unless(Code::not_found, netlink::write_sysctl("net/ipv6/conf/" + host.name + "/accept_ra", "0"));
  if (!status) return status;
  Batch batch;
  if (config_.vlan != 0) {
    if (status = join_bridge(batch, host, foreign_vlans); !status) return status;
  } else if (!host.is_up() || host.master != bridge_index_) {
    change_link(batch, host.index, {.up = true, .master = bridge_index_});
  }
  // Where bridged packets pass the packet filter (br_netfilter), a pod reaches its own host port only over a port that sends back.
  if (config_.hairpin || !attachment.ports.empty()) set_hairpin(batch, host.index, true);
  if (status = routes_.send(batch); !status) return status;
  Result<Socket> pod = configure_pod(attachment, name_space, host.peer);
  if (!pod) return pod.status();
  if (const Status reachable = await_reachable(attachment, *pod); !reachable) tell(reachable.message());
  return Status::ok();
}

/// What the kernel does in workers of its own: a pod whose first packet is lost meanwhile would wait a second for its first answer.
Status BridgeNetwork::await_reachable(const Attachment& attachment, Socket& pod) {
  if (Status status = netlink::await_operational(routes_, attachment.host_interface); !status) return status;
  // The bridge gets its carrier with its first port.
  if (Status status = netlink::await_operational(routes_, config_.gateway_interface()); !status) return status;
  std::vector<IpAddress> addresses;
  for (const cni::ResultIp& ip : attachment.ips) addresses.push_back(ip.address.address());
  return netlink::await_usable(pod, addresses);
}

/// Both ends by one request, and the mark by the next one of the same send: a kill does not come between.
Status BridgeNetwork::make_link(const Attachment& attachment, int name_space) {
  Status status;
  for (int attempt = 0; attempt < 3; ++attempt) {
    Batch batch;
    add_veth(batch, {.name = attachment.host_interface,
                     .peer_name = attachment.interface,
                     .peer_namespace = name_space,
                     .mtu = attachment.mtu,
                     .master = bridge_index_,
                     .up = true,
                     .peer_hardware_address = attachment.hardware_address});
    change_link(batch, attachment.host_interface, {.alias = write_mark(key_, attachment)});
    status = routes_.send_each(batch).front();
    if (status) return status;
    const Result<Link> left = netlink::find_link(routes_, attachment.host_interface);
    if (left) {
      // Of an earlier attempt, or in another namespace: it has to go, however long that takes.
      Batch removal;
      delete_link(removal, left->index);
      if (Status removed = unless(Code::not_found, routes_.send(removal)); !removed) return removed;
      detached_links_.erase(left->index);
      continue;
    }
    if (status.code() == Code::already_exists) {
      const Result<bool> is_taken = has_link(name_space, attachment.interface);
      if (!is_taken) return is_taken.status();
      if (*is_taken)
        return failed_precondition("the pod's network namespace has an interface " + attachment.interface + " already");
      // It was ours, and `reap` of another thread has deleted it since.
      continue;
    }
    // The bridge was deleted a moment ago.
    const Result<Link> bridge = netlink::find_link(routes_, config_.bridge);
    if (bridge && bridge->index == bridge_index_) return status;
    if (Status converged = converge_shared(); !converged) return converged;
  }
  return status;
}

Result<Socket> BridgeNetwork::configure_pod(const Attachment& attachment, int name_space, int peer) {
  std::optional<Socket> opened;
  const Status result = netlink::run_in_namespace(name_space, [&] {
    // Nobody else can have the address that was allocated, and a pod need not believe its neighbours that they are routers.
    const std::string settings = "net/ipv6/conf/" + attachment.interface;
    Status status = unless(Code::not_found, netlink::write_sysctl(settings + "/accept_dad", "0"));
    if (status) status = unless(Code::not_found, netlink::write_sysctl(settings + "/accept_ra", "0"));
    if (!status) return status;
    Result<Socket> socket = Socket::open(NETLINK_ROUTE);
    if (!socket) return socket.status();
    opened = std::move(*socket);
    Batch batch;
    change_link(batch, 1, {.up = true});
    change_link(batch, peer, {.up = true});
    for (const cni::ResultIp& ip : attachment.ips) add_address(batch, peer, ip.address);
    for (const cni::ResultRoute& route : attachment.routes) {
      replace_route(batch, {.destination = route.destination, .gateway = route.gateway, .index = peer});
    }
    for (Status& each : opened->send_each(batch)) {
      if (status) status = unless(Code::already_exists, std::move(each));
    }
    return status;
  });
  if (!result) return result;
  return std::move(*opened);
}

// ---- Host ports ---------------------------------------------------------------------------------------------------------------

/// Of all these instances' pods.
std::vector<PortClaim> BridgeNetwork::claims(const std::vector<Registration>& registrations) const {
  std::vector<PortClaim> claims;
  const auto add = [&](const Attachment& attachment) {
    if (!attachment.ports.empty()) claims.push_back(attachment.claim());
  };
  for (const Registration& registration : registrations) {
    if (registration.key == key_) {
      for (const auto& [name, attachment] : attachments_) add(attachment);
    } else {
      for (const Attachment& attachment : Records::peek(records_folder(registration.state_directory))) add(attachment);
    }
  }
  return claims;
}

Status BridgeNetwork::open_ports(const Attachment& attachment) {
  if (attachment.ports.empty()) return Status::ok();
  nftables::Transaction transaction;
  bridge::open_ports(transaction, kTableName, attachment.claim());
  // Somebody flushed the table a moment ago.
  if (!commit(filters_, transaction)) {
    if (Status status = converge_shared(); !status) return status;
  }
  if (attachment.claim().needs_loopback()) try_to_pass_loopback();
  return forget_flows(filters_, attachment.claim(), false);
}

Status BridgeNetwork::close_ports(const Attachment& attachment) {
  if (attachment.ports.empty()) return Status::ok();
  nftables::Transaction transaction;
  bridge::close_ports(transaction, kTableName, attachment.claim());
  Status result;
  if (!commit(filters_, transaction)) result = converge_shared();
  if (!needs_loopback() && result) result = pass_loopback(false);
  const Status forgotten = forget_flows(filters_, attachment.claim(), true);
  return result ? forgotten : result;
}

bool BridgeNetwork::needs_loopback() const {
  return std::ranges::any_of(attachments_, [](const auto& one) { return one.second.claim().needs_loopback(); });
}

std::string BridgeNetwork::loopback_setting() const {
  return "net/ipv4/conf/" + config_.gateway_interface() + "/route_localnet";
}

/// Once the packet filter keeps pods from the node's loopback. An interface that is not ours gets back what it had.
Status BridgeNetwork::pass_loopback(bool passes) {
  const Result<std::string> now = netlink::read_sysctl(loopback_setting());
  if (!now && now.status().code() == Code::not_found && !passes) return Status::ok();
  if (!now) return now.status();
  if (*now == (passes ? "1" : "0")) return Status::ok();
  const Result<Link> gateway = netlink::find_link(routes_, config_.gateway_interface());
  if (!gateway) return gateway.status();
  if (!is_ours(*gateway)) return passes ? registry_.set_sysctl(loopback_setting(), "1") : Status::ok();
  if (!passes) {
    const Result<std::vector<Registration>> registrations = registry_.load();
    if (!registrations) return registrations.status();
    const bool is_shared = std::ranges::any_of(*registrations, [&](const Registration& other) {
      return other.key != key_ && other.gateway_interface() == config_.gateway_interface();
    });
    if (is_shared) return Status::ok();
  }
  return netlink::write_sysctl(loopback_setting(), passes ? "1" : "0");
}

/// Where sysctls are read-only, host ports are served all the same, but for the one address.
void BridgeNetwork::try_to_pass_loopback() {
  if (Status status = pass_loopback(true); !status) tell("host ports do not answer on 127.0.0.1: " + status.message());
}

std::optional<std::string> BridgeNetwork::loopback_problem() const {
  if (!needs_loopback()) return std::nullopt;
  const Result<std::string> now = netlink::read_sysctl(loopback_setting());
  if (now && *now == "1") return std::nullopt;
  return "host ports do not answer on 127.0.0.1: " + loopback_setting() + " is not 1";
}

// ---- Detaching ----------------------------------------------------------------------------------------------------------------

Status BridgeNetwork::detach(const std::string& sandbox) {
  return detach_where(sandbox, [](const Attachment&) { return true; });
}

Status BridgeNetwork::detach(const std::string& sandbox, const std::string& interface) {
  return detach_where(sandbox, [&](const Attachment& attachment) { return attachment.interface == interface; });
}

Status BridgeNetwork::detach_where(const std::string& sandbox,
                                   const std::function<bool(const Attachment&)>& condition) {
  if (Status status = check_sandbox(sandbox); !status) return status;
  const Turn turn(*this);
  std::vector<Attachment> ours;
  for (const auto& [name, attachment] : attachments_) {
    if (attachment.sandbox == sandbox && condition(attachment)) ours.push_back(attachment);
  }
  Status result;
  for (const Attachment& attachment : ours) {
    if (Status status = remove(attachment); !status && result) result = status;
  }
  return result;
}

/// In this order a kill between two steps leaves what the next start understands. Each step is taken whatever became of the one before.
Status BridgeNetwork::remove(const Attachment& named) {
  // By value: the caller's attachment may be the one in the map.
  const Attachment attachment = named;
  const cni::AddressOwner owner = owner_of(attachment);
  Status result = take_off(attachment);
  attachments_.erase(attachment.host_interface);
  if (Status closed = close_ports(attachment); !closed && result) result = closed;
  if (Status removed = records_.remove(attachment); !removed && result) result = removed;
  if (Status released = pool_->release(owner); !released && result) result = released;
  return result;
}

Status BridgeNetwork::take_off(const Attachment& attachment) {
  const Result<Link> link = netlink::find_link(routes_, attachment.host_interface);
  if (link.status().code() == Code::not_found) return Status::ok();
  if (!link) return link.status();
  Batch batch;
  change_link(batch, link->index, {.up = false, .master = 0});
  detached_links_.insert(link->index);
  return unless(Code::not_found, routes_.send(batch));
}

// ---- Keeping ------------------------------------------------------------------------------------------------------------------

Status BridgeNetwork::converge_pods(const std::vector<Link>& links) {
  Status result;
  std::map<int, netlink::PortVlans> ports;
  if (config_.vlan != 0) {
    Result<std::vector<netlink::PortVlans>> listed = netlink::list_port_vlans(routes_);
    if (!listed) return listed.status();
    for (netlink::PortVlans& port : *listed) ports.emplace(port.index, std::move(port));
  }
  for (const auto& [name, attachment] : attachments_) {
    const auto link = std::find_if(links.begin(), links.end(),
                                   [&wanted = name](const Link& candidate) { return candidate.name == wanted; });
    const auto port = link == links.end() ? ports.end() : ports.find(link->index);
    const bool is_in_vlan = config_.vlan == 0 || (port != ports.end() && has_right_vlans(port->second));
    if (link != links.end() && link->is_up() && link->master == bridge_index_ && is_in_vlan) continue;
    if (Status status = repair(attachment); !status && result) result = status;
  }
  return result;
}

/// Gives a pod back what it lacks. Where its namespace has gone there is nothing to repair: the engine is about to detach it.
Status BridgeNetwork::repair(const Attachment& attachment) {
  const Inspection found = inspect(attachment);
  if (found.problems.empty()) return Status::ok();
  const Result<UniqueFd> name_space = netlink::open_namespace(attachment.name_space);
  if (!name_space) return Status::ok();
  std::string problems;
  for (const std::string& problem : found.problems) problems += (problems.empty() ? "" : "; ") + problem;
  tell("repaired sandbox " + attachment.sandbox + ": " + problems);
  const Status status = found.has_pod_end ? finish_link(attachment, *found.host, name_space->get(), found.foreign_vlans)
                                          : plumb(attachment, name_space->get());
  return status.with_context("repair sandbox " + attachment.sandbox);
}

BridgeNetwork::Inspection BridgeNetwork::inspect(const Attachment& attachment) {
  Inspection inspection;
  const Result<Link> host = netlink::find_link(routes_, attachment.host_interface);
  if (!host) {
    inspection.problems.push_back("link " + attachment.host_interface + " is missing on the node");
    return inspection;
  }
  inspection.host = *host;
  if (host->master != bridge_index_)
    inspection.problems.push_back("link " + host->name + " is not on bridge " + config_.bridge);
  if (!host->is_up()) inspection.problems.push_back("link " + host->name + " is down");
  if (config_.vlan != 0) inspect_vlans(inspection);
  inspect_pod(attachment, inspection);
  return inspection;
}

void BridgeNetwork::inspect_pod(const Attachment& attachment, Inspection& inspection) {
  std::vector<std::string>& problems = inspection.problems;
  const Result<UniqueFd> name_space = netlink::open_namespace(attachment.name_space);
  if (!name_space) {
    problems.push_back(name_space.status().message());
    return;
  }
  const Status status = netlink::run_in_namespace(name_space->get(), [&] {
    Result<Socket> socket = Socket::open(NETLINK_ROUTE);
    if (!socket) return socket.status();
    const Result<Link> link = netlink::find_link(*socket, attachment.interface);
    if (!link || link->index != inspection.host->peer) {
      problems.push_back("interface " + attachment.interface + " is missing in the pod");
      return Status::ok();
    }
    inspection.has_pod_end = true;
    if (!link->is_up()) problems.push_back("interface " + attachment.interface + " is down in the pod");
    const Result<std::vector<InterfaceAddress>> addresses = netlink::list_addresses(*socket, link->index);
    if (!addresses) return addresses.status();
    for (const cni::ResultIp& ip : attachment.ips) {
      const bool is_there = std::any_of(addresses->begin(), addresses->end(),
                                        [&](const InterfaceAddress& address) { return address.prefix == ip.address; });
      if (!is_there) problems.push_back("address " + ip.address.to_string() + " is missing in the pod");
    }
    const Result<std::vector<netlink::Route>> routes = netlink::list_routes(*socket);
    if (!routes) return routes.status();
    for (const cni::ResultRoute& wanted : attachment.routes) {
      const bool is_there = std::any_of(routes->begin(), routes->end(), [&](const netlink::Route& route) {
        return route.destination == wanted.destination && route.gateway == wanted.gateway && route.index == link->index;
      });
      if (!is_there) problems.push_back("the route to " + wanted.destination.to_string() + " is missing in the pod");
    }
    return Status::ok();
  });
  if (!status) problems.push_back(status.message());
}

}  // namespace pintle::bridge
