#pragma once

/// What pods use of the node now: memory and processes as the runtime tells them (CRI's ListPodSandboxStats), local storage as a walk
/// over their volumes and logs finds it. Walking takes a thread that may block, and is done only where somebody asks for storage.

#include <map>
#include <memory>
#include <pintle/task.hpp>
#include <string>
#include <vector>

#include "plugins/node-agent/eviction_order.hpp"

namespace pintle::agent {

struct WorkerContext;

/// Local storage of one pod: each of its volumes that is on the node's disk, and the logs of each container.
struct PodStorage {
  struct Tree {
    int64_t bytes = 0, inodes = 0;
  };
  std::map<std::string, Tree> volumes;  ///< by name
  std::map<std::string, Tree> logs;     ///< by container
};

/// Blocks.
PodStorage measure_storage(const WantedPod& pod, const std::string& volumes_folder, const std::string& log_folder);

/// In the order of `pods`. A pod of which the runtime tells nothing is not `measured`. `with_storage`: volumes and logs too.
Task<std::vector<PodUse>> measure_pods(WorkerContext& context, std::vector<std::shared_ptr<const WantedPod>> pods,
                                       bool with_storage);

}  // namespace pintle::agent
