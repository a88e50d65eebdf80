#pragma once

/// An image of the store written as a file: an OCI layout in a tar, with the `manifest.json` that `docker load` reads. What
/// is saved is what was loaded or pulled, byte for byte, so that digests stay.

#include <pintle/status.hpp>
#include <string_view>

#include "cri/images/store.hpp"

namespace pintle::images {

/// Writes the image that is named as in Store::find to `file`, a file, pipe or socket that stays the caller's. The bytes
/// written. NOT_FOUND if there is no such image; FAILED_PRECONDITION if the store has lost a blob of it. Blocks.
Result<uint64_t> save(Store& store, std::string_view name, int file);

}  // namespace pintle::images
