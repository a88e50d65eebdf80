#include "kernel/node/logs.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <time.h>

#include <boost/json.hpp>

namespace pintle::kernel {
namespace {

constexpr size_t max_ring_lines = 4096;
constexpr size_t max_ring_bytes = 1 << 20;
constexpr const char* level_names[] = {"trace", "debug", "info", "warn", "error"};

/// One line, whatever a plugin puts into its message.
void append_escaped(std::string& out, std::string_view text) {
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      char escaped[8];
      snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(c));
      out += c == '\n' ? "\\n" : escaped;
    } else {
      out += c;
    }
  }
}

bool needs_quotes(std::string_view value) {
  return value.empty() || value.find_first_of(" \"=\\") != std::string_view::npos;
}

}  // namespace

Result<uint32_t> parse_log_level(std::string_view name) {
  for (uint32_t i = 0; i < 5; ++i)
    if (name == level_names[i]) return i;
  return invalid_argument("\"" + std::string(name) + "\" is not a log level; use trace, debug, info, warn or error");
}

const char* log_level_name(uint32_t level) { return level_names[std::min<uint32_t>(level, 4)]; }

int64_t wall_clock_ms() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

std::string utc_time(int64_t milliseconds) {
  const time_t seconds = milliseconds / 1000;
  tm parts{};
  gmtime_r(&seconds, &parts);
  char out[40];
  const size_t size = strftime(out, sizeof out, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(out + size, sizeof out - size, ".%03dZ", static_cast<int>(milliseconds % 1000));
  return out;
}

Logs::Logs(LogFormat format) : format_(format) {
  logger_ = std::make_shared<spdlog::logger>("pintled", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger_->set_level(spdlog::level::trace);
  logger_->flush_on(spdlog::level::trace);
  logger_->set_pattern(format == LogFormat::json ? "%v" : "%Y-%m-%dT%H:%M:%S.%e%z %-5l %v");
}

Logs::~Logs() = default;

bool Logs::matches(const Query& query, const Line& line) {
  return line.level >= query.level && (query.plugin.empty() || query.plugin == line.plugin);
}

void Logs::write(const std::string& plugin, uint32_t level, std::string_view message,
                 const std::vector<LogField>& fields) {
  boost::json::object object{
      {"time", utc_time(wall_clock_ms())}, {"level", log_level_name(level)}, {"plugin", plugin}, {"message", message}};
  for (const LogField& field : fields)
    object.insert_or_assign(object.contains(field.name) ? "field_" + field.name : field.name, field.value);
  std::string json = boost::json::serialize(object);
  constexpr spdlog::level::level_enum levels[] = {spdlog::level::trace, spdlog::level::debug, spdlog::level::info,
                                                  spdlog::level::warn, spdlog::level::err};
  if (format_ == LogFormat::json) {
    logger_->log(levels[std::min<uint32_t>(level, 4)], spdlog::string_view_t(json));
  } else {
    std::string line = plugin + ": ";
    append_escaped(line, message);
    for (const LogField& field : fields) {
      line += " " + field.name + "=";
      const bool quoted = needs_quotes(field.value);
      if (quoted) line += '"';
      append_escaped(line, field.value);
      if (quoted) line += '"';
    }
    logger_->log(levels[std::min<uint32_t>(level, 4)], spdlog::string_view_t(line));
  }
  std::lock_guard lock(lock_);
  Line kept{plugin, level, std::move(json)};
  for (auto& [id, follower] : followers_)
    if (matches(follower.first, kept)) follower.second(kept.json);
  ring_bytes_ += kept.json.size();
  ring_.push_back(std::move(kept));
  while (ring_.size() > max_ring_lines || ring_bytes_ > max_ring_bytes) {
    ring_bytes_ -= ring_.front().json.size();
    ring_.pop_front();
  }
}

std::vector<std::string> Logs::kept(const Query& query) const {
  std::vector<std::string> out;
  for (auto line = ring_.rbegin(); line != ring_.rend() && out.size() < query.tail; ++line)
    if (matches(query, *line)) out.push_back(line->json);
  return {out.rbegin(), out.rend()};
}

std::vector<std::string> Logs::read(const Query& query) {
  std::lock_guard lock(lock_);
  return kept(query);
}

uint64_t Logs::follow(const Query& query, std::function<void(const std::string&)> line) {
  std::lock_guard lock(lock_);
  for (const std::string& present : kept(query)) line(present);
  followers_.emplace(++last_follower_, std::pair(query, std::move(line)));
  return last_follower_;
}

void Logs::unfollow(uint64_t id) {
  std::lock_guard lock(lock_);
  followers_.erase(id);
}

}  // namespace pintle::kernel
