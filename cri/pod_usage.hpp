#pragma once

/// What a pod uses beyond what its containers tell one by one: its cgroup as a whole, its processes, its network.
///
/// A pod with a cgroup of its own (PodSandboxConfig.linux.cgroup_parent) is measured there: that counts what ended
/// containers have used and what belongs to no container. The network is read from /proc/PID/net/dev of a process in it.
/// What cannot be read is left out. Blocks; any thread.

#include <optional>
#include <string>
#include <vector>

#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/proc/interfaces.hpp"

namespace pintle::cri {

struct PodToMeasure {
  std::string cgroup;            ///< empty: none of its own
  std::vector<int> pids;         ///< first processes of its running containers
  bool has_own_network = false;  ///< else the node's network is not the pod's to report
};

struct PodUsage {
  std::optional<cgroup::Stats> whole;  ///< of the pod's cgroup
  uint64_t processes = 0;
  std::vector<proc::InterfaceCounters> interfaces;  ///< without the loopback
};

/// In the order of `pods`.
std::vector<PodUsage> measure_pods(const std::vector<PodToMeasure>& pods);

}  // namespace pintle::cri
