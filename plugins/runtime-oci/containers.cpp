#include "plugins/runtime-oci/containers.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <chrono>

#include "cri/oci/spec.hpp"
#include "plugins/runtime-oci/apparmor_loader.hpp"
#include "plugins/runtime-oci/monitor.hpp"
#include "plugins/runtime-oci/placement.hpp"

namespace pintle::runtime_oci {

using namespace std::chrono_literals;

namespace {

constexpr std::chrono::nanoseconds kCreatePatience = 110s;  // below what clients wait for a container
constexpr std::chrono::nanoseconds kEndPatience = 10s;      // after SIGKILL
constexpr std::chrono::nanoseconds kLongestExit = 2s;       // of the OCI runtime behind a command that was killed
constexpr std::chrono::nanoseconds kMovesWithin = 100ms;    // runc's, on a machine that is not busy
constexpr std::chrono::nanoseconds kAttachLockStaysOpen = 4ms;
constexpr std::chrono::nanoseconds kUsageAge = 10s;
// Most ended containers are removed at once, which releases them as well.
constexpr std::chrono::nanoseconds kReleaseDelay = 2s;

UniqueFd open_pidfd(int pid) { return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

std::string text_of(int memory) {
  std::string text(4096, '\0');
  const ssize_t count = pread(memory, text.data(), text.size(), 0);
  text.resize(count > 0 ? static_cast<size_t>(count) : 0);
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

int exit_code_of(int wait_status) {
  return WIFEXITED(wait_status)     ? WEXITSTATUS(wait_status)
         : WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status)
                                    : 255;
}

}  // namespace

struct Containers::Entry {
  explicit Entry(Host& host)
      : turnstile(host), ended(std::make_shared<Moment>(host)), monitor_ended(std::make_shared<Moment>(host)) {}
  ContainerRecord record;
  Turnstile turnstile;
  std::shared_ptr<Moment> ended;          ///< phase `exited` is reached
  std::shared_ptr<Moment> monitor_ended;  ///< or there is none
  UniqueFd monitor_fd, process_fd;
  Watch monitor_watch, process_watch;
  Timer release_timer;
  bool gone = false;  ///< removed while somebody waited for it
  // The last statistics, from which the next are computed.
  cgroup::Stats last;
  files::Usage usage;
  std::chrono::steady_clock::time_point usage_time{};
};

Containers::Containers(Host& host, std::shared_ptr<const Node> node, std::shared_ptr<images::Store> store)
    : host_(host), node_(std::move(node)), store_(std::move(store)), retiring_(host.is_retiring()) {
  count_ = host.gauge("runtime_containers", "Containers that this instance owns.");
  created_ = host.counter("runtime_containers_created_total", "Containers that were created.");
  failed_ = host.counter("runtime_create_failures_total", "Containers that could not be created.");
  out_of_memory_ =
      host.counter("runtime_out_of_memory_total", "Containers that ended because their memory was used up.");
  create_seconds_ = host.histogram("runtime_create_seconds", "From a request to the created container.",
                                   {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5});
}

Result<Containers::EntryPointer> Containers::find(const std::string& id) const {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second->record.phase == Phase::creating) {
    return not_found("container '" + id.substr(0, 100) + "' is not one of this runtime");
  }
  return found->second;
}

void Containers::remark_once(const std::string& text) {
  if (remarked_.insert(text).second) host_.warn(text);
}

bool Containers::has_sandbox(const std::string& id) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const auto& entry) { return entry.second->record.sandbox_id == id; });
}

bool Containers::has_others_in(const std::string& cgroup, const std::string& sandbox_id) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const auto& entry) {
    return entry.second->record.sandbox_id != sandbox_id && entry.second->record.cgroup.starts_with(cgroup + "/");
  });
}

void Containers::retire() {
  retiring_ = true;
  if (entries_.empty()) host_.retired();
}

void Containers::publish(const Entry& entry) {
  runtime::v1::Event event;
  *event.mutable_container() = describe(entry);
  events_.publish(event);
}

void Containers::forget(const EntryPointer& entry) {
  entry->gone = true;
  entry->monitor_watch = {};
  entry->process_watch = {};
  entry->release_timer = {};
  entries_.erase(entry->record.id);
  count_.set(static_cast<double>(entries_.size()));
  if (retiring_ && entries_.empty()) host_.retired();
}

