#include "cri/containers.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <csignal>
#include <ctime>

#include "cri/sandboxes.hpp"
#include "cri/user_namespaces.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::nanoseconds kCreateTimeout = 240s;  // an image may have to be unpacked
constexpr std::chrono::nanoseconds kStartTimeout = 60s;
constexpr std::chrono::nanoseconds kBackendTimeout = 30s;
constexpr std::chrono::nanoseconds kKillTimeout = 60s;
// An exit is told by an event; should one get lost, asking finds out.
constexpr std::chrono::nanoseconds kLookAgain = 2s;

// What containerd reports for a container that could not be started, and for one of which nothing is known any more.
constexpr int32_t kStartErrorCode = 128;
constexpr int32_t kUnknownExitCode = 255;

bool has_parent_reference(std::string_view path) {
  for (size_t start = 0; start <= path.size();) {
    const size_t slash = std::min(path.find('/', start), path.size());
    if (path.substr(start, slash - start) == "..") return true;
    start = slash + 1;
  }
  return false;
}

/// The record and the log's folder, on a thread that may block.
struct Intention {
  const RecordStore* records;
  std::string id, record, log_path;
};

Status keep_intention(const Intention& intention) {
  if (Status written = intention.records->write(intention.id, intention.record, Durability::cached); !written)
    return written;
  if (intention.log_path.empty()) return Status::ok();
  return files::make_folders(intention.log_path.substr(0, intention.log_path.rfind('/')), 0755);
}

}  // namespace

int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

int signal_number(api::Signal signal) {
  // CRI numbers the names by alphabet.
  constexpr std::array<int, 34> numbers = {
      0,       SIGABRT, SIGALRM, SIGBUS,  SIGCHLD, SIGCHLD, SIGCONT, SIGFPE,    SIGHUP,    SIGILL,  SIGINT, SIGIO,
      SIGIOT,  SIGKILL, SIGPIPE, SIGPOLL, SIGPROF, SIGPWR,  SIGQUIT, SIGSEGV,   SIGSTKFLT, SIGSTOP, SIGSYS, SIGTERM,
      SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG,  SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH,  SIGXCPU};
  const auto value = static_cast<int>(signal);
  if (value < 0) return 0;
  if (value < static_cast<int>(numbers.size())) return numbers[static_cast<size_t>(value)];
  if (signal == api::SIGNAL_SIGXFSZ) return SIGXFSZ;
  // As the kernel counts for programs of the GNU C library: 34 to 64.
  if (value >= api::SIGNAL_SIGRTMIN && value <= api::SIGNAL_SIGRTMAX) return 34 + value - api::SIGNAL_SIGRTMIN;
  return 0;
}

Status check_container_config(const api::ContainerConfig& config, const api::PodSandboxConfig& pod) {
  const std::string& name = config.metadata().name();
  const bool good_name =
      !name.empty() && name.size() <= 253 &&
      std::all_of(name.begin(), name.end(), [](unsigned char c) { return c > 0x20 && c != 0x7f && c != '/'; });
  if (!good_name) {
    return invalid_argument("config.metadata.name \"" + name.substr(0, 80) +
                            "\": a container needs a name of at most 253 characters without spaces and slashes");
  }
  if (config.image().image().empty())
    return invalid_argument("config.image.image is empty: a container needs an image");
  if (has_parent_reference(config.log_path()) || config.log_path().starts_with("/")) {
    return invalid_argument("log_path \"" + config.log_path() + "\" must be a path below the pod's log_directory");
  }
  if (!config.log_path().empty() && pod.log_directory().empty()) {
    return invalid_argument("log_path \"" + config.log_path() + "\" needs the pod's log_directory, which is empty");
  }
  for (const api::KeyValue& variable : config.envs()) {
    if (variable.key().empty() || variable.key().find('=') != std::string::npos ||
        variable.key().find('\0') != std::string::npos || variable.value().find('\0') != std::string::npos) {
      return invalid_argument("envs: \"" + variable.key() +
                              "\" is no name of an environment variable, or its value has a NUL");
    }
  }
  for (const api::Mount& mount : config.mounts()) {
    if (mount.container_path().empty() || mount.container_path().front() != '/') {
      return invalid_argument("mounts: container_path \"" + mount.container_path() + "\" must be absolute");
    }
  }
  const api::LinuxContainerSecurityContext& context = config.linux().security_context();
  const Result<IdRange> ids = id_range_of(context.namespace_options());
  if (!ids) return ids.status();
  const Result<IdRange> pods = id_range_of(pod.linux().security_context().namespace_options());
  if (pods && (ids->host_id != pods->host_id || ids->length != pods->length)) {
    return invalid_argument("namespace_options.userns_options must be the same as the pod sandbox' own");
  }
  if (context.has_run_as_group() && !context.has_run_as_user() && context.run_as_username().empty()) {
    return invalid_argument("security_context.run_as_group needs run_as_user or run_as_username beside it");
  }
  if (!config.working_dir().empty() && config.working_dir().front() != '/') {
    return invalid_argument("working_dir \"" + config.working_dir() + "\" must be absolute");
  }
  return Status::ok();
}

