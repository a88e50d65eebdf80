// The end of pods and containers.

#include <algorithm>
#include <pintle/all.hpp>

#include "plugins/node-agent/pod_worker_common.hpp"

namespace pintle::agent {

namespace {

// For who comes late in a pod's end, so that it can still end by itself (kubelet's minimum).
constexpr int64_t kLeastGrace = 2;

int64_t grace_left(int64_t grace_seconds, std::chrono::steady_clock::time_point begun) {
  const auto passed = std::chrono::duration_cast<seconds>(std::chrono::steady_clock::now() - begun).count();
  return std::max(grace_seconds - passed, std::min(grace_seconds, kLeastGrace));
}

}  // namespace

/// Ends one container: its preStop hook takes its time from the grace period.
Task<Status> PodWorker::stop_gently(PodRun& run, PodRun::Container& container, std::string id, int64_t grace_seconds) {
  const auto begun = std::chrono::steady_clock::now();
  Task<Status> hooking = pre_stop(run, container, id, grace_seconds);
  if (const Status hooked = co_await std::move(hooking); !hooked) co_return hooked;
  Task<Status> stopping = stop_container(std::move(id), grace_left(grace_seconds, begun));
  co_return co_await std::move(stopping);
}

Task<Status> PodWorker::stop_container(std::string id, int64_t grace_seconds) {
  cri::StopContainerRequest request;
  request.set_container_id(id);
  request.set_timeout(grace_seconds);
  auto stopping = context_.runtime->StopContainer(request, options(seconds(grace_seconds) + kStopSlack));
  Result<cri::StopContainerResponse> stopped = co_await stopping;
  co_return is_gone(stopped.status()) ? Status::ok() : stopped.status();
}

Task<Status> PodWorker::remove_container(std::string id) {
  cri::RemoveContainerRequest request;
  request.set_container_id(id);
  auto removing = context_.runtime->RemoveContainer(request, options(kMakeCall));
  Result<cri::RemoveContainerResponse> removed = co_await removing;
  co_return removed.status();
}

Task<Status> PodWorker::remove_sandbox(std::string id, bool only_stop) {
  cri::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(id);
  auto stopping = context_.runtime->StopPodSandbox(stop, options(kMakeCall));
  Result<cri::StopPodSandboxResponse> stopped = co_await stopping;
  if (only_stop || !is_gone(stopped.status())) co_return stopped.status();
  cri::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(id);
  auto removing = context_.runtime->RemovePodSandbox(remove, options(kMakeCall));
  Result<cri::RemovePodSandboxResponse> removed = co_await removing;
  co_return removed.status();
}

/// Ends all containers of the run within its grace period: sidecars when the others have ended, the last one first, each with its
/// preStop hook when its turn is there.
Task<Status> PodWorker::stop_all(PodRun& run) {
  const auto begun = std::chrono::steady_clock::now();
  std::vector<Task<Status>> stopping;
  std::vector<std::pair<PodRun::Container*, std::string>> sidecars;
  const auto tell = [&](const std::string& name) { event(run, "Normal", "Killing", "Stopping container " + name); };
  for (PodRun::Container& container : run.containers) {
    if (container.probes) container.probes->end();
    for (const cri::ContainerStatus& status : container.statuses) {
      if (status.state() == cri::CONTAINER_EXITED) continue;
      tell(container.name);
      if (container.kind == ContainerKind::sidecar)
        sidecars.emplace_back(&container, status.id());
      else
        stopping.push_back(stop_gently(run, container, status.id(), run.grace_seconds));
    }
  }
  for (const cri::ContainerStatus& status : run.strangers) {
    if (status.state() == cri::CONTAINER_EXITED) continue;
    tell(value_of(status.labels(), label::kContainerName));
    stopping.push_back(stop_container(status.id(), run.grace_seconds));
  }
  Task<Status> all_stopping = all(std::move(stopping));
  Status result = co_await std::move(all_stopping);
  std::reverse(sidecars.begin(), sidecars.end());
  for (const auto& [container, id] : sidecars) {
    if (context_.stopping) break;
    Task<Status> one = stop_gently(run, *container, id, grace_left(run.grace_seconds, begun));
    if (Status stopped = co_await std::move(one); !stopped && result) result = stopped;
  }
  co_return result;
}

/// The pod has done its work, or cannot do it: what still runs of it ends. False: it must be tried again.
Task<bool> PodWorker::complete(PodRun& run) {
  run.complete = true;
  run.sandbox_trouble.clear();
  if (run.sandbox_id.empty()) co_return true;
  Task<Status> all_stopping = stop_all(run);
  if (Status stopped = co_await std::move(all_stopping); !stopped || context_.stopping) co_return false;
  Task<Status> stopping = remove_sandbox(run.sandbox_id, true);
  const Status stopped = co_await std::move(stopping);
  if (!is_gone(stopped)) co_return false;
  run.sandbox_id.clear();
  run.must_refresh = true;
  wakeup_.notify();
  if (context_.freed) context_.freed();
  co_return true;
}

Task<bool> PodWorker::end(PodRun& run) {
  if (!std::exchange(run.ending, true)) run.ending_since = WallClock::now();
  const auto trouble = [&](const Status& status) {
    run.sandbox_trouble = status.message();
    if (context_.stopping) return false;
    event(run, "Warning", "FailedKillPod", status.message());
    return false;
  };
  Task<Status> refreshing = refresh(run);
  if (Status refreshed = co_await std::move(refreshing); !refreshed) co_return trouble(refreshed);

  Task<Status> all_stopping = stop_all(run);
  if (Status stopped = co_await std::move(all_stopping); !stopped)
    co_return trouble(stopped.with_context("stop the pod's containers"));
  if (context_.stopping) co_return false;

  std::vector<std::string> sandboxes = run.old_sandboxes;
  if (!run.sandbox_id.empty()) sandboxes.push_back(run.sandbox_id);
  for (const std::string& id : sandboxes) {
    Task<Status> removing = remove_sandbox(id, false);
    if (Status removed = co_await std::move(removing); !is_gone(removed))
      co_return trouble(removed.with_context("remove the pod's sandbox"));
  }
  std::vector<std::string> left;
  for (const PodRun::Container& container : run.containers)
    for (const cri::ContainerStatus& status : container.statuses) left.push_back(status.id());
  for (const cri::ContainerStatus& status : run.strangers) left.push_back(status.id());
  for (const std::string& id : left) {
    Task<Status> removing = remove_container(id);
    if (Status removed = co_await std::move(removing); !is_gone(removed))
      co_return trouble(removed.with_context("remove the pod's containers"));
  }
  auto work = [files = context_.files, uid = run.uid, log_folder = run.log_folder] {
    return files.remove(uid, log_folder);
  };
  auto working = context_.host.blocking(std::move(work));
  if (Status removed = co_await std::move(working); !removed)
    co_return trouble(removed.with_context("remove the pod's files"));
  std::erase_if(context_.probes, [&](const auto& counted) { return counted.first[0] == run.uid; });
  context_.verdicts.erase(run.uid);
  context_.host.info("the pod has ended", {{"pod", key_}, {"uid", run.uid}});
  co_return true;
}

}  // namespace pintle::agent
