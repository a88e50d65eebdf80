#pragma once

/// Times of the Kubernetes API: RFC 3339 texts, and nanoseconds since 1970 as the container runtimes count.

#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::api {

struct Instant {
  int64_t seconds = 0;  ///< since 1970, UTC
  int32_t nanos = 0;    ///< 0 to 999,999,999
  bool operator==(const Instant&) const = default;
};

/// "2026-11-20T10:51:20Z", with a fraction or another offset if one likes. INVALID_ARGUMENT says what it should look
/// like.
PINTLE_API_EXPORT Result<Instant> parse_time(std::string_view text);
/// In UTC, with `digits` (0, 6 or 9) of fraction; what is finer is cut off.
PINTLE_API_EXPORT std::string format_time(const Instant& instant, int digits = 0);

PINTLE_API_EXPORT Instant instant_of_nanoseconds(int64_t nanoseconds);

/// Sets a Time or MicroTime message from nanoseconds since 1970.
template <class Message>
void set_time(Message* message, int64_t nanoseconds) {
  const Instant instant = instant_of_nanoseconds(nanoseconds);
  message->set_seconds(instant.seconds);
  message->set_nanos(instant.nanos);
}

}  // namespace pintle::api