std::string Containers::name_of(const api::ContainerMetadata& metadata, const api::PodSandboxMetadata& pod) {
  return metadata.name() + "_" + Sandboxes::name_of(pod) + "_" + std::to_string(metadata.attempt());
}

// ---- Making -------------------------------------------------------------------------------------------------------

Task<Result<std::string>> Containers::create(CallContext context, std::shared_ptr<Sandbox> sandbox,
                                             const api::ContainerConfig& config) {
  if (Status good = check_container_config(config, sandbox->record.config()); !good) co_return good;
  const Mutex::Lock pod_lock = co_await sandbox->mutex.lock();
  if (sandbox->gone || sandbox->record.phase() != PHASE_READY) {
    co_return failed_precondition("pod sandbox " + sandbox->record.id() + " is not ready: run a new one");
  }
  auto container = std::make_shared<Container>(engine_.host());
  container->sandbox = sandbox;
  ContainerRecord& record = container->record;
  record.set_id(make_id());
  record.set_sandbox_id(sandbox->record.id());
  *record.mutable_config() = config;
  record.set_runtime(sandbox->record.runtime());
  record.set_created_at(now_ns());
  if (!config.log_path().empty())
    record.set_log_path(sandbox->record.config().log_directory() + "/" + config.log_path());
  const std::string name = name_of(config.metadata(), sandbox->record.config().metadata());
  if (Status inserted = engine_.container_index().insert(name, record.id(), container); !inserted) co_return inserted;
  sandbox->containers.insert(record.id());

  const Mutex::Lock lock = co_await container->mutex.lock();
  Task<Status> making = make(context, container);
  const Status made = co_await std::move(making);
  if (made) {
    engine_.publish(record.id(), api::CONTAINER_CREATED_EVENT, *sandbox);
    co_return record.id();
  }
  Task<Status> taking_down = take_down(container);
  const Status taken_down = co_await std::move(taking_down);
  if (!taken_down) {
    engine_.host().warn("a container that could not be created could not be removed completely; it is tried again",
                        {{"container", record.id()}, {"why", taken_down.message()}});
  }
  co_return made;
}

Task<Status> Containers::make(CallContext context, std::shared_ptr<Container> container) {
  ContainerRecord& record = container->record;
  const auto gone = [&] {
    return context.is_cancelled() ? cancelled("the client has gone before the container was made") : Status::ok();
  };

  Result<ImageStub> images = engine_.providers().images_for(record.runtime());
  if (!images) co_return images.status();
  const std::string& reference = record.config().image().image();
  image_api::StatusRequest asking;
  asking.set_reference(reference);
  CallOptions options;
  options.timeout = context.at_most(kBackendTimeout);
  auto asked = images->Status(asking, std::move(options));
  Result<image_api::StatusResponse> image = co_await asked;
  if (!image) co_return image.status().with_context("image \"" + reference + "\"");
  if (!image->has_image() || image->image().image().id().empty()) {
    co_return not_found("image \"" + reference + "\" is not on this node: load it with `pintle image load`");
  }
  const api::Image& found = image->image().image();
  record.set_image_id(found.id());
  record.set_image_ref(found.repo_digests_size() > 0 ? found.repo_digests(0) : found.id());
  summarize(*container);

  Intention intention{&engine_.container_records(), record.id(), record.SerializeAsString(), record.log_path()};
  auto keep = [intention = std::move(intention)] { return keep_intention(intention); };
  Task<Status> keeping = engine_.host().blocking(std::move(keep));
  if (Status kept = co_await std::move(keeping); !kept) co_return kept;
  if (Status status = gone(); !status) co_return status;

  Result<RuntimeStub> runtime = engine_.providers().runtime(record.runtime());
  if (!runtime) co_return runtime.status();
  runtime_api::CreateContainerRequest request;
  request.set_container_id(record.id());
  *request.mutable_sandbox() = Sandboxes::describe(*container->sandbox);
  *request.mutable_config() = record.config();
  request.set_image_id(record.image_id());
  request.set_log_path(record.log_path());
  request.set_runtime_handler(container->sandbox->record.backend_handler());
  const api::NamespaceOption& namespaces = record.config().linux().security_context().namespace_options();
  if (namespaces.pid() != api::POD) request.mutable_sandbox()->clear_pid_namespace();
  if (namespaces.pid() == api::TARGET) {
    Result<std::shared_ptr<Container>> target = engine_.container_index().find(namespaces.target_id());
    if (!target) co_return target.status().with_context("namespace_options.target_id");
    if ((*target)->pid == 0)
      co_return failed_precondition("namespace_options.target_id: container " + namespaces.target_id() +
                                    " does not run");
    request.mutable_sandbox()->set_pid_namespace("/proc/" + std::to_string((*target)->pid) + "/ns/pid");
  }
  CallOptions create_options;
  create_options.timeout = context.at_most(kCreateTimeout);
  auto creating = runtime->CreateContainer(request, std::move(create_options));
  Result<runtime_api::CreateContainerResponse> created = co_await creating;
  if (!created)
    co_return created.status().with_context("create container \"" + record.config().metadata().name() + "\"");
  if (Status status = gone(); !status) co_return status;

  container->made_at = now_ns();
  record.set_phase(PHASE_READY);
  Task<Status> saving = save(container, Durability::synced);
  if (Status saved = co_await std::move(saving); !saved) co_return saved;
  co_return gone();
}

