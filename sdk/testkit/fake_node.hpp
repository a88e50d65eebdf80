#pragma once

/// A node for tests: runs plugins without `pintled`, on one thread, one turn at a time.
///
/// It gives each instance a host table with all promises of `pintle/abi.h` and is stricter than the real one: bytes that a function
/// borrowed are overwritten as soon as it has returned, and a broken promise of the plugin (a call completed twice, a message
/// without credit) is recorded in `violations()`. Processes, timers, descriptors and blocking threads are real.
///
///     FakeNode node;
///     FakeInstance& bridge = node.load("network-bridge.so", {.config = R"({"podCIDR": "10.85.0.0/16"})"});
///     FakeInstance& test = node.client();
///     ASSERT_TRUE(node.start(bridge));
///     PodNetworkStub network = node.stub<PodNetworkStub>(test, bridge);
///     auto answer = node.wait(call_attach(network));   // runs turns until the task has ended
///
/// A provider that cannot run in the test is a plugin class of the test's own: `node.add<FakeRuntime>("runtime")`, and
/// `node.bind(engine, "runtime", {&runtime})` answers a need with it.

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <pintle/plugin.hpp>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

namespace pintle::testkit {

class FakeNode;

struct InstanceOptions {
  std::string name;
  std::string config = "{}";
  bool retiring = false;
  std::string key;                   ///< empty: name@1
  uint64_t features = ~uint64_t{0};  ///< of what it provides; all, unless the test needs one without
  std::string state_directory;       ///< empty: one below the node's temporary folder
  std::string run_directory;
  std::string shared_directory;
};

/// One instance of a plugin on the fake node.
class FakeInstance {
 public:
  const std::string& name() const { return options_.name; }
  const std::string& key() const { return options_.key; }
  const pintle_plugin* table() const { return table_; }
  /// The interfaces of its manifest, in order.
  const std::vector<std::string>& provides() const { return provides_; }
  bool said_retired() const { return said_retired_; }
  /// Newest last: "type reason: message".
  const std::vector<std::string>& conditions() const { return conditions_; }
  const std::vector<std::string>& log() const { return log_; }
  /// Of a client made by `FakeNode::client`: what stubs are made with.
  Host& host() { return *client_host_; }

 private:
  friend class FakeNode;
  friend struct FakeApi;
  FakeNode* node_ = nullptr;
  InstanceOptions options_;
  const pintle_plugin* table_ = nullptr;
  void* object_ = nullptr;
  std::vector<std::string> provides_;
  std::vector<std::string> needs_;
  pintle_instance_config config_{};
  std::string node_name_ = "test";
  bool said_retired_ = false;
  bool gone_ = false;
  std::vector<std::string> conditions_;
  std::vector<std::string> log_;
  std::map<uint64_t, Status> lifecycle_;
  std::unique_ptr<Host> client_host_;
  std::unique_ptr<pintle_plugin> own_table_;
  std::shared_ptr<void> factory_;
};

/// How one call ended, for tests that speak in bytes.
struct CallOutcome {
  bool accepted = false;
  int completions = 0;
  bool completed_inside_call = false;
  Status status;
  std::string header;
  std::vector<Buffer> buffers;
  std::vector<std::string> stream;
};

struct RawCall {
  std::chrono::nanoseconds timeout{std::chrono::seconds(5)};
  uint32_t initial_credit = 0;
  bool grant_on_message = true;
  std::optional<uint32_t> cancel_after_messages;  ///< 0: at once
  std::vector<Buffer> buffers;
};

class FakeNode {
 public:
  FakeNode();
  ~FakeNode();
  FakeNode(const FakeNode&) = delete;

  /// Loads a file and creates an instance; an error of the file or of `create` is the status.
  Result<FakeInstance*> try_load(const std::string& path, InstanceOptions options = {});
  /// As `try_load`, for tests where a failure is a broken test.
  FakeInstance& load(const std::string& path, InstanceOptions options = {});
  /// An instance of a class of the test's own, derived from `Plugin` (and skeletons).
  template <class PluginClass>
  FakeInstance& add(std::string name, std::vector<std::string> provides, std::vector<std::string> needs = {},
                    InstanceOptions options = {});
  /// An instance without a plugin, to call from.
  FakeInstance& client(std::string name = "test");

  /// The providers of a need, in this order.
  void bind(FakeInstance& instance, const std::string& need, const std::vector<FakeInstance*>& providers,
            const std::string& interface_name = "");
  /// A stub of `caller` for the interface that `provider` provides.
  template <class StubType>
  StubType stub(FakeInstance& caller, FakeInstance& provider) {
    return StubType(caller.host(), binding(caller, provider, StubType::Interface::info.name));
  }
  Binding binding(FakeInstance& caller, FakeInstance& provider, std::string_view interface_name);

