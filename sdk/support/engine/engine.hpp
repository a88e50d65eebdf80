#pragma once

/// The engine: everything that <pintle/abi.h> promises, for all instances of one process.
///
/// `pintled` and `pintle-plugin-host` both consist of an engine. An *instance* is one party: a plugin's instance, a part of
/// the host itself (the admin socket), or the stand-in for a party on the other side of a process boundary. Who takes an
/// instance's turns is its *handler*: the plugin's own functions, the host's C++ code, or the wire. So the engine has one way
/// of calling, and it does not know where the other side runs.
///
///     Engine engine(services, {});
///     Instance& lan = engine.add({.name = "lan", .key = "lan@1", .plugin = "network-macvlan"});
///     lan.set_handler(make_plugin_handler(entry));
///     Instance& admin = engine.add({.name = "admin", .key = "admin", .identity = "user:root"});
///     uint64_t binding = engine.bind(admin, lan, 0);
///     call(admin, binding, 1, header, {}, 0, [](Reply reply) { … });
///
/// How a call goes, in process and with an idle lane: the caller's thread takes the implementer's lane, runs `handle` with the
/// caller's own memory, and gives the lane back; the completion waits in the caller's lane until its present turn is over. No
/// allocation, no thread switch, no copy but that of the reply's header. If the lane is busy the header is copied, the
/// buffers are retained, and the call queues.
///
/// Instances are kept until the engine ends, also those that will never run again: a plugin's stray thread that still calls
/// the host finds a closed instance, not freed memory.

#include <pintle/abi.h>

#include <array>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <pintle/status.hpp>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "sdk/support/engine/calls.hpp"
#include "sdk/support/engine/metrics.hpp"
#include "sdk/support/engine/reactor.hpp"

struct pintle_host {};

namespace pintle::engine {

class Engine;
class Instance;
using Done = std::function<void(Status)>;

/// What an instance is told at `create`; the owned form of pintle_instance_config.
struct InstanceConfig {
  uint32_t flags = 0;
  std::string node, config, state_directory, run_directory, shared_directory;
};

/// Takes the turns of an instance: each function runs on its lane, and what it is given is borrowed until it returns. An
/// exception that leaves one of them is caught, and fails the instance.
class Handler {
 public:
  virtual ~Handler() = default;
  /// `done` is called exactly once, on any thread.
  virtual void create(Instance&, const InstanceConfig&, Done done) { done({}); }
  virtual void start(Instance&, uint64_t token);
  virtual void drain(Instance&, uint64_t token);
  virtual void retire(Instance&, uint64_t token);
  virtual void stop(Instance&, uint64_t token);
  virtual void destroy(Instance&, Done done) { done({}); }
  virtual void handle(Instance&, const pintle_call&, const pintle_message&) = 0;
  virtual void cancelled(Instance&, uint64_t) {}
  virtual void stream_message(Instance&, uint64_t, const pintle_message&) {}
  virtual void stream_credit(Instance&, uint64_t, uint32_t) {}
  virtual void bindings(Instance&, uint32_t, const std::vector<pintle_binding>&) {}
};

/// The functions of a plugin's table, with the exception barrier. `entry` lives for ever.
std::unique_ptr<Handler> make_plugin_handler(const pintle_plugin* entry);
extern const pintle_host_api host_api;

struct LogField {
  std::string name, value;
};

/// What instances ask of the process around the engine. [any thread]
class Services {
 public:
  virtual ~Services() = default;
  virtual Result<pintle_process> spawn(Instance&, const pintle_spawn&, pintle_exited, void* context) = 0;
  virtual Result<int> listen(Instance&, const std::string& name, const std::string& address) = 0;
  virtual Status listen_end(Instance&, const std::string& name) = 0;
  virtual void log(const std::string& plugin, uint32_t level, std::string message, std::vector<LogField> fields) = 0;
  virtual void condition_changed(Instance&) {}
  /// The metrics of the whole node as text; `done` on any thread, once, unless this is refused.
  virtual Status metrics_text(std::function<void(std::string)> /*done*/) {
    return unavailable("metrics of the node are not known here");
  }
  virtual void retired(Instance&) {}
  /// An exception left the instance's code; it takes no more turns of calls.
  virtual void failed(Instance&, const std::string& /*reason*/) {}
};

struct Condition {
  std::string type;
  bool is_true = false;
  std::string reason, message;
};

struct InstanceOptions {
  std::string name;      // the profile's key
  std::string key;       // with its generation
  std::string plugin;    // the plugin's id
  std::string identity;  // empty: "plugin:" + name
};

class Instance : public pintle_host {
 public:
  Instance(Engine& engine, InstanceOptions options);
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  const std::string& name() const { return options_.name; }
  const std::string& key() const { return options_.key; }
  const std::string& plugin() const { return options_.plugin; }
  const std::string& identity() const { return options_.identity; }
  Engine& engine() { return engine_; }
  Lane& lane() { return lane_; }
  Handler* handler() { return handler_.get(); }
  /// Before `open`, or when closed and its lane flushed.
  void set_handler(std::unique_ptr<Handler> handler) { handler_ = std::move(handler); }

