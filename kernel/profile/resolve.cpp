#include "kernel/profile/resolve.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

#include "sdk/support/document/nearest.hpp"
#include "sdk/support/document/schema.hpp"
#include "sdk/support/plugin_file/manifest.hpp"

namespace pintle {

namespace json = boost::json;
using document::pointer_token;
using document::readable_path;

namespace {

std::string text_of(const json::value& value) { return {value.get_string().data(), value.get_string().size()}; }

json::value sorted(const json::value& value) {
  if (const json::object* object = value.if_object()) {
    std::map<std::string_view, const json::value*> members;
    for (const auto& member : *object)
      members.emplace(std::string_view(member.key().data(), member.key().size()), &member.value());
    json::object ordered;
    for (const auto& [key, member] : members)
      ordered.emplace(json::string_view(key.data(), key.size()), sorted(*member));
    return ordered;
  }
  if (const json::array* array = value.if_array()) {
    json::array ordered;
    for (const json::value& element : *array) ordered.push_back(sorted(element));
    return ordered;
  }
  return value;
}

// Finds plugins in the folders and reads each file once.
class Catalog {
 public:
  explicit Catalog(const ProfileSources& sources) : sources_(sources) {}

  const Result<PluginFile>& read(const std::string& path) {
    const auto known = files_.find(path);
    if (known != files_.end()) return known->second;
    return files_.emplace(path, sources_.read_plugin(path)).first->second;
  }

  // ID.so, or another file that says it is this plugin.
  std::optional<std::string> find(const std::string& id) {
    if (id.find('/') != std::string::npos) return std::nullopt;
    std::error_code error;
    for (const std::string& folder : sources_.plugin_folders) {
      const std::string path = folder + "/" + id + ".so";
      if (std::filesystem::exists(path, error)) return path;
    }
    const auto& all = scan();
    const auto found = all.find(id);
    return found == all.end() ? std::nullopt : std::optional(found->second);
  }

  // Every plugin of the folders that can be read, by id.
  const std::map<std::string, std::string>& scan() {
    if (scanned_) return plugins_;
    scanned_ = true;
    for (const std::string& folder : sources_.plugin_folders) {
      std::error_code error;
      for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
           entry.increment(error)) {
        if (entry->path().extension() != ".so") continue;
        const Result<PluginFile>& file = read(entry->path());
        if (file) plugins_.emplace(file->id, entry->path());
      }
    }
    return plugins_;
  }

 private:
  const ProfileSources& sources_;
  std::map<std::string, Result<PluginFile>> files_;
  std::map<std::string, std::string> plugins_;
  bool scanned_ = false;
};

class Planner {
 public:
  Planner(ResolvedProfile& profile, const ProfileSources& sources) : profile_(profile), catalog_(sources) {}

  void run() {
    const json::object& root = profile_.merged.value().get_object();
    profile_.plan.profile = text_of(root.at("metadata").at("name"));
    const json::object& spec = root.at("spec").get_object();
    if (const json::value* node = spec.if_contains("nodeName")) profile_.plan.node = text_of(*node);
    const json::value* plugins = spec.if_contains("plugins");
    if (plugins == nullptr) return;
    for (const auto& member : plugins->get_object()) names_.emplace_back(member.key().data(), member.key().size());
    for (const auto& member : plugins->get_object()) {
      const std::string name(member.key().data(), member.key().size());
      instance(name, member.value().get_object(), "/spec/plugins/" + pointer_token(name));
    }
    std::sort(profile_.plan.instances.begin(), profile_.plan.instances.end(),
              [](const PlannedInstance& a, const PlannedInstance& b) { return a.name < b.name; });
  }

 private:
  void wrong(const std::string& at, const std::string& what) {
    profile_.problems.push_back(profile_.merged.where(at).text() + ": " + readable_path(at) + ": " + what);
  }
  void wrong_key(const std::string& at, const std::string& what) {
    profile_.problems.push_back(profile_.merged.where_key(at).text() + ": " + readable_path(at) + ": " + what);
  }

