#pragma once

/// A new image of the daemon in the same process: `execve` of the binary as it now lies on disk.
///
/// PID and listening sockets stay, so systemd sees no end and nobody who connects is refused: until the new image accepts,
/// connections wait in the backlog. A sealed memory file tells the new image which descriptor is which socket and which
/// children are still to be reaped. Its format is frozen: text lines, unknown ones are ignored.
///
///     socket <descriptor> <owner> <name> <address>
///     child <pid>

#include <pintle/status.hpp>

#include "kernel/node/listeners.hpp"
#include "kernel/node/processes.hpp"

namespace pintle::kernel {

/// Returns only on failure. All threads but the caller's have ended.
Status hand_over(Listeners& listeners, Processes& processes, char** arguments);

/// Takes what a former image or systemd's socket activation (LISTEN_FDNAMES: "owner/name") left open.
void take_over(Listeners& listeners, Processes& processes);

}  // namespace pintle::kernel
