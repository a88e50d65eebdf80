#pragma once

/// Crashes inside the daemon leave a record that names the plugin whose code ran.
///
/// `<state>/crashes/<time>-<pid>.json`: when, which signal, whose turn, where. Written by the signal handler on a stack of its
/// own, with system calls only. The next start counts them: a plugin that has crashed the daemon three times within ten
/// minutes is started in a process of its own.

#include <cstdint>
#include <pintle/status.hpp>
#include <set>
#include <string>

namespace pintle::kernel {

/// Makes the folder and takes over SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT. Once, before any plugin is loaded.
Status record_crashes(const std::string& folder);

/// Names of the instances with three records or more within the last ten minutes. Old records are thinned out to a hundred.
std::set<std::string> crashed_too_often(const std::string& folder, int64_t now_ms);

}  // namespace pintle::kernel