  // ---- Life: by the host ----

  enum class Step : uint8_t { start, drain, retire, stop };
  void create(InstanceConfig config, Done done);
  void step(Step step, Done done);  // `done` on a thread of the reactor, once
  void destroy(Done done);
  /// Queued turns run dead from now on. [lane]
  void close_lane() { lane_.close(); }
  /// Ends everything that is under way with UNAVAILABLE and `reason`, both ways; forgets timers, watches, exits and metrics;
  /// drops queued turns; then `flushed` runs. `open` makes it usable again.
  void close(const std::string& reason, std::function<void()> flushed);
  void open();
  void tell_bindings(uint32_t need, std::vector<pintle_binding> bindings, std::vector<std::string> texts);
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  void fail(const char* where, const std::string& what);

  std::vector<Condition> conditions();
  void set_condition(Condition condition);
  std::atomic<uint32_t> log_level{PINTLE_LOG_INFO};

  // ---- What a plugin asks; as in <pintle/abi.h>, by the same names ----

  pintle_code complete(uint64_t call_id, const pintle_status* status, const pintle_message* reply);
  pintle_code cancel(uint64_t call_id);
  pintle_code send(uint64_t call_id, const pintle_message* message);
  pintle_code grant(uint64_t call_id, uint32_t credit);
  pintle_code timer(uint64_t delay_ns, pintle_function function, void* context, uint64_t* id);
  pintle_code timer_cancel(uint64_t id);
  pintle_code watch(int32_t descriptor, uint32_t events, pintle_ready ready, void* context, uint64_t* id);
  pintle_code unwatch(uint64_t id);
  pintle_code blocking(pintle_function function, void* context);
  pintle_code lifecycle_done(uint64_t token, Status status);

  /// Who tells an instance of the end of its child: nothing happens if the instance was closed since `life` was taken.
  uint64_t life() const { return life_.load(std::memory_order_relaxed); }
  void process_exited(uint64_t life, pintle_exited exited, void* context, int32_t pid, int32_t wait_status);

  template <class Function>
  void guarded(const char* where, Function function);

 private:
  friend class Engine;
  struct Timer {
    uint64_t reactor_id;
    pintle_function function;
    void* context;
  };
  struct Watch {
    uint64_t reactor_id;
    pintle_ready ready;
    void* context;
  };

  Engine& engine_;
  const InstanceOptions options_;
  Lane lane_;
  std::unique_ptr<Handler> handler_;
  std::atomic<bool> failed_{false};
  std::atomic<uint64_t> life_{0};  // how often it was closed

