#pragma once

/// A plugin in C++.
///
/// Derive from `Plugin`, provide implementations of interfaces, and name the class once:
///
///     class Greeter : public Plugin, public example::v1::Echo {
///      public:
///       explicit Greeter(Host& host) : Plugin(host) { provide(*this); }
///       Task<Status> start() override { co_return Status::ok(); }
///       Task<Result<example::v1::Saying>> Say(Call&, const example::v1::Saying& request) override { co_return request; }
///     };
///     PINTLE_PLUGIN(Greeter);
///
/// The class lives on its lane: no two of its functions ever run at once, and coroutines resume there. The constructor reads
/// `host().config_json()` (already valid by the plugin's schema) and touches nothing outside; it refuses by throwing
/// `PluginError`. `start` reconciles with what is on the machine. Nothing may leave the C edge: exceptions become INTERNAL.
///
/// Life cycle: constructor -> bindings_changed (for each need) -> start -> ... -> drain | retire -> stop -> destructor.

#include <pintle/abi.h>

#include <map>
#include <memory>
#include <pintle/call.hpp>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace pintle {

/// Thrown by a plugin's constructor: the instance cannot be made.
class PluginError : public std::runtime_error {
 public:
  explicit PluginError(Status status) : std::runtime_error(status.message()), status_(std::move(status)) {}
  const Status& status() const { return status_; }

 private:
  Status status_;
};

class Plugin {
 public:
  explicit Plugin(Host& host) : host_(host) {}
  virtual ~Plugin() = default;
  Plugin(const Plugin&) = delete;
  Plugin& operator=(const Plugin&) = delete;

  /// Reconciles with the machine, then serves. An error ends the instance; the host tries again with backoff.
  virtual Task<Status> start() { co_return Status::ok(); }
  /// Finishes what is under way; new calls are refused by the host.
  virtual Task<Status> drain() { co_return Status::ok(); }
  /// Serves only what it owns from now on; says `host().retired()` when that is nothing (perhaps at once).
  virtual Task<Status> retire() {
    host_.retired();
    co_return Status::ok();
  }
  /// Releases all but what must outlive the process.
  virtual Task<Status> stop() { co_return Status::ok(); }
  /// The providers of a need (by its name in the manifest) have changed; `bindings(need)` has them.
  virtual void bindings_changed(std::string_view need) { (void)need; }

  Host& host() { return host_; }

  /// All providers of a need, at the moment.
  const std::vector<Binding>& bindings(std::string_view need) const;

 protected:
  /// Names an implementation; its interface must stand in the manifest's `provides`.
  void provide(Implementation& implementation) { implementations_.push_back(&implementation); }
  /// A stub for the first provider of a need that is not retiring; an empty one if there is none.
  template <class StubType>
  StubType need(std::string_view need_name) {
    for (const Binding& binding : bindings(need_name)) {
      if (!binding.retiring) return StubType(host_, binding);
    }
    return StubType();
  }
  /// A stub for the provider with this key, retiring or not.
  template <class StubType>
  StubType need_by_key(std::string_view need_name, std::string_view key) {
    for (const Binding& binding : bindings(need_name)) {
      if (binding.key == key) return StubType(host_, binding);
    }
    return StubType();
  }

 private:
  friend class PluginEdge;
  Host& host_;
  std::vector<Implementation*> implementations_;
  std::map<std::string, std::vector<Binding>, std::less<>> bindings_;
};

/// What pintle_plugin() (CMake) generates from the manifest.
struct PluginFacts {
  const pintle_text* provides;  ///< interface names, in the manifest's order
  uint32_t provide_count;
  const pintle_text* needs;  ///< needs' names, in the manifest's order
  uint32_t need_count;
};

/// The C edge of a C++ plugin: turns the table's functions into calls of the class, and stops exceptions.
class PluginEdge {
 public:
  using Factory = std::unique_ptr<Plugin> (*)(Host&);

