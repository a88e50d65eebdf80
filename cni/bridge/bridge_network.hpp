#pragma once

/// The pod network of one instance: a bridge on the node, a veth for each pod.
///
///        pod A             pod B                      the outside
///      eth0 .0.2         eth0 .0.3                        |
///         |                 |                           eth0 of the node
///     podHASH_A         podHASH_B                         |  masquerade
///         +------ pintle0 --+---- .0.1 = gateway ---- ip_forward
///
/// Vocabulary. An *attachment* is a pod's interface with its addresses. *Converging* compares the machine with what should be
/// and acts on the difference; it runs at start, and whenever the kernel tells (rtnetlink, nftables) that somebody changed
/// something of ours.
///
/// States of an attachment, and what a kill leaves:
///
///     (none) --allocate--> addressed --record--> recorded --link--> linked --configure--> attached
///        ^                                                                                   |
///        +------ release address <-- remove record <-- link off the bridge <-----detach------+
///
///     addressed   the next start releases addresses that belong to no record
///     recorded    the next start finishes it if the pod's namespace is there, or removes it if not; the engine then calls `collect` with
///     linked      the sandboxes that exist, which detaches all others
///     off the bridge: links of ours without a record are deleted
///
/// Nothing waits for the disk: records and addresses need not outlive the machine, as the namespaces do not.
///
/// Detaching takes a link off the bridge and down, 0.1 ms, but does not delete it: the kernel needs 20 to 50 ms for that and
/// does it by itself when the engine removes the pod's namespace. `reap` deletes those of which the namespace stayed.
///
/// What belongs to the node and not to a pod (bridge, gateway addresses, packet filter, IP forwarding) is shared by all instances of the
/// plugin: see registry.hpp. An instance that ends with nothing attached takes its part back; the last one leaves the machine as it
/// was. One that ends with pods attached touches nothing.
///
/// VLANs. With `vlan`, the bridge filters by VLANs: pods' ports are in theirs, untagged, and in no other; the gateway's addresses are on a
/// VLAN interface on top of the bridge, which is itself a tagged member. So networks in several VLANs, and one in none (that is the bridge's
/// default VLAN, 1), share one bridge, and a port of the administrator's (`bridge vlan add dev eth1 vid 100`) joins them to a wire's VLANs:
///
///      pod A (100)     pod B (200)     eth1, a trunk of the administrator's: 100 and 200, tagged
///         |               |              |
///         +---- pintle0: VLAN filtering -+
///                  |             |
///             pintle0.100   pintle0.200          gateways; the node routes to the outside, not from one VLAN to the other
///
/// Costs: `attach` some 1 ms, of which the kernel takes 0.45 for the veth pair; `detach` 0.2 ms.
///
///     auto network = BridgeNetwork::create(config, "network-bridge@1", {.state = "...", .shared = "..."}, log);
///     (*network)->start();
///     Result<Attachment> pod = (*network)->attach({.sandbox = "4f2a", .interface = "eth0", .name_space = "/run/netns/4f2a"});
///     (*network)->detach("4f2a");

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cni/bridge/attachments.hpp"
#include "cni/bridge/config.hpp"
#include "cni/bridge/registry.hpp"
#include "cni/ipam/address_pool.hpp"
#include "sdk/support/netlink/addresses.hpp"
#include "sdk/support/netlink/port_vlans.hpp"
#include "sdk/support/netlink/routes.hpp"

namespace pintle::bridge {

inline constexpr std::string_view kBridgeAlias = "pintle network-bridge";

struct Directories {
  std::string state;   ///< this instance's own
  std::string shared;  ///< of all instances of the plugin
};

struct AttachRequest {
  std::string sandbox;
  std::string interface = "eth0";
  std::string name_space;  ///< path of the pod's network namespace
  std::vector<HostPort> ports = {};
};

/// How a bridge that we made, or a VLAN interface on one, is known as ours.
inline bool is_ours(const netlink::Link& link) { return link.alias == kBridgeAlias; }

/// Thread-safe: calls wait for one another, as they would for the kernel's own lock. All of it blocks for as long as the kernel
/// takes, usually under 1 ms.
class BridgeNetwork {
 public:
  /// One line of what was done to the machine without being asked, for the log.
  using Notice = std::function<void(const std::string&)>;

