#include "sdk/api/time.hpp"

#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>

namespace pintle::api {

namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;

/// Reads exactly `digits` decimal digits at the front of `text` and takes them off; -1 if they are not there.
int take_number(std::string_view& text, size_t digits) {
  if (text.size() < digits) return -1;
  int number = 0;
  for (size_t i = 0; i < digits; ++i) {
    if (text[i] < '0' || text[i] > '9') return -1;
    number = number * 10 + (text[i] - '0');
  }
  text.remove_prefix(digits);
  return number;
}

bool take(std::string_view& text, char wanted) {
  if (text.empty() || text.front() != wanted) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

Result<Instant> parse_time(std::string_view text) {
  const Status wrong = invalid_argument("must be a time like \"2026-01-31T12:00:00Z\" (RFC 3339), is \"" +
                                        std::string(text.substr(0, 64)) + "\"");
  std::string_view rest = text;
  const int year = take_number(rest, 4);
  if (year < 0 || !take(rest, '-')) return wrong;
  const int month = take_number(rest, 2);
  if (month < 0 || !take(rest, '-')) return wrong;
  const int day = take_number(rest, 2);
  if (day < 0 || !take(rest, 'T')) return wrong;
  const int hour = take_number(rest, 2);
  if (hour < 0 || hour > 23 || !take(rest, ':')) return wrong;
  const int minute = take_number(rest, 2);
  if (minute < 0 || minute > 59 || !take(rest, ':')) return wrong;
  const int second = take_number(rest, 2);
  if (second < 0 || second > 59) return wrong;

  int32_t nanos = 0;
  if (take(rest, '.')) {
    int digits = 0;
    for (; !rest.empty() && rest.front() >= '0' && rest.front() <= '9'; rest.remove_prefix(1), ++digits)
      if (digits < 9) nanos = nanos * 10 + (rest.front() - '0');
    if (digits == 0) return wrong;
    for (; digits < 9; ++digits) nanos *= 10;
  }

  int64_t offset = 0;
  if (!take(rest, 'Z')) {
    const int sign = take(rest, '+') ? 1 : take(rest, '-') ? -1 : 0;
    if (sign == 0) return wrong;
    const int hours = take_number(rest, 2);
    if (hours < 0 || hours > 23 || !take(rest, ':')) return wrong;
    const int minutes = take_number(rest, 2);
    if (minutes < 0 || minutes > 59) return wrong;
    offset = sign * (hours * 3600 + minutes * 60);
  }
  if (!rest.empty()) return wrong;

  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!date.ok()) return wrong;
  const int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  return Instant{days * 86'400 + hour * 3600 + minute * 60 + second - offset, nanos};
}

std::string format_time(const Instant& instant, int digits) {
  const std::chrono::sys_seconds time{std::chrono::seconds(instant.seconds)};
  const auto midnight = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(midnight);
  const auto of_day = static_cast<int>((time - midnight).count());
  std::array<char, 64> text;
  int size = std::snprintf(text.data(), text.size(), "%04d-%02u-%02uT%02d:%02d:%02d", static_cast<int>(date.year()),
                           static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), of_day / 3600,
                           of_day / 60 % 60, of_day % 60);
  std::string result(text.data(), static_cast<size_t>(size));
  if (digits > 0) {
    size = std::snprintf(text.data(), text.size(), ".%09d", instant.nanos);
    result.append(text.data(), static_cast<size_t>(digits) + 1);
  }
  return result + 'Z';
}

Instant instant_of_nanoseconds(int64_t nanoseconds) {
  int64_t seconds = nanoseconds / kNanosPerSecond;
  int64_t nanos = nanoseconds % kNanosPerSecond;
  if (nanos < 0) {
    nanos += kNanosPerSecond;
    --seconds;
  }
  return {seconds, static_cast<int32_t>(nanos)};
}

}  // namespace pintle::api
