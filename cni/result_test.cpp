#include "cni/result.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace pintle::cni {
namespace {

using netlink::IpAddress;
using netlink::IpPrefix;

TEST(AddResult, IsReadBackAsItWasWritten) {
  const AddResult result{
      .interfaces = {{.name = "pod1", .mac = {2, 0, 0, 0, 0, 1}, .mtu = 0, .sandbox = ""},
                     {.name = "eth0", .mac = {2, 0, 0, 0, 0, 2}, .mtu = 1400, .sandbox = "/run/netns/a"}},
      .ips = {{.address = *IpPrefix::parse("10.85.0.7/16"), .gateway = *IpAddress::parse("10.85.0.1"), .interface = 1},
              {.address = *IpPrefix::parse("fd00:85::7/64"), .gateway = {}, .interface = {}}},
      .routes = {{.destination = *IpPrefix::parse("0.0.0.0/0"), .gateway = *IpAddress::parse("10.85.0.1")},
                 {.destination = *IpPrefix::parse("fd01::/16"), .gateway = {}}},
      .dns = {.nameservers = {"10.0.0.10"}, .domain = "d", .search = {"a", "b"}, .options = {"ndots:5"}}};
  Result<AddResult> back = parse_add_result(boost::json::parse(boost::json::serialize(to_json(result))));
  ASSERT_TRUE(back) << back.status().to_string();
  EXPECT_EQ(*back, result);
}

TEST(AddResult, SpeaksTheSpecificationsNames) {
  const AddResult result{.interfaces = {{.name = "eth0", .mac = {2, 0, 0, 0, 0, 2}, .mtu = 0, .sandbox = "/n"}},
                         .ips = {{.address = *IpPrefix::parse("10.85.0.7/16"), .gateway = {}, .interface = 0}},
                         .routes = {},
                         .dns = {}};
  EXPECT_EQ(boost::json::serialize(to_json(result)),
            R"({"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/n"}],)"
            R"("ips":[{"address":"10.85.0.7/16","interface":0}]})");
}

TEST(AddResult, AWrongKeyIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([])", "object"},
      {R"({"ips":{}})", "ips"},
      {R"({"ips":[{"address":"10.0.0.1"}]})", "address"},
      {R"({"ips":[{"address":"10.0.0.1/8","interface":0}]})", "interface"},
      {R"({"ips":[{"address":"10.0.0.1/8","gateway":"x"}]})", "gateway"},
      {R"({"interfaces":[{"name":"eth0","mac":"zz"}]})", "mac"},
      {R"({"interfaces":[{"name":7}]})", "name"},
      {R"({"routes":[{"dst":7}]})", "dst"},
      {R"({"dns":{"nameservers":"10.0.0.10"}})", "nameservers"},
  };
  for (const auto& [text, key] : cases) {
    Result<AddResult> result = parse_add_result(boost::json::parse(text));
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.status().code(), Code::invalid_argument);
    EXPECT_THAT(result.status().message(), ::testing::HasSubstr(key));
  }
}

TEST(AddResult, UnknownKeysAndNullsAreIgnored) {
  EXPECT_TRUE(parse_add_result(boost::json::parse(R"({"cniVersion":"1.1.0","ips":null,"dns":null,"new":{}})")));
}

}  // namespace
}  // namespace pintle::cni
