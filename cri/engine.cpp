#include "cri/engine.hpp"

#include <algorithm>
#include <pintle/failures.hpp>

#include "cri/containers.hpp"
#include "cri/namespaces.hpp"
#include "cri/process_namespaces.hpp"
#include "cri/sandboxes.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::nanoseconds kAskTimeout = 10s;
constexpr std::chrono::nanoseconds kFirstRetry = 50ms;
constexpr std::chrono::nanoseconds kLongestRetry = 10s;
constexpr std::chrono::nanoseconds kJanitorFirst = 1s;
constexpr std::chrono::nanoseconds kJanitorLongest = 60s;
constexpr std::chrono::nanoseconds kJanitorIdle = 24h;
constexpr std::chrono::nanoseconds kHealthAfterTrouble = 2s;
constexpr std::chrono::nanoseconds kHealthIdle = 30s;
constexpr std::chrono::nanoseconds kStopTimeout = 5s;

/// The pins of a sandbox that have vanished: their kind and inode.
struct Lost {
  std::string kind, path;
  uint64_t inode;
};

std::vector<Lost> lost_pins(const SandboxRecord& record, const std::string& process_root) {
  std::vector<Lost> lost;
  const auto look = [&](const char* kind, const std::string& path, uint64_t inode) {
    if (!path.empty() && inode != 0 && !is_pinned(path, inode)) lost.push_back({kind, path, inode});
  };
  look("net", record.network_namespace(), record.network_inode());
  look("ipc", record.ipc_namespace(), record.ipc_inode());
  look("uts", record.uts_namespace(), record.uts_inode());
  look("pid", record.pid_namespace(), record.pid_inode());
  look("user", record.user_namespace(), record.user_inode());
  // A pinned process namespace takes no process any more once its first one has ended.
  const bool has_ended = !record.pid_namespace().empty() &&
                         !has_process_namespace(process_cgroup(process_root, record.cgroup_parent(), record.id()));
  if (has_ended) lost.push_back({"pid", record.pid_namespace(), 0});
  return lost;
}

/// Pins every lost namespace again from one of the processes.
Status pin_again(const std::vector<Lost>& lost, const std::vector<int>& pids, const std::string& shm,
                 uint64_t shm_bytes) {
  for (const Lost& pin : lost) {
    Status pinned = failed_precondition(pin.path + " is gone");
    for (const int pid : pids) {
      pinned = repin(pid, pin.kind, pin.inode, pin.path);
      if (pinned) break;
    }
    if (!pinned) return pinned;
  }
  return shm.empty() ? Status::ok() : ensure_shm(shm, shm_bytes);
}

/// Removes the pins and files of sandboxes that no record knows.
Status remove_strays(const Engine::Settings& settings, const std::set<std::string>& known) {
  Failures failures;
  const auto each_stray = [&](const std::string& path, const auto& remove) {
    const Result<files::Descriptor> folder = files::open_folder(path);
    if (!folder) return;
    const Result<std::vector<std::string>> names = files::list_folder(folder->get());
    if (!names) return;
    for (const std::string& name : *names) {
      if (is_id(name) && !known.contains(name)) failures.note(remove(folder->get(), name));
    }
  };
  const std::string pins = settings.run_folder + "/sandboxes";
  each_stray(pins, [&](int, const std::string& name) { return release_namespaces(pins + "/" + name); });
  each_stray(settings.state_folder + "/pods",
             [](int folder, const std::string& name) { return files::remove_tree(folder, name); });
  for (const std::string& id : all_process_namespaces(settings.process_root)) {
    if (known.contains(id)) continue;
    failures.note(end_process_namespace(process_cgroup(settings.process_root, "", id), settings.process_root));
  }
  return failures.status();
}

/// What networks hold of sandboxes that nobody knows any more, also where they themselves have forgotten it. Only while no pod can be
/// made: what begins meanwhile would count as garbage.
Task<void> collect_garbage(Host& host, std::vector<Binding> networks, std::vector<std::string> attached) {
  for (const Binding& binding : networks) {
    const NetworkStub network(host, binding);
    network_api::CollectRequest request;
    for (const std::string& id : attached) request.add_sandbox_ids(id);
    CallOptions options;
    options.timeout = kAskTimeout;
    auto collecting = network.Collect(request, std::move(options));
    const Result<network_api::CollectResponse> collected = co_await collecting;
    if (!collected && collected.status().code() != Code::unimplemented)
      host.warn("a pod network could not collect garbage",
                {{"network", binding.key}, {"why", collected.status().message()}});
  }
}

}  // namespace

