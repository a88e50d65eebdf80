#pragma once

/// The commands of `pintle plugin` that a vendor works with; they need no daemon.

#include "kernel/cli/cli.hpp"

namespace pintle::cli {

void add_plugin_new(CLI::App& group, Context& context);
void add_plugin_check(CLI::App& group, Context& context);

}  // namespace pintle::cli
