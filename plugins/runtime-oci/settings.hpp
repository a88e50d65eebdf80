#pragma once

/// The instance's config, the programs it found, and the folders it works in.

#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cri/oci/spec.hpp"
#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/systemd/manager.hpp"

namespace pintle::runtime_oci {

struct Settings {
  std::string runtime = "auto";  ///< "auto", "crun", "runc" or an absolute path
  std::string monitor = "conmon";
  std::string launcher;  ///< pintle-oci-launch; empty: looked for beside the installed files
  std::string cgroup_parent = "/pintle";
  std::string cgroup_driver = "auto";  ///< "auto", "systemd", "cgroupfs"
  /// Of the node's hooks; a later folder counts before an earlier one.
  std::vector<std::string> hook_folders = {"/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"};
  /// From the instance's config (valid by config.schema.json).
  static Result<Settings> parse(std::string_view json);
};

enum class RuntimeKind {
  crun,  ///< with cgroupfs takes a process that has joined its cgroup already
  runc,  ///< makes and joins the cgroup itself
};

enum class CgroupDriver { cgroupfs, systemd };

/// What was found on this host.
struct Programs {
  std::string runtime;
  RuntimeKind kind = RuntimeKind::crun;
  std::string runtime_name;     ///< "crun"
  std::string runtime_version;  ///< "1.8.1"
  std::string monitor;
  std::string launcher;
  std::string apparmor_parser;  ///< loads AppArmor profiles; empty: is not installed
};

/// Looks for the programs. "auto" is crun where it is installed and runs on such a host, else runc. FAILED_PRECONDITION says
/// which package to install.
Result<Programs> find_programs(const Settings& settings, const cgroup::Layout& cgroups);
/// Why crun does not run here; empty if it does.
std::string crun_obstacle(const cgroup::Layout& cgroups);
/// Tells which runtime it is from what `RUNTIME --version` printed.
Status identify_runtime(Programs& programs, std::string_view version);

struct Folders {
  std::string state;
  std::string containers;
  std::string exits;
  std::string oci;
  std::string trash;
  std::string run;
  /// Makes them below the instance's folders.
  static Result<Folders> make(std::string_view state_directory, std::string_view run_directory);
  std::string container(std::string_view id) const { return containers + "/" + std::string(id); }
};

/// Everything that stays the same while an instance lives.
struct Node {
  std::string key;  ///< the instance and its generation
  Settings settings;
  Programs programs;
  Folders folders;
  cgroup::Layout cgroups;
  CgroupDriver driver = CgroupDriver::cgroupfs;
  systemd::Manager systemd;
  oci::HostFacts host;
};

}  // namespace pintle::runtime_oci
