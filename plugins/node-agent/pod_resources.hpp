#pragma once

/// What a pod asks for and may use as a whole, as kubelet reckons it: what its containers ask for is added up; init containers run
/// one after the other, those that go on running beside the others; what the pod as a whole is given counts instead. Pure.

#include <cstdint>
#include <string>

#include "sdk/api/quantity.hpp"

namespace k8s::io::api::core::v1 {
class Container;
class Pod;
}  // namespace k8s::io::api::core::v1

namespace pintle::agent {

namespace core = k8s::io::api::core::v1;

struct PodAmount {
  api::Quantity amount;
  bool complete = true;  ///< every container says it, or the pod as a whole does
};

/// `name` is a resource: "cpu", "memory", "ephemeral-storage".
PodAmount requested_by(const core::Pod& pod, const std::string& name);
PodAmount limit_of(const core::Pod& pod, const std::string& name);

/// Of one container; zero: none.
api::Quantity requested_by(const core::Container& container, const std::string& name);
api::Quantity limit_of(const core::Container& container, const std::string& name);

/// What the kernel weighs so many thousandths of a processor with, as cpu.shares: 2 to 262144.
uint64_t cpu_shares(int64_t milli);

/// spec.priority; without one that of a priority class that every cluster has, else 0.
int32_t priority_of(const core::Pod& pod);

/// From this priority on a pod is the node's own: never evicted, admitted under pressure, ended last.
inline constexpr int32_t kCriticalPriority = 2'000'000'000;
inline bool is_critical(const core::Pod& pod) { return priority_of(pod) >= kCriticalPriority; }

}  // namespace pintle::agent
