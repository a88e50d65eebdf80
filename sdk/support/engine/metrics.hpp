#pragma once

/// Metrics in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4): the
/// plugins' own, each sample with the label `plugin`. Updates are lock-free; a metric of the same plugin, name and labels has
/// the same id. One name has one kind and one help text in the whole process.

#include <pintle/abi.h>

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::engine {

/// A label's value with backslash, quote and newline escaped.
std::string escape_label(std::string_view value);

class Metrics {
 public:
  /// INVALID_ARGUMENT names what breaks Prometheus' naming rules; RESOURCE_EXHAUSTED: a plugin has 4,096 of them already.
  Result<uint64_t> define(const std::string& plugin, const pintle_metric& metric);
  /// NOT_FOUND: no such id of this plugin. INVALID_ARGUMENT: a counter goes only up.
  Status update(const std::string& plugin, uint64_t id, double value);
  /// Takes the plugin's samples out of the text; its ids stay valid.
  void hide(const std::string& plugin);
  std::string render();
  /// The text of another process's metrics, in place of what it sent before; lines are merged by family.
  void set_foreign(const std::string& plugin, std::string text);

 private:
  struct Sample {
    std::string plugin, labels;  // labels as they are printed, without braces
    std::atomic<double> value{0};
    std::unique_ptr<std::atomic<uint64_t>[]> buckets;  // one more than bounds, the last is +Inf
    std::atomic<uint64_t> count{0};
    std::atomic<bool> hidden{false};
    const struct Family* family = nullptr;
  };

  std::mutex lock_;
  std::map<std::string, struct Family, std::less<>> families_;
  std::deque<Sample> samples_;  // id - 1; never shrinks
  std::atomic<uint64_t> count_{0};
  std::map<std::string, uint64_t> of_plugin_;
  std::map<std::string, std::string> foreign_;
};

struct Family {
  uint32_t kind = 0;
  std::string help;
  std::vector<double> bounds;
};

}  // namespace pintle::engine
