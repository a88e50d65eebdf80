#include "plugins/runtime-oci/settings.hpp"

#include <unistd.h>

#include <boost/json.hpp>

#include "sdk/support/files/files.hpp"
#include "sdk/support/process/own_program.hpp"

namespace pintle::runtime_oci {
namespace {

constexpr const char* kProgramFolders[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin",          "/usr/bin",
                                           "/sbin",           "/bin",           "/usr/libexec/podman"};

std::string find_program(const std::string& name) {
  if (name.empty()) return {};
  if (name.starts_with('/')) return access(name.c_str(), X_OK) == 0 ? name : "";
  for (const char* folder : kProgramFolders) {
    const std::string path = std::string(folder) + "/" + name;
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return {};
}

}  // namespace

Result<Settings> Settings::parse(std::string_view text) {
  boost::json::error_code error;
  const boost::json::value value = boost::json::parse(text.empty() ? std::string_view("{}") : text, error);
  if (error || !value.is_object()) return invalid_argument("the config of runtime-oci is no JSON object");
  Settings settings;
  const auto take = [&](const char* key, std::string& into) {
    const boost::json::value* found = value.get_object().if_contains(key);
    if (found && found->is_string() && !found->get_string().empty()) into = std::string(found->get_string());
  };
  take("runtime", settings.runtime);
  take("monitor", settings.monitor);
  take("launcher", settings.launcher);
  take("cgroupParent", settings.cgroup_parent);
  take("cgroupDriver", settings.cgroup_driver);
  if (const boost::json::value* folders = value.get_object().if_contains("hookFolders");
      folders && folders->is_array()) {
    settings.hook_folders.clear();
    for (const boost::json::value& folder : folders->get_array())
      if (folder.is_string()) settings.hook_folders.emplace_back(folder.get_string());
  }
  while (settings.cgroup_parent.size() > 1 && settings.cgroup_parent.back() == '/') settings.cgroup_parent.pop_back();
  if (settings.cgroup_parent.size() < 2 || settings.cgroup_parent[0] != '/') {
    return invalid_argument("cgroupParent '" + settings.cgroup_parent +
                            "' has to be an absolute cgroup path below the root, such as /pintle");
  }
  return settings;
}

std::string crun_obstacle(const cgroup::Layout& cgroups) {
  if (cgroups.mode() != cgroup::Mode::hybrid) return {};
  for (const cgroup::Hierarchy& hierarchy : cgroups.hierarchies()) {
    if (!hierarchy.unified || hierarchy.controllers.empty()) continue;
    const std::string& name = hierarchy.controllers.front();
    return "crun does not run on this host: cgroup v1 is in use, but the controller " + name +
           " is on v2; mount it as v1 (mkdir /sys/fs/cgroup/" + name + " && mount -t cgroup -o " + name +
           " cgroup /sys/fs/cgroup/" + name + "), or set 'runtime' to runc";
  }
  return {};
}

Result<Programs> find_programs(const Settings& settings, const cgroup::Layout& cgroups) {
  Programs programs;
  const std::string obstacle = crun_obstacle(cgroups);
  if (settings.runtime == "auto") {
    if (obstacle.empty()) programs.runtime = find_program("crun");
    if (programs.runtime.empty()) programs.runtime = find_program("runc");
    if (programs.runtime.empty() && !find_program("crun").empty()) return failed_precondition(obstacle);
    if (programs.runtime.empty())
      return failed_precondition("no OCI runtime is on this host; install one (apt install crun)");
  } else {
    programs.runtime = find_program(settings.runtime);
  }
  if (programs.runtime.empty()) {
    return failed_precondition(
        "the OCI runtime '" + settings.runtime + "' is not on this host; install it (apt install " +
        (settings.runtime.starts_with('/') ? "crun" : settings.runtime) + ") or set 'runtime' to another one");
  }
  programs.monitor = find_program(settings.monitor);
  if (programs.monitor.empty()) {
    return failed_precondition("the container monitor '" + settings.monitor +
                               "' is not on this host; install it (apt install conmon)");
  }
  programs.apparmor_parser = find_program("apparmor_parser");
  const std::string launcher =
      settings.launcher.empty() ? process::installed_beside("lib/pintle/pintle-oci-launch") : settings.launcher;
  programs.launcher = find_program(launcher);
  if (programs.launcher.empty())
    return failed_precondition("the launcher " + launcher + " is not on this host; install Pintle's package again");
  if (!obstacle.empty() && programs.runtime.ends_with("/crun")) return failed_precondition(obstacle);
  return programs;
}

Status identify_runtime(Programs& programs, std::string_view version) {
  // "crun version 1.8.1", "runc version 1.1.5+ds1"
  const std::string line(version.substr(0, version.find('\n')));
  const size_t number = line.find("version ");
  programs.runtime_name = line.substr(0, line.find(' '));
  if (programs.runtime_name.empty() || number == std::string::npos) {
    return failed_precondition(programs.runtime +
                               " --version does not answer as an OCI runtime does; set 'runtime' to crun or runc");
  }
  programs.runtime_version = line.substr(number + 8, line.find(' ', number + 8) - number - 8);
  programs.kind = programs.runtime_name == "crun" ? RuntimeKind::crun : RuntimeKind::runc;
  return {};
}

Result<Folders> Folders::make(std::string_view state_directory, std::string_view run_directory) {
  Folders folders;
  folders.state = std::string(state_directory);
  folders.containers = folders.state + "/containers";
  folders.oci = folders.state + "/oci";
  folders.trash = folders.state + "/trash";
  folders.run = std::string(run_directory);
  folders.exits = folders.run + "/exits";
  for (const std::string* folder : {&folders.containers, &folders.oci, &folders.trash, &folders.run, &folders.exits}) {
    if (Status status = files::make_folders(*folder); !status) return status;
  }
  return folders;
}

}  // namespace pintle::runtime_oci
