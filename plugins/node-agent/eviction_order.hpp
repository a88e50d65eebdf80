#pragma once

/// Which pod goes first when the node runs short, and what it is told: Kubernetes' order.
///
///     memory, disk   those that use more than they asked for; then the lower priority; then who uses more beyond its request
///     processes      the lower priority; then who has more
///
/// The node's own pods (priority from 2,000,000,000) never go. Pure.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugins/node-agent/eviction_thresholds.hpp"
#include "plugins/node-agent/manifests.hpp"

namespace pintle::agent {

/// What one container uses of the node's local storage is in its logs and in what it wrote over its image.
struct ContainerUse {
  int64_t memory = 0;  ///< working set, bytes
  int64_t writable_bytes = 0, writable_inodes = 0;
  int64_t log_bytes = 0, log_inodes = 0;
};

struct PodUse {
  std::shared_ptr<const WantedPod> pod;
  bool measured = false;  ///< false: nothing could be learnt of it, so it goes first
  int64_t memory = 0;     ///< working set of all of it, bytes
  int64_t processes = 0;
  int64_t volume_bytes = 0, volume_inodes = 0;
  std::map<std::string, int64_t> volumes;  ///< bytes by name
  std::map<std::string, ContainerUse> containers;
};

/// Which parts of a pod lie on the file system that runs short.
struct DiskParts {
  bool volumes_and_logs = true;
  bool writable_layers = true;
};

/// What a pod uses of a signal's resource: bytes, inodes or processes.
int64_t use_of(const PodUse& pod, Signal signal, DiskParts parts);

/// Best to evict first; critical ones are left out.
std::vector<PodUse> in_order_of_eviction(std::vector<PodUse> pods, Signal signal, DiskParts parts);

/// "The node was low on resource: memory. Threshold quantity: 100Mi, available: 95Mi. Container x was using ..."
std::string eviction_message(const PodUse& pod, const Threshold& threshold, const Observation& observation,
                             DiskParts parts);

}  // namespace pintle::agent
