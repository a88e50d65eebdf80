#pragma once

/// Users and groups of an image: /etc/passwd and /etc/group of its root, which are foreign input and may be symlinks to
/// anywhere. They are opened by openat2(2) with RESOLVE_IN_ROOT, so that a symlink to /etc/shadow means the image's own.

#include <pintle/status.hpp>
#include <string>
#include <string_view>

#include "cri/oci/spec.hpp"

namespace runtime::v1 {
class LinuxContainerSecurityContext;
}

namespace pintle::oci {

/// Whom the container runs as. `root` is a descriptor of the mounted root; `image_user` is the image's "user[:group]", each a
/// name or a number. INVALID_ARGUMENT if a name is not in the image.
Result<Identity> resolve_identity(int root, const ::runtime::v1::LinuxContainerSecurityContext& context,
                                  std::string_view image_user);

}  // namespace pintle::oci
