#pragma once

/// The CRI engine: the one implementation of the Container Runtime Interface, over any runtime backend, image store and
/// pod network.
///
/// What it is. kubelet, crictl and our node agent speak CRI: sandboxes (pods), containers, images. A backend
/// (runtime-oci, runtime-containerd, ...) only knows how to create, start, signal and remove one container; a pod
/// network only how to give a network namespace its interface. All between these is here, once: names and their
/// reservation, namespaces, grace periods, image references, log places, states, errors, what survives a restart and
/// what is cleaned up after one.
///
///     kubelet, crictl --gRPC--> grpc_server --+
///                                             +--> service_runtime, service_image --> Sandboxes, Containers -->
///                                             Providers
///     node-agent ------- interface -----------+                                            |        |
///                                                                                       records  namespaces
///
/// Vocabulary. A *sandbox* is a pod's place to live: namespaces, network, cgroup, files in /etc. A *container* lives in
/// one sandbox. Both are named by ids of 64 hexadecimal digits (clients may shorten them while they stay unambiguous),
/// and by *names* made of their metadata, which are unique while the thing exists. A *backend* is a provider of
/// `pintle.runtime.v1.RuntimeBackend`; a *key*
/// ("runtime-oci@1") names a provider's instance over restarts. A *record* is what the engine keeps on disk
/// (records.hpp).
///
/// Life of a sandbox. The record exists before anything is made, so that an interruption at any point can be undone:
///
///     RunPodSandbox                 StopPodSandbox                RemovePodSandbox
///     creating ----------> ready --------------------> not ready -----------------> removing -> gone
///        |                   |  namespaces vanished         ^                          ^
///        |                   +------------------------------+                          |
///        +--- failed, cancelled, or found at start ------------------------------------+
///
/// Life of a container, as the backend tells it; the engine keeps the last word on what a client was told:
///
///     creating -> created -> running -> exited -> (removing) -> gone
///
/// A state never goes back. What a client was told is durable before it is told (one synced write a method).
///
/// Start. Records are compared with what backends list and networks hold: half-made things are undone, things without a
/// record are removed, the rest is adopted, with exits that happened meanwhile. Containers run on while the engine is
/// away.
///
/// Time and concurrency. Everything runs on the plugin's lane; file and mount work is handed to blocking threads. One
/// operation at a time changes a sandbox or a container (a mutex each; a sandbox' is taken before its containers'),
/// different pods go in parallel. Lists answer from memory. A client that goes away while a thing is being made gets it
/// undone.
///
/// Example, with what a client sends reduced to its core:
///
///     Engine engine(host, {.state_folder = ..., .run_folder = ...});
///     engine.set_bindings(runtimes, images, networks);
///     co_await engine.start();                                                  // adopts
///     Result<std::string> pod = co_await engine.sandboxes().run({}, request);   // "4f2a..."

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cri/coordination.hpp"
#include "cri/providers.hpp"
#include "cri/records.hpp"
#include "cri/schema.hpp"

namespace pintle::cri {

class Sandboxes;
class Containers;

/// Who waits for an operation, and how long. An empty context is the engine itself: it waits as long as it takes.
class CallContext {
 public:
  CallContext() = default;
  explicit CallContext(const Call& call) : call_(&call) {}
  bool is_cancelled() const { return call_ && call_->is_cancelled(); }
  /// `limit`, or less where the caller waits less long.
  std::chrono::nanoseconds at_most(std::chrono::nanoseconds limit) const;

 private:
  const Call* call_ = nullptr;
};

struct Sandbox {
  explicit Sandbox(Host& host) : mutex(host) {}
  SandboxRecord record;
  api::PodSandbox summary;           ///< its entry in lists
  std::set<std::string> containers;  ///< ids
  bool gone = false;                 ///< removed; no record may be written any more
  Mutex mutex;
};

struct Container {
  explicit Container(Host& host) : mutex(host), changed(host) {}
  ContainerRecord record;
  api::Container summary;  ///< its entry in lists, with the state
  std::shared_ptr<Sandbox> sandbox;
  int pid = 0;
  int monitor_pid = 0;
  int64_t made_at = 0;  ///< when its backend had created it; 0: before this start of the engine
  bool gone = false;
  Mutex mutex;
  Notification changed;  ///< its state, or that it is gone
  api::ContainerState state() const { return summary.state(); }
  /// Running, or perhaps running.
  bool may_run() const { return state() == api::CONTAINER_RUNNING || state() == api::CONTAINER_UNKNOWN; }
};

/// Objects by id, by unambiguous beginning of an id, and by reserved name.
template <class Object>
class Index {
 public:
  explicit Index(std::string_view kind) : kind_(kind) {}
  /// ALREADY_EXISTS if the name is held by another.
  Status insert(const std::string& name, const std::string& id, std::shared_ptr<Object> object) {
    const auto [held, inserted] = names_.emplace(name, id);
    if (!inserted) {
      return already_exists(kind_ + " name \"" + name + "\" is held by " + held->second +
                            ": remove that, or raise the attempt");
    }
    objects_.emplace(id, Entry{name, std::move(object)});
    return Status::ok();
  }
  void erase(const std::string& id) {
    const auto found = objects_.find(id);
    if (found == objects_.end()) return;
    names_.erase(found->second.name);
    objects_.erase(found);
  }
  /// NOT_FOUND; INVALID_ARGUMENT if several ids begin so.
  Result<std::shared_ptr<Object>> find(std::string_view id) const {
    if (id.empty()) return invalid_argument(kind_ + " id is empty");
    const auto first = objects_.lower_bound(id);
    if (first == objects_.end() || !first->first.starts_with(id))
      return not_found(kind_ + " \"" + std::string(id) + "\" not found");
    if (first->first != id) {
      const auto next = std::next(first);
      if (next != objects_.end() && next->first.starts_with(id)) {
        return invalid_argument(kind_ + " id \"" + std::string(id) + "\" is ambiguous: give more digits");
      }
    }
    return first->second.object;
  }
  std::shared_ptr<Object> get(std::string_view id) const {
    const auto found = objects_.find(id);
    return found == objects_.end() ? nullptr : found->second.object;
  }
  std::vector<std::shared_ptr<Object>> all() const {
    std::vector<std::shared_ptr<Object>> result;
    result.reserve(objects_.size());
    for (const auto& [id, entry] : objects_) result.push_back(entry.object);
    return result;
  }
  template <class F>
  void for_each(F&& function) const {
    for (const auto& [id, entry] : objects_) function(*entry.object);
  }
  size_t size() const { return objects_.size(); }

