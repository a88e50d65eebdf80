#include "sdk/support/container_log/container_log.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

namespace pintle::container_log {

bool parse_log_line(std::string_view line, LogRecord& record) {
  const size_t first = line.find(' ');
  if (first == std::string_view::npos || first == 0) return false;
  const size_t second = line.find(' ', first + 1);
  if (second == std::string_view::npos) return false;
  const size_t third = std::min(line.find(' ', second + 1), line.size());
  const std::string_view stream = line.substr(first + 1, second - first - 1);
  std::string_view tags = line.substr(second + 1, third - second - 1);
  tags = tags.substr(0, tags.find(':'));  // the first of several tags says whether the line is whole
  if ((stream != "stdout" && stream != "stderr") || (tags != "F" && tags != "P")) return false;
  record = {line.substr(0, first), stream == "stderr", tags == "P",
            third == line.size() ? std::string_view() : line.substr(third + 1)};
  return true;
}

int64_t tail_offset(int descriptor, uint64_t lines) {
  std::array<char, 65536> block;
  int64_t end = lseek(descriptor, 0, SEEK_END);
  if (lines == 0) return std::max<int64_t>(end, 0);
  bool at_end = true;
  while (end > 0) {
    const auto size = static_cast<size_t>(std::min<int64_t>(end, block.size()));
    const int64_t begin = end - static_cast<int64_t>(size);
    const ssize_t got = pread(descriptor, block.data(), size, begin);
    if (got != static_cast<ssize_t>(size)) return 0;  // it was cut meanwhile
    for (size_t i = size; i > 0; --i) {
      const bool is_break = block[i - 1] == '\n';
      // The break at the very end ends the last line, it does not begin another.
      if (is_break && !at_end && --lines == 0) return begin + static_cast<int64_t>(i);
      at_end = false;
    }
    end = begin;
  }
  return 0;
}

void LineCutter::add(std::string_view piece, const std::function<void(std::string_view)>& line) {
  constexpr size_t longest = 1u << 20;
  while (!piece.empty()) {
    const size_t end = piece.find('\n');
    if (end == std::string_view::npos) {
      rest_ += piece;
      if (rest_.size() >= longest) line(finish());
      return;
    }
    if (rest_.empty()) {
      line(piece.substr(0, end));
    } else {
      rest_ += piece.substr(0, end);
      line(finish());
    }
    piece.remove_prefix(end + 1);
  }
}

std::string LineCutter::finish() { return std::exchange(rest_, {}); }

}  // namespace pintle::container_log