  /// Opens sockets and folders; touches nothing else. `key`: name and generation of the instance.
  static Result<std::unique_ptr<BridgeNetwork>> create(Config config, std::string key, Directories directories,
                                                       Notice notice);

  /// Adopts what an earlier run of this instance left, removes what it left half done, and makes the bridge. FAILED_PRECONDITION
  /// if the subnets collide with another instance's bridge or an address of the node, or `bridge` names something else; nothing has
  /// been changed then.
  Status start();
  /// For a process that does one thing and ends: takes up what an earlier one left complete, at a cost that hardly grows with the number
  /// of pods. FAILED_PRECONDITION if the node's part is not as it should be: `start` then.
  Status resume();
  /// Only learns what is attached, for `check` and `list`; nothing is changed.
  Status look();
  /// Whether this kernel can do what the configuration asks for; nothing is changed. UNIMPLEMENTED says what it lacks.
  Status check_abilities() const;
  /// Makes the machine as it should be. Also after failures it goes on with the rest; the status is the first failure.
  Status converge();
  /// Readable when somebody, perhaps this instance, has changed links, addresses, routes, forwarding or packet filters of the node.
  std::vector<int> change_descriptors() const;
  /// Reads what has changed; converges if any of it concerns this instance.
  Status follow_changes();

  /// Idempotent: the same sandbox and interface get the same answer. INVALID_ARGUMENT, NOT_FOUND (no such namespace),
  /// FAILED_PRECONDITION (it is none; or it has an interface of that name), RESOURCE_EXHAUSTED (addresses), ALREADY_EXISTS (a host port
  /// is another pod's). Nothing remains of a failed attempt.
  Result<Attachment> attach(const AttachRequest& request);
  /// All interfaces of the sandbox. Succeeds when nothing is left; otherwise goes on to the end and reports the first failure.
  Status detach(const std::string& sandbox);
  /// One interface of it.
  Status detach(const std::string& sandbox, const std::string& interface);
  /// NOT_FOUND if the sandbox is not attached; FAILED_PRECONDITION lists what is missing or differs.
  /// `name_space`: used if the record of it was lost; may be empty.
  Status check(const std::string& sandbox, const std::string& name_space);
  std::vector<Attachment> list();
  /// Detaches all sandboxes that are not named, and returns them.
  Result<std::vector<std::string>> collect(const std::set<std::string>& sandboxes);
  /// How many are attached. Never waits.
  size_t size() const { return attached_count_; }

  /// Deletes links of detached pods that are still there; returns how many. Takes 20 ms and more for each.
  size_t reap();
  /// Whether `reap` has something to do. Never waits.
  bool has_detached_links() const { return detached_count_ > 0; }
  /// With nothing attached: takes this instance's part of the machine back. Otherwise leaves everything as it is.
  Status stop();

  const Config& config() const { return config_; }

 private:
  struct Sockets {
    netlink::Socket routes;
    netlink::Socket filters;
    netlink::Monitor route_changes;
    netlink::Monitor filter_changes;
  };
  /// How an attachment is found on the machine.
  struct Inspection {
    std::optional<netlink::Link> host;
    bool has_pod_end = false;             ///< its peer is the pod's interface
    std::vector<uint16_t> foreign_vlans;  ///< that its port is in and should not be
    std::vector<std::string> problems;
  };
  /// One call's time with the state below, and then its counts for those that do not wait.
  class Turn {
   public:
    explicit Turn(BridgeNetwork& network) : network_(network), guard_(network.mutex_) {}
    ~Turn() {
      network_.attached_count_ = network_.attachments_.size();
      network_.detached_count_ = network_.detached_links_.size();
    }
    Turn(const Turn&) = delete;

   private:
    BridgeNetwork& network_;
    std::lock_guard<std::mutex> guard_;
  };
  static Result<Sockets> open_sockets();
  BridgeNetwork(Config config, std::string key, Directories directories, Notice notice, Sockets sockets,
                Registry registry, Records records);

