#include <algorithm>
#include <map>
#include <set>

#include "kernel/profile/profile.hpp"

namespace pintle {

namespace json = boost::json;

namespace {

using Field = PlanChange::Field;

json::value as_json(const PlannedInstance& instance) {
  constexpr std::string_view isolations[] = {"automatic", "in-process", "process"};
  const std::string_view isolation = isolations[static_cast<size_t>(instance.isolation)];
  boost::system::error_code error;
  json::object object;
  object["plugin"] = instance.plugin;
  object["path"] = instance.path;
  object["enabled"] = instance.enabled;
  object["required"] = instance.required;
  object["isolation"] = json::string_view(isolation.data(), isolation.size());
  object["allowUnsigned"] = instance.allow_unsigned;
  object["grants"] = json::array(instance.grants.begin(), instance.grants.end());
  json::object& bindings = object["bindings"].emplace_object();
  for (const auto& [need, target] : instance.bindings) bindings.emplace(need, target);
  object["logLevel"] = instance.log_level;
  object["config"] = json::parse(instance.config.empty() ? "{}" : instance.config, error);
  return object;
}

void compare(const json::value* from, const json::value* to, const std::string& path, std::vector<Field>& fields) {
  if (from != nullptr && to != nullptr && *from == *to) return;
  const json::object* lower = from == nullptr ? nullptr : from->if_object();
  const json::object* upper = to == nullptr ? nullptr : to->if_object();
  if (lower == nullptr || upper == nullptr) {
    fields.push_back({path, from == nullptr ? "" : json::serialize(*from), to == nullptr ? "" : json::serialize(*to)});
    return;
  }
  std::set<std::string> keys;
  for (const auto* object : {lower, upper}) {
    for (const auto& member : *object) keys.emplace(member.key().data(), member.key().size());
  }
  for (const std::string& key : keys) {
    compare(lower->if_contains(key), upper->if_contains(key), path.empty() ? key : path + "." + key, fields);
  }
}

std::map<std::string, const PlannedInstance*> by_name(const NodePlan& plan) {
  std::map<std::string, const PlannedInstance*> names;
  for (const PlannedInstance& instance : plan.instances) names.emplace(instance.name, &instance);
  return names;
}

}  // namespace

std::vector<PlanChange> diff_plans(const NodePlan& from, const NodePlan& to) {
  std::vector<PlanChange> changes;
  const auto before = by_name(from), after = by_name(to);
  for (const auto& [name, instance] : before) {
    if (!after.contains(name)) changes.push_back({name, instance->plugin, PlanChange::Kind::removed, {}});
  }
  for (const auto& [name, instance] : after) {
    const auto former = before.find(name);
    if (former == before.end()) {
      changes.push_back({name, instance->plugin, PlanChange::Kind::added, {}});
    } else if (!(*former->second == *instance)) {
      PlanChange change{name, instance->plugin, PlanChange::Kind::changed, {}};
      const json::value lower = as_json(*former->second), upper = as_json(*instance);
      compare(&lower, &upper, "", change.fields);
      if (!change.fields.empty()) changes.push_back(std::move(change));
    }
  }
  std::sort(changes.begin(), changes.end(),
            [](const PlanChange& a, const PlanChange& b) { return a.instance < b.instance; });
  return changes;
}

}  // namespace pintle
