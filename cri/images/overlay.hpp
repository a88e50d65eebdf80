#pragma once

/// Overlay mounts (Documentation/filesystems/overlayfs.rst), as snapshots and containers use them.

#include <pintle/status.hpp>
#include <string>
#include <vector>

namespace pintle::images {

struct Overlay {
  std::vector<std::string> lower;  ///< folders, the uppermost first; at least one
  std::string upper;
  std::string work;  ///< empty, on the file system of `upper`
  /// Nothing of the upper layer is synced, ever: for what does not outlive a power loss anyway.
  bool is_volatile = true;
  bool nodev = false;
};

/// Mounts at `target`, an existing folder, with private propagation. Any thread.
Status mount_overlay(const Overlay& overlay, const std::string& target);

/// Detaches whatever is mounted at `target`, all of it if mounted over several times. Success if nothing is.
Status unmount_all(const std::string& target);

}  // namespace pintle::images