std::chrono::nanoseconds CallContext::at_most(std::chrono::nanoseconds limit) const {
  if (!call_) return limit;
  const std::optional<std::chrono::nanoseconds> remaining = call_->remaining();
  // Never zero: that would mean "the host's default".
  return remaining ? std::clamp(*remaining, std::chrono::nanoseconds(1ms), limit) : limit;
}

/// A backend whose events are followed. `compared` is set once its containers have been taken into account.
struct Engine::Follower {
  Binding binding;
  bool compared = false;
  uint64_t stream = 0;  // the id of the call that brings events; 0: none is under way
};

struct Engine::Stored {
  Result<RecordStore> sandbox_records, container_records;
  RecordStore::Contents sandboxes, containers;
  Status status;
};

Engine::Engine(Host& host, Settings settings)
    : host_(host),
      settings_(std::move(settings)),
      providers_(host, settings_.preferences),
      sandboxes_(std::make_unique<Sandboxes>(*this)),
      containers_(std::make_unique<Containers>(*this)),
      stop_notification_(host),
      janitor_wake_(host),
      background_ended_(host) {}

Engine::~Engine() = default;

// ---- Starting -----------------------------------------------------------------------------------------------------

Task<Status> Engine::start() {
  auto read = [folder = settings_.state_folder] {
    auto stored = std::make_unique<Stored>(Stored{RecordStore::open(folder + "/records/sandboxes"),
                                                  RecordStore::open(folder + "/records/containers"),
                                                  {},
                                                  {},
                                                  {}});
    for (const auto& [store, contents] : {std::pair(&stored->sandbox_records, &stored->sandboxes),
                                          std::pair(&stored->container_records, &stored->containers)}) {
      Result<RecordStore::Contents> loaded = *store ? (*store)->load() : Result<RecordStore::Contents>(store->status());
      if (loaded) {
        *contents = std::move(*loaded);
      } else {
        stored->status = loaded.status();
      }
    }
    return stored;
  };
  Task<std::unique_ptr<Stored>> reading = host_.blocking(std::move(read));
  const std::unique_ptr<Stored> stored = co_await std::move(reading);
  if (!stored->status) co_return stored->status;
  const auto begun = std::chrono::steady_clock::now();
  adopt_records(*stored);
  started_ = true;

  const std::vector<Binding> bindings = providers_.runtimes();
  for (const Binding& binding : bindings) {
    follow(binding);
    Task<Status> comparing = compare_with_backend(followers_.at(binding.key));
    if (Status compared = co_await std::move(comparing); !compared) {
      host_.warn("a runtime backend did not tell its containers; it is asked again",
                 {{"runtime", binding.key}, {"why", compared.message()}});
    }
  }
  Task<Status> recovering = recover_sandboxes();
  if (Status recovered = co_await std::move(recovering); !recovered)
    host_.warn("sandboxes could not be checked", {{"why", recovered.message()}});
  Task<Status> comparing = compare_with_networks();
  if (Status compared = co_await std::move(comparing); !compared) {
    host_.warn("a pod network did not tell what it holds; it is asked again", {{"why", compared.message()}});
  }
  std::vector<std::string> attached;
  sandbox_index_.for_each([&](const Sandbox& sandbox) {
    if (!sandbox.record.detached()) attached.push_back(sandbox.record.id());
  });
  Task<void> collecting = collect_garbage(host_, providers_.networks(), std::move(attached));
  co_await std::move(collecting);
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begun);
  const std::string sandboxes = std::to_string(sandbox_index_.size());
  const std::string containers = std::to_string(container_index_.size());
  const std::string microseconds = std::to_string(took.count());
  if (sandbox_index_.size() > 0)
    host_.info("adopted", {{"sandboxes", sandboxes}, {"containers", containers}, {"microseconds", microseconds}});
  background("finish what was left undone", janitor());
  background("look after the node's health", watch_health());
  co_return Status::ok();
}

