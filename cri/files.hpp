#pragma once

/// Small files and folders of the engine. All functions block and may be called from any thread.

#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::cri {

/// Makes the folder and its parents (0700, or `mode`); ok if it is there.
Status make_folder(const std::string& path, unsigned mode = 0700);

/// Writes or replaces a file as a whole (aside, then renamed). Not synced.
Status write_file(const std::string& path, std::string_view text, unsigned mode);

/// NOT_FOUND if it is not there, OUT_OF_RANGE above `limit` bytes.
Result<std::string> read_file(const std::string& path, size_t limit = 1u << 20);

/// Removes a folder of plain files and folders with all that is in it, never across a mount and never through a
/// symbolic link. Ok if it is not there.
Status remove_tree(const std::string& path);

}  // namespace pintle::cri
