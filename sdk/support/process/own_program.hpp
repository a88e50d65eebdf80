#pragma once

/// Where the running program lies, and with it what was installed or built along with it. A plugin cannot ask where it lies
/// itself: what was verified is loaded from memory.

#include <string>
#include <string_view>

namespace pintle::process {

/// The absolute path the running program was started from (proc(5), /proc/PID/exe). After an upgrade that path leads to the new
/// program, or to none. Empty if /proc cannot be read. Any thread.
std::string own_program();

/// A file of the same installation or build tree: "lib/pintle/NAME" beside the running program's folder ("/usr/sbin/pintled" has
/// "/usr/lib/pintle/NAME"). Where there is none, the one below /usr, be it there or not. `path`: below the prefix. Any thread.
std::string installed_beside(std::string_view path);

}  // namespace pintle::process
