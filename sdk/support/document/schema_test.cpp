#include "sdk/support/document/schema.hpp"

#include <gtest/gtest.h>

#include <chrono>

namespace pintle::document {
namespace {

namespace json = boost::json;

Schema schema_of(std::string_view text) {
  auto schema = Schema::parse(text, "schema");
  EXPECT_TRUE(schema) << schema.status().message();
  return std::move(*schema);
}

std::vector<std::string> problems(const Schema& schema, std::string_view text) {
  auto document = read_document(text, "t.yaml");
  EXPECT_TRUE(document) << document.status().message();
  std::vector<std::string> texts;
  for (const Problem& problem : schema.check(*document)) texts.push_back(problem.text());
  return texts;
}

using Texts = std::vector<std::string>;

constexpr std::string_view bridge = R"({
  "type": "object", "additionalProperties": false, "required": ["podCIDR"],
  "properties": {
    "podCIDR": {"type": "string", "format": "cidr", "description": "the pods' network"},
    "mtu": {"type": "integer", "minimum": 576, "maximum": 65535, "default": 1500},
    "mode": {"enum": ["bridged", "routed"], "default": "bridged"},
    "ranges": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string", "minLength": 2}},
    "name": {"type": "string", "pattern": "^[a-z][a-z0-9]*$", "maxLength": 5},
    "dns": {"type": "object", "default": {}, "properties": {"ttl": {"type": "string", "format": "duration", "default": "30s"}}}
  }})";

TEST(SchemaCheck, AcceptsWhatIsRight) {
  EXPECT_EQ(
      problems(schema_of(bridge), "podCIDR: 10.85.0.0/16\nmtu: 1400\nranges: [ab]\nname: br0\ndns: {ttl: 1m30s}\n"),
      Texts{});
}

TEST(SchemaCheck, CountsBoundsIn) {
  EXPECT_EQ(problems(schema_of(bridge), "podCIDR: 10.85.0.0/16\nmtu: 576\nname: abcde\nranges: [ab, cd]\n"), Texts{});
  EXPECT_EQ(problems(schema_of(bridge), "podCIDR: 10.85.0.0/16\nmtu: 65535\n"), Texts{});
  EXPECT_EQ(problems(schema_of(bridge), "podCIDR: 10.85.0.0/16\nmtu: 575\n").size(), 1u);
  EXPECT_EQ(problems(schema_of(bridge), "podCIDR: 10.85.0.0/16\nmtu: 65536\n").size(), 1u);
}

TEST(SchemaCheck, NamesPlacePathAndNearestKey) {
  EXPECT_EQ(problems(schema_of(bridge), "podcidr: 10.85.0.0/16\nmtu: big\nmode: brigded\n"),
            (Texts{"t.yaml:1:1: podcidr: unknown key; did you mean podCIDR?",
                   "t.yaml:1:1: the document: lacks the key podCIDR (the pods' network)",
                   "t.yaml:2:6: mtu: must be an integer, is \"big\"",
                   "t.yaml:3:7: mode: must be one of bridged or routed, is \"brigded\"; did you mean bridged?"}));
}

TEST(SchemaCheck, KeepsToBounds) {
  EXPECT_EQ(problems(schema_of(bridge), "podCIDR: 10.85.0.1/16\nmtu: 100\nranges: [a, bb, cc]\nname: Br0-too-long\n"),
            (Texts{"t.yaml:1:10: podCIDR: \"10.85.0.1/16\" has bits beyond its prefix; the network is 10.85.0.0/16",
                   "t.yaml:2:6: mtu: must be at least 576, is 100",
                   "t.yaml:3:9: ranges: has 3 elements; at most 2 are allowed",
                   "t.yaml:3:10: ranges[0]: \"a\" is shorter than 2 characters",
                   "t.yaml:4:7: name: \"Br0-too-long\" is longer than 5 characters",
                   "t.yaml:4:7: name: \"Br0-too-long\" does not match ^[a-z][a-z0-9]*$"}));
}

TEST(SchemaCheck, LooksBelowAPointerOfALargerDocument) {
  auto document = read_document("spec:\n  config:\n    mtu: x\n", "t.yaml");
  ASSERT_TRUE(document);
  const auto found = schema_of(bridge).check(*document, "/spec/config");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[1].text(), "t.yaml:3:10: spec.config.mtu: must be an integer, is \"x\"");
  EXPECT_EQ(schema_of(bridge).check(*document, "/spec/absent").at(0).message,
            "lacks the key podCIDR (the pods' network)");
}

