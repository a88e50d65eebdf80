#pragma once

/// conmon: the process that watches a container, writes its log and keeps its exit code.
///
/// It is started detached in the monitors' cgroup and creates the container by running the OCI runtime; crun with the cgroupfs driver
/// through our launcher, which joins the container's cgroup first. What it says:
///
///   sync pipe   one line of JSON once the runtime has ended: {"pid": N}, or {"pid": -1, "message": "..."} on failure
///   exit file   <exits>/<id> with the exit code, by rename, as soon as the container's process has ended
///   oom file    <container>/oom when the kernel killed in its cgroup
///   control     FIFO <container>/ctl: "2 0 0" opens the log file again by its name
///
/// These are conmon 2.1's; its source is the only description (src/conmon.c, src/ctrl.c).

#include <optional>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/runtime-oci/bundle.hpp"

namespace pintle::runtime_oci {

/// The monitor of a container that is to be created. Its descriptors (0, 1, 2, 3) are the caller's to set; 3 is the sync pipe.
Command monitor_command(const Node& node, const Prepared& prepared);

/// A command of the OCI runtime by its global options, such as {"start", id}.
std::vector<std::string> runtime_arguments(const Node& node, const ContainerRecord& record,
                                           std::vector<std::string> arguments);

/// A command in a running container: descriptors 0, 1, 2 are its own, 3 is the process document.
Command exec_command(const Node& node, const ContainerRecord& record, bool terminal, const std::string& pid_file);

/// The PID, or why there is none.
Result<int> parse_sync(std::string_view line);

struct Exit {
  int code = 0;
  int64_t finished_at = 0;  ///< nanoseconds since 1970
};
/// Nothing if the container has not ended, as far as the monitor told.
Result<std::optional<Exit>> read_exit(const Node& node, const std::string& id);
/// Puts the end into the record, with whether memory ran out, and saves it.
void apply_exit(const Node& node, ContainerRecord& record, const Exit& exit);

/// Lets the created container's program run, as the OCI runtime's own `start` does it, without another program. Blocks for no longer
/// than the container's first process needs, at most 30 s. FAILED_PRECONDITION if that does not answer: then `start` has to do it, or tell why.
Status release_start(const Node& node, const ContainerRecord& record);

/// Makes the monitor open the log again, and waits until the file is there. Blocks, at most 2 s.
Status reopen_log(const Node& node, const ContainerRecord& record);

}  // namespace pintle::runtime_oci
