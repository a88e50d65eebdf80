#pragma once

/// Clears up what pods leave: dead containers beyond those that are kept, logs of pods that have gone, images that nobody uses.
///
///     every minute         containers: at most so many dead ones on the whole node; logs of pods of ours that are not known any more
///     every image period   images: if their disk is fuller than the high threshold, the longest unused go until it is down to the low one
///     when disk is short   (node_pressure.hpp) all dead containers but the newest of each, all unused images
///
/// A pod's own worker removes its dead containers as they come (the newest and so many before it stay, for its status and for
/// `logs --previous`); here is only what needs the whole node. All on the plugin's lane, but for files.

#include <boost/json/value.hpp>
#include <chrono>
#include <optional>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <set>
#include <string>
#include <vector>

#include "plugins/node-agent/image_collection.hpp"
#include "plugins/node-agent/node_pressure.hpp"

namespace pintle::agent {

struct CollectionSettings {
  int64_t most_dead_containers = -1;  ///< of the node; -1: any number
  int high_percent = 85, low_percent = 80;
  std::chrono::nanoseconds minimum_image_age = std::chrono::minutes(2);
  std::chrono::nanoseconds maximum_image_age{0};  ///< unused ones go after it; 0: never for that
  std::chrono::nanoseconds container_period = std::chrono::minutes(1), image_period = std::chrono::minutes(5);
};

/// Of the plugin's config. INVALID_ARGUMENT names the key.
Result<CollectionSettings> read_collection_settings(const boost::json::value& config);

class GarbageCollection {
 public:
  GarbageCollection(Host& host, WorkerContext& context, const Workers& workers, const NodePressure& pressure,
                    CollectionSettings settings);

  /// Until the agent stops.
  Task<void> run();
  void stop() { wakeup_.notify(); }
  /// Everything that can go, for a disk that is short.
  Task<void> free_disk();

 private:
  Task<void> collect_containers();
  Task<void> collect_logs();
  Task<void> collect_images(bool all_unused);
  Task<Status> remove_image(KnownImage image);
  Task<std::optional<std::vector<KnownImage>>> list_images();
  Task<std::optional<std::set<std::string>>> images_in_use(std::vector<KnownImage> images);
  Task<void> await_workers();

  Host& host_;
  WorkerContext& context_;
  const Workers& workers_;
  const NodePressure& pressure_;
  CollectionSettings settings_;
  Wakeup wakeup_;
  std::optional<ImageUses> uses_;
  bool told_full_ = false;
  Metric freed_bytes_, removed_images_;
};

}  // namespace pintle::agent
