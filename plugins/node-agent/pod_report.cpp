// Telling what a pod does.

#include <algorithm>

#include "cri/api.pintle.hpp"
#include "pintle/node.pb.h"
#include "plugins/node-agent/pod_worker_common.hpp"
#include "plugins/node-agent/posted_manifests.hpp"
#include "sdk/api/json.hpp"
#include "sdk/api/time.hpp"

namespace pintle::agent {

namespace {

std::string source_of(const WantedPod& pod) {
  if (pod.path == kPostedPath) return pod.path;
  return (pod.path.starts_with('/') ? "file:" : "url:") + pod.path;
}

/// "Init:1/3" while a pod is being initialized; "Init:Error" if it cannot be.
std::string init_state(const core::Pod& object) {
  const core::PodStatus& status = object.status();
  const auto& conditions = status.conditions();
  if (std::any_of(conditions.begin(), conditions.end(), [](const core::PodCondition& condition) {
        return condition.type() == "Initialized" && condition.status() == "True";
      }))
    return {};
  int done = 0;
  for (int i = 0; i < status.init_container_statuses_size(); ++i) {
    const core::ContainerStatus& container = status.init_container_statuses(i);
    const bool sidecar = object.spec().init_containers(i).restart_policy() == "Always";
    if (sidecar ? container.started() : container.ready()) {
      ++done;
      continue;
    }
    if (container.state().has_terminated() && !sidecar) return "Init:" + container.state().terminated().reason();
    const std::string& reason = container.state().waiting().reason();
    if (!reason.empty() && reason != "PodInitializing") return "Init:" + reason;
    break;
  }
  return "Init:" + std::to_string(done) + "/" + std::to_string(status.init_container_statuses_size());
}

}  // namespace

core::Pod PodWorker::object_of(PodRun& run) {
  core::Pod object = *run.wanted->pod;
  const WallTime now = WallClock::now();
  api::set_time(object.mutable_metadata()->mutable_creation_timestamp(), run.wanted->created_at);
  if (run.ending) {
    api::set_time(object.mutable_metadata()->mutable_deletion_timestamp(), nanoseconds(run.ending_since));
    object.mutable_metadata()->set_deletion_grace_period_seconds(run.grace_seconds);
  }
  PodView view;
  view.pod = run.wanted.get();
  view.sandbox_ready = !run.sandbox_id.empty();
  view.addresses = run.addresses;
  view.host_address = context_.node.address;
  if (run.wanted->pod->spec().host_network() && view.sandbox_ready && view.addresses.empty())
    view.addresses = {view.host_address};
  view.runtime_name = context_.runtime_name;
  view.started_at = run.wanted->created_at;
  view.now = nanoseconds(now);
  // A pod has not failed before the last of it has ended.
  if (run.verdict && (run.verdict->is_refusal || (run.complete && run.sandbox_id.empty())))
    view.verdict = &*run.verdict;
  view.expired = run.expired;
  view.lost = run.lost;
  for (const PodRun::Container& container : run.containers) {
    ContainerView& one = view.containers.emplace_back();
    one.spec = container.spec;
    one.kind = container.kind;
    one.started = is_started(container);
    one.ready = is_ready(container);
    one.starting = container.is_starting;
    one.newest = container.statuses.empty() ? nullptr : &container.statuses.front();
    one.last_ended = container.last_ended ? &*container.last_ended : nullptr;
    one.restarts = one.newest ? restarts_of(*one.newest) : 0;
    one.waiting = container.waiting;
  }
  *object.mutable_status() = make_pod_status(view, run.conditions);
  return object;
}

node::v1::Pod PodWorker::report() {
  node::v1::Pod report;
  const size_t slash = key_.find('/');
  report.mutable_reference()->set_namespace_(key_.substr(0, slash));
  report.mutable_reference()->set_name(key_.substr(slash + 1));
  PodRun* run = current_ ? current_.get() : doomed_.empty() ? nullptr : doomed_.front().get();
  if (!run) {
    report.set_phase("Pending");
    if (!wanted_) return report;
    report.set_uid(wanted_->uid);
    report.set_source(source_of(*wanted_));
    report.set_created_at(wanted_->created_at);
    report.set_containers(static_cast<uint32_t>(wanted_->pod->spec().containers_size()));
    return report;
  }
  report.set_uid(run->uid);
  report.set_sandbox_id(run->sandbox_id);
  for (const std::string& address : run->addresses) report.add_addresses(address);
  for (const PodEvent& event : run->events.events()) {
    node::v1::PodEvent& out = *report.add_events();
    out.set_time(event.time);
    out.set_type(event.type);
    out.set_reason(event.reason);
    out.set_message(event.message);
    out.set_count(event.count);
  }
  std::string message;
  if (run->wanted) {
    const core::Pod object = object_of(*run);
    report.set_source(source_of(*run->wanted));
    report.set_created_at(run->wanted->created_at);
    report.set_phase(object.status().phase());
    if (report.addresses_size() == 0 && !object.status().pod_ip().empty())
      report.add_addresses(object.status().pod_ip());
    uint32_t ready = 0, restarts = 0;
    const auto count = [&](const core::ContainerStatus& status, bool counts) {
      ready += counts && status.ready();
      restarts += static_cast<uint32_t>(status.restart_count());
      const core::ContainerStateWaiting& waiting = status.state().waiting();
      if (message.empty() && status.state().has_waiting() && waiting.reason() != "ContainerCreating" &&
          waiting.reason() != "PodInitializing")
        message = status.name() + ": " + waiting.reason() + (waiting.message().empty() ? "" : ": " + waiting.message());
    };
    // As kubectl counts: sidecars belong to the containers that are ready or not.
    uint32_t sidecars = 0;
    for (int i = 0; i < object.status().init_container_statuses_size(); ++i) {
      const bool sidecar = object.spec().init_containers(i).restart_policy() == "Always";
      sidecars += sidecar;
      count(object.status().init_container_statuses(i), sidecar);
    }
    for (const core::ContainerStatus& status : object.status().container_statuses()) count(status, true);
    report.set_containers(sidecars + static_cast<uint32_t>(object.spec().containers_size()));
    if (const std::string initializing = init_state(object); !initializing.empty())
      message = message.empty() ? initializing : initializing + " " + message;
    report.set_ready_containers(ready);
    report.set_restarts(restarts);
    report.set_json(api::encode_text(object));
  } else {
    report.set_phase("Running");
  }
  if (run->expired) message = message.empty() ? "DeadlineExceeded" : "DeadlineExceeded: " + message;
  if (run->verdict) message = run->verdict->reason + ": " + run->verdict->message;
  if (!run->sandbox_trouble.empty()) message = run->sandbox_trouble;
  if (run->ending) message = message.empty() ? "Terminating" : "Terminating: " + message;
  report.set_message(message);
  return report;
}

}  // namespace pintle::agent