  // What belongs to the node.
  Status check_collisions(const std::vector<Registration>& registrations, const std::vector<netlink::Link>& links);
  Status converge_shared();
  Status converge_node(const std::vector<Registration>& registrations);
  Status converge_bridge();
  Status distrust(const std::string& name);
  Status set_up(const std::string& name);
  Status converge_gateways();
  Status converge_forwarding();
  Status converge_forwarding(const std::string& path, const std::string& interfaces);
  Status keep_router_advertisements();
  Status release_node();
  uint32_t default_mtu();
  bool concerns(const nlmsghdr& message) const;
  bool is_link_wrong(const std::string& name);

  // VLANs (vlans.cpp). All of these have nothing to do without one.
  Status check_vlan(const std::vector<Registration>& registrations, const std::vector<netlink::Link>& links) const;
  Status converge_vlan(const netlink::Link& bridge);
  void release_vlan(netlink::Batch& batch, const netlink::Link& bridge, const std::vector<netlink::Link>& links,
                    const std::vector<Registration>& others) const;
  bool is_own_vlan(const netlink::PortVlan& vlan) const { return vlan == netlink::PortVlan{config_.vlan, true, true}; }
  /// Whether a port of ours, or the bridge itself, is in the VLANs that it should be in. True for ports of others.
  bool has_right_vlans(const netlink::PortVlans& port) const;
  std::vector<std::string> vlan_problems();
  void inspect_vlans(Inspection& inspection);
  /// Puts a port on the bridge and takes it out of the VLANs that are named; the batch then puts it into its own.
  Status join_bridge(netlink::Batch& batch, const netlink::Link& port, const std::vector<uint16_t>& foreign_vlans);

  // What belongs to pods.
  Status load_attachments(const std::vector<netlink::Link>& links);
  Status adopt_attachments();
  void sweep(const std::vector<netlink::Link>& links);
  Status converge_pods(const std::vector<netlink::Link>& links);
  Status plumb(const Attachment& attachment, int name_space);
  Status make_link(const Attachment& attachment, int name_space);
  Status finish_link(const Attachment& attachment, const netlink::Link& host, int name_space,
                     const std::vector<uint16_t>& foreign_vlans);
  /// Answers a socket that stays in the pod's namespace.
  Result<netlink::Socket> configure_pod(const Attachment& attachment, int name_space, int peer);
  Status await_reachable(const Attachment& attachment, netlink::Socket& pod);
  Status repair(const Attachment& attachment);
  Inspection inspect(const Attachment& attachment);
  void inspect_pod(const Attachment& attachment, Inspection& inspection);
  Status detach_where(const std::string& sandbox, const std::function<bool(const Attachment&)>& condition);
  Status remove(const Attachment& attachment);
  Status record(const Attachment& attachment);
  std::vector<PortClaim> claims(const std::vector<Registration>& registrations) const;
  Status open_ports(const Attachment& attachment);
  Status close_ports(const Attachment& attachment);
  bool needs_loopback() const;
  std::string loopback_setting() const;
  Status pass_loopback(bool passes);
  void try_to_pass_loopback();
  std::optional<std::string> loopback_problem() const;
  Status take_off(const Attachment& attachment);
  Attachment describe(const AttachRequest& request, const std::vector<cni::AllocatedAddress>& addresses) const;
  cni::AddressOwner owner_of(const Attachment& attachment) const;
  std::vector<cni::HeldAddress> survivors();
  void tell(const std::string& line) const;

  const Config config_;
  const std::string key_;
  const Directories directories_;
  const Notice notice_;

  std::mutex mutex_;
  netlink::Socket routes_;
  netlink::Socket filters_;
  netlink::Monitor route_changes_;
  netlink::Monitor filter_changes_;
  Registry registry_;
  Records records_;
  std::unique_ptr<cni::AddressPool> pool_;
  std::map<std::string, Attachment> attachments_;  // by host interface
  std::set<int> detached_links_;                   // indexes
  std::set<std::string> foreign_tables_;
  int bridge_index_ = 0;
  int gateway_index_ = 0;      // the bridge's, or its VLAN interface's
  uint16_t default_vlan_ = 0;  // of the bridge's ports
  uint32_t mtu_ = 0;
  bool started_ = false;
  std::atomic<size_t> attached_count_ = 0;
  std::atomic<size_t> detached_count_ = 0;
};

}  // namespace pintle::bridge
