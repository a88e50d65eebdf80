#pragma once

/// The `pintle` command: an administrator's view of a node.
///
/// `main.cpp` only starts. `app.cpp` holds the table of commands: one row, one file, one function `add_...` that hangs its
/// subcommands on the CLI11 application. A command is a function from the `Context` and its options to an exit code; it
/// asks the daemon over the admin socket (`admin_client.hpp`, kernel/admin/README.md), or reads files, as profiles are.
///
/// What a command prints is a JSON value first: `-o json` and `-o yaml` show it as it is, and the tables for people are made of it.
/// Results go to the standard output, everything else (errors, notes) to the standard error. Colour is only used on a terminal, and
/// never where NO_COLOR is set (https://no-color.org).
///
/// The type name of an option or positional ("PLUGIN", "POD", "FILE", ...) is what `--help` shows and what completion asks by:
/// `completion.cpp` walks the CLI11 application, so a new command is completed without a further line.
///
/// Exit codes are part of the interface, see `Exit`. README.md lists all commands.

#include <CLI/App.hpp>
#include <boost/json/value.hpp>
#include <memory>
#include <ostream>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/cli/admin_client.hpp"
#include "kernel/cli/output.hpp"
#include "kernel/profile/profile.hpp"

namespace pintle::cli {

/// `pintle pod exec` gives the exit code of the command that it ran; its own failures are `exec_failed` then.
enum Exit : int {
  exit_ok = 0,
  exit_failure = 1,
  exit_invalid = 2,      // wrong usage, or input that is refused
  exit_not_found = 3,    // what was named does not exist
  exit_unreachable = 4,  // pintled cannot be reached
  exit_unavailable = 5,  // not ready, or a plugin that is not there at present
  exit_conflict = 6,     // the state does not allow it: it exists already, is in use, lacks something
  exit_denied = 7,       // not permitted
  exit_timeout = 8,
  exit_exec_failed = 125,
};

/// The exit code for an error of this code.
int exit_code_of(Code code);

struct Context {
  Context(std::ostream& out_stream, std::ostream& error_stream);

  std::ostream& out;
  std::ostream& error;
  std::string socket = "/run/pintle/pintled.sock";
  Format format = Format::table;
  bool color = false;
  bool color_errors = false;
  ProfileSources profiles;
  int exit = exit_ok;  // of the command that ran

  /// The connection to the daemon, made at first use.
  AdminClient& admin();

  /// Prints a value: as JSON or YAML if that was asked for (true), else nothing, and the caller prints for people.
  bool printed(const boost::json::value& value);

  /// Says on the standard error what failed and what to do next, and gives the exit code.
  int fail(const Status& status);
  void note(const std::string& text);

 private:
  std::unique_ptr<AdminClient> admin_;
};

/// A subcommand whose callback stores its exit code in the context. `Options` is made once and lives as long as the application.
///
///     command<PodOptions>(app, context, "rm", "End a pod", [](CLI::App& sub, PodOptions& options) { sub.add_option(...); }, remove_pod);
template <class Options>
CLI::App* command(CLI::App& parent, Context& context, const std::string& name, const std::string& description,
                  void (*declare)(CLI::App&, Options&), int (*run)(Context&, const Options&)) {
  CLI::App* sub = parent.add_subcommand(name, description);
  auto options = std::make_shared<Options>();
  declare(*sub, *options);
  sub->callback([&context, options, run] { context.exit = run(context, *options); });
  return sub;
}

/// The options of commands that have none.
struct NoOptions {};
inline void declare_none(CLI::App&, NoOptions&) {}

/// The whole application. `context` must outlive it.
std::unique_ptr<CLI::App> make_app(Context& context);
/// What the daemon and the environment say of defaults: PINTLE_SOCKET, PINTLE_PROFILE_PATH, PINTLE_PLUGIN_PATH, NO_COLOR.
void read_environment(Context& context);
/// main() without the process around it.
int run(Context& context, const std::vector<std::string>& arguments);

// One function a file, in the order of the help.
void add_status(CLI::App& app, Context& context);
void add_plugin(CLI::App& app, Context& context);
void add_profile(CLI::App& app, Context& context);
void add_logs(CLI::App& app, Context& context);
void add_pod(CLI::App& app, Context& context);
void add_top(CLI::App& app, Context& context);
void add_image(CLI::App& app, Context& context);
void add_doctor(CLI::App& app, Context& context);
void add_completion(CLI::App& app, Context& context);
void add_version(CLI::App& app, Context& context);

}  // namespace pintle::cli
