#include "plugins/node-agent/pod_worker.hpp"

#include <algorithm>
#include <bit>

#include "cri/api.pintle.hpp"
#include "pintle/node.pb.h"
#include "plugins/node-agent/container_order.hpp"
#include "plugins/node-agent/pod_worker_common.hpp"

namespace pintle::agent {

namespace {

constexpr BackoffSettings kSandboxBackoff{milliseconds(500), seconds(30), std::chrono::minutes(1)};

}  // namespace

PodWorker::PodWorker(WorkerContext& context, std::string key)
    : context_(context), key_(std::move(key)), wakeup_(context.host) {}

std::unique_ptr<PodRun> PodWorker::make_run(const std::string& uid, std::shared_ptr<const WantedPod> wanted) {
  auto run = std::make_unique<PodRun>(PodRun{.sandbox_backoff = Backoff(kSandboxBackoff)});
  run->uid = uid;
  run->seen = WallClock::now();
  if (wanted) {
    run->log_folder = log_folder_of(context_.node, *wanted);
    run->grace_seconds = wanted->pod->spec().termination_grace_period_seconds();
    const auto add = [&](const core::Container& spec, ContainerKind kind) {
      run->containers.push_back(PodRun::Container{.name = spec.name(),
                                                  .kind = kind,
                                                  .spec = &spec,
                                                  .restart_backoff = Backoff(context_.backoff),
                                                  .image_backoff = Backoff(context_.backoff)});
    };
    for (const core::Container& spec : wanted->pod->spec().init_containers())
      add(spec, spec.restart_policy() == "Always" ? ContainerKind::sidecar : ContainerKind::init);
    for (const core::Container& spec : wanted->pod->spec().containers()) add(spec, ContainerKind::regular);
  }
  if (const auto passed = context_.verdicts.find(uid); passed != context_.verdicts.end()) {
    run->verdict = passed->second;
    run->verdict_kept = true;
  }
  run->wanted = std::move(wanted);
  return run;
}

void PodWorker::want(std::shared_ptr<const WantedPod> pod) {
  const std::string before = wanted_ ? wanted_->uid : std::string();
  wanted_ = std::move(pod);
  if (before != (wanted_ ? wanted_->uid : std::string())) wakeup_.notify();
}

void PodWorker::set_grace(int64_t grace_seconds) {
  next_grace_ = grace_seconds;
  for (const std::unique_ptr<PodRun>& run : doomed_) {
    if (!run->ending || grace_seconds >= run->grace_seconds) continue;
    run->grace_seconds = grace_seconds;
    // Its containers are being stopped with the longer period: a second stop shortens that.
    const auto hurry = [](std::shared_ptr<PodWorker> worker, std::string id, int64_t grace) -> Task<void> {
      Task<Status> stopping = worker->stop_container(std::move(id), grace);
      (void)co_await std::move(stopping);
    };
    for (const PodRun::Container& container : run->containers)
      for (const cri::ContainerStatus& status : container.statuses)
        if (status.state() == cri::CONTAINER_RUNNING) {
          Task<void> task = hurry(shared_from_this(), status.id(), grace_seconds);
          context_.start(std::move(task));
        }
  }
  wakeup_.notify();
}

void PodWorker::adopt(const std::string& uid, std::shared_ptr<const WantedPod> wanted, int64_t grace_seconds,
                      const std::string& log_folder) {
  if (has_uid(uid)) return;
  std::unique_ptr<PodRun> run = make_run(uid, wanted);
  if (!wanted) {
    run->grace_seconds = grace_seconds;
    run->log_folder = log_folder;
  }
  if (wanted_ && wanted_->uid == uid && !current_)
    current_ = std::move(run);
  else
    doomed_.push_back(std::move(run));
  wakeup_.notify();
}

bool PodWorker::has_uid(const std::string& uid) const {
  return (current_ && current_->uid == uid) ||
         std::any_of(doomed_.begin(), doomed_.end(),
                     [&](const std::unique_ptr<PodRun>& run) { return run->uid == uid; });
}

void PodWorker::runtime_changed() {
  if (current_) current_->must_refresh = true;
  wakeup_.notify();
}

void PodWorker::interrupt() {
  if (pull_call_ != 0) context_.host.api()->cancel(context_.host.raw(), pull_call_);
  for (const uint64_t call : calls_)
    if (call != 0) context_.host.cancel(call);
  for (const uint64_t* call : hook_calls_)
    if (*call != 0) context_.host.cancel(*call);
  for (Wakeup* sleep : sleeps_) sleep->notify();
  std::vector<PodRun*> runs;
  if (current_) runs.push_back(current_.get());
  for (const std::unique_ptr<PodRun>& run : doomed_) runs.push_back(run.get());
  for (PodRun* run : runs)
    for (PodRun::Container& container : run->containers) container.probes.reset();
  wakeup_.notify();
}

CallOptions PodWorker::options(std::chrono::nanoseconds timeout) {
  CallOptions options;
  options.timeout = timeout;
  options.call_id = &calls_[next_call_++ % calls_.size()];
  return options;
}

void PodWorker::event(PodRun& run, std::string_view type, std::string_view reason, const std::string& message) {
  const uint32_t count = run.events.add(type, reason, message, nanoseconds(WallClock::now()));
  // What goes on happening is logged less and less often: the 1st, 2nd, 4th, 8th time, ...
  if (!std::has_single_bit(count)) return;
  const LogLevel level = type == "Warning" ? LogLevel::warn : LogLevel::info;
  context_.host.log(level, message, {{"pod", key_}, {"reason", reason}});
}

void PodWorker::add_event(std::string_view type, std::string_view reason, const std::string& message) {
  if (current_) current_->events.add(type, reason, message, nanoseconds(WallClock::now()));
}

Task<void> PodWorker::run(std::shared_ptr<PodWorker> self) {
  PodWorker& worker = *self;
  while (!worker.context_.stopping) {
    if (!worker.doomed_.empty()) {
      PodRun& run = *worker.doomed_.front();
      Task<bool> ending = worker.end(run);
      if (co_await std::move(ending)) {
        worker.doomed_.erase(worker.doomed_.begin());
        if (worker.context_.freed) worker.context_.freed();
        if (worker.doomed_.empty()) worker.next_grace_.reset();
        continue;
      }
      if (worker.context_.stopping) break;
      auto waiting = worker.wakeup_.wait(WallClock::now() + kRetryAfterError);
      co_await waiting;
      continue;
    }
    if (worker.current_ && (!worker.wanted_ || worker.wanted_->uid != worker.current_->uid)) {
      if (worker.next_grace_) worker.current_->grace_seconds = *worker.next_grace_;
      worker.doomed_.push_back(std::move(worker.current_));
      continue;
    }
    if (!worker.wanted_) break;
    if (!worker.current_) worker.current_ = worker.make_run(worker.wanted_->uid, worker.wanted_);
    Task<std::optional<WallTime>> syncing = worker.sync(*worker.current_);
    std::optional<WallTime> next = co_await std::move(syncing);
    if (worker.context_.stopping) break;
    if (worker.collect_request_) {
      Task<void> collecting = worker.collect_garbage(*worker.current_);
      co_await std::move(collecting);
      worker.collect_request_.reset();
      if (worker.context_.stopping) break;
    }
    (void)worker.object_of(*worker.current_);  // conditions remember when they changed
    Task<void> keeping = worker.keep_readiness(*worker.current_);
    co_await std::move(keeping);
    if (worker.context_.stopping) break;
    if (!worker.current_->complete && !worker.current_->verdict)
      take_earlier(next, deadline_of(*worker.current_->wanted));
    auto waiting = worker.wakeup_.wait(next);
    co_await waiting;
  }
  worker.finished_ = true;
}

// ---- What is ---------------------------------------------------------------------------------------------------------------

Task<Status> PodWorker::refresh(PodRun& run) {
  run.must_refresh = false;
  cri::ListPodSandboxRequest request;
  (*request.mutable_filter()->mutable_label_selector())[label::kPodUid] = run.uid;
  auto listing = context_.runtime->ListPodSandbox(request, options(kQuickCall));
  Result<cri::ListPodSandboxResponse> listed = co_await listing;
  if (!listed) {
    run.must_refresh = true;
    co_return listed.status().with_context("list the pod's sandboxes");
  }
  const cri::PodSandbox* ready = nullptr;
  std::vector<std::string> old;
  for (const cri::PodSandbox& sandbox : listed->items()) {
    if (value_of(sandbox.annotations(), annotation::kSource) != annotation::kSourceValue) continue;
    run.next_sandbox_attempt = std::max(run.next_sandbox_attempt, sandbox.metadata().attempt() + 1);
    if (sandbox.state() == cri::SANDBOX_READY && (!ready || sandbox.created_at() > ready->created_at())) {
      if (ready) old.push_back(ready->id());
      ready = &sandbox;
    } else {
      old.push_back(sandbox.id());
    }
  }
  run.old_sandboxes = std::move(old);
  const std::string before = std::exchange(run.sandbox_id, ready ? ready->id() : std::string());
  if (!ready) run.addresses.clear();
  if (ready && (before != run.sandbox_id || run.addresses.empty())) {
    cri::PodSandboxStatusRequest ask;
    ask.set_pod_sandbox_id(run.sandbox_id);
    auto asking = context_.runtime->PodSandboxStatus(ask, options(kQuickCall));
    Result<cri::PodSandboxStatusResponse> status = co_await asking;
    if (!status) {
      run.must_refresh = true;
      co_return status.status().with_context("ask for the sandbox's status");
    }
    run.addresses.clear();
    if (!status->status().network().ip().empty()) run.addresses.push_back(status->status().network().ip());
    for (const cri::PodIP& address : status->status().network().additional_ips()) run.addresses.push_back(address.ip());
  }
  Task<Status> rest = refresh_containers(run);
  co_return co_await std::move(rest);
}

Task<Status> PodWorker::refresh_containers(PodRun& run) {
  cri::ListContainersRequest request;
  (*request.mutable_filter()->mutable_label_selector())[label::kPodUid] = run.uid;
  auto listing = context_.runtime->ListContainers(request, options(kQuickCall));
  Result<cri::ListContainersResponse> listed = co_await listing;
  if (!listed) {
    run.must_refresh = true;
    co_return listed.status().with_context("list the pod's containers");
  }
  // A status that was asked for stays true while the container's state is the same.
  std::map<std::string, cri::ContainerStatus> known;
  for (PodRun::Container& container : run.containers)
    for (cri::ContainerStatus& status : container.statuses) known[status.id()] = status;
  for (cri::ContainerStatus& status : run.strangers) known[status.id()] = status;

  std::vector<cri::ContainerStatus> statuses;
  run.sandbox_of.clear();
  for (const cri::Container& listed_one : listed->containers()) {
    run.sandbox_of[listed_one.id()] = listed_one.pod_sandbox_id();
    const auto before = known.find(listed_one.id());
    if (before != known.end() && before->second.state() == listed_one.state()) {
      statuses.push_back(before->second);
      continue;
    }
    if (before != known.end()) known.erase(before);
    cri::ContainerStatusRequest ask;
    ask.set_container_id(listed_one.id());
    auto asking = context_.runtime->ContainerStatus(ask, options(kQuickCall));
    Result<cri::ContainerStatusResponse> status = co_await asking;
    if (status) {
      statuses.push_back(std::move(*status->mutable_status()));
    } else if (status.status().code() != Code::not_found) {
      run.must_refresh = true;
      co_return status.status().with_context("ask for a container's status");
    }
  }
  std::sort(statuses.begin(), statuses.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.metadata().attempt(), a.created_at()) >
           std::make_pair(b.metadata().attempt(), b.created_at());
  });
  run.strangers.clear();
  for (PodRun::Container& container : run.containers) container.statuses.clear();
  for (cri::ContainerStatus& status : statuses) {
    if (status.state() != cri::CONTAINER_EXITED || known.contains(status.id())) continue;
    const std::string name = value_of(status.labels(), label::kContainerName);
    const auto found =
        std::find_if(run.containers.begin(), run.containers.end(), [&](const auto& c) { return c.name == name; });
    if (found == run.containers.end()) continue;
    Task<void> adding = add_termination_message(run, *found, status);
    co_await std::move(adding);
  }
  for (cri::ContainerStatus& status : statuses) {
    const std::string name = value_of(status.labels(), label::kContainerName);
    const auto found =
        std::find_if(run.containers.begin(), run.containers.end(), [&](const auto& c) { return c.name == name; });
    if (found == run.containers.end())
      run.strangers.push_back(std::move(status));
    else
      found->statuses.push_back(std::move(status));
  }
  for (PodRun::Container& container : run.containers) {
    if (container.statuses.empty()) continue;
    container.next_attempt = std::max(container.next_attempt, restarts_of(container.statuses.front()) + 1);
    if (container.statuses.size() > 1 && container.statuses[1].state() == cri::CONTAINER_EXITED)
      container.last_ended = make_terminated(container.statuses[1], context_.runtime_name);
    if (container.statuses.front().state() == cri::CONTAINER_RUNNING) container.waiting = {};
  }
  co_return Status::ok();
}