runtime::v1::Container Containers::describe(const Entry& entry) {
  const ContainerRecord& record = entry.record;
  runtime::v1::Container container;
  container.set_id(record.id);
  container.set_sandbox_id(record.sandbox_id);
  container.set_created_at(record.created_at);
  container.set_started_at(record.started_at);
  container.set_message(record.message);
  const bool monitored = record.phase != Phase::exited && !entry.monitor_ended->has_come();
  container.set_monitor_pid(monitored ? record.monitor.pid : 0);
  switch (record.phase) {
    case Phase::creating:
    case Phase::removing:
      container.set_state(runtime::v1::CONTAINER_STATE_UNKNOWN);
      break;
    case Phase::created:
      container.set_state(runtime::v1::CONTAINER_STATE_CREATED);
      break;
    case Phase::started:
      container.set_state(runtime::v1::CONTAINER_STATE_RUNNING);
      container.set_pid(record.process.pid);
      break;
    case Phase::exited:
      container.set_state(runtime::v1::CONTAINER_STATE_EXITED);
      container.set_finished_at(record.finished_at);
      container.set_exit_code(record.exit_code);
      container.set_out_of_memory(record.out_of_memory);
      break;
  }
  return container;
}

runtime::v1::ListContainersResponse Containers::list(const std::string& id) const {
  runtime::v1::ListContainersResponse response;
  for (const auto& [key, entry] : entries_) {
    if ((id.empty() || id == key) && entry->record.phase != Phase::creating)
      *response.add_containers() = describe(*entry);
  }
  return response;
}

// ---- Create and start ------------------------------------------------------------------------------------------------------

Task<Result<runtime::v1::CreateContainerResponse>> Containers::create(
    Call& call, const runtime::v1::CreateContainerRequest& request) {
  const std::string id = request.container_id();
  if (!is_container_id(id))
    co_return invalid_argument("container id '" + id.substr(0, 100) + "' has to be 64 lowercase hexadecimal digits");
  // A container that ended is started anew as another one: its pod stays with the runtime that has the others.
  if (retiring_ && !has_sandbox(request.sandbox().id()))
    co_return unavailable("this runtime instance is retiring and takes no containers of new pods");
  if (entries_.count(id)) co_return already_exists("container " + id + " exists already");
  const auto begin = std::chrono::steady_clock::now();
  const EntryPointer entry = std::make_shared<Entry>(host_);
  entry->record.id = id;
  entries_[id] = entry;
  Turnstile::Pass pass = co_await entry->turnstile.enter();
  expect_moves();

  Task<void> confining = keep_default_profile(host_, node_);
  co_await std::move(confining);
  const auto work = [node = node_, store = store_, request = &request] { return prepare(*node, *store, *request); };
  Task<Result<Prepared>> preparing = host_.blocking(work);
  Result<Prepared> prepared = co_await std::move(preparing);
  if (!prepared) {
    failed_.add();
    forget(entry);
    co_return prepared.status();
  }
  for (const std::string& remark : prepared->remarks) remark_once(remark);
  entry->record = prepared->record;

  const std::chrono::nanoseconds patience = std::min(call.remaining().value_or(kCreatePatience), kCreatePatience);
  Task<Status> running = run_monitor(entry, *prepared, patience);
  Status status = co_await std::move(running);
  if (!status) {
    failed_.add();
    Task<Status> undoing = dismantle_entry(entry);
    const Status undone = co_await std::move(undoing);
    if (!undone)
      host_.error("a container that could not be created was not removed completely",
                  {{"container", id}, {"error", undone.message()}});
    co_return status;
  }
  created_.add();
  count_.set(static_cast<double>(entries_.size()));
  create_seconds_.observe(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  publish(*entry);
  co_return runtime::v1::CreateContainerResponse();
}

Task<Status> Containers::run_monitor(EntryPointer entry, const Prepared& prepared, std::chrono::nanoseconds patience) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) co_return status_from_errno(errno, "make the monitor's pipe");
  UniqueFd reading(ends[0]), writing(ends[1]);
  // What the monitor says before it listens to its pipe, such as an option that it does not know.
  UniqueFd complaints(memfd_create("conmon", MFD_CLOEXEC));
  Command command = monitor_command(*node_, prepared);
  command.descriptors = {-1, -1, complaints.get(), writing.get()};
  Result<Process> monitor = host_.spawn(command);
  if (!monitor && monitor.status().code() == Code::not_found) {
    // Another instance that stopped has just discarded the monitors' cgroup, which was empty.
    const auto make = [node = node_] { return make_monitors_place(*node); };
    Task<Status> making = host_.blocking(make);
    if (Status made = co_await std::move(making); !made) co_return made;
    monitor = host_.spawn(command);
  }
  if (!monitor) co_return monitor.status().with_context("start the container's monitor");
  writing.reset();
  entry->record.monitor.pid = monitor->pid();
  if (auto start = start_time_of(monitor->pid())) entry->record.monitor.start_time = *start;
  entry->monitor_fd = UniqueFd(fcntl(monitor->pidfd(), F_DUPFD_CLOEXEC, 0));
  watch_monitor(entry);

  const auto told = std::make_shared<Moment>(host_);
  {
    Result<Watch> watch = host_.watch(reading.get(), POLLIN, [told](uint32_t) { told->set(); });
    if (!watch) co_return watch.status();
    Task<void> waiting = wait_at_most(host_, told, patience);
    co_await std::move(waiting);
  }
  if (!told->has_come()) co_return deadline_exceeded("the OCI runtime did not create the container in time");
  std::string line(32768, '\0');
  const ssize_t count = read(reading.get(), line.data(), line.size());
  line.resize(count > 0 ? static_cast<size_t>(count) : 0);
  if (line.empty()) line = text_of(complaints.get());
  Result<int> pid = parse_sync(line);
  if (!pid) co_return pid.status().with_context("create the container");

  ContainerRecord& record = entry->record;
  record.process.pid = *pid;
  if (auto start = start_time_of(*pid)) record.process.start_time = *start;
  record.phase = Phase::created;
  record.created_at = now();
  const auto work = [node = node_, record, limits = prepared.limits] {
    const Status finished = finish_scope(*node, record, limits);
    return finished ? save(*node, record, true) : finished;
  };
  Task<Status> saving = host_.blocking(work);
  Status saved = co_await std::move(saving);
  // It may have ended before there was a record to put its end in.
  if (saved && !is_alive(record.process)) host_.detach(settle(entry, false));
  co_return saved;
}

