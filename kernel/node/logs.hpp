#pragma once

/// Where all log lines go: to stderr (text for people, or one JSON object a line for journald and collectors), and into a
/// bounded ring from which `pintle logs` reads, also while more comes.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "sdk/support/engine/engine.hpp"

namespace spdlog {
class logger;
}

namespace pintle::kernel {

using namespace engine;
using engine::LogField;  // whoever includes the SDK's C++ layer as well has another one

enum class LogFormat : uint8_t { text, json };

/// "trace", "debug", "info", "warn", "error".
Result<uint32_t> parse_log_level(std::string_view name);
const char* log_level_name(uint32_t level);

/// "2026-01-01T10:00:00.000Z".
std::string utc_time(int64_t milliseconds_since_1970);
int64_t wall_clock_ms();

class Logs {
 public:
  explicit Logs(LogFormat format);
  ~Logs();

  /// [any thread], like all below. The level was checked by who calls. Lines of `plugin` are marked with it.
  void write(const std::string& plugin, uint32_t level, std::string_view message, const std::vector<LogField>& fields);

  struct Query {
    std::string plugin;  // empty: all
    uint32_t level = 0;  // at least
    size_t tail = SIZE_MAX;
  };
  /// JSON lines, oldest first.
  std::vector<std::string> read(const Query& query);
  /// `line` is called for each line that is there and, until `unfollow`, for each that comes; on any thread, one at a time.
  uint64_t follow(const Query& query, std::function<void(const std::string&)> line);
  void unfollow(uint64_t id);

 private:
  struct Line {
    std::string plugin;
    uint32_t level;
    std::string json;
  };
  std::vector<std::string> kept(const Query& query) const;
  static bool matches(const Query& query, const Line& line);

  const LogFormat format_;
  std::shared_ptr<spdlog::logger> logger_;
  std::mutex lock_;
  std::deque<Line> ring_;
  size_t ring_bytes_ = 0;
  std::map<uint64_t, std::pair<Query, std::function<void(const std::string&)>>> followers_;
  uint64_t last_follower_ = 0;
};

}  // namespace pintle::kernel
