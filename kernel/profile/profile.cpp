// From names to one merged document: finding, reading, extending.

#include "kernel/profile/profile.hpp"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <optional>
#include <stdexcept>

#include "kernel/profile/resolve.hpp"
#include "sdk/support/document/nearest.hpp"
#include "sdk/support/document/schema.hpp"

namespace pintle {

namespace json = boost::json;
using document::Document;

namespace {

constexpr std::string_view profile_schema = R"({
  "type": "object", "additionalProperties": false, "required": ["apiVersion", "kind", "metadata", "spec"],
  "properties": {
    "apiVersion": {"const": "pintle.io/v1"},
    "kind": {"const": "NodeProfile"},
    "metadata": {"type": "object", "additionalProperties": false, "required": ["name"], "properties": {
      "name": {"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
               "description": "a-z, 0-9 and '-', neither first nor last"},
      "description": {"type": "string"},
      "labels": {"type": "object", "additionalProperties": {"type": "string"}},
      "annotations": {"type": "object", "additionalProperties": {"type": "string"}}}},
    "spec": {"type": "object", "additionalProperties": false, "properties": {
      "extends": {"type": "array", "maxItems": 16, "items": {"type": "string", "minLength": 1}},
      "nodeName": {"type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
                   "description": "a host's name in lower case"},
      "awaits": {"type": "array", "items": {"type": "string", "minLength": 1}},
      "plugins": {"type": "object", "additionalProperties": {
        "type": "object", "additionalProperties": false, "properties": {
          "plugin": {"type": "string", "minLength": 1},
          "config": {"type": "object"},
          "enabled": {"type": "boolean"},
          "required": {"type": "boolean"},
          "isolation": {"enum": ["automatic", "in-process", "process"]},
          "path": {"type": "string", "format": "path"},
          "allowUnsigned": {"type": "boolean"},
          "grants": {"type": "array", "items": {"type": "string", "minLength": 1}},
          "bindings": {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
          "logLevel": {"enum": ["trace", "debug", "info", "warn", "error"]}}}}}}}})";

const document::Schema& schema() {
  static const document::Schema compiled = [] {
    auto result = document::Schema::parse(profile_schema, "the schema of profiles");
    if (!result) throw std::logic_error(result.status().message());
    return *result;
  }();
  return compiled;
}

constexpr std::string_view suffixes[] = {".yaml", ".yml", ".json"};

std::string text_of(const json::value& value) { return {value.get_string().data(), value.get_string().size()}; }

const json::value* member(const Document& profile, std::initializer_list<std::string_view> path) {
  const json::value* value = &profile.value();
  for (std::string_view key : path) {
    const json::object* object = value->if_object();
    value = object == nullptr ? nullptr : object->if_contains(json::string_view(key.data(), key.size()));
    if (value == nullptr) return nullptr;
  }
  return value;
}

std::vector<std::string> texts_at(const Document& profile, std::initializer_list<std::string_view> path) {
  std::vector<std::string> texts;
  const json::value* list = member(profile, path);
  if (list == nullptr || !list->is_array()) return texts;
  for (const json::value& element : list->get_array()) {
    if (element.is_string()) texts.push_back(text_of(element));
  }
  return texts;
}

std::string join(const std::vector<std::string>& words, std::string_view between) {
  std::string joined;
  for (const std::string& word : words) joined += (joined.empty() ? std::string() : std::string(between)) + word;
  return joined;
}

// Name to path of every profile in the folders; the first folder wins.
std::map<std::string, std::string> profile_files(const ProfileSources& sources) {
  std::map<std::string, std::string> files;
  for (const std::string& folder : sources.profile_folders) {
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
      const std::string extension = entry->path().extension();
      if (std::find(std::begin(suffixes), std::end(suffixes), extension) != std::end(suffixes)) {
        files.emplace(entry->path().stem(), entry->path());
      }
    }
  }
  return files;
}

