#pragma once

/// Pods, their containers and images as the node's plugins tell them: `pintle.node.v1.NodeAgent` knows the pods,
/// `runtime.v1.RuntimeService` their containers.

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kernel/cli/output.hpp"

namespace pintle::node::v1 {
class Pod;
}

namespace pintle::cli {

struct Context;

struct PodName {
  std::string pod_namespace, name;
  std::string text() const { return pod_namespace == "default" ? name : pod_namespace + "/" + name; }
};

/// "web" or "kube-system/web"; without a namespace the one given, or "default". INVALID_ARGUMENT: neither.
Result<PodName> parse_pod_name(const std::string& text, const std::string& default_namespace);

/// One pod. NOT_FOUND with the nearest name.
Result<node::v1::Pod> find_pod(Context& context, const PodName& name);

struct ContainerInfo {
  std::string id, name, log_path;
  uint32_t attempt = 0;  // how often it was restarted before
  bool running = false;
  int64_t created_at = 0;
};

/// The newest container of that name in the pod; of no name, the first of its manifest, with a note if there
/// are others. `previous`: the one before the newest.
Result<ContainerInfo> find_container(Context& context, const PodName& pod, const std::string& container, bool previous);
/// Its state now, and where its log lies.
Result<ContainerInfo> container_status(Context& context, const std::string& id);

/// A container's status of a core/v1 Pod: "running since 3m", "waiting: CrashLoopBackOff: back-off 20s", "exited with 1 (Error)".
Cell container_state(const boost::json::value& status);

/// What `kubectl get pods` has under STATUS: the phase, or what says more: "Init:0/2", "CrashLoopBackOff", "OOMKilled", "Completed",
/// "Terminating". From a whole core/v1 Pod; empty if it has no status.
std::string pod_status(const boost::json::value& pod);

// For completion: what cannot be asked is empty.
std::vector<std::pair<std::string, std::string>> pod_names(Context& context);
std::vector<std::string> container_names(Context& context, const std::string& pod);
std::vector<std::string> image_names(Context& context);

/// `pintle pod logs` and `pintle pod exec`, in files of their own.
struct PodLogOptions {
  std::string pod, pod_namespace, container;
  bool follow = false;
  bool previous = false;
  bool timestamps = false;
  std::optional<uint64_t> tail;
};
int show_pod_logs(Context& context, const PodLogOptions& options);

}  // namespace pintle::cli