Task<Status> Containers::start(CallContext context, std::shared_ptr<Container> container) {
  const Mutex::Lock lock = co_await container->mutex.lock();
  ContainerRecord& record = container->record;
  if (container->gone || record.phase() != PHASE_READY)
    co_return not_found("container \"" + record.id() + "\" is being removed");
  if (container->state() != api::CONTAINER_CREATED) {
    co_return failed_precondition("container " + record.id() +
                                  " was started before: a container is started once, create a new one");
  }
  if (container->sandbox->record.phase() != PHASE_READY) {
    co_return failed_precondition("pod sandbox " + record.sandbox_id() + " is not ready: run a new one");
  }
  Result<RuntimeStub> runtime = engine_.providers().runtime(record.runtime());
  if (!runtime) co_return runtime.status();
  runtime_api::StartContainerRequest request;
  request.set_container_id(record.id());
  CallOptions options;
  options.timeout = kStartTimeout;
  auto starting = runtime->StartContainer(request, std::move(options));
  Result<runtime_api::StartContainerResponse> started = co_await starting;
  if (!started) {
    const Code code = started.status().code();
    // The backend was not reached: the container is as it was.
    if (code == Code::unavailable || code == Code::resource_exhausted) co_return started.status();
    exited(container, now_ns(), kStartErrorCode, "StartError", started.status().message());
    // Should it have come to life all the same, it must not run on as one that has ended.
    engine_.background("kill container " + record.id() + " whose start failed", kill_quietly(container));
    co_return started.status().with_context("start container \"" + record.config().metadata().name() + "\"");
  }
  record.set_started(true);
  record.set_started_at(started->started_at());
  if (container->state() == api::CONTAINER_CREATED) {
    container->pid = started->pid();
    container->summary.set_state(api::CONTAINER_RUNNING);
    container->changed.notify_all();
  }
  engine_.publish(record.id(), api::CONTAINER_STARTED_EVENT, *container->sandbox);
  if (context.is_cancelled()) co_return cancelled("the client has gone; the container runs");
  co_return Status::ok();
}

// ---- Ending -------------------------------------------------------------------------------------------------------

