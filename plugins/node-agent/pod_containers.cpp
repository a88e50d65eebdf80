// Making a pod's containers, and clearing up after those that ended.

#include <algorithm>

#include "plugins/node-agent/container_order.hpp"
#include "plugins/node-agent/pod_worker_common.hpp"
#include "plugins/node-agent/termination_messages.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

constexpr seconds kUnknownPatience{60};  // with a container of which the runtime cannot tell what it does

}  // namespace

WallTime PodWorker::fail(PodRun& run, PodRun::Container& container, std::string reason, const std::string& message) {
  container.waiting = {std::move(reason), message};
  container.failed = WallClock::now();
  event(run, "Warning", "Failed", container.name + ": " + message);
  return container.restart_backoff.ready_at(*container.failed);
}

/// Everything whose turn it is, in order.
Task<std::optional<WallTime>> PodWorker::sync_containers(PodRun& run) {
  std::optional<WallTime> next;
  for (size_t i = 0; i < run.containers.size(); ++i) {
    if (context_.stopping || !wanted_ || wanted_->uid != run.uid || run.verdict) co_return std::nullopt;
    PodRun::Container& container = run.containers[i];
    const ContainerOrder order = order_of(run);
    const bool is_behind = container.kind != ContainerKind::regular && (order.initialized || i < order.behind);
    if (is_behind && container.kind == ContainerKind::init) continue;
    Task<std::optional<WallTime>> one = sync_container(run, container);
    take_earlier(next, co_await std::move(one));
    if (container.kind != ContainerKind::regular && !is_behind && !lets_next_begin(run, i)) break;
  }
  co_return next;
}

