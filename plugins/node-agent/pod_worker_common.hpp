#pragma once

/// What the files of PodWorker share among themselves.

#include <charconv>
#include <chrono>
#include <optional>
#include <string>

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_worker.hpp"

namespace pintle::agent {

using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr seconds kQuickCall{10}, kMakeCall{120}, kStopSlack{60};
inline constexpr seconds kRetryAfterError{1};
inline constexpr seconds kLookForImage{10};  // while it is missing: somebody may load it

inline WallTime wall_time(int64_t nanoseconds_since_1970) {
  return WallTime(std::chrono::duration_cast<WallClock::duration>(std::chrono::nanoseconds(nanoseconds_since_1970)));
}

inline int64_t nanoseconds(WallTime time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

inline void take_earlier(std::optional<WallTime>& earliest, const std::optional<WallTime>& other) {
  if (other && (!earliest || *other < *earliest)) earliest = other;
}

template <class Map>
std::string value_of(const Map& map, const char* key) {
  const auto found = map.find(key);
  return found == map.end() ? std::string() : found->second;
}

inline uint32_t restarts_of(const cri::ContainerStatus& status) {
  const std::string text = value_of(status.annotations(), annotation::kRestartCount);
  uint32_t count = status.metadata().attempt();
  std::from_chars(text.data(), text.data() + text.size(), count);
  return count;
}

inline bool is_running(const PodRun::Container& container) {
  return !container.statuses.empty() && container.statuses.front().state() == cri::CONTAINER_RUNNING;
}

/// Whether it runs and has come up.
inline bool is_started(const PodRun::Container& container) {
  return is_running(container) && !container.is_starting && (!container.probes || container.probes->is_started());
}

inline bool is_ready(const PodRun::Container& container) {
  return is_started(container) && (!container.probes || container.probes->is_ready());
}

/// When the pod may not be active any more.
inline std::optional<WallTime> deadline_of(const WantedPod& pod) {
  if (!pod.pod->spec().has_active_deadline_seconds()) return std::nullopt;
  return wall_time(pod.created_at) + seconds(pod.pod->spec().active_deadline_seconds());
}

inline bool is_gone(const Status& status) { return status.is_ok() || status.code() == Code::not_found; }

inline std::string duration_text(std::chrono::nanoseconds duration) {
  const auto count = std::chrono::duration_cast<milliseconds>(duration).count();
  return count % 1000 == 0 ? std::to_string(count / 1000) + "s" : std::to_string(count) + "ms";
}

}  // namespace pintle::agent
