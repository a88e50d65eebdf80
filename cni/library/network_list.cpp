#include "cni/library/network_list.hpp"

#include <algorithm>

#include "cni/protocol.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::cni {
namespace {

namespace json = boost::json;

constexpr size_t kMostPlugins = 32;

Status wrong(std::string_view key, std::string_view why) {
  return invalid_argument("CNI network configuration, '" + std::string(key) + "': " + std::string(why));
}

Result<std::string> text_under(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (!value) return std::string();
  if (!value->is_string()) return wrong(key, "a text is expected");
  return std::string(value->get_string());
}

Result<bool> switch_under(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (!value) return false;
  if (value->is_bool()) return value->get_bool();
  // The specification lets it be a text as well.
  if (value->is_string() && (value->get_string() == "true" || value->get_string() == "false"))
    return value->get_string() == "true";
  return wrong(key, "true or false is expected");
}

Result<std::string> version_of(const json::object& object) {
  Result<std::string> version = text_under(object, "cniVersion");
  if (!version) return version.status();
  std::vector<std::string> offered = {*version};
  if (const json::value* list = object.if_contains("cniVersions")) {
    if (!list->is_array()) return wrong("cniVersions", "a list of texts is expected");
    for (const json::value& item : list->get_array()) {
      if (item.is_string()) offered.emplace_back(item.get_string());
    }
  }
  std::string best;
  for (const std::string& each : offered) {
    if (is_version(each) && (best.empty() || is_at_least(each, best))) best = each;
  }
  if (!best.empty()) return best;
  return unimplemented("CNI network configuration, 'cniVersion': '" + version->substr(0, 40) +
                       "' is not supported; 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are");
}

Result<PluginConfig> parse_plugin(const json::object& object) {
  const Result<std::string> type = text_under(object, "type");
  if (!type) return type.status();
  // It becomes part of a path.
  if (Status status = check_name("type of a CNI plugin", *type); !status) return status;
  PluginConfig plugin{.type = *type, .capabilities = {}, .object = object};
  if (const json::value* capabilities = object.if_contains("capabilities")) {
    if (!capabilities->is_object()) return wrong("capabilities", "an object is expected");
    for (const auto& [key, value] : capabilities->get_object()) {
      if (value.is_bool() && value.get_bool()) plugin.capabilities.emplace(key);
    }
  }
  return plugin;
}

bool is_list_file(const std::string& name) {
  return name.ends_with(".conflist") || name.ends_with(".conf") || name.ends_with(".json");
}

}  // namespace

Result<NetworkList> parse_network_list(std::string_view text) {
  Result<json::object> object = parse_object("CNI network configuration", text);
  if (!object) return object.status();
  NetworkList list;
  const Result<std::string> name = text_under(*object, "name");
  if (!name) return name.status();
  if (Status status = check_name("name of a CNI network", *name); !status) return status;
  list.name = *name;
  const Result<std::string> version = version_of(*object);
  if (!version) return version.status();
  list.version = *version;
  const json::value* plugins = object->if_contains("plugins");
  if (!plugins) {
    const Result<PluginConfig> plugin = parse_plugin(*object);
    if (!plugin) return plugin.status();
    list.plugins.push_back(*plugin);
    return list;
  }
  const Result<bool> disable_check = switch_under(*object, "disableCheck"),
                     disable_gc = switch_under(*object, "disableGC");
  if (!disable_check) return disable_check.status();
  if (!disable_gc) return disable_gc.status();
  list.disable_check = *disable_check;
  list.disable_gc = *disable_gc;
  if (!plugins->is_array() || plugins->get_array().empty() || plugins->get_array().size() > kMostPlugins) {
    return wrong("plugins", "a list of 1 to " + std::to_string(kMostPlugins) + " plugins is expected");
  }
  for (const json::value& item : plugins->get_array()) {
    if (!item.is_object()) return wrong("plugins", "a list of objects is expected");
    const Result<PluginConfig> plugin = parse_plugin(item.get_object());
    if (!plugin) return plugin.status();
    list.plugins.push_back(*plugin);
  }
  return list;
}

json::object to_json(const NetworkList& list) {
  json::array plugins;
  for (const PluginConfig& plugin : list.plugins) plugins.push_back(plugin.object);
  return {{"cniVersion", list.version},
          {"name", list.name},
          {"disableCheck", list.disable_check},
          {"disableGC", list.disable_gc},
          {"plugins", std::move(plugins)}};
}

Result<LoadedList> load_network_list(const std::string& folder, const std::string& name) {
  const Result<files::Descriptor> descriptor = files::open_folder(folder);
  if (!descriptor) return descriptor.status();
  Result<std::vector<std::string>> names = files::list_folder(descriptor->get());
  if (!names) return names.status();
  std::ranges::sort(*names);
  LoadedList loaded;
  for (const std::string& file : *names) {
    if (!is_list_file(file) || file.starts_with('.')) continue;
    const std::string path = folder + "/" + file;
    const Result<std::string> text = files::read_file(descriptor->get(), file);
    Result<NetworkList> list = text ? parse_network_list(*text) : text.status();
    if (!list) {
      loaded.passed_over.push_back(path + ": " + list.status().message());
      continue;
    }
    if (!name.empty() && list->name != name) continue;
    loaded.list = std::move(*list);
    loaded.path = path;
    return loaded;
  }
  std::string why =
      name.empty() ? "no CNI network configuration in " + folder : "no CNI network '" + name + "' in " + folder;
  for (const std::string& file : loaded.passed_over) why += "; " + file;
  return not_found(why);
}

}  // namespace pintle::cni
