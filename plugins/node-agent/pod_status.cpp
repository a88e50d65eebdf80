#include "plugins/node-agent/pod_status.hpp"

#include <algorithm>

#include "cri/api.pb.h"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_verdict.hpp"
#include "sdk/api/pod.hpp"
#include "sdk/api/time.hpp"

namespace pintle::agent {

namespace {

constexpr int32_t kKilled = 137;

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
  if (view.newest && view.newest->state() == cri::CONTAINER_RUNNING && !view.starting) {
    api::set_time(status.mutable_state()->mutable_running()->mutable_started_at(), view.newest->started_at());
    status.set_ready(view.ready);
    status.set_started(view.started);
  } else if (exited && view.waiting.reason.empty()) {
    *status.mutable_state()->mutable_terminated() = make_terminated(*view.newest, pod.runtime_name);
    status.set_ready(view.kind == ContainerKind::init && view.newest->exit_code() == 0);
  } else if (pod.verdict && !view.newest) {
    core::ContainerStateTerminated& unknown = *status.mutable_state()->mutable_terminated();
    unknown.set_exit_code(kKilled);
    unknown.set_reason("ContainerStatusUnknown");
    unknown.set_message("The container could not be located when the pod was terminated");
  } else {
    core::ContainerStateWaiting& waiting = *status.mutable_state()->mutable_waiting();
    const bool has_init = pod.pod->pod->spec().init_containers_size() > 0;
    waiting.set_reason(!view.waiting.reason.empty() ? view.waiting.reason
                       : has_init                   ? "PodInitializing"
                                                    : "ContainerCreating");
    if (!view.waiting.message.empty()) waiting.set_message(view.waiting.message);
    if (exited) *status.mutable_last_state()->mutable_terminated() = make_terminated(*view.newest, pod.runtime_name);
  }
  return status;
}

bool is_sidecar(const core::Container& container) { return container.restart_policy() == "Always"; }

/// kubelet's rule: what has not started yet makes a pod pending; what waits for its restart counts as ended.
std::string phase_of(const core::PodSpec& spec, const core::PodStatus& status) {
  int waiting = 0, running = 0, ended = 0, succeeded = 0;
  bool again = false;
  int initializing = 0, starting_sidecars = 0;
  bool failed = false;
  for (int i = 0; i < status.init_container_statuses_size(); ++i) {
    const core::ContainerStatus& container = status.init_container_statuses(i);
    if (is_sidecar(spec.init_containers(i))) {
      running += container.state().has_running();
      starting_sidecars += container.state().has_running()
                               ? !container.started()
                               : container.state().has_waiting() && !container.last_state().has_terminated();
      continue;
    }
    const core::ContainerState& last = container.state().has_terminated() ? container.state() : container.last_state();
    if (!container.state().has_running() && last.has_terminated())
      failed = failed || (last.terminated().exit_code() != 0 &&
                          !shall_restart(spec, spec.init_containers(i), last.terminated().exit_code()));
    else
      ++initializing;
  }
  bool begun = false;
  for (int i = 0; i < status.container_statuses_size(); ++i) {
    const core::ContainerStatus& container = status.container_statuses(i);
    begun = begun || !container.container_id().empty();
    if (container.state().has_running()) {
      ++running;
    } else if (container.state().has_terminated()) {
      ++ended;
      const int32_t code = container.state().terminated().exit_code();
      succeeded += code == 0;
      again = again || shall_restart(spec, spec.containers(i), code);
    } else if (container.last_state().has_terminated()) {
      ++ended;
      again = again || shall_restart(spec, spec.containers(i), container.last_state().terminated().exit_code());
    } else {
      ++waiting;
    }
  }
  if (failed) return "Failed";
  if (initializing > 0 || (starting_sidecars > 0 && !begun) || waiting > 0) return "Pending";
  if (running > 0 || again) return "Running";
  return succeeded == ended ? "Succeeded" : "Failed";
}

/// The gates that keep a pod from being ready. Conditions of this kind are set through the API, which this node does not have.
std::string open_gates(const core::PodSpec& spec) {
  std::string text;
  for (const core::PodReadinessGate& gate : spec.readiness_gates())
    text += (text.empty() ? "" : ", ") + ("corresponding condition of pod readiness gate \"" + gate.condition_type()) +
            "\" does not exist.";
  return text;
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

  /// What was done to the pod: true for good.
  void add_fact(const std::string& type, const std::string& reason, const std::string& message) {
    add(type, true);
    core::PodCondition& condition = *status_.mutable_conditions(status_.conditions_size() - 1);
    condition.set_reason(reason);
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

const std::string& restart_policy_of(const core::PodSpec& pod, const core::Container& container) {
  return container.has_restart_policy() ? container.restart_policy() : pod.restart_policy();
}

bool shall_restart(const core::PodSpec& pod, const core::Container& container, int32_t exit_code) {
  for (const core::ContainerRestartRule& rule : container.restart_policy_rules()) {
    const auto& values = rule.exit_codes().values();
    const bool is_listed = std::find(values.begin(), values.end(), exit_code) != values.end();
    if (rule.action() == "Restart" && is_listed == (rule.exit_codes().operator_() == "In")) return true;
  }
  const std::string& policy = restart_policy_of(pod, container);
  return policy == "Always" || (policy == "OnFailure" && exit_code != 0);
}

bool may_restart(const core::PodSpec& pod) {
  const auto may = [&](const core::Container& container) {
    return restart_policy_of(pod, container) != "Never" || container.restart_policy_rules_size() > 0;
  };
  // Sidecars are no work: a pod is not begun again for them.
  return std::any_of(pod.containers().begin(), pod.containers().end(), may) ||
         std::any_of(pod.init_containers().begin(), pod.init_containers().end(),
                     [&](const core::Container& container) { return !is_sidecar(container) && may(container); });
}

core::PodStatus make_pod_status(const PodView& view, ConditionMemory& memory) {
  const core::Pod& pod = *view.pod->pod;
  core::PodStatus status;
  const bool refused = view.verdict && view.verdict->is_refusal;
  for (const ContainerView& container : view.containers)
    if (!refused)
      *(container.kind == ContainerKind::regular ? status.add_container_statuses()
                                                 : status.add_init_container_statuses()) =
          container_status(container, view);
  status.set_phase(view.expired || view.verdict ? "Failed" : phase_of(pod.spec(), status));
  if (view.verdict) {
    status.set_reason(view.verdict->reason);
    status.set_message(view.verdict->message);
  }
  if (view.lost && !view.verdict && status.phase() == "Pending") {
    status.set_phase("Failed");
    status.set_message("the pod's sandbox was lost before its containers had run, and its restart policy is Never");
  }
  if (view.expired && !view.verdict) {
    status.set_reason("DeadlineExceeded");
    status.set_message("Pod was active on the node longer than the specified deadline");
  }
  status.set_qos_class(std::string(api::quality_of_service(pod)));
  if (view.started_at > 0) api::set_time(status.mutable_start_time(), view.started_at);
  if (!view.host_address.empty()) {
    status.set_host_ip(view.host_address);
    status.add_host_ips()->set_ip(view.host_address);
  }
  if (!view.addresses.empty()) status.set_pod_ip(view.addresses.front());
  for (const std::string& address : view.addresses) status.add_pod_ips()->set_ip(address);

  std::string unready, incomplete;
  const auto list = [](std::string& names, const std::string& name) { names += (names.empty() ? "" : " ") + name; };
  for (int i = 0; i < status.init_container_statuses_size(); ++i) {
    const core::ContainerStatus& container = status.init_container_statuses(i);
    const bool sidecar = is_sidecar(pod.spec().init_containers(i));
    if (sidecar ? !container.started() : !container.ready()) list(incomplete, container.name());
    if (sidecar && !container.ready()) list(unready, container.name());
  }
  bool begun = false;
  for (const core::ContainerStatus& container : status.container_statuses()) {
    begun = begun || !container.container_id().empty();
    if (!container.ready()) list(unready, container.name());
  }
  const bool succeeded = status.phase() == "Succeeded", failed = status.phase() == "Failed";
  const std::string_view reason = succeeded ? "PodCompleted" : failed ? "PodFailed" : "ContainersNotReady";
  const std::string message = succeeded || failed ? std::string() : "containers with unready status: [" + unready + "]";
  const bool ready = unready.empty() && !succeeded && !failed;
  Conditions conditions(status, memory, view.now);
  conditions.add("PodReadyToStartContainers", view.sandbox_ready);
  conditions.add("Initialized", begun || succeeded || incomplete.empty(), "ContainersNotInitialized",
                 "containers with incomplete status: [" + incomplete + "]");
  if (const std::string gates = open_gates(pod.spec()); ready && !gates.empty())
    conditions.add("Ready", false, "ReadinessGatesNotReady", gates);
  else
    conditions.add("Ready", ready, reason, message);
  conditions.add("ContainersReady", ready, reason, message);
  conditions.add("PodScheduled", true);
  if (view.verdict && !view.verdict->disruption_message.empty())
    conditions.add_fact("DisruptionTarget", "TerminationByKubelet", view.verdict->disruption_message);
  return status;
}

}  // namespace pintle::agent