Result<std::string> find_profile(const std::string& name, const ProfileSources& sources) {
  if (is_profile_path(name)) return name;
  std::error_code error;
  for (const std::string& folder : sources.profile_folders) {
    for (std::string_view suffix : suffixes) {
      const std::string path = folder + "/" + name + std::string(suffix);
      if (std::filesystem::exists(path, error)) return path;
    }
  }
  std::vector<std::string> names;
  for (const auto& [known, path] : profile_files(sources)) names.push_back(known);
  return not_found("there is no profile \"" + name + "\" in " + join(sources.profile_folders, " or ") +
                   document::suggestion(name, names));
}

// Lays profiles over each other. Every file is read once, however many extend it.
class Extender {
 public:
  explicit Extender(const ProfileSources& sources) : sources_(sources) {}

  std::vector<std::string> problems;
  std::vector<std::string> bases;

  Result<Document> extend(const Document& profile, const std::string& path) {
    for (const document::Problem& problem : schema().check(profile)) problems.push_back(problem.text());
    if (!problems.empty()) return profile;  // what it extends is uncertain

    std::optional<Document> below;
    const std::vector<std::string> names = texts_at(profile, {"spec", "extends"});
    for (size_t i = 0; i < names.size(); ++i) {
      const std::string where = profile.where("/spec/extends/" + std::to_string(i)).text();
      Result<Document> base = read_base(names[i], path, where);
      if (!base) return base.status();
      below = below ? lay_over(*below, *base) : std::move(*base);
    }
    return below ? lay_over(*below, profile) : profile;
  }

  Status check_name(const Document& profile, const std::string& asked) {
    const json::value* name = member(profile, {"metadata", "name"});
    if (is_profile_path(asked) || name == nullptr || !name->is_string() || text_of(*name) == asked) return Status::ok();
    problems.push_back(profile.where("/metadata/name").text() + ": metadata.name: must be " + asked +
                       ", as the file's name is, is " + json::serialize(*name));
    return Status::ok();
  }

 private:
  Result<Document> read_base(const std::string& name, const std::string& from, const std::string& where) {
    if (is_profile_path(name) && name[0] != '/') {
      return invalid_argument(where + ": spec.extends: \"" + name +
                              "\" is a relative path; write a profile's name or an absolute path");
    }
    Result<std::string> path = find_profile(name, sources_);
    if (!path) return path.status().with_context(where);
    std::error_code error;
    const std::string canonical = std::filesystem::weakly_canonical(*path, error);
    if (way_.empty()) way_.push_back(from);
    if (const auto seen = std::find(way_.begin(), way_.end(), canonical); seen != way_.end()) {
      std::vector<std::string> circle(seen, way_.end());
      circle.push_back(canonical);
      return invalid_argument(where + ": profiles extend each other in a circle: " + join(circle, " -> "));
    }
    if (const auto known = done_.find(canonical); known != done_.end()) return known->second;

    Result<Document> text = document::read_document_file(*path);
    if (!text) return text.status();
    way_.push_back(canonical);
    (void)check_name(*text, name);
    Result<Document> base = extend(*text, canonical);
    way_.pop_back();
    if (!base) return base;
    bases.push_back(*path);
    done_.emplace(canonical, *base);
    return base;
  }

  // An instance that gets another plugin must not inherit the config of the former one.
  static Document lay_over(const Document& below, const Document& above) {
    json::object forgotten;
    const json::value* lower = member(below, {"spec", "plugins"});
    const json::value* upper = member(above, {"spec", "plugins"});
    if (lower != nullptr && upper != nullptr && lower->is_object() && upper->is_object()) {
      for (const auto& instance : upper->get_object()) {
        const json::value* former = lower->get_object().if_contains(instance.key());
        const json::value* plugin =
            instance.value().is_object() ? instance.value().get_object().if_contains("plugin") : nullptr;
        if (former == nullptr || plugin == nullptr) continue;
        const json::value* former_plugin = former->get_object().if_contains("plugin");
        if ((former_plugin == nullptr ? json::value(instance.key()) : *former_plugin) != *plugin)
          forgotten.emplace(instance.key(), nullptr);
      }
    }
    const json::value forget = {{"spec", {{"plugins", forgotten}}}};
    return Document::overlay(
        forgotten.empty() ? below : Document::overlay(below, Document::of_value(forget, above.file())), above);
  }

