#include "kernel/cli/pods.hpp"

#include <algorithm>
#include <map>

#include "cri/api.pintle.hpp"
#include "kernel/cli/cli.hpp"
#include "pintle/image.pintle.hpp"
#include "pintle/node.pintle.hpp"
#include "sdk/support/document/nearest.hpp"

namespace pintle::cli {

using node::v1::NodeAgentInterface;
using runtime::v1::RuntimeServiceInterface;

Result<PodName> parse_pod_name(const std::string& text, const std::string& default_namespace) {
  const size_t slash = text.find('/');
  PodName name{default_namespace.empty() ? "default" : default_namespace, text};
  if (slash != std::string::npos) name = {text.substr(0, slash), text.substr(slash + 1)};
  if (name.pod_namespace.empty() || name.name.empty() || name.name.find('/') != std::string::npos) {
    return invalid_argument("\"" + text + "\" names no pod; write NAME or NAMESPACE/NAME");
  }
  return name;
}

Result<node::v1::Pod> find_pod(Context& context, const PodName& name) {
  node::v1::ListPodsRequest request;
  node::v1::ListPodsResponse response;
  if (Status status = context.admin().call(NodeAgentInterface::info, "ListPods", request, response); !status)
    return status;
  std::vector<std::string> known;
  for (node::v1::Pod& pod : *response.mutable_pods()) {
    const PodName other{pod.reference().namespace_(), pod.reference().name()};
    if (other.pod_namespace == name.pod_namespace && other.name == name.name) return std::move(pod);
    known.push_back(other.text());
  }
  return not_found("there is no pod " + name.text() + document::suggestion(name.text(), known));
}

namespace {

Result<std::vector<ContainerInfo>> containers_of(Context& context, const PodName& pod_name) {
  Result<node::v1::Pod> pod = find_pod(context, pod_name);
  if (!pod) return pod.status();
  if (pod->sandbox_id().empty()) {
    return failed_precondition("the pod " + pod_name.text() + " has no sandbox yet" +
                               (pod->message().empty() ? "" : ": " + pod->message()));
  }
  runtime::v1::ListContainersRequest request;
  request.mutable_filter()->set_pod_sandbox_id(pod->sandbox_id());
  runtime::v1::ListContainersResponse response;
  if (Status status = context.admin().call(RuntimeServiceInterface::info, "ListContainers", request, response); !status)
    return status;
  std::vector<ContainerInfo> containers;
  for (const runtime::v1::Container& container : response.containers()) {
    containers.push_back({container.id(), container.metadata().name(), "", container.metadata().attempt(),
                          container.state() == runtime::v1::CONTAINER_RUNNING, container.created_at()});
  }
  std::sort(containers.begin(), containers.end(),
            [](const ContainerInfo& a, const ContainerInfo& b) { return a.created_at < b.created_at; });
  return containers;
}

std::string listed(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

}  // namespace

Result<ContainerInfo> find_container(Context& context, const PodName& pod, const std::string& container,
                                     bool previous) {
  Result<std::vector<ContainerInfo>> containers = containers_of(context, pod);
  if (!containers) return containers.status();
  std::vector<std::string> names;
  for (const ContainerInfo& one : *containers) {
    if (std::find(names.begin(), names.end(), one.name) == names.end()) names.push_back(one.name);
  }
  if (names.empty()) return failed_precondition("the pod " + pod.text() + " has no container yet");
  const std::string wanted = container.empty() ? names[0] : container;
  if (container.empty() && names.size() > 1)
    context.note("container " + wanted + " of " + listed(names) + "; another one: -c NAME");
  std::vector<ContainerInfo> attempts;
  for (const ContainerInfo& one : *containers) {
    if (one.name == wanted) attempts.push_back(one);
  }
  if (attempts.empty()) {
    return not_found("the pod " + pod.text() + " has no container " + wanted + document::suggestion(wanted, names));
  }
  if (!previous) return attempts.back();
  if (attempts.size() < 2)
    return not_found("the container " + wanted + " of pod " + pod.text() + " has no former run that is kept");
  return attempts[attempts.size() - 2];
}

Result<ContainerInfo> container_status(Context& context, const std::string& id) {
  runtime::v1::ContainerStatusRequest request;
  request.set_container_id(id);
  runtime::v1::ContainerStatusResponse response;
  if (Status status = context.admin().call(RuntimeServiceInterface::info, "ContainerStatus", request, response);
      !status)
    return status;
  const runtime::v1::ContainerStatus& found = response.status();
  return ContainerInfo{found.id(),
                       found.metadata().name(),
                       found.log_path(),
                       found.metadata().attempt(),
                       found.state() == runtime::v1::CONTAINER_RUNNING,
                       found.created_at()};
}

std::vector<std::pair<std::string, std::string>> pod_names(Context& context) {
  node::v1::ListPodsRequest request;
  node::v1::ListPodsResponse response;
  std::vector<std::pair<std::string, std::string>> names;
  if (!context.admin().call(NodeAgentInterface::info, "ListPods", request, response, {"", std::chrono::seconds(2)}))
    return names;
  for (const node::v1::Pod& pod : response.pods()) {
    names.emplace_back(PodName{pod.reference().namespace_(), pod.reference().name()}.text(), pod.phase());
  }
  return names;
}

std::vector<std::string> container_names(Context& context, const std::string& pod) {
  std::vector<std::string> names;
  const Result<PodName> name = parse_pod_name(pod, "");
  if (!name) return names;
  if (const auto containers = containers_of(context, *name)) {
    for (const ContainerInfo& one : *containers) {
      if (std::find(names.begin(), names.end(), one.name) == names.end()) names.push_back(one.name);
    }
  }
  return names;
}

std::vector<std::string> image_names(Context& context) {
  image::v1::ListRequest request;
  image::v1::ListResponse response;
  std::vector<std::string> names;
  if (!context.admin().call(image::v1::ImageBackendInterface::info, "List", request, response,
                            {"", std::chrono::seconds(2)}))
    return names;
  for (const image::v1::Image& one : response.images()) {
    for (const std::string& tag : one.image().repo_tags()) names.push_back(tag);
  }
  return names;
}

}  // namespace pintle::cli
