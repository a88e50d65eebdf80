#pragma once

/// What pods take of the node's disk: one walk over their volumes and logs for all who ask.
///
/// Walking is dear, so what was found is told again to everybody whom it is fresh enough: statistics take what is a minute old, as
/// kubelet does; limits of local storage want it newer; eviction from a full disk wants it as it is now. Pods that nobody asks for are
/// not walked.
///
///     StorageMeter storage(host);
///     auto found = co_await storage.measure({{pod->uid, volumes, logs, {"web"}}}, std::chrono::minutes(1));
///     found.at(pod->uid).volumes.at("cache").bytes
///
/// All on the plugin's lane, but for the walking.

#include <chrono>
#include <cstdint>
#include <map>
#include <pintle/host.hpp>
#include <pintle/task.hpp>
#include <string>
#include <vector>

namespace pintle::agent {

/// Local storage of one pod: each folder of its volumes, and the logs of each container.
struct PodStorage {
  struct Tree {
    int64_t bytes = 0, inodes = 0;
  };
  int64_t time = 0;                     ///< of the walk, nanoseconds since 1970
  std::map<std::string, Tree> volumes;  ///< by name
  std::map<std::string, Tree> logs;     ///< by container
};

/// Where a pod keeps what.
struct StoragePlace {
  std::string uid, volumes_folder, log_folder;
  std::vector<std::string> containers;  ///< whose logs have to be among what is found
};

class StorageMeter {
 public:
  explicit StorageMeter(Host& host);

  /// By uid. What was found within `oldest` counts; the others are walked.
  Task<std::map<std::string, PodStorage>> measure(std::vector<StoragePlace> places, std::chrono::nanoseconds oldest);

  /// As long as anybody takes what was found before.
  static constexpr std::chrono::minutes kOldest{1};

 private:
  using Clock = std::chrono::steady_clock;
  struct Walk {
    Clock::time_point when;
    PodStorage found;
  };

  Host& host_;
  Metric walks_count_;
  std::map<std::string, Walk> walks_;  ///< by uid
};

}  // namespace pintle::agent
