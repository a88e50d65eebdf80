#pragma once

/// What pods use of the node now: memory and processes as the runtime tells them (CRI's ListPodSandboxStats), local storage as
/// the storage meter finds it.

#include <chrono>
#include <memory>
#include <optional>
#include <pintle/task.hpp>
#include <vector>

#include "plugins/node-agent/eviction_order.hpp"

namespace pintle::agent {

struct WorkerContext;

/// In the order of `pods`. A pod of which the runtime tells nothing is not `measured`. `oldest_storage`: volumes and logs too, as they were
/// no longer ago.
Task<std::vector<PodUse>> measure_pods(WorkerContext& context, std::vector<std::shared_ptr<const WantedPod>> pods,
                                       std::optional<std::chrono::nanoseconds> oldest_storage);

}  // namespace pintle::agent
