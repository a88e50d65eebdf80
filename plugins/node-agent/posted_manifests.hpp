#pragma once

/// Pods that were handed in by HTTP POST to the node API: kept on disk, so that they stay until somebody takes them back.
///
///     posted/NAMESPACE_NAME.json      in the agent's state; one pod each, as it was handed in
///
/// `keep` is durable when it completes, so an acknowledged pod comes back after kill -9 and power cut. Of several pods handed in
/// together all are kept, or none.
///
/// A pod keeps its uid while it is handed in unchanged; changed, it is another pod that takes the place of the former one, as with
/// files. In Kubernetes' words its source is "http": a static pod, as from a URL.
///
///     PostedManifests posted(host, state_folder);
///     co_await posted.load();
///     co_await posted.keep(pods);
///     co_await posted.forget("default/web");
///
/// All on the plugin's lane.

#include <coroutine>
#include <deque>
#include <map>
#include <memory>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <string>
#include <vector>

#include "plugins/node-agent/manifests.hpp"

namespace pintle::agent {

/// What such a pod has in place of a manifest's path.
inline constexpr const char* kPostedPath = "post:/pods";

class PostedManifests {
 public:
  using Pods = std::vector<std::shared_ptr<const WantedPod>>;

  PostedManifests(Host& host, std::string state_folder);

  /// What lies on the disk. A file that cannot be read is reported and left alone; if its pod is among `accepted` (what the agent
  /// has taken before), that counts.
  Task<void> load(Pods accepted);
  /// Reads what was handed in: a v1 Pod, several documents, a PodList or List. INVALID_ARGUMENT names what is wrong.
  Result<std::vector<WantedPod>> read(const std::string& text) const;
  Task<Status> keep(Pods pods);
  Task<Status> forget(std::string key);

  /// By "namespace/name".
  const std::map<std::string, std::shared_ptr<const WantedPod>>& pods() const { return pods_; }

 private:
  struct Turn;
  Turn turn();
  Task<Status> write(Pods pods);
  Task<Status> erase(std::string key);

  Host& host_;
  std::string folder_;
  bool is_writing_ = false;
  std::deque<std::coroutine_handle<>> waiting_;  ///< changes are made one after the other
  std::map<std::string, std::shared_ptr<const WantedPod>> pods_;
};

}  // namespace pintle::agent
