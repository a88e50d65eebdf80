#pragma once

/// What of the node can run short, and how much of it there is now: the signals of Kubernetes' node-pressure eviction.
///
///     memory.available             capacity without the working set (what the kernel can drop at once does not count as used)
///     allocatableMemory.available  the same of what all pods together may use: the limit of their cgroup
///     nodefs.available             the file system of volumes and logs; nodefs.inodesFree its inodes
///     imagefs.available            that of images and of what containers write; imagefs.inodesFree
///     containerfs.available        what containers write: in our stores the same as imagefs
///     pid.available                processes and threads that the kernel still gives
///
/// Memory is read from /proc/meminfo and the root cgroup. Which files: Documentation/admin-guide/cgroup-v{1,2}; what is reckoned:
/// https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/. All functions block shortly; any thread.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace pintle::agent {

enum class Signal : uint8_t {  // in the order in which they are acted on
  memory_available,
  allocatable_memory_available,
  nodefs_available,
  nodefs_inodes_free,
  imagefs_available,
  imagefs_inodes_free,
  containerfs_available,
  containerfs_inodes_free,
  pid_available,
};

std::string_view name_of(Signal signal);
std::optional<Signal> signal_named(std::string_view name);
/// What pods use of it: "memory", "ephemeral-storage", "inodes", "pids".
std::string_view resource_of(Signal signal);
bool is_of_memory(Signal signal);
bool is_of_disk(Signal signal);
bool counts_inodes(Signal signal);

struct Observation {
  int64_t available = 0;
  int64_t capacity = 0;
};
using Observations = std::map<Signal, Observation>;

struct SignalSources {
  std::string nodefs;       ///< a folder on it
  std::string imagefs;      ///< a folder on it; empty: not known yet
  std::string pods_cgroup;  ///< "/kubepods"; empty: pods are not limited together
  int64_t pods_memory = 0;  ///< what they may use together, bytes
};

/// What cannot be read is left out.
Observations observe(const SignalSources& sources);
/// Only memory, as it changes the fastest.
Observations observe_memory(const SignalSources& sources);

/// Bytes of working set, and capacity, from the texts of /proc/meminfo and of the root cgroup's memory.stat. `usage` is v1's
/// memory.usage_in_bytes; without it everything that is not free counts as used.
std::optional<Observation> memory_available(std::string_view meminfo, std::string_view memory_stat,
                                            std::optional<int64_t> usage);

/// Percent of a file system that is used; nothing if it cannot be asked.
struct Fullness {
  int64_t capacity = 0, available = 0;
};
std::optional<Fullness> fullness_of(const std::string& folder);

/// Whether two folders lie on one file system.
bool on_one_filesystem(const std::string& a, const std::string& b);

}  // namespace pintle::agent
