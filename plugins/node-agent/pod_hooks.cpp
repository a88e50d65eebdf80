// What goes on with a container while it runs: hooks, probes, and what it says at its end.

#include <algorithm>

#include "plugins/node-agent/pod_worker_common.hpp"
#include "plugins/node-agent/termination_messages.hpp"

namespace pintle::agent {

namespace {

constexpr std::chrono::hours kLongestHook{24};  // of postStart, which has no limit of its own

}  // namespace

ActionTarget PodWorker::target_of(const PodRun& run, const PodRun::Container& container, std::string id) const {
  const bool of_node = run.wanted->pod->spec().host_network() || run.addresses.empty();
  return {std::move(id), of_node ? context_.node.address : run.addresses.front(), container.spec};
}

// ---- Hooks -----------------------------------------------------------------------------------------------------------------

Task<ProbeAnswer> PodWorker::perform_hook(PodRun& run, PodRun::Container& container, std::string id,
                                          const core::LifecycleHandler& handler, std::chrono::nanoseconds timeout) {
  const ActionTarget target = target_of(run, container, std::move(id));
  if (context_.stopping) co_return ProbeAnswer{ProbeAnswer::Kind::error, "the agent lets go"};
  if (handler.has_sleep()) {
    Wakeup sleep(context_.host);
    sleeps_.push_back(&sleep);
    const auto time = std::min<std::chrono::nanoseconds>(timeout, seconds(handler.sleep().seconds()));
    auto waiting = sleep.wait(WallClock::now() + std::chrono::duration_cast<WallClock::duration>(time));
    co_await waiting;
    std::erase(sleeps_, &sleep);
    co_return ProbeAnswer{ProbeAnswer::Kind::success, ""};
  }
  uint64_t call = 0;
  hook_calls_.push_back(&call);
  Task<ProbeAnswer> hooking = run_hook(*context_.web, *context_.runtime, target, handler, timeout, &call);
  ProbeAnswer answer = co_await std::move(hooking);
  std::erase(hook_calls_, &call);
  co_return answer;
}

/// Runs the hook to its end, or for the grace period. CANCELLED: the agent lets go.
Task<Status> PodWorker::pre_stop(PodRun& run, PodRun::Container& container, std::string id, int64_t grace_seconds) {
  const core::Lifecycle& lifecycle = container.spec->lifecycle();
  const bool runs = std::any_of(container.statuses.begin(), container.statuses.end(), [&](const auto& status) {
    return status.id() == id && status.state() == cri::CONTAINER_RUNNING;
  });
  if (!lifecycle.has_pre_stop() || !runs || grace_seconds <= 0) co_return Status::ok();
  Task<ProbeAnswer> hooking = perform_hook(run, container, std::move(id), lifecycle.pre_stop(), seconds(grace_seconds));
  const ProbeAnswer answer = co_await std::move(hooking);
  if (context_.stopping) co_return cancelled("the agent lets go");
  if (answer.kind != ProbeAnswer::Kind::success)
    event(run, "Warning", "FailedPreStopHook", container.name + ": PreStopHook failed: " + answer.message);
  co_return Status::ok();
}

/// The hook of a container that has just been started; one that fails ends its container.
Task<Status> PodWorker::post_start(PodRun& run, PodRun::Container& container, std::string id) {
  container.is_starting = true;
  Task<ProbeAnswer> hooking = perform_hook(run, container, id, container.spec->lifecycle().post_start(), kLongestHook);
  const ProbeAnswer answer = co_await std::move(hooking);
  container.is_starting = false;
  if (context_.stopping) co_return cancelled("the agent lets go");
  if (answer.kind == ProbeAnswer::Kind::success) co_return Status::ok();
  event(run, "Warning", "FailedPostStartHook", container.name + ": PostStartHook failed: " + answer.message);
  event(run, "Normal", "Killing", "FailedPostStartHook");
  Task<Status> stopping = stop_gently(run, container, std::move(id), run.grace_seconds);
  (void)co_await std::move(stopping);
  co_return failed_precondition("PostStartHook failed: " + answer.message);
}

// ---- Probes ----------------------------------------------------------------------------------------------------------------

void PodWorker::watch_over(PodRun& run, PodRun::Container& container) {
  if (!ContainerProbes::has_any(*container.spec) || !is_running(container)) return;
  const cri::ContainerStatus& newest = container.statuses.front();
  if (container.probes && container.probes->container_id() == newest.id()) return;
  ProbeSurroundings surroundings{
      context_.host,
      *context_.web,
      *context_.runtime,
      context_.start,
      [this] { wakeup_.notify(); },
      [this, &run, name = container.name](std::string_view reason, const std::string& message) {
        event(run, "Warning", reason, name + ": " + message);
      },
      [this, &run, name = container.name](ProbeKind kind, std::string_view result) {
        ++context_.probes[{run.uid, key_, name, std::string(name_of(kind)), std::string(result)}];
      }};
  container.probes =
      std::make_unique<ContainerProbes>(std::move(surroundings), target_of(run, container, newest.id()), run.wanted,
                                        wall_time(newest.started_at()), run.ready.contains(newest.id()));
}

/// So that a pod that serves does not become unready because the agent was replaced.
Task<void> PodWorker::keep_readiness(PodRun& run) {
  std::set<std::string> ready;
  for (const PodRun::Container& container : run.containers)
    if (container.probes && container.spec->has_readiness_probe() && is_ready(container))
      ready.insert(container.statuses.front().id());
  if (!run.volumes || ready == run.ready) co_return;
  run.ready = ready;
  auto keep = [files = context_.files, uid = run.uid, ready = std::move(ready)] {
    return files.keep_ready(uid, ready);
  };
  auto keeping = context_.host.blocking(std::move(keep));
  if (const Status kept = co_await std::move(keeping); !kept)
    context_.host.warn("which containers are ready could not be kept", {{"pod", key_}, {"why", kept.message()}});
}

Task<Status> PodWorker::end_by_probe(PodRun& run, PodRun::Container& container, ProbeKind kind) {
  const core::Probe& probe =
      kind == ProbeKind::startup ? container.spec->startup_probe() : container.spec->liveness_probe();
  const bool again = container.kind == ContainerKind::sidecar ||
                     restart_policy_of(run.wanted->pod->spec(), *container.spec) != "Never";
  event(run, "Normal", "Killing",
        "Container " + container.name + " failed " + (kind == ProbeKind::startup ? "startup" : "liveness") + " probe" +
            (again ? ", will be restarted" : ""));
  container.must_restart = again;
  const int64_t grace =
      probe.has_termination_grace_period_seconds() ? probe.termination_grace_period_seconds() : run.grace_seconds;
  Task<Status> stopping = stop_gently(run, container, container.statuses.front().id(), grace);
  const Status stopped = co_await std::move(stopping);
  run.must_refresh = true;
  co_return stopped;
}

// ---- What it says at its end -----------------------------------------------------------------------------------------------

Task<void> PodWorker::add_termination_message(PodRun& run, PodRun::Container& container, cri::ContainerStatus& status) {
  TerminationMessage wanted;
  wanted.path = termination_message_path(context_.files.folder(), run.uid, container.name, restarts_of(status));
  if (container.spec->termination_message_policy() == "FallbackToLogsOnError" && status.exit_code() != 0)
    wanted.log = run.log_folder + "/" + log_path_of(container.name, restarts_of(status));
  wanted.most = kMostTerminationMessages / run.containers.size();
  auto read = [wanted] { return read_termination_message(wanted); };
  auto reading = context_.host.blocking(std::move(read));
  const std::string message = co_await std::move(reading);
  if (!message.empty()) status.set_message(message);
}

}  // namespace pintle::agent
