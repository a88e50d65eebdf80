#include "cri/oci/hooks.hpp"

#include <re2/re2.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>

#include "sdk/support/files/files.hpp"

namespace pintle::oci {
namespace {

namespace json = boost::json;

constexpr size_t kFileLimit = 1u << 20, kLongestPattern = 1000;
constexpr std::array<std::string_view, 4> kStages = {"prestart", "createRuntime", "createContainer", "startContainer"};
constexpr std::array<std::string_view, 2> kStagesPassedOver = {"poststart", "poststop"};

Result<bool> matches(const json::value& pattern, const std::string& text) {
  if (!pattern.is_string() || pattern.get_string().size() > kLongestPattern)
    return invalid_argument("a pattern is no text, or too long");
  // Annotations are the pod's: what they are matched with must take a time that grows with them, and no stack.
  RE2::Options quiet;
  quiet.set_log_errors(false);
  const RE2 expression(std::string(pattern.get_string()), quiet);
  if (!expression.ok())
    return invalid_argument("\"" + std::string(pattern.get_string()) +
                            "\" is no regular expression: " + expression.error());
  return RE2::PartialMatch(text, expression);
}

/// Whether some annotation has this name and value.
Result<bool> is_annotated(const std::string& name, const json::value& value, const HookFacts& facts) {
  for (const auto& [own_name, own_value] : facts.annotations) {
    Result<bool> named = matches(json::string(name), own_name);
    if (!named) return named;
    if (!*named) continue;
    Result<bool> valued = matches(value, own_value);
    if (!valued || *valued) return valued;
  }
  return false;
}

Result<bool> is_meant(const json::object& when, const HookFacts& facts) {
  bool any = false;
  for (const auto& [key, value] : when) {
    if (key == "always" && value.is_bool()) {
      if (!value.get_bool()) return false;
      any = true;
    } else if (key == "hasBindMounts" && value.is_bool()) {
      if (value.get_bool() && !facts.has_bind_mounts) return false;
      any = any || value.get_bool();
    } else if (key == "annotations" && value.is_object()) {
      for (const auto& [name, wanted] : value.get_object()) {
        Result<bool> annotated = is_annotated(std::string(name), wanted, facts);
        if (!annotated || !*annotated) return annotated;
        any = true;
      }
    } else if (key == "commands" && value.is_array()) {
      bool found = false;
      for (const json::value& pattern : value.get_array()) {
        Result<bool> one = matches(pattern, facts.command);
        if (!one) return one;
        found = found || *one;
      }
      if (!found) return false;
      any = true;
    } else {
      return invalid_argument("when: \"" + std::string(key) +
                              "\" is none of always, annotations, commands and hasBindMounts, or of a wrong type");
    }
  }
  return any;
}

Status check_hook(const json::object& hook) {
  const json::value* path = hook.if_contains("path");
  if (!path || !path->is_string() || !path->get_string().starts_with('/'))
    return invalid_argument("hook: \"path\" has to be an absolute path");
  if (access(path->get_string().c_str(), X_OK) != 0)
    return invalid_argument("hook: " + std::string(path->get_string()) + " is not there, or cannot be executed");
  for (const auto& [key, value] : hook) {
    const bool texts = (key == "args" || key == "env") && value.is_array() &&
                       std::all_of(value.get_array().begin(), value.get_array().end(),
                                   [](const json::value& one) { return one.is_string(); });
    if (key != "path" && !texts && !(key == "timeout" && value.is_int64() && value.get_int64() > 0))
      return invalid_argument("hook: \"" + std::string(key) +
                              "\" is none of path, args, env and timeout, or of a wrong type");
  }
  return Status::ok();
}

}  // namespace

Status add_hook(std::string_view text, const HookFacts& facts, json::object& hooks) {
  json::error_code error;
  const json::value value = json::parse(text, error);
  if (error || !value.is_object()) return invalid_argument("it is no JSON object");
  const json::object& file = value.get_object();
  const auto part = [&](const char* name) { return file.if_contains(name); };
  if (!part("version") || *part("version") != "1.0.0") return invalid_argument("\"version\" has to be \"1.0.0\"");
  if (!part("hook") || !part("hook")->is_object()) return invalid_argument("\"hook\" is missing");
  if (!part("when") || !part("when")->is_object()) return invalid_argument("\"when\" is missing");
  if (!part("stages") || !part("stages")->is_array()) return invalid_argument("\"stages\" is missing");
  if (Status good = check_hook(part("hook")->get_object()); !good) return good;
  std::vector<std::string> stages;
  for (const json::value& stage : part("stages")->get_array()) {
    const std::string_view name = stage.is_string() ? std::string_view(stage.get_string()) : std::string_view();
    if (std::find(kStagesPassedOver.begin(), kStagesPassedOver.end(), name) != kStagesPassedOver.end())
      return invalid_argument("hooks of the stage " + std::string(name) + " are not supported yet");
    if (std::find(kStages.begin(), kStages.end(), name) == kStages.end())
      return invalid_argument("\"" + std::string(name) + "\" is no stage");
    stages.emplace_back(name);
  }
  Result<bool> meant = is_meant(part("when")->get_object(), facts);
  if (!meant) return meant.status();
  if (!*meant) return Status::ok();
  for (const std::string& stage : stages) {
    if (!hooks.contains(stage)) hooks[stage] = json::array();
    hooks[stage].get_array().push_back(part("hook")->get_object());
  }
  return Status::ok();
}

Result<json::object> read_hooks(const std::vector<std::string>& folders, const HookFacts& facts) {
  std::map<std::string, std::string> files;  // by name; the path
  for (const std::string& path : folders) {
    Result<files::Descriptor> folder = files::open_folder(path);
    if (folder.status().code() == Code::not_found) continue;
    if (!folder) return folder.status().with_context("the folder of hooks");
    Result<std::vector<std::string>> names = files::list_folder(folder->get());
    if (!names) return names.status();
    for (const std::string& name : *names)
      if (name.ends_with(".json") && !name.starts_with('.')) files[name] = path + "/" + name;
  }
  json::object hooks;
  for (const auto& [name, path] : files) {
    const Result<std::string> text = files::read_file(path, kFileLimit);
    if (text.status().code() == Code::not_found) continue;
    if (!text) return text.status();
    if (Status added = add_hook(*text, facts, hooks); !added)
      return failed_precondition("the hook of " + path + ": " + added.message());
  }
  return hooks;
}

}  // namespace pintle::oci
