#include "cni/bridge/registry.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <utility>

#include "sdk/support/netlink/namespaces.hpp"

namespace pintle::bridge {
namespace {

namespace json = boost::json;

constexpr const char* kSettings = "settings.json";
constexpr const char* kSettingsCopy = "settings.copy.json";

std::string this_boot() {
  return netlink::read_sysctl("kernel/random/boot_id").is_ok() ? *netlink::read_sysctl("kernel/random/boot_id")
                                                               : "unknown";
}

json::array to_json(const std::vector<netlink::IpPrefix>& prefixes) {
  json::array list;
  for (const netlink::IpPrefix& prefix : prefixes) list.emplace_back(prefix.to_string());
  return list;
}

Result<std::vector<netlink::IpPrefix>> prefixes_of(const json::object& object, std::string_view key) {
  const json::value* list = object.if_contains(key);
  if (!list || !list->is_array()) return data_loss("'" + std::string(key) + "' is missing");
  std::vector<netlink::IpPrefix> prefixes;
  for (const json::value& item : list->get_array()) {
    if (!item.is_string()) return data_loss("'" + std::string(key) + "' is no list of texts");
    const Result<netlink::IpPrefix> prefix = netlink::IpPrefix::parse(item.get_string());
    if (!prefix) return prefix.status();
    prefixes.push_back(*prefix);
  }
  return prefixes;
}

Result<Registration> read_registration(std::string_view text) {
  boost::system::error_code error;
  const json::value document = json::parse(text, error);
  if (error || !document.is_object()) return data_loss("it is no JSON object");
  const json::object& object = document.get_object();
  Registration registration;
  const std::pair<std::string_view, std::string*> texts[] = {
      {"key", &registration.key}, {"bridge", &registration.bridge}, {"stateDirectory", &registration.state_directory}};
  for (const auto& [key, target] : texts) {
    const json::value* value = object.if_contains(key);
    if (!value || !value->is_string()) return data_loss("'" + std::string(key) + "' is missing");
    *target = value->get_string();
  }
  const auto subnets = prefixes_of(object, "subnets");
  if (!subnets) return subnets.status();
  const auto gateways = prefixes_of(object, "gateways");
  if (!gateways) return gateways.status();
  registration.subnets = *subnets;
  registration.gateways = *gateways;
  if (const json::value* vlan = object.if_contains("vlan")) {
    registration.vlan = vlan->to_number<uint16_t>(error);
    if (error) return data_loss("'vlan' is no number of a VLAN");
  }
  const json::value* masquerade = object.if_contains("masquerade");
  registration.masquerade = !masquerade || !masquerade->is_bool() || masquerade->get_bool();
  return registration;
}

}  // namespace

Registration registration_of(const std::string& key, const Config& config, const std::string& state_directory) {
  Registration registration{.key = key,
                            .bridge = config.bridge,
                            .vlan = config.vlan,
                            .subnets = {},
                            .gateways = {},
                            .masquerade = config.masquerade,
                            .state_directory = state_directory};
  for (const cni::AddressRange& range : config.ranges) {
    registration.subnets.push_back(range.subnet);
    registration.gateways.emplace_back(range.gateway, range.subnet.length());
  }
  return registration;
}

Result<Registry> Registry::open(const std::string& shared_directory) {
  const std::string instances = shared_directory + "/instances";
  if (Status made = files::make_folders(instances); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(shared_directory);
  if (!folder) return folder.status();
  Result<files::Descriptor> instances_folder = files::open_folder(instances);
  if (!instances_folder) return instances_folder.status();
  return Registry(std::move(*folder), std::move(*instances_folder), shared_directory);
}

Result<files::Lock> Registry::lock() {
  return files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
}

Result<std::vector<Registration>> Registry::load() {
  const Result<std::vector<std::string>> names = files::list_folder(instances_.get());
  if (!names) return names.status();
  std::vector<Registration> registrations;
  for (const std::string& name : *names) {
    const Result<std::string> text = files::read_file(instances_.get(), name);
    if (!text) return text.status();
    const Result<Registration> registration = read_registration(*text);
    struct stat status {};
    const bool is_void = registration && stat(registration->state_directory.c_str(), &status) != 0 && errno == ENOENT;
    if (registration && !is_void && !name.starts_with('.')) {
      registrations.push_back(*registration);
    } else {
      unlinkat(instances_.get(), name.c_str(), 0);
    }
  }
  return registrations;
}

Status Registry::save(const Registration& registration) {
  json::object object{{"key", registration.key},
                      {"bridge", registration.bridge},
                      {"subnets", to_json(registration.subnets)},
                      {"gateways", to_json(registration.gateways)},
                      {"masquerade", registration.masquerade},
                      {"stateDirectory", registration.state_directory}};
  if (registration.vlan != 0) object["vlan"] = registration.vlan;
  return files::write_file(instances_.get(), registration.key + ".json", json::serialize(object) + "\n",
                           files::Durability::cached)
      .with_context("register instance " + registration.key);
}

Status Registry::remove(const std::string& key) {
  if (unlinkat(instances_.get(), (key + ".json").c_str(), 0) == 0 || errno == ENOENT) return Status::ok();
  return status_from_errno(errno, "remove " + path_ + "/instances/" + key + ".json");
}

Status Registry::set_sysctl(const std::string& path, const std::string& value) {
  const Result<std::string> now = netlink::read_sysctl(path);
  if (!now) return now.status();
  if (*now == value) return Status::ok();
  Settings settings = load_settings();
  const auto [entry, is_new] = settings.try_emplace(path, Setting{.before = *now, .after = value});
  entry->second.after = value;
  if (Status saved = save_settings(settings); !saved) return saved;
  return netlink::write_sysctl(path, value);
}

void Registry::remember_sysctl(const std::string& path) {
  const Result<std::string> now = netlink::read_sysctl(path);
  Settings settings = load_settings();
  if (!now || !settings.try_emplace(path, Setting{.before = *now, .after = ""}).second) return;
  // A full disk costs the restoration of a side effect, no more.
  (void)save_settings(settings).is_ok();
}

Status Registry::restore_sysctls() {
  const Settings settings = load_settings();
  Status result;
  const auto restore = [&](const std::string& path, const Setting& setting) {
    const Result<std::string> now = netlink::read_sysctl(path);
    if (!now || *now == setting.before || (!setting.after.empty() && *now != setting.after)) return;
    if (Status written = netlink::write_sysctl(path, setting.before); !written && result) result = written;
  };
  // Side effects last: undoing what we set has the reverse side effects.
  for (const bool side_effects : {false, true}) {
    for (const auto& [path, setting] : settings) {
      if (setting.after.empty() == side_effects) restore(path, setting);
    }
  }
  for (const char* name : {kSettingsCopy, kSettings}) unlinkat(folder_.get(), name, 0);
  return result;
}

std::optional<Registry::Settings> Registry::read_settings(const char* name) const {
  const Result<std::string> text = files::read_file(folder_.get(), name);
  if (!text) return std::nullopt;
  boost::system::error_code error;
  const json::value document = json::parse(*text, error);
  const json::object* object = error ? nullptr : document.if_object();
  const json::value* boot = object ? object->if_contains("boot") : nullptr;
  const json::value* values = object ? object->if_contains("settings") : nullptr;
  if (!boot || !values || !values->is_object()) return std::nullopt;
  Settings settings;
  // After a boot the machine's own values are in force again.
  if (*boot != json::string(this_boot())) return settings;
  for (const auto& [path, value] : values->get_object()) {
    const json::object* setting = value.if_object();
    if (!setting || !setting->contains("before") || !setting->contains("after")) continue;
    const json::string* before = setting->at("before").if_string();
    const json::string* after = setting->at("after").if_string();
    if (before && after) settings[path] = {.before = std::string(*before), .after = std::string(*after)};
  }
  return settings;
}

Registry::Settings Registry::load_settings() {
  std::optional<Settings> settings = read_settings(kSettings), copy = read_settings(kSettingsCopy);
  if (settings && copy) return std::move(*settings);
  if (!settings && !copy) return {};
  if (!settings) settings = std::move(copy);
  (void)save_settings(*settings).is_ok();
  return std::move(*settings);
}

Status Registry::save_settings(const Settings& settings) {
  json::object values;
  for (const auto& [path, setting] : settings) values[path] = {{"before", setting.before}, {"after", setting.after}};
  const json::object document{{"boot", this_boot()}, {"settings", std::move(values)}};
  const std::string text = json::serialize(document) + "\n";
  for (const char* name : {kSettingsCopy, kSettings})
    if (Status written = files::write_file(folder_.get(), name, text, files::Durability::cached); !written)
      return written.with_context("remember sysctls");
  return Status::ok();
}

}  // namespace pintle::bridge
