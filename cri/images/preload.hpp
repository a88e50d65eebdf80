#pragma once

/// A folder of images for hosts without a network: what lies in it (archives and layout folders, as Store::load takes them)
/// is in the store after a start.
///
/// A file that was loaded and has not changed is not read again while the store has its images; `preloaded.json` of the store
/// remembers that by size and time. Files with a dot in front and those that end in ".part" are left alone, so that one can be
/// copied there and renamed.

#include <atomic>
#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "cri/images/store.hpp"

namespace pintle::images {

struct Preloaded {
  std::string file;
  Status status;
  std::vector<std::shared_ptr<const Image>> images;
};

/// What was loaded, or could not be; nothing for files that were known. A missing folder is an empty one. Between two files it
/// looks whether it is `cancelled`. Blocks.
std::vector<Preloaded> preload(Store& store, const std::string& folder, const std::atomic<bool>& cancelled);

}  // namespace pintle::images
