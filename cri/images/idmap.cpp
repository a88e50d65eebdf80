#include "cri/images/idmap.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "sdk/support/files/files.hpp"

namespace pintle::images {
namespace {

// Of <linux/mount.h>, which cannot be included beside <sys/mount.h>.
constexpr unsigned kCloneTree = 1, kRecursive = 0x8000, kCloseOnExec = O_CLOEXEC;
constexpr unsigned kFromDescriptor = 0x4;

}  // namespace

Status bind_mapped(const Bind& bind) {
  const files::Descriptor tree(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, bind.source.c_str(),
                                                        kCloneTree | kRecursive | kCloseOnExec | AT_SYMLINK_NOFOLLOW)));
  if (!tree.valid()) return status_from_errno(errno, "bind " + bind.source);
  if (!bind.keep_propagation) {
    struct mount_attr attributes {};
    attributes.propagation = MS_PRIVATE;
    if (syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | kRecursive, &attributes, sizeof attributes) != 0)
      return status_from_errno(errno, "make the mount of " + bind.source + " private");
  }
  if (bind.user_namespace >= 0) {
    struct mount_attr attributes {};
    attributes.attr_set = MOUNT_ATTR_IDMAP;
    attributes.userns_fd = static_cast<uint64_t>(bind.user_namespace);
    if (syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) {
      const int error = errno;
      if (error == EINVAL)
        return failed_precondition(
            bind.source +
            ": its file system cannot map ids, or does so already; a pod with hostUsers: false needs "
            "ext4, xfs, btrfs, or tmpfs from Linux 6.3 on");
      return status_from_errno(error, "map the ids of " + bind.source);
    }
  }
  if (syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, bind.target.c_str(), kFromDescriptor) != 0)
    return status_from_errno(errno, "bind " + bind.source + " at " + bind.target);
  return {};
}

}  // namespace pintle::images