  void instance(const std::string& name, const json::object& settings, const std::string& at) {
    PlannedInstance planned;
    planned.name = name;
    if (name.size() > 63 || name.empty() ||
        name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") != std::string::npos || name.front() == '-' ||
        name.back() == '-') {
      wrong_key(at, "an instance's name has at most 63 of a-z, 0-9 and '-', which is neither first nor last");
      return;
    }
    const auto text = [&](std::string_view key, std::string absent) {
      const json::value* value = settings.if_contains(json::string_view(key.data(), key.size()));
      return value == nullptr ? absent : text_of(*value);
    };
    const auto flag = [&](std::string_view key, bool absent) {
      const json::value* value = settings.if_contains(json::string_view(key.data(), key.size()));
      return value == nullptr ? absent : value->get_bool();
    };
    planned.plugin = text("plugin", name);
    planned.enabled = flag("enabled", true);
    planned.required = flag("required", true);
    planned.allow_unsigned = flag("allowUnsigned", false);
    planned.log_level = text("logLevel", "");
    const std::string isolation = text("isolation", "automatic");
    planned.isolation = isolation == "process"      ? Isolation::process
                        : isolation == "in-process" ? Isolation::in_process
                                                    : Isolation::automatic;
    if (const json::value* grants = settings.if_contains("grants")) {
      for (const json::value& grant : grants->get_array()) planned.grants.push_back(text_of(grant));
    }

    const bool has_path = settings.contains("path");
    const std::string plugin_at = settings.contains("plugin") ? at + "/plugin" : at;
    if (has_path) {
      planned.path = text("path", "");
    } else if (const auto found = catalog_.find(planned.plugin)) {
      planned.path = *found;
    } else {
      std::vector<std::string> ids;
      for (const auto& [id, path] : catalog_.scan()) ids.push_back(id);
      wrong_key(plugin_at, "there is no plugin \"" + planned.plugin + "\"" + document::suggestion(planned.plugin, ids));
      return;
    }
    const Result<PluginFile>& file = catalog_.read(planned.path);
    if (!file) {
      wrong(has_path ? at + "/path" : plugin_at, file.status().message());
      return;
    }
    if (file->id != planned.plugin) {
      wrong(has_path ? at + "/path" : plugin_at, planned.path + " is the plugin \"" + file->id + "\", not \"" +
                                                     planned.plugin + "\"; write plugin: " + file->id +
                                                     " or another path");
      return;
    }
    config(planned, *file, settings, at + "/config");
    bindings(planned, *file, settings, at + "/bindings");
    profile_.plan.instances.push_back(std::move(planned));
  }

  void config(PlannedInstance& planned, const PluginFile& file, const json::object& settings, const std::string& at) {
    const json::value* written = settings.if_contains("config");
    json::value value = written == nullptr ? json::value(json::object()) : *written;
    if (file.config_schema.empty()) {
      if (!value.get_object().empty()) wrong_key(at, "the plugin " + planned.plugin + " takes no config");
    } else {
      auto& known = schemas_[planned.path];
      if (!known) known.emplace(document::Schema::parse(file.config_schema, planned.path + " (config schema)"));
      if (!*known) {
        wrong(at, known->status().message());
        return;
      }
      const std::vector<document::Problem> problems = (*known)->check(profile_.merged, at);
      for (const document::Problem& problem : problems) profile_.problems.push_back(problem.text());
      if (!problems.empty()) return;
      value = (*known)->with_defaults(std::move(value));
    }
    planned.config = json::serialize(sorted(value));
  }

  void bindings(PlannedInstance& planned, const PluginFile& file, const json::object& settings, const std::string& at) {
    const json::value* written = settings.if_contains("bindings");
    if (written == nullptr) return;
    const Result<plugin::Manifest> manifest = plugin::parse_manifest(file.manifest, planned.path + " (manifest)");
    if (!manifest) return wrong(at, manifest.status().message());
    std::vector<std::string> needs;
    for (const plugin::Need& need : manifest->needs) needs.push_back(need.name);
    for (const auto& member : written->get_object()) {
      const std::string need(member.key().data(), member.key().size()), target = text_of(member.value());
      const std::string here = at + "/" + pointer_token(need);
      if (std::find(needs.begin(), needs.end(), need) == needs.end()) {
        wrong_key(here,
                  "the plugin " + planned.plugin + " has no need \"" + need + "\"" + document::suggestion(need, needs));
      }
      if (std::find(names_.begin(), names_.end(), target) == names_.end()) {
        wrong(here, "there is no instance \"" + target + "\" in the profile" + document::suggestion(target, names_));
      }
      planned.bindings.emplace(need, target);
    }
  }

  ResolvedProfile& profile_;
  Catalog catalog_;
  std::vector<std::string> names_;
  std::map<std::string, std::optional<Result<document::Schema>>> schemas_;
};

}  // namespace

void make_plan(ResolvedProfile& profile, const ProfileSources& sources) { Planner(profile, sources).run(); }

std::vector<std::string> list_plugins(const ProfileSources& sources) {
  std::vector<std::string> ids;
  Catalog catalog(sources);
  for (const auto& [id, path] : catalog.scan()) ids.push_back(id);
  return ids;
}

}  // namespace pintle
