#include "sdk/support/proc/interfaces.hpp"

#include <gtest/gtest.h>

namespace pintle::proc {
namespace {

TEST(InterfacesTest, ReadsCountersByTheirPlaceAndLeavesTheLoopbackOut) {
  const auto interfaces = parse_interfaces(
      "Inter-|   Receive                                                |  Transmit\n"
      " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier "
      "compressed\n"
      "    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0 "
      "   "
      "      0\n"
      "  eth0:10 2 3 4 5 6 7 8 40 50 60 0 0 0 0 0\n"
      "broken: 1 2\n");
  ASSERT_EQ(interfaces.size(), 1u);
  EXPECT_EQ(interfaces[0].name, "eth0");
  EXPECT_EQ(interfaces[0].received_bytes, 10u);
  EXPECT_EQ(interfaces[0].received_packets, 2u);
  EXPECT_EQ(interfaces[0].received_errors, 3u);
  EXPECT_EQ(interfaces[0].sent_bytes, 40u);
  EXPECT_EQ(interfaces[0].sent_packets, 50u);
  EXPECT_EQ(interfaces[0].sent_errors, 60u);
}

}  // namespace
}  // namespace pintle::proc
