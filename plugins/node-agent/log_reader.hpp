#pragma once

/// A container's log as kubelet tells it over HTTP: the text of its lines, from where and as much as was asked for.
///
/// The tail is counted first, then what is too old is left out, then bytes are counted, as kubelet does. Not as kubelet does, rotated files
/// count as well (LogFiles).
///
///     LogReader reader("/var/log/pods/.../0.log", {.tail_lines = 100, .follow = true});
///     Status opened = reader.open();
///     Result<std::string> piece = reader.next();   // empty: no more at present
///     reader.follow_rotation();                    // true: there may be more now
///     reader.is_done();                            // the limit of bytes is reached
///
/// Blocks shortly, for the disk. Any thread, one at a time.

#include <cstdint>
#include <deque>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <utility>
#include <vector>

#include "sdk/support/container_log/log_files.hpp"

namespace pintle::agent {

struct LogQuery {
  bool follow = false, previous = false, timestamps = false;
  bool standard_output = true, standard_error = true;
  std::optional<uint64_t> tail_lines, limit_bytes;
  std::optional<int64_t> since;  ///< nanoseconds since 1970
};

/// The query of a URL, as PodLogOptions has it: follow, previous, timestamps, tailLines, limitBytes, sinceSeconds, sinceTime, stream. `now`
/// is nanoseconds since 1970. INVALID_ARGUMENT names the parameter; those of other names are passed over.
Result<LogQuery> parse_log_query(const std::vector<std::pair<std::string, std::string>>& query, int64_t now);

class LogReader {
 public:
  LogReader(std::string path, LogQuery query) : query_(query), log_(std::move(path)) {}

  Status open();
  /// What comes next, about 64 KiB at most.
  Result<std::string> next();
  bool is_done() const { return query_.limit_bytes && written_ >= *query_.limit_bytes; }
  const LogQuery& query() const { return query_; }

 private:
  void add(std::string_view line, std::string& out);
  bool is_too_old(std::string_view time) const;

  LogQuery query_;
  container_log::LogFiles log_;
  uint64_t written_ = 0;
  bool continued_[2] = {false, false};
};

}  // namespace pintle::agent
