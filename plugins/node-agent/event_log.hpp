#pragma once

/// What happened to a pod, for people: the newest events, repeated ones counted instead of repeated.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::agent {

struct PodEvent {
  int64_t time = 0;  ///< of the latest, nanoseconds since 1970
  std::string type;  ///< "Normal" or "Warning"
  std::string reason;
  std::string message;
  uint32_t count = 1;
};

class EventLog {
 public:
  /// The same reason and message again raises the count, which is returned, and makes the event the newest.
  uint32_t add(std::string_view type, std::string_view reason, std::string_view message, int64_t time);
  const std::vector<PodEvent>& events() const { return events_; }

 private:
  std::vector<PodEvent> events_;
};

}  // namespace pintle::agent