/// runc writes the first process's PID into a cgroup of each hierarchy, systemd does with a scope's. The grace period that this costs
/// passes while they start.
void Containers::expect_moves() {
  if (node_->programs.kind == RuntimeKind::crun && node_->driver == CgroupDriver::cgroupfs) return;
  moves_until_ = std::chrono::steady_clock::now() + kMovesWithin;
  if (!std::exchange(attach_lock_is_kept_, true)) host_.detach(keep_attach_lock_open());
}

Task<void> Containers::keep_attach_lock_open() {
  const auto open = [node = node_] { return node->cgroups.open_attach_lock(); };
  while (std::chrono::steady_clock::now() < moves_until_) {
    Task<Status> opening = host_.blocking(open);
    // The lock is taken even where the kernel then refuses the move, as that of a process in a cgroup with others below it.
    (void)co_await std::move(opening);
    co_await host_.sleep(kAttachLockStaysOpen);
  }
  attach_lock_is_kept_ = false;
}

Task<Status> Containers::run_runtime(EntryPointer entry, std::vector<std::string> arguments) {
  UniqueFd complaints(memfd_create("runtime", MFD_CLOEXEC));
  Command command;
  command.program = node_->programs.runtime;
  command.arguments = runtime_arguments(*node_, entry->record, std::move(arguments));
  command.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  command.descriptors = {-1, -1, complaints.get()};
  Result<Process> process = host_.spawn(command);
  if (!process) co_return process.status();
  const int status = co_await process->exited();
  if (status == 0) co_return Status::ok();
  co_return internal_error(node_->programs.runtime_name + ": " + text_of(complaints.get()));
}

Task<Result<runtime::v1::StartContainerResponse>> Containers::start(const std::string& id) {
  Result<EntryPointer> found = find(id);
  if (!found) co_return found.status();
  const EntryPointer entry = *found;
  Turnstile::Pass pass = co_await entry->turnstile.enter();
  ContainerRecord& record = entry->record;
  if (entry->gone) co_return not_found("container " + id + " was removed");
  if (record.phase != Phase::created) {
    co_return failed_precondition(
        "container " + id +
        (record.phase == Phase::started ? " is running already" : " has ended; create another one"));
  }
  const auto release = [node = node_, record] { return release_start(*node, record); };
  Task<Status> releasing = host_.blocking(release);
  Status status = co_await std::move(releasing);
  if (status.code() == Code::failed_precondition) {
    std::vector<std::string> arguments = {"start", id};
    Task<Status> starting = run_runtime(entry, std::move(arguments));
    status = co_await std::move(starting);
  }
  if (!status) co_return status.with_context("start container " + id);
  record.phase = Phase::started;
  record.started_at = now();
  const auto work = [node = node_, record] { return save(*node, record, false); };
  Task<Status> saving = host_.blocking(work);
  status = co_await std::move(saving);
  // It runs all the same: the record on disk lags behind, and recovery tells a created from a running one only by it.
  if (!status)
    host_.error("a container's record could not be written", {{"container", id}, {"error", status.message()}});
  publish(*entry);
  runtime::v1::StartContainerResponse response;
  response.set_pid(record.process.pid);
  response.set_started_at(record.started_at);
  co_return response;
}

