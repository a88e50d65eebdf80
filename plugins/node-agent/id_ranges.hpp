#pragma once

/// Which ids of the node a pod with `hostUsers: false` gets: ranges of the same length, side by side, each of one pod.
///
///     base            base + idsPerPod      base + 2 * idsPerPod
///     | pod a         | pod b               | free ...
///
/// A pod's range is kept in its folder, `pods/UID/user-namespace.json`, before anything of the pod is made, and is free again when
/// that folder goes: so a range survives restarts, and has never two pods. Where the ranges lie: the config's `base`; else what
/// /etc/subuid and /etc/subgid give the user "pintle" or "kubelet" alike; else from 65536 on, as kubelet has it. Ranges that those
/// files give other users are left out.
///
/// Blocks; any thread.

#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::agent {

/// `count` ids of the node from `first` on; none: the pod has the node's users.
struct PodIds {
  uint32_t first = 0;
  uint32_t count = 0;
};

struct IdRangeSettings {
  uint32_t base = 0;  ///< 0: as the node's files say
  uint32_t ids_per_pod = 65536;
  std::string subuid = "/etc/subuid";
  std::string subgid = "/etc/subgid";
};

/// One line of subuid(5).
struct SubordinateIds {
  std::string user;
  uint64_t first = 0;
  uint64_t count = 0;
};
/// What is no such line is passed over.
std::vector<SubordinateIds> parse_subordinate_ids(std::string_view text);

/// The first range that none of `taken` has a part of. RESOURCE_EXHAUSTED: there is none left. FAILED_PRECONDITION: the files give
/// "pintle" or "kubelet" users and groups that differ.
Result<PodIds> choose_ids(const IdRangeSettings& settings, const std::vector<PodIds>& taken, std::string_view subuid,
                          std::string_view subgid);

/// The pod's range, chosen and kept if it has none yet. `pods` is the folder of all pods' folders.
Result<PodIds> ids_of_pod(const IdRangeSettings& settings, const std::string& pods, const std::string& uid);

}  // namespace pintle::agent
