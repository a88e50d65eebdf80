#include "sdk/support/engine/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "sdk/support/engine/message.hpp"

namespace pintle::engine {
namespace {

constexpr uint64_t max_per_plugin = 4096;

bool is_name(std::string_view name, bool colon) {
  if (name.empty() || name.size() > 200 || (name[0] >= '0' && name[0] <= '9')) return false;
  return std::all_of(name.begin(), name.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (colon && c == ':');
  });
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char out[40];
  snprintf(out, sizeof out, "%.15g", value);
  return out;
}

void add(std::atomic<double>& to, double value) {
  double present = to.load(std::memory_order_relaxed);
  while (!to.compare_exchange_weak(present, present + value, std::memory_order_relaxed)) {
  }
}

}  // namespace

std::string escape_label(std::string_view value) {
  std::string out;
  for (char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

Result<uint64_t> Metrics::define(const std::string& plugin, const pintle_metric& metric) {
  const std::string name(view(metric.name));
  if (!is_name(name, true)) return invalid_argument("\"" + name + "\" is not a name that Prometheus takes");
  if (metric.kind > PINTLE_METRIC_HISTOGRAM) return invalid_argument(name + ": unknown kind");
  if (metric.label_count > 16 || metric.bucket_count > 64)
    return invalid_argument(name + ": more than 16 labels or 64 buckets");
  std::string labels = "plugin=\"" + escape_label(plugin) + "\"";
  std::vector<std::string> seen{"plugin", "le"};
  for (uint32_t i = 0; i < metric.label_count; ++i) {
    const std::string label(view(metric.labels[i].name));
    if (!is_name(label, false) || std::find(seen.begin(), seen.end(), label) != seen.end())
      return invalid_argument(name + ": \"" + label + "\" is not a label's name, or given twice");
    seen.push_back(label);
    labels += "," + label + "=\"" + escape_label(view(metric.labels[i].value)) + "\"";
  }
  std::vector<double> bounds;
  if (metric.kind == PINTLE_METRIC_HISTOGRAM) bounds.assign(metric.buckets, metric.buckets + metric.bucket_count);
  if (!std::is_sorted(bounds.begin(), bounds.end(), std::less_equal<>()))
    return invalid_argument(name + ": buckets must ascend");

  std::lock_guard lock(lock_);
  auto [family, added] = families_.try_emplace(name, Family{metric.kind, std::string(view(metric.help)), bounds});
  if (!added && (family->second.kind != metric.kind || family->second.bounds != bounds))
    return invalid_argument(name + ": it exists with another kind or other buckets");
  for (size_t i = 0; i < samples_.size(); ++i) {
    if (samples_[i].family == &family->second && samples_[i].labels == labels) {
      samples_[i].hidden.store(false);
      return i + 1;
    }
  }
  if (of_plugin_[plugin] >= max_per_plugin) return resource_exhausted(plugin + ": more than 4096 metrics");
  ++of_plugin_[plugin];
  Sample& sample = samples_.emplace_back();
  sample.plugin = plugin;
  sample.labels = labels;
  sample.family = &family->second;
  if (metric.kind == PINTLE_METRIC_HISTOGRAM) sample.buckets.reset(new std::atomic<uint64_t>[bounds.size() + 1]());
  return samples_.size();
}

Status Metrics::update(const std::string& plugin, uint64_t id, double value) {
  Sample* sample = nullptr;
  {
    std::lock_guard lock(lock_);
    if (id == 0 || id > samples_.size() || samples_[id - 1].plugin != plugin) return not_found("no such metric");
    sample = &samples_[id - 1];
  }
  switch (sample->family->kind) {
    case PINTLE_METRIC_COUNTER:
      if (!(value >= 0)) return invalid_argument("a counter goes only up");
      add(sample->value, value);
      break;
    case PINTLE_METRIC_GAUGE:
      sample->value.store(value, std::memory_order_relaxed);
      break;
    default: {
      const auto& bounds = sample->family->bounds;
      const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin();
      sample->buckets[static_cast<size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
      sample->count.fetch_add(1, std::memory_order_relaxed);
      add(sample->value, value);
    }
  }
  return {};
}

void Metrics::hide(const std::string& plugin) {
  std::lock_guard lock(lock_);
  foreign_.erase(plugin);
  for (Sample& sample : samples_)
    if (sample.plugin == plugin) sample.hidden.store(true);
}

void Metrics::set_foreign(const std::string& plugin, std::string text) {
  std::lock_guard lock(lock_);
  foreign_[plugin] = std::move(text);
}

std::string Metrics::render() {
  constexpr const char* kinds[] = {"counter", "gauge", "histogram"};
  std::lock_guard lock(lock_);
  std::map<std::string, std::pair<std::string, std::string>> texts;  // by family: its head, its samples
  for (const auto& [name, family] : families_)
    texts[name].first = "# HELP " + name + " " + family.help + "\n# TYPE " + name + " " + kinds[family.kind] + "\n";
  for (const Sample& sample : samples_) {
    if (sample.hidden.load()) continue;
    const auto family =
        std::find_if(families_.begin(), families_.end(), [&](const auto& f) { return &f.second == sample.family; });
    std::string& out = texts[family->first].second;
    if (family->second.kind != PINTLE_METRIC_HISTOGRAM) {
      out += family->first + "{" + sample.labels + "} " + number(sample.value.load()) + "\n";
      continue;
    }
    uint64_t total = 0;
    for (size_t i = 0; i <= family->second.bounds.size(); ++i) {
      total += sample.buckets[i].load();
      const std::string bound = i < family->second.bounds.size() ? number(family->second.bounds[i]) : "+Inf";
      out += family->first + "_bucket{" + sample.labels + ",le=\"" + bound + "\"} " + std::to_string(total) + "\n";
    }
    out += family->first + "_sum{" + sample.labels + "} " + number(sample.value.load()) + "\n";
    out += family->first + "_count{" + sample.labels + "} " + std::to_string(total) + "\n";
  }
  // A foreign text has the same shape: heads, then samples. A sample belongs to the head above it.
  for (const auto& [plugin, foreign] : foreign_) {
    std::string head, family;
    for (size_t at = 0; at < foreign.size();) {
      const size_t end = std::min(foreign.find('\n', at), foreign.size());
      const std::string line = foreign.substr(at, end - at) + "\n";
      at = end + 1;
      if (line.rfind("# HELP ", 0) == 0) {
        head = line;
      } else if (line.rfind("# TYPE ", 0) == 0) {
        family = line.substr(7, line.find(' ', 7) - 7);
        if (texts[family].first.empty()) texts[family].first = head + line;
      } else {
        texts[family].second += line;
      }
    }
  }
  std::string out;
  for (const auto& [name, text] : texts)
    if (!text.second.empty()) out += text.first + text.second;
  return out;
}

}  // namespace pintle::engine
