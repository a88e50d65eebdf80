#include "plugins/node-agent/log_reader.hpp"

#include <algorithm>
#include <charconv>

#include "sdk/api/time.hpp"

namespace pintle::agent {

namespace {

constexpr size_t kReadAtOnce = 64 << 10;
constexpr int64_t kSecond = 1'000'000'000;

template <class Number>
bool parse_number(const std::string& text, Number& number) {
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stopped == end;
}

}  // namespace

Result<LogQuery> parse_log_query(const std::vector<std::pair<std::string, std::string>>& parameters, int64_t now) {
  LogQuery query;
  bool since_seconds = false, since_time = false;
  for (const auto& [name, value] : parameters) {
    const auto wrong = [&, &key = name, &text = value](const std::string& what) {
      return invalid_argument(key + "=" + text.substr(0, 80) + ": " + what);
    };
    if (value.empty() && name != "follow" && name != "previous" && name != "timestamps") continue;
    for (const auto& [flag, into] : {std::pair("follow", &query.follow), std::pair("previous", &query.previous),
                                     std::pair("timestamps", &query.timestamps)})
      if (name == flag) *into = value != "false" && value != "0";
    uint64_t number = 0;
    if (name == "tailLines") {
      if (!parse_number(value, number)) return wrong("a number of lines, 0 or more, is expected");
      query.tail_lines = number;
    } else if (name == "limitBytes") {
      if (!parse_number(value, number) || number == 0) return wrong("a number of bytes, 1 or more, is expected");
      query.limit_bytes = number;
    } else if (name == "sinceSeconds") {
      if (!parse_number(value, number) || number == 0 || number > 1'000'000'000)
        return wrong("a number of seconds, 1 or more, is expected");
      query.since = now - static_cast<int64_t>(number) * kSecond;
      since_seconds = true;
    } else if (name == "sinceTime") {
      Result<api::Instant> time = api::parse_time(value);
      if (!time) return wrong(time.status().message());
      query.since = time->seconds * kSecond + time->nanos;
      since_time = true;
    } else if (name == "stream") {
      if (value != "All" && value != "Stdout" && value != "Stderr") return wrong("All, Stdout or Stderr is expected");
      query.standard_output = value != "Stderr";
      query.standard_error = value != "Stdout";
    }
  }
  if (since_seconds && since_time) return invalid_argument("sinceSeconds, sinceTime: at most one of them may be given");
  return query;
}

bool LogReader::is_too_old(std::string_view text) const {
  const Result<api::Instant> time = api::parse_time(text);
  return query_.since && time && time->seconds * kSecond + time->nanos < *query_.since;
}

Status LogReader::open() {
  container_log::LogFiles::From from{query_.tail_lines, nullptr};
  if (query_.since) from.is_too_old = [this](std::string_view time) { return is_too_old(time); };
  return log_.open(from);
}

void LogReader::add(std::string_view line, std::string& out) {
  container_log::LogRecord record;
  if (!container_log::parse_log_line(line, record)) record = {"", false, false, line};
  if (record.is_error ? !query_.standard_error : !query_.standard_output) return;
  if (query_.since && is_too_old(record.time)) return;
  const size_t before = out.size();
  if (query_.timestamps && !continued_[record.is_error] && !record.time.empty()) {
    out += record.time;
    out += ' ';
  }
  out += record.text;
  if (!record.is_partial) out += '\n';
  continued_[record.is_error] = record.is_partial;
  if (query_.limit_bytes) {
    const uint64_t room = *query_.limit_bytes - std::min(*query_.limit_bytes, written_);
    out.resize(before + std::min<uint64_t>(out.size() - before, room));
  }
  written_ += out.size() - before;
}

Result<std::string> LogReader::next() {
  std::string out;
  while (out.size() < kReadAtOnce && !is_done()) {
    const Result<bool> more = log_.read([&](std::string_view line) { add(line, out); });
    if (!more) return more.status();
    if (!*more) break;
  }
  return out;
}

}  // namespace pintle::agent
