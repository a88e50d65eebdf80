#pragma once

/// Starting a child without fork(2).
///
/// A child shares our memory until it executes (CLONE_VM | CLONE_VFORK, on a stack of its own), so a start costs the same
/// whatever our size, and no lock of another thread is seen half taken. Between clone and exec only system calls are made.
/// On cgroup v2 the kernel puts the child into its cgroup (CLONE_INTO_CGROUP); on v1 the child writes 0 into `tasks`, which
/// is quick because it moves itself.

#include <pintle/abi.h>

#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "sdk/support/files/files.hpp"

namespace pintle::process {

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

/// The wait status (waitpid(2)) of a child that has ended, by its pidfd. UNAVAILABLE: it still runs.
Result<int> reap(int pidfd);

}  // namespace pintle::process
