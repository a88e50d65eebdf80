#pragma once

/// A pod's status as Kubernetes tells it: phase, conditions, container states and their reasons. Pure functions of what is known.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "plugins/node-agent/manifests.hpp"

namespace runtime::v1 {
class ContainerStatus;
}

namespace k8s::io::api::core::v1 {
class Container;
class ContainerStateTerminated;
class PodSpec;
class PodStatus;
}  // namespace k8s::io::api::core::v1

namespace pintle::agent {

struct PodVerdict;

namespace cri = ::runtime::v1;

/// Why a container does not run: "CrashLoopBackOff", "back-off 20s restarting ...". An empty reason: nothing is in its way.
struct Waiting {
  std::string reason;
  std::string message;
};

enum class ContainerKind {
  regular,
  init,     ///< runs to its end before the next one
  sidecar,  ///< an init container that runs on: restartPolicy Always
};

struct ContainerView {
  const core::Container* spec = nullptr;
  ContainerKind kind = ContainerKind::regular;
  bool starting = false;                         ///< its postStart hook is under way
  bool started = false;                          ///< it runs, and its startup probe has nothing against it
  bool ready = false;                            ///< it has started, and its readiness probe has nothing against it
  const cri::ContainerStatus* newest = nullptr;  ///< may be null
  const core::ContainerStateTerminated* last_ended = nullptr;  ///< of the one before; may be null
  uint32_t restarts = 0;
  Waiting waiting;
};

/// When conditions last changed. Kept from one status to the next.
struct ConditionMemory {
  struct Entry {
    bool value;
    int64_t since;
  };
  std::map<std::string, Entry> entries;
};

struct PodView {
  const WantedPod* pod = nullptr;
  std::vector<ContainerView> containers;  ///< one for each of the spec, init containers first
  bool sandbox_ready = false;
  std::vector<std::string> addresses;
  std::string host_address;
  std::string runtime_name;  ///< "pintle": container ids are "pintle://ID"
  int64_t started_at = 0;    ///< when the agent began with it, nanoseconds since 1970
  int64_t now = 0;
  bool expired = false;                 ///< it was active for longer than its deadline
  const PodVerdict* verdict = nullptr;  ///< of the node, that has ended or refused it; may be null
  bool lost = false;                    ///< its sandbox is gone, and it gets no other one
};

core::PodStatus make_pod_status(const PodView& view, ConditionMemory& memory);

/// How an ended container ended.
core::ContainerStateTerminated make_terminated(const cri::ContainerStatus& status, const std::string& runtime_name);

/// Whether a container that ended like this shall run again: by its own rules and policy (KEP-5307), else by the pod's.
bool shall_restart(const core::PodSpec& pod, const core::Container& container, int32_t exit_code);

/// The restart policy that counts for the container.
const std::string& restart_policy_of(const core::PodSpec& pod, const core::Container& container);

/// Whether any of the pod's containers may ever run a second time.
bool may_restart(const core::PodSpec& pod);

}  // namespace pintle::agent
