#include "sdk/api/time.hpp"

#include <gtest/gtest.h>

namespace pintle::api {
namespace {

TEST(Time, reads_and_writes_rfc_3339) {
  EXPECT_EQ(parse_time("1970-01-01T00:00:00Z")->seconds, 0);
  EXPECT_EQ(parse_time("2026-11-20T10:51:20Z")->seconds, 1795171880);
  EXPECT_EQ(*parse_time("2026-11-20T12:51:20.5+02:00"), (Instant{1795171880, 500'000'000}));
  EXPECT_EQ(parse_time("2024-02-29T23:59:59-01:30")->seconds, parse_time("2024-03-01T01:29:59Z")->seconds);
  EXPECT_EQ(format_time({1795171880, 123'456'789}), "2026-11-20T10:51:20Z");
  EXPECT_EQ(format_time({1795171880, 123'456'789}, 6), "2026-11-20T10:51:20.123456Z");
  EXPECT_EQ(format_time(instant_of_nanoseconds(-1), 9), "1969-12-31T23:59:59.999999999Z");
}

TEST(Time, refuses_what_is_no_moment) {
  for (const char* text : {"", "2026-11-20", "2026-11-20 10:51:20Z", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z",
                           "2026-11-20T24:00:00Z", "2026-11-20T10:51:20", "2026-11-20T10:51:20.Z",
                           "2026-11-20T10:51:20Zx", "2026-11-20T10:51:20+2"})
    EXPECT_FALSE(parse_time(text)) << text;
}

}  // namespace
}  // namespace pintle::api
