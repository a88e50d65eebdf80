#include "kernel/cli/pods.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <set>

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

// "running since 3m", "waiting: CrashLoopBackOff: back-off 20s", "exited with 1 (Error)".
Cell container_state(const boost::json::value& status) {
  const boost::json::value& state = member(status, "state");
  if (const boost::json::value& running = member(state, "running"); running.is_object()) {
    return {"running since " + age(text_member(running, "startedAt")), Color::green};
  }
  if (const boost::json::value& ended = member(state, "terminated"); ended.is_object()) {
    const int64_t code = integer_member(ended, "exitCode");
    const std::string reason = text_member(ended, "reason"), message = text_member(ended, "message");
    return {"exited with " + std::to_string(code) + (reason.empty() ? "" : " (" + reason + ")") +
                (message.empty() ? "" : ": " + message),
            code == 0 ? Color::none : Color::red};
  }
  const boost::json::value& waiting = member(state, "waiting");
  const std::string reason = text_member(waiting, "reason"), message = text_member(waiting, "message");
  return {"waiting" + (reason.empty() ? "" : ": " + reason) + (message.empty() ? "" : ": " + message), Color::yellow};
}

namespace {

std::string end_of(const boost::json::value& terminated) {
  if (std::string reason = text_member(terminated, "reason"); !reason.empty()) return reason;
  const int64_t signal = integer_member(terminated, "signal");
  return signal != 0 ? "Signal:" + std::to_string(signal)
                     : "ExitCode:" + std::to_string(integer_member(terminated, "exitCode"));
}

bool has_condition(const boost::json::value& status, std::string_view type) {
  for (const boost::json::value& condition : list_member(status, "conditions"))
    if (text_member(condition, "type") == type) return text_member(condition, "status") == "True";
  return false;
}

/// Empty when all init containers are through, or run beside the others.
std::string init_status(const boost::json::value& pod) {
  const boost::json::value &spec = member(pod, "spec"), &status = member(pod, "status");
  std::set<std::string> sidecars;
  for (const boost::json::value& one : list_member(spec, "initContainers"))
    if (text_member(one, "restartPolicy") == "Always") sidecars.insert(text_member(one, "name"));
  size_t number = 0;
  for (const boost::json::value& one : list_member(status, "initContainerStatuses")) {
    const boost::json::value& state = member(one, "state");
    const boost::json::value& ended = member(state, "terminated");
    const bool is_through = ended.is_object() && integer_member(ended, "exitCode") == 0;
    const bool runs_beside = sidecars.count(text_member(one, "name")) != 0 && flag_member(one, "started");
    ++number;
    if (is_through || runs_beside) continue;
    if (ended.is_object()) return "Init:" + end_of(ended);
    const std::string waits = text_member(member(state, "waiting"), "reason");
    if (!waits.empty() && waits != "PodInitializing") return "Init:" + waits;
    return "Init:" + std::to_string(number - 1) + "/" + std::to_string(list_member(spec, "initContainers").size());
  }
  return "";
}

}  // namespace

std::string pod_status(const boost::json::value& pod) {
  const boost::json::value& status = member(pod, "status");
  if (!text_member(member(pod, "metadata"), "deletionTimestamp").empty()) return "Terminating";
  if (std::string init = init_status(pod); !init.empty() && !has_condition(status, "Initialized")) return init;
  std::string reason = text_member(status, "reason");
  // Why the node ended the pod, says more than how its containers ended.
  if (!reason.empty() && text_member(status, "phase") == "Failed") return reason;
  if (reason.empty()) reason = text_member(status, "phase");
  bool has_running = false;
  const boost::json::array& containers = list_member(status, "containerStatuses");
  for (size_t i = containers.size(); i-- > 0;) {
    const boost::json::value& state = member(containers[i], "state");
    const std::string waits = text_member(member(state, "waiting"), "reason");
    if (!waits.empty()) {
      reason = waits;
    } else if (member(state, "terminated").is_object()) {
      reason = end_of(member(state, "terminated"));
    } else if (flag_member(containers[i], "ready")) {
      has_running = true;
    }
  }
  if (reason == "Completed" && has_running) return has_condition(status, "Ready") ? "Running" : "NotReady";
  return reason;
}

namespace {

boost::json::value object_of(const node::v1::Pod& pod) {
  boost::system::error_code error;
  return boost::json::parse(pod.json(), error);
}

// In the manifest's order, which CRI does not keep.
std::vector<std::string> declared_containers(const boost::json::value& pod) {
  std::vector<std::string> names;
  for (const char* kind : {"containers", "initContainers"}) {
    for (const boost::json::value& one : list_member(member(pod, "spec"), kind))
      names.push_back(text_member(one, "name"));
  }
  return names;
}

// Why a container that the manifest names has never run, as the node agent tells it.
std::string waiting_reason(const boost::json::value& pod, const std::string& container) {
  for (const char* kind : {"initContainerStatuses", "containerStatuses"}) {
    for (const boost::json::value& status : list_member(member(pod, "status"), kind)) {
      if (text_member(status, "name") == container) return container_state(status).text;
    }
  }
  return "the node agent has not come to it";
}

Result<std::vector<ContainerInfo>> containers_of(Context& context, const node::v1::Pod& pod) {
  runtime::v1::ListContainersRequest request;
  request.mutable_filter()->set_pod_sandbox_id(pod.sandbox_id());
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
  Result<node::v1::Pod> found = find_pod(context, pod);
  if (!found) return found.status();
  if (found->sandbox_id().empty()) {
    return failed_precondition("the pod " + pod.text() + " has no sandbox yet" +
                               (found->message().empty() ? "" : ": " + found->message()));
  }
  Result<std::vector<ContainerInfo>> containers = containers_of(context, *found);
  if (!containers) return containers.status();
  const boost::json::value object = object_of(*found);
  const std::vector<std::string> names = declared_containers(object);
  if (container.empty() && names.empty())
    return internal_error("the node agent names no container of pod " + pod.text());
  const std::string wanted = container.empty() ? names[0] : container;
  if (container.empty() && names.size() > 1)
    context.note("container " + wanted + " of " + listed(names) + "; another one: -c NAME");
  if (std::find(names.begin(), names.end(), wanted) == names.end()) {
    return not_found("the pod " + pod.text() + " has no container " + wanted + document::suggestion(wanted, names));
  }
  std::vector<ContainerInfo> attempts;
  for (const ContainerInfo& one : *containers) {
    if (one.name == wanted) attempts.push_back(one);
  }
  if (attempts.empty()) {
    return failed_precondition("the container " + wanted + " of pod " + pod.text() +
                               " has not been started: " + waiting_reason(object, wanted));
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
  const Result<PodName> name = parse_pod_name(pod, "");
  if (!name) return {};
  const Result<node::v1::Pod> found = find_pod(context, *name);
  return found ? declared_containers(object_of(*found)) : std::vector<std::string>();
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
