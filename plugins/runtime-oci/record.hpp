#pragma once

/// What is kept on disk of a container, so that any later instance of this plugin finds it again.
///
///     <state>/containers/<id>/state.json   this record; written aside and renamed
///                            /config.json  the OCI bundle: spec, and
///                            /rootfs       where the image's layers, `upper` and `work` are mounted (overlayfs, volatile)
///                            /pid          of the first process, written by the OCI runtime
///                            /ctl /winsz /attach /oom   conmon's
///     <state>/oci/<id>/                    the OCI runtime's own state
///     <state>/trash/                       what was removed and waits for deletion
///     <run>/exits/<id>                     the exit code, written by conmon; its time is when the container ended
///
/// What is needed while a container runs is in the state folder, because the run folder may be emptied meanwhile. Its exit code comes when
/// the disk may be full, and a monitor tries only once: that is in the run folder, which is in memory.
///
/// Phases: `creating` is written before anything else is made, so that a crash in between leaves a name to clean up by;
/// `created` once the OCI runtime has set the container up; `started` once its program was released; `exited`; `removing`.

#include <cstdint>
#include <map>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::runtime_oci {

enum class Phase { creating, created, started, exited, removing };

/// A process that is told from a later one with the same PID by when it began (field 22 of /proc/PID/stat).
struct ProcessIdentity {
  int pid = 0;  ///< 0: none
  uint64_t start_time = 0;
};

struct ContainerRecord {
  std::string id;
  std::string sandbox_id;
  std::string image_id;
  std::string log_path;
  std::string cgroup;
  std::string scope;                 ///< its systemd unit; empty: the cgroup is our own
  uint64_t kills_beside_before = 0;  ///< of the pod's cgroup (placement.hpp) when this container was made
  std::string name;                  ///< of CRI's metadata
  uint32_t attempt = 0;
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> annotations;
  int stop_signal = 15;
  bool shares_processes = false;  ///< with the pod or the node: its first process's end does not end the others
  Phase phase = Phase::creating;
  std::string boot_id;  ///< PIDs mean something only until the machine starts again
  ProcessIdentity process;
  ProcessIdentity monitor;
  int64_t created_at = 0;  ///< nanoseconds since 1970
  int64_t started_at = 0;
  int64_t finished_at = 0;
  int exit_code = 0;
  bool out_of_memory = false;
  std::string message;

  std::string to_json() const;
  /// DATA_LOSS for what is damaged.
  static Result<ContainerRecord> parse(std::string_view json);
};

/// 64 lowercase hexadecimal digits.
bool is_container_id(std::string_view id);
/// The process's start time in clock ticks since boot; NOT_FOUND once it is gone (a zombie counts as gone).
Result<uint64_t> start_time_of(int pid);
bool is_alive(const ProcessIdentity& process);
/// Of this boot of the machine.
std::string boot_id();
int64_t now();

/// "SIGTERM", "TERM", "15", "SIGRTMIN+3" to Linux's number; 0 if it is none.
int signal_number(std::string_view text);

}  // namespace pintle::runtime_oci
