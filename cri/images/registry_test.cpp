#include "cri/images/registry.hpp"

#include <gtest/gtest.h>

#include "cri/images/challenge.hpp"

namespace pintle::images {
namespace {

const std::string kDigest = "sha256:" + std::string(64, 'a');
const std::string kOther = "sha256:" + std::string(64, 'b');

std::string entry(const std::string& digest, const std::string& platform) {
  return R"({"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":")" + digest + "\"" +
         (platform.empty() ? "" : R"(,"platform":{"os":"linux","architecture":")" + platform + "\"}") + "}";
}

Index index_of(const std::string& entries) {
  auto index = Index::parse(R"({"schemaVersion":2,"manifests":[)" + entries + "]}");
  EXPECT_TRUE(index.is_ok());
  return *index;
}

TEST(Challenges, are_told_apart_in_one_header) {
  const auto all = parse_challenges(
      R"(Basic realm="a \"quoted\", place", Bearer realm="https://t/token",scope="repository:a/b:pull,push" , Negotiate)");
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].scheme, "basic");
  EXPECT_EQ(all[0].parameter("realm"), "a \"quoted\", place");
  EXPECT_EQ(all[1].parameter("realm"), "https://t/token");
  EXPECT_EQ(all[1].parameter("scope"), "repository:a/b:pull,push");
  EXPECT_EQ(all[1].parameter("service"), "");
  EXPECT_EQ(all[2].scheme, "negotiate");
}

TEST(Challenges, that_are_broken_are_left_out) {
  EXPECT_TRUE(parse_challenges("").empty());
  EXPECT_TRUE(parse_challenges(",,=\"x\",").empty());
  const auto one = parse_challenges("Bearer realm=\"never ends");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].parameter("realm"), "never ends");
}

TEST(Indexes, give_the_manifest_of_the_platform) {
  EXPECT_EQ(
      choose_manifest(index_of(entry(kOther, "arm64") + "," + entry(kDigest, "amd64")), "amd64")->digest.to_string(),
      kDigest);
  EXPECT_EQ(choose_manifest(index_of(entry(kDigest, "")), "amd64")->digest.to_string(), kDigest);
  const auto none = choose_manifest(index_of(entry(kOther, "arm64") + "," + entry(kDigest, "unknown")), "amd64");
  EXPECT_EQ(none.status().code(), Code::not_found);
  EXPECT_EQ(none.status().message(), "there is no image for linux/amd64, only for linux/arm64");
}

TEST(Tokens, are_taken_under_either_name_and_in_one_line) {
  EXPECT_EQ(*parse_token(R"({"token":"abc"})"), "abc");
  EXPECT_EQ(*parse_token(R"({"token":"","access_token":"def"})"), "def");
  for (const char* bad : {"", "[]", "{}", R"({"token":7})", R"({"token":"a\r\nX: y"})"}) {
    EXPECT_EQ(parse_token(bad).status().code(), Code::invalid_argument) << bad;
  }
}

TEST(Origins, are_what_credentials_are_bound_to) {
  EXPECT_EQ(*origin_of("https://Registry.example/v2/"), *origin_of("https://registry.example:443/other"));
  EXPECT_FALSE(*origin_of("https://registry.example") == *origin_of("http://registry.example"));
  EXPECT_FALSE(*origin_of("https://registry.example") == *origin_of("https://registry.example:444"));
  for (const char* bad : {"", "file:///etc/shadow", "https://user:word@registry.example", "nonsense"}) {
    EXPECT_EQ(origin_of(bad).status().code(), Code::invalid_argument) << bad;
  }
}

TEST(Origins, of_this_host_are_known_as_such) {
  for (const char* host : {"localhost", "127.0.0.1", "127.9.9.9", "[::1]", "::1"})
    EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"localhost.example", "127.0.0.1.example", "128.0.0.1", "[::2]", ""}) {
    EXPECT_FALSE(is_loopback(host)) << host;
  }
}

TEST(Answers, are_explained_in_one_line) {
  Response response;
  response.status = 403;
  response.body = R"({"errors":[{"code":"DENIED","message":"not\nfor you"}]})";
  EXPECT_EQ(explain_answer(response), "DENIED: not for you");
  response.body = "<html>";
  EXPECT_EQ(explain_answer(response), "HTTP status 403");
  response.headers["content-type"] = "text/html; charset=utf-8";
  EXPECT_EQ(explain_answer(response), "a web page, so it may be no registry");
}

}  // namespace
}  // namespace pintle::images
