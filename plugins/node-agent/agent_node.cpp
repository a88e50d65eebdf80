// The node as a whole: which pods it takes, and how it is told.

#include <algorithm>
#include <boost/json.hpp>

#include "cri/api.pintle.hpp"
#include "pintle/node.pb.h"
#include "plugins/node-agent/agent.hpp"
#include "plugins/node-agent/pod_resources.hpp"
#include "sdk/api/pod.hpp"
#include "sdk/api/quantity.hpp"
#include "sdk/api/time.hpp"
#include "sdk/support/proc/security_modules.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

struct Words {
  const char *condition, *good_reason, *good, *bad_reason, *bad;
};
// As kubelet tells them, so that tools and people know them.
constexpr Words kWords[] = {
    {"MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available",
     "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
    {"DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure", "KubeletHasDiskPressure",
     "kubelet has disk pressure"},
    {"PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available", "KubeletHasInsufficientPID",
     "kubelet has insufficient PID available"},
};

json::object amounts_json(const Amounts& amounts) {
  json::object out;
  for (const auto& [name, amount] : amounts) {
    if (name == "pid") continue;  // Kubernetes tells no such resource
    const auto notation =
        name == "cpu" || name == "pods" ? api::Quantity::Notation::decimal : api::Quantity::Notation::binary;
    out[name] = (name == "cpu" ? api::Quantity::of_milli(amount) : api::Quantity::of(amount, notation)).text();
  }
  return out;
}

/// In kubelet's words: a profile that is asked for and would not be enforced is worse than no pod (KEP-24).
std::optional<PodVerdict> admit_by_apparmor(const core::Pod& pod) {
  const auto is_asked_for = [&](const core::Container& container) {
    core::AppArmorProfile profile;
    return api::find_apparmor_profile(pod, container, profile) && profile.type() != "Unconfined";
  };
  const auto& spec = pod.spec();
  const bool is_needed = std::any_of(spec.containers().begin(), spec.containers().end(), is_asked_for) ||
                         std::any_of(spec.init_containers().begin(), spec.init_containers().end(), is_asked_for);
  if (!is_needed || proc::has_apparmor()) return std::nullopt;
  PodVerdict verdict;
  verdict.reason = "AppArmor";
  verdict.message = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
  verdict.is_refusal = true;
  return verdict;
}

}  // namespace

std::optional<PodVerdict> Agent::admit(const PodWorker& asking, const WantedPod& pod) {
  if (std::optional<PodVerdict> refusal = shutdown_.admit()) return refusal;
  if (std::optional<PodVerdict> refusal = pressure_.admit(*pod.pod)) return refusal;
  if (std::optional<PodVerdict> refusal = admit_by_apparmor(*pod.pod)) return refusal;
  std::vector<std::shared_ptr<const WantedPod>> others;
  for (const auto& [key, worker] : workers_)
    if (worker.get() != &asking)
      for (std::shared_ptr<const WantedPod>& other : worker->holding()) others.push_back(std::move(other));
  std::optional<PodVerdict> refusal = admit_by_resources(settings_.resources, others, *pod.pod);
  if (!refusal || !is_critical(*pod.pod)) return refusal;
  // It is asked about again when these have gone.
  for (const std::shared_ptr<const WantedPod>& lower : to_preempt(settings_.resources, others, *pod.pod)) {
    const auto worker = workers_.find(lower->key());
    const std::shared_ptr<const WantedPod> active = worker == workers_.end() ? nullptr : worker->second->active();
    if (!active || active->uid != lower->uid) continue;
    worker->second->end_with({.reason = "Preempting",
                              .message = "Preempted in order to admit critical pod",
                              .grace_seconds = lower->pod->spec().termination_grace_period_seconds(),
                              .is_refusal = false,
                              .frees_disk = false,
                              .keeps_volumes = false,
                              .disruption_message = "Preempted in order to admit critical pod"});
  }
  return refusal;
}

void Agent::reconsider_refused() {
  if (context_.stopping) return;
  for (const auto& [key, worker] : workers_) worker->reconsider();
}

node::v1::DescribeNodeResponse Agent::describe_node() const {
  json::array conditions;
  for (const Words& words : kWords) {
    const auto known = pressure_.conditions().find(words.condition);
    if (known == pressure_.conditions().end()) continue;
    const bool is_true = known->second.is_true;
    conditions.push_back(
        json::object{{"type", words.condition},
                     {"status", is_true ? "True" : "False"},
                     {"lastTransitionTime", api::format_time(api::instant_of_nanoseconds(known->second.since))},
                     {"reason", is_true ? words.bad_reason : words.good_reason},
                     {"message", is_true ? words.bad : words.good}});
  }
  conditions.push_back(json::object{{"type", "Ready"},
                                    {"status", begun_ ? "True" : "False"},
                                    {"reason", begun_ ? "KubeletReady" : "KubeletNotReady"}});
  json::object status{
      {"capacity", amounts_json(settings_.resources.capacity)},
      {"allocatable", amounts_json(settings_.resources.allocatable)},
      {"conditions", std::move(conditions)},
      {"addresses", json::array{json::object{{"type", "InternalIP"}, {"address", settings_.node.address}}}}};
  json::object node{{"apiVersion", "v1"},
                    {"kind", "Node"},
                    {"metadata", json::object{{"name", host_.node()}}},
                    {"status", std::move(status)}};
  node::v1::DescribeNodeResponse response;
  response.set_json(json::serialize(node));
  return response;
}

}  // namespace pintle::agent
