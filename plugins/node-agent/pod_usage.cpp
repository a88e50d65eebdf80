#include "plugins/node-agent/pod_usage.hpp"

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_worker_common.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

PodStorage::Tree measure(const std::string& path) {
  const size_t slash = path.rfind('/');
  const Result<files::Descriptor> parent = files::open_folder(path.substr(0, slash));
  if (!parent) return {};
  const files::Usage usage = files::measure_tree(parent->get(), path.substr(slash + 1));
  return {static_cast<int64_t>(usage.bytes), static_cast<int64_t>(usage.inodes)};
}

}  // namespace

PodStorage measure_storage(const WantedPod& pod, const std::string& volumes_folder, const std::string& log_folder) {
  PodStorage storage;
  for (const core::Volume& volume : pod.pod->spec().volumes()) {
    const core::VolumeSource& source = volume.volume_source();
    // A hostPath is the node's own; what lies in memory counts as memory.
    if (source.has_host_path() || source.empty_dir().medium() == "Memory") continue;
    storage.volumes[volume.name()] = measure(volumes_folder + "/" + volume.name());
  }
  for (const auto* list : {&pod.pod->spec().init_containers(), &pod.pod->spec().containers()})
    for (const core::Container& container : *list)
      storage.logs[container.name()] = measure(log_folder + "/" + container.name());
  return storage;
}

Task<std::vector<PodUse>> measure_pods(WorkerContext& context, std::vector<std::shared_ptr<const WantedPod>> pods,
                                       bool with_storage) {
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
  if (!with_storage) co_return uses;
  auto walk = [files = context.files, node = context.node, pods] {
    std::vector<PodStorage> found;
    for (const std::shared_ptr<const WantedPod>& pod : pods)
      found.push_back(measure_storage(*pod, files.volumes_folder(pod->uid), log_folder_of(node, *pod)));
    return found;
  };
  auto walking = context.host.blocking(std::move(walk));
  const std::vector<PodStorage> storage = co_await std::move(walking);
  for (size_t i = 0; i < uses.size(); ++i) {
    for (const auto& [name, tree] : storage[i].volumes) {
      uses[i].volumes[name] = tree.bytes;
      uses[i].volume_bytes += tree.bytes;
      uses[i].volume_inodes += tree.inodes;
    }
    for (const auto& [name, tree] : storage[i].logs) {
      uses[i].containers[name].log_bytes = tree.bytes;
      uses[i].containers[name].log_inodes = tree.inodes;
    }
  }
  co_return uses;
}

}  // namespace pintle::agent
