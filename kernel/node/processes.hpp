#pragma once

/// Children of this process: watched by pidfd, reaped one by one. Nobody here waits for "any child": several parts of a
/// process may have children, and each is waited for by its own descriptor.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <pintle/status.hpp>
#include <vector>

#include "sdk/support/engine/reactor.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/process/process.hpp"

namespace pintle::kernel {

using engine::Reactor;
using process::SpawnRequest;
using process::StartedProcess;

class Processes {
 public:
  explicit Processes(Reactor& reactor) : reactor_(reactor) {}
  ~Processes();

  /// `exited` gets the wait status, once, on a thread of the reactor. Returns a pidfd for the asker.
  Result<StartedProcess> start(const SpawnRequest& request, std::function<void(int32_t pid, int wait_status)> exited);
  /// Children that a former image of this process started: they are reaped.
  void adopt(int32_t pid);
  std::vector<int32_t> children();
  /// SIGKILL to those that were not started as PINTLE_SPAWN_DETACHED: the host ends.
  void kill_attached();

 private:
  struct Child {
    files::Descriptor pidfd;
    uint64_t watch = 0;
    bool detached = true;
    std::function<void(int32_t, int)> exited;
  };
  void watch(int32_t pid, std::shared_ptr<Child> child);

  Reactor& reactor_;
  std::mutex lock_;
  std::map<int32_t, std::shared_ptr<Child>> children_;
};

}  // namespace pintle::kernel