// ---- What shall be ---------------------------------------------------------------------------------------------------------

Task<std::optional<WallTime>> PodWorker::sync(PodRun& run) {
  if (run.pardoned) {
    Task<void> taking = take_back(run);
    co_await std::move(taking);
  }
  if (run.must_refresh && !run.settled) {
    Task<Status> refreshing = refresh(run);
    const Status refreshed = co_await std::move(refreshing);
    if (!refreshed) {
      run.sandbox_trouble = refreshed.message();
      co_return WallClock::now() + kRetryAfterError;
    }
    if (!run.sandbox_failed) run.sandbox_trouble.clear();
  }
  const ContainerOrder order = order_of(run);
  const bool any_made =
      std::any_of(run.containers.begin(), run.containers.end(), [](const auto& c) { return !c.statuses.empty(); });
  // A pod that must not restart does not get a second sandbox either.
  const bool lost_for_good = run.sandbox_id.empty() && any_made && !may_restart(run.wanted->pod->spec());
  run.lost = lost_for_good;
  if (!run.admitted && !run.verdict) {
    std::optional<PodVerdict> refusal;
    if (!any_made && run.sandbox_id.empty() && context_.admit) refusal = context_.admit(*this, *run.wanted);
    run.admitted = !refusal;
    if (refusal) pass(run, std::move(*refusal));
  }
  if (run.verdict) {
    Task<std::optional<WallTime>> ending = carry_out(run);
    co_return co_await std::move(ending);
  }
  const std::optional<WallTime> deadline = deadline_of(*run.wanted);
  const bool is_late = deadline && WallClock::now() >= *deadline;
  if (is_late && !run.expired) {
    run.expired = order.has_work || std::any_of(run.containers.begin(), run.containers.end(), [&](const auto& c) {
                    return !c.statuses.empty() && wall_time(c.statuses.front().finished_at()) >= *deadline;
                  });
    if (run.expired)
      event(run, "Normal", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
  }
  if (!order.has_work || order.failed || lost_for_good || run.expired) {
    Task<bool> completing = complete(run);
    if (!co_await std::move(completing)) co_return WallClock::now() + kRetryAfterError;
    co_return std::nullopt;
  }
  run.complete = false;

  if (run.sandbox_id.empty()) {
    if (run.sandbox_failed && WallClock::now() < run.sandbox_backoff.ready_at(*run.sandbox_failed))
      co_return run.sandbox_backoff.ready_at(*run.sandbox_failed);
    const WallTime tried_after = run.sandbox_failed.value_or(WallClock::now());
    run.sandbox_backoff.tried(tried_after, WallClock::now());
    Task<Status> making = make_sandbox(run);
    const Status made = co_await std::move(making);
    if (context_.stopping) co_return std::nullopt;
    if (!made) {
      run.sandbox_trouble = made.message();
      run.sandbox_failed = WallClock::now();
      event(run, "Warning", made.code() == Code::failed_precondition ? "FailedMount" : "FailedCreatePodSandBox",
            made.message());
      co_return run.sandbox_backoff.ready_at(*run.sandbox_failed);
    }
    run.sandbox_trouble.clear();
    run.sandbox_failed.reset();
  } else if (!run.volumes) {
    Task<Status> preparing = prepare(run);
    const Status prepared = co_await std::move(preparing);
    if (!prepared) {
      run.sandbox_trouble = prepared.message();
      event(run, "Warning", "FailedMount", prepared.message());
      co_return WallClock::now() + kLookForImage;
    }
    run.sandbox_trouble.clear();
  }

  Task<std::optional<WallTime>> containers = sync_containers(run);
  const std::optional<WallTime> next = co_await std::move(containers);
  measure_start(run);
  Task<void> collecting = collect_garbage(run);
  co_await std::move(collecting);
  co_return next;
}

Task<Status> PodWorker::prepare(PodRun& run) {
  const std::shared_ptr<const WantedPod> pod = run.wanted;
  // Not once for all: another runtime, or another driver of the same one, may have come since the last pod.
  const cri::RuntimeConfigRequest ask;
  auto asking = context_.runtime->RuntimeConfig(ask, options(kQuickCall));
  const Result<cri::RuntimeConfigResponse> config = co_await asking;
  if (!config && config.status().code() != Code::unimplemented)
    co_return config.status().with_context("ask the container runtime for its cgroup driver");
  context_.node.cgroups.are_slices = config && config->linux().cgroup_driver() == cri::SYSTEMD;
  auto work = [files = context_.files, pod, cgroups = context_.node.cgroups,
               log_folder = run.log_folder]() -> Result<PodPlaces> {
    if (Status saved = files.save(*pod); !saved) return saved.with_context("keep the pod's record");
    return files.prepare(*pod, log_folder, cgroups);
  };
  auto working = context_.host.blocking(std::move(work));
  Result<PodPlaces> places = co_await std::move(working);
  if (!places) co_return places.status();
  run.volumes = std::move(places->volumes);
  run.ids = places->ids;
  run.ready = std::move(places->ready);
  co_return Status::ok();
}

Task<Status> PodWorker::make_sandbox(PodRun& run) {
  // Containers of a lost sandbox may still run: they are ended before they get successors.
  const std::vector<std::string> lost = run.old_sandboxes;
  for (const std::string& id : lost) {
    Task<Status> stopping = remove_sandbox(id, true);
    const Status stopped = co_await std::move(stopping);
    if (!is_gone(stopped)) co_return stopped.with_context("stop the former sandbox");
  }
  if (!lost.empty()) {
    event(run, "Normal", "SandboxChanged", "the pod's sandbox was lost and is made anew");
    Task<Status> refreshing = refresh(run);
    if (Status refreshed = co_await std::move(refreshing); !refreshed) co_return refreshed;
  }
  Task<Status> preparing = prepare(run);
  if (Status prepared = co_await std::move(preparing); !prepared) co_return prepared;

  cri::RunPodSandboxRequest request;
  *request.mutable_config() = sandbox_config(*run.wanted, context_.node, run.next_sandbox_attempt, run.ids);
  auto making = context_.runtime->RunPodSandbox(request, options(kMakeCall));
  Result<cri::RunPodSandboxResponse> made = co_await making;
  ++run.next_sandbox_attempt;
  if (!made) {
    // What is left of it must go before the next one.
    run.must_refresh = true;
    co_return made.status().with_context("run the pod's sandbox");
  }
  run.sandbox_id = made->pod_sandbox_id();
  run.addresses.clear();

  cri::PodSandboxStatusRequest ask;
  ask.set_pod_sandbox_id(run.sandbox_id);
  auto asking = context_.runtime->PodSandboxStatus(ask, options(kQuickCall));
  Result<cri::PodSandboxStatusResponse> status = co_await asking;
  if (!status) co_return status.status().with_context("ask for the new sandbox's status");
  if (!status->status().network().ip().empty()) run.addresses.push_back(status->status().network().ip());
  for (const cri::PodIP& address : status->status().network().additional_ips()) run.addresses.push_back(address.ip());
  co_return Status::ok();
}

}  // namespace pintle::agent
