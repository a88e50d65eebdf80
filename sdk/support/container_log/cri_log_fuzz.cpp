// Whatever a log file holds: no crash, and lines are cut the same whatever pieces they come in.

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "sdk/support/container_log/container_log.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> whole, pieces;
  pintle::container_log::LineCutter one, many;
  one.add(text, [&](std::string_view line) {
    whole.emplace_back(line);
    pintle::container_log::LogRecord record;
    if (parse_log_line(line, record) && record.time.size() + record.text.size() > line.size()) std::abort();
  });
  for (size_t at = 0; at < size; at += 7)
    many.add(text.substr(at, 7), [&](std::string_view line) { pieces.emplace_back(line); });
  if (whole != pieces || one.finish() != many.finish()) std::abort();
  return 0;
}
