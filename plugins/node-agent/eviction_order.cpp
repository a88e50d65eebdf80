#include "plugins/node-agent/eviction_order.hpp"

#include <algorithm>
#include <tuple>

#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_resources.hpp"
#include "sdk/api/quantity.hpp"

namespace pintle::agent {

namespace {

int64_t disk_of(const ContainerUse& use, bool inodes, DiskParts parts) {
  int64_t sum = 0;
  if (parts.volumes_and_logs) sum += inodes ? use.log_inodes : use.log_bytes;
  if (parts.writable_layers) sum += inodes ? use.writable_inodes : use.writable_bytes;
  return sum;
}

int64_t container_use(const ContainerUse& use, Signal signal, DiskParts parts) {
  return is_of_memory(signal) ? use.memory : disk_of(use, counts_inodes(signal), parts);
}

/// Nobody asks for inodes or processes.
std::string requestable(Signal signal) {
  const std::string_view resource = resource_of(signal);
  return resource == "memory" || resource == "ephemeral-storage" ? std::string(resource) : std::string();
}

std::string amount_text(int64_t amount, Signal signal) {
  const bool bytes = is_of_memory(signal) || (is_of_disk(signal) && !counts_inodes(signal));
  return api::Quantity::of(amount, bytes ? api::Quantity::Notation::binary : api::Quantity::Notation::decimal).text();
}

}  // namespace

int64_t use_of(const PodUse& pod, Signal signal, DiskParts parts) {
  if (is_of_memory(signal)) return pod.memory;
  if (signal == Signal::pid_available) return pod.processes;
  const bool inodes = counts_inodes(signal);
  int64_t sum = parts.volumes_and_logs ? (inodes ? pod.volume_inodes : pod.volume_bytes) : 0;
  for (const auto& [name, use] : pod.containers) sum += disk_of(use, inodes, parts);
  return sum;
}

std::vector<PodUse> in_order_of_eviction(std::vector<PodUse> pods, Signal signal, DiskParts parts) {
  std::erase_if(pods, [](const PodUse& pod) { return is_critical(*pod.pod->pod); });
  const std::string name = requestable(signal);
  const auto rank = [&](const PodUse& pod) {
    const int64_t requested = name.empty() ? 0 : requested_by(*pod.pod->pod, name).amount.units();
    const int64_t beyond = use_of(pod, signal, parts) - requested;
    const bool counts_requests = signal != Signal::pid_available;
    return std::make_tuple(pod.measured, !(counts_requests && beyond > 0), priority_of(*pod.pod->pod), -beyond);
  };
  std::stable_sort(pods.begin(), pods.end(), [&](const PodUse& a, const PodUse& b) { return rank(a) < rank(b); });
  return pods;
}

std::string eviction_message(const PodUse& pod, const Threshold& threshold, const Observation& observation,
                             DiskParts parts) {
  const Signal signal = threshold.signal;
  const std::string resource(resource_of(signal));
  std::string message = "The node was low on resource: " + resource +
                        ". Threshold quantity: " + amount_text(threshold.value.of(observation.capacity), signal) +
                        ", available: " + amount_text(observation.available, signal) + ". ";
  const std::string name = requestable(signal);
  for (const core::Container& container : pod.pod->pod->spec().containers()) {
    const auto found = pod.containers.find(container.name());
    if (name.empty() || found == pod.containers.end()) continue;
    const int64_t used = container_use(found->second, signal, parts);
    const api::Quantity requested = requested_by(container, name);
    if (used > requested.units())
      message += "Container " + container.name() + " was using " + amount_text(used, signal) + ", request is " +
                 requested.text() + ", has larger consumption of " + resource + ". ";
  }
  message.pop_back();
  return message;
}

}  // namespace pintle::agent
