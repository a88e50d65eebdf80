#pragma once

/// Mounts that show other owners than the file system has (mount_setattr(2), MOUNT_ATTR_IDMAP).
///
/// Through such a mount a file of user 0 belongs to the user that 0 is in a user namespace, and what that one makes belongs to
/// user 0 on disk. So a pod with a user namespace sees the owners that its image and its volumes have, and nothing is ever
/// given away by chown. The file system has to take part: ext4, xfs, btrfs, tmpfs (from Linux 6.3) and others do, overlayfs does not.

#include <pintle/status.hpp>
#include <string>

namespace pintle::images {

struct Bind {
  std::string source;             ///< a folder or a file; its last part may not be a symlink
  std::string target;             ///< exists, of the same kind
  int user_namespace = -1;        ///< a descriptor of the namespace whose ids are shown; -1: as they are
  bool keep_propagation = false;  ///< else the mount is private
};

/// Binds with all that is mounted below. Ids are mapped at the source itself, not at what is mounted below it, as OCI runtimes
/// have it. FAILED_PRECONDITION: the file system cannot map ids.
Status bind_mapped(const Bind& bind);

}  // namespace pintle::images