void Engine::adopt_records(Stored& stored) {
  sandbox_records_.emplace(std::move(*stored.sandbox_records));
  container_records_.emplace(std::move(*stored.container_records));
  for (const RecordStore::Damaged& damaged : stored.sandboxes.damaged) {
    host_.warn("a sandbox' record cannot be read; it is set aside and what it stood for is removed",
               {{"sandbox", damaged.id}, {"why", damaged.why}});
    damaged_sandboxes_.insert(damaged.id);
  }
  for (const RecordStore::Record& entry : stored.sandboxes.records) {
    auto sandbox = std::make_shared<Sandbox>(host_);
    if (!sandbox->record.ParseFromString(entry.payload) || sandbox->record.id() != entry.id) {
      host_.warn("a record holds no sandbox; what it stood for is removed", {{"sandbox", entry.id}});
      damaged_sandboxes_.insert(entry.id);
      continue;
    }
    Sandboxes::summarize(*sandbox);
    // Two records of one name cannot be: a name is reserved before its record is written.
    (void)sandbox_index_.insert(Sandboxes::name_of(sandbox->record.config().metadata()), entry.id, sandbox);
  }
  // A container without a record is removed when its backend lists it.
  for (const RecordStore::Damaged& damaged : stored.containers.damaged) {
    host_.warn("a container's record cannot be read; it is set aside and the container removed",
               {{"container", damaged.id}, {"why", damaged.why}});
  }
  for (const RecordStore::Record& entry : stored.containers.records) {
    auto container = std::make_shared<Container>(host_);
    const bool parsed = container->record.ParseFromString(entry.payload) && container->record.id() == entry.id;
    container->sandbox = parsed ? sandbox_index_.get(container->record.sandbox_id()) : nullptr;
    if (!container->sandbox) {
      host_.warn("a container has no sandbox that is known; it is removed", {{"container", entry.id}});
      auto forget = [records = &*container_records_, id = entry.id] { return records->remove(id); };
      background("forget a container", host_.blocking(std::move(forget)));
      continue;
    }
    Containers::summarize(*container);
    container->summary.set_state(container->record.exited() ? api::CONTAINER_EXITED : api::CONTAINER_UNKNOWN);
    container->sandbox->containers.insert(entry.id);
    const std::string name =
        Containers::name_of(container->record.config().metadata(), container->sandbox->record.config().metadata());
    (void)container_index_.insert(name, entry.id, container);
  }
}

// ---- Backends -----------------------------------------------------------------------------------------------------

void Engine::set_runtimes(const std::vector<Binding>& bindings) {
  providers_.set_runtimes(bindings);
  if (!started_ || stopping_) return;
  for (auto entry = followers_.begin(); entry != followers_.end();) {
    const bool bound = std::any_of(bindings.begin(), bindings.end(),
                                   [&](const Binding& binding) { return binding.key == entry->first; });
    if (!bound) unfollow(*entry->second);
    entry = bound ? std::next(entry) : followers_.erase(entry);
  }
  for (const Binding& binding : bindings) {
    const auto known = followers_.find(binding.key);
    if (known != followers_.end() && known->second->binding.id == binding.id) continue;
    if (known != followers_.end()) unfollow(*known->second);
    follow(binding);
    background("compare with a backend", compare_or_leave_it(followers_.at(binding.key)));
  }
}

void Engine::follow(const Binding& binding) {
  auto follower = std::make_shared<Follower>();
  follower->binding = binding;
  followers_[binding.key] = follower;
  background("follow the events of " + binding.key, follow_events(follower));
}

void Engine::unfollow(Follower& follower) {
  if (follower.stream != 0) host_.cancel(follower.stream);
}