// ---- The end ---------------------------------------------------------------------------------------------------------------

Status Containers::watch_exits() {
  exits_ = UniqueFd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!exits_) return status_from_errno(errno, "make an inotify descriptor");
  if (Status made = make_exits(); !made) return made;
  Result<Watch> watch = host_.watch(exits_.get(), POLLIN, [this](uint32_t) {
    alignas(inotify_event) char buffer[16384];
    for (;;) {
      const ssize_t count = read(exits_.get(), buffer, sizeof buffer);
      if (count <= 0) break;
      for (ssize_t at = 0; at < count;) {
        const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
        at += static_cast<ssize_t>(sizeof *event + event->len);
        if (event->mask & IN_IGNORED) {
          // Somebody emptied the run folder: what ends from now on is told again.
          if (Status made = make_exits(); !made) host_.error("exit codes will be lost", {{"error", made.message()}});
        } else if (event->mask & IN_Q_OVERFLOW) {
          for (const auto& [id, entry] : entries_) host_.detach(settle(entry, false));
        } else if (event->len) {
          if (const auto found = entries_.find(std::string_view(event->name)); found != entries_.end())
            host_.detach(settle(found->second, false));
        }
      }
    }
  });
  if (!watch) return watch.status();
  exits_watch_ = std::move(*watch);
  return {};
}

Status Containers::make_exits() {
  const std::string& folder = node_->folders.exits;
  if (Status made = files::make_folders(folder); !made) return made;
  if (inotify_add_watch(exits_.get(), folder.c_str(), IN_MOVED_TO | IN_CLOSE_WRITE | IN_ONLYDIR) < 0)
    return status_from_errno(errno, "watch " + folder);
  return {};
}

void Containers::watch_monitor(const EntryPointer& entry) {
  if (!entry->monitor_fd) {
    entry->monitor_ended->set();
    return;
  }
  const std::weak_ptr<Entry> weak = entry;
  Result<Watch> watch = host_.watch(entry->monitor_fd.get(), POLLIN, [this, weak](uint32_t) {
    const EntryPointer strong = weak.lock();
    if (!strong || strong->monitor_ended->has_come()) return;
    strong->monitor_ended->set();
    // Not here: a watch must not destroy itself while its function runs.
    host_.post([this, strong] {
      strong->monitor_watch = {};
      host_.detach(settle(strong, true));
    });
  });
  if (watch) entry->monitor_watch = std::move(*watch);
}

void Containers::watch_process(const EntryPointer& entry) {
  entry->process_fd = open_pidfd(entry->record.process.pid);
  const std::weak_ptr<Entry> weak = entry;
  if (entry->process_fd && is_alive(entry->record.process)) {
    Result<Watch> watch = host_.watch(entry->process_fd.get(), POLLIN, [this, weak](uint32_t) {
      const EntryPointer strong = weak.lock();
      if (!strong) return;
      host_.post([this, strong] {
        strong->process_watch = {};
        host_.detach(settle(strong, true));
      });
    });
    if (watch) {
      entry->process_watch = std::move(*watch);
      return;
    }
  }
  host_.detach(settle(entry, true));
}