 private:
  struct Entry {
    std::string name;
    std::shared_ptr<Object> object;
  };
  std::string kind_;
  std::map<std::string, Entry, std::less<>> objects_;
  std::unordered_map<std::string, std::string> names_;
};

class Engine {
 public:
  struct Settings {
    std::string state_folder;  ///< durable; records and the pods' files
    std::string run_folder;    ///< may be emptied while nothing runs; the namespaces' pins
    Providers::Preferences preferences;
    uint64_t shm_bytes = 64u << 20;
    std::string pod_init;      ///< the program of process namespaces that pods share
    std::string process_root;  ///< the cgroup below which its processes live (process_namespaces.hpp)
  };
  Engine(Host& host, Settings settings);
  ~Engine();

  /// Tells who answers now. Before `start` only noted; afterwards new backends are listened to and compared with the
  /// records.
  void set_runtimes(const std::vector<Binding>& bindings);
  void set_images(const std::vector<Binding>& bindings) { providers_.set_images(bindings); }
  void set_networks(const std::vector<Binding>& bindings) { providers_.set_networks(bindings); }

  /// Opens the state and adopts. An error means that the state folder cannot be used; a backend that does not answer is
  /// tried again in the background.
  Task<Status> start();
  /// Lets go: no event is followed any more. What runs, runs on. Calls under way must have ended.
  Task<void> stop();

  Sandboxes& sandboxes() { return *sandboxes_; }
  Containers& containers() { return *containers_; }
  Providers& providers() { return providers_; }
  Host& host() { return host_; }
  const Settings& settings() const { return settings_; }
  bool is_stopping() const { return stopping_; }

  Index<Sandbox>& sandbox_index() { return sandbox_index_; }
  Index<Container>& container_index() { return container_index_; }
  const RecordStore& sandbox_records() const { return *sandbox_records_; }
  const RecordStore& container_records() const { return *container_records_; }

  /// Life-cycle events for clients (GetContainerEvents).
  Broadcast<api::ContainerEventResponse>& events() { return events_; }
  void publish(const std::string& id, api::ContainerEventType type, const Sandbox& sandbox);

  /// Asks every backend and network how it is; refreshes the conditions that `pintle status` shows.
  struct Health {
    bool runtime_ready = false, network_ready = false;
    std::string runtime_reason, runtime_message, network_reason, network_message;
  };
  Task<Health> health();

  /// Takes what a backend says of a container into account; false if it is not one of ours.
  bool observe(const runtime_api::Container& seen);

  /// Something could not be removed: it is tried again, less and less often.
  void wake_janitor() {
    janitor_wanted_ = true;
    janitor_wake_.notify_all();
  }

  /// Runs a coroutine in the background; `stop` waits for all of them. Takes the name for the log.
  void background(std::string what, Task<Status> task);

 private:
  struct Follower;  // one backend whose events are followed
  struct Stored;    // what was read from the state folder

  void adopt_records(Stored& stored);
  void follow(const Binding& binding);
  void unfollow(Follower& follower);
  Task<Status> follow_events(std::shared_ptr<Follower> follower);
  Task<Status> compare_with_backend(std::shared_ptr<Follower> follower);
  /// The same; what did not work is the janitor's to try again.
  Task<Status> compare_or_leave_it(std::shared_ptr<Follower> follower);
  Task<Status> compare_with_networks();
  Task<Status> recover_sandboxes();
  Task<Status> finish_removals();
  Task<Status> janitor();
  Task<Status> watch_health();
  Task<void> run_background(std::string what, Task<Status> task);

  Host& host_;
  Settings settings_;
  Providers providers_;
  std::optional<RecordStore> sandbox_records_, container_records_;
  Index<Sandbox> sandbox_index_{"pod sandbox"};
  Index<Container> container_index_{"container"};
  std::unique_ptr<Sandboxes> sandboxes_;
  std::unique_ptr<Containers> containers_;
  Broadcast<api::ContainerEventResponse> events_;
  std::map<std::string, std::shared_ptr<Follower>> followers_;  // by key
  std::set<std::string>
      damaged_sandboxes_;  // ids whose records could not be read: what they stood for is to be removed
  Notification stop_notification_;
  Notification janitor_wake_;
  Notification background_ended_;
  size_t background_count_ = 0;
  bool networks_compared_ = false;
  bool janitor_wanted_ = false;
  bool is_healthy_ = false;
  bool started_ = false;
  bool stopping_ = false;
};

}  // namespace pintle::cri
