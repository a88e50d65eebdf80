#include "cri/oci/mounts.hpp"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <climits>
#include <cstdlib>

#include "cri/api.pb.h"
#include "sdk/support/files/files.hpp"

namespace pintle::oci {
namespace {

namespace json = boost::json;

json::object mount_of(std::string_view destination, std::string_view type, std::string_view source,
                      std::initializer_list<std::string_view> options) {
  json::array values;
  for (const std::string_view option : options) values.push_back(json::string(option));
  return {{"destination", destination}, {"type", type}, {"source", source}, {"options", std::move(values)}};
}

/// "/a//b/./c/" -> "/a/b/c"; empty for what is not absolute or leads up.
std::string tidy(std::string_view path) {
  if (!path.starts_with('/')) return {};
  std::string tidied;
  while (!path.empty()) {
    const size_t end = path.find('/');
    const std::string_view part = path.substr(0, end);
    path.remove_prefix(end == std::string_view::npos ? path.size() : end + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") return {};
    tidied += "/" + std::string(part);
  }
  return tidied.empty() ? "/" : tidied;
}

/// Whether a mount's ids are to be mapped; only as the pod's are.
Result<bool> is_mapped(const ::runtime::v1::Mount& mount, const PodUsers& users) {
  const auto fits = [&](const auto& mappings) {
    return mappings.size() == 1 && users.count != 0 && mappings[0].container_id() == 0 &&
           mappings[0].host_id() == users.first && mappings[0].length() == users.count;
  };
  if (mount.uidmappings_size() + mount.gidmappings_size() == 0) return false;
  if (fits(mount.uidmappings()) && fits(mount.gidmappings())) return true;
  return invalid_argument("mount at '" + mount.container_path().substr(0, 200) +
                          "': its ids have to be mapped as the pod's are (namespace_options.userns_options)");
}

Result<json::object> bind_of(const ::runtime::v1::Mount& mount, const PodUsers& users, std::string& root_propagation) {
  const std::string what = "mount at '" + mount.container_path().substr(0, 200) + "'";
  const std::string destination = tidy(mount.container_path());
  if (destination.empty() || destination == "/")
    return invalid_argument(what + ": the container path has to be absolute and below /");
  if (mount.has_image() && !mount.image().image().empty())
    return unimplemented(what + ": images as volumes are not supported yet");
  const auto mapped = is_mapped(mount, users);
  if (!mapped) return mapped.status();
  if (!mount.host_path().starts_with('/'))
    return invalid_argument(what + ": the host path '" + mount.host_path().substr(0, 200) + "' has to be absolute");
  char resolved[PATH_MAX];
  if (!realpath(mount.host_path().c_str(), resolved)) {
    return status_from_errno(errno, what + ": host path " + mount.host_path());
  }
  json::array options{"rbind"};
  const auto propagation = mount.propagation();
  if (propagation != ::runtime::v1::MountPropagation::PROPAGATION_PRIVATE) {
    const bool both = propagation == ::runtime::v1::MountPropagation::PROPAGATION_BIDIRECTIONAL;
    auto mounts = files::read_file("/proc/self/mountinfo", 16u << 20);
    if (!mounts) return mounts.status();
    const std::string now = propagation_of(*mounts, resolved);
    if (both ? now != "shared" : now == "private") {
      return failed_precondition(what + ": " + resolved + " lies on a mount that is " + now + "; " +
                                 (both ? "make it shared" : "make it shared or slave") + " with 'mount --make-r" +
                                 (both ? "shared" : "slave") + "'");
    }
    options.push_back(both ? "rshared" : "rslave");
    if (both || root_propagation.empty()) root_propagation = both ? "rshared" : "rslave";
  } else {
    options.push_back("rprivate");
  }
  if (mount.recursive_read_only()) {
    if (!mount.readonly()) return invalid_argument(what + ": recursive_read_only needs readonly");
    if (propagation != ::runtime::v1::MountPropagation::PROPAGATION_PRIVATE) {
      return invalid_argument(what + ": recursive_read_only needs private propagation");
    }
    options.push_back("rro");
  }
  options.push_back(mount.readonly() ? "ro" : "rw");
  json::object bind{
      {"destination", destination}, {"type", "bind"}, {"source", resolved}, {"options", std::move(options)}};
  if (*mapped) bind["uidMappings"] = bind["gidMappings"] = id_mappings(users);
  return bind;
}

json::object device_of(const std::string& path, const struct stat& about) {
  return {{"path", path},
          {"type", S_ISBLK(about.st_mode) ? "b" : "c"},
          {"major", major(about.st_rdev)},
          {"minor", minor(about.st_rdev)},
          {"fileMode", about.st_mode & 07777},
          {"uid", about.st_uid},
          {"gid", about.st_gid}};
}

/// A device, or all in a folder. What is neither is passed over.
void add_devices(const std::string& host, const std::string& inside, const std::string& access, int depth,
                 Devices& devices) {
  struct stat about {};
  if (stat(host.c_str(), &about) != 0 || depth > 16) return;
  if (S_ISCHR(about.st_mode) || S_ISBLK(about.st_mode)) {
    devices.documents.push_back(device_of(inside, about));
    devices.rules.push_back({S_ISBLK(about.st_mode) ? 'b' : 'c', major(about.st_rdev), minor(about.st_rdev), access});
    return;
  }
  if (!S_ISDIR(about.st_mode)) return;
  DIR* dir = opendir(host.c_str());
  if (!dir) return;
  while (dirent* entry = readdir(dir)) {
    const std::string_view name = entry->d_name;
    // What the container has of its own, and symlinks, which would lead around in circles.
    if (name == "." || name == ".." || entry->d_type == DT_LNK) continue;
    if (depth == 0 && host == "/dev" &&
        (name == "pts" || name == "shm" || name == "fd" || name == "mqueue" || name == "console" || name == "ptmx"))
      continue;
    add_devices(host + "/" + entry->d_name, inside + "/" + entry->d_name, access, depth + 1, devices);
  }
  closedir(dir);
}

}  // namespace

json::array id_mappings(const PodUsers& users) {
  return {json::object{{"containerID", 0}, {"hostID", users.first}, {"size", users.count}}};
}

std::string propagation_of(std::string_view mountinfo, std::string_view path) {
  size_t longest = 0;
  std::string propagation = "private";
  while (!mountinfo.empty()) {
    const size_t end = mountinfo.find('\n');
    const std::string_view line = mountinfo.substr(0, end);
    mountinfo.remove_prefix(end == std::string_view::npos ? mountinfo.size() : end + 1);
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    std::string_view rest = line.substr(0, dash);
    std::vector<std::string_view> fields;
    while (!rest.empty()) {
      const size_t blank = rest.find(' ');
      fields.push_back(rest.substr(0, blank));
      rest.remove_prefix(blank == std::string_view::npos ? rest.size() : blank + 1);
    }
    if (fields.size() < 6) continue;
    const std::string_view mount = fields[4];
    const bool within =
        path.starts_with(mount) && (mount == "/" || path.size() == mount.size() || path[mount.size()] == '/');
    // Of several mounts at one place the last one is on top.
    if (!within || mount.size() < longest) continue;
    longest = mount.size();
    propagation = "private";
    for (size_t i = 6; i < fields.size(); ++i) {
      if (fields[i].starts_with("shared:")) propagation = "shared";
      if (fields[i].starts_with("master:") && propagation == "private") propagation = "slave";
    }
  }
  return propagation;
}

Result<Mounts> make_mounts(const SpecRequest& request, bool privileged) {
  Mounts mounts;
  std::vector<json::object> all = {
      mount_of("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}),
      mount_of("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}),
      mount_of("/dev/pts", "devpts", "devpts",
               {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}),
      mount_of("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}),
      privileged ? mount_of("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "rw"})
                 : mount_of("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}),
      privileged ? mount_of("/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "rw"})
                 : mount_of("/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}),
  };
  const PodPlaces& places = request.places;
  all.push_back(places.shm.empty()
                    ? mount_of("/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"})
                    : mount_of("/dev/shm", "bind", places.shm, {"rbind", "rprivate", "rw"}));
  const std::string_view writable = request.config->linux().security_context().readonly_rootfs() ? "ro" : "rw";
  if (!places.resolv_conf.empty())
    all.push_back(mount_of("/etc/resolv.conf", "bind", places.resolv_conf, {"rbind", "rprivate", writable}));
  if (!places.hosts.empty())
    all.push_back(mount_of("/etc/hosts", "bind", places.hosts, {"rbind", "rprivate", writable}));
  if (!places.hostname_file.empty())
    all.push_back(mount_of("/etc/hostname", "bind", places.hostname_file, {"rbind", "rprivate", writable}));

  for (const ::runtime::v1::Mount& asked : request.config->mounts()) {
    auto bind = bind_of(asked, request.users, mounts.root_propagation);
    if (!bind) return bind.status();
    const auto same = std::find_if(all.begin(), all.end(), [&](const json::object& other) {
      return other.at("destination") == bind->at("destination");
    });
    if (same != all.end()) {
      *same = std::move(*bind);
    } else {
      all.push_back(std::move(*bind));
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const json::object& a, const json::object& b) {
    const auto depth = [](const json::object& mount) {
      const json::string& path = mount.at("destination").as_string();
      return std::count(path.begin(), path.end(), '/');
    };
    return depth(a) < depth(b);
  });
  for (json::object& mount : all) mounts.documents.push_back(std::move(mount));
  return mounts;
}

Result<Devices> make_devices(const ::runtime::v1::ContainerConfig& config, bool privileged) {
  Devices devices;
  if (privileged) {
    add_devices("/dev", "/dev", "rwm", 0, devices);
    devices.rules = {{'a', {}, {}, "rwm"}};
  } else {
    // Every container's: any node may be made, but only null, zero, full, random, urandom, tty, console, ptmx and pts work.
    devices.rules = {{'a', {}, {}, "m"}, {'c', 1, 3, "rwm"},   {'c', 1, 5, "rwm"}, {'c', 1, 7, "rwm"},
                     {'c', 1, 8, "rwm"}, {'c', 1, 9, "rwm"},   {'c', 5, 0, "rwm"}, {'c', 5, 1, "rwm"},
                     {'c', 5, 2, "rwm"}, {'c', 136, {}, "rwm"}};
  }
  for (const ::runtime::v1::Device& asked : config.devices()) {
    const std::string inside = tidy(asked.container_path().empty() ? asked.host_path() : asked.container_path()),
                      host = tidy(asked.host_path());
    const std::string what = "device '" + asked.host_path().substr(0, 200) + "'";
    if (host.empty() || inside.empty() || inside == "/")
      return invalid_argument(what + ": host and container path have to be absolute");
    const std::string access = asked.permissions().empty() ? "rwm" : asked.permissions();
    if (access.find_first_not_of("rwm") != std::string::npos)
      return invalid_argument(what + ": permissions '" + access.substr(0, 20) + "' are not of r, w and m");
    struct stat about {};
    if (stat(host.c_str(), &about) != 0) return status_from_errno(errno, what);
    const size_t before = devices.documents.size();
    const auto rules = devices.rules.size();
    add_devices(host, inside, access, 0, devices);
    if (devices.documents.size() == before)
      return invalid_argument(what + ": it is neither a device nor a folder with devices");
    if (privileged) devices.rules.resize(rules);
  }
  // Asked for and default ones may coincide; the runtime makes each node once.
  json::array unique;
  std::set<std::string> seen;
  for (json::value& document : devices.documents) {
    if (seen.insert(std::string(document.as_object().at("path").as_string())).second)
      unique.push_back(std::move(document));
  }
  devices.documents = std::move(unique);
  return devices;
}

}  // namespace pintle::oci
