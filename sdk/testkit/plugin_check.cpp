#include "sdk/testkit/plugin_check.hpp"

#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <set>

#include "sdk/support/document/document.hpp"
#include "sdk/support/document/nearest.hpp"
#include "sdk/support/document/schema.hpp"
#include "sdk/testkit/contract.hpp"
#include "sdk/testkit/manifest_schema.hpp"
#include "sdk/testkit/plugin_image.hpp"
#include "sdk/testkit/plugin_run.hpp"

namespace pintle::testkit {
namespace {

namespace json = boost::json;
using document::Document;
using document::Schema;

std::string text_of_json(const json::value& object, std::string_view key) {
  const json::value* value = object.is_object() ? object.get_object().if_contains(key) : nullptr;
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

int64_t number_of_json(const json::value& object, std::string_view key, int64_t otherwise) {
  const json::value* value = object.is_object() ? object.get_object().if_contains(key) : nullptr;
  return value && value->is_int64() ? value->get_int64() : otherwise;
}

const json::array& list_of_json(const json::value& object, std::string_view key) {
  static const json::array none;
  const json::value* value = object.is_object() ? object.get_object().if_contains(key) : nullptr;
  return value && value->is_array() ? value->get_array() : none;
}

// ---- Manifest --------------------------------------------------------------------------------------------------------------

/// What an interface's schema says about a manifest that provides it.
void check_provided(const json::value& provided, std::vector<std::string>& findings) {
  const std::string name = text_of_json(provided, "interface");
  const InterfaceInfo* info = find_interface(name);
  if (!info) return;
  if (number_of_json(provided, "revision", 1) > info->revision) {
    findings.push_back(name + " has the revision " + std::to_string(info->revision) + " in this SDK, not " +
                       std::to_string(number_of_json(provided, "revision", 1)));
  }
  const std::vector<std::string> known(info->features.begin(), info->features.end());
  uint64_t bits = 0;
  for (const json::value& feature : list_of_json(provided, "features")) {
    const std::string wanted = feature.is_string() ? std::string(feature.get_string()) : "";
    const auto found = std::find(known.begin(), known.end(), wanted);
    if (found == known.end()) {
      findings.push_back(name + " has no feature " + wanted + document::suggestion(wanted, known));
    } else {
      bits |= uint64_t{1} << (found - known.begin());
    }
  }
  const int64_t said = number_of_json(provided, "featureBits", -1);
  if (said >= 0 && static_cast<uint64_t>(said) != bits) {
    findings.push_back(name + ": featureBits is " + std::to_string(said) + ", but the features are " +
                       std::to_string(bits));
  }
}

/// The manifest as a value if it is one by its schema; `run` learns from it what to do.
CheckStep check_manifest(const PluginImage& image, PluginRun& run) {
  CheckStep step{"manifest", Outcome::failed, "", {}};
  Result<Document> manifest = document::read_document(image.manifest, "manifest.json");
  if (!manifest) {
    step.summary = manifest.status().message();
    return step;
  }
  Result<Schema> schema = Schema::parse(manifest_schema(), "manifest.schema.json");
  if (!schema) {
    step.summary = schema.status().message();
    return step;
  }
  for (const document::Problem& problem : schema->check(*manifest)) step.findings.push_back(problem.text());
  const json::value& value = manifest->value();
  run.version = text_of_json(value, "version");
  if (const std::string id = text_of_json(value, "id"); id != image.id) {
    step.findings.push_back("its id is " + id + ", but the note says " + image.id);
  }
  std::set<std::string> names;
  for (const json::value& provided : list_of_json(value, "provides")) {
    PluginRun::Provided& named = run.provides.emplace_back();
    named.interface_name = text_of_json(provided, "interface");
    for (const json::value& feature : list_of_json(provided, "features")) {
      if (feature.is_string()) named.features.emplace_back(feature.get_string());
    }
    if (!names.insert(named.interface_name).second) {
      step.findings.push_back("it provides " + named.interface_name + " twice");
    }
    check_provided(provided, step.findings);
  }
  names.clear();
  for (const json::value& need : list_of_json(value, "needs")) {
    const std::string name = text_of_json(need, "name"), when = text_of_json(need, "when");
    if (!names.insert(name).second) step.findings.push_back("two needs have the name " + name);
    if (when.empty() || when == "start") run.start_needs.push_back(name + " (" + text_of_json(need, "interface") + ")");
  }
  if (step.findings.empty()) step.outcome = Outcome::passed;
  step.summary = image.id + " " + run.version + ", provides " + std::to_string(run.provides.size()) + ", needs " +
                 std::to_string(list_of_json(value, "needs").size());
  return step;
}

// ---- Config ----------------------------------------------------------------------------------------------------------------

/// Whether the schema is one, and takes the config; `run.config` is the config with its defaults, or stays empty.
CheckStep check_config(const PluginImage& image, const PluginCheckOptions& options, PluginRun& run) {
  CheckStep step{"config", Outcome::failed, "", {}};
  Result<Schema> schema = Schema::parse(image.config_schema, "config.schema.json");
  if (!schema) {
    step.summary = schema.status().message();
    return step;
  }
  const bool given = !options.config_file.empty();
  Result<Document> config = given ? document::read_document_file(options.config_file)
                                  : Result<Document>(Document::of_value(json::object(), "{}"));
  if (!config) {
    step.summary = config.status().message();
    return step;
  }
  for (const document::Problem& problem : schema->check(*config)) {
    step.findings.push_back(given ? problem.text() : problem.path + ": " + problem.message);
  }
  if (!step.findings.empty()) {
    step.outcome = given ? Outcome::failed : Outcome::skipped;
    step.summary = given ? options.config_file + " is not right by config.schema.json"
                         : "the schema takes no empty config: give one";
    return step;
  }
  const json::value filled = schema->with_defaults(config->value());
  for (const document::Problem& problem : schema->check(Document::of_value(filled, "its own defaults"))) {
    step.findings.push_back(problem.text());
  }
  step.summary =
      step.findings.empty() ? "with its defaults: " + json::serialize(filled) : "the schema refuses its own defaults";
  step.outcome = step.findings.empty() ? Outcome::passed : Outcome::failed;
  if (step.findings.empty()) run.config = json::serialize(filled);
  return step;
}

bool any_step(const std::vector<CheckStep>& steps, Outcome outcome) {
  return std::any_of(steps.begin(), steps.end(), [&](const CheckStep& step) { return step.outcome == outcome; });
}

Verdict verdict_of(const std::vector<CheckStep>& steps) {
  if (any_step(steps, Outcome::failed)) return Verdict::broken;
  if (any_step(steps, Outcome::unfinished)) return Verdict::unfinished;
  return any_step(steps, Outcome::skipped) ? Verdict::incomplete : Verdict::green;
}

}  // namespace

PluginReport check_plugin(const std::string& path, const PluginCheckOptions& options) {
  PluginReport report;
  report.path = path;
  std::error_code error;
  // The dynamic linker searches its folders for a name without a slash.
  const std::string absolute = std::filesystem::absolute(path, error).string();
  if (access(absolute.c_str(), R_OK) != 0) {
    report.steps.push_back({"file", Outcome::failed, status_from_errno(errno, "cannot read " + path).message(), {}});
    report.verdict = Verdict::not_found;
    return report;
  }
  PluginRun run;
  run.path = absolute;
  run.patience = options.patience;
  run.image = read_plugin_image(absolute, report.steps);
  report.id = run.image.id;
  if (report.id.empty()) {
    report.verdict = Verdict::not_a_plugin;
    return report;
  }
  report.steps.push_back(check_manifest(run.image, run));
  report.version = run.version;
  report.steps.push_back(check_config(run.image, options, run));
  if (any_step(report.steps, Outcome::failed)) {
    report.steps.push_back(
        {"entry", Outcome::skipped, "what a node would refuse is not run: mend the above first", {}});
  } else {
    run_plugin(run, report.steps);
  }
  report.verdict = verdict_of(report.steps);
  return report;
}

std::string_view outcome_name(Outcome outcome) {
  switch (outcome) {
    case Outcome::passed:
      return "passed";
    case Outcome::failed:
      return "failed";
    case Outcome::unfinished:
      return "unfinished";
    case Outcome::skipped:
      break;
  }
  return "skipped";
}

std::string_view verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::green:
      return "green";
    case Verdict::incomplete:
      return "incomplete";
    case Verdict::unfinished:
      return "unfinished";
    case Verdict::broken:
      return "broken";
    case Verdict::not_a_plugin:
      return "not-a-plugin";
    case Verdict::not_found:
      break;
  }
  return "not-found";
}

json::value to_json(const PluginReport& report) {
  json::array steps;
  for (const CheckStep& step : report.steps) {
    steps.push_back({{"name", step.name},
                     {"outcome", outcome_name(step.outcome)},
                     {"summary", step.summary},
                     {"findings", json::array(step.findings.begin(), step.findings.end())}});
  }
  return {{"path", report.path},
          {"id", report.id},
          {"version", report.version},
          {"verdict", verdict_name(report.verdict)},
          {"steps", steps}};
}

std::string_view manifest_schema() { return manifest_schema_text; }

}  // namespace pintle::testkit
