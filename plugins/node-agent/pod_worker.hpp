#pragma once

/// One pod name ("default/web"), and whatever has to be done for it: one coroutine that compares what is wanted with what the
/// container runtime has, acts on the difference, and sleeps until something changes.
///
/// A pod of a name that stays on the node under one uid is a *run*. A name has at most one current run; runs that were replaced
/// (an edited manifest has another uid), withdrawn, or found without a manifest are *doomed*: they are ended, with their grace
/// period, before the next one begins.
///
///     wanted --> sandbox --> containers, one after the other --> running <---------------+
///                   ^                                              |  container ended    | restart, after its back-off
///                   |  sandbox lost                                +---------------------+
///                   +----------------------------------------------+
///                                                                  |  all ended, and the restart policy leaves them so
///                                                                  v
///                                                    Succeeded or Failed: the sandbox is stopped
///     any of these --evicted, ended or refused by the node (pod_verdict.hpp)--> Failed
///     any of these --withdrawn or replaced--> doomed: containers stopped, sandbox, logs, volumes removed --> gone
///
/// Containers begin in the order of container_order.hpp: init containers one after the other, sidecars among them, then the others.
///
/// Nothing of this is kept in memory alone: after a restart of the agent the runtime's labels and attempts tell where it was.
/// All on the plugin's lane.

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <pintle/call.hpp>
#include <set>
#include <string>
#include <vector>

#include "cri/api.pb.h"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/backoff.hpp"
#include "plugins/node-agent/container_probes.hpp"
#include "plugins/node-agent/cri_config.hpp"
#include "plugins/node-agent/event_log.hpp"
#include "plugins/node-agent/manifests.hpp"
#include "plugins/node-agent/pod_files.hpp"
#include "plugins/node-agent/pod_status.hpp"
#include "plugins/node-agent/pod_verdict.hpp"
#include "plugins/node-agent/wakeup.hpp"

namespace pintle::node::v1 {
class Pod;
}

namespace runtime::v1 {
class RuntimeServiceStub;
class ImageServiceStub;
}  // namespace runtime::v1

namespace pintle::agent {

class StorageMeter;

/// What all workers of an agent share.
class PodWorker;

struct WorkerContext {
  Host& host;
  PodFiles files;
  NodeFacts node;
  BackoffSettings backoff;
  std::string runtime_name;
  const cri::RuntimeServiceStub* runtime = nullptr;
  const cri::ImageServiceStub* images = nullptr;
  WebClient* web = nullptr;
  StorageMeter* storage = nullptr;
  PullSecrets secrets;                         ///< those that manifests bring
  bool stopping = false;                       ///< let go of everything; pods run on
  std::function<void(Task<void>)> start;       ///< runs a task beside the others; the agent does not end before it
  std::map<std::string, PodVerdict> verdicts;  ///< by uid: those that were passed before this process began
  std::string boot_id;
  /// Why the node does not take a pod that has not begun yet; nothing: it does. May be empty.
  std::function<std::optional<PodVerdict>(const PodWorker&, const WantedPod&)> admit;
  std::function<void()> freed;           ///< a pod does not need the node any more. May be empty
  int64_t dead_kept = 1;                 ///< dead containers that are kept of each, besides its newest; -1: all
  std::chrono::nanoseconds dead_for{0};  ///< before that they are not removed
  Metric starts, restarts, start_seconds;
  /// How probes went, by the pod's uid and key, container, kind of probe and result; until the pod has gone.
  std::map<std::array<std::string, 5>, uint64_t> probes;
};

/// One uid's stay on the node.
struct PodRun {
  struct Container {
    std::string name;
    ContainerKind kind = ContainerKind::regular;
    const core::Container* spec = nullptr;
    std::vector<cri::ContainerStatus> statuses;  ///< newest first
    uint32_t next_attempt = 0;
    std::optional<core::ContainerStateTerminated> last_ended;  ///< of the one before the newest
    Waiting waiting;
    std::unique_ptr<ContainerProbes> probes;  ///< while it runs
    bool is_starting = false;                 ///< its postStart hook is under way
    bool must_restart = false;                ///< it was ended to be started again, whatever its exit code
    Backoff restart_backoff, image_backoff;
    std::optional<WallTime> failed, image_failed;  ///< when it could last not be made, its image not be had
    std::optional<WallTime> unknown_since;         ///< its runtime cannot tell what it does
  };

