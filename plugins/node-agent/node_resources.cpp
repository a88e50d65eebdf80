#include "plugins/node-agent/node_resources.hpp"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>

#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_resources.hpp"
#include "sdk/api/pod.hpp"
#include "sdk/api/quantity.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

/// In the order in which kubelet looks at them.
std::vector<std::string> requestable_of(const core::Pod& pod) {
  const std::set<std::string> huge_pages = huge_pages_of(pod);
  std::vector<std::string> names{"cpu", "memory", "ephemeral-storage"};
  names.insert(names.end(), huge_pages.begin(), huge_pages.end());
  return names;
}

int64_t request_of(const core::Pod& pod, const std::string& name) {
  const api::Quantity amount = requested_by(pod, name).amount;
  return name == "cpu" ? amount.milli() : amount.units();
}

int64_t value_of(const Amounts& amounts, const std::string& name) {
  const auto found = amounts.find(name);
  return found == amounts.end() ? 0 : found->second;
}

Amounts requests_of(const std::vector<std::shared_ptr<const WantedPod>>& pods) {
  Amounts used{{"pods", static_cast<int64_t>(pods.size())}};
  for (const std::shared_ptr<const WantedPod>& pod : pods)
    for (const std::string& name : requestable_of(*pod->pod)) used[name] += request_of(*pod->pod, name);
  return used;
}

}  // namespace

int64_t NodeResources::for_pods(const std::string& name) const {
  const int64_t has = value_of(capacity, name);
  return has == 0 ? 0 : std::max<int64_t>(has - value_of(reserved, name), 1);
}

Amounts node_amounts(const std::string& nodefs, int64_t most_pods) {
  Amounts amounts{{"pods", most_pods}};
  amounts["cpu"] = std::max<int64_t>(1, sysconf(_SC_NPROCESSORS_ONLN)) * 1000;
  for (const auto& [signal, seen] : observe({.nodefs = nodefs, .imagefs = "", .pods_cgroup = "", .pods_memory = 0})) {
    if (signal == Signal::memory_available) amounts["memory"] = seen.capacity;
    if (signal == Signal::nodefs_available) amounts["ephemeral-storage"] = seen.capacity;
    if (signal == Signal::pid_available) amounts["pid"] = seen.capacity;
  }
  amounts.merge(huge_page_amounts());
  return amounts;
}

Amounts huge_page_amounts(const std::string& path) {
  Amounts amounts;
  const Result<files::Descriptor> folder = files::open_folder(path);
  const auto names = folder ? files::list_folder(folder->get()) : Result<std::vector<std::string>>(folder.status());
  if (!names) return amounts;
  for (const std::string& name : *names) {
    // "hugepages-2048kB"
    int64_t kilobytes = 0, pages = 0;
    if (!name.starts_with(kHugePages) || !name.ends_with("kB")) continue;
    std::from_chars(name.data() + kHugePages.size(), name.data() + name.size(), kilobytes);
    const Result<std::string> text = files::read_file(folder->get(), name + "/nr_hugepages", 100);
    if (kilobytes <= 0 || !text) continue;
    std::from_chars(text->data(), text->data() + text->size(), pages);
    const api::Quantity size = api::Quantity::of(kilobytes * 1024, api::Quantity::Notation::binary);
    amounts[std::string(kHugePages) + size.text()] = pages * kilobytes * 1024;
  }
  return amounts;
}

