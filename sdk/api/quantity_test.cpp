#include "sdk/api/quantity.hpp"

#include <gtest/gtest.h>

namespace pintle::api {
namespace {

std::string canonical(std::string_view text) {
  Result<Quantity> quantity = Quantity::parse(text);
  return quantity ? quantity->text() : "refused";
}

TEST(Quantity, is_written_in_canonical_form) {
  const std::pair<const char*, const char*> cases[] = {
      {"0", "0"},
      {"0.0", "0"},
      {"-0", "0"},
      {"1", "1"},
      {"+1", "1"},
      {"1000", "1k"},
      {"1500", "1500"},
      {"0.5", "500m"},
      {".5", "500m"},
      {"5.", "5"},
      {"100m", "100m"},
      {"1000m", "1"},
      {"1024Mi", "1Gi"},
      {"1.5Gi", "1536Mi"},
      {"1023Ki", "1023Ki"},
      {"0.5Ki", "512"},
      {"1Ki", "1Ki"},
      {"0.1Ki", "102400m"},
      {"1e3", "1e3"},
      {"1E3", "1e3"},
      {"12e6", "12e6"},
      {"100e-3", "100e-3"},
      {"1E", "1E"},
      {"1Ei", "1Ei"},
      {"-1500m", "-1500m"},
      {"007", "7"},
      {"0123Mi", "123Mi"},
      {"1e0", "1"},
      {"64Mi", "64Mi"},
      {"128974848", "128974848"},
      {"0.0000000001", "1n"},
      {"-0.0000000001", "-1n"},
      {"1.0000000001", "1000000001n"},
  };
  for (const auto& [text, wanted] : cases) EXPECT_EQ(canonical(text), wanted) << text;
}

TEST(Quantity, is_capped_at_the_largest_64_bit_number) {
  for (const char* text : {"9223372036854775807", "9223372036854775808", "100E", "8Ei", "1e300", "1e99999"})
    EXPECT_EQ(Quantity::parse(text)->units(), 9223372036854775807) << text;
  EXPECT_EQ(Quantity::parse("-100E")->units(), -9223372036854775807);
  EXPECT_EQ(Quantity::parse("1e-99999")->text(), "1e-9");
}

TEST(Quantity, refuses_what_is_none_and_says_what_one_looks_like) {
  for (const char* text :
       {"", ".", "-", "1 Gi", "1gi", "1KI", "1.5.5", "e3", "1e", "1e+", "1e+-3", "Mi", "0x10", "1,5", "1mm", "ten"}) {
    Result<Quantity> quantity = Quantity::parse(text);
    ASSERT_FALSE(quantity) << text;
    EXPECT_NE(quantity.status().message().find("must be a quantity"), std::string::npos);
  }
  EXPECT_FALSE(Quantity::parse(std::string(100'000, '9')));
}

TEST(Quantity, rounds_up_to_milli_and_units) {
  EXPECT_EQ(Quantity::parse("1.0001")->milli(), 1001);
  EXPECT_EQ(Quantity::parse("250m")->milli(), 250);
  EXPECT_EQ(Quantity::parse("100m")->units(), 1);
  EXPECT_EQ(Quantity::parse("64Mi")->units(), 64 << 20);
  EXPECT_EQ(Quantity::parse("8Ei")->milli(), 9223372036854775807);
}

TEST(Quantity, adds_exactly_and_keeps_its_notation) {
  EXPECT_EQ((*Quantity::parse("1Gi") + *Quantity::parse("512Mi")).text(), "1536Mi");
  EXPECT_EQ((*Quantity::parse("0.1") + *Quantity::parse("0.2")).text(), "300m");
  EXPECT_EQ((Quantity() + *Quantity::parse("64Mi")).text(), "64Mi");
  EXPECT_EQ((*Quantity::parse("1") - *Quantity::parse("1500m")).text(), "-500m");
  EXPECT_EQ(*Quantity::parse("1024Mi"), *Quantity::parse("1073741824"));
  EXPECT_LT(*Quantity::parse("1M"), *Quantity::parse("1Mi"));
}

}  // namespace
}  // namespace pintle::api
