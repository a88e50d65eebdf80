#include "plugins/node-agent/volumes.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_resources.hpp"
#include "plugins/node-agent/variables.hpp"
#include "sdk/api/quantity.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

constexpr const char* kData = "..data";
constexpr const char* kDataAside = "..data_tmp";
constexpr uint64_t kInside = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;

std::string through(int descriptor) { return "/proc/thread-self/fd/" + std::to_string(descriptor); }

Status check_host_path(const core::HostPathVolumeSource& source) {
  const std::string& path = source.path();
  const std::string& type = source.type();
  const auto wrong = [&](const std::string& what) { return failed_precondition("hostPath " + path + " " + what); };
  if (type.empty()) return Status::ok();
  struct stat info {};
  const bool exists = stat(path.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) return status_from_errno(errno, "hostPath " + path);
  if (!exists && type == "DirectoryOrCreate") return files::make_folders(path, 0755);
  if (!exists && type == "FileOrCreate") {
    Result<files::Descriptor> file = files::open_at(AT_FDCWD, path, O_CREAT | O_EXCL | O_WRONLY, 0644);
    return file ? Status::ok() : file.status();
  }
  if (!exists) return wrong("does not exist, but its type is " + type);
  if (type.starts_with("Directory") && !S_ISDIR(info.st_mode)) return wrong("is no directory");
  if (type.starts_with("File") && !S_ISREG(info.st_mode)) return wrong("is no regular file");
  if (type == "Socket" && !S_ISSOCK(info.st_mode)) return wrong("is no socket");
  if (type == "CharDevice" && !S_ISCHR(info.st_mode)) return wrong("is no character device");
  if (type == "BlockDevice" && !S_ISBLK(info.st_mode)) return wrong("is no block device");
  return Status::ok();
}

bool is_mount_point(const std::string& path) {
  struct stat own {
  }, parent{};
  return lstat(path.c_str(), &own) == 0 && lstat((path + "/..").c_str(), &parent) == 0 && own.st_dev != parent.st_dev;
}

