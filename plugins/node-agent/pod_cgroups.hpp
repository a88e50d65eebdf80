#pragma once

/// The cgroups of pods by their quality of service, as kubelet lays them out:
///
///     ROOT/podUID                 Guaranteed
///     ROOT/burstable/podUID       Burstable; all of them together weigh what their pods ask for
///     ROOT/besteffort/podUID      BestEffort; all of them together weigh the least
///
/// Where the container runtime's cgroup driver is systemd, they are the slices of these names (systemd/slices.hpp), as kubelet's are:
///
///     /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice      with '_' for the '-' of the UID
///
/// made and limited through systemd. The driver is the runtime's to choose (CRI's RuntimeConfig); it is asked for before each pod. A pod
/// that was there before another driver was chosen stays where it is.
///
/// A container's cgroup lies in its pod's (the runtime makes it). What the runtime is told of a pod's limits it sets itself; CRI has
/// no word for a limit of processes and none for the classes, so those are set here. What is empty when a pod has gone goes as well.
///
/// All functions block and may run on any thread.

#include <cstdint>
#include <pintle/status.hpp>
#include <string>

#include "sdk/support/systemd/manager.hpp"

namespace pintle::agent {

struct CgroupSettings {
  std::string root;         ///< "/kubepods"; empty: pods have no cgroups of their own
  int64_t pids_limit = 0;   ///< processes of one pod; 0: no limit
  bool are_slices = false;  ///< the runtime's driver is systemd
  systemd::Manager systemd;
  // What all pods may use together; 0: no limit.
  int64_t all_memory = 0;     ///< bytes
  int64_t all_cpu_milli = 0;  ///< thousandths of a processor, as their weight
  int64_t all_processes = 0;
};

/// Sets what all pods may use together, as far as the kernel has these controllers. FAILED_PRECONDITION names one that is missing.
Status limit_all_pods(const CgroupSettings& settings);

/// Where a cgroup with this neutral name (cgroup_of) lies: the name itself, or the slice's path.
std::string place_of(const CgroupSettings& settings, const std::string& name);

/// `path` is the pod's neutral name (cgroup_of), `cpu_shares` what it asks for: its class weighs as much from the start.
Status make_pod_cgroup(const CgroupSettings& settings, const std::string& path, uint64_t cpu_shares);
/// Removes what is left of the pod's cgroup where it is empty, and the classes with their last pod.
void discard_pod_cgroup(const CgroupSettings& settings, const std::string& uid);

}  // namespace pintle::agent
