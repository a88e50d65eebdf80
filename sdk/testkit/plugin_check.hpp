#pragma once

/// `pintle plugin check`: is this shared object a plugin that a node can take, and does it keep the contracts of what it provides?
///
/// The check goes from what can be read to what has to run. Each step has a name and one outcome:
///
/// | step | what is looked at |
/// | --- | --- |
/// | `file` | a shared object of this machine's ELF class, order and processor |
/// | `note` | id, ABI, and the hash over the sections `.pintle.manifest` and `.pintle.schema` |
/// | `symbols` | `pintle_plugin_entry` is exported, and nothing else |
/// | `linking` | no initial-exec TLS, RELRO with immediate binding, no text relocation, no executable stack, nothing unresolved |
/// | `manifest` | by `sdk/schema/manifest.schema.json`; interfaces, revisions and features by their schemas |
/// | `config` | the config schema is one, and takes its own defaults or the config that was given |
/// | `entry` | the table that the loader sees is complete and says what the sections say |
/// | `create`, `start`, `stop` | an instance on a `FakeNode`, answered within its time |
/// | `contract of X` | the contract suite of every interface that it provides (`contract.hpp`) |
/// | `conduct` | no promise of the ABI broken on the way; signals, umask, folder, environment and locale of the process left alone |
///
/// From `entry` on, the plugin's code runs: in a child process, which with root's rights also has network, mount, process and IPC
/// namespaces of its own. A plugin that crashes or hangs there is a finding that names what was under way; whatever it started ends
/// with the child.
///
/// A step that cannot be done is *skipped* with the reason: config that is needed and was not given, a need of kind `start` that
/// nobody answers here, an interface without a schema in this SDK. That is neither success nor failure, and the verdict says so.
///
///     PluginReport report = check_plugin("build/acme-runtime.so");
///     if (report.verdict == Verdict::unfinished) ...   // the methods that answer UNIMPLEMENTED stand in the findings

#include <boost/json/value.hpp>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::testkit {

enum class Outcome { passed, failed, unfinished, skipped };

struct CheckStep {
  std::string name;
  Outcome outcome = Outcome::passed;
  std::string summary;                ///< one line: what was seen, or why it was skipped
  std::vector<std::string> findings;  ///< what is wrong, or still to be written, a line each
};

/// Of the whole check, the gravest last.
enum class Verdict {
  green,
  incomplete,  ///< nothing is wrong, but a step was skipped
  unfinished,  ///< nothing is wrong, but methods answer UNIMPLEMENTED
  broken,
  not_a_plugin,  ///< no shared object with a plugin's note
  not_found,     ///< no file, or none that can be read
};

struct PluginReport {
  std::string path, id, version;
  std::vector<CheckStep> steps;
  Verdict verdict = Verdict::green;
};

struct PluginCheckOptions {
  std::string config_file;  ///< JSON or YAML, the instance's config; empty: `{}`
  /// How long the plugin may stand in one function (not: take over an answer) before the child is ended.
  std::chrono::milliseconds patience{5000};
};

/// Blocks until all is done: seconds, minutes where a plugin lets every deadline pass. Forks, so the caller should have one thread.
PluginReport check_plugin(const std::string& path, const PluginCheckOptions& options = {});

std::string_view outcome_name(Outcome outcome);
std::string_view verdict_name(Verdict verdict);
/// {"path", "id", "version", "verdict", "steps": [{"name", "outcome", "summary", "findings": []}]}
boost::json::value to_json(const PluginReport& report);

/// The text of sdk/schema/manifest.schema.json.
std::string_view manifest_schema();

}  // namespace pintle::testkit
