#pragma once

/// Unpacked layers: `snapshots/<chain id>/fs`, each made once and never changed again.
///
/// A chain id (OCI image-spec, config.md, "Layer ChainID") names a layer together with all below it, because what a
/// layer's whiteouts and implicit folders become depends on them. `fs` holds only the layer's own difference, in
/// overlayfs's form, so that an image is an overlay mount of its layers. A layer is unpacked in `.new-<random>/`, which
/// its maker holds locked, synced, and takes its name by rename; what a crash left is found by its lock being free, and
/// removed.

#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "cri/images/digest.hpp"
#include "cri/images/unpack.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::images {

/// The chain ids of the layers with these diff ids, base first.
std::vector<Digest> chain_ids(const std::vector<Digest>& diff_ids);

class Snapshots {
 public:
  /// `path` is made. Removed snapshots go to the folder `trash`, which stays the caller's.
  static Result<Snapshots> open(const std::string& path, int trash);

  bool has(const Digest& chain_id) const;
  /// The folder to stack.
  std::string folder(const Digest& chain_id) const;
  /// Unpacks `layer` upon the snapshots of `below` (base first, all present). INVALID_ARGUMENT if the uncompressed
  /// layer is not `diff_id`. Success if it is there already.
  Status unpack(const Digest& chain_id, const std::vector<Digest>& below, int layer, const Digest& diff_id,
                const UnpackLimits& limits);
  Status discard(const Digest& chain_id);
  Result<std::vector<Digest>> list() const;
  /// What the snapshot occupies, as measured when it was made.
  files::Usage usage(const Digest& chain_id) const;
  /// Removes what unfinished unpacking left. Others' unpacking under way is not touched.
  Status clean();

 private:
  Snapshots(std::string path, files::Descriptor folder, int trash)
      : path_(std::move(path)), folder_(std::move(folder)), trash_(trash) {}
  Status unpack_into(const std::string& aside, const std::vector<Digest>& below, int layer, const Digest& diff_id,
                     const UnpackLimits& limits);
  std::string path_;
  files::Descriptor folder_;
  int trash_;
};

}  // namespace pintle::images