Task<Status> Engine::follow_events(std::shared_ptr<Follower> follower) {
  const std::string key = follower->binding.key;
  const auto is_current = [&] {
    const auto found = followers_.find(key);
    return !stopping_ && found != followers_.end() && found->second == follower;
  };
  std::chrono::nanoseconds delay = kFirstRetry;
  while (is_current()) {
    const RuntimeStub runtime(host_, follower->binding);
    const runtime_api::EventsRequest request;
    StreamCall<runtime_api::Event>::OnMessage on_message = [this](const runtime_api::Event& event, Attachments&) {
      observe(event.container());
    };
    CallOptions options;
    options.call_id = &follower->stream;
    const auto begun = std::chrono::steady_clock::now();
    auto streaming = runtime.Events(request, std::move(on_message), std::move(options));
    const Status ended = co_await streaming;
    follower->stream = 0;
    if (!is_current()) break;
    host_.debug("a backend's events have ended; they are followed again", {{"runtime", key}, {"why", ended.message()}});
    if (std::chrono::steady_clock::now() - begun > kLongestRetry) delay = kFirstRetry;
    Task<bool> pausing = stop_notification_.wait(delay);
    if (co_await std::move(pausing)) break;
    delay = std::min(delay * 2, kLongestRetry);
    if (!is_current()) break;
    // What was missed meanwhile; asked after the events are followed again.
    follower->compared = false;
    host_.post(
        [this, follower] { background("compare with " + follower->binding.key, compare_with_backend(follower)); });
  }
  co_return Status::ok();
}

Task<Status> Engine::compare_or_leave_it(std::shared_ptr<Follower> follower) {
  Task<Status> comparing = compare_with_backend(follower);
  const Status compared = co_await std::move(comparing);
  if (!compared) wake_janitor();
  co_return Status::ok();
}

Task<Status> Engine::compare_with_backend(std::shared_ptr<Follower> follower) {
  const RuntimeStub runtime(host_, follower->binding);
  const std::string key = follower->binding.key;
  CallOptions describe_options;
  describe_options.timeout = kAskTimeout;
  const runtime_api::DescribeRequest describe_request;
  auto describing = runtime.Describe(describe_request, std::move(describe_options));
  Result<runtime_api::DescribeResponse> described = co_await describing;
  if (described) providers_.set_description(key, std::move(*described));

  const int64_t asked_at = now_ns();
  CallOptions list_options;
  list_options.timeout = kAskTimeout;
  const runtime_api::ListContainersRequest list_request;
  auto listing = runtime.ListContainers(list_request, std::move(list_options));
  Result<runtime_api::ListContainersResponse> listed = co_await listing;
  if (!listed) co_return listed.status();

  std::set<std::string> seen;
  std::vector<std::string> orphans;
  for (const runtime_api::Container& container : listed->containers()) {
    seen.insert(container.id());
    if (!observe(container)) orphans.push_back(container.id());
  }
  for (const std::string& id : orphans) {
    host_.info("a container that no client knows of is removed", {{"container", id}, {"runtime", key}});
    runtime_api::RemoveContainerRequest request;
    request.set_container_id(id);
    CallOptions options;
    options.timeout = 60s;
    auto removing = runtime.RemoveContainer(request, std::move(options));
    Result<runtime_api::RemoveContainerResponse> removed = co_await removing;
    if (!removed) host_.warn("it could not be removed", {{"container", id}, {"why", removed.status().message()}});
  }
  const std::vector<std::shared_ptr<Container>> all = container_index_.all();
  for (const std::shared_ptr<Container>& container : all) {
    ContainerRecord& record = container->record;
    if (record.runtime() != key || record.phase() != PHASE_READY || seen.contains(record.id())) continue;
    const Mutex::Lock lock = co_await container->mutex.lock();
    // Made while the list was under way, or removed meanwhile.
    if (container->gone || record.phase() != PHASE_READY || container->made_at >= asked_at) continue;
    containers_->exited(container, record.finished_at() != 0 ? record.finished_at() : now_ns(), 255, "Unknown",
                        "the container has vanished from its runtime");
  }
  follower->compared = true;
  co_return Status::ok();
}

