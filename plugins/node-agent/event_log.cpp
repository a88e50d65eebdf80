#include "plugins/node-agent/event_log.hpp"

#include <algorithm>

namespace pintle::agent {

namespace {
constexpr size_t kMostEvents = 40;
}

uint32_t EventLog::add(std::string_view type, std::string_view reason, std::string_view message, int64_t time) {
  const auto same = std::find_if(events_.begin(), events_.end(), [&](const PodEvent& event) {
    return event.reason == reason && event.message == message;
  });
  PodEvent event{time, std::string(type), std::string(reason), std::string(message), 1};
  if (same != events_.end()) {
    event.count = same->count + 1;
    events_.erase(same);
  } else if (events_.size() == kMostEvents) {
    events_.erase(events_.begin());
  }
  events_.push_back(std::move(event));
  return events_.back().count;
}

}  // namespace pintle::agent
