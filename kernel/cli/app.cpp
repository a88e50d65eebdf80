// The application: its commands, the options that all have, and what becomes of errors.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <map>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/completion.hpp"
#include "sdk/support/document/nearest.hpp"

namespace pintle::cli {

namespace {

constexpr struct {
  const char* name;
  void (*add)(CLI::App&, Context&);
} command_groups[] = {
    {"status", add_status},   {"plugin", add_plugin}, {"profile", add_profile},
    {"logs", add_logs},       {"pod", add_pod},       {"top", add_top},
    {"image", add_image},     {"doctor", add_doctor}, {"completion", add_completion},
    {"version", add_version},
};

constexpr std::string_view exit_code_help =
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 not found, 4 pintled is not reachable, 5 not ready or "
    "unavailable,\n"
    "6 not allowed by the present state, 7 permission denied, 8 timed out. `pintle pod exec` gives the command's own.";

std::vector<std::string> split_path(const char* text) {
  std::vector<std::string> folders;
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(':'), rest.size());
    if (end > 0) folders.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return folders;
}

// What to do next, after an error.
std::string hint(const Status& status, bool unreachable) {
  if (unreachable && status.message().find("permission denied") != std::string::npos)
    return "run it as root: sudo pintle ...";
  if (unreachable) {
    return access("/run/systemd/system", F_OK) == 0
               ? "start it with: systemctl start pintled    (its log: journalctl -u pintled)"
               : "start it with: pintled --profile standalone    (another socket: --socket or PINTLE_SOCKET)";
  }
  switch (status.code()) {
    case Code::unavailable:
      return "see what is wrong with: pintle status";
    case Code::permission_denied:
      return "run it as root: sudo pintle ...";
    case Code::deadline_exceeded:
    case Code::internal:
      return "see what happened with: pintle logs --level warn";
    default:
      return {};
  }
}

// CLI11 names only what it did not understand; the nearest command or option is more help.
std::string what_was_meant(const CLI::App& app, const std::vector<std::string>& arguments) {
  const CLI::App* at = &app;
  std::vector<std::string> known;
  for (const std::string& word : arguments) {
    known.clear();
    const bool is_option = word.starts_with('-');
    if (is_option) {
      for (const CLI::App* level = at; level != nullptr; level = level->get_parent()) {
        for (const CLI::Option* option : level->get_options({})) {
          for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
        }
      }
      if (word.starts_with("--") && word.find('=') == std::string::npos &&
          std::find(known.begin(), known.end(), word) == known.end()) {
        return document::nearest(word, known);
      }
      continue;
    }
    const CLI::App* next = nullptr;
    for (const CLI::App* sub : at->get_subcommands([](const CLI::App*) { return true; })) {
      known.push_back(sub->get_name());
      if (sub->get_name() == word) next = sub;
    }
    if (known.empty()) continue;
    if (next == nullptr) return document::nearest(word, known);
    at = next;
  }
  return {};
}

}  // namespace

int exit_code_of(Code code) {
  switch (code) {
    case Code::ok:
      return exit_ok;
    case Code::invalid_argument:
    case Code::out_of_range:
      return exit_invalid;
    case Code::not_found:
      return exit_not_found;
    case Code::unavailable:
      return exit_unavailable;
    case Code::already_exists:
    case Code::aborted:
    case Code::failed_precondition:
      return exit_conflict;
    case Code::permission_denied:
    case Code::unauthenticated:
      return exit_denied;
    case Code::deadline_exceeded:
      return exit_timeout;
    default:
      return exit_failure;
  }
}

Context::Context(std::ostream& out_stream, std::ostream& error_stream) : out(out_stream), error(error_stream) {
  profiles.read_plugin = [](const std::string& path) { return read_plugin_file(path); };
}

AdminClient& Context::admin() {
  if (!admin_) admin_ = std::make_unique<AdminClient>(socket);
  return *admin_;
}

