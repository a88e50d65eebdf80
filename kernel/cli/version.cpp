// pintle version: of this program, and of the daemon if it answers.

#include <pintle/abi.h>

#include <CLI/App.hpp>
#include <boost/json.hpp>

#include "kernel/cli/cli.hpp"

namespace pintle::cli {

namespace {

int show_version(Context& context, const NoOptions&) {
  const std::string abi = std::to_string(PINTLE_ABI_MAJOR) + "." + std::to_string(PINTLE_ABI_MINOR);
  Result<boost::json::value> status = context.admin().json("GET", "/v1/status", "", std::chrono::seconds(2));
  const std::string daemon = status ? text_member(*status, "version") : "";
  if (context.printed({{"pintle", PINTLE_VERSION},
                       {"abi", abi},
                       {"pintled", daemon.empty() ? boost::json::value() : daemon.c_str()}}))
    return exit_ok;
  context.out << "pintle   " << PINTLE_VERSION << " (plugin ABI " << abi << ")\npintled  "
              << (daemon.empty() ? "not reachable" : daemon) << "\n";
  return exit_ok;
}

}  // namespace

void add_version(CLI::App& app, Context& context) {
  command<NoOptions>(app, context, "version", "Versions of this program, the plugin ABI and the running daemon",
                     declare_none, show_version);
}

}  // namespace pintle::cli