  std::string uid;
  std::shared_ptr<const WantedPod> wanted;  ///< null: only labels are known of it
  std::string log_folder;
  int64_t grace_seconds = 30;
  bool must_refresh = true;
  std::string sandbox_id;  ///< that is ready; empty: none
  std::vector<std::string> old_sandboxes;
  uint32_t next_sandbox_attempt = 0;
  std::vector<std::string> addresses;
  std::vector<Container> containers;                          ///< init containers first, each in the spec's order
  std::map<std::string, std::string> sandbox_of;              ///< by container id
  std::vector<cri::ContainerStatus> strangers;                ///< with its uid, but not in the spec
  std::optional<std::map<std::string, std::string>> volumes;  ///< once they are prepared
  PodIds ids;                                                 ///< likewise
  std::set<std::string> ready;                                ///< containers whose readiness is kept on disk
  std::string sandbox_trouble;
  std::optional<WallTime> sandbox_failed;
  Backoff sandbox_backoff;
  bool complete = false;  ///< Succeeded or Failed
  bool expired = false;   ///< it was active for longer than its deadline
  bool admitted = false;  ///< the node has taken it
  std::optional<PodVerdict> verdict;
  bool pardoned = false;      ///< the verdict is to be taken back
  bool verdict_kept = false;  ///< it lies on disk
  bool settled = false;       ///< what the verdict takes from the pod has gone
  bool lost = false;          ///< its sandbox is gone, and it gets no other one
  bool ending = false;
  WallTime ending_since;
  bool measured = false;
  WallTime seen;  ///< when this process first knew of it
  EventLog events;
  ConditionMemory conditions;
};

class PodWorker : public std::enable_shared_from_this<PodWorker> {
 public:
  PodWorker(WorkerContext& context, std::string key);
  PodWorker(const PodWorker&) = delete;

  /// The worker's life: ends when nothing is wanted and nothing is left, or when the agent stops.
  static Task<void> run(std::shared_ptr<PodWorker> self);

  /// What shall run under this name; null: nothing.
  void want(std::shared_ptr<const WantedPod> pod);
  /// The grace period of what is ending, or ends next, instead of the pod's own.
  void set_grace(int64_t grace_seconds);
  /// The runtime has something of this uid: `wanted` if its record is known.
  void adopt(const std::string& uid, std::shared_ptr<const WantedPod> wanted, int64_t grace_seconds,
             const std::string& log_folder);
  /// Something of this pod changed in the runtime; nobody knows what.
  void runtime_changed();
  void add_event(std::string_view type, std::string_view reason, const std::string& message);
  /// Gives up what it waits for; the agent has set `stopping`.
  void interrupt();
  /// The node ends what runs under this name: it is Failed from now on.
  void end_with(PodVerdict verdict);
  /// A pod that was refused is asked about again; one that ended for this reason may run again.
  void reconsider();
  void pardon(const std::string& reason);

  const std::string& key() const { return key_; }
  bool is_finished() const { return finished_; }
  bool has_uid(const std::string& uid) const;
  std::shared_ptr<const WantedPod> wanted() const { return wanted_; }
  /// What is wanted, or else what is ending; may be null.
  std::shared_ptr<const WantedPod> known() const {
    return wanted_ ? wanted_ : current_ ? current_->wanted : doomed_.empty() ? nullptr : doomed_.front()->wanted;
  }
  /// The pod that runs or shall run, for as long as nothing has ended it; null: none.
  std::shared_ptr<const WantedPod> active() const;
  /// Pods that need the node: admitted ones that have not done their work, and those that are ending.
  std::vector<std::shared_ptr<const WantedPod>> holding() const;
  /// Removes dead containers until so many of each are left, besides its newest.
  void collect_dead(int64_t kept);
  bool is_collecting() const { return collect_request_ && !finished_; }
  size_t dead_containers() const;
  /// Whether it runs, ends or shall run under this uid.
  bool knows_uid(const std::string& uid) const { return has_uid(uid) || (wanted_ && wanted_->uid == uid); }
  /// Whether nothing of a pod that the node ended is left to be ended.
  bool is_settled() const { return !current_ || !current_->verdict || current_->settled; }
  /// The pod with its status, as the agent's interface tells it.
  node::v1::Pod report();

