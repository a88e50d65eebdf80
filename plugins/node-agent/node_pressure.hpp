#pragma once

/// Keeps the node usable when it runs short of memory, disk or processes: evicts pods in Kubernetes' order, one at a time, measured
/// again after each.
///
///     measured ---nothing met---> sleeps until something may have changed
///        ^  |
///        |  +--threshold acts--> (disk) frees images and dead containers, measures again
///        |                            | still met
///        |                            v
///        +--- its end is awaited --- the first pod in order is evicted
///
/// Measuring. Memory changes within milliseconds, so it is looked at as often as it could at most have reached its threshold since, at
/// a gigabyte a second, and at once when the kernel tells that tasks wait for memory (PSI, Documentation/accounting/psi.rst). All
/// else is looked at once in a housekeeping period.
///
/// Not kubelet's way: there static pods are never evicted, because an API server knows nothing of them. Here all pods come from
/// manifests, so their priority decides alone: those from 2,000,000,000 on are the node's own.
///
/// All on the plugin's lane, but for the measuring.

#include <boost/json/value.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <pintle/host.hpp>
#include <pintle/task.hpp>
#include <set>
#include <string>

#include "plugins/node-agent/eviction_order.hpp"
#include "plugins/node-agent/eviction_thresholds.hpp"
#include "plugins/node-agent/pod_verdict.hpp"
#include "plugins/node-agent/wakeup.hpp"

namespace pintle::agent {

struct WorkerContext;
class PodWorker;
using Workers = std::map<std::string, std::shared_ptr<PodWorker>>;  ///< by key

struct PressureSettings {
  EvictionSettings eviction;
  std::chrono::nanoseconds housekeeping = std::chrono::seconds(10);
  std::string nodefs;       ///< a folder on it
  std::string pods_cgroup;  ///< of all pods, if they are limited together
  int64_t pods_memory = 0;  ///< to this many bytes
};

class NodePressure {
 public:
  struct Condition {
    bool is_true = false;
    int64_t since = 0;  ///< nanoseconds since 1970
  };

  /// `context` and `workers` have to outlive it.
  NodePressure(Host& host, WorkerContext& context, const Workers& workers, PressureSettings settings);

  /// Until the agent stops.
  Task<void> run();
  void stop() { wakeup_.notify(); }
  /// A pod is over, or is not any more.
  void pods_changed() { settled_.notify(); }

  /// Frees what no pod needs of the disk; set before `run`.
  std::function<Task<void>()> free_disk;

  /// "The node had condition: [MemoryPressure]." for a pod that must not begin now.
  std::optional<PodVerdict> admit(const core::Pod& pod) const;
  const std::map<std::string, Condition>& conditions() const { return conditions_; }
  const Observations& observations() const { return watch_.observations(); }
  /// The file system of images, once the runtime has told it.
  const std::string& image_folder() const { return sources_.imagefs; }

 private:
  Task<void> measure(bool only_memory);
  Task<void> ask_for_image_folder();
  Task<bool> relieve();
  Task<bool> evict_for(Threshold threshold);
  Task<void> await_end(std::shared_ptr<PodWorker> worker);
  Task<bool> keep_storage_limits();
  std::vector<std::shared_ptr<const WantedPod>> active_pods() const;
  void evict(const WantedPod& pod, PodVerdict verdict, std::string_view signal);
  void tell_conditions();
  std::chrono::nanoseconds until_next() const;
  void listen_to_stalls();
  DiskParts parts_of(Signal signal) const;

  Host& host_;
  WorkerContext& context_;
  const Workers& workers_;
  PressureSettings settings_;
  SignalSources sources_;
  ThresholdWatch watch_;
  std::map<std::string, Condition> conditions_;
  std::map<std::string, Metric> evictions_;  ///< by signal
  std::map<std::string, Metric> gauges_;     ///< by condition
  Wakeup wakeup_, settled_;
  UniqueFd stalls_;
  Watch stall_watch_;
  bool one_filesystem_ = true;
  bool told_nothing_to_evict_ = false;
  ThresholdWatch::Clock::time_point storage_due_{};
};

/// The first limit of local storage that a pod goes beyond, in kubelet's words; empty: none.
std::string broken_storage_limit(const PodUse& pod);
/// Whether the pod has any such limit, so that it has to be measured.
bool has_storage_limit(const core::Pod& pod);

}  // namespace pintle::agent
