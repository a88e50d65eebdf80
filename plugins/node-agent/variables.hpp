#pragma once

/// Environment variables and their references, "$(NAME)", as Kubernetes expands them.

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace k8s::io::api::core::v1 {
class Container;
class Pod;
class ResourceFieldSelector;
}  // namespace k8s::io::api::core::v1

namespace pintle::agent {

/// "$(NAME)" becomes its value, "$$" a single "$", and a reference to what is not known stays as it is.
std::string expand(std::string_view text, const std::map<std::string, std::string>& values);

/// What fields of a pod are known only when it runs.
struct RunningFacts {
  std::string host_address;
  std::vector<std::string> pod_addresses;
};

/// The value of a field that a variable may refer to ("metadata.labels['app']"); "" if it has none.
std::string field_value(const k8s::io::api::core::v1::Pod& pod, std::string_view path, const RunningFacts& facts);

/// What a container without a limit may use: all that the node has.
struct Capacity {
  int64_t cpu_milli = 0;
  int64_t memory_bytes = 0;
  int64_t storage_bytes = 0;
};
Capacity node_capacity();

/// The value of a limit or request ("limits.cpu") in units of its divisor, rounded up. `own` is the container to take where the
/// reference names none. "" if there is no such container.
std::string resource_value(const k8s::io::api::core::v1::Pod& pod, const k8s::io::api::core::v1::Container* own,
                           const k8s::io::api::core::v1::ResourceFieldSelector& reference);

/// The container's variables in their order, expanded: a value may refer to variables before it.
std::vector<std::pair<std::string, std::string>> environment_of(const k8s::io::api::core::v1::Pod& pod,
                                                                const k8s::io::api::core::v1::Container& container,
                                                                const RunningFacts& facts);

}  // namespace pintle::agent
