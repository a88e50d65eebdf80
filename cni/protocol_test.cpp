#include "cni/protocol.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "cni/result.hpp"

namespace pintle::cni {
namespace {

using ::testing::HasSubstr;
namespace json = boost::json;

TEST(Protocol, VersionsAreOrdered) {
  EXPECT_TRUE(is_version("0.3.1"));
  EXPECT_FALSE(is_version("0.2.0"));
  EXPECT_TRUE(is_at_least("1.0.0", "0.4.0"));
  EXPECT_FALSE(is_at_least("0.4.0", "1.0.0"));
}

TEST(Protocol, AnErrorComesBackWithItsWordsOnOneLine) {
  const json::object error =
      to_json({.code = ErrorCode::unknown_container, .message = "no such\nthing", .details = "x"}, "1.0.0");
  const Status status = status_of_error(error);
  EXPECT_EQ(status.code(), Code::not_found);
  EXPECT_EQ(status.message(), "no such thing: x (CNI code 3)");
  EXPECT_EQ(status_of_error(json::parse(R"({"code": 11, "msg": "later"})")).code(), Code::unavailable);
  for (const char* odd : {"{}", "[]", "1", R"({"code": "x"})", R"({"code": -1, "msg": 1})"}) {
    EXPECT_EQ(status_of_error(json::parse(odd)).code(), Code::internal) << odd;
  }
}

TEST(Protocol, ArgumentsAreKeysAndValues) {
  const auto arguments = parse_arguments("IgnoreUnknown=1;K8S_POD_NAME=a=b;;");
  ASSERT_TRUE(arguments);
  ASSERT_EQ(arguments->size(), 2u);
  EXPECT_EQ((*arguments)[1].second, "a=b");
  EXPECT_THAT(parse_arguments("a=1;b").status().message(), HasSubstr("'b' is not KEY=VALUE"));
}

TEST(Protocol, NamesLeadNowhere) {
  for (const char* bad : {"", "..", "a/b", ".a", "-a", "a b"}) EXPECT_FALSE(check_name("name", bad)) << bad;
  EXPECT_TRUE(check_name("name", "a.b_C-9"));
}

TEST(Protocol, TextThatIsNoObjectIsRefusedWithItsPlace) {
  EXPECT_THAT(parse_object("it", "{\n\"a\": }").status().message(), HasSubstr("it: it is no JSON: line 2"));
  EXPECT_THAT(parse_object("it", "{} x").status().message(), HasSubstr("no JSON"));
  EXPECT_THAT(parse_object("it", "[]").status().message(), HasSubstr("a JSON object is expected"));
  EXPECT_FALSE(parse_object("it", std::string(2 << 20, ' ')));
  EXPECT_FALSE(parse_object("it", std::string(1000, '[')));
}

TEST(Protocol, ResultsOfOldVersionsSayTheFamily) {
  const auto result = parse_add_result(
      json::parse(R"({"ips": [{"version": "4", "address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]})"));
  ASSERT_TRUE(result) << result.status().to_string();
  const json::object old = to_json(*result, "0.4.0"), current = to_json(*result, "1.1.0");
  EXPECT_EQ(old.at("ips").at(0).at("version"), "4");
  EXPECT_EQ(old.at("ips").at(1).at("version"), "6");
  EXPECT_FALSE(current.at("ips").at(0).as_object().contains("version"));
  EXPECT_EQ(current.at("cniVersion"), "1.1.0");
  EXPECT_EQ(*parse_add_result(old), *result);
}

}  // namespace
}  // namespace pintle::cni
