#pragma once

/// The log format of the Container Runtime Interface, one line of a container a line, or a part of a long one:
///
///     2026-01-01T10:00:00.123456789Z stdout F the whole line
///     2026-01-01T10:00:00.123456789Z stderr P the beginning of a long li
///
/// Source: KEP "CRI: Log management for container stdout/stderr streams", kubernetes/design-proposals-archive,
/// node/kubelet-cri-logging.md.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace pintle::container_log {

struct LogRecord {
  std::string_view time;
  bool is_error = false;    // stderr
  bool is_partial = false;  // the next record of its stream goes on with the same line
  std::string_view text;
};

/// A line without its new line. False: it is not of this format.
bool parse_log_line(std::string_view line, LogRecord& record);

/// Where in the file `descriptor` its last `lines` lines begin. Lines are those of the file. 0 if it has no more.
int64_t tail_offset(int descriptor, uint64_t lines);

/// Cuts what is read into lines and keeps the beginning of the last one until its end comes.
class LineCutter {
 public:
  /// Calls `line` for each line that ends in `piece`. A line longer than 1 MiB is given in pieces.
  void add(std::string_view piece, const std::function<void(std::string_view)>& line);
  /// What was kept; then nothing is.
  std::string finish();

 private:
  std::string rest_;
};

}  // namespace pintle::container_log
