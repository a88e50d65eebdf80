#pragma once

/// What the node has, what of it pods may have, and whether one more pod fits.
///
///     capacity ------------------------------------------------------------------>
///     | systemReserved | kubeReserved | hard eviction | allocatable: requests fit in here |
///                                     <-- the cgroup of all pods may use this much -->
///
/// The cgroup of all pods is limited to capacity - reserved (enforceNodeAllocatable: pods), so that pods are evicted before the kernel
/// kills in it. As kubelet reckons (https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/). Pure, but for
/// node_amounts().

#include <boost/json/value.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "plugins/node-agent/eviction_thresholds.hpp"
#include "plugins/node-agent/manifests.hpp"
#include "plugins/node-agent/pod_verdict.hpp"

namespace pintle::agent {

/// By name: "cpu" in thousandths; "memory", "ephemeral-storage", "hugepages-SIZE" in bytes; "pid"; "pods".
using Amounts = std::map<std::string, int64_t>;

struct NodeResources {
  Amounts capacity;
  Amounts reserved;     ///< system and kube together
  Amounts allocatable;  ///< for requests of pods
  bool limits_pods = true;

  /// What the cgroup of all pods may use: capacity - reserved; 0: no limit.
  int64_t for_pods(const std::string& name) const;
};

/// Of the machine; `nodefs` is a folder on the file system of volumes and logs. Blocks shortly.
Amounts node_amounts(const std::string& nodefs, int64_t most_pods);

/// What the machine has of huge pages, by name ("hugepages-2Mi"), with 0 for sizes that it could have. Blocks shortly.
Amounts huge_page_amounts(const std::string& folder = "/sys/kernel/mm/hugepages");

/// Of the plugin's config. INVALID_ARGUMENT: a reserved amount that is none, or more than there is.
Result<NodeResources> read_node_resources(const boost::json::value& config, Amounts capacity,
                                          const EvictionSettings& eviction);

/// "OutOfmemory", with kubelet's words, if the pod does not fit beside the others.
std::optional<PodVerdict> admit_by_resources(const NodeResources& node,
                                             const std::vector<std::shared_ptr<const WantedPod>>& others,
                                             const core::Pod& pod);

/// Whom a critical pod may displace so that it fits: the fewest, of the lowest priority. Empty: that does not help.
std::vector<std::shared_ptr<const WantedPod>> to_preempt(const NodeResources& node,
                                                         std::vector<std::shared_ptr<const WantedPod>> others,
                                                         const core::Pod& pod);

}  // namespace pintle::agent