Result<NodeResources> read_node_resources(const json::value& config, Amounts capacity,
                                          const EvictionSettings& eviction) {
  NodeResources node;
  node.capacity = std::move(capacity);
  const json::object& object = config.as_object();
  for (const char* group : {"systemReserved", "kubeReserved"}) {
    const json::value* entries = object.if_contains(group);
    if (!entries) continue;
    for (const auto& [key, text] : entries->as_object()) {
      const std::string name(key), where = std::string(group) + "." + name;
      const Result<api::Quantity> amount = api::Quantity::parse(std::string(text.as_string()));
      if (!amount) return amount.status().with_context(where);
      if (amount->is_negative()) return invalid_argument(where + ": must not be negative");
      node.reserved[name] += name == "cpu" ? amount->milli() : amount->units();
    }
  }
  node.allocatable = node.capacity;
  for (auto& [name, amount] : node.allocatable) {
    const int64_t reserved = value_of(node.reserved, name);
    if (reserved >= amount && reserved > 0)
      return invalid_argument("systemReserved and kubeReserved: " + std::to_string(reserved) + " of " + name +
                              (name == "cpu" ? " (thousandths)" : "") + " leave nothing of the node's " +
                              std::to_string(amount) + " for pods");
    amount -= reserved;
  }
  for (const Threshold& threshold : eviction.thresholds) {
    if (!threshold.is_hard()) continue;
    const char* name = threshold.signal == Signal::memory_available   ? "memory"
                       : threshold.signal == Signal::nodefs_available ? "ephemeral-storage"
                                                                      : nullptr;
    if (!name || !node.allocatable.contains(name)) continue;
    int64_t& amount = node.allocatable[name];
    amount = std::max<int64_t>(amount - threshold.value.of(node.capacity[name]), 0);
  }
  // Memory in huge pages is none for anything else.
  for (const auto& [name, amount] : node.capacity)
    if (name.starts_with(kHugePages) && node.allocatable.contains("memory"))
      node.allocatable["memory"] = std::max<int64_t>(node.allocatable["memory"] - amount, 0);
  if (const json::value* enforced = object.if_contains("enforceNodeAllocatable")) {
    const json::array& list = enforced->as_array();
    node.limits_pods = std::find(list.begin(), list.end(), json::value("pods")) != list.end();
  }
  return node;
}

std::optional<PodVerdict> admit_by_resources(const NodeResources& node,
                                             const std::vector<std::shared_ptr<const WantedPod>>& others,
                                             const core::Pod& pod) {
  const Amounts used = requests_of(others);
  std::vector<std::string> names = requestable_of(pod);
  names.insert(names.begin(), "pods");
  for (const std::string& name : names) {
    const int64_t requested = name == "pods" ? 1 : request_of(pod, name);
    // Pages of a size that the node does not know are pages that it has none of.
    if (requested == 0 || (!node.allocatable.contains(name) && !name.starts_with(kHugePages))) continue;
    const int64_t allocatable = value_of(node.allocatable, name);
    if (requested + value_of(used, name) <= allocatable) continue;
    PodVerdict verdict;
    verdict.reason = "OutOf" + name;
    verdict.message = "Pod was rejected: Node didn't have enough resource: " + name +
                      ", requested: " + std::to_string(requested) + ", used: " + std::to_string(value_of(used, name)) +
                      ", capacity: " + std::to_string(allocatable);
    verdict.is_refusal = true;
    return verdict;
  }
  return std::nullopt;
}

std::vector<std::shared_ptr<const WantedPod>> to_preempt(const NodeResources& node,
                                                         std::vector<std::shared_ptr<const WantedPod>> others,
                                                         const core::Pod& pod) {
  std::vector<std::shared_ptr<const WantedPod>> lower;
  for (const std::shared_ptr<const WantedPod>& other : others)
    if (!is_critical(*other->pod) && priority_of(*other->pod) < priority_of(pod)) lower.push_back(other);
  const auto class_of = [](const core::Pod& one) {
    const std::string_view quality = api::quality_of_service(one);
    return quality == "BestEffort" ? 0 : quality == "Burstable" ? 1 : 2;
  };
  std::stable_sort(lower.begin(), lower.end(), [&](const auto& a, const auto& b) {
    return std::make_pair(priority_of(*a->pod), class_of(*a->pod)) <
           std::make_pair(priority_of(*b->pod), class_of(*b->pod));
  });
  const auto fits_without = [&](const std::vector<std::shared_ptr<const WantedPod>>& gone) {
    std::vector<std::shared_ptr<const WantedPod>> left = others;
    std::erase_if(left, [&](const auto& one) { return std::find(gone.begin(), gone.end(), one) != gone.end(); });
    return !admit_by_resources(node, left, pod);
  };
  std::vector<std::shared_ptr<const WantedPod>> chosen;
  while (!fits_without(chosen)) {
    if (chosen.size() == lower.size()) return {};
    chosen.push_back(lower[chosen.size()]);
  }
  // Whoever need not go after all stays, the highest priority first.
  for (size_t i = chosen.size(); i-- > 0;) {
    std::vector<std::shared_ptr<const WantedPod>> fewer = chosen;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
    if (fits_without(fewer)) chosen = std::move(fewer);
  }
  return chosen;
}

}  // namespace pintle::agent
