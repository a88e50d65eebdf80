#pragma once

/// An isolated instance: a `pintle-plugin-host` child, and what stands in for the plugin on this side.
///
/// The child is reached by an inherited socketpair only. It gets the plugin's sealed file as a descriptor, so it runs exactly
/// the bytes that were verified here. It may do what its plugin's manifest names (capabilities), within a memory limit and a
/// seccomp profile, and it dies with us.
///
///     started --hello--> created ... serving --(crash, missed lane ping, a peer that does not read, a forged frame)--> dead
///
/// `on_death` is called once, on any thread, whenever the child ends, also when it was asked to.

#include <functional>
#include <memory>
#include <pintle/status.hpp>
#include <string>

#include "kernel/loader/library.hpp"
#include "sdk/support/engine/engine.hpp"

namespace pintle::kernel {

using namespace engine;

class Node;

struct ChildOptions {
  std::string plugin_host;
  const VerifiedPlugin* plugin = nullptr;  // used by `start` only
  std::function<void(std::string reason)> on_death;
};

class ChildProcess {
 public:
  static Result<std::shared_ptr<ChildProcess>> start(Node& node, Instance& instance, ChildOptions options);
  /// Removes cgroups of children whose daemon is gone. Blocks.
  static void remove_remains();
  virtual ~ChildProcess() = default;

  /// What takes the instance's turns: it sends them to the child.
  virtual std::unique_ptr<Handler> make_handler() = 0;
  virtual int32_t pid() const = 0;
  virtual void kill(const std::string& reason) = 0;
  virtual void set_log_level(uint32_t level) = 0;
  /// Asks for the child's metrics; they arrive in the engine's registry before `done`, or `done` comes after 300 ms.
  virtual void fetch_metrics(std::function<void()> done) = 0;
};

}  // namespace pintle::kernel
