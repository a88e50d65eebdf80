#include "plugins/node-agent/pod_status.hpp"

#include "cri/api.pb.h"
#include "k8s/core/v1/pod.pb.h"
#include "sdk/api/pod.hpp"
#include "sdk/api/time.hpp"

namespace pintle::agent {

namespace {

core::ContainerStatus container_status(const ContainerView& view, const PodView& pod) {
  core::ContainerStatus status;
  status.set_name(view.spec->name());
  status.set_image(view.spec->image());
  status.set_restart_count(static_cast<int32_t>(view.restarts));
  status.set_started(false);
  if (view.last_ended) *status.mutable_last_state()->mutable_terminated() = *view.last_ended;
  if (view.newest) {
    status.set_image_id(view.newest->image_ref());
    status.set_container_id(pod.runtime_name + "://" + view.newest->id());
  }
  const bool exited = view.newest && view.newest->state() == cri::CONTAINER_EXITED;
  if (view.newest && view.newest->state() == cri::CONTAINER_RUNNING) {
    api::set_time(status.mutable_state()->mutable_running()->mutable_started_at(), view.newest->started_at());
    status.set_ready(true);
    status.set_started(true);
  } else if (exited && view.waiting.reason.empty()) {
    *status.mutable_state()->mutable_terminated() = make_terminated(*view.newest, pod.runtime_name);
  } else {
    core::ContainerStateWaiting& waiting = *status.mutable_state()->mutable_waiting();
    waiting.set_reason(view.waiting.reason.empty() ? "ContainerCreating" : view.waiting.reason);
    if (!view.waiting.message.empty()) waiting.set_message(view.waiting.message);
    if (exited) *status.mutable_last_state()->mutable_terminated() = make_terminated(*view.newest, pod.runtime_name);
  }
  return status;
}

/// kubelet's rule: what has not started yet makes a pod pending; what waits for its restart counts as ended.
std::string phase_of(const core::PodSpec& spec, const core::PodStatus& status) {
  int waiting = 0, running = 0, ended = 0, succeeded = 0;
  for (const core::ContainerStatus& container : status.container_statuses()) {
    if (container.state().has_running()) {
      ++running;
    } else if (container.state().has_terminated()) {
      ++ended;
      succeeded += container.state().terminated().exit_code() == 0;
    } else if (container.last_state().has_terminated()) {
      ++ended;
    } else {
      ++waiting;
    }
  }
  if (waiting > 0) return "Pending";
  if (running > 0 || spec.restart_policy() == "Always") return "Running";
  if (succeeded == ended) return "Succeeded";
  return spec.restart_policy() == "Never" ? "Failed" : "Running";
}

class Conditions {
 public:
  Conditions(core::PodStatus& status, ConditionMemory& memory, int64_t now)
      : status_(status), memory_(memory), now_(now) {}

  void add(const std::string& type, bool value, std::string_view reason = {}, const std::string& message = {}) {
    auto [entry, is_new] = memory_.entries.try_emplace(type, ConditionMemory::Entry{value, now_});
    if (!is_new && entry->second.value != value) entry->second = {value, now_};
    core::PodCondition& condition = *status_.add_conditions();
    condition.set_type(type);
    condition.set_status(value ? "True" : "False");
    api::set_time(condition.mutable_last_transition_time(), entry->second.since);
    if (value || reason.empty()) return;
    condition.set_reason(std::string(reason));
    condition.set_message(message);
  }

 private:
  core::PodStatus& status_;
  ConditionMemory& memory_;
  int64_t now_;
};

}  // namespace

core::ContainerStateTerminated make_terminated(const cri::ContainerStatus& status, const std::string& runtime_name) {
  core::ContainerStateTerminated ended;
  ended.set_exit_code(status.exit_code());
  ended.set_reason(!status.reason().empty() ? status.reason() : status.exit_code() == 0 ? "Completed" : "Error");
  if (!status.message().empty()) ended.set_message(status.message());
  if (status.started_at() > 0) api::set_time(ended.mutable_started_at(), status.started_at());
  if (status.finished_at() > 0) api::set_time(ended.mutable_finished_at(), status.finished_at());
  ended.set_container_id(runtime_name + "://" + status.id());
  return ended;
}

bool shall_restart(const core::Pod& pod, int32_t exit_code) {
  const std::string& policy = pod.spec().restart_policy();
  return policy == "Always" || (policy == "OnFailure" && exit_code != 0);
}

core::PodStatus make_pod_status(const PodView& view, ConditionMemory& memory) {
  const core::Pod& pod = *view.pod->pod;
  core::PodStatus status;
  for (const ContainerView& container : view.containers)
    *status.add_container_statuses() = container_status(container, view);
  status.set_phase(phase_of(pod.spec(), status));
  status.set_qos_class(std::string(api::quality_of_service(pod)));
  if (view.started_at > 0) api::set_time(status.mutable_start_time(), view.started_at);
  if (!view.host_address.empty()) {
    status.set_host_ip(view.host_address);
    status.add_host_ips()->set_ip(view.host_address);
  }
  if (!view.addresses.empty()) status.set_pod_ip(view.addresses.front());
  for (const std::string& address : view.addresses) status.add_pod_ips()->set_ip(address);

  std::string unready;
  for (const core::ContainerStatus& container : status.container_statuses())
    if (!container.ready()) unready += (unready.empty() ? "" : " ") + container.name();
  const bool succeeded = status.phase() == "Succeeded", failed = status.phase() == "Failed";
  const std::string_view reason = succeeded ? "PodCompleted" : failed ? "PodFailed" : "ContainersNotReady";
  const std::string message = succeeded || failed ? std::string() : "containers with unready status: [" + unready + "]";
  const bool ready = unready.empty() && !succeeded && !failed;
  Conditions conditions(status, memory, view.now);
  conditions.add("PodReadyToStartContainers", view.sandbox_ready);
  conditions.add("Initialized", true);
  conditions.add("Ready", ready, reason, message);
  conditions.add("ContainersReady", ready, reason, message);
  conditions.add("PodScheduled", true);
  return status;
}

}  // namespace pintle::agent