Task<std::optional<WallTime>> PodWorker::sync_container(PodRun& run, PodRun::Container& container) {
  std::optional<WallTime> ended;
  if (!container.statuses.empty()) {
    const cri::ContainerStatus newest = container.statuses.front();
    switch (newest.state()) {
      case cri::CONTAINER_RUNNING: {
        container.unknown_since.reset();
        watch_over(run, container);
        const std::optional<ProbeKind> failed = container.probes ? container.probes->failed() : std::nullopt;
        if (!failed) co_return std::nullopt;
        Task<Status> ending = end_by_probe(run, container, *failed);
        if (const Status over = co_await std::move(ending); !is_gone(over))
          co_return WallClock::now() + kRetryAfterError;
        co_return WallClock::now();
      }
      case cri::CONTAINER_EXITED:
        container.unknown_since.reset();
        container.probes.reset();
        if (!wants_to_run(run, static_cast<size_t>(&container - run.containers.data()))) {
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
        if (gone) {
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
                     .hosts = {},
                     .termination_message = {}};
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
  auto prepare = [path = termination_message_path(context_.files.folder(), run.uid, container.name, plan.attempt)] {
    return make_termination_message(path);
  };
  auto preparing = context_.host.blocking(std::move(prepare));
  Result<std::string> message_file = co_await std::move(preparing);
  if (!message_file) co_return fail(run, container, "CreateContainerError", message_file.status().message());
  plan.termination_message = std::move(*message_file);
  plan.ids = run.ids;
  *create.mutable_config() = container_config(*run.wanted, context_.node, plan);
  *create.mutable_sandbox_config() = sandbox_config(
      *run.wanted, context_.node, run.next_sandbox_attempt == 0 ? 0 : run.next_sandbox_attempt - 1, run.ids);
  auto creating = context_.runtime->CreateContainer(create, options(kMakeCall));
  Result<cri::CreateContainerResponse> created = co_await creating;
  if (!created) {
    // The sandbox may have gone meanwhile.
    run.must_refresh = true;
    co_return fail(run, container, "CreateContainerError", created.status().message());
  }
  ++container.next_attempt;
  run.sandbox_of[created->container_id()] = run.sandbox_id;
  cri::StartContainerRequest start;
  start.set_container_id(created->container_id());
  auto starting = context_.runtime->StartContainer(start, options(kMakeCall));
  Result<cri::StartContainerResponse> started = co_await starting;

  cri::ContainerStatusRequest ask;
  ask.set_container_id(created->container_id());
  auto asking = context_.runtime->ContainerStatus(ask, options(kQuickCall));
  Result<cri::ContainerStatusResponse> status = co_await asking;
  if (status && status->status().state() == cri::CONTAINER_EXITED) {
    Task<void> adding = add_termination_message(run, container, *status->mutable_status());
    co_await std::move(adding);
  }
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
  container.must_restart = false;
  container.probes.reset();
  context_.starts.add();
  if (again) context_.restarts.add();
  event(run, "Normal", "Started", "Started container " + container.name);
  // It may have ended before its status was asked for: then there is more to do at once.
  if (status && container.statuses.front().state() != cri::CONTAINER_RUNNING) co_return WallClock::now();
  if (container.spec->lifecycle().has_post_start()) {
    Task<Status> hooking = post_start(run, container, created->container_id());
    if (const Status hooked = co_await std::move(hooking); !hooked) {
      run.must_refresh = true;
      if (context_.stopping) co_return std::nullopt;
      co_return fail(run, container, "PostStartHookError", hooked.message());
    }
  }
  if (status) watch_over(run, container);
  co_return std::nullopt;
}

/// Of the pod's secrets, then of the node's own file.
Task<std::vector<RegistryLogin>> PodWorker::logins_for(PodRun& run, const core::Container& spec) {
  std::vector<RegistryLogin> logins;
  const auto add = [&](const RegistryLogins& of) {
    for (RegistryLogin& login : of.find(spec.image())) logins.push_back(std::move(login));
  };
  std::string missing;
  for (const core::LocalObjectReference& reference : run.wanted->pod->spec().image_pull_secrets()) {
    const auto found = context_.secrets.find(run.wanted->namespace_name + "/" + reference.name());
    if (found != context_.secrets.end())
      add(found->second->logins);
    else
      missing += (missing.empty() ? "" : ", ") + reference.name();
  }
  if (!missing.empty())
    event(
        run, "Warning", "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (" + missing + "); attempting to pull the image may not succeed.");
  if (context_.node.image_credentials.empty()) co_return logins;
  auto read = [path = context_.node.image_credentials] { return files::read_file(path, 1u << 20); };
  auto reading = context_.host.blocking(std::move(read));
  const Result<std::string> text = co_await std::move(reading);
  if (!text && text.status().code() == Code::not_found) co_return logins;
  Result<RegistryLogins> own = text ? RegistryLogins::parse(*text, false) : Result<RegistryLogins>(text.status());
  if (own)
    add(*own);
  else
    event(run, "Warning", "InvalidImageCredentials", context_.node.image_credentials + ": " + own.status().message());
  co_return logins;
}

Task<Status> PodWorker::pull_image(PodRun& run, const core::Container& spec) {
  Task<std::vector<RegistryLogin>> looking = logins_for(run, spec);
  std::vector<RegistryLogin> logins = co_await std::move(looking);
  if (logins.empty()) logins.emplace_back();
  Status status;
  for (const RegistryLogin& login : logins) {
    cri::PullImageRequest pull;
    pull.mutable_image()->set_image(spec.image());
    pull.mutable_auth()->set_username(login.username);
    pull.mutable_auth()->set_password(login.password);
    pull.mutable_auth()->set_identity_token(login.identity_token);
    pull.mutable_auth()->set_registry_token(login.registry_token);
    CallOptions patience;
    patience.timeout = std::chrono::minutes(30);
    patience.call_id = &pull_call_;
    auto pulling = context_.images->PullImage(pull, std::move(patience));
    Result<cri::PullImageResponse> pulled = co_await pulling;
    pull_call_ = 0;
    status = pulled.status();
    // Another user may be let in; nothing else gets better by that.
    if (status.code() != Code::unauthenticated && status.code() != Code::permission_denied &&
        status.code() != Code::not_found)
      break;
  }
  co_return status;
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
    Task<Status> pulling = pull_image(run, spec);
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

void PodWorker::collect_dead(int64_t kept) {
  if (!current_) return;
  collect_request_ = kept;
  wakeup_.notify();
}

size_t PodWorker::dead_containers() const {
  size_t count = 0;
  if (current_)
    for (const PodRun::Container& container : current_->containers)
      count += container.statuses.empty() ? 0 : container.statuses.size() - 1;
  return count;
}

/// Keeps the newest of each container and so many that ended before it; removes older ones with their logs, and former
/// sandboxes once every container has a successor.
Task<void> PodWorker::collect_garbage(PodRun& run) {
  std::vector<std::string> logs;
  bool all_here = true;
  for (PodRun::Container& container : run.containers) {
    const int64_t kept = collect_request_.value_or(context_.dead_kept);
    while (kept >= 0 && static_cast<int64_t>(container.statuses.size()) > 1 + kept) {
      const cri::ContainerStatus oldest = container.statuses.back();
      if (!collect_request_ && wall_time(oldest.finished_at()) + context_.dead_for > WallClock::now()) break;
      Task<Status> removing = remove_container(oldest.id());
      const Status removed = co_await std::move(removing);
      if (!is_gone(removed)) break;
      logs.push_back(termination_message_path(context_.files.folder(), run.uid, container.name, restarts_of(oldest)));
      logs.push_back(run.log_folder + "/" + log_path_of(container.name, restarts_of(oldest)));
      container.statuses.pop_back();
    }
    if (container.kind == ContainerKind::regular)
      all_here =
          all_here && !container.statuses.empty() && container.statuses.front().state() == cri::CONTAINER_RUNNING;
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
        return container.kind == ContainerKind::init ||
               (!container.statuses.empty() && container.statuses.front().state() == cri::CONTAINER_RUNNING);
      }))
    return;
  run.measured = true;
  context_.start_seconds.observe(std::chrono::duration<double>(WallClock::now() - run.seen).count());
}

}  // namespace pintle::agent