  const ProfileSources& sources_;
  std::vector<std::string> way_;  // from the profile that was asked for to the one being read
  std::map<std::string, Document> done_;
};

Result<ResolvedProfile> resolve(Document text, const std::string& asked, const std::string& path,
                                const ProfileSources& sources) {
  Extender extender(sources);
  (void)extender.check_name(text, asked);
  std::error_code error;
  Result<Document> merged =
      extender.extend(text, path.empty() ? asked : std::filesystem::weakly_canonical(path, error).string());
  if (!merged) return merged.status();
  ResolvedProfile profile{path, std::move(extender.bases), std::move(*merged), {}, std::move(extender.problems), {}};
  if (!profile.problems.empty()) return profile;
  profile.awaits = texts_at(profile.merged, {"spec", "awaits"});
  make_plan(profile, sources);
  return profile;
}

}  // namespace

bool is_profile_path(const std::string& name_or_path) {
  return name_or_path.find('/') != std::string::npos ||
         std::any_of(std::begin(suffixes), std::end(suffixes),
                     [&](std::string_view suffix) { return name_or_path.ends_with(suffix); });
}

Result<ResolvedProfile> resolve_profile(const std::string& name_or_path, const ProfileSources& sources) {
  Result<std::string> path = find_profile(name_or_path, sources);
  if (!path) return path.status();
  Result<Document> text = document::read_document_file(*path);
  if (!text) return text.status();
  return resolve(std::move(*text), name_or_path, *path, sources);
}

Result<ResolvedProfile> resolve_profile_text(std::string_view text, const std::string& name,
                                             const ProfileSources& sources) {
  Result<Document> read = document::read_document(text, name);
  if (!read) return read.status();
  return resolve(std::move(*read), "/" + name, "", sources);
}

Result<NodePlan> runnable_plan(const ResolvedProfile& profile) {
  if (!profile.problems.empty()) {
    const size_t more = profile.problems.size() - 1;
    return invalid_argument(
        profile.problems[0] +
        (more == 0 ? "" : " (and " + std::to_string(more) + " more; pintle profile validate lists all)"));
  }
  if (!profile.awaits.empty()) {
    return failed_precondition("the profile " + profile.plan.profile + " cannot run yet: it awaits " +
                               join(profile.awaits, "; "));
  }
  return profile.plan;
}

Result<NodePlan> plan_of_profile(const std::string& name_or_path, const ProfileSources& sources) {
  Result<ResolvedProfile> profile = resolve_profile(name_or_path, sources);
  if (!profile) return profile.status();
  return runnable_plan(*profile);
}

std::vector<ProfileListing> list_profiles(const ProfileSources& sources) {
  std::vector<ProfileListing> listings;
  for (const auto& [name, path] : profile_files(sources)) {
    ProfileListing listing{name, path, {}, {}, {}, {}};
    Result<Document> text = document::read_document_file(path);
    if (!text) {
      listing.problem = text.status().message();
    } else if (const auto problems = schema().check(*text); !problems.empty()) {
      listing.problem = problems[0].text();
    } else {
      listing.extends = texts_at(*text, {"spec", "extends"});
      listing.awaits = texts_at(*text, {"spec", "awaits"});
      if (const json::value* description = member(*text, {"metadata", "description"}))
        listing.description = text_of(*description);
    }
    listings.push_back(std::move(listing));
  }
  return listings;
}

}  // namespace pintle
