#pragma once

/// What the agent keeps on disk for its pods, in the folder that all its instances share:
///
///     lock                       held by the instance that acts
///     pods/UID/pod.json          the pod as it was accepted (manifests.hpp)
///     pods/UID/volumes/NAME      an emptyDir volume
///
/// and each pod's log folder. All functions block and may run on any thread.

#include <map>
#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "plugins/node-agent/manifests.hpp"

namespace pintle::agent {

class PodFiles {
 public:
  explicit PodFiles(std::string folder) : folder_(std::move(folder)) {}

  const std::string& folder() const { return folder_; }
  /// All records; what is unreadable is reported by name and left out.
  std::vector<std::shared_ptr<const WantedPod>> load(std::vector<std::string>& problems) const;
  Status save(const WantedPod& pod) const;
  /// Makes what the pod's containers mount and log into; gives each volume's place on the node. FAILED_PRECONDITION: a hostPath
  /// is not what its type says.
  Result<std::map<std::string, std::string>> prepare(const WantedPod& pod, const std::string& log_folder) const;
  /// Removes logs, volumes and record.
  Status remove(const std::string& uid, const std::string& log_folder) const;
  /// Uids of all pods that have a folder.
  std::vector<std::string> uids() const;

 private:
  std::string pod_folder(const std::string& uid) const { return folder_ + "/pods/" + uid; }

  std::string folder_;
};

}  // namespace pintle::agent
