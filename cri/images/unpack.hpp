#pragma once

/// Applies one image layer (a tar, plain or compressed) to a folder, and cannot be led outside of it.
///
/// Layers are foreign input run as root, so no path of an archive is ever given to the kernel as a plain path: each
/// name is split, its folder is opened by openat2(2) with RESOLVE_IN_ROOT on the root's descriptor (a symlink to "/etc"
/// means the root's own etc), and the last component is made by a call that does not follow symlinks. Names with ".."
/// are refused, absolute names are taken from the root.
///
/// Where the layer lies upon others the root is an overlay mount of them, so that "bin/x" finds the base's symlink
/// bin -> usr/bin, folders that the layer does not tell keep the base's attributes, and a hard link may point into the
/// base; the kernel writes whiteouts and opaque folders by itself when things are removed. Whiteouts (OCI image-spec,
/// layer.md, "Whiteouts"): ".wh.NAME" removes NAME, ".wh..wh..opq" removes all that the folder had before, both only
/// what lower layers brought, in whatever order the archive tells.
///
/// Kept: modes with setuid, owners, times, hard links, symlinks, FIFOs, devices (but not 0:0, which would be a forged
/// whiteout), and the attributes security.capability and user.* (never those that mean something to overlayfs).

#include <cstdint>
#include <pintle/status.hpp>

#include "cri/images/stream.hpp"

namespace pintle::images {

struct UnpackLimits {
  ExpansionLimits expansion;
  uint64_t entries = 2'000'000;
};

struct Unpacked {
  Digest diff_id;  ///< of the uncompressed layer
  uint64_t bytes = 0;
  uint64_t entries = 0;
};

/// `layer` is the blob, `root` the folder; both stay the caller's. `upon_others`: the root shows lower layers. What was
/// made so far remains after an error: the caller unpacks into a folder that it can throw away. Blocks.
Result<Unpacked> unpack_layer(int layer, int root, bool upon_others, const UnpackLimits& limits);

}  // namespace pintle::images
