#pragma once

/// Ends pods with their grace before the machine goes off, as kubelet's graceful node shutdown (KEP-2000, KEP-2712).
///
///     at start: a delay lock of logind --> PrepareForShutdown(true) --> new pods are refused; pods end in groups of priority, the
///     lowest first, each group within its time --> the lock is let go, and systemd goes on
///     PrepareForShutdown(false): it was called off; the pods run again
///
/// A lock delays a shutdown by at most InhibitDelayMaxSec. If that is less than what the groups need together, a drop-in for logind
/// raises it (/run/systemd/logind.conf.d) and logind reads its settings anew. Interfaces: org.freedesktop.login1(5), systemd-inhibit(1).
///
/// Without logind, and without a grace period in the config, all this is off. The end of pintled itself never comes here: pods outlive
/// that.
///
/// All on the plugin's lane, but for the calls to logind, which block.

#include <boost/json/value.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <string>
#include <vector>

#include "plugins/node-agent/node_pressure.hpp"

struct sd_bus;

namespace pintle::agent {

/// Pods from this priority on, up to that of the next group, end within this time.
struct ShutdownGroup {
  int32_t priority = 0;
  std::chrono::seconds time{0};
};

struct ShutdownSettings {
  std::vector<ShutdownGroup> groups;  ///< by priority; empty: off
  std::chrono::seconds together() const;
};

/// Of the plugin's config. INVALID_ARGUMENT names the key.
Result<ShutdownSettings> read_shutdown_settings(const boost::json::value& config);

class NodeShutdown {
 public:
  NodeShutdown(Host& host, WorkerContext& context, const Workers& workers, ShutdownSettings settings);
  ~NodeShutdown();
  NodeShutdown(const NodeShutdown&) = delete;

  /// Takes the lock and listens, until the agent stops.
  Task<void> run();
  void stop();
  /// A pod is over.
  void pods_changed() { settled_.notify(); }

  /// The machine goes off: no pod is taken any more.
  bool is_under_way() const { return under_way_; }
  std::optional<PodVerdict> admit() const;
  /// Called when a shutdown was called off.
  std::function<void()> called_off;

 private:
  Task<Status> take_lock();
  Status listen();
  void process();
  Task<void> end_pods();
  Task<void> end_group(size_t index);

  Host& host_;
  WorkerContext& context_;
  const Workers& workers_;
  ShutdownSettings settings_;
  Wakeup wakeup_, settled_;
  UniqueFd lock_;
  sd_bus* bus_ = nullptr;
  Watch watch_;
  bool told_off_ = false;
  bool under_way_ = false, is_ending_ = false;
};

}  // namespace pintle::agent
