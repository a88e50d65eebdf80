#pragma once

/// What the instances of this plugin on one node have in common, in the plugin's shared folder.
///
/// Two instances may share a bridge (a changed configuration makes a new instance while the old one still serves its
/// pods). Each registers what it uses; bridge, gateway addresses, packet filter and sysctls are a function of all registrations, and
/// whoever changes its own converges the machine to it. The last one to leave removes them.
///
///     instances/KEY.json   a registration
///     settings.json        sysctls as they were before the first of us changed them, and what they were set to; of this boot
///     settings.copy.json   the same: what they were is nowhere else, so that one damaged file must not lose it
///     lock                 flock(2): held while the common part of the machine is looked at and changed

#include <map>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "cni/bridge/config.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::bridge {

struct Registration {
  std::string key;
  std::string bridge;
  uint16_t vlan = 0;  ///< 0: none
  std::vector<netlink::IpPrefix> subnets;
  std::vector<netlink::IpPrefix> gateways;  ///< addresses of its gateway interface, with the length of their subnet
  bool masquerade = true;
  std::string state_directory;  ///< of the instance: a registration whose folder has gone is void
  bool operator==(const Registration&) const = default;
  std::string gateway_interface() const { return gateway_interface_name(bridge, vlan); }
  /// Whether the two have one bridge and one VLAN of it: their pods reach each other without the node.
  bool shares_wire_with(const Registration& other) const { return bridge == other.bridge && vlan == other.vlan; }
};

/// Where an instance keeps the records of its attachments.
inline std::string records_folder(const std::string& state_directory) { return state_directory + "/attachments"; }

Registration registration_of(const std::string& key, const Config& config, const std::string& state_directory);

/// Not thread-safe; other processes are kept out by `lock`.
class Registry {
 public:
  static Result<Registry> open(const std::string& shared_directory);
  Result<files::Lock> lock();
  /// All but damaged and void ones, which are removed. Call under the lock, as all below.
  Result<std::vector<Registration>> load();
  Status save(const Registration& registration);
  Status remove(const std::string& key);

  /// Sets a sysctl and remembers what it was before the first of us changed it. Nothing is written that is set already. NOT_FOUND if
  /// the kernel does not have it.
  Status set_sysctl(const std::string& path, const std::string& value);
  /// Remembers a value that is about to change as the side effect of another.
  void remember_sysctl(const std::string& path);
  /// Gives all sysctls that were remembered their values back, unless somebody else has changed them meanwhile, and forgets them.
  Status restore_sysctls();

 private:
  struct Setting {
    std::string before;
    std::string after;  ///< what we set; empty for a side effect
  };
  Registry(files::Descriptor folder, files::Descriptor instances, std::string path)
      : folder_(std::move(folder)), instances_(std::move(instances)), path_(std::move(path)) {}
  using Settings = std::map<std::string, Setting>;
  /// Nothing: it is not there, or damaged.
  std::optional<Settings> read_settings(const char* name) const;
  /// Of both copies; one that is damaged or missing is written anew.
  Settings load_settings();
  Status save_settings(const Settings& settings);

  files::Descriptor folder_;
  files::Descriptor instances_;
  std::string path_;
};

}  // namespace pintle::bridge
