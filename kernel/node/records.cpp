#include "kernel/node/records.hpp"

#include <algorithm>
#include <charconv>

#include "sdk/support/files/files.hpp"

namespace pintle::kernel {
namespace {

namespace json = boost::json;

constexpr const char* isolation_names[] = {"automatic", "in-process", "process"};

std::string text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

bool flag(const json::object& object, std::string_view key, bool otherwise) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_bool() ? value->get_bool() : otherwise;
}

}  // namespace

json::object to_json(const PlannedInstance& plan) {
  json::error_code error;
  json::value config = json::parse(plan.config.empty() ? "{}" : plan.config, error);
  json::object bindings;
  for (const auto& [need, provider] : plan.bindings) bindings[need] = provider;
  return {{"name", plan.name},
          {"plugin", plan.plugin},
          {"path", plan.path},
          {"config", error ? json::value(json::object()) : std::move(config)},
          {"isolation", isolation_names[static_cast<int>(plan.isolation)]},
          {"enabled", plan.enabled},
          {"required", plan.required},
          {"allow_unsigned", plan.allow_unsigned},
          {"grants", json::array(plan.grants.begin(), plan.grants.end())},
          {"bindings", std::move(bindings)},
          {"log_level", plan.log_level}};
}

PlannedInstance planned_instance(const json::object& object) {
  PlannedInstance out;
  out.name = text(object, "name");
  out.plugin = text(object, "plugin");
  out.path = text(object, "path");
  const json::value* config = object.if_contains("config");
  out.config = config != nullptr && config->is_object() ? json::serialize(*config) : "{}";
  const std::string isolation = text(object, "isolation");
  for (int i = 0; i < 3; ++i)
    if (isolation == isolation_names[i]) out.isolation = static_cast<Isolation>(i);
  out.enabled = flag(object, "enabled", true);
  out.required = flag(object, "required", true);
  out.allow_unsigned = flag(object, "allow_unsigned", false);
  if (const json::value* grants = object.if_contains("grants"); grants != nullptr && grants->is_array())
    for (const json::value& grant : grants->get_array())
      if (grant.is_string()) out.grants.emplace_back(grant.get_string());
  if (const json::value* bindings = object.if_contains("bindings"); bindings != nullptr && bindings->is_object())
    for (const auto& [need, provider] : bindings->get_object())
      if (provider.is_string()) out.bindings[std::string(need)] = std::string(provider.get_string());
  out.log_level = text(object, "log_level");
  return out;
}

Result<std::vector<Record>> read_records(const std::string& instances) {
  std::vector<Record> out;
  Result<files::Descriptor> folder = files::open_folder(instances);
  if (!folder) return folder.status();
  Result<std::vector<std::string>> names = files::list_folder(folder->get());
  if (!names) return names.status();
  for (const std::string& name : *names) {
    Result<files::Descriptor> inner = files::open_folder(instances + "/" + name);
    if (!inner) continue;
    Result<std::vector<std::string>> entries = files::list_folder(inner->get());
    if (!entries) continue;
    for (const std::string& entry : *entries) {
      Record record;
      const char* end = entry.data() + entry.size();
      const auto parsed = std::from_chars(entry.data(), end, record.generation);
      if (parsed.ec != std::errc() || std::string_view(parsed.ptr, static_cast<size_t>(end - parsed.ptr)) != ".json")
        continue;
      Result<std::string> bytes = files::read_file(inner->get(), entry);
      json::error_code error;
      const json::value value = bytes ? json::parse(*bytes, error) : json::value();
      record.sound = bytes.is_ok() && !error && value.is_object() && value.get_object().contains("plan") &&
                     value.get_object().at("plan").is_object();
      if (record.sound) {
        record.retiring = flag(value.get_object(), "retiring", false);
        record.plan = planned_instance(value.get_object().at("plan").get_object());
        record.sound = record.plan.name == name && !record.plan.plugin.empty();
      }
      record.plan.name = name;
      out.push_back(std::move(record));
    }
  }
  std::sort(out.begin(), out.end(), [](const Record& a, const Record& b) {
    return std::pair(a.plan.name, a.generation) < std::pair(b.plan.name, b.generation);
  });
  return out;
}

Status write_record(const std::string& instances, const Record& record) {
  const std::string path = instances + "/" + record.plan.name;
  if (Status made = files::make_folders(path); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(path);
  if (!folder) return folder.status();
  const json::object object{{"format", 1}, {"retiring", record.retiring}, {"plan", to_json(record.plan)}};
  const std::string name = std::to_string(record.generation) + ".json";
  const std::string text = json::serialize(object) + "\n";
  if (Result<std::string> present = files::read_file(folder->get(), name); present.is_ok() && *present == text)
    return {};
  return files::write_file(folder->get(), name, text, files::Durability::synced).with_context(path);
}

Status remove_record(const std::string& instances, const std::string& name, uint64_t generation) {
  Result<files::Descriptor> folder = files::open_folder(instances + "/" + name);
  if (!folder) return folder.status();
  Status first;
  for (const char* suffix : {"", ".lock", ".json"}) {  // the record last: what is cut off here is found again
    Status removed = files::remove_tree(folder->get(), std::to_string(generation) + suffix);
    if (first.is_ok()) first = removed;
  }
  return first;
}

}  // namespace pintle::kernel
