#include "sdk/support/netlink/ip.hpp"

#include <gtest/gtest.h>

namespace pintle::netlink {
namespace {

IpAddress address(const char* text) { return *IpAddress::parse(text); }
IpPrefix prefix(const char* text) { return *IpPrefix::parse(text); }

TEST(IpAddress, SpeaksCanonicalText) {
  EXPECT_EQ(address("10.85.0.7").to_string(), "10.85.0.7");
  EXPECT_EQ(address("FD00:0:0::7").to_string(), "fd00::7");
}

TEST(IpAddress, RefusesWhatIsNoAddressAndNamesIt) {
  for (const char* text : {"", "10.85.0", "10.85.0.256", "10.85.0.7 ", "fd00::g", "fe80::1%eth0", "localhost"}) {
    Result<IpAddress> result = IpAddress::parse(text);
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.status().code(), Code::invalid_argument);
    EXPECT_NE(result.status().message().find(text), std::string::npos);
  }
}

TEST(IpAddress, CountsOverByteBordersAndStopsAtTheEnd) {
  EXPECT_EQ(address("10.85.0.255").plus(1), address("10.85.1.0"));
  EXPECT_EQ(address("10.85.0.0").plus(65536), address("10.86.0.0"));
  EXPECT_EQ(address("fd00::ffff:ffff:ffff:ffff").plus(1), address("fd00:0:0:1::"));
  EXPECT_EQ(address("255.255.255.255").plus(1), std::nullopt);
  EXPECT_EQ(address("10.85.1.0").previous(), address("10.85.0.255"));
  EXPECT_EQ(address("0.0.0.0").previous(), std::nullopt);
}

TEST(IpAddress, MasksAtAnyBit) {
  EXPECT_EQ(address("10.85.255.255").masked(12), address("10.80.0.0"));
  EXPECT_EQ(address("10.85.0.0").masked(12, true), address("10.95.255.255"));
  EXPECT_EQ(address("fd00:85::7").masked(0), address("::"));
  EXPECT_EQ(address("10.85.0.7").masked(32), address("10.85.0.7"));
}

TEST(IpPrefix, KeepsHostBitsUntilAskedForTheNetwork) {
  EXPECT_EQ(prefix("10.85.0.7/16").to_string(), "10.85.0.7/16");
  EXPECT_EQ(prefix("10.85.0.7/16").network().to_string(), "10.85.0.0/16");
  EXPECT_EQ(prefix("fd00:85::7/64").last(), address("fd00:85::ffff:ffff:ffff:ffff"));
}

TEST(IpPrefix, RefusesWrongLengths) {
  for (const char* text : {"10.85.0.0", "10.85.0.0/", "10.85.0.0/33", "10.85.0.0/-1", "fd00::/129", "10.85.0.0/16x"}) {
    EXPECT_FALSE(IpPrefix::parse(text)) << text;
  }
}

TEST(IpPrefix, KnowsWhatItContainsAndOverlaps) {
  EXPECT_TRUE(prefix("10.85.0.0/16").contains(address("10.85.255.255")));
  EXPECT_FALSE(prefix("10.85.0.0/16").contains(address("10.86.0.0")));
  EXPECT_FALSE(prefix("0.0.0.0/0").contains(address("::1")));
  EXPECT_TRUE(prefix("10.85.0.0/16").overlaps(prefix("10.85.7.0/24")));
  EXPECT_TRUE(prefix("10.85.7.0/24").overlaps(prefix("10.85.0.0/16")));
  EXPECT_FALSE(prefix("10.85.0.0/17").overlaps(prefix("10.85.128.0/17")));
}

}  // namespace
}  // namespace pintle::netlink