  std::mutex lock_;
  std::unordered_map<uint64_t, Done> steps_;
  std::unordered_map<uint64_t, Timer> timers_;
  std::unordered_map<uint64_t, Watch> watches_;
  std::vector<Condition> conditions_;
  uint32_t blocking_jobs_ = 0;
  bool ending_ = false;  // no blocking work is begun any more
  std::function<void()> blocking_ended_;
};

struct EngineOptions {
  unsigned threads = 2;
  unsigned blocking_threads = 32;
  uint32_t outstanding = 1024;  // calls under way for each binding
  uint64_t default_timeout_ns = 30'000'000'000;
};

/// What a call carries besides what the plugin says; for stand-ins of parties that are elsewhere.
struct CallStamp {
  const std::string* identity = nullptr;  // kept for ever (`Engine::intern`)
  const uint8_t* trace = nullptr;
};

class Engine {
 public:
  Engine(Services& services, EngineOptions options = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void start() { reactor_.start(); }
  void stop() { reactor_.stop(); }
  Reactor& reactor() { return reactor_; }
  Services& services() { return services_; }
  Metrics& metrics() { return metrics_; }

  Instance& add(InstanceOptions options);
  const std::string* intern(std::string_view text);

  /// A new binding; 0 if 65,536 exist.
  uint64_t bind(Instance& caller, Instance& callee, uint32_t interface_index, const std::string& interface_name = {});
  /// Calls under way go on; new ones are UNAVAILABLE.
  void unbind(uint64_t binding_id);

  pintle_code call(Instance& caller, uint64_t binding_id, uint32_t method, const pintle_message* message,
                   const pintle_call_options* options, pintle_completion completion, void* context, uint64_t* call_id,
                   const CallStamp* stamp = nullptr);

  /// Ends the calls that `instance` makes and serves.
  void abort_calls(Instance& instance, const std::string& reason);
  uint64_t calls_under_way() const { return calls_active_.load(std::memory_order_relaxed); }
  /// Calls that `instance` serves at present.
  uint64_t calls_served_by(const Instance& instance);
  /// Prometheus text of all bindings' counters and of the plugins' own metrics.
  std::string render_metrics();

 private:
  friend class Instance;
  void run_call(CallRecord& record, const pintle_message& message, uint64_t now);
  void deliver(CallRecord& record, const pintle_status& status, const pintle_message* reply);
  void end_call(CallRecord& record, uint32_t code, std::string message);  // under its lock: posts the completion
  void drop_reference(CallRecord& record);
  CallRecord* lock_call(uint64_t call_id);
  void arm_deadline(uint64_t deadline);
  void scan_deadlines();
  static void run_call_turn(Turn* turn, bool live);
  static void run_completion_turn(Turn* turn, bool live);
  void post_cancelled(CallRecord& record, bool ended);
  BindingStats* stats_of(const Instance& caller, const Instance& callee, const std::string& interface_name);

  Services& services_;
  const EngineOptions options_;
  Metrics metrics_;
  Slab<CallRecord, 64> calls_;
  Slab<Binding, 64> bindings_;
  std::atomic<uint64_t> calls_active_{0};
  std::atomic<uint64_t> next_scan_{UINT64_MAX};
  std::mutex scan_lock_;
  uint64_t scan_timer_ = 0;
  std::atomic<uint64_t> last_token_{0};

  std::mutex lock_;
  std::deque<Instance> instances_;
  std::set<std::string, std::less<>> interned_;
  std::mutex stats_lock_;
  std::map<std::array<std::string, 3>, BindingStats> stats_;  // caller, provider, interface
  Reactor reactor_;                                           // last: its threads end before what they use
};

// ---- Calls of the host's own -------------------------------------------------------------------------------------------------

/// Runs code of the instance: no exception of it goes further than here.
template <class Function>
void Instance::guarded(const char* where, Function function) {
  try {
    function();
  } catch (const std::exception& error) {
    fail(where, error.what());
  } catch (...) {
    fail(where, "not a std::exception");
  }
}

/// How a call ended. Views are valid during the callback.
struct Reply {
  Status status;
  const pintle_message& message;
};

/// Calls as `caller`, which must be an instance of the host. `on_end` runs on the caller's lane, once, unless the call is not
/// accepted: then it runs at once. `on_message` makes it a stream of `credit` messages at a time, granted again as they come.
/// Returns the call's id, 0 if it was not accepted.
uint64_t call(Instance& caller, uint64_t binding_id, uint32_t method, const pintle_message& message,
              uint64_t timeout_ns, std::function<void(Reply)> on_end,
              std::function<void(const pintle_message&)> on_message = {}, uint32_t credit = 0,
              const CallStamp* stamp = nullptr);

}  // namespace pintle::engine
