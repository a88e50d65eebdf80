#pragma once

/// Control groups as hosts have them: v2, v1, or hybrid (controllers on v1, an empty or partial v2 hierarchy beside
/// them).
///
/// A *path* ("/pintle/4f2a...") names one cgroup in every hierarchy at once, relative to the hierarchies' mounts;
/// whoever uses this library need not know which of them there are. A *folder* is the cgroup of a path in one
/// hierarchy. Life of a cgroup:
///
///     create -> apply limits -> processes join -> stats, limits again -> kill -> remove
///
/// Joining. Writing another process's PID into `cgroup.procs` costs a grace period of the kernel (6 to 12 ms). So a
/// process joins by itself before it executes: on v1 by writing "0" into `tasks` of each folder, on v2 by being cloned
/// into it (CLONE_INTO_CGROUP). `Host::spawn` takes `folders`; our launcher takes `tasks_files` and `unified_folder`.
/// Programs that are not ours write PIDs (runc, systemd): whoever is about to run one calls `open_attach_lock` meanwhile.
///
/// On v2 the controllers have to be passed on by each parent (`cgroup.subtree_control`), which must hold no processes
/// itself (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint"): `create` does the former,
/// callers keep the latter.
///
/// Files are read once and tolerantly: a cgroup that vanishes meanwhile is NOT_FOUND, a file that a kernel lacks counts
/// as zero.
///
///     auto layout = cgroup::Layout::detect();
///     layout->create("/pintle/web");
///     layout->apply("/pintle/web", {.memory = 64 << 20});
///     command.cgroups = layout->folders("/pintle/web");

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pintle::cgroup {

enum class Mode { v1, v2, hybrid };
/// "v1", "v2", "hybrid"
std::string_view mode_name(Mode mode);

struct Hierarchy {
  std::string mount;                     ///< "/sys/fs/cgroup/memory"
  std::vector<std::string> controllers;  ///< empty for a named v1 hierarchy
  bool unified = false;
};

/// What to limit; absent or empty means: leave as it is. Units are those of CRI's LinuxContainerResources.
struct Limits {
  std::optional<uint64_t> cpu_shares;      ///< 2 to 262144; made a weight on v2
  std::optional<int64_t> cpu_quota;        ///< microseconds in each period; -1: none
  std::optional<uint64_t> cpu_period;      ///< microseconds
  std::optional<int64_t> memory;           ///< bytes; -1: none
  std::optional<int64_t> memory_and_swap;  ///< bytes; -1: none
  std::optional<int64_t> processes;        ///< -1: none
  std::string cpuset_cpus;
  std::string cpuset_mems;
  std::vector<std::pair<std::string, uint64_t>> huge_pages;  ///< "2MB" and bytes
  std::map<std::string, std::string> unified;                ///< files of the v2 cgroup
};

struct Stats {
  int64_t time = 0;  ///< when read, nanoseconds since 1970
  uint64_t cpu_nanoseconds = 0;
  uint64_t memory_bytes = 0;
  uint64_t working_set_bytes = 0;  ///< without inactive file pages
  uint64_t anonymous_bytes = 0;
  uint64_t page_faults = 0;
  uint64_t major_page_faults = 0;
  uint64_t memory_limit = 0;  ///< 0: none
  uint64_t swap_bytes = 0;
  uint64_t swap_limit = 0;  ///< 0: none
  uint64_t processes = 0;
  uint64_t out_of_memory_kills = 0;
};

/// A device that may be used, as of devices.allow: no number means all.
struct DeviceRule {
  char kind = 'c';  ///< 'c', 'b'; 'a' for both
  std::optional<uint32_t> major;
  std::optional<uint32_t> minor;
  std::string access = "rwm";
};

class Layout {
 public:
  /// Of this host, from /proc/self/mountinfo. FAILED_PRECONDITION if no cgroup hierarchy is mounted.
  static Result<Layout> detect();
  /// From the text of mountinfo; `unified_controllers` is cgroup.controllers of the v2 root.
  static Result<Layout> parse(std::string_view mountinfo, std::string_view unified_controllers);

  Mode mode() const { return mode_; }
  const std::vector<Hierarchy>& hierarchies() const { return hierarchies_; }
  /// The hierarchy that has this controller; null if none.
  const Hierarchy* of(std::string_view controller) const;

  /// The cgroup's folders, one for each hierarchy.
  std::vector<std::string> folders(std::string_view path) const;
  /// Where a single-threaded process writes "0" to join: v1 only.
  std::vector<std::string> tasks_files(std::string_view path) const;
  /// The folder to be cloned into; empty without a v2 hierarchy.
  std::string unified_folder(std::string_view path) const;

  /// Makes the cgroup and those above it, and passes the controllers on. Success if it exists. Nothing of the cgroup
  /// itself remains on failure. INVALID_ARGUMENT for a path that is not absolute or leads up.
  Status create(std::string_view path) const;
  /// FAILED_PRECONDITION names a controller that is asked for and missing.
  Status apply(std::string_view path, const Limits& limits) const;
  /// Allows just these devices. On v2 the program stays attached as long as the cgroup lives.
  Status allow_devices(std::string_view path, const std::vector<DeviceRule>& rules) const;

  /// Takes the lock that a write into `cgroup.procs` takes (the kernel's cgroup_threadgroup_rwsem), and moves nothing. It waits for the
  /// grace period, so that those do not who write within the next milliseconds (8 and more at 250 ticks a second; kernel/rcu/sync.c).
  /// While the lock is open it costs 0.02 ms.
  Status open_attach_lock() const;

  bool exists(std::string_view path) const;
  Result<Stats> stats(std::string_view path) const;
  /// Processes in the cgroup and below it.
  Result<std::vector<pid_t>> processes(std::string_view path) const;
  /// SIGKILL to all in the cgroup and below it, until nobody forks any more. They may still be ending when it returns.
  Status kill(std::string_view path) const;
  /// Removes the cgroup and those below it, in all hierarchies. Waits at most `patience_ms` for processes that are
  /// ending. Success if it is gone. Goes on after an error and reports the first.
  Status remove(std::string_view path, unsigned patience_ms = 200) const;
  /// Removes the cgroup where it holds nothing: no process, no cgroup below. Others are left alone without a word.
  void discard(std::string_view path) const;

 private:
  Status create_once(std::string_view path) const;

  Mode mode_ = Mode::v2;
  std::vector<Hierarchy> hierarchies_;
};

/// The device program for v2, as BPF instructions; for tests.
std::vector<uint64_t> device_program(const std::vector<DeviceRule>& rules);

/// Shares (v1) as a weight (v2), by the formula of the OCI runtimes.
uint64_t weight_of_shares(uint64_t shares);

}  // namespace pintle::cgroup