  Status start(FakeInstance& instance) { return lifecycle(instance, &pintle_plugin::start); }
  Status drain(FakeInstance& instance) { return lifecycle(instance, &pintle_plugin::drain); }
  Status retire(FakeInstance& instance) { return lifecycle(instance, &pintle_plugin::retire); }
  Status stop(FakeInstance& instance) { return lifecycle(instance, &pintle_plugin::stop); }
  /// A step that is not waited for, as several may be under way: `end` waits, and gives its status.
  using LifecycleFunction = void (*pintle_plugin::*)(void*, uint64_t);
  uint64_t begin(FakeInstance& instance, LifecycleFunction function);
  Status end(FakeInstance& instance, uint64_t token);
  /// Destroys the instance as it stands, started or not: calls to it end with UNAVAILABLE, its own are cancelled and its
  /// timers forgotten.
  void destroy(FakeInstance& instance);

  /// Runs turns until the predicate holds; false when the time is over.
  bool run_until(const std::function<bool()>& predicate, std::chrono::milliseconds limit = std::chrono::seconds(10));
  /// Runs turns until the task has ended, and gives its result. A task that hangs is a failed result.
  template <class T>
  std::optional<T> wait(Task<T> task, std::chrono::milliseconds limit = std::chrono::seconds(10));
  /// One call in bytes, awaited.
  CallOutcome call(FakeInstance& caller, FakeInstance& provider, uint32_t interface_index, uint32_t method,
                   std::string_view header, const RawCall& options = {});

  /// Promises that a plugin broke, one line each.
  const std::vector<std::string>& violations() const { return violations_; }
  const std::string& directory() const { return directory_; }

 private:
  friend struct FakeApi;
  struct ActiveCall;
  struct Watched;
  struct Timed;
  struct Child;

  FakeInstance& make(InstanceOptions options);
  Status create(FakeInstance& instance);
  Status lifecycle(FakeInstance& instance, LifecycleFunction function) {
    return end(instance, begin(instance, function));
  }
  FakeInstance& add_class(std::string name, std::vector<std::string> provides, std::vector<std::string> needs,
                          InstanceOptions options, std::unique_ptr<Plugin> (*factory)(Host&));
  void enqueue(std::function<void()> turn);
  bool turn(std::chrono::steady_clock::time_point until);
  void finish(uint64_t call_id, pintle_code code, std::string message, const pintle_message* reply);

  std::string directory_;
  std::vector<std::unique_ptr<FakeInstance>> instances_;
  std::vector<std::string> violations_;
  std::map<uint64_t, std::pair<FakeInstance*, uint32_t>> bindings_;  // binding id -> provider, interface index
  std::map<uint64_t, std::unique_ptr<ActiveCall>> calls_;
  std::map<uint64_t, std::unique_ptr<Watched>> watches_;
  std::map<uint64_t, std::unique_ptr<Timed>> timers_;
  std::map<int, std::unique_ptr<Child>> children_;
  std::map<std::string, int> listeners_;
  uint64_t next_id_ = 1;
  int call_depth_ = 0;
  std::recursive_mutex mutex_;  // guards the tables above: functions tagged [any] come from blocking threads too
  std::deque<std::function<void()>> turns_;
  std::vector<std::thread> threads_;
  int wake_ = -1;
};

template <class PluginClass>
FakeInstance& FakeNode::add(std::string name, std::vector<std::string> provides, std::vector<std::string> needs,
                            InstanceOptions options) {
  return add_class(std::move(name), std::move(provides), std::move(needs), std::move(options),
                   [](Host& host) -> std::unique_ptr<Plugin> { return std::make_unique<PluginClass>(host); });
}

template <class T>
std::optional<T> FakeNode::wait(Task<T> task, std::chrono::milliseconds limit) {
  auto result = std::make_shared<std::optional<T>>();
  const auto body = [](Task<T> inner, std::shared_ptr<std::optional<T>> into) -> Task<void> {
    into->emplace(co_await std::move(inner));
  };
  // Parameters, not captures, carry the state: the lambda's object dies here, its frame does not.
  auto done = std::make_shared<bool>(false);
  Task<void> running = body(std::move(task), result);
  const auto drive_it = [](Task<void> inner, std::shared_ptr<bool> flag) -> detail::Detached {
    co_await std::move(inner);
    *flag = true;
  };
  drive_it(std::move(running), done);
  run_until([&] { return *done; }, limit);
  return *done ? std::move(*result) : std::nullopt;
}

}  // namespace pintle::testkit
