#include "plugins/runtime-oci/placement.hpp"

#include <dirent.h>

#include <chrono>
#include <thread>

#include "plugins/runtime-oci/record.hpp"
#include "sdk/support/systemd/slices.hpp"

namespace pintle::runtime_oci {
namespace {

constexpr unsigned kEndPatience = 5000;  // milliseconds
constexpr char kPrefix[] = "pintle";
constexpr char kHost[] = "pintled.service";

std::string parent_of(const std::string& cgroup) { return cgroup.substr(0, cgroup.rfind('/')); }

std::string own_slice(const Node& node) { return systemd::slice_path(node.settings.cgroup_parent); }

/// "pintle-monitors.service" in "pintle.slice"
std::string holder_of(const std::string& slice) {
  const std::string unit = systemd::unit_of(slice);
  return unit.substr(0, unit.rfind('.')) + "-monitors.service";
}

std::string holder_cgroup(const Node& node) { return own_slice(node) + "/" + holder_of(own_slice(node)); }

bool has_folders(const std::string& folder) {
  DIR* open = opendir(folder.c_str());
  if (!open) return false;
  bool found = false;
  while (const dirent* entry = readdir(open)) found = found || (entry->d_type == DT_DIR && entry->d_name[0] != '.');
  closedir(open);
  return found;
}

bool has_at_most(const Node& node, size_t processes, const std::string& cgroup) {
  const auto pids = node.cgroups.processes(cgroup);
  return !pids || pids->size() <= processes;
}

/// What systemd has no word for.
cgroup::Limits beyond_systemd(const cgroup::Limits& limits) {
  cgroup::Limits rest;
  rest.huge_pages = limits.huge_pages;
  rest.unified = limits.unified;
  for (const char* known : {"memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.max", "cpu.weight",
                            "cpu.max", "pids.max"})
    rest.unified.erase(known);
  return rest;
}

}  // namespace

Result<CgroupDriver> choose_driver(std::string_view word, const cgroup::Layout& cgroups, bool has_systemd) {
  const bool can = has_systemd && cgroups.mode() == cgroup::Mode::v2;
  if (word == "cgroupfs" || (word == "auto" && !can)) return CgroupDriver::cgroupfs;
  if (can) return CgroupDriver::systemd;
  return failed_precondition(std::string("cgroupDriver is systemd, but ") +
                             (has_systemd
                                  ? "this host's cgroups are " + std::string(cgroup::mode_name(cgroups.mode())) +
                                        ": boot with systemd.unified_cgroup_hierarchy=1"
                                  : "systemd does not run this host") +
                             ", or set it to auto or cgroupfs");
}

std::string_view driver_name(CgroupDriver driver) { return driver == CgroupDriver::systemd ? "systemd" : "cgroupfs"; }

Place place_of(const Node& node, const std::string& parent, const std::string& id) {
  const bool has_own_parent = !parent.empty();
  if (has_own_parent ? !systemd::is_slice(parent) : node.driver == CgroupDriver::cgroupfs) {
    const std::string path = (has_own_parent ? parent : node.settings.cgroup_parent) + "/" + id;
    return {path, "", path};
  }
  const std::string slice = has_own_parent ? parent : own_slice(node);
  const std::string scope = std::string(kPrefix) + "-" + id + ".scope";
  return {slice + "/" + scope, scope, systemd::unit_of(slice) + ":" + kPrefix + ":" + id};
}

Status check_parent(const Node& node, const std::string& parent) {
  if (parent.empty()) return {};
  const bool is_slice = systemd::is_slice(parent);
  if (node.driver == CgroupDriver::systemd && !is_slice)
    return invalid_argument("cgroup_parent '" + parent.substr(0, 300) +
                            "' is a path, but the cgroup driver is systemd: name a slice, such as " +
                            systemd::unit_of(systemd::slice_path(parent)));
  if (node.driver == CgroupDriver::cgroupfs && is_slice)
    return invalid_argument(
        "cgroup_parent '" + parent.substr(0, 300) +
        "' is a systemd slice, but the cgroup driver is cgroupfs: name a path, such as /pods, or set "
        "cgroupDriver to systemd");
  return {};
}

Status make_pod_place(const Node& node, const std::string& parent, const cgroup::Limits& limits) {
  if (!systemd::is_slice(parent)) {
    Status status = node.cgroups.create(parent);
    return status ? node.cgroups.apply(parent, limits) : status;
  }
  const auto properties = systemd::properties_of(limits);
  if (!properties) return properties.status();
  const std::string unit = systemd::unit_of(parent);
  // The node agent has made it.
  Status status = node.cgroups.exists(parent) ? node.systemd.set_properties(unit, *properties) : not_found("");
  // Our own slice is no pod's, whoever names it.
  if (status.code() == Code::not_found)
    status = node.systemd.start_slice(
        unit, parent == own_slice(node) ? "Containers of Pintle" : systemd::kPodDescription, *properties);
  return status ? node.cgroups.apply(parent, beyond_systemd(limits)) : status;
}

Status remove_pod_place(const Node& node, const std::string& parent) {
  if (!systemd::is_slice(parent)) return node.cgroups.remove(parent, 1000);
  // With it goes all that is in it, so it must be a pod's.
  const auto unit = node.systemd.look(systemd::unit_of(parent));
  if (unit.status().code() == Code::not_found) return {};
  if (!unit) return unit.status();
  if (!unit->is_transient || unit->description != systemd::kPodDescription) return {};
  return node.systemd.stop(systemd::unit_of(parent));
}

Result<std::map<std::string, std::string>> scope_annotations(const cgroup::Limits& limits) {
  const auto properties = systemd::properties_of(limits);
  if (!properties) return properties.status();
  std::map<std::string, std::string> annotations = {
      // Nothing is left to be forgotten by hand if it fails.
      {"org.systemd.property.CollectMode", "'inactive-or-failed'"},
      // systemd's own default is a limit that nobody has asked for.
      {"org.systemd.property.TasksMax", "uint64 " + std::to_string(systemd::kInfinity)},
      // The limits are where everybody looks for them: in the scope itself.
      {"run.oci.systemd.subgroup", ""}};
  for (const systemd::Property& property : *properties) {
    if (const auto* number = std::get_if<uint64_t>(&property.value))
      annotations["org.systemd.property." + property.name] = "uint64 " + std::to_string(*number);
  }
  return annotations;
}

Status finish_scope(const Node& node, const ContainerRecord& record, const cgroup::Limits& limits) {
  if (record.scope.empty() || (limits.cpuset_cpus.empty() && limits.cpuset_mems.empty())) return {};
  cgroup::Limits rest;
  rest.cpuset_cpus = limits.cpuset_cpus;
  rest.cpuset_mems = limits.cpuset_mems;
  return limit_container(node, record, rest);
}

Status limit_container(const Node& node, const ContainerRecord& record, const cgroup::Limits& limits) {
  if (!record.scope.empty()) {
    const auto properties = systemd::properties_of(limits);
    if (!properties) return properties.status();
    if (!properties->empty()) {
      if (Status told = node.systemd.set_properties(record.scope, *properties); !told) return told;
    }
  }
  // systemd writes what it was told a little later; whoever is answered finds it there.
  return node.cgroups.apply(record.cgroup, limits);
}

Status remove_container_place(const Node& node, const ContainerRecord& record) {
  if (record.cgroup.empty() || !node.cgroups.exists(record.cgroup)) return {};
  const Status killed = node.cgroups.kill(record.cgroup);
  Status removed;
  // Without systemd a scope's cgroup is still one: the container has to be removed all the same.
  if (!record.scope.empty()) removed = node.systemd.stop(record.scope);
  if (record.scope.empty() || removed.code() == Code::unavailable)
    removed = node.cgroups.remove(record.cgroup, kEndPatience);
  return killed ? removed : killed;
}

uint64_t out_of_memory_kills_beside(const Node& node, const ContainerRecord& record) {
  if (record.scope.empty()) return 0;
  const auto stats = node.cgroups.stats(parent_of(record.cgroup));
  return stats ? stats->out_of_memory_kills : 0;
}

Status make_monitors_place(const Node& node) {
  if (node.driver == CgroupDriver::cgroupfs) return node.cgroups.create(node.settings.cgroup_parent + "/monitors");
  const std::string slice = own_slice(node);
  return node.systemd.start_holder(holder_of(slice), "Monitors of Pintle's containers", systemd::unit_of(slice), kHost);
}

std::vector<std::string> monitors_places(const Node& node) {
  std::vector<std::string> places = {node.settings.cgroup_parent + "/monitors"};
  if (node.cgroups.mode() == cgroup::Mode::v2) places.push_back(holder_cgroup(node));
  if (node.driver == CgroupDriver::systemd) std::swap(places.front(), places.back());
  return places;
}

void discard_places(const Node& node) {
  const std::string monitors = node.settings.cgroup_parent + "/monitors";
  const auto wait_until_empty = [&](const std::string& cgroup, size_t processes) {
    for (int attempt = 0; attempt < 50 && !has_at_most(node, processes, cgroup); ++attempt)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return has_at_most(node, processes, cgroup);
  };
  if (node.cgroups.exists(monitors)) (void)wait_until_empty(monitors, 0);
  node.cgroups.discard(monitors);
  node.cgroups.discard(node.settings.cgroup_parent);
  const std::string slice = own_slice(node), holder = holder_cgroup(node);
  if (node.cgroups.mode() != cgroup::Mode::v2 || !node.cgroups.exists(holder) || !wait_until_empty(holder, 1)) return;
  (void)node.systemd.stop(systemd::unit_of(holder));
  if (!has_folders(node.cgroups.unified_folder(slice))) (void)node.systemd.stop(systemd::unit_of(slice));
}

}  // namespace pintle::runtime_oci
