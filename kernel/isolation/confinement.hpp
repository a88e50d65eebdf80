#pragma once

/// What a child gives up before it runs a plugin's code.
///
/// No new privileges, only the capabilities of the manifest, no children (they are asked for from the host), no tracing, no
/// kernel modules, keys, BPF or io_uring; namespaces and mounts only with CAP_SYS_ADMIN. System calls that are newer than the
/// list answer ENOSYS, so that libraries fall back. Memory by the cgroup that the host made, else by RLIMIT_DATA.

#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <vector>

namespace pintle::kernel {

struct Confinement {
  std::vector<std::string> capabilities;  // "CAP_NET_ADMIN"
  uint64_t memory = 0;                    // bytes; 0: a cgroup sees to it
};

/// To be called by the process's only thread. INVALID_ARGUMENT: an unknown capability.
Status confine(const Confinement& confinement);

}  // namespace pintle::kernel