bool Engine::observe(const runtime_api::Container& seen) {
  std::shared_ptr<Container> container = container_index_.get(seen.id());
  if (!container) return false;
  ContainerRecord& record = container->record;
  container->monitor_pid = seen.monitor_pid();
  if (seen.started_at() != 0 && record.started_at() == 0) {
    record.set_started_at(seen.started_at());
    record.set_started(true);
  }
  switch (seen.state()) {
    case runtime_api::CONTAINER_STATE_RUNNING:
      if (container->state() == api::CONTAINER_EXITED) break;
      container->pid = seen.pid();
      if (container->state() != api::CONTAINER_RUNNING) {
        record.set_started(true);
        container->summary.set_state(api::CONTAINER_RUNNING);
        container->changed.notify_all();
      }
      break;
    case runtime_api::CONTAINER_STATE_CREATED:
      if (container->state() == api::CONTAINER_UNKNOWN) container->summary.set_state(api::CONTAINER_CREATED);
      break;
    case runtime_api::CONTAINER_STATE_EXITED: {
      const std::string reason = seen.out_of_memory() ? "OOMKilled" : seen.exit_code() == 0 ? "Completed" : "Error";
      containers_->exited(container, seen.finished_at() != 0 ? seen.finished_at() : now_ns(), seen.exit_code(), reason,
                          seen.message());
      break;
    }
    case runtime_api::CONTAINER_STATE_UNKNOWN:
      if (container->state() == api::CONTAINER_RUNNING) {
        container->summary.set_state(api::CONTAINER_UNKNOWN);
        container->changed.notify_all();
      }
      break;
    default:
      break;
  }
  return true;
}

// ---- Sandboxes after a start --------------------------------------------------------------------------------------

Task<Status> Engine::recover_sandboxes() {
  // All file work in one go: this stands between a start and its readiness.
  std::vector<SandboxRecord> ready;
  std::set<std::string> known;
  sandbox_index_.for_each([&](const Sandbox& sandbox) {
    known.insert(sandbox.record.id());
    if (sandbox.record.phase() == PHASE_READY) ready.push_back(sandbox.record);
  });
  struct Found {
    std::vector<std::pair<std::string, std::vector<Lost>>> lost;
    Status status;
  };
  auto look = [ready = std::move(ready), known = std::move(known), settings = settings_] {
    Found found;
    for (const SandboxRecord& record : ready) {
      std::vector<Lost> lost = lost_pins(record, settings.process_root);
      if (!lost.empty()) found.lost.emplace_back(record.id(), std::move(lost));
    }
    found.status = remove_strays(settings, known);
    return found;
  };
  Task<Found> looking = host_.blocking(std::move(look));
  const Found found = co_await std::move(looking);
  for (const auto& [id, lost] : found.lost) {
    const std::shared_ptr<Sandbox> sandbox = sandbox_index_.get(id);
    if (!sandbox) continue;
    std::vector<int> pids;
    for (const std::string& container_id : sandbox->containers) {
      const std::shared_ptr<Container> container = container_index_.get(container_id);
      if (container && container->pid > 0) pids.push_back(container->pid);
    }
    const std::string shm = sandbox->record.ipc_namespace().empty() ? std::string() : sandbox->record.shm();
    auto mend = [lost = lost, pids, shm, bytes = settings_.shm_bytes] { return pin_again(lost, pids, shm, bytes); };
    Task<Status> mending = host_.blocking(std::move(mend));
    if (Status mended = co_await std::move(mending); mended) {
      host_.info("a sandbox' namespaces were pinned again from its processes", {{"sandbox", id}});
      continue;
    }
    Task<Status> marking = sandboxes_->mark_not_ready(sandbox, "its namespaces are gone");
    (void)co_await std::move(marking);
    const std::set<std::string> ids = sandbox->containers;
    for (const std::string& container_id : ids) {
      const std::shared_ptr<Container> container = container_index_.get(container_id);
      if (!container) continue;
      Task<Status> stopping = containers_->stop({}, container, 0s);
      (void)co_await std::move(stopping);
    }
  }
  co_return found.status;
}

Task<Status> Engine::compare_with_networks() {
  networks_compared_ = false;
  Status result;
  const std::vector<Binding> bindings = providers_.networks();
  for (const Binding& binding : bindings) {
    const NetworkStub network(host_, binding);
    CallOptions options;
    options.timeout = kAskTimeout;
    const network_api::ListRequest list_request;
    auto listing = network.List(list_request, std::move(options));
    Result<network_api::ListResponse> listed = co_await listing;
    if (!listed) {
      result = listed.status().with_context("pod network " + binding.key);
      continue;
    }
    for (const network_api::Attachment& attachment : listed->attachments()) {
      const std::shared_ptr<Sandbox> sandbox = sandbox_index_.get(attachment.sandbox_id());
      if (sandbox && !sandbox->record.detached()) continue;
      host_.info("a network attachment that belongs to no sandbox is taken back",
                 {{"sandbox", attachment.sandbox_id()}, {"network", binding.key}});
      network_api::DetachRequest request;
      request.set_sandbox_id(attachment.sandbox_id());
      request.set_network_namespace(attachment.network_namespace());
      CallOptions detach_options;
      detach_options.timeout = 60s;
      auto detaching = network.Detach(request, std::move(detach_options));
      Result<network_api::DetachResponse> detached = co_await detaching;
      if (!detached) result = detached.status().with_context("pod network " + binding.key);
    }
  }
  networks_compared_ = result.is_ok();
  co_return result;
}