Task<void> Containers::settle(EntryPointer entry, bool monitor_ended) {
  Turnstile::Pass pass = co_await entry->turnstile.enter();
  if (entry->gone || (entry->record.phase != Phase::created && entry->record.phase != Phase::started)) co_return;
  const auto work = [node = node_, record = entry->record]() -> std::pair<bool, ContainerRecord> {
    ContainerRecord changed = record;
    auto exit = read_exit(*node, record.id);
    if (!exit || !*exit) return {false, changed};
    apply_exit(*node, changed, **exit);
    if (changed.shares_processes) (void)node->cgroups.kill(changed.cgroup);
    return {true, changed};
  };
  Task<std::pair<bool, ContainerRecord>> looking = host_.blocking(work);
  std::pair<bool, ContainerRecord> outcome = co_await std::move(looking);
  if (!outcome.first) {
    if (!monitor_ended) co_return;
    if (is_alive(entry->record.process)) {
      if (!entry->process_fd) {
        entry->record.message = "its monitor is gone: what it writes is lost, and its exit code will not be known";
        host_.warn("the monitor of a running container is gone", {{"container", entry->record.id}});
        publish(*entry);
        watch_process(entry);
      }
      co_return;
    }
    outcome.second.phase = Phase::exited;
    outcome.second.exit_code = 137;
    outcome.second.finished_at = now();
    outcome.second.message = "it ended while nobody watched: its monitor was gone";
    const auto record = outcome.second;
    const auto saving_work = [node = node_, record] { return save(*node, record, false); };
    Task<Status> saving = host_.blocking(saving_work);
    (void)co_await std::move(saving);
  }
  entry->record = std::move(outcome.second);
  entry->process_watch = {};
  if (entry->record.out_of_memory) {
    out_of_memory_.add();
    note_kill_beside(*entry);
  }
  entry->ended->set();
  publish(*entry);
  release_later(entry);
}

void Containers::release_later(const EntryPointer& entry) {
  const std::weak_ptr<Entry> weak = entry;
  entry->release_timer = host_.timer(kReleaseDelay, [this, weak] {
    if (const EntryPointer strong = weak.lock()) host_.detach(release(strong));
  });
}

Task<void> Containers::release(EntryPointer entry) {
  Turnstile::Pass pass = co_await entry->turnstile.enter();
  if (entry->gone) co_return;
  const auto work = [node = node_, record = entry->record] { return release_ended(*node, record); };
  Task<Status> releasing = host_.blocking(work);
  const Status status = co_await std::move(releasing);
  if (!status)
    host_.warn("an ended container keeps what it no longer needs until it is removed",
               {{"container", entry->record.id}, {"error", status.message()}});
}

/// A kill that has been told counts for no other container of the pod any more.
void Containers::note_kill_beside(const Entry& killed) {
  if (killed.record.scope.empty()) return;
  const uint64_t kills = out_of_memory_kills_beside(*node_, killed.record);
  for (const auto& [id, entry] : entries_) {
    if (entry->record.sandbox_id == killed.record.sandbox_id) entry->record.kills_beside_before = kills;
  }
}

Result<runtime::v1::SignalContainerResponse> Containers::signal(const std::string& id, int number) {
  Result<EntryPointer> found = find(id);
  if (!found) return found.status();
  const ContainerRecord& record = (*found)->record;
  if (number < 0 || number > 64) return invalid_argument("signal " + std::to_string(number) + " is none of Linux's");
  if (record.phase != Phase::started && record.phase != Phase::created) return runtime::v1::SignalContainerResponse();
  const UniqueFd handle = open_pidfd(record.process.pid);
  if (!handle || !is_alive(record.process)) return runtime::v1::SignalContainerResponse();
  if (syscall(SYS_pidfd_send_signal, handle.get(), number ? number : record.stop_signal, nullptr, 0) != 0 &&
      errno != ESRCH) {
    return status_from_errno(errno, "signal container " + id);
  }
  return runtime::v1::SignalContainerResponse();
}

Task<Result<runtime::v1::RemoveContainerResponse>> Containers::remove(const std::string& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) co_return runtime::v1::RemoveContainerResponse();
  const EntryPointer entry = found->second;
  {
    // Let what is under way end first: a container that is being created has no process to kill yet.
    Turnstile::Pass pass = co_await entry->turnstile.enter();
    if (entry->gone) co_return runtime::v1::RemoveContainerResponse();
  }
  if (entry->record.phase == Phase::created || entry->record.phase == Phase::started) {
    (void)signal(id, SIGKILL);
    // The monitor writes the last lines of the log, then the exit file, then ends.
    Task<void> waiting = wait_at_most(host_, entry->monitor_ended, kEndPatience);
    co_await std::move(waiting);
  }
  Turnstile::Pass pass = co_await entry->turnstile.enter();
  if (entry->gone) co_return runtime::v1::RemoveContainerResponse();
  Task<Status> removing = dismantle_entry(entry);
  Status status = co_await std::move(removing);
  if (!status) co_return status;
  co_return runtime::v1::RemoveContainerResponse();
}

