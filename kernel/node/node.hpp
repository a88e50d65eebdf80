#pragma once

/// The node: converges what runs to a plan.
///
/// Each planned instance has *generations*. One is active; those before it that still own something are *retiring*: they serve
/// only that, over restarts too, and end by themselves. A generation is one configuration of one plugin: another config makes a
/// new generation, another file or isolation restarts the present one.
///
///     loaded --> created --> starting --> running --> draining --> stopped
///        ^                      |            |
///        |  backoff             v            +--(new generation runs, or the instance left the plan)--> retiring --> draining ...
///        +------------------- failed --(five deaths within a minute)--> quarantined --(`pintle plugin start`)--> loaded
///
///     skipped: the plan says `enabled: false`.
///
/// Everything here runs on the node's own lane; functions may be called from any thread, and their callbacks come on the lane.
/// `converge` is the one place where decisions are made: it looks at all units, starts what may start and stops what must stop,
/// and it runs after every event.
///
/// On disk: `<state>/instances/<name>/<generation>.json` says what the generation is (synced before it is created),
/// `<generation>.lock` is held while it exists in a process, `<generation>/` is the plugin's.

#include <boost/json/fwd.hpp>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "kernel/loader/library.hpp"
#include "kernel/node/listeners.hpp"
#include "kernel/node/logs.hpp"
#include "kernel/node/processes.hpp"
#include "kernel/node/wiring.hpp"
#include "kernel/profile/plan.hpp"
#include "sdk/support/engine/engine.hpp"

namespace pintle::kernel {

class ChildProcess;

enum class UnitState : uint8_t {
  skipped,
  loaded,
  created,
  starting,
  running,
  draining,
  retiring,
  stopped,
  failed,
  quarantined
};
const char* unit_state_name(UnitState state);

struct NodeOptions {
  std::string state_directory = "/var/lib/pintle";
  std::string run_directory = "/run/pintle";
  std::string plugin_directory = "/usr/lib/pintle/plugins";
  std::string plugin_host;
  std::string public_key;  // 32 bytes
  std::string node_name;
  uint32_t log_level = PINTLE_LOG_INFO;
};

struct Change {
  std::string name, change, key, retiring, message;
};

/// One generation of one instance.
struct Unit {
  PlannedInstance plan;
  uint64_t generation = 1;
  std::string key;
  bool retiring = false;   // it left the plan, or a newer generation runs
  bool candidate = false;  // the former generation serves until this one runs
  bool wanted = true;      // false: stopped by hand
  Instance* instance = nullptr;
  std::optional<VerifiedPlugin> plugin;
  UnitState state = UnitState::loaded;
  std::string reason;
  int64_t since = 0;        // wall clock, ms
  uint64_t attempt = 0;     // counts starts: callbacks of a former one are void
  uint64_t not_before = 0;  // of the next start, now_ns()
  std::vector<uint64_t> deaths;
  uint32_t restarts = 0;
  uint32_t failures = 0;  // of starts, in a row
  bool isolated = false;
  bool open = false;      // the instance takes turns
  bool tried = false;     // it has run or failed since the daemon started
  bool finished = false;  // it retires and owns nothing any more
  bool restart = false;   // go down, then up again with the present plan
  std::shared_ptr<ChildProcess> child;
  uint64_t child_serial = 0;          // of its newest child: the end of an older one is no news
  std::function<void()> after_child;  // what waits for the child's end
  files::Lock lock;
  struct Bound {
    Unit* provider;
    uint64_t provider_attempt, binding_id;
    bool retiring;
    bool operator==(const Bound&) const = default;
  };
  std::vector<std::vector<Bound>> bound;       // by need
  std::vector<std::function<void()>> settled;  // run once the unit neither starts nor stops
};

class Node final : public Services {
 public:
  Node(NodeOptions options, Logs& logs);
  ~Node() override;

  Engine& engine() { return engine_; }
  Listeners& listeners() { return listeners_; }
  Processes& processes() { return processes_; }
  Logs& logs() { return logs_; }
  const NodeOptions& options() const { return options_; }
  Lane& lane() { return lane_; }

  /// Takes up the plan and what an earlier daemon left retiring. INVALID_ARGUMENT: it cannot be wired.
  void start(NodePlan plan, Done done);
  using Applied = std::function<void(Result<std::vector<Change>>)>;
  /// Answers when every change was made or has failed.
  void apply(NodePlan plan, bool dry_run, Applied done);
  void start_instance(const std::string& name, Done done);
  void stop_instance(const std::string& name, Done done);
  /// `reexec` is true if the daemon must replace itself for the new build to run.
  void restart_instance(const std::string& name, std::function<void(Result<bool> reexec)> done);
  void set_log_level(const std::string& name, uint32_t level, Done done);
  /// Stops everything, those that need others first. Containers stay.
  void shutdown(std::function<void()> done);

