#include "plugins/node-agent/storage_meter.hpp"

#include <algorithm>

#include "plugins/node-agent/backoff.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

void measure_folders(const std::string& path, std::map<std::string, PodStorage::Tree>& trees) {
  const Result<files::Descriptor> folder = files::open_folder(path);
  if (!folder) return;
  const Result<std::vector<std::string>> names = files::list_folder(folder->get());
  if (!names) return;
  for (const std::string& name : *names) {
    const files::Usage usage = files::measure_tree(folder->get(), name);
    trees[name] = {static_cast<int64_t>(usage.bytes), static_cast<int64_t>(usage.inodes)};
  }
}

PodStorage walk(const StoragePlace& place) {
  PodStorage found;
  found.time = std::chrono::duration_cast<std::chrono::nanoseconds>(WallClock::now().time_since_epoch()).count();
  measure_folders(place.volumes_folder, found.volumes);
  measure_folders(place.log_folder, found.logs);
  for (const std::string& container : place.containers) found.logs.try_emplace(container);
  return found;
}

}  // namespace

StorageMeter::StorageMeter(Host& host)
    : host_(host),
      walks_count_(host.counter("node_agent_storage_walks_total",
                                "Times that the volumes and logs of a pod were walked to measure them.", {})) {}

Task<std::map<std::string, PodStorage>> StorageMeter::measure(std::vector<StoragePlace> places,
                                                              std::chrono::nanoseconds oldest) {
  const Clock::time_point now = Clock::now();
  std::erase_if(walks_, [&](const auto& one) { return now - one.second.when >= kOldest; });
  std::map<std::string, PodStorage> found;
  std::vector<StoragePlace> stale;
  for (StoragePlace& place : places) {
    const auto known = walks_.find(place.uid);
    const bool fresh = known != walks_.end() && now - known->second.when < oldest &&
                       std::all_of(place.containers.begin(), place.containers.end(),
                                   [&](const std::string& name) { return known->second.found.logs.contains(name); });
    if (fresh)
      found[place.uid] = known->second.found;
    else
      stale.push_back(std::move(place));
  }
  if (stale.empty()) co_return found;
  walks_count_.add(static_cast<double>(stale.size()));
  auto walk_all = [stale = std::move(stale)] {
    std::map<std::string, Walk> walked;
    for (const StoragePlace& place : stale) walked[place.uid] = {Clock::now(), walk(place)};
    return walked;
  };
  auto walking = host_.blocking(std::move(walk_all));
  std::map<std::string, Walk> walked = co_await std::move(walking);
  for (auto& [uid, one] : walked) {
    found[uid] = one.found;
    walks_[uid] = std::move(one);
  }
  co_return found;
}

}  // namespace pintle::agent
