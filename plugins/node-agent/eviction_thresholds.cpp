#include "plugins/node-agent/eviction_thresholds.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>

#include "sdk/api/quantity.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

Status invalid(const std::string& what, std::string_view text, const std::string& right) {
  return invalid_argument("\"" + std::string(text.substr(0, 60)) + "\" is no " + what + ": write " + right);
}

}  // namespace

int64_t Amount::of(int64_t capacity) const {
  return is_percentage ? static_cast<int64_t>(static_cast<double>(capacity) * percent / 100) : quantity;
}

Result<Amount> parse_amount(std::string_view text) {
  const std::string right = "a quantity (100Mi) or a percentage (10%)";
  Amount amount;
  if (text.ends_with('%')) {
    const std::string_view number = text.substr(0, text.size() - 1);
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), amount.percent);
    if (error != std::errc() || end != number.data() + number.size() || !std::isfinite(amount.percent) ||
        amount.percent < 0 || amount.percent > 100)
      return invalid("amount", text, right);
    amount.is_percentage = true;
    return amount;
  }
  const Result<api::Quantity> quantity = api::Quantity::parse(text);
  if (!quantity || quantity->is_negative()) return invalid("amount", text, right);
  amount.quantity = quantity->units();
  return amount;
}

Result<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  const auto wrong = [&] { return invalid("duration", text, "one as 30s, 1m30s or 2h"); };
  if (text == "0") return std::chrono::nanoseconds(0);
  double total = 0;
  std::string_view rest = text;
  if (rest.empty()) return wrong();
  while (!rest.empty()) {
    double number = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number, std::chars_format::fixed);
    if (error != std::errc() || number < 0) return wrong();
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    const size_t unit_size = std::min(rest.find_first_of("0123456789."), rest.size());
    const std::string_view unit = rest.substr(0, unit_size);
    const double factor = unit == "h"    ? 3600e9
                          : unit == "m"  ? 60e9
                          : unit == "s"  ? 1e9
                          : unit == "ms" ? 1e6
                          : unit == "us" ? 1e3
                          : unit == "ns" ? 1
                                         : 0;
    if (factor == 0) return wrong();
    total += number * factor;
    rest.remove_prefix(unit_size);
  }
  if (total > 9e18) return wrong();
  return std::chrono::nanoseconds(static_cast<int64_t>(total));
}

Result<EvictionSettings> read_eviction_settings(const json::value& config) {
  EvictionSettings settings;
  const json::object& object = config.as_object();
  const auto text_of = [&](const char* map, std::string_view name) -> std::string {
    const json::value* group = object.if_contains(map);
    const json::value* value = group && group->is_object() ? group->get_object().if_contains(name) : nullptr;
    return value && value->is_string() ? std::string(value->get_string()) : std::string();
  };
  Status problem;
  const auto amount = [&](const char* map, std::string_view name) {
    const Result<Amount> parsed = parse_amount(text_of(map, name));
    if (!parsed && problem) problem = parsed.status().with_context(std::string(map) + "." + std::string(name));
    return parsed ? *parsed : Amount();
  };
  for (size_t i = 0; i <= static_cast<size_t>(Signal::pid_available); ++i) {
    const Signal signal = static_cast<Signal>(i);
    // What all pods may use together follows memory.available, as in kubelet.
    const std::string_view name = signal == Signal::allocatable_memory_available ? "memory.available" : name_of(signal);
    const Amount reclaim =
        text_of("evictionMinimumReclaim", name).empty() ? Amount() : amount("evictionMinimumReclaim", name);
    if (const std::string hard = text_of("evictionHard", name); !hard.empty() && hard != "0%" && hard != "100%")
      settings.thresholds.push_back({signal, amount("evictionHard", name), reclaim, {}});
    const std::string soft = text_of("evictionSoft", name);
    if (soft.empty() || signal == Signal::allocatable_memory_available) continue;
    const std::string grace = text_of("evictionSoftGracePeriod", name);
    const Result<std::chrono::nanoseconds> period =
        grace.empty() ? Result<std::chrono::nanoseconds>(invalid_argument("is missing: a soft threshold needs one"))
                      : parse_duration(grace);
    if (!period && problem)
      problem = period.status().with_context("evictionSoftGracePeriod." + std::string(name));
    else if (period)
      settings.thresholds.push_back(
          {signal, amount("evictionSoft", name), reclaim, std::max(*period, std::chrono::nanoseconds(1))});
  }
  if (const json::value* period = object.if_contains("evictionPressureTransitionPeriod")) {
    const Result<std::chrono::nanoseconds> parsed = parse_duration(std::string(period->as_string()));
    if (parsed)
      settings.transition = *parsed;
    else if (problem)
      problem = parsed.status().with_context("evictionPressureTransitionPeriod");
  }
  if (const json::value* grace = object.if_contains("evictionMaxPodGracePeriod"))
    settings.longest_pod_grace = grace->to_number<int64_t>();
  if (!problem) return problem;
  return settings;
}

std::string_view condition_of(Signal signal) {
  return is_of_memory(signal) ? "MemoryPressure" : is_of_disk(signal) ? "DiskPressure" : "PIDPressure";
}

void ThresholdWatch::update(const Observations& seen, Clock::time_point now) {
  for (const auto& [signal, observation] : seen) seen_[signal] = observation;
  for (size_t i = 0; i < settings_.thresholds.size(); ++i) {
    const Threshold& threshold = settings_.thresholds[i];
    const auto observed = seen_.find(threshold.signal);
    if (observed == seen_.end()) continue;
    const auto [available, capacity] = observed->second;
    int64_t least = threshold.value.of(capacity);
    // Once met, it is only left with something to spare.
    if (met_.contains(i)) least += threshold.minimum_reclaim.of(capacity);
    if (available < least)
      met_.try_emplace(i, now);
    else
      met_.erase(i);
    if (met_.contains(i)) pressed_[std::string(condition_of(threshold.signal))] = now;
  }
}

std::vector<Threshold> ThresholdWatch::acting(Clock::time_point now) const {
  std::vector<Threshold> acting;
  for (const auto& [index, since] : met_)
    if (now - since >= settings_.thresholds[index].grace || settings_.thresholds[index].is_hard())
      acting.push_back(settings_.thresholds[index]);
  std::stable_sort(acting.begin(), acting.end(), [](const Threshold& a, const Threshold& b) {
    return std::make_pair(a.signal, !a.is_hard()) < std::make_pair(b.signal, !b.is_hard());
  });
  return acting;
}

bool ThresholdWatch::is_met(const Threshold& threshold) const {
  return std::any_of(met_.begin(), met_.end(), [&](const auto& entry) {
    const Threshold& other = settings_.thresholds[entry.first];
    return other.signal == threshold.signal && other.grace == threshold.grace;
  });
}

std::set<std::string> ThresholdWatch::conditions(Clock::time_point now) const {
  std::set<std::string> conditions;
  for (const auto& [condition, last] : pressed_) {
    const bool met = std::any_of(met_.begin(), met_.end(), [&](const auto& entry) {
      return condition_of(settings_.thresholds[entry.first].signal) == condition;
    });
    if (met || now - last < settings_.transition) conditions.insert(condition);
  }
  return conditions;
}

int64_t ThresholdWatch::highest_threshold(Signal signal) const {
  int64_t highest = 0;
  const auto observed = seen_.find(signal);
  if (observed == seen_.end()) return 0;
  for (const Threshold& threshold : settings_.thresholds)
    if (threshold.signal == signal) highest = std::max(highest, threshold.value.of(observed->second.capacity));
  return highest;
}

}  // namespace pintle::agent
