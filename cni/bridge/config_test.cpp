#include "cni/bridge/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

namespace pintle::bridge {
namespace {

using ::testing::HasSubstr;

TEST(Config, HasDefaults) {
  Result<Config> config = parse_config("{}");
  ASSERT_TRUE(config) << config.status().to_string();
  EXPECT_EQ(config->bridge, "pintle0");
  ASSERT_EQ(config->ranges.size(), 1u);
  EXPECT_EQ(config->ranges[0].subnet.to_string(), "10.85.0.0/16");
  EXPECT_EQ(config->ranges[0].gateway.to_string(), "10.85.0.1");
  EXPECT_TRUE(config->masquerade);
  EXPECT_FALSE(config->hairpin);
  EXPECT_EQ(config->vlan, 0);
  EXPECT_EQ(config->gateway_interface(), "pintle0");
  EXPECT_FALSE(config->has(AF_INET6));
}

TEST(Config, TakesOneSubnetOrSeveral) {
  Result<Config> one = parse_config(R"({"podCIDR": "fd00:85::/64"})");
  ASSERT_TRUE(one);
  EXPECT_TRUE(one->has(AF_INET6));
  EXPECT_FALSE(one->has(AF_INET));
  Result<Config> both = parse_config(R"({"podCIDR": ["10.1.0.0/24", "fd00:85::/64", "10.2.0.0/24"], "mtu": 1400})");
  ASSERT_TRUE(both);
  EXPECT_EQ(both->ranges.size(), 3u);
  EXPECT_EQ(both->mtu, 1400u);
}

TEST(Config, TheGatewayOfAVlanIsOnTopOfTheBridge) {
  Result<Config> config = parse_config(R"({"bridge": "lan0", "vlan": 4094})");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->vlan, 4094);
  EXPECT_EQ(config->gateway_interface(), "lan0.4094");
}

TEST(Config, ARefusalNamesTheKeyAndTheReason) {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {R"({"podCIDR": "10.85.0.0"})", "podCIDR", "prefix length"},
      {R"({"podCIDR": []})", "podCIDR", "list"},
      {R"({"podCIDR": ["10.0.0.0/8", "10.85.0.0/16"]})", "podCIDR", "overlap"},
      {R"({"podCIDR": "10.85.0.1/32"})", "podCIDR", "room"},
      {R"({"podCIDR": "224.0.0.0/8"})", "podCIDR", "unicast"},
      {R"({"bridge": "a name with spaces"})", "bridge", "interface name"},
      {R"({"bridge": "../eth0"})", "bridge", "interface name"},
      {R"({"mtu": 60})", "mtu", "68"},
      {R"({"podCIDR": "fd00::/64", "mtu": 1000})", "mtu", "1280"},
      {R"({"mtu": -1})", "mtu", "65535"},
      {R"({"vlan": 0})", "vlan", "1 to 4094"},
      {R"({"vlan": 4095})", "vlan", "1 to 4094"},
      {R"({"vlan": "100"})", "vlan", "1 to 4094"},
      {R"({"bridge": "a-long-bridge", "vlan": 100})", "bridge", "a-long-bridge.100"},
      {R"({"masquerade": "yes"})", "masquerade", "true or false"},
      {R"([])", "config", "object"},
  };
  for (const auto& [text, key, why] : cases) {
    Result<Config> config = parse_config(text);
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.status().code(), Code::invalid_argument);
    EXPECT_THAT(config.status().message(), HasSubstr(key));
    EXPECT_THAT(config.status().message(), HasSubstr(why));
  }
}

}  // namespace
}  // namespace pintle::bridge
