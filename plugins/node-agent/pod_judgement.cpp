// What the node decides about a pod: that it ends, or is not taken (pod_verdict.hpp).

#include <algorithm>

#include "plugins/node-agent/pod_worker_common.hpp"

namespace pintle::agent {

void PodWorker::pass(PodRun& run, PodVerdict verdict) {
  event(run, "Warning", verdict.reason, verdict.message);
  if (!verdict.is_refusal) run.grace_seconds = std::min(run.grace_seconds, verdict.grace_seconds);
  run.verdict = std::move(verdict);
}

void PodWorker::end_with(PodVerdict verdict) {
  if (!current_ || !current_->wanted || current_->verdict) return;
  pass(*current_, std::move(verdict));
  // It waits for no image any more.
  if (pull_call_ != 0) context_.host.api()->cancel(context_.host.raw(), pull_call_);
  wakeup_.notify();
}

void PodWorker::reconsider() {
  if (!current_ || !current_->verdict || !current_->verdict->is_refusal) return;
  current_->verdict.reset();
  current_->settled = false;
  wakeup_.notify();
}

void PodWorker::pardon(const std::string& reason) {
  if (!current_ || !current_->wanted || !current_->verdict || current_->verdict->reason != reason) return;
  current_->pardoned = true;
  wakeup_.notify();
}

/// The verdict on the run is taken back: it begins anew with what there is.
Task<void> PodWorker::take_back(PodRun& run) {
  auto work = [files = context_.files, uid = run.uid] { files.forget_verdict(uid); };
  auto working = context_.host.blocking(std::move(work));
  co_await std::move(working);
  context_.verdicts.erase(run.uid);
  run.verdict.reset();
  run.pardoned = run.settled = run.verdict_kept = run.complete = false;
  run.must_refresh = true;
  run.grace_seconds = run.wanted->pod->spec().termination_grace_period_seconds();
}

std::shared_ptr<const WantedPod> PodWorker::active() const {
  return current_ && !current_->complete && !current_->verdict ? current_->wanted : nullptr;
}

std::vector<std::shared_ptr<const WantedPod>> PodWorker::holding() const {
  std::vector<std::shared_ptr<const WantedPod>> pods;
  if (current_ && current_->wanted && current_->admitted && (!current_->complete || !current_->sandbox_id.empty()))
    pods.push_back(current_->wanted);
  for (const std::unique_ptr<PodRun>& run : doomed_)
    if (run->wanted && (!run->complete || !run->sandbox_id.empty())) pods.push_back(run->wanted);
  return pods;
}

/// Ends what runs of a pod on which a verdict was passed, and takes from it what the verdict takes.
Task<std::optional<WallTime>> PodWorker::carry_out(PodRun& run) {
  if (run.settled) co_return std::nullopt;
  if (run.verdict->is_refusal) {
    run.settled = true;
    co_return std::nullopt;
  }
  if (!run.verdict_kept) {
    auto keep = [files = context_.files, uid = run.uid, verdict = *run.verdict, boot = context_.boot_id] {
      return files.save_verdict(uid, verdict, boot);
    };
    auto keeping = context_.host.blocking(std::move(keep));
    const Status kept = co_await std::move(keeping);
    // The pod has to go all the more when the disk is full.
    if (!kept)
      context_.host.warn("it is not remembered that the pod was ended: it would run again after a restart",
                         {{"pod", key_}, {"problem", kept.message()}});
    run.verdict_kept = true;
  }
  Task<bool> completing = complete(run);
  if (!co_await std::move(completing)) co_return WallClock::now() + kRetryAfterError;
  // Once more, to see how its containers ended.
  if (run.must_refresh) co_return WallClock::now();
  Task<Status> settling = settle(run);
  if (const Status settled = co_await std::move(settling); !settled) {
    if (!context_.stopping) event(run, "Warning", "FailedKillPod", settled.message());
    co_return WallClock::now() + kRetryAfterError;
  }
  run.settled = true;
  if (context_.freed) context_.freed();
  co_return std::nullopt;
}

Task<Status> PodWorker::settle(PodRun& run) {
  if (run.verdict->frees_disk) {
    for (const std::string& id : run.old_sandboxes) {
      Task<Status> removing = remove_sandbox(id, false);
      if (Status removed = co_await std::move(removing); !is_gone(removed)) co_return removed;
    }
    for (const PodRun::Container& container : run.containers)
      for (const cri::ContainerStatus& status : container.statuses) {
        Task<Status> removing = remove_container(status.id());
        if (Status removed = co_await std::move(removing); !is_gone(removed)) co_return removed;
      }
  }
  if (run.verdict->keeps_volumes) co_return Status::ok();
  run.volumes.reset();
  auto work = [files = context_.files, uid = run.uid, logs = run.verdict->frees_disk ? run.log_folder : std::string()] {
    return files.empty(uid, logs);
  };
  auto working = context_.host.blocking(std::move(work));
  co_return co_await std::move(working);
}

}  // namespace pintle::agent