TEST(SchemaCheck, ExplainsTheClosestOfSeveralSchemas) {
  const Schema schema = schema_of(R"({"oneOf": [{"type": "string", "format": "ip"},
    {"type": "object", "additionalProperties": false, "properties": {"device": {"type": "string"}}}]})");
  EXPECT_EQ(problems(schema, "10.0.0.1"), Texts{});
  EXPECT_EQ(problems(schema, "{devise: x}"), (Texts{"t.yaml:1:2: devise: unknown key; did you mean device?"}));
  EXPECT_EQ(problems(schema, "5"), (Texts{"t.yaml:1:1: the document: must be a mapping or a text, is 5"}));
  EXPECT_EQ(problems(schema_of(R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})"), "5").size(), 1u);
  EXPECT_EQ(problems(schema_of(R"({"anyOf": [{"type": "integer"}, {"type": "number"}]})"), "5"), Texts{});
}

TEST(SchemaCheck, StopsAtAHundredProblems) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "k" + std::to_string(i) + ": 1\n";
  EXPECT_EQ(problems(schema_of(bridge), text).size(), 100u);
}

TEST(SchemaCheck, TakesLinearTimeForHostilePatterns) {
  const Schema schema = schema_of(R"({"type": "string", "pattern": "^(a+)+$"})");
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(problems(schema, std::string(5000, 'a') + "!").size(), 1u);
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(1));
}

TEST(SchemaDefaults, FillAbsentKeysOfMappingsThatAreThere) {
  EXPECT_EQ(schema_of(bridge).with_defaults(json::parse(R"({"podCIDR":"10.0.0.0/8","mode":"routed"})")),
            json::parse(R"({"podCIDR":"10.0.0.0/8","mode":"routed","mtu":1500,"dns":{"ttl":"30s"}})"));
  EXPECT_EQ(
      schema_of(
          R"({"type":"array","items":{"anyOf":[{"type":"string"},{"type":"object","properties":{"a":{"default":1}}}]}})")
          .with_defaults(json::parse(R"(["x",{}])")),
      json::parse(R"(["x",{"a":1}])"));
}

TEST(SchemaCompile, RefusesWhatItDoesNotEnforce) {
  const auto refusal = [](std::string_view text) {
    auto schema = Schema::parse(text, "s");
    EXPECT_FALSE(schema);
    return schema.status().message();
  };
  EXPECT_EQ(refusal(R"({"properties": {"a": {"patern": "x"}}})"),
            "s: at /properties/a/patern: the keyword \"patern\" is not supported; did you mean pattern?");
  EXPECT_EQ(refusal(R"({"format": "cdr"})"), "s: at /format: the format \"cdr\" is not supported; did you mean cidr?");
  EXPECT_EQ(refusal(R"({"type": "strin"})"), "s: at /type: there is no type \"strin\"");
  EXPECT_EQ(refusal(R"({"properties": {"a": {"type": "integer", "default": "x"}}})"),
            "s: at /properties/a/default: must be an integer, is \"x\"");
  EXPECT_TRUE(refusal("{\"pattern\": \"(?=x)\"}").starts_with("s: at /pattern: is no regular expression"));
  EXPECT_EQ(refusal(R"({"additionalProperties": false, "required": ["a"]})"),
            "s: at /required: \"a\" is required but not among the properties");
}

TEST(Formats, AcceptTheRightAndRefuseTheWrong) {
  const auto right = [](std::string_view format, std::initializer_list<std::string_view> texts) {
    for (std::string_view text : texts) EXPECT_EQ(format_problem(format, text), "") << format << " " << text;
  };
  const auto wrong = [](std::string_view format, std::initializer_list<std::string_view> texts) {
    for (std::string_view text : texts) EXPECT_NE(format_problem(format, text), "") << format << " " << text;
  };
  right("ip", {"10.0.0.1", "fd00::1", "::"});
  wrong("ip", {"10.0.0", "10.0.0.256", "fd00::1/64", "", std::string_view("10.0.0.1\0x", 10)});
  right("ipv6", {"::1"});
  wrong("ipv6", {"10.0.0.1"});
  right("cidr", {"10.85.0.0/16", "fd00:85::/64", "0.0.0.0/0", "10.0.0.1/32"});
  wrong("cidr", {"10.85.0.0", "10.85.0.0/33", "10.85.0.0/", "10.85.0.0/016", "fd00::1/64", "x/8"});
  right("duration", {"0", "1h30m", "1.5s", "250ms", "-1s", ".5s"});
  wrong("duration", {"", "5", "s", "1x", "1h30", "1 s"});
  right("quantity", {"1", "500m", "64Mi", "1.5", "1e3", "-2k", "1E"});
  wrong("quantity", {"", "Mi", "64MB", "64 Mi", "1e", "1ki"});
  right("path", {"/", "/etc/pintle"});
  wrong("path", {"", "etc", std::string_view("/a\0b", 4)});
}

}  // namespace
}  // namespace pintle::document
