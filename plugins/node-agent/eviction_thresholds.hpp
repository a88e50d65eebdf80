#pragma once

/// When the node runs short, and of what: thresholds of signals (node_signals.hpp), hard and soft, and the node's conditions that
/// follow from them.
///
///     available < threshold --> met --(soft: for its grace period)--> acts: one pod is evicted, then all is measured again
///                                 ^                                     |
///                                 +--- until available >= threshold + minimum reclaim ----> not met
///
/// A condition (MemoryPressure, DiskPressure, PIDPressure) is true from the first threshold that is met until the transition period
/// after the last one, so that it does not flutter. The names are kubelet's (KubeletConfiguration v1beta1). Pure, but for the reading
/// of the config.

#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <map>
#include <pintle/status.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/node-agent/node_signals.hpp"

namespace pintle::agent {

/// "100Mi" or "10%" of the capacity.
struct Amount {
  int64_t quantity = 0;
  double percent = 0;
  bool is_percentage = false;

  int64_t of(int64_t capacity) const;
};
/// INVALID_ARGUMENT says what an amount looks like.
Result<Amount> parse_amount(std::string_view text);

/// Go's notation: "30s", "1m30s", "1.5h", "250ms", "0". INVALID_ARGUMENT says what a duration looks like.
Result<std::chrono::nanoseconds> parse_duration(std::string_view text);

struct Threshold {
  Signal signal = Signal::memory_available;
  Amount value;
  Amount minimum_reclaim;
  std::chrono::nanoseconds grace{0};  ///< 0: a hard one
  bool is_hard() const { return grace.count() == 0; }
};

struct EvictionSettings {
  std::vector<Threshold> thresholds;
  std::chrono::nanoseconds transition = std::chrono::minutes(5);
  int64_t longest_pod_grace = 0;  ///< seconds, for pods that a soft threshold ends
};

/// Of the plugin's config. INVALID_ARGUMENT names the key: a soft threshold without its grace period.
Result<EvictionSettings> read_eviction_settings(const boost::json::value& config);

class ThresholdWatch {
 public:
  using Clock = std::chrono::steady_clock;

  explicit ThresholdWatch(EvictionSettings settings) : settings_(std::move(settings)) {}

  /// Signals that were not observed keep what is known of them.
  void update(const Observations& seen, Clock::time_point now);

  /// Those that must be acted on now: in the order of signals, hard ones first.
  std::vector<Threshold> acting(Clock::time_point now) const;
  /// Whether anything is met, even if its grace period goes on.
  bool any_met() const { return !met_.empty(); }
  /// Whether it is still met, as of the last update.
  bool is_met(const Threshold& threshold) const;

  /// "DiskPressure", "MemoryPressure", "PIDPressure": those that are true.
  std::set<std::string> conditions(Clock::time_point now) const;

  const Observations& observations() const { return seen_; }
  const EvictionSettings& settings() const { return settings_; }
  /// How little of this signal may be available before something happens; 0: any.
  int64_t highest_threshold(Signal signal) const;

 private:
  EvictionSettings settings_;
  Observations seen_;
  std::map<size_t, Clock::time_point> met_;  ///< index of the threshold, since when
  std::map<std::string, Clock::time_point> pressed_;
};

/// The node's condition that a signal leads to.
std::string_view condition_of(Signal signal);

}  // namespace pintle::agent
