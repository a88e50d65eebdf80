#pragma once

/// What the agent keeps on disk for its pods, in the folder that all its instances share:
///
///     lock                       held by the instance that acts
///     pods/UID/pod.json          the pod as it was accepted (manifests.hpp)
///     pods/UID/ready             the containers whose readiness probe has succeeded
///     pods/UID/user-namespace.json  the ids of a pod with users of its own (id_ranges.hpp)
///     pods/UID/verdict.json      why the node ended it (pod_verdict.hpp), if it did
///     pods/UID/volumes/NAME      a volume that is not the node's own (volumes.hpp)
///
/// and each pod's log folder, and its cgroup (pod_cgroups.hpp). All functions block and may run on any thread.

#include <map>
#include <memory>
#include <pintle/status.hpp>
#include <set>
#include <string>
#include <vector>

#include "plugins/node-agent/id_ranges.hpp"
#include "plugins/node-agent/manifests.hpp"
#include "plugins/node-agent/pod_cgroups.hpp"
#include "plugins/node-agent/pod_verdict.hpp"
#include "plugins/node-agent/variables.hpp"

namespace pintle::agent {

/// What one start of a container needs on the node besides the pod's volumes.
struct ContainerFiles {
  std::map<int, std::string> sub_paths;  ///< by index of the volume mount
  std::string hosts;                     ///< to be mounted at /etc/hosts; empty: the runtime's own
};

/// What a pod has on the node before it runs.
struct PodPlaces {
  std::map<std::string, std::string> volumes;  ///< where each is
  PodIds ids;                                  ///< of a pod with users of its own
  std::set<std::string> ready;                 ///< ids of containers that were ready when this was kept last
};

class PodFiles {
 public:
  explicit PodFiles(std::string folder, CgroupSettings cgroups = {}, IdRangeSettings ids = {})
      : folder_(std::move(folder)), cgroups_(std::move(cgroups)), ids_(std::move(ids)) {}

  const std::string& folder() const { return folder_; }
  /// All records; what is unreadable is reported by name and left out.
  std::vector<std::shared_ptr<const WantedPod>> load(std::vector<std::string>& problems) const;
  Status save(const WantedPod& pod) const;
  /// Verdicts of this boot by uid.
  std::map<std::string, PodVerdict> load_verdicts(const std::string& boot_id, std::vector<std::string>& problems) const;
  Status save_verdict(const std::string& uid, const PodVerdict& verdict, const std::string& boot_id) const;
  void forget_verdict(const std::string& uid) const;
  /// Makes what the pod's containers mount and log into, and its cgroup. FAILED_PRECONDITION: a hostPath is not what its type
  /// says.
  Result<PodPlaces> prepare(const WantedPod& pod, const std::string& log_folder, const CgroupSettings& cgroups) const;
  /// Keeps which containers are ready, for an agent that comes after this one.
  Status keep_ready(const std::string& uid, const std::set<std::string>& containers) const;
  /// Whether `prepare_container` has anything to make.
  static bool has_container_files(const core::Pod& pod, const core::Container& container);
  /// Makes it anew, before each start. FAILED_PRECONDITION: a subPath cannot be had.
  Result<ContainerFiles> prepare_container(const WantedPod& pod, const core::Container& container,
                                           const RunningFacts& facts, const std::map<std::string, std::string>& volumes,
                                           const std::string& cluster_domain) const;
  /// Unmounts and removes its volumes, and its logs if their folder is given; the record stays.
  Status empty(const std::string& uid, const std::string& log_folder) const;
  /// Where volumes of it lie that are not the node's own, each under its name.
  std::string volumes_folder(const std::string& uid) const { return pod_folder(uid) + "/volumes"; }
  /// Unmounts and removes logs, volumes and record.
  Status remove(const std::string& uid, const std::string& log_folder) const;
  /// Uids of all pods that have a folder.
  std::vector<std::string> uids() const;

 private:
  std::string pod_folder(const std::string& uid) const { return folder_ + "/pods/" + uid; }

  std::string folder_;
  CgroupSettings cgroups_;
  IdRangeSettings ids_;
};

}  // namespace pintle::agent
