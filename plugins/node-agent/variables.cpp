#include "plugins/node-agent/variables.hpp"

#include "k8s/core/v1/pod.pb.h"

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

std::vector<std::pair<std::string, std::string>> environment_of(const core::Pod& pod, const core::Container& container,
                                                                const RunningFacts& facts) {
  std::vector<std::pair<std::string, std::string>> result;
  std::map<std::string, std::string> known;
  for (const core::EnvVar& variable : container.env()) {
    std::string value = variable.has_value_from()
                            ? field_value(pod, variable.value_from().field_ref().field_path(), facts)
                            : expand(variable.value(), known);
    known[variable.name()] = value;
    result.emplace_back(variable.name(), std::move(value));
  }
  return result;
}

}  // namespace pintle::agent