Task<Status> Containers::stop(CallContext context, std::shared_ptr<Container> container,
                              std::chrono::nanoseconds grace) {
  {
    const Mutex::Lock lock = co_await container->mutex.lock();
    if (container->gone || !container->may_run()) co_return Status::ok();
  }
  // Not locked while it waits: a second stop may be more impatient, and a removal must not wait for a long grace
  // period.
  if (grace.count() > 0) {
    Task<Status> asking = signal(container, signal_number(container->record.config().stop_signal()));
    const Status asked = co_await std::move(asking);
    if (!asked && asked.code() != Code::not_found && asked.code() != Code::failed_precondition) co_return asked;
    Task<bool> waiting = wait_for_exit(context, container, grace);
    if (co_await std::move(waiting)) co_return Status::ok();
    if (context.is_cancelled()) co_return cancelled("the client has gone before the container's grace period was over");
  }
  Task<Status> killing = signal(container, SIGKILL);
  const Status killed = co_await std::move(killing);
  if (!killed && killed.code() != Code::not_found && killed.code() != Code::failed_precondition) co_return killed;
  if (!killed) {
    Task<Status> looking = look_again(container);
    (void)co_await std::move(looking);
    if (container->state() == api::CONTAINER_UNKNOWN)
      exited(container, now_ns(), kUnknownExitCode, "Unknown", killed.message());
  }
  Task<bool> waiting = wait_for_exit(context, container, kKillTimeout);
  if (co_await std::move(waiting)) co_return Status::ok();
  if (context.is_cancelled()) co_return cancelled("the client has gone before the container had ended");
  co_return deadline_exceeded("container " + container->record.id() +
                              " was killed, but has not ended within a minute: a process of it hangs in the kernel");
}

Task<Status> Containers::signal(std::shared_ptr<Container> container, int number) {
  Result<RuntimeStub> runtime = engine_.providers().runtime(container->record.runtime());
  if (!runtime) co_return runtime.status();
  runtime_api::SignalContainerRequest request;
  request.set_container_id(container->record.id());
  request.set_signal(number);
  CallOptions options;
  options.timeout = kBackendTimeout;
  auto signalling = runtime->SignalContainer(request, std::move(options));
  Result<runtime_api::SignalContainerResponse> signalled = co_await signalling;
  co_return signalled.status();
}

Task<Status> Containers::kill_quietly(std::shared_ptr<Container> container) {
  Task<Status> killing = signal(container, SIGKILL);
  const Status killed = co_await std::move(killing);
  const bool nothing_there = killed.code() == Code::not_found || killed.code() == Code::failed_precondition;
  co_return nothing_there ? Status::ok() : killed;
}

Task<bool> Containers::wait_for_exit(CallContext context, std::shared_ptr<Container> container,
                                     std::chrono::nanoseconds time) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  for (;;) {
    if (container->gone || !container->may_run()) co_return true;
    if (context.is_cancelled()) co_return false;
    const std::chrono::nanoseconds left = deadline - std::chrono::steady_clock::now();
    if (left.count() <= 0) co_return false;
    Task<bool> waiting = container->changed.wait(std::min(left, kLookAgain));
    const bool told = co_await std::move(waiting);
    if (told) continue;
    Task<Status> looking = look_again(container);
    (void)co_await std::move(looking);
  }
}

Task<Status> Containers::look_again(std::shared_ptr<Container> container) {
  Result<RuntimeStub> runtime = engine_.providers().runtime(container->record.runtime());
  if (!runtime) co_return runtime.status();
  runtime_api::ListContainersRequest request;
  request.set_container_id(container->record.id());
  CallOptions options;
  options.timeout = kBackendTimeout;
  auto listing = runtime->ListContainers(request, std::move(options));
  Result<runtime_api::ListContainersResponse> listed = co_await listing;
  if (!listed) co_return listed.status();
  for (const runtime_api::Container& seen : listed->containers()) engine_.observe(seen);
  if (listed->containers().empty())
    exited(container, now_ns(), kUnknownExitCode, "Unknown", "the runtime does not know the container any more");
  co_return Status::ok();
}

void Containers::exited(std::shared_ptr<Container> container, int64_t finished_at, int32_t exit_code,
                        std::string reason, std::string message) {
  if (container->state() == api::CONTAINER_EXITED) return;
  ContainerRecord& record = container->record;
  record.set_exited(true);
  record.set_finished_at(finished_at);
  record.set_exit_code(exit_code);
  record.set_reason(std::move(reason));
  record.set_message(std::move(message));
  container->pid = 0;
  container->summary.set_state(api::CONTAINER_EXITED);
  container->changed.notify_all();
  engine_.publish(record.id(), api::CONTAINER_STOPPED_EVENT, *container->sandbox);
  engine_.background("keep the exit of container " + record.id(), keep_exit(std::move(container)));
}

Task<Status> Containers::keep_exit(std::shared_ptr<Container> container) {
  const Mutex::Lock lock = co_await container->mutex.lock();
  if (container->gone || container->record.phase() != PHASE_READY) co_return Status::ok();
  Task<Status> saving = save(container, Durability::cached);
  co_return co_await std::move(saving);
}

