#include "plugins/runtime-oci/mapped_users.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>

#include "cri/images/idmap.hpp"
#include "cri/images/overlay.hpp"
#include "pintle/runtime.pb.h"

namespace pintle::runtime_oci {
namespace {

namespace json = boost::json;

constexpr const char* kMounts = "/mounts";

/// The folder above the layers': they lie in LAYERS/<chain id>/fs.
std::string folder_of_layers(const std::string& layer) {
  const size_t slash = layer.rfind('/', layer.rfind('/') - 1);
  return layer.substr(0, slash);
}

/// A mount point of the same kind as what is to be mounted.
Status make_mount_point(const std::string& source, const std::string& target) {
  struct stat about {};
  if (stat(source.c_str(), &about) != 0) return status_from_errno(errno, "look at " + source);
  if (S_ISDIR(about.st_mode))
    return mkdir(target.c_str(), 0700) == 0 ? Status::ok() : status_from_errno(errno, "make " + target);
  auto file = files::open_at(AT_FDCWD, target, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0600);
  return file.status();
}

}  // namespace

Result<MappedUsers> MappedUsers::of(const runtime::v1::Sandbox& sandbox) {
  MappedUsers users;
  if (sandbox.user_namespace().empty()) return users;
  const auto& options = sandbox.config().linux().security_context().namespace_options().userns_options();
  if (options.uids_size() != 1)
    return invalid_argument("the pod has a user namespace, but its config does not say which ids are mapped");
  users.first = options.uids(0).host_id();
  users.count = options.uids(0).length();
  auto opened = files::open_at(AT_FDCWD, sandbox.user_namespace(), O_RDONLY);
  if (!opened) return opened.status().with_context("open the pod's user namespace");
  users.user_namespace = std::move(*opened);
  return users;
}

std::string shown_folder() {
  for (const char* folder : {"/mnt", "/media", "/srv"}) {
    struct stat about {};
    if (stat(folder, &about) == 0 && S_ISDIR(about.st_mode)) return folder;
  }
  return "/tmp";
}

Result<std::vector<std::string>> show_layers(const MappedUsers& users, std::vector<std::string> layers,
                                             const std::string& container) {
  if (!users.are_mapped()) return layers;
  const std::string shown = container + "/" + kShownLayers, folder = folder_of_layers(layers.front());
  if (mkdir(shown.c_str(), 0700) != 0 && errno != EEXIST) return status_from_errno(errno, "make " + shown);
  images::Bind bind;
  bind.source = folder;
  bind.target = shown;
  bind.user_namespace = users.user_namespace.get();
  if (Status bound = images::bind_mapped(bind); !bound) return bound.with_context("the image's layers");
  for (std::string& layer : layers) layer = shown + layer.substr(folder.size());
  return layers;
}

Status show_binds(const MappedUsers& users, json::object& spec, const std::string& container) {
  const std::string mounts = container + kMounts;
  // Only root of this pod passes, and whoever is root of the node.
  if (chown(container.c_str(), 0, users.first) != 0 || chmod(container.c_str(), 0710) != 0 ||
      mkdir(mounts.c_str(), 0711) != 0 || chmod(mounts.c_str(), 0711) != 0)
    return status_from_errno(errno, "open " + container + " to the pod's root");
  size_t number = 0;
  for (json::value& value : spec.at("mounts").as_array()) {
    json::object& mount = value.as_object();
    if (mount.at("type").as_string() != "bind") continue;
    const std::string source(mount.at("source").as_string()), name = "/" + std::to_string(number++);
    const json::array& options = mount.at("options").as_array();
    images::Bind bind;
    bind.source = source;
    bind.target = mounts + name;
    bind.keep_propagation = std::any_of(options.begin(), options.end(), [](const json::value& option) {
      return option.as_string() == "rslave" || option.as_string() == "rshared";
    });
    if (mount.contains("uidMappings")) bind.user_namespace = users.user_namespace.get();
    mount.erase("uidMappings");
    mount.erase("gidMappings");
    Status status = make_mount_point(source, bind.target);
    if (status) status = images::bind_mapped(bind);
    if (!status) return status.with_context("mount at '" + std::string(mount.at("destination").as_string()) + "'");
    mount["source"] = shown_folder() + kMounts + name;
  }
  return {};
}

bool is_shown(const std::string& container) { return access((container + kMounts).c_str(), F_OK) == 0; }

Status open_cgroups(const std::vector<std::string>& folders) {
  for (std::string path : folders)
    for (; path.size() > 1; path.resize(path.rfind('/'))) {
      struct stat about {};
      if (stat(path.c_str(), &about) != 0 && errno == ENOENT) continue;  // runc will make its own
      if ((about.st_mode & 0005) == 0005) continue;
      if (chmod(path.c_str(), (about.st_mode | 0055) & 07777) != 0)
        return status_from_errno(errno, "open the cgroup to be read: " + path);
    }
  return {};
}

Status hide(const std::string& container) {
  Status first = images::unmount_all(container + "/" + kShownLayers);
  auto folder = files::open_folder(container + kMounts);
  if (!folder) return folder.status().code() == Code::not_found ? first : folder.status();
  auto names = files::list_folder(folder->get());
  if (!names) return names.status();
  for (const std::string& name : *names) {
    Status status = images::unmount_all(container + kMounts + ("/" + name));
    if (!status && first) first = status;
  }
  return first;
}

}  // namespace pintle::runtime_oci
