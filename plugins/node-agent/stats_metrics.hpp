#pragma once

/// What the node uses as Prometheus text, under the names that kubelet and cAdvisor gave it, so that dashboards find them.

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace pintle::agent {

struct NodeStats;

/// Prometheus' text format 0.0.4: families one after the other, each with its head.
class MetricsText {
 public:
  using Label = std::pair<std::string_view, std::string_view>;
  /// Begins a family; one without samples leaves no trace.
  void family(std::string_view name, std::string_view type, std::string_view help);
  void sample(std::initializer_list<Label> labels, double value);
  std::string text() const { return text_; }

 private:
  std::string name_, head_, text_;
};

/// /metrics/cadvisor
std::string cadvisor_metrics(const NodeStats& stats);
/// /metrics/resource
std::string resource_metrics(const NodeStats& stats);
/// The same where nothing could be gathered.
std::string no_resource_metrics();

}  // namespace pintle::agent
