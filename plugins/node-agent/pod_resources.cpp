#include "plugins/node-agent/pod_resources.hpp"

#include <algorithm>
#include <iterator>

#include "k8s/core/v1/pod.pb.h"

namespace pintle::agent {

namespace {

template <class Map>
api::Quantity amount_in(const Map& map, const std::string& name) {
  const auto found = map.find(name);
  return found == map.end() ? api::Quantity() : api::Quantity::of(found->second);
}

PodAmount amount_of(const core::Pod& pod, const std::string& name, bool limits) {
  PodAmount total;
  api::Quantity sidecars, largest;
  const auto of = [&](const core::Container& container) {
    const api::Quantity own = limits ? limit_of(container, name) : requested_by(container, name);
    total.complete = total.complete && !own.is_zero();
    return own;
  };
  for (const core::Container& container : pod.spec().containers()) total.amount += of(container);
  for (const core::Container& container : pod.spec().init_containers()) {
    const api::Quantity own = of(container);
    if (container.restart_policy() == "Always") {
      total.amount += own;
      sidecars += own;
    } else if (own + sidecars > largest) {
      largest = own + sidecars;
    }
  }
  if (largest > total.amount) total.amount = largest;
  const auto& whole = limits ? pod.spec().resources().limits() : pod.spec().resources().requests();
  if (const api::Quantity amount = amount_in(whole, name); !amount.is_zero()) total = {amount, true};
  return total;
}

}  // namespace

int64_t huge_page_size(std::string_view name) {
  if (!name.starts_with(kHugePages)) return 0;
  const Result<api::Quantity> size = api::Quantity::parse(name.substr(kHugePages.size()));
  return size && !size->is_negative() ? size->units() : 0;
}

std::string huge_page_name(int64_t bytes) {
  size_t unit = 0;
  constexpr const char* units[] = {"B", "KB", "MB", "GB", "TB"};
  while (bytes >= 1024 && bytes % 1024 == 0 && unit + 1 < std::size(units)) bytes /= 1024, ++unit;
  return std::to_string(bytes) + units[unit];
}

std::set<std::string> huge_pages_of(const core::Pod& pod) {
  std::set<std::string> names;
  const auto add = [&](const core::ResourceRequirements& resources) {
    for (const auto& [name, quantity] : resources.limits())
      if (name.starts_with(kHugePages) && !api::Quantity::of(quantity).is_zero()) names.insert(name);
  };
  for (const auto* list : {&pod.spec().init_containers(), &pod.spec().containers()})
    for (const core::Container& container : *list) add(container.resources());
  add(pod.spec().resources());
  return names;
}

int64_t huge_page_size_of(const core::Pod& pod, const std::string& medium) {
  constexpr std::string_view sized = "HugePages-";
  if (medium.starts_with(sized)) return huge_page_size(std::string(kHugePages) + medium.substr(sized.size()));
  if (medium != "HugePages") return 0;
  const std::set<std::string> names = huge_pages_of(pod);
  return names.empty() ? 0 : huge_page_size(*names.begin());
}

PodAmount requested_by(const core::Pod& pod, const std::string& name) { return amount_of(pod, name, false); }
PodAmount limit_of(const core::Pod& pod, const std::string& name) { return amount_of(pod, name, true); }

api::Quantity requested_by(const core::Container& container, const std::string& name) {
  return amount_in(container.resources().requests(), name);
}
api::Quantity limit_of(const core::Container& container, const std::string& name) {
  return amount_in(container.resources().limits(), name);
}

api::Quantity huge_pages_limit(const core::Pod& pod, const core::Container& container, const std::string& name) {
  const auto& own = container.resources().limits();
  return amount_in(own.contains(name) ? own : pod.spec().resources().limits(), name);
}

uint64_t cpu_shares(int64_t milli) {
  return static_cast<uint64_t>(std::clamp<int64_t>(milli * 1024 / 1000, 2, 262'144));
}

int32_t priority_of(const core::Pod& pod) {
  if (pod.spec().has_priority()) return pod.spec().priority();
  if (pod.spec().priority_class_name() == "system-cluster-critical") return kCriticalPriority;
  if (pod.spec().priority_class_name() == "system-node-critical") return kCriticalPriority + 1000;
  return 0;
}

}  // namespace pintle::agent
