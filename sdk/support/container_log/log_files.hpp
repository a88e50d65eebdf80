#pragma once

/// All that is kept of one container's log, as one stream of lines: rotated files from the oldest on, also compressed ones, then the
/// current one, then those that take its place.
///
///     web/0.log.20261120-120000-713.gz       older
///     web/0.log.20261120-143000-042          what was written before the last rotation
///     web/0.log                              what is written now: the path that everybody knows
///
/// The stamp behind the name is the time of the rotation, so that names sort by age ("20261120-143000", also with milliseconds). Names of
/// other forms, such as what is being compressed, are passed over.
///
/// What `open` found is held open, so that nothing of it is lost when it is renamed, compressed or removed while it is read. A file is
/// left for the next one only when it was read to its end once more after the next one was seen: the runtime writes into a renamed file
/// until it was told to open the new one. A compressed file that is damaged is read as far as that goes.
///
///     LogFiles log("/var/log/pods/.../0.log");
///     Status opened = log.open({.tail_lines = 100});
///     Result<bool> more = log.read([](std::string_view line) { ... });   // false: no more at present; ask again to follow
///     std::string unfinished = log.finish();
///
/// Blocks shortly, for the disk. Any thread, one at a time.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/support/container_log/container_log.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::container_log {

class LogFiles {
 public:
  /// Where reading begins: at the later of both, at the beginning without any.
  struct From {
    std::optional<uint64_t> tail_lines;
    /// Whether a record of this time is older than what is wanted. Files that hold only older ones are not opened.
    std::function<bool(std::string_view time)> is_too_old;
  };

  explicit LogFiles(std::string path) : path_(std::move(path)) {}

  /// NOT_FOUND: there is no log.
  Status open(const From& from);
  /// Reads a block, and calls `line` for each line that ends in it. False: nothing more is written at present.
  Result<bool> read(const std::function<void(std::string_view)>& line);
  /// What was read of a line that has no end yet.
  std::string finish() { return cutter_.finish(); }

 private:
  struct Kept;
  /// One file: bytes as they are, or as they were before they were compressed.
  struct Source {
    files::Descriptor file;
    bool compressed = false;
    uint64_t device = 0, inode = 0;
    std::string head;            ///< its first bytes: by them a file is known again when it was compressed
    std::string after;           ///< the stamp of the file before it
    std::shared_ptr<void> gzip;  ///< what decompresses; made when reading begins
    uint64_t skip_lines = 0;     ///< of a compressed one
  };

  Result<std::vector<Kept>> list() const;
  Result<Source> open_file(const Kept& kept) const;
  Result<std::deque<Source>> open_all(const From& from) const;
  bool is_current(const Source& source) const;
  Result<bool> find_successors();
  static Result<size_t> read_block(Source& source, char* block, size_t size);
  static uint64_t count_lines(Source& source);
  static void learn_head(Source& source);
  static bool begins_too_old(const Source& source, const From& from);

  std::string path_;
  std::deque<Source> sources_;  ///< the first one is read
  LineCutter cutter_;
};

}  // namespace pintle::container_log