Task<Status> Containers::remove(CallContext, std::shared_ptr<Container> container) {
  const Mutex::Lock lock = co_await container->mutex.lock();
  if (container->gone) co_return Status::ok();
  container->record.set_phase(PHASE_REMOVING);
  Task<Status> saving = save(container, Durability::cached);
  if (Status saved = co_await std::move(saving); !saved) {
    engine_.host().warn("the removal of a container could not be noted",
                        {{"container", container->record.id()}, {"why", saved.message()}});
  }
  Task<Status> taking_down = take_down(container);
  co_return co_await std::move(taking_down);
}

Task<Status> Containers::take_down(std::shared_ptr<Container> container) {
  ContainerRecord& record = container->record;
  record.set_phase(PHASE_REMOVING);
  Result<RuntimeStub> runtime = engine_.providers().runtime(record.runtime());
  if (!runtime) {
    engine_.wake_janitor();
    co_return runtime.status();
  }
  runtime_api::RemoveContainerRequest request;
  request.set_container_id(record.id());
  CallOptions options;
  options.timeout = kKillTimeout;
  auto removing = runtime->RemoveContainer(request, std::move(options));
  Result<runtime_api::RemoveContainerResponse> removed = co_await removing;
  if (!removed && removed.status().code() != Code::not_found) {
    engine_.wake_janitor();
    co_return removed.status().with_context("remove container " + record.id());
  }
  auto forget = [records = &engine_.container_records(), id = record.id()] {
    Status forgotten = records->remove(id);
    records->empty_trash();
    return forgotten;
  };
  Task<Status> forgetting = engine_.host().blocking(std::move(forget));
  if (Status forgotten = co_await std::move(forgetting); !forgotten) co_return forgotten;
  const bool was_running = container->may_run();
  container->gone = true;
  container->summary.set_state(api::CONTAINER_EXITED);
  container->pid = 0;
  container->sandbox->containers.erase(record.id());
  engine_.container_index().erase(record.id());
  container->changed.notify_all();
  if (was_running) engine_.publish(record.id(), api::CONTAINER_STOPPED_EVENT, *container->sandbox);
  engine_.publish(record.id(), api::CONTAINER_DELETED_EVENT, *container->sandbox);
  co_return Status::ok();
}

// ---- While it runs ------------------------------------------------------------------------------------------------

Task<Status> Containers::update(CallContext context, std::shared_ptr<Container> container,
                                const api::LinuxContainerResources& resources,
                                const google::protobuf::Map<std::string, std::string>& annotations) {
  const Mutex::Lock lock = co_await container->mutex.lock();
  if (container->gone || container->state() == api::CONTAINER_EXITED) {
    co_return failed_precondition("container " + container->record.id() +
                                  " has ended: its resources cannot be changed");
  }
  Result<RuntimeStub> runtime = engine_.providers().runtime(container->record.runtime());
  if (!runtime) co_return runtime.status();
  runtime_api::UpdateResourcesRequest request;
  request.set_container_id(container->record.id());
  *request.mutable_resources() = resources;
  CallOptions options;
  options.timeout = context.at_most(kBackendTimeout);
  auto updating = runtime->UpdateResources(request, std::move(options));
  Result<runtime_api::UpdateResourcesResponse> updated = co_await updating;
  if (!updated) co_return updated.status();
  // A field that is not set stays as it was.
  container->record.mutable_config()->mutable_linux()->mutable_resources()->MergeFrom(resources);
  for (const auto& [key, value] : annotations)
    (*container->record.mutable_config()->mutable_annotations())[key] = value;
  Task<Status> saving = save(container, Durability::synced);
  co_return co_await std::move(saving);
}

Task<Status> Containers::reopen_log(CallContext context, std::shared_ptr<Container> container) {
  if (container->state() != api::CONTAINER_RUNNING)
    co_return failed_precondition("container " + container->record.id() + " does not run");
  Result<RuntimeStub> runtime = engine_.providers().runtime(container->record.runtime());
  if (!runtime) co_return runtime.status();
  runtime_api::ReopenLogRequest request;
  request.set_container_id(container->record.id());
  CallOptions options;
  options.timeout = context.at_most(kBackendTimeout);
  auto reopening = runtime->ReopenLog(request, std::move(options));
  Result<runtime_api::ReopenLogResponse> reopened = co_await reopening;
  co_return reopened.status();
}

