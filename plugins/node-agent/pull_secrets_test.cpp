#include "plugins/node-agent/pull_secrets.hpp"

#include <gtest/gtest.h>

namespace pintle::agent {
namespace {

std::string users(const char* auths, std::string_view image) {
  Result<RegistryLogins> logins = RegistryLogins::parse(std::string("{\"auths\":") + auths + "}", false);
  if (!logins) return logins.status().message();
  std::string text;
  for (const RegistryLogin& login : logins->find(image))
    text += (text.empty() ? "" : " ") + login.username + ":" + login.password;
  return text;
}

TEST(RegistryLogins, are_found_by_registry_and_path_the_longest_first) {
  const char* auths =
      R"({"registry.io": {"username": "all", "password": "1"}, "registry.io/shop": {"username": "shop", "password": "2"},
          "other.io": {"username": "other", "password": "3"}})";
  EXPECT_EQ(users(auths, "registry.io/shop/web:1"), "shop:2 all:1");
  EXPECT_EQ(users(auths, "registry.io/team/web@sha256:00"), "all:1");
  EXPECT_EQ(users(auths, "registry.io:5000/shop/web"), "");
  EXPECT_EQ(users(auths, "elsewhere.io/web"), "");
}

TEST(RegistryLogins, take_wildcards_for_a_label_but_not_for_dots) {
  const char* auths = R"({"*.registry.io:5000": {"auth": "YTpi"}})";
  EXPECT_EQ(users(auths, "eu.registry.io:5000/x"), "a:b");
  EXPECT_EQ(users(auths, "a.eu.registry.io:5000/x"), "");
  EXPECT_EQ(users(auths, "eu.registry.io/x"), "");
}

TEST(RegistryLogins, are_those_of_docker_hub_for_images_without_a_registry) {
  for (const char* auths :
       {R"({"https://index.docker.io/v1/": {"auth": "YTpi"}})", R"({"docker.io": {"auth": "YTpi"}})"}) {
    for (const char* image : {"busybox", "library/busybox:1", "docker.io/team/x"})
      EXPECT_EQ(users(auths, image), "a:b");
    EXPECT_EQ(users(auths, "registry.io/x"), "");
  }
}

TEST(RegistryLogins, say_what_is_wrong_and_nothing_of_what_is_there) {
  for (const char* text :
       {"{\"auths\": {\"r.io\": {\"auth\": \"c2VjcmV0\"}}}", "secret", "{\"auths\": {\"r.io\": \"secret\"}}", "{}"}) {
    Result<RegistryLogins> logins = RegistryLogins::parse(text, false);
    ASSERT_FALSE(logins) << text;
    EXPECT_EQ(logins.status().message().find("secret"), std::string::npos);
  }
}

}  // namespace
}  // namespace pintle::agent
