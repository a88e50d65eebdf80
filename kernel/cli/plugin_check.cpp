// pintle plugin check: does a plugin's file keep what a plugin promises?

#include "sdk/testkit/plugin_check.hpp"

#include <CLI/CLI.hpp>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/plugin_sdk.hpp"

namespace pintle::cli {

using testkit::Outcome;
using testkit::Verdict;

namespace {

struct CheckOptions {
  std::string file;
  testkit::PluginCheckOptions check;
};

Color color_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::passed:
      return Color::green;
    case Outcome::failed:
      return Color::red;
    case Outcome::unfinished:
      return Color::yellow;
    case Outcome::skipped:
      break;
  }
  return Color::dim;
}

int exit_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::green:
      return exit_ok;
    case Verdict::incomplete:
      return exit_unavailable;
    case Verdict::unfinished:
      return exit_conflict;
    case Verdict::broken:
      return exit_failure;
    case Verdict::not_a_plugin:
      return exit_invalid;
    case Verdict::not_found:
      break;
  }
  return exit_not_found;
}

void show(Context& context, const testkit::PluginReport& report) {
  size_t widest = 0;
  for (const testkit::CheckStep& step : report.steps) widest = std::max(widest, step.name.size());
  for (const testkit::CheckStep& step : report.steps) {
    const std::string outcome(testkit::outcome_name(step.outcome));
    context.out << step.name << std::string(widest + 2 - step.name.size(), ' ')
                << colored(outcome, color_of(step.outcome), context.color) << std::string(12 - outcome.size(), ' ')
                << one_line(step.summary) << "\n";
    for (const std::string& finding : step.findings)
      context.out << std::string(widest + 2, ' ') << "- " << one_line(finding) << "\n";
  }
  context.out << (report.id.empty() ? report.path : report.id) << ": " << testkit::verdict_name(report.verdict) << "\n";
}

int check(Context& context, const CheckOptions& options) {
  const testkit::PluginReport report = testkit::check_plugin(options.file, options.check);
  if (!context.printed(testkit::to_json(report))) show(context, report);
  return exit_of(report.verdict);
}

}  // namespace

void add_plugin_check(CLI::App& group, Context& context) {
  CLI::App* sub = command<CheckOptions>(
      group, context, "check", "Check a plugin's file, from its ELF note to the contract of each interface",
      [](CLI::App& declared, CheckOptions& options) {
        declared.add_option("file", options.file, "The plugin, X.so")->required()->type_name("FILE");
        declared.add_option("--config", options.check.config_file, "The config to check it with, JSON or YAML")
            ->type_name("FILE");
      },
      check);
  sub->footer(
      "Exit codes: 0 green, 1 something is broken, 2 no plugin, 3 no such file, 5 a step had to be skipped (a config "
      "or a need that\n"
      "is not there), 6 methods are still unimplemented. The plugin's code runs, as root in namespaces of its own.");
}

}  // namespace pintle::cli