Task<Status> Containers::dismantle_entry(EntryPointer entry) {
  const auto work = [node = node_, store = store_, record = entry->record] { return dismantle(*node, *store, record); };
  Task<Status> removing = host_.blocking(work);
  Status status = co_await std::move(removing);
  if (!status) {
    entry->record.phase = Phase::removing;
    entry->record.message = status.message();
    co_return status;
  }
  forget(entry);
  empty_trash_later();
  co_return status;
}

void Containers::empty_trash_later() {
  trash_has_more_ = true;
  if (!trash_is_emptied_) host_.detach(empty_trash_now());
}

Task<void> Containers::empty_trash_now() {
  trash_is_emptied_ = true;
  while (std::exchange(trash_has_more_, false)) {
    const auto work = [node = node_, store = store_] {
      const Status containers = empty_trash(*node), images = store->empty_trash();
      return containers ? images : containers;
    };
    Task<Status> emptying = host_.blocking(work);
    const Status status = co_await std::move(emptying);
    if (!status) host_.warn("the trash could not be emptied", {{"error", status.message()}});
  }
  trash_is_emptied_ = false;
}

// ---- Recovery --------------------------------------------------------------------------------------------------------------

Task<Status> Containers::recover() {
  // Before anything is looked at, so that no end falls in between.
  if (Status status = watch_exits(); !status) co_return status;
  const auto work = [node = node_, store = store_]() -> Result<std::vector<Found>> {
    auto all = look(*node);
    if (!all) return all;
    std::vector<std::string> known;
    for (const Found& found : *all) {
      if (found.keep) known.push_back(found.record.id);
    }
    end_stray_programs(*node, known);
    for (Found& found : *all) {
      if (found.keep) {
        // Leases are not synced: after a power loss they are made again. An image that is gone meanwhile is no reason to lose the rest.
        if (auto again = store->lease(found.record.image_id, found.record.id, node->key); !again) {
          found.remark +=
              (found.remark.empty() ? "" : "; ") + ("container " + found.record.id + ": " + again.status().message());
        }
      } else if (Status status = dismantle(*node, *store, found.record); !status) {
        found.remark += (found.remark.empty() ? "" : "; ") + status.message();
        found.record.phase = Phase::removing;
        found.keep = true;
        known.push_back(found.record.id);
      }
    }
    if (Status status = sweep(*node, *store, known); !status) return status;
    return all;
  };
  Task<Result<std::vector<Found>>> looking = host_.blocking(work);
  Result<std::vector<Found>> all = co_await std::move(looking);
  if (!all) co_return all.status();
  for (Found& found : *all) {
    if (!found.remark.empty()) host_.warn(found.remark);
    if (!found.keep) continue;
    const EntryPointer entry = std::make_shared<Entry>(host_);
    entry->record = std::move(found.record);
    entries_[entry->record.id] = entry;
    if (entry->record.phase != Phase::created && entry->record.phase != Phase::started) {
      entry->monitor_ended->set();
      entry->ended->set();
      release_later(entry);
      continue;
    }
    entry->monitor_fd = open_pidfd(entry->record.monitor.pid);
    if (!is_alive(entry->record.monitor)) entry->monitor_fd.reset();
    watch_monitor(entry);
    if (!entry->monitor_fd) host_.detach(settle(entry, true));
    host_.detach(settle(entry, false));
  }
  count_.set(static_cast<double>(entries_.size()));
  host_.info("containers were taken over", {{"containers", std::to_string(entries_.size())}});
  empty_trash_later();
  if (retiring_ && entries_.empty()) host_.retired();
  co_return Status::ok();
}

// ---- Running containers ----------------------------------------------------------------------------------------------------

