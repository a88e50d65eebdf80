#include "plugins/node-agent/pod_usage.hpp"

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_worker_common.hpp"
#include "plugins/node-agent/storage_meter.hpp"

namespace pintle::agent {

namespace {

/// A hostPath is the node's own; what lies in memory counts as memory.
bool is_on_disk(const core::Volume& volume) {
  return !volume.volume_source().has_host_path() && volume.volume_source().empty_dir().medium().empty();
}

StoragePlace place_of(const WorkerContext& context, const WantedPod& pod) {
  StoragePlace place{pod.uid, context.files.volumes_folder(pod.uid), log_folder_of(context.node, pod), {}};
  for (const auto* list : {&pod.pod->spec().init_containers(), &pod.pod->spec().containers()})
    for (const core::Container& container : *list) place.containers.push_back(container.name());
  return place;
}

}  // namespace

Task<std::vector<PodUse>> measure_pods(WorkerContext& context, std::vector<std::shared_ptr<const WantedPod>> pods,
                                       std::optional<std::chrono::nanoseconds> oldest_storage) {
  std::vector<PodUse> uses(pods.size());
  std::map<std::string, PodUse*> by_uid;
  for (size_t i = 0; i < pods.size(); ++i) {
    uses[i].pod = pods[i];
    by_uid[pods[i]->uid] = &uses[i];
  }
  cri::ListPodSandboxStatsRequest request;
  CallOptions options;
  options.timeout = kQuickCall;
  auto listing = context.runtime->ListPodSandboxStats(request, std::move(options));
  const Result<cri::ListPodSandboxStatsResponse> listed = co_await listing;
  if (!listed) context.host.warn("the runtime does not tell what pods use", {{"problem", listed.status().message()}});
  if (listed)
    for (const cri::PodSandboxStats& stats : listed->stats()) {
      const auto found = by_uid.find(value_of(stats.attributes().labels(), label::kPodUid));
      if (found == by_uid.end()) continue;
      PodUse& use = *found->second;
      use.measured = true;
      use.memory = static_cast<int64_t>(stats.linux().memory().working_set_bytes().value());
      use.processes = static_cast<int64_t>(stats.linux().process().process_count().value());
      for (const cri::ContainerStats& container : stats.linux().containers()) {
        ContainerUse& one = use.containers[value_of(container.attributes().labels(), label::kContainerName)];
        one.memory += static_cast<int64_t>(container.memory().working_set_bytes().value());
        one.writable_bytes += static_cast<int64_t>(container.writable_layer().used_bytes().value());
        one.writable_inodes += static_cast<int64_t>(container.writable_layer().inodes_used().value());
      }
    }
  if (!oldest_storage) co_return uses;
  std::vector<StoragePlace> places;
  for (const std::shared_ptr<const WantedPod>& pod : pods) places.push_back(place_of(context, *pod));
  auto walking = context.storage->measure(std::move(places), *oldest_storage);
  const std::map<std::string, PodStorage> storage = co_await std::move(walking);
  for (PodUse& use : uses) {
    const auto found = storage.find(use.pod->uid);
    if (found == storage.end()) continue;
    for (const core::Volume& volume : use.pod->pod->spec().volumes()) {
      const auto tree = found->second.volumes.find(volume.name());
      if (tree == found->second.volumes.end() || !is_on_disk(volume)) continue;
      use.volumes[volume.name()] = tree->second.bytes;
      use.volume_bytes += tree->second.bytes;
      use.volume_inodes += tree->second.inodes;
    }
    for (const auto& [name, tree] : found->second.logs) {
      use.containers[name].log_bytes = tree.bytes;
      use.containers[name].log_inodes = tree.inodes;
    }
  }
  co_return uses;
}

}  // namespace pintle::agent