Task<std::vector<api::ContainerStats>> Containers::stats(CallContext context,
                                                         std::function<bool(const Container&)> wanted) {
  std::vector<api::ContainerStats> result;
  const std::vector<Binding> bindings = engine_.providers().runtimes();
  for (const Binding& binding : bindings) {
    const RuntimeStub runtime(engine_.host(), binding);
    runtime_api::StatsRequest request;
    CallOptions options;
    options.timeout = context.at_most(kBackendTimeout);
    auto asking = runtime.Stats(request, std::move(options));
    Result<runtime_api::StatsResponse> answer = co_await asking;
    if (!answer) continue;
    for (api::ContainerStats& stats : *answer->mutable_containers()) {
      const std::shared_ptr<Container> container = engine_.container_index().get(stats.attributes().id());
      if (!container || !wanted(*container)) continue;
      *stats.mutable_attributes()->mutable_metadata() = container->record.config().metadata();
      *stats.mutable_attributes()->mutable_labels() = container->record.config().labels();
      *stats.mutable_attributes()->mutable_annotations() = container->record.config().annotations();
      result.push_back(std::move(stats));
    }
  }
  co_return result;
}

Task<Status> Containers::save(std::shared_ptr<Container> container, Durability durability) {
  if (container->gone) co_return Status::ok();
  auto write = [records = &engine_.container_records(), id = container->record.id(),
                bytes = container->record.SerializeAsString(),
                durability] { return records->write(id, bytes, durability); };
  Task<Status> writing = engine_.host().blocking(std::move(write));
  co_return co_await std::move(writing);
}

// ---- Showing ------------------------------------------------------------------------------------------------------

void Containers::summarize(Container& container) {
  const ContainerRecord& record = container.record;
  api::Container& summary = container.summary;
  if (summary.id().empty()) {
    summary.set_id(record.id());
    summary.set_pod_sandbox_id(record.sandbox_id());
    *summary.mutable_metadata() = record.config().metadata();
    *summary.mutable_image() = record.config().image();
    summary.set_created_at(record.created_at());
    *summary.mutable_labels() = record.config().labels();
    *summary.mutable_annotations() = record.config().annotations();
    summary.set_state(record.exited() ? api::CONTAINER_EXITED : api::CONTAINER_CREATED);
  }
  summary.set_image_ref(record.image_ref());
  summary.set_image_id(record.image_id());
}

api::ContainerStatus Containers::status(const Container& container) const {
  const ContainerRecord& record = container.record;
  const api::ContainerConfig& config = record.config();
  api::ContainerStatus status;
  status.set_id(record.id());
  *status.mutable_metadata() = config.metadata();
  status.set_state(container.state());
  status.set_created_at(record.created_at());
  status.set_started_at(record.started_at());
  if (container.state() == api::CONTAINER_EXITED) {
    status.set_finished_at(record.finished_at());
    status.set_exit_code(record.exit_code());
    status.set_reason(record.reason());
    status.set_message(record.message());
  }
  *status.mutable_image() = config.image();
  status.set_image_ref(record.image_ref());
  status.set_image_id(record.image_id());
  *status.mutable_labels() = config.labels();
  *status.mutable_annotations() = config.annotations();
  *status.mutable_mounts() = config.mounts();
  status.set_log_path(record.log_path());
  if (config.linux().has_resources()) *status.mutable_resources()->mutable_linux() = config.linux().resources();
  status.set_stop_signal(config.stop_signal());
  return status;
}

std::string Containers::verbose_info(const Container& container) const {
  const ContainerRecord& record = container.record;
  const api::ContainerConfig& config = record.config();
  boost::json::array command, arguments, variables;
  for (const std::string& word : config.command()) command.emplace_back(word);
  for (const std::string& word : config.args()) arguments.emplace_back(word);
  // Names only: values may be secrets.
  for (const api::KeyValue& variable : config.envs()) variables.emplace_back(variable.key());
  const boost::json::object info = {
      {"sandboxID", record.sandbox_id()},
      {"pid", container.pid},
      {"monitorPid", container.monitor_pid},
      {"removing", record.phase() == PHASE_REMOVING},
      {"runtime", record.runtime()},
      {"runtimeHandler", container.sandbox->record.runtime_handler()},
      {"imageID", record.image_id()},
      {"logPath", record.log_path()},
      {"config",
       {{"command", std::move(command)},
        {"args", std::move(arguments)},
        {"workingDir", config.working_dir()},
        {"environment", std::move(variables)},
        {"tty", config.tty()},
        {"stdin", config.stdin()}}},
  };
  return boost::json::serialize(info);
}

}  // namespace pintle::cri