// ---- Health ---------------------------------------------------------------------------------------------------

Task<Engine::Health> Engine::health() {
  Health health;
  CallOptions options;
  options.timeout = kAskTimeout;
  if (Result<Providers::Choice> runtime = providers_.choose_runtime(""); runtime) {
    const RuntimeStub stub(host_, runtime->binding);
    const runtime_api::DescribeRequest request;
    auto describing = stub.Describe(request, options);
    Result<runtime_api::DescribeResponse> described = co_await describing;
    health.runtime_ready = described && described->ready();
    health.runtime_reason = described ? (described->ready() ? "" : "RuntimeNotReady") : "RuntimeUnavailable";
    health.runtime_message = described ? described->message() : described.status().message();
    if (described) providers_.set_description(runtime->binding.key, std::move(*described));
  } else {
    health.runtime_reason = "NoRuntime";
    health.runtime_message = runtime.status().message();
  }
  if (Result<Binding> network = providers_.choose_network(); network) {
    const NetworkStub stub(host_, *network);
    const network_api::DescribeRequest request;
    auto describing = stub.Describe(request, options);
    Result<network_api::DescribeResponse> described = co_await describing;
    health.network_ready = described && described->ready();
    health.network_reason = described ? (described->ready() ? "" : "NetworkPluginNotReady") : "NetworkUnavailable";
    health.network_message = described ? described->message() : described.status().message();
  } else {
    health.network_reason = "NoNetwork";
    health.network_message = network.status().message();
  }
  host_.condition("RuntimeReady", health.runtime_ready, health.runtime_reason, health.runtime_message);
  host_.condition("NetworkReady", health.network_ready, health.network_reason, health.network_message);
  is_healthy_ = health.runtime_ready && health.network_ready;
  co_return health;
}

/// Not every node has a client that asks for its status: without one, a network that has recovered would stay unready for ever.
Task<Status> Engine::watch_health() {
  while (!stopping_) {
    Task<bool> pausing = stop_notification_.wait(is_healthy_ ? kHealthIdle : kHealthAfterTrouble);
    (void)co_await std::move(pausing);
    if (stopping_) break;
    Task<Health> asking = health();
    (void)co_await std::move(asking);
  }
  co_return Status::ok();
}

// ---- The janitor --------------------------------------------------------------------------------------------------

Task<Status> Engine::finish_removals() {
  Status result;
  const std::vector<std::shared_ptr<Container>> containers = container_index_.all();
  for (const std::shared_ptr<Container>& container : containers) {
    // Creations under way hold the lock: they end before the phase is looked at.
    if (container->record.phase() == PHASE_READY) continue;
    Mutex::Lock lock = co_await container->mutex.lock();
    const bool unfinished = !container->gone && container->record.phase() != PHASE_READY;
    lock.unlock();
    if (!unfinished) continue;
    Task<Status> removing = containers_->remove({}, container);
    if (Status removed = co_await std::move(removing); !removed) result = removed;
  }
  const std::vector<std::shared_ptr<Sandbox>> sandboxes = sandbox_index_.all();
  for (const std::shared_ptr<Sandbox>& sandbox : sandboxes) {
    if (sandbox->record.phase() == PHASE_READY || sandbox->record.phase() == PHASE_NOT_READY) continue;
    Mutex::Lock lock = co_await sandbox->mutex.lock();
    const bool unfinished =
        !sandbox->gone && sandbox->record.phase() != PHASE_READY && sandbox->record.phase() != PHASE_NOT_READY;
    lock.unlock();
    if (!unfinished) continue;
    Task<Status> removing = sandboxes_->remove({}, sandbox);
    if (Status removed = co_await std::move(removing); !removed) result = removed;
  }
  for (auto id = damaged_sandboxes_.begin(); id != damaged_sandboxes_.end();) {
    auto stand_in = std::make_shared<Sandbox>(host_);
    stand_in->record.set_id(*id);
    stand_in->record.set_run_folder(settings_.run_folder + "/sandboxes/" + *id);
    stand_in->record.set_state_folder(settings_.state_folder + "/pods/" + *id);
    if (Result<Providers::Choice> runtime = providers_.choose_runtime(""); runtime)
      stand_in->record.set_runtime(runtime->binding.key);
    if (Result<Binding> network = providers_.choose_network(); network) stand_in->record.set_network(network->key);
    Task<Status> removing = sandboxes_->remove({}, stand_in);
    Status removed = co_await std::move(removing);
    if (!removed) result = removed;
    id = removed ? damaged_sandboxes_.erase(id) : std::next(id);
  }
  co_return result;
}