Task<Result<runtime::v1::ExecResponse>> Containers::exec(Call& call, const runtime::v1::ExecRequest& request) {
  Result<EntryPointer> found = find(request.container_id());
  if (!found) co_return found.status();
  const EntryPointer entry = *found;
  if (entry->record.phase != Phase::started)
    co_return failed_precondition("container " + request.container_id() + " is not running");
  if (request.command().empty()) co_return invalid_argument("no command to run");
  expect_moves();
  std::vector<std::string> environment;
  for (const auto& item : request.environment()) environment.push_back(item.key() + "=" + item.value());

  const auto work = [node = node_, id = entry->record.id, environment, request = &request]() -> Result<UniqueFd> {
    auto text = files::read_file(node->folders.container(id) + "/config.json");
    if (!text) return text.status();
    boost::json::error_code error;
    const boost::json::value spec = boost::json::parse(*text, error);
    if (error || !spec.is_object()) return data_loss("the spec of container " + id + " is damaged");
    const std::vector<std::string> command(request->command().begin(), request->command().end());
    const std::string process =
        boost::json::serialize(oci::make_exec_process(spec.get_object(), command, environment, request->tty()));
    UniqueFd memory(memfd_create("process", MFD_CLOEXEC));
    if (!memory) return status_from_errno(errno, "write the process document");
    if (Status status = files::write_all(memory.get(), process); !status) return status;
    return memory;
  };
  Task<Result<UniqueFd>> writing = host_.blocking(work);
  Result<UniqueFd> document = co_await std::move(writing);
  if (!document) co_return document.status();

  const std::string pid_file =
      node_->folders.run + "/exec-" + std::to_string(getpid()) + "-" + std::to_string(++exec_number_);
  Command command = exec_command(*node_, entry->record, request.tty(), pid_file);
  const std::vector<UniqueFd>& given = call.received().descriptors;
  for (size_t i = 0; i < 3; ++i)
    command.descriptors.push_back(request.tty()      ? (given.empty() ? -1 : given[0].get())
                                  : i < given.size() ? given[i].get()
                                                     : -1);
  command.descriptors.push_back(document->get());
  Result<Process> process = host_.spawn(command);
  if (!process) co_return process.status().with_context("run a command in container " + request.container_id());
  // The other ends see their end of file only once ours are closed.
  call.received().descriptors.clear();
  const UniqueFd runtime_handle(fcntl(process->pidfd(), F_DUPFD_CLOEXEC, 0));
  // The command is a child of the runtime's process, which takes it off the container's list of processes and ends by itself. It dies of
  // SIGKILL too, but does not pass that on, and the command would stay as a zombie until somebody else looks after it.
  const auto kill_command = [pid_file, cgroup = entry->record.cgroup] {
    const auto text = files::read_file(pid_file, 100);
    const int pid = text ? std::atoi(text->c_str()) : 0;
    if (pid <= 0) return false;
    const UniqueFd command_handle = open_pidfd(pid);
    const auto membership = files::read_file("/proc/" + std::to_string(pid) + "/cgroup", 65536);
    return command_handle && membership && membership->find(cgroup) != std::string::npos &&
           syscall(SYS_pidfd_send_signal, command_handle.get(), SIGKILL, nullptr, 0) == 0;
  };
  const auto kill_runtime = [handle = runtime_handle.get()] {
    syscall(SYS_pidfd_send_signal, handle, SIGKILL, nullptr, 0);
  };
  Timer insisting;
  call.on_cancel([&] {
    if (!kill_command()) kill_runtime();
    insisting = host_.timer(kLongestExit, [&] {
      kill_command();
      kill_runtime();
    });
  });
  const int status = co_await process->exited();
  call.on_cancel({});
  unlink(pid_file.c_str());
  runtime::v1::ExecResponse response;
  response.set_exit_code(exit_code_of(status));
  co_return response;
}

Task<Result<runtime::v1::UpdateResourcesResponse>> Containers::update(
    const runtime::v1::UpdateResourcesRequest& request) {
  Result<EntryPointer> found = find(request.container_id());
  if (!found) co_return found.status();
  const EntryPointer entry = *found;
  Turnstile::Pass pass = co_await entry->turnstile.enter();
  if (entry->gone || (entry->record.phase != Phase::created && entry->record.phase != Phase::started)) {
    co_return failed_precondition("container " + request.container_id() + " has ended");
  }
  const auto work = [node = node_, record = entry->record, limits = oci::limits_of(request.resources())] {
    return limit_container(*node, record, limits);
  };
  Task<Status> applying = host_.blocking(work);
  const Status status = co_await std::move(applying);
  if (!status) co_return status.with_context("update container " + request.container_id());
  co_return runtime::v1::UpdateResourcesResponse();
}