/// What a volume in memory may hold: its own limit, else what the pod's containers may use together, else what the node has.
int64_t memory_of(const core::Pod& pod, const core::EmptyDirVolumeSource& source) {
  int64_t bytes = node_capacity().memory_bytes, together = 0;
  bool all_limited = true;
  for (const core::Container& container : pod.spec().containers()) {
    const auto limit = container.resources().limits().find("memory");
    all_limited = all_limited && limit != container.resources().limits().end();
    if (all_limited) together += api::Quantity::of(limit->second).units();
  }
  if (all_limited) bytes = std::min(bytes, together);
  if (const auto whole = pod.spec().resources().limits().find("memory"); whole != pod.spec().resources().limits().end())
    bytes = std::min(bytes, api::Quantity::of(whole->second).units());
  if (source.has_size_limit()) {
    const int64_t limit = api::Quantity::of(source.size_limit()).units();
    if (limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

Status make_empty_folder(const core::Pod& pod, const core::EmptyDirVolumeSource& source, const std::string& folder) {
  if (Status made = files::make_folders(folder, 0700); !made) return made;
  if (source.medium() == "Memory" && !is_mount_point(folder)) {
    const std::string options = "mode=0777,size=" + std::to_string(memory_of(pod, source));
    if (mount("tmpfs", folder.c_str(), "tmpfs", 0, options.c_str()) != 0)
      return status_from_errno(errno, "mount a tmpfs on " + folder);
  }
  if (const int64_t page = huge_page_size_of(pod, source.medium()); page > 0 && !is_mount_point(folder)) {
    std::string options = "mode=0777,pagesize=" + std::to_string(page);
    if (source.has_size_limit() && !api::Quantity::of(source.size_limit()).is_zero())
      options += ",size=" + std::to_string(api::Quantity::of(source.size_limit()).units());
    if (mount("nodev", folder.c_str(), "hugetlbfs", 0, options.c_str()) != 0)
      return status_from_errno(errno, "mount huge pages of " + huge_page_name(page) + " on " + folder);
  }
  // Any user of the pod may write there, as in Kubernetes; umask must not take it away.
  struct stat info {};
  if (stat(folder.c_str(), &info) != 0) return status_from_errno(errno, "stat " + folder);
  if ((info.st_mode & 0777) != 0777 && chmod(folder.c_str(), 0777) != 0)
    return status_from_errno(errno, "chmod " + folder);
  return Status::ok();
}

void add_items(const core::Pod& pod, const google::protobuf::RepeatedPtrField<core::DownwardAPIVolumeFile>& items,
               int32_t default_mode, std::map<std::string, ProjectedFile>& files) {
  for (const core::DownwardAPIVolumeFile& item : items) {
    ProjectedFile& file = files[item.path()];
    file.mode = static_cast<uint32_t>(item.has_mode() ? item.mode() : default_mode) & 0777u;
    if (pod.spec().security_context().has_fs_group()) file.mode |= 0440;
    file.content = item.has_field_ref() ? field_value(pod, item.field_ref().field_path(), {})
                                        : resource_value(pod, nullptr, item.resource_field_ref());
  }
}

/// Whether what ..data leads to is just these files.
bool has_files(const std::string& data, const std::map<std::string, ProjectedFile>& files) {
  std::error_code error;
  size_t count = 0;
  for (std::filesystem::recursive_directory_iterator at(data, error), end; !error && at != end; at.increment(error))
    count += at->is_regular_file(error);
  if (error || count != files.size()) return false;
  return std::all_of(files.begin(), files.end(), [&](const auto& entry) {
    struct stat info {};
    const std::string path = data + "/" + entry.first;
    const Result<std::string> content = files::read_file(path);
    return content && *content == entry.second.content && stat(path.c_str(), &info) == 0 &&
           (info.st_mode & 0777) == entry.second.mode;
  });
}

struct Gift {
  uint32_t group;
  bool writable;
};

Status give_entry(int parent, const char* name, Gift gift, int depth);

Status give_children(int folder, Gift gift, int depth) {
  Result<std::vector<std::string>> names = files::list_folder(folder);
  if (!names) return names.status();
  Status first;
  for (const std::string& name : *names)
    if (Status given = give_entry(folder, name.c_str(), gift, depth + 1); !given && first) first = given;
  return first;
}

Status give_entry(int parent, const char* name, Gift gift, int depth) {
  constexpr int kDeepest = 200;
  struct stat info {};
  if (fstatat(parent, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT ? Status::ok() : status_from_errno(errno, std::string("stat ") + name);
  if (fchownat(parent, name, static_cast<uid_t>(-1), gift.group, AT_SYMLINK_NOFOLLOW) != 0)
    return status_from_errno(errno, std::string("give to the group ") + name);
  if (S_ISLNK(info.st_mode)) return Status::ok();
  const mode_t bits = gift.writable ? 0660 : 0440;
  const mode_t more = S_ISDIR(info.st_mode) ? S_ISGID | bits | 0110 : bits;
  if ((info.st_mode & more) != more && fchmodat(parent, name, (info.st_mode | more) & 07777, 0) != 0)
    return status_from_errno(errno, std::string("chmod ") + name);
  if (!S_ISDIR(info.st_mode) || depth > kDeepest) return Status::ok();
  Result<files::Descriptor> folder = files::open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  return folder ? give_children(folder->get(), gift, depth) : folder.status();
}

/// Opens `path` inside of `root`; makes the folders that are missing, with the volume's own mode.
Result<files::Descriptor> open_or_make(int root, const std::string& path) {
  Result<files::Descriptor> found = files::open_resolved(root, path, O_PATH, kInside);
  if (found || found.status().code() != Code::not_found) return found;
  struct stat info {};
  if (fstat(root, &info) != 0) return status_from_errno(errno, "stat the volume");
  Result<files::Descriptor> parent = files::open_resolved(root, ".", O_PATH, kInside);
  for (size_t at = 0; parent && at < path.size();) {
    const size_t slash = std::min(path.find('/', at), path.size());
    const std::string name = path.substr(at, slash - at);
    at = slash + 1;
    if (name.empty() || name == ".") continue;
    const std::string so_far = path.substr(0, slash);
    Result<files::Descriptor> next = files::open_resolved(root, so_far, O_PATH, kInside);
    if (next.status().code() == Code::not_found) {
      if (mkdirat(parent->get(), name.c_str(), info.st_mode & 0777) != 0 && errno != EEXIST)
        return status_from_errno(errno, "make " + so_far + " in the volume");
      next = files::open_resolved(root, so_far, O_PATH | O_NOFOLLOW | O_DIRECTORY, kInside);
      if (next) (void)chmod(through(next->get()).c_str(), info.st_mode & 07777);
    }
    parent = std::move(next);
  }
  return parent;
}

}  // namespace

Result<std::string> make_volume(const core::Pod& pod, const core::Volume& volume, const std::string& folder) {
  const core::VolumeSource& source = volume.volume_source();
  const std::string what = "volume \"" + volume.name() + "\"";
  if (source.has_host_path()) {
    if (Status right = check_host_path(source.host_path()); !right) return right.with_context(what);
    return source.host_path().path();
  }
  Status made;
  if (source.has_downward_api() || source.has_projected()) {
    made = files::make_folders(folder, 0755);
    if (made) made = write_projection(folder, projected_files(pod, volume));
  } else {
    made = make_empty_folder(pod, source.empty_dir(), folder);
  }
  if (made && pod.spec().security_context().has_fs_group())
    made = give_to_group(folder, pod.spec().security_context().fs_group(), !is_read_only(volume));
  if (!made) return made.with_context(what);
  return folder;
}

bool is_read_only(const core::Volume& volume) {
  return volume.volume_source().has_downward_api() || volume.volume_source().has_projected();
}

std::map<std::string, ProjectedFile> projected_files(const core::Pod& pod, const core::Volume& volume) {
  std::map<std::string, ProjectedFile> files;
  const core::VolumeSource& source = volume.volume_source();
  if (source.has_downward_api())
    add_items(pod, source.downward_api().items(), source.downward_api().default_mode(), files);
  for (const core::VolumeProjection& projection : source.projected().sources())
    add_items(pod, projection.downward_api().items(), source.projected().default_mode(), files);
  return files;
}

Status write_projection(const std::string& folder, const std::map<std::string, ProjectedFile>& files) {
  const std::string data = folder + "/" + kData;
  if (has_files(data, files)) return Status::ok();
  Result<files::Descriptor> root = files::open_folder(folder);
  if (!root) return root.status();
  std::error_code error;
  const std::string before = std::filesystem::read_symlink(data, error).string();
  const std::string now = "..made_" + files::random_hex(12);
  for (const auto& [path, file] : files) {
    const std::string full = folder + "/" + now + "/" + path;
    const size_t slash = full.rfind('/');
    if (Status made = files::make_folders(full.substr(0, slash), 0755); !made) return made;
    Result<files::Descriptor> parent = files::open_folder(full.substr(0, slash));
    if (!parent) return parent.status();
    if (Status written = files::write_file(parent->get(), full.substr(slash + 1), file.content,
                                           files::Durability::cached, file.mode);
        !written)
      return written;
    if (chmod(full.c_str(), file.mode) != 0) return status_from_errno(errno, "chmod " + full);
  }
  if (files.empty())
    if (Status made = files::make_folders(folder + "/" + now, 0755); !made) return made;
  (void)unlinkat(root->get(), kDataAside, 0);
  if (symlinkat(now.c_str(), root->get(), kDataAside) != 0 ||
      renameat(root->get(), kDataAside, root->get(), kData) != 0)
    return status_from_errno(errno, "exchange the files of " + folder);
  // Each name that users see is a link through ..data, made once.
  std::vector<std::string> wanted;
  for (const auto& [path, file] : files) wanted.push_back(path.substr(0, path.find('/')));
  for (const std::string& name : wanted)
    if (symlinkat((std::string(kData) + "/" + name).c_str(), root->get(), name.c_str()) != 0 && errno != EEXIST)
      return status_from_errno(errno, "make the link " + name + " in " + folder);
  Result<std::vector<std::string>> names = files::list_folder(root->get());
  if (!names) return names.status();
  for (const std::string& name : *names) {
    const bool ours = name == now || name == kData || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
    // What an interruption left behind goes as well.
    if (!ours && (name == before || name.starts_with("..made_") || !name.starts_with("..")))
      if (Status removed = files::remove_tree(root->get(), name); !removed) return removed;
  }
  return Status::ok();
}

Status pin_sub_path(const std::string& volume, const std::string& path, const std::string& target) {
  Result<files::Descriptor> root = files::open_at(AT_FDCWD, volume, O_PATH | O_DIRECTORY);
  if (!root) return root.status().with_context("open the volume");
  Result<files::Descriptor> inside = open_or_make(root->get(), path);
  if (!inside)
    return failed_precondition("subPath \"" + path +
                               "\" leads out of the volume, or to what is no folder: " + inside.status().message());
  struct stat info {};
  if (fstat(inside->get(), &info) != 0) return status_from_errno(errno, "stat the subPath");
  // Of a former start of the container; its mount namespace has a mount of its own.
  if (umount2(target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL && errno != ENOENT)
    return status_from_errno(errno, "unmount " + target);
  const size_t slash = target.rfind('/');
  if (Status made = files::make_folders(target.substr(0, slash), 0700); !made) return made;
  Result<files::Descriptor> parent = files::open_folder(target.substr(0, slash));
  if (!parent) return parent.status();
  if (Status removed = files::remove_tree(parent->get(), target.substr(slash + 1)); !removed) return removed;
  if (S_ISDIR(info.st_mode)) {
    if (Status made = files::make_folders(target, 0700); !made) return made;
  } else {
    Result<files::Descriptor> file =
        files::open_at(parent->get(), target.substr(slash + 1), O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (!file) return file.status();
  }
  if (mount(through(inside->get()).c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0)
    return status_from_errno(errno, "bind the subPath \"" + path + "\"");
  return Status::ok();
}

Status give_to_group(const std::string& folder, int64_t group, bool writable) {
  return give_entry(AT_FDCWD, folder.c_str(), {static_cast<uint32_t>(group), writable}, 0);
}

Status unmount_below(const std::string& folder) {
  // Each pass takes what is on top; mounts may lie on mounts.
  Status first;
  Result<std::string> table = files::read_file("/proc/thread-self/mountinfo", 16u << 20);
  if (!table) return table.status();
  std::vector<std::string> mounts;
  for (size_t at = 0; at < table->size();) {
    const size_t end = std::min(table->find('\n', at), table->size());
    std::string_view line(table->data() + at, end - at);
    at = end + 1;
    for (int field = 0; field < 4 && !line.empty(); ++field)
      line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
    const std::string place(line.substr(0, line.find(' ')));
    if (place.starts_with(folder + "/")) mounts.push_back(place);
  }
  std::sort(mounts.rbegin(), mounts.rend());
  for (const std::string& place : mounts)
    if (umount2(place.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL && errno != ENOENT && first)
      first = status_from_errno(errno, "unmount " + place);
  return first;
}

}  // namespace pintle::agent