Task<Status> Engine::janitor() {
  std::chrono::nanoseconds delay = kJanitorFirst;
  for (;;) {
    janitor_wanted_ = false;
    Failures failures;
    Task<Status> finishing = finish_removals();
    failures.note(co_await std::move(finishing));
    const std::map<std::string, std::shared_ptr<Follower>> followers = followers_;
    for (const auto& [key, follower] : followers) {
      if (follower->compared) continue;
      Task<Status> comparing = compare_with_backend(follower);
      failures.note(co_await std::move(comparing));
    }
    if (!networks_compared_) {
      Task<Status> comparing = compare_with_networks();
      failures.note(co_await std::move(comparing));
    }
    if (stopping_) co_return Status::ok();
    if (failures.none()) {
      delay = kJanitorFirst;
      if (janitor_wanted_) continue;
      Task<bool> waiting = janitor_wake_.wait(kJanitorIdle);
      (void)co_await std::move(waiting);
    } else {
      const std::string why = failures.status().message();
      host_.warn("something could not be put in order yet; it is tried again", {{"why", why}});
    }
    if (stopping_) co_return Status::ok();
    Task<bool> pausing = stop_notification_.wait(delay);
    (void)co_await std::move(pausing);
    if (stopping_) co_return Status::ok();
    delay = std::min<std::chrono::nanoseconds>(delay * 2, kJanitorLongest);
  }
}

// ---- Background work ----------------------------------------------------------------------------------------------

void Engine::background(std::string what, Task<Status> task) {
  ++background_count_;
  host_.detach(run_background(std::move(what), std::move(task)));
}

Task<void> Engine::run_background(std::string what, Task<Status> task) {
  Status status;
  try {
    status = co_await std::move(task);
  } catch (const std::exception& error) {
    status = internal_error(error.what());
  }
  if (!status && !stopping_) {
    host_.warn("background work failed", {{"what", what}, {"why", status.message()}});
    wake_janitor();
  }
  --background_count_;
  background_ended_.notify_all();
}

Task<void> Engine::stop() {
  stopping_ = true;
  for (const auto& [key, follower] : followers_) unfollow(*follower);
  stop_notification_.notify_all();
  janitor_wake_.notify_all();
  const auto deadline = std::chrono::steady_clock::now() + kStopTimeout;
  while (background_count_ > 0) {
    Task<bool> waiting = background_ended_.wait(deadline - std::chrono::steady_clock::now());
    if (!co_await std::move(waiting)) break;
  }
}

void Engine::publish(const std::string& id, api::ContainerEventType type, const Sandbox& sandbox) {
  if (events_.subscribers() == 0) return;
  api::ContainerEventResponse event;
  event.set_container_id(id);
  event.set_container_event_type(type);
  event.set_created_at(now_ns());
  *event.mutable_pod_sandbox_status() = sandboxes_->status(sandbox);
  for (const std::string& container_id : sandbox.containers) {
    if (const std::shared_ptr<Container> container = container_index_.get(container_id)) {
      *event.add_containers_statuses() = containers_->status(*container);
    }
  }
  events_.publish(event);
}

}  // namespace pintle::cri
