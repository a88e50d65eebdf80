#pragma once

/// Kubernetes' back-off of restarts and pulls: the first time at once, then 10 s, 20 s, 40 s, ... at most 5 min; after 10 min
/// without trouble it begins anew.

#include <algorithm>
#include <chrono>

namespace pintle::agent {

using WallClock = std::chrono::system_clock;
using WallTime = WallClock::time_point;

struct BackoffSettings {
  std::chrono::nanoseconds initial = std::chrono::seconds(10);
  std::chrono::nanoseconds maximum = std::chrono::minutes(5);
  std::chrono::nanoseconds reset = std::chrono::minutes(10);
};

/// Of one container, or of one image.
class Backoff {
 public:
  explicit Backoff(const BackoffSettings& settings) : settings_(&settings) {}

  /// When what failed (or ended) at `failed` may be tried again.
  WallTime ready_at(WallTime failed) const {
    return expired(failed) ? failed : failed + std::chrono::duration_cast<WallClock::duration>(delay_);
  }
  /// It is tried again now, after what ended at `failed`.
  void tried(WallTime failed, WallTime now) {
    delay_ = expired(failed) ? settings_->initial : std::min(delay_ * 2, settings_->maximum);
    tried_ = now;
  }
  std::chrono::nanoseconds delay() const { return delay_; }

 private:
  bool expired(WallTime failed) const { return delay_.count() == 0 || failed - tried_ > settings_->reset; }

  const BackoffSettings* settings_;
  std::chrono::nanoseconds delay_{0};
  WallTime tried_;
};

}  // namespace pintle::agent
