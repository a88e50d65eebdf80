#include "cri/images/snapshots.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "cri/images/overlay.hpp"

namespace pintle::images {
namespace {
constexpr std::string_view kAside = ".new-";
}

std::vector<Digest> chain_ids(const std::vector<Digest>& diff_ids) {
  std::vector<Digest> chain;
  for (const Digest& diff_id : diff_ids) {
    chain.push_back(chain.empty() ? diff_id : digest_of(chain.back().to_string() + " " + diff_id.to_string()));
  }
  return chain;
}

Result<Snapshots> Snapshots::open(const std::string& path, int trash) {
  if (Status status = files::make_folders(path); !status) return status;
  auto folder = files::open_folder(path);
  if (!folder) return folder.status();
  return Snapshots(path, std::move(*folder), trash);
}

bool Snapshots::has(const Digest& chain_id) const {
  return faccessat(folder_.get(), (chain_id.hex() + "/fs").c_str(), F_OK, 0) == 0;
}

std::string Snapshots::folder(const Digest& chain_id) const { return path_ + "/" + chain_id.hex() + "/fs"; }

Status Snapshots::unpack(const Digest& chain_id, const std::vector<Digest>& below, int layer, const Digest& diff_id,
                         const UnpackLimits& limits) {
  if (has(chain_id)) return {};
  const std::string aside = std::string(kAside) + files::random_hex(12);
  auto made = files::make_folder_at(folder_.get(), aside);
  if (!made) return made.status();
  auto lock = files::Lock::acquire(folder_.get(), aside, files::Lock::Kind::exclusive);
  Status status = lock ? unpack_into(aside, below, layer, diff_id, limits) : lock.status();
  if (status && renameat(folder_.get(), aside.c_str(), folder_.get(), chain_id.hex().c_str()) != 0) {
    // Another instance may have been first; what it made is the same.
    const int error = errno;
    if (!has(chain_id)) status = status_from_errno(error, "name the unpacked layer " + chain_id.to_string());
  }
  // Gone if the rename took it; else nothing of it remains.
  if (Status removed = files::remove_tree(folder_.get(), aside); !removed && status) return removed;
  return status;
}

Status Snapshots::unpack_into(const std::string& aside, const std::vector<Digest>& below, int layer,
                              const Digest& diff_id, const UnpackLimits& limits) {
  const std::string path = path_ + "/" + aside;
  auto top = files::open_folder(path);
  if (!top) return top.status();
  auto fs = files::make_folder_at(top->get(), "fs", 0755);
  if (!fs) return fs.status();
  if (fchmod(fs->get(), 0755) != 0) return status_from_errno(errno, "set the mode of " + path);

  files::Descriptor root;
  if (below.empty()) {
    auto opened = files::open_folder(path + "/fs");
    if (!opened) return opened.status();
    root = std::move(*opened);
  } else {
    Overlay overlay;
    for (auto id = below.rbegin(); id != below.rend(); ++id) overlay.lower.push_back(folder(*id));
    overlay.upper = path + "/fs";
    overlay.work = path + "/work";
    const std::string target = path + "/merged";
    for (const std::string& made : {overlay.work, target}) {
      if (Status status = files::make_folders(made); !status) return status;
    }
    // The merged root shows the attributes of `fs`; an image's root keeps those of its base.
    struct stat base {};
    if (stat(overlay.lower.front().c_str(), &base) == 0) {
      if (fchown(fs->get(), base.st_uid, base.st_gid) != 0 || fchmod(fs->get(), base.st_mode & 07777) != 0) {
        return status_from_errno(errno, "set the attributes of " + path);
      }
    }
    if (Status status = mount_overlay(overlay, target); !status) return status;
    auto opened = files::open_folder(target);
    // The descriptor keeps the mount alive, and its end, also by a crash, removes it.
    Status detached = unmount_all(target);
    if (!opened) return opened.status();
    if (!detached) return detached;
    root = std::move(*opened);
  }

  auto unpacked = unpack_layer(layer, root.get(), !below.empty(), limits);
  if (!unpacked) return unpacked.status();
  if (unpacked->diff_id != diff_id) {
    return invalid_argument("the layer's content is " + unpacked->diff_id.to_string() + ", but the image config says " +
                            diff_id.to_string() + "; the image was damaged or forged, save it again");
  }
  root.reset();
  for (const char* name : {"work", "merged"}) {
    if (Status status = files::remove_tree(top->get(), name); !status) return status;
  }
  const files::Usage usage = files::measure_tree(top->get(), "fs");
  if (Status status = files::write_file(top->get(), "usage",
                                        std::to_string(usage.bytes) + " " + std::to_string(usage.inodes) + "\n",
                                        files::Durability::cached);
      !status) {
    return status;
  }
  if (syncfs(top->get()) != 0) return status_from_errno(errno, "sync the unpacked layer");
  return {};
}

Status Snapshots::discard(const Digest& chain_id) {
  if (renameat(folder_.get(), chain_id.hex().c_str(), trash_, (chain_id.hex() + "-" + files::random_hex(8)).c_str()) !=
          0 &&
      errno != ENOENT) {
    return status_from_errno(errno, "discard the unpacked layer " + chain_id.to_string());
  }
  return {};
}

Result<std::vector<Digest>> Snapshots::list() const {
  auto names = files::list_folder(folder_.get());
  if (!names) return names.status();
  std::vector<Digest> ids;
  for (std::string& name : *names) {
    if (is_sha256_hex(name)) ids.push_back(Digest::of_hex(std::move(name)));
  }
  return ids;
}

files::Usage Snapshots::usage(const Digest& chain_id) const {
  files::Usage usage;
  if (auto text = files::read_file(folder_.get(), chain_id.hex() + "/usage", 100)) {
    unsigned long long bytes = 0, inodes = 0;
    if (std::sscanf(text->c_str(), "%llu %llu", &bytes, &inodes) == 2) usage = {bytes, inodes};
  }
  return usage;
}

Status Snapshots::clean() {
  auto names = files::list_folder(folder_.get());
  if (!names) return names.status();
  Status first;
  for (const std::string& name : *names) {
    if (!name.starts_with(kAside)) continue;
    if (auto lock = files::Lock::try_acquire(folder_.get(), name, files::Lock::Kind::exclusive)) {
      if (Status status = unmount_all(path_ + "/" + name + "/merged"); !status && first) first = status;
      if (Status status = files::remove_tree(folder_.get(), name); !status && first) first = status;
    }
  }
  return first;
}

}  // namespace pintle::images
