#include "plugins/node-agent/variables.hpp"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "k8s/core/v1/pod.pb.h"
#include "sdk/api/quantity.hpp"

namespace pintle::agent {

namespace core = k8s::io::api::core::v1;

namespace {

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ",") + part;
  return text;
}

/// The key in "metadata.labels['KEY']", or "" if the path does not begin so.
std::string_view key_in(std::string_view path, std::string_view list) {
  if (!path.starts_with(list) || path.size() < list.size() + 4) return {};
  return path.substr(list.size() + 2, path.size() - list.size() - 4);
}

/// All of them, as a volume shows them: "key="value"" in the keys' order.
template <class Map>
std::string lines_of(const Map& map) {
  std::map<std::string, std::string> sorted(map.begin(), map.end());
  std::string text;
  for (const auto& [key, value] : sorted) {
    text += (text.empty() ? "" : "\n") + key + "=\"";
    for (const char c : value) {
      if (c == '"' || c == '\\') text += '\\';
      if (c == '\n')
        text += "\\n";
      else
        text += c;
    }
    text += '"';
  }
  return text;
}

int64_t divided(int64_t amount, int64_t divisor) { return amount / divisor + (amount % divisor != 0); }

template <class Map>
std::string value_of(const Map& map, std::string_view key) {
  const auto found = map.find(std::string(key));
  return found == map.end() ? std::string() : found->second;
}

}  // namespace

std::string expand(std::string_view text, const std::map<std::string, std::string>& values) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '$' || at + 1 == text.size()) {
      result += text[at++];
      continue;
    }
    if (text[at + 1] == '$') {
      result += '$';
      at += 2;
      continue;
    }
    const size_t end = text[at + 1] == '(' ? text.find(')', at) : std::string_view::npos;
    if (end == std::string_view::npos) {
      result += text[at++];
      continue;
    }
    const auto found = values.find(std::string(text.substr(at + 2, end - at - 2)));
    if (found == values.end())
      result.append(text.substr(at, end + 1 - at));
    else
      result += found->second;
    at = end + 1;
  }
  return result;
}

std::string field_value(const core::Pod& pod, std::string_view path, const RunningFacts& facts) {
  const auto& metadata = pod.metadata();
  if (path == "metadata.name") return metadata.name();
  if (path == "metadata.namespace") return metadata.namespace_();
  if (path == "metadata.uid") return metadata.uid();
  if (path == "metadata.labels") return lines_of(metadata.labels());
  if (path == "metadata.annotations") return lines_of(metadata.annotations());
  if (path == "spec.nodeName") return pod.spec().node_name();
  if (path == "spec.serviceAccountName") return pod.spec().service_account_name();
  if (path == "status.hostIP" || path == "status.hostIPs") return facts.host_address;
  if (path == "status.podIP") return facts.pod_addresses.empty() ? std::string() : facts.pod_addresses.front();
  if (path == "status.podIPs") return joined(facts.pod_addresses);
  if (const std::string_view key = key_in(path, "metadata.labels"); !key.empty())
    return value_of(metadata.labels(), key);
  if (const std::string_view key = key_in(path, "metadata.annotations"); !key.empty())
    return value_of(metadata.annotations(), key);
  return {};
}

Capacity node_capacity() {
  Capacity capacity;
  capacity.cpu_milli = std::max<int64_t>(1, sysconf(_SC_NPROCESSORS_ONLN)) * 1000;
  capacity.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  struct statvfs root {};
  if (statvfs("/", &root) == 0) capacity.storage_bytes = static_cast<int64_t>(root.f_blocks * root.f_frsize);
  return capacity;
}

std::string resource_value(const core::Pod& pod, const core::Container* own,
                           const core::ResourceFieldSelector& reference) {
  const core::Container* container = reference.container_name().empty() ? own : nullptr;
  for (const auto* list : {&pod.spec().containers(), &pod.spec().init_containers()})
    for (const core::Container& one : *list)
      if (one.name() == reference.container_name()) container = &one;
  if (!container) return {};
  const std::string& path = reference.resource();
  const bool limit = path.starts_with("limits.");
  const std::string name = path.substr(path.find('.') + 1);
  const auto& amounts = limit ? container->resources().limits() : container->resources().requests();
  const auto found = amounts.find(name);
  api::Quantity amount = found == amounts.end() ? api::Quantity() : api::Quantity::of(found->second);
  if (limit && amount.is_zero()) {
    const Capacity capacity = node_capacity();
    amount = name == "cpu"      ? api::Quantity::of_milli(capacity.cpu_milli)
             : name == "memory" ? api::Quantity::of(capacity.memory_bytes)
                                : api::Quantity::of(capacity.storage_bytes);
  }
  api::Quantity divisor = api::Quantity::of(reference.divisor());
  if (divisor.is_zero()) divisor = api::Quantity::of(1);
  return std::to_string(name == "cpu" ? divided(amount.milli(), divisor.milli())
                                      : divided(amount.units(), divisor.units()));
}

std::vector<std::pair<std::string, std::string>> environment_of(const core::Pod& pod, const core::Container& container,
                                                                const RunningFacts& facts) {
  std::vector<std::pair<std::string, std::string>> result;
  std::map<std::string, std::string> known;
  for (const core::EnvVar& variable : container.env()) {
    std::string value;
    if (!variable.has_value_from())
      value = expand(variable.value(), known);
    else if (variable.value_from().has_resource_field_ref())
      value = resource_value(pod, &container, variable.value_from().resource_field_ref());
    else
      value = field_value(pod, variable.value_from().field_ref().field_path(), facts);
    known[variable.name()] = value;
    result.emplace_back(variable.name(), std::move(value));
  }
  return result;
}

}  // namespace pintle::agent
