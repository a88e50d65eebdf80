#pragma once

/// Children: started without fork(2), watched by pidfd, reaped one by one.
///
/// A child shares our memory until it executes (CLONE_VM | CLONE_VFORK, on a stack of its own), so a start costs the same
/// whatever our size, and no lock of another thread is seen half taken. Between clone and exec only system calls are made.
/// On cgroup v2 the kernel puts the child into its cgroup (CLONE_INTO_CGROUP); on v1 the child writes 0 into `tasks`, which
/// is quick because it moves itself.
///
/// Nobody here waits for "any child": several parts of a process may have children, and each is waited for by its pidfd.

#include <pintle/abi.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "kernel/engine/reactor.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::kernel {

struct SpawnRequest {
  std::string program;
  std::vector<std::string> arguments, environment, cgroups;
  std::string directory = "/";
  std::vector<int> descriptors;  // become 0, 1, 2, ...; -1 is /dev/null; borrowed
  uint32_t flags = 0;            // PINTLE_SPAWN_*
  bool dies_with_parent = false;
};

/// Copies what crossed the boundary; INVALID_ARGUMENT names what is out of bounds.
Result<SpawnRequest> spawn_request(const pintle_spawn& spawn);

struct StartedProcess {
  int32_t pid = 0;
  files::Descriptor pidfd;
};

/// Returns when the child executes, or why it does not (NOT_FOUND: no such program). Any thread.
Result<StartedProcess> start_process(const SpawnRequest& request);

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
