#include "cri/images/overlay.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>

#include "sdk/support/files/files.hpp"

namespace pintle::images {

Status mount_overlay(const Overlay& overlay, const std::string& target) {
  if (overlay.lower.empty()) return invalid_argument("an overlay mount needs a lower folder");
  std::string lower;
  for (const std::string& folder : overlay.lower) lower += (lower.empty() ? "" : ":") + folder;
  const std::string rest = ",upperdir=" + overlay.upper + ",workdir=" + overlay.work +
                           ",index=off,metacopy=off,redirect_dir=nofollow" + (overlay.is_volatile ? ",volatile" : "");
  for (const std::string& path : overlay.lower) {
    if (path.find_first_of(":,\\") != std::string::npos) {
      return invalid_argument("mount overlay: '" + path +
                              "' holds a character (: , \\) that overlay options cannot; choose another state folder");
    }
  }
  if ((overlay.upper + overlay.work).find_first_of(":,\\") != std::string::npos) {
    return invalid_argument("mount overlay: '" + overlay.upper +
                            "' holds a character (: , \\) that overlay options cannot; choose another state folder");
  }
  // The kernel takes one page of options. Descriptors make short names for many layers.
  std::vector<files::Descriptor> open;
  if (lower.size() + rest.size() + sizeof "lowerdir=" >= 4000) {
    lower.clear();
    for (const std::string& folder : overlay.lower) {
      auto descriptor = files::open_at(AT_FDCWD, folder, O_PATH | O_DIRECTORY);
      if (!descriptor) return descriptor.status().with_context("mount overlay");
      lower += (lower.empty() ? "/proc/self/fd/" : ":/proc/self/fd/") + std::to_string(descriptor->get());
      open.push_back(std::move(*descriptor));
    }
  }
  const std::string options = "lowerdir=" + lower + rest;
  if (mount("overlay", target.c_str(), "overlay", overlay.nodev ? MS_NODEV : 0, options.c_str()) != 0) {
    const int error = errno;
    return status_from_errno(error, "mount overlay at " + target);
  }
  if (mount(nullptr, target.c_str(), nullptr, MS_PRIVATE, nullptr) != 0) {
    const int error = errno;
    umount2(target.c_str(), MNT_DETACH);
    return status_from_errno(error, "make the overlay mount private at " + target);
  }
  return {};
}

Status unmount_all(const std::string& target) {
  for (int i = 0; i < 64; ++i) {
    if (umount2(target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
    // EINVAL: nothing is mounted there.
    if (errno == EINVAL || errno == ENOENT) return {};
    const int error = errno;
    return status_from_errno(error, "unmount " + target);
  }
  return failed_precondition("unmount " + target + ": it is mounted over and over");
}

}  // namespace pintle::images