 private:
  Task<std::optional<WallTime>> sync(PodRun& run);
  Task<bool> end(PodRun& run);
  Task<Status> stop_all(PodRun& run);
  Task<Status> stop_gently(PodRun& run, PodRun::Container& container, std::string id, int64_t grace_seconds);
  Task<Status> pre_stop(PodRun& run, PodRun::Container& container, std::string id, int64_t grace_seconds);
  Task<Status> post_start(PodRun& run, PodRun::Container& container, std::string id);
  Task<ProbeAnswer> perform_hook(PodRun& run, PodRun::Container& container, std::string id,
                                 const core::LifecycleHandler& handler, std::chrono::nanoseconds timeout);
  Task<Status> end_by_probe(PodRun& run, PodRun::Container& container, ProbeKind kind);
  void watch_over(PodRun& run, PodRun::Container& container);
  ActionTarget target_of(const PodRun& run, const PodRun::Container& container, std::string id) const;
  Task<void> add_termination_message(PodRun& run, PodRun::Container& container, cri::ContainerStatus& status);
  Task<bool> complete(PodRun& run);
  Task<std::optional<WallTime>> carry_out(PodRun& run);
  Task<Status> settle(PodRun& run);
  Task<void> take_back(PodRun& run);
  void pass(PodRun& run, PodVerdict verdict);
  Task<Status> refresh(PodRun& run);
  Task<Status> refresh_containers(PodRun& run);
  Task<std::optional<WallTime>> sync_containers(PodRun& run);
  Task<Status> prepare(PodRun& run);
  Task<Status> make_sandbox(PodRun& run);
  Task<std::optional<WallTime>> sync_container(PodRun& run, PodRun::Container& container);
  Task<std::optional<WallTime>> start_container(PodRun& run, PodRun::Container& container);
  Task<bool> have_image(PodRun& run, PodRun::Container& container, std::optional<WallTime>& retry);
  Task<Status> pull_image(PodRun& run, const core::Container& spec);
  Task<std::vector<RegistryLogin>> logins_for(PodRun& run, const core::Container& spec);
  Task<void> collect_garbage(PodRun& run);
  Task<void> keep_readiness(PodRun& run);
  Task<Status> stop_container(std::string id, int64_t grace_seconds);
  Task<Status> remove_container(std::string id);
  Task<Status> remove_sandbox(std::string id, bool only_stop);

  std::unique_ptr<PodRun> make_run(const std::string& uid, std::shared_ptr<const WantedPod> wanted);
  WallTime fail(PodRun& run, PodRun::Container& container, std::string reason, const std::string& message);
  void event(PodRun& run, std::string_view type, std::string_view reason, const std::string& message);
  CallOptions options(std::chrono::nanoseconds timeout);
  core::Pod object_of(PodRun& run);
  void measure_start(PodRun& run);

  WorkerContext& context_;
  std::string key_;
  std::shared_ptr<const WantedPod> wanted_;
  std::unique_ptr<PodRun> current_;
  std::vector<std::unique_ptr<PodRun>> doomed_;
  std::optional<int64_t> next_grace_;
  Wakeup wakeup_;
  std::array<uint64_t, 64> calls_{};   ///< ids of calls that may be under way, the newest
  size_t next_call_ = 0;               ///< the oldest of them gives way
  std::vector<uint64_t*> hook_calls_;  ///< those of hooks, which may last
  std::vector<Wakeup*> sleeps_;        ///< of hooks
  std::optional<int64_t> collect_request_;
  uint64_t pull_call_ = 0;
  bool finished_ = false;
};

}  // namespace pintle::agent