bool Context::printed(const boost::json::value& value) {
  if (format == Format::json) out << pretty_json(value);
  if (format == Format::yaml) out << document::write_yaml(value);
  return format == Format::json || format == Format::yaml;
}

int Context::fail(const Status& status) {
  const bool unreachable = admin_ != nullptr && admin_->unreachable();
  error << colored("pintle: ", Color::red, color_errors) << one_line(status.message()) << "\n";
  if (const std::string next = hint(status, unreachable); !next.empty()) error << next << "\n";
  return unreachable ? static_cast<int>(exit_unreachable) : exit_code_of(status.code());
}

void Context::note(const std::string& text) { error << text << "\n"; }

void read_environment(Context& context) {
  if (const char* socket = std::getenv("PINTLE_SOCKET"); socket != nullptr && *socket != '\0') context.socket = socket;
  if (const char* folders = std::getenv("PINTLE_PROFILE_PATH"); folders != nullptr && *folders != '\0') {
    context.profiles.profile_folders = split_path(folders);
  }
  if (const char* folders = std::getenv("PINTLE_PLUGIN_PATH"); folders != nullptr && *folders != '\0') {
    context.profiles.plugin_folders = split_path(folders);
  }
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool allowed =
      (no_color == nullptr || *no_color == '\0') && (terminal == nullptr || std::string_view(terminal) != "dumb");
  context.color = allowed && isatty(STDOUT_FILENO) == 1;
  context.color_errors = allowed && isatty(STDERR_FILENO) == 1;
}

std::unique_ptr<CLI::App> make_app(Context& context) {
  auto app = std::make_unique<CLI::App>("Looks after a Pintle node: its plugins, profiles, pods and images.", "pintle");
  app->footer(std::string(exit_code_help));
  app->require_subcommand(1);
  app->fallthrough();
  app->add_option("--socket", context.socket, "Admin socket of pintled (PINTLE_SOCKET)")
      ->type_name("FILE")
      ->capture_default_str();
  static const std::map<std::string, Format> formats = {
      {"table", Format::table}, {"wide", Format::wide}, {"json", Format::json}, {"yaml", Format::yaml}};
  app->add_option_function<std::string>(
         "-o,--output", [&context](const std::string& name) { context.format = formats.at(name); },
         "How to print: table, wide, json, yaml")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"table", "wide", "json", "yaml"}).description(""));
  for (const auto& group : command_groups) group.add(*app, context);
  for (CLI::App* sub : app->get_subcommands({})) {
    sub->fallthrough();
    for (CLI::App* leaf : sub->get_subcommands({})) leaf->fallthrough();
  }
  return app;
}

int run(Context& context, const std::vector<std::string>& arguments) {
  const std::unique_ptr<CLI::App> app = make_app(context);
  // The shells' completion scripts ask by this word; what follows it is half written and not to be parsed.
  if (!arguments.empty() && arguments[0] == "__complete") {
    for (const Candidate& candidate : complete(*app, context, {arguments.begin() + 1, arguments.end()})) {
      context.out << candidate.word << (candidate.description.empty() ? "" : "\t" + candidate.description) << "\n";
    }
    return exit_ok;
  }
  try {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app->parse(reversed);
    return context.exit;
  } catch (const CLI::Success& asked) {
    return app->exit(asked, context.out, context.error);
  } catch (const CLI::ParseError& problem) {
    context.error << colored("pintle: ", Color::red, context.color_errors) << one_line(problem.what());
    const std::string meant = what_was_meant(*app, arguments);
    context.error << (meant.empty() ? "" : "; did you mean " + meant + "?") << "\n";
    std::string path = "pintle";
    for (const CLI::App* at = app.get(); !at->get_subcommands().empty();) {
      at = at->get_subcommands().front();
      path += " " + at->get_name();
    }
    context.error << "see: " << path << " --help\n";
    return exit_invalid;
  }
}

}  // namespace pintle::cli
