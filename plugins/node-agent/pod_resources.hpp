#pragma once

/// What a pod asks for and may use as a whole, as kubelet reckons it: what its containers ask for is added up; init containers run
/// one after the other, those that go on running beside the others; what the pod as a whole is given counts instead. Pure.

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

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

/// Of huge pages each size is a resource of its own: "hugepages-2Mi".
inline constexpr std::string_view kHugePages = "hugepages-";
/// The size of such a resource's pages in bytes; 0: it is none.
int64_t huge_page_size(std::string_view name);
/// As the kernel's hugetlb cgroup and CRI call that size: "2MB".
std::string huge_page_name(int64_t bytes);
/// The sizes that the pod or one of its containers asks for, as resources: {"hugepages-2Mi"}.
std::set<std::string> huge_pages_of(const core::Pod& pod);
/// Which pages an emptyDir of this medium ("HugePages", "HugePages-2Mi") has in this pod, in bytes; 0: none.
int64_t huge_page_size_of(const core::Pod& pod, const std::string& medium);

/// `name` is a resource: "cpu", "memory", "ephemeral-storage", "hugepages-2Mi".
PodAmount requested_by(const core::Pod& pod, const std::string& name);
PodAmount limit_of(const core::Pod& pod, const std::string& name);

/// Of one container; zero: none.
api::Quantity requested_by(const core::Container& container, const std::string& name);
api::Quantity limit_of(const core::Container& container, const std::string& name);

/// Its own; one that has none shares what the pod has as a whole (KEP-2837).
api::Quantity huge_pages_limit(const core::Pod& pod, const core::Container& container, const std::string& name);

/// What the kernel weighs so many thousandths of a processor with, as cpu.shares: 2 to 262144.
uint64_t cpu_shares(int64_t milli);

/// spec.priority; without one that of a priority class that every cluster has, else 0.
int32_t priority_of(const core::Pod& pod);

/// From this priority on a pod is the node's own: never evicted, admitted under pressure, ended last.
inline constexpr int32_t kCriticalPriority = 2'000'000'000;
inline bool is_critical(const core::Pod& pod) { return priority_of(pod) >= kCriticalPriority; }

}  // namespace pintle::agent