  static pintle_code create(const PluginFacts& facts, Factory factory, const pintle_host_api* api, pintle_host* host,
                            const pintle_instance_config* config, void** instance, pintle_status* status) noexcept;
  static void start(void* instance, uint64_t token) noexcept;
  static void drain(void* instance, uint64_t token) noexcept;
  static void retire(void* instance, uint64_t token) noexcept;
  static void stop(void* instance, uint64_t token) noexcept;
  static void destroy(void* instance) noexcept;
  static void handle(void* instance, const pintle_call* call, const pintle_message* message) noexcept;
  static void cancelled(void* instance, uint64_t call_id) noexcept;
  static void stream_message(void* instance, uint64_t call_id, const pintle_message* message) noexcept;
  static void stream_credit(void* instance, uint64_t call_id, uint32_t credit) noexcept;
  static void bindings(void* instance, uint32_t need, const pintle_binding* bindings, uint32_t count) noexcept;

 private:
  PluginEdge(const PluginFacts& facts, const pintle_host_api* api, pintle_host* host,
             const pintle_instance_config& config);
  template <class Member>
  static void run_lifecycle(void* instance, uint64_t token, Member member) noexcept;
  static detail::Detached drive(PluginEdge* edge, uint64_t token, Task<Status> (Plugin::*member)());

  const PluginFacts& facts_;
  Host host_;
  std::unique_ptr<Plugin> plugin_;
  std::vector<Implementation*> by_index_;
};

}  // namespace pintle

extern "C" {
extern const pintle_text pintle_generated_provides[], pintle_generated_needs[];
extern const uint32_t pintle_generated_provide_count, pintle_generated_need_count;
}

// The table itself is generated from the manifest (pintle_plugin() of CMake) and names these functions, in C as in C++.
#define PINTLE_PLUGIN(Class)                                                                                       \
  extern "C" {                                                                                                     \
  pintle_code pintle_plugin_create(const pintle_host_api* api, pintle_host* host,                                  \
                                   const pintle_instance_config* config, void** instance, pintle_status* status) { \
    static const ::pintle::PluginFacts facts{pintle_generated_provides, pintle_generated_provide_count,            \
                                             pintle_generated_needs, pintle_generated_need_count};                 \
    const auto factory = [](::pintle::Host& made_for) -> std::unique_ptr<::pintle::Plugin> {                       \
      return std::make_unique<Class>(made_for);                                                                    \
    };                                                                                                             \
    return ::pintle::PluginEdge::create(facts, factory, api, host, config, instance, status);                      \
  }                                                                                                                \
  void pintle_plugin_start(void* instance, uint64_t token) { ::pintle::PluginEdge::start(instance, token); }       \
  void pintle_plugin_drain(void* instance, uint64_t token) { ::pintle::PluginEdge::drain(instance, token); }       \
  void pintle_plugin_retire(void* instance, uint64_t token) { ::pintle::PluginEdge::retire(instance, token); }     \
  void pintle_plugin_stop(void* instance, uint64_t token) { ::pintle::PluginEdge::stop(instance, token); }         \
  void pintle_plugin_destroy(void* instance) { ::pintle::PluginEdge::destroy(instance); }                          \
  void pintle_plugin_handle(void* instance, const pintle_call* call, const pintle_message* message) {              \
    ::pintle::PluginEdge::handle(instance, call, message);                                                         \
  }                                                                                                                \
  void pintle_plugin_cancelled(void* instance, uint64_t call_id) {                                                 \
    ::pintle::PluginEdge::cancelled(instance, call_id);                                                            \
  }                                                                                                                \
  void pintle_plugin_stream_message(void* instance, uint64_t call_id, const pintle_message* message) {             \
    ::pintle::PluginEdge::stream_message(instance, call_id, message);                                              \
  }                                                                                                                \
  void pintle_plugin_stream_credit(void* instance, uint64_t call_id, uint32_t credit) {                            \
    ::pintle::PluginEdge::stream_credit(instance, call_id, credit);                                                \
  }                                                                                                                \
  void pintle_plugin_bindings(void* instance, uint32_t need, const pintle_binding* bindings, uint32_t count) {     \
    ::pintle::PluginEdge::bindings(instance, need, bindings, count);                                               \
  }                                                                                                                \
  }                                                                                                                \
  static_assert(true, "a semicolon follows")
