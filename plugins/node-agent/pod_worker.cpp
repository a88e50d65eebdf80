#include "plugins/node-agent/pod_worker.hpp"

#include <algorithm>
#include <bit>
#include <charconv>

#include "cri/api.pintle.hpp"
#include "pintle/node.pb.h"
#include "sdk/api/json.hpp"
#include "sdk/api/time.hpp"

namespace pintle::agent {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr seconds kQuickCall{10}, kMakeCall{120}, kStopSlack{60};
constexpr seconds kRetryAfterError{1};
constexpr seconds kUnknownPatience{60};  // with a container of which the runtime cannot tell what it does
constexpr seconds kLookForImage{10};     // while it is missing: somebody may load it
constexpr BackoffSettings kSandboxBackoff{milliseconds(500), seconds(30), std::chrono::minutes(1)};
constexpr size_t kRememberedCalls = 64;

WallTime wall_time(int64_t nanoseconds_since_1970) {
  return WallTime(std::chrono::duration_cast<WallClock::duration>(std::chrono::nanoseconds(nanoseconds_since_1970)));
}

int64_t nanoseconds(WallTime time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

void take_earlier(std::optional<WallTime>& earliest, const std::optional<WallTime>& other) {
  if (other && (!earliest || *other < *earliest)) earliest = other;
}

template <class Map>
std::string value_of(const Map& map, const char* key) {
  const auto found = map.find(key);
  return found == map.end() ? std::string() : found->second;
}

uint32_t restarts_of(const cri::ContainerStatus& status) {
  const std::string text = value_of(status.annotations(), annotation::kRestartCount);
  uint32_t count = status.metadata().attempt();
  std::from_chars(text.data(), text.data() + text.size(), count);
  return count;
}

bool is_gone(const Status& status) { return status.is_ok() || status.code() == Code::not_found; }

std::string duration_text(std::chrono::nanoseconds duration) {
  const auto count = std::chrono::duration_cast<milliseconds>(duration).count();
  return count % 1000 == 0 ? std::to_string(count / 1000) + "s" : std::to_string(count) + "ms";
}

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
    for (const core::Container& spec : wanted->pod->spec().containers())
      run->containers.push_back(PodRun::Container{.name = spec.name(),
                                                  .spec = &spec,
                                                  .restart_backoff = Backoff(context_.backoff),
                                                  .image_backoff = Backoff(context_.backoff)});
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
  for (const std::unique_ptr<uint64_t>& call : calls_)
    if (*call != 0) context_.host.api()->cancel(context_.host.raw(), *call);
  wakeup_.notify();
}

CallOptions PodWorker::options(std::chrono::nanoseconds timeout) {
  if (calls_.size() >= kRememberedCalls) calls_.erase(calls_.begin());
  calls_.push_back(std::make_unique<uint64_t>(0));
  CallOptions options;
  options.timeout = timeout;
  options.call_id = calls_.back().get();
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
    const std::optional<WallTime> next = co_await std::move(syncing);
    if (worker.context_.stopping) break;
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
  for (const cri::Container& listed_one : listed->containers()) {
    const auto before = known.find(listed_one.id());
    if (before != known.end() && before->second.state() == listed_one.state()) {
      statuses.push_back(before->second);
      continue;
    }
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

namespace {

/// Whether the container must still be made or started, by what is known of it.
bool wants_to_run(const PodRun& run, const PodRun::Container& container) {
  if (container.statuses.empty()) return true;
  const cri::ContainerStatus& newest = container.statuses.front();
  if (newest.state() != cri::CONTAINER_EXITED) return true;
  return shall_restart(*run.wanted->pod, newest.exit_code());
}

}  // namespace

Task<std::optional<WallTime>> PodWorker::sync(PodRun& run) {
  if (run.must_refresh) {
    Task<Status> refreshing = refresh(run);
    const Status refreshed = co_await std::move(refreshing);
    if (!refreshed) {
      run.sandbox_trouble = refreshed.message();
      co_return WallClock::now() + kRetryAfterError;
    }
    if (!run.sandbox_failed) run.sandbox_trouble.clear();
  }
  const bool wanted_to_run =
      std::any_of(run.containers.begin(), run.containers.end(), [&](const auto& c) { return wants_to_run(run, c); });
  const bool any_made =
      std::any_of(run.containers.begin(), run.containers.end(), [](const auto& c) { return !c.statuses.empty(); });
  // A pod that must not restart does not get a second sandbox either.
  const bool lost_for_good = run.sandbox_id.empty() && any_made && run.wanted->pod->spec().restart_policy() == "Never";
  if (!wanted_to_run || lost_for_good) {
    run.complete = true;
    run.sandbox_trouble.clear();
    if (!run.sandbox_id.empty()) {
      Task<Status> stopping = remove_sandbox(run.sandbox_id, true);
      const Status stopped = co_await std::move(stopping);
      if (!is_gone(stopped)) co_return WallClock::now() + kRetryAfterError;
      run.sandbox_id.clear();
    }
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

  std::optional<WallTime> next;
  for (PodRun::Container& container : run.containers) {
    if (context_.stopping || !wanted_ || wanted_->uid != run.uid) co_return std::nullopt;
    Task<std::optional<WallTime>> one = sync_container(run, container);
    take_earlier(next, co_await std::move(one));
  }
  measure_start(run);
  Task<void> collecting = collect_garbage(run);
  co_await std::move(collecting);
  co_return next;
}

Task<Status> PodWorker::prepare(PodRun& run) {
  const std::shared_ptr<const WantedPod> pod = run.wanted;
  auto work = [files = context_.files, pod,
               log_folder = run.log_folder]() -> Result<std::map<std::string, std::string>> {
    if (Status saved = files.save(*pod); !saved) return saved.with_context("keep the pod's record");
    return files.prepare(*pod, log_folder);
  };
  auto working = context_.host.blocking(std::move(work));
  Result<std::map<std::string, std::string>> volumes = co_await std::move(working);
  if (!volumes) co_return volumes.status();
  run.volumes = std::move(*volumes);
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
  *request.mutable_config() = sandbox_config(*run.wanted, context_.node, run.next_sandbox_attempt);
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

WallTime PodWorker::fail(PodRun& run, PodRun::Container& container, std::string reason, const std::string& message) {
  container.waiting = {std::move(reason), message};
  container.failed = WallClock::now();
  event(run, "Warning", "Failed", container.name + ": " + message);
  return container.restart_backoff.ready_at(*container.failed);
}

Task<std::optional<WallTime>> PodWorker::sync_container(PodRun& run, PodRun::Container& container) {
  std::optional<WallTime> ended;
  if (!container.statuses.empty()) {
    const cri::ContainerStatus newest = container.statuses.front();
    switch (newest.state()) {
      case cri::CONTAINER_RUNNING:
        container.unknown_since.reset();
        co_return std::nullopt;
      case cri::CONTAINER_EXITED:
        container.unknown_since.reset();
        if (!wants_to_run(run, container)) {
          container.waiting = {};
          co_return std::nullopt;
        }
        ended = wall_time(newest.finished_at());
        break;
      case cri::CONTAINER_UNKNOWN: {
        // Nobody can tell at present, as while its runtime comes up: it may well run, and must not be stopped for that.
        const WallTime since = container.unknown_since.value_or(WallClock::now());
        container.unknown_since = since;
        run.must_refresh = true;
        if (WallClock::now() < since + kUnknownPatience) co_return WallClock::now() + kRetryAfterError;
        [[fallthrough]];
      }
      default: {
        // Made but never started, or lost: an interrupted start. It makes room for the next attempt.
        Task<Status> stopping = stop_container(newest.id(), run.grace_seconds);
        Status gone = co_await std::move(stopping);
        if (is_gone(gone)) {
          Task<Status> removing = remove_container(newest.id());
          gone = co_await std::move(removing);
        }
        if (!is_gone(gone))
          co_return fail(run, container, "RunContainerError", "remove what is left of it: " + gone.message());
        container.statuses.erase(container.statuses.begin());
      }
    }
  }
  if (container.failed && (!ended || *container.failed > *ended)) ended = container.failed;
  if (ended) {
    const WallTime ready = container.restart_backoff.ready_at(*ended);
    if (WallClock::now() < ready) {
      if (!container.failed || *container.failed < *ended) {
        container.waiting = {"CrashLoopBackOff", "back-off " + duration_text(container.restart_backoff.delay()) +
                                                     " restarting failed container=" + container.name +
                                                     " pod=" + run.wanted->name + "_" + run.wanted->namespace_name +
                                                     "(" + run.uid + ")"};
        event(run, "Warning", "BackOff", "Back-off restarting failed container " + container.name);
      }
      co_return ready;
    }
  }
  std::optional<WallTime> retry;
  Task<bool> having = have_image(run, container, retry);
  if (!co_await std::move(having)) co_return retry;
  if (context_.stopping) co_return std::nullopt;
  if (ended) container.restart_backoff.tried(*ended, WallClock::now());
  Task<std::optional<WallTime>> starting = start_container(run, container);
  co_return co_await std::move(starting);
}

Task<std::optional<WallTime>> PodWorker::start_container(PodRun& run, PodRun::Container& container) {
  const bool again = !container.statuses.empty();
  ContainerPlan plan{.container = container.spec,
                     .attempt = container.next_attempt,
                     .facts = {context_.node.address, run.addresses},
                     .volumes = *run.volumes,
                     .sub_paths = {},
                     .hosts = {}};
  if (run.wanted->pod->spec().host_network()) plan.facts.pod_addresses = {context_.node.address};
  if (PodFiles::has_container_files(*run.wanted->pod, *container.spec)) {
    auto work = [files = context_.files, pod = run.wanted, spec = container.spec, facts = plan.facts,
                 volumes = *run.volumes, domain = context_.node.cluster_domain] {
      return files.prepare_container(*pod, *spec, facts, volumes, domain);
    };
    auto working = context_.host.blocking(std::move(work));
    Result<ContainerFiles> made = co_await std::move(working);
    if (!made) co_return fail(run, container, "CreateContainerConfigError", made.status().message());
    plan.sub_paths = std::move(made->sub_paths);
    plan.hosts = std::move(made->hosts);
  }
  cri::CreateContainerRequest create;
  create.set_pod_sandbox_id(run.sandbox_id);
  *create.mutable_config() = container_config(*run.wanted, context_.node, plan);
  *create.mutable_sandbox_config() =
      sandbox_config(*run.wanted, context_.node, run.next_sandbox_attempt == 0 ? 0 : run.next_sandbox_attempt - 1);
  auto creating = context_.runtime->CreateContainer(create, options(kMakeCall));
  Result<cri::CreateContainerResponse> created = co_await creating;
  if (!created) {
    // The sandbox may have gone meanwhile.
    run.must_refresh = true;
    co_return fail(run, container, "CreateContainerError", created.status().message());
  }
  ++container.next_attempt;
  cri::StartContainerRequest start;
  start.set_container_id(created->container_id());
  auto starting = context_.runtime->StartContainer(start, options(kMakeCall));
  Result<cri::StartContainerResponse> started = co_await starting;

  cri::ContainerStatusRequest ask;
  ask.set_container_id(created->container_id());
  auto asking = context_.runtime->ContainerStatus(ask, options(kQuickCall));
  Result<cri::ContainerStatusResponse> status = co_await asking;
  if (status) {
    if (again && container.statuses.front().state() == cri::CONTAINER_EXITED)
      container.last_ended = make_terminated(container.statuses.front(), context_.runtime_name);
    container.statuses.insert(container.statuses.begin(), std::move(*status->mutable_status()));
  } else {
    run.must_refresh = true;
  }
  if (!started) co_return fail(run, container, "RunContainerError", started.status().message());
  container.waiting = {};
  container.failed.reset();
  context_.starts.add();
  if (again) context_.restarts.add();
  event(run, "Normal", "Started", "Started container " + container.name);
  // It may have ended before its status was asked for: then there is more to do at once.
  if (status && container.statuses.front().state() != cri::CONTAINER_RUNNING) co_return WallClock::now();
  co_return std::nullopt;
}

Task<Status> PodWorker::pull_image(const core::Container& spec) {
  cri::PullImageRequest pull;
  pull.mutable_image()->set_image(spec.image());
  auto pulling = context_.images->PullImage(pull, options(std::chrono::minutes(30)));
  Result<cri::PullImageResponse> pulled = co_await pulling;
  co_return pulled.status();
}

Task<bool> PodWorker::have_image(PodRun& run, PodRun::Container& container, std::optional<WallTime>& retry) {
  const core::Container& spec = *container.spec;
  cri::ImageStatusRequest ask;
  ask.mutable_image()->set_image(spec.image());
  auto asking = context_.images->ImageStatus(ask, options(kQuickCall));
  Result<cri::ImageStatusResponse> answer = co_await asking;
  const auto waits = [&](std::string reason, const std::string& message) {
    if (container.waiting.reason != reason)
      event(run, "Warning", reason == "ImagePullBackOff" ? "BackOff" : "Failed", container.name + ": " + message);
    container.waiting = {std::move(reason), message};
    retry = WallClock::now() + kLookForImage;
    return false;
  };
  if (!answer) {
    const bool name = answer.status().code() == Code::invalid_argument;
    co_return waits(name ? "InvalidImageName" : "ImageInspectError",
                    "image " + spec.image() + ": " + answer.status().message());
  }
  const bool present = answer->has_image() && !answer->image().id().empty();
  const std::string how_to_load = "; load it on this node with `pintle image load FILE`";
  if (spec.image_pull_policy() == "Never" && !present)
    co_return waits("ErrImageNeverPull",
                    "image " + spec.image() + " is not on this node, and imagePullPolicy is Never" + how_to_load);
  if (!present || spec.image_pull_policy() == "Always") {
    if (container.image_failed && WallClock::now() < container.image_backoff.ready_at(*container.image_failed)) {
      co_return waits("ImagePullBackOff", "back-off " + duration_text(container.image_backoff.delay()) +
                                              " pulling image " + spec.image() + how_to_load);
    }
    container.image_backoff.tried(container.image_failed.value_or(WallClock::now()), WallClock::now());
    Task<Status> pulling = pull_image(spec);
    const Status pulled = co_await std::move(pulling);
    if (!pulled && present && pulled.code() == Code::unimplemented) {
      event(run, "Normal", "Pulled",
            "image " + spec.image() + " is on this node; this node's image store cannot pull a newer one");
    } else if (!pulled) {
      container.image_failed = WallClock::now();
      co_return waits("ErrImagePull", "image " + spec.image() + ": " + pulled.message() + how_to_load);
    }
    container.image_failed.reset();
  }
  if (must_not_be_root(*run.wanted->pod, spec)) {
    const int64_t user = user_of(*run.wanted->pod, spec);
    const bool image_root =
        answer->image().username().empty() ? answer->image().uid().value() == 0 : answer->image().username() == "root";
    if (user == 0 || (user < 0 && image_root))
      co_return waits("CreateContainerConfigError", "runAsNonRoot forbids root, which the " +
                                                        std::string(user == 0 ? "manifest" : "image") + " asks for");
  }
  co_return true;
}

/// Keeps the newest of each container and the one that ended before it; removes older ones with their logs, and former
/// sandboxes once every container has a successor.
Task<void> PodWorker::collect_garbage(PodRun& run) {
  std::vector<std::string> logs;
  bool all_here = true;
  for (PodRun::Container& container : run.containers) {
    while (container.statuses.size() > 2) {
      const cri::ContainerStatus oldest = container.statuses.back();
      Task<Status> removing = remove_container(oldest.id());
      const Status removed = co_await std::move(removing);
      if (!is_gone(removed)) break;
      logs.push_back(run.log_folder + "/" + log_path_of(container.name, restarts_of(oldest)));
      container.statuses.pop_back();
    }
    all_here = all_here && !container.statuses.empty() && container.statuses.front().state() == cri::CONTAINER_RUNNING;
  }
  if (all_here && !run.old_sandboxes.empty()) {
    const std::vector<std::string> old = std::exchange(run.old_sandboxes, {});
    for (const std::string& id : old) {
      Task<Status> removing = remove_sandbox(id, false);
      const Status removed = co_await std::move(removing);
      if (!is_gone(removed)) run.must_refresh = true;
    }
    run.must_refresh = true;
  }
  if (logs.empty()) co_return;
  auto work = [logs = std::move(logs)] {
    for (const std::string& log : logs) (void)std::remove(log.c_str());
  };
  auto working = context_.host.blocking(std::move(work));
  co_await std::move(working);
}

void PodWorker::measure_start(PodRun& run) {
  if (run.measured ||
      !std::all_of(run.containers.begin(), run.containers.end(), [](const PodRun::Container& container) {
        return !container.statuses.empty() && container.statuses.front().state() == cri::CONTAINER_RUNNING;
      }))
    return;
  run.measured = true;
  context_.start_seconds.observe(std::chrono::duration<double>(WallClock::now() - run.seen).count());
}

// ---- The end ---------------------------------------------------------------------------------------------------------------

Task<Status> PodWorker::stop_container(std::string id, int64_t grace_seconds) {
  cri::StopContainerRequest request;
  request.set_container_id(id);
  request.set_timeout(grace_seconds);
  auto stopping = context_.runtime->StopContainer(request, options(seconds(grace_seconds) + kStopSlack));
  Result<cri::StopContainerResponse> stopped = co_await stopping;
  co_return stopped.status();
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

Task<bool> PodWorker::end(PodRun& run) {
  const bool first = !std::exchange(run.ending, true);
  if (first) run.ending_since = WallClock::now();
  const auto trouble = [&](const Status& status) {
    run.sandbox_trouble = status.message();
    if (context_.stopping) return false;
    event(run, "Warning", "FailedKillPod", status.message());
    return false;
  };
  Task<Status> refreshing = refresh(run);
  if (Status refreshed = co_await std::move(refreshing); !refreshed) co_return trouble(refreshed);

  std::vector<const cri::ContainerStatus*> all;
  for (const PodRun::Container& container : run.containers)
    for (const cri::ContainerStatus& status : container.statuses) all.push_back(&status);
  for (const cri::ContainerStatus& status : run.strangers) all.push_back(&status);
  std::vector<Task<Status>> stopping;
  for (const cri::ContainerStatus* status : all) {
    if (status->state() == cri::CONTAINER_EXITED) continue;
    if (first)
      event(run, "Normal", "Killing", "Stopping container " + value_of(status->labels(), label::kContainerName));
    stopping.push_back(stop_container(status->id(), run.grace_seconds));
  }
  std::vector<std::string> left;
  for (const cri::ContainerStatus* status : all) left.push_back(status->id());
  Task<Status> all_stopping = together(context_.host, std::move(stopping));
  if (Status stopped = co_await std::move(all_stopping); !is_gone(stopped))
    co_return trouble(stopped.with_context("stop the pod's containers"));
  if (context_.stopping) co_return false;

  std::vector<std::string> sandboxes = run.old_sandboxes;
  if (!run.sandbox_id.empty()) sandboxes.push_back(run.sandbox_id);
  for (const std::string& id : sandboxes) {
    Task<Status> removing = remove_sandbox(id, false);
    if (Status removed = co_await std::move(removing); !is_gone(removed))
      co_return trouble(removed.with_context("remove the pod's sandbox"));
  }
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
  context_.host.info("the pod has ended", {{"pod", key_}, {"uid", run.uid}});
  co_return true;
}

// ---- Telling ---------------------------------------------------------------------------------------------------------------

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
  for (const PodRun::Container& container : run.containers) {
    ContainerView& one = view.containers.emplace_back();
    one.spec = container.spec;
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
    report.set_source("file:" + wanted_->path);
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
    report.set_source("file:" + run->wanted->path);
    report.set_created_at(run->wanted->created_at);
    report.set_phase(object.status().phase());
    report.set_containers(static_cast<uint32_t>(object.spec().containers_size()));
    if (report.addresses_size() == 0 && !object.status().pod_ip().empty())
      report.add_addresses(object.status().pod_ip());
    uint32_t ready = 0, restarts = 0;
    for (const core::ContainerStatus& status : object.status().container_statuses()) {
      ready += status.ready();
      restarts += static_cast<uint32_t>(status.restart_count());
      const core::ContainerStateWaiting& waiting = status.state().waiting();
      if (message.empty() && status.state().has_waiting() && waiting.reason() != "ContainerCreating")
        message = status.name() + ": " + waiting.reason() + (waiting.message().empty() ? "" : ": " + waiting.message());
    }
    report.set_ready_containers(ready);
    report.set_restarts(restarts);
    report.set_json(api::encode_text(object));
  } else {
    report.set_phase("Running");
  }
  if (!run->sandbox_trouble.empty()) message = run->sandbox_trouble;
  if (run->ending) message = message.empty() ? "Terminating" : "Terminating: " + message;
  report.set_message(message);
  return report;
}

}  // namespace pintle::agent