Task<Result<runtime::v1::StatsResponse>> Containers::stats(const std::string& id) {
  std::vector<EntryPointer> wanted;
  if (!id.empty()) {
    Result<EntryPointer> found = find(id);
    if (!found) co_return found.status();
    wanted.push_back(*found);
  } else {
    for (const auto& [key, entry] : entries_) wanted.push_back(entry);
  }
  struct Reading {
    EntryPointer entry;
    ContainerRecord record;
    bool measure = false;  ///< what it wrote over its image
    Result<cgroup::Stats> stats = not_found("");
    files::Usage usage{};
  };
  // Of all at once: a turn of a blocking lane for each container would cost more than what it reads.
  std::vector<Reading> readings;
  for (const EntryPointer& entry : wanted) {
    if (entry->record.phase != Phase::started && entry->record.phase != Phase::created) continue;
    readings.push_back({entry, entry->record, std::chrono::steady_clock::now() - entry->usage_time > kUsageAge});
  }
  auto read = [node = node_, readings = std::move(readings)]() mutable {
    for (Reading& one : readings) {
      if (one.measure)
        if (const auto folder = files::open_folder(node->folders.container(one.record.id)))
          one.usage = files::measure_tree(folder->get(), "upper");
      one.stats = node->cgroups.stats(one.record.cgroup);
    }
    return std::move(readings);
  };
  Task<std::vector<Reading>> reading = host_.blocking(std::move(read));
  const std::vector<Reading> done = co_await std::move(reading);
  runtime::v1::StatsResponse response;
  for (const Reading& one : done) {
    if (!one.stats) continue;  // it has ended meanwhile
    const EntryPointer& entry = one.entry;
    const cgroup::Stats& now_read = *one.stats;
    if (one.measure) {
      entry->usage = one.usage;
      entry->usage_time = std::chrono::steady_clock::now();
    }
    ::runtime::v1::ContainerStats& stats = *response.add_containers();
    const ContainerRecord& record = one.record;
    stats.mutable_attributes()->set_id(record.id);
    stats.mutable_attributes()->mutable_metadata()->set_name(record.name);
    stats.mutable_attributes()->mutable_metadata()->set_attempt(record.attempt);
    for (const auto& [key, value] : record.labels) (*stats.mutable_attributes()->mutable_labels())[key] = value;
    for (const auto& [key, value] : record.annotations)
      (*stats.mutable_attributes()->mutable_annotations())[key] = value;
    stats.mutable_cpu()->set_timestamp(now_read.time);
    stats.mutable_cpu()->mutable_usage_core_nano_seconds()->set_value(now_read.cpu_nanoseconds);
    const int64_t elapsed = now_read.time - entry->last.time;
    if (entry->last.time && elapsed > 0 && now_read.cpu_nanoseconds >= entry->last.cpu_nanoseconds) {
      const double cores =
          static_cast<double>(now_read.cpu_nanoseconds - entry->last.cpu_nanoseconds) / static_cast<double>(elapsed);
      stats.mutable_cpu()->mutable_usage_nano_cores()->set_value(static_cast<uint64_t>(cores * 1e9));
    }
    entry->last = now_read;
    auto& memory = *stats.mutable_memory();
    memory.set_timestamp(now_read.time);
    memory.mutable_usage_bytes()->set_value(now_read.memory_bytes);
    memory.mutable_working_set_bytes()->set_value(now_read.working_set_bytes);
    memory.mutable_rss_bytes()->set_value(now_read.anonymous_bytes);
    memory.mutable_page_faults()->set_value(now_read.page_faults);
    memory.mutable_major_page_faults()->set_value(now_read.major_page_faults);
    if (now_read.memory_limit > now_read.working_set_bytes) {
      memory.mutable_available_bytes()->set_value(now_read.memory_limit - now_read.working_set_bytes);
    }
    stats.mutable_swap()->set_timestamp(now_read.time);
    stats.mutable_swap()->mutable_swap_usage_bytes()->set_value(now_read.swap_bytes);
    if (now_read.swap_limit > now_read.swap_bytes) {
      stats.mutable_swap()->mutable_swap_available_bytes()->set_value(now_read.swap_limit - now_read.swap_bytes);
    }
    auto& layer = *stats.mutable_writable_layer();
    layer.set_timestamp(now_read.time);
    layer.mutable_fs_id()->set_mountpoint(node_->folders.containers);
    layer.mutable_used_bytes()->set_value(entry->usage.bytes);
    layer.mutable_inodes_used()->set_value(entry->usage.inodes);
  }
  co_return response;
}

Task<Result<runtime::v1::ReopenLogResponse>> Containers::reopen(const std::string& id) {
  Result<EntryPointer> found = find(id);
  if (!found) co_return found.status();
  const EntryPointer entry = *found;
  Turnstile::Pass pass = co_await entry->turnstile.enter();
  if (entry->gone || entry->record.phase == Phase::exited)
    co_return failed_precondition("container " + id + " has ended; its log is not written any more");
  const auto work = [node = node_, record = entry->record] { return reopen_log(*node, record); };
  Task<Status> reopening = host_.blocking(work);
  const Status status = co_await std::move(reopening);
  if (!status) co_return status;
  co_return runtime::v1::ReopenLogResponse();
}

}  // namespace pintle::runtime_oci
