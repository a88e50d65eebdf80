#pragma once

/// Where the cgroups of pods, containers and monitors lie, and who makes them: the node's cgroup driver.
///
///                 cgroupfs                       systemd
///     pod         PARENT                         PARENT, a slice made through systemd
///     container   PARENT/ID, made here           PARENT/pintle-ID.scope, made by the OCI runtime through systemd
///     monitors    /pintle/monitors               /pintle.slice/pintle-monitors.service, delegated to us
///
/// PARENT is what CRI names (PodSandboxConfig.linux.cgroup_parent): a path, with systemd one that ends in `.slice`. Pods without one have
/// `cgroupParent` of the config, with systemd the slice of that name.
///
/// A new pod's parent has to be of the driver's form. A container's driver follows from its pod's parent, not from the config: pods that
/// were there before another driver was chosen go on as they are, with containers that start anew.
///
/// Limits of slices and scopes are told to systemd, so that they stay when it writes its cgroups anew (systemd/manager.hpp). All
/// functions but the first two block; any thread.

#include <map>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/runtime-oci/settings.hpp"

namespace pintle::runtime_oci {

struct ContainerRecord;

/// The driver for the config's word: "auto" is systemd where it runs a host with cgroup v2. FAILED_PRECONDITION: there is no such here.
Result<CgroupDriver> choose_driver(std::string_view word, const cgroup::Layout& cgroups, bool has_systemd);
std::string_view driver_name(CgroupDriver driver);

struct Place {
  std::string cgroup;        ///< "/kubepods/pod1/4f2a...", "/kubepods.slice/kubepods-pod1.slice/pintle-4f2a....scope"
  std::string scope;         ///< the unit; empty with cgroupfs
  std::string cgroups_path;  ///< for the OCI runtime, "kubepods-pod1.slice:pintle:4f2a..."
};
/// Of a container in a pod with this parent; empty: a pod without.
Place place_of(const Node& node, const std::string& parent, const std::string& id);

/// Refuses a parent that is not of the driver's form.
Status check_parent(const Node& node, const std::string& parent);

/// Makes the pod's cgroup with its limits; if it is there, gives it these.
Status make_pod_place(const Node& node, const std::string& parent, const cgroup::Limits& limits);
/// Removes it. A slice that somebody else made stays.
Status remove_pod_place(const Node& node, const std::string& parent);

/// What the OCI runtime has to tell systemd of a new scope, as annotations of its spec. The runtimes write limits into the cgroup and
/// tell systemd few of them (crun 1.8: the weight alone); the others would be gone with the next `daemon-reload`.
Result<std::map<std::string, std::string>> scope_annotations(const cgroup::Limits& limits);
/// Tells systemd the rest, which no annotation can hold, once the scope is there.
Status finish_scope(const Node& node, const ContainerRecord& record, const cgroup::Limits& limits);

/// Changes a container's limits.
Status limit_container(const Node& node, const ContainerRecord& record, const cgroup::Limits& limits);
/// Kills what is left in a container's cgroup and removes it.
Status remove_container_place(const Node& node, const ContainerRecord& record);

/// Processes of the pod's cgroup that the kernel has killed for memory. It lasts longer than a scope, which goes with its process.
uint64_t out_of_memory_kills_beside(const Node& node, const ContainerRecord& record);

/// Makes the monitors' cgroup where it is not there.
Status make_monitors_place(const Node& node);
/// Every cgroup that monitors of this instance may be in, also from before another driver was chosen.
std::vector<std::string> monitors_places(const Node& node);
/// When no container is left: takes away the cgroups above them, unless others use them. Waits a quarter of a second at most for
/// monitors that are ending.
void discard_places(const Node& node);

}  // namespace pintle::runtime_oci