  // On the lane only.
  boost::json::object status_json();
  Result<boost::json::object> instance_json(const std::string& name, bool with_config);
  boost::json::object plan_json() const;
  /// One line for each thing that keeps the node from being ready.
  std::vector<std::string> unready();
  /// A binding of a host's own instance to whoever provides `interface`; the caller unbinds it.
  Result<uint64_t> bind_host(Instance& caller, const std::string& interface, const std::string& provider);
  const NodePlan& plan() const { return plan_; }
  bool all_settled() const;
  /// Prometheus text of everything; what isolated plugins count arrives by `fetch_metrics`, which may be called anywhere.
  std::string render_metrics();
  void fetch_metrics(std::function<void()> done);
  void on_change(std::function<void()> changed) { changed_ = std::move(changed); }
  /// Instances that run in a process of their own whatever the plan says. Before `start`.
  void force_isolated(std::set<std::string> names) { forced_ = std::move(names); }

  // Services.
  Result<pintle_process> spawn(Instance&, const pintle_spawn&, pintle_exited, void* context) override;
  Result<int> listen(Instance&, const std::string& name, const std::string& address) override;
  Status listen_end(Instance&, const std::string& name) override;
  Status metrics_text(std::function<void(std::string)> done) override;
  void log(const std::string& plugin, uint32_t level, std::string message, std::vector<LogField> fields) override;
  void condition_changed(Instance&) override;
  void retired(Instance&) override;
  void failed(Instance&, const std::string& reason) override;
  void say(uint32_t level, std::string message, std::vector<LogField> fields = {}) {
    log("pintled", level, std::move(message), std::move(fields));
  }

 private:
  template <class F>
  void on_lane(F function) {
    post_turn(lane_, std::move(function));
  }

  // units.cpp: one unit's way through its states.
  void bring_up(Unit& unit);
  void created(Unit& unit, const Status& status);
  void started(Unit& unit, const Status& status);
  void take_down(Unit& unit, UnitState end, const std::string& reason);
  void torn_down(Unit& unit, UnitState end, const std::string& reason);
  void died(Unit& unit, const std::string& reason);
  void fail_unit(Unit& unit, const std::string& reason);
  void set_state(Unit& unit, UnitState state, std::string reason = {});
  Status prepare_folders(Unit& unit, InstanceConfig& config);
  void forget(Unit& unit);
  void settle(Unit& unit);
  void when_settled(Unit& unit, std::function<void()> function);
  Status verify(Unit& unit);

  // node.cpp: all units together.
  void converge();  // soon, once
  void converge_now();
  void rebind();
  Unit& add_unit(const PlannedInstance& plan, uint64_t generation, bool retiring);
  Unit* active(const std::string& name);
  Unit* find(const std::string& name_or_key);
  void retire(Unit& unit);
  void replace(const PlannedInstance& plan, Unit& former, std::shared_ptr<Change> change, std::function<void()> done);
  std::vector<Unit*> providers_of(const Unit& unit, size_t need);
  enum class Readiness { ready, soon, waits };
  Readiness may_start(const Unit& unit, std::string& why_not);
  bool answers(const Unit& other, const Unit& unit, size_t need) const;
  /// One who will answer this need and is on its first way up.
  const Unit* coming_provider(const Unit& unit, size_t need) const;
  bool is_needed(const Unit& unit);

  const NodeOptions options_;
  Logs& logs_;
  Listeners listeners_;
  Loader loader_;
  Engine engine_;
  Processes processes_;
  Lane lane_;
  const int64_t started_ms_ = wall_clock_ms();
  NodePlan plan_;
  Wiring wiring_;
  std::list<Unit> units_;
  std::list<Unit> gone_;  // ended; kept because a late callback may still name them
  std::map<std::string, uint64_t> last_generation_;
  std::set<std::string> forced_;
  bool shutting_down_ = false;
  bool applying_ = false;
  std::atomic<uint32_t> log_level_;  // of the node itself
  bool converge_posted_ = false;
  std::function<void()> stopped_, changed_;
  uint64_t wake_timer_ = 0;
};

}  // namespace pintle::kernel
