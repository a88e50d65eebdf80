#include "cri/images/unpack.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "sdk/support/files/files.hpp"

namespace pintle::images {
namespace {

using files::Descriptor;

constexpr uint64_t kInRoot = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
constexpr size_t kMaximalDepth = 512;
constexpr size_t kMaximalAttribute = 65536;
constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
constexpr std::string_view kWhiteoutMeta = ".wh..wh.";

/// A name of the archive as folder and last component, both relative to the root; the root itself has an empty `name`.
struct Place {
  std::string folder;
  std::string name;
  std::string whole() const { return folder.empty() ? name : folder + "/" + name; }
};

Result<Place> place_of(std::string_view path) {
  Place place;
  size_t depth = 0;
  const std::string shown(path.substr(0, 200));
  if (path.find('\0') != std::string_view::npos || path.size() >= 4096) {
    return invalid_argument("'" + shown + "' is no name of a file");
  }
  while (!path.empty()) {
    const size_t end = path.find('/');
    const std::string_view part = path.substr(0, end);
    path.remove_prefix(end == std::string_view::npos ? path.size() : end + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") return invalid_argument("'" + shown + "' leads out of its folder by '..'; the layer is refused");
    if (part.size() > 255) return invalid_argument("'" + shown + "' has a component longer than 255 bytes");
    if (++depth > kMaximalDepth) return invalid_argument("'" + shown + "' is nested deeper than 512 folders");
    if (!place.name.empty()) place.folder = place.whole();
    place.name = std::string(part);
  }
  return place;
}

class Unpacker {
 public:
  Unpacker(int root, bool upon_others) : root_(root), upon_others_(upon_others) {}

  Status apply(TarReader& reader) {
    ::archive_entry* entry = reader.entry();
    const char* path = archive_entry_pathname(entry);
    if (!path) path = archive_entry_pathname_utf8(entry);
    if (!path) return invalid_argument("an entry of the layer has no name");
    auto place = place_of(path);
    if (!place) return place.status();
    if (place->name.empty()) return apply_root(entry);
    if (place->name.starts_with(kWhiteout)) return white_out(*place);
    return make(*place, entry, reader).with_context("entry '" + place->whole().substr(0, 200) + "' of the layer");
  }

  /// Folders get their times last: making files in them changes them.
  void set_folder_times() {
    for (const auto& [path, times] : folder_times_) {
      auto folder = files::open_resolved(root_, path, O_RDONLY | O_DIRECTORY, kInRoot | RESOLVE_NO_SYMLINKS);
      if (folder) futimens(folder->get(), times.values);
    }
  }

 private:
  struct Times {
    timespec values[2];
  };

  static Status failure(std::string_view what) {
    const int error = errno;
    return status_from_errno(error, what);
  }

  static Times times_of(::archive_entry* entry) {
    Times times{};
    times.values[0] = {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
    if (!archive_entry_mtime_is_set(entry)) times.values[0] = {0, 0};
    times.values[1] = times.values[0];
    return times;
  }

  /// The folder's descriptor; folders that the archive did not tell are made as 0755 of root.
  Result<int> folder(const std::string& path) {
    if (path.empty()) return root_;
    if (path == cached_path_ && cached_.valid()) return cached_.get();
    auto opened = files::open_resolved(root_, path, O_RDONLY | O_DIRECTORY, kInRoot);
    if (!opened) {
      if (opened.status().code() != Code::not_found) return opened.status();
      const size_t slash = path.rfind('/');
      const std::string above = slash == std::string::npos ? "" : path.substr(0, slash);
      const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
      auto parent = folder(above);
      if (!parent) return parent;
      if (mkdirat(*parent, name.c_str(), 0755) != 0) return failure("make the folder " + path);
      opened = files::open_at(*parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      if (!opened) return opened.status();
      if (fchmod(opened->get(), 0755) != 0) return failure("set the mode");  // whatever the process's umask is
    }
    cached_ = std::move(*opened);
    cached_path_ = path;
    return cached_.get();
  }

  void forget_cached() {
    cached_.reset();
    cached_path_.clear();
  }

  void remember(const Place& place) {
    if (!upon_others_) return;
    const std::string whole = place.whole();
    for (size_t end = whole.size(); end != std::string::npos && end != 0; end = whole.rfind('/', end - 1)) {
      if (!made_.insert(std::hash<std::string_view>()(std::string_view(whole).substr(0, end))).second) return;
    }
  }
  bool made_here(const std::string& path) const { return made_.count(std::hash<std::string_view>()(path)) != 0; }

  Status white_out(const Place& place) {
    if (!upon_others_) return {};
    if (place.name == kOpaque) {
      auto opened = folder(place.folder);
      if (!opened) return opened.status();
      return remove_lower_children(*opened, place.folder, 0);
    }
    if (place.name.starts_with(kWhiteoutMeta)) return {};
    const std::string name = place.name.substr(kWhiteout.size());
    if (name.empty() || name == "." || name == "..") {
      return invalid_argument("'" + place.whole() + "' is no whiteout; the layer is refused");
    }
    auto parent =
        files::open_resolved(root_, place.folder.empty() ? "." : place.folder, O_RDONLY | O_DIRECTORY, kInRoot);
    if (!parent) return parent.status().code() == Code::not_found ? Status() : parent.status();
    forget_cached();
    return remove_lower(parent->get(), name, place.folder.empty() ? name : place.folder + "/" + name, 0);
  }

  /// Removes what lower layers brought, and keeps what this one made.
  Status remove_lower(int parent, const std::string& name, const std::string& path, size_t depth) {
    if (!made_here(path)) return files::remove_tree(parent, name);
    Descriptor child(openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!child.valid()) return {};
    return remove_lower_children(child.get(), path, depth + 1);
  }

  Status remove_lower_children(int parent, const std::string& path, size_t depth) {
    if (depth > kMaximalDepth) return invalid_argument("'" + path.substr(0, 200) + "' is nested too deep");
    auto names = files::list_folder(parent);
    if (!names) return names.status();
    for (const std::string& name : *names) {
      if (Status status = remove_lower(parent, name, path.empty() ? name : path + "/" + name, depth); !status)
        return status;
    }
    return {};
  }

  Status apply_root(::archive_entry* entry) {
    if (archive_entry_filetype(entry) != AE_IFDIR) return invalid_argument("the layer's root is no folder");
    return set_attributes(root_, entry);
  }

  Status make(const Place& place, ::archive_entry* entry, TarReader& reader) {
    auto parent = folder(place.folder);
    if (!parent) return parent.status();
    const int at = *parent;
    const char* name = place.name.c_str();
    const bool is_folder = !archive_entry_hardlink(entry) && archive_entry_filetype(entry) == AE_IFDIR;

    struct stat existing {};
    const bool exists = fstatat(at, name, &existing, AT_SYMLINK_NOFOLLOW) == 0;
    if (exists && !(is_folder && S_ISDIR(existing.st_mode))) {
      // A hard link that the archive tells twice must not remove its own target.
      if (archive_entry_hardlink(entry)) {
        auto target = place_of(archive_entry_hardlink(entry));
        if (target && target->whole() == place.whole()) return {};
      }
      if (Status status = files::remove_tree(at, place.name); !status) return status;
      if (S_ISDIR(existing.st_mode)) forget_cached_below(place.whole());
    }
    remember(place);

    if (archive_entry_hardlink(entry)) return make_hard_link(at, place, archive_entry_hardlink(entry));
    switch (archive_entry_filetype(entry)) {
      case AE_IFREG:
        return make_file(at, place, entry, reader);
      case AE_IFDIR: {
        if (!(exists && S_ISDIR(existing.st_mode)) && mkdirat(at, name, 0700) != 0) return failure("make the folder");
        auto made = files::open_at(at, place.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (!made) return made.status();
        folder_times_.emplace_back(place.whole(), times_of(entry));
        return set_attributes(made->get(), entry);
      }
      case AE_IFLNK: {
        const char* target = archive_entry_symlink(entry);
        if (!target || !*target) return invalid_argument("a symlink has no target");
        if (symlinkat(target, at, name) != 0) return failure("make the symlink");
        return set_attributes_by_name(at, place.name, entry);
      }
      case AE_IFCHR:
      case AE_IFBLK: {
        const dev_t device = makedev(archive_entry_rdevmajor(entry), archive_entry_rdevminor(entry));
        if (device == 0) return invalid_argument("a device 0:0 would be a forged whiteout; the layer is refused");
        const mode_t kind = archive_entry_filetype(entry) == AE_IFCHR ? S_IFCHR : S_IFBLK;
        if (mknodat(at, name, kind | 0600, device) != 0) return failure("make the device");
        return set_attributes_by_name(at, place.name, entry);
      }
      case AE_IFIFO:
        if (mknodat(at, name, S_IFIFO | 0600, 0) != 0) return failure("make the FIFO");
        return set_attributes_by_name(at, place.name, entry);
      default:
        return invalid_argument("it is of no kind that layers have");
    }
  }

  void forget_cached_below(const std::string& path) {
    if (cached_path_ == path || cached_path_.starts_with(path + "/")) forget_cached();
  }

  Status make_hard_link(int at, const Place& place, std::string_view target_path) {
    auto target = place_of(target_path);
    if (!target) return target.status().with_context("target of a hard link");
    if (target->name.empty()) return invalid_argument("a hard link to the root");
    auto from =
        files::open_resolved(root_, target->folder.empty() ? "." : target->folder, O_PATH | O_DIRECTORY, kInRoot);
    if (!from) return from.status().with_context("target of a hard link");
    if (linkat(from->get(), target->name.c_str(), at, place.name.c_str(), 0) != 0) {
      const int error = errno;
      if (error == ENOENT) {
        return invalid_argument("the target '" + target->whole().substr(0, 200) + "' of a hard link is not there");
      }
      return status_from_errno(error, "make the hard link to " + target->whole().substr(0, 200));
    }
    return {};
  }

  Status make_file(int at, const Place& place, ::archive_entry* entry, TarReader& reader) {
    auto file = files::open_at(at, place.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (!file) return file.status();
    const void* data = nullptr;
    size_t size = 0;
    int64_t offset = 0, end = 0;
    for (;;) {
      auto more = reader.next_data(&data, &size, &offset);
      if (!more) return more.status();
      if (!*more) break;
      if (offset != end && lseek(file->get(), offset, SEEK_SET) < 0) return failure("write the file");
      if (Status status = files::write_all(file->get(), {static_cast<const char*>(data), size}); !status) return status;
      end = offset + static_cast<int64_t>(size);
    }
    // A sparse file may end in a hole; its length is the entry's.
    if (archive_entry_size(entry) > end && ftruncate(file->get(), archive_entry_size(entry)) != 0)
      return failure("write the file");
    if (Status status = set_attributes(file->get(), entry); !status) return status;
    const Times times = times_of(entry);
    futimens(file->get(), times.values);
    return {};
  }

  /// Owner before mode: chown(2) takes setuid away.
  static Status set_attributes(int fd, ::archive_entry* entry) {
    if (fchown(fd, static_cast<uid_t>(archive_entry_uid(entry)), static_cast<gid_t>(archive_entry_gid(entry))) != 0) {
      return failure("set the owner");
    }
    if (fchmod(fd, archive_entry_perm(entry) & 07777) != 0) return failure("set the mode");
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      const std::string_view key = name ? name : "";
      const bool kept = key == "security.capability" || (key.starts_with("user.") && !key.starts_with("user.overlay."));
      if (!kept || size > kMaximalAttribute) continue;
      // Not every file system knows user attributes; a capability that is lost would change what the image does.
      if (fsetxattr(fd, name, value, size, 0) != 0 && key == "security.capability") {
        return failure("set the file's capabilities");
      }
    }
    return {};
  }

  static Status set_attributes_by_name(int at, const std::string& name, ::archive_entry* entry) {
    if (fchownat(at, name.c_str(), static_cast<uid_t>(archive_entry_uid(entry)),
                 static_cast<gid_t>(archive_entry_gid(entry)), AT_SYMLINK_NOFOLLOW) != 0) {
      return failure("set the owner");
    }
    // The node was made just now in a folder that nobody else writes, so its name still means it.
    if (archive_entry_filetype(entry) != AE_IFLNK &&
        fchmodat(at, name.c_str(), archive_entry_perm(entry) & 07777, 0) != 0) {
      return failure("set the mode");
    }
    const Times times = times_of(entry);
    utimensat(at, name.c_str(), times.values, AT_SYMLINK_NOFOLLOW);
    return {};
  }

  int root_;
  bool upon_others_;
  std::string cached_path_;
  Descriptor cached_;
  std::unordered_set<size_t> made_;  // hashes of the paths that this layer made; a collision only spares a file
  std::vector<std::pair<std::string, Times>> folder_times_;
};

}  // namespace

Result<Unpacked> unpack_layer(int layer, int root, bool upon_others, const UnpackLimits& limits) {
  auto stream = PlainStream::open(layer, limits.expansion);
  if (!stream) return stream.status();
  Unpacked unpacked;
  {
    TarReader reader(**stream);
    Unpacker unpacker(root, upon_others);
    for (;;) {
      auto more = reader.next();
      if (!more) return more.status();
      if (!*more) break;
      if (++unpacked.entries > limits.entries) {
        return resource_exhausted("the layer has more than " + std::to_string(limits.entries) + " entries");
      }
      if (Status status = unpacker.apply(reader); !status) return status;
    }
    unpacker.set_folder_times();
  }
  if (Status status = (*stream)->drain(); !status) return status;
  unpacked.bytes = (*stream)->count();
  unpacked.diff_id = (*stream)->digest();
  return unpacked;
}

}  // namespace pintle::images
