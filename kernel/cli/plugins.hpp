#pragma once

/// What `status` and `plugin` show of a plugin as the daemon describes it (kernel/admin/README.md).

#include <boost/json/value.hpp>
#include <cstdint>
#include <string>

#include "kernel/cli/output.hpp"

namespace pintle::cli {

/// What is wrong with it, in one line: why it is not running, else its first false condition, else a need nobody answers.
std::string plugin_problem(const boost::json::value& plugin);
Color state_color(const std::string& state);
/// The instance's name; of a retiring one its key, as another has its name now.
Cell plugin_name_cell(const boost::json::value& plugin);
/// Proportional set size of a process, "12Mi"; empty if it cannot be read.
std::string process_memory(int64_t pid);

}  // namespace pintle::cli
