#include "cri/images/reference.hpp"

#include <gtest/gtest.h>

namespace pintle::images {
namespace {

std::string whole(std::string_view text) {
  auto reference = Reference::parse(text);
  return reference ? reference->to_string() : "error: " + reference.status().message();
}

const std::string kHex(64, 'a');

TEST(Reference, ShortNamesAreMadeWholeAsDockerDoes) {
  EXPECT_EQ(whole("web"), "docker.io/library/web:latest");
  EXPECT_EQ(whole("web:1.2"), "docker.io/library/web:1.2");
  EXPECT_EQ(whole("team/web"), "docker.io/team/web:latest");
  EXPECT_EQ(whole("index.docker.io/web"), "docker.io/library/web:latest");
  EXPECT_EQ(whole("docker.io/web"), "docker.io/library/web:latest");
  EXPECT_EQ(whole("localhost/web"), "localhost/web:latest");
  EXPECT_EQ(whole("localhost:5000/web"), "localhost:5000/web:latest");
  EXPECT_EQ(whole("pintle.local/web:latest"), "pintle.local/web:latest");
  EXPECT_EQ(whole("[::1]:5000/a/b__c-d.e:T_1"), "[::1]:5000/a/b__c-d.e:T_1");
}

TEST(Reference, ADigestTakesThePlaceOfTheDefaultTag) {
  EXPECT_EQ(whole("web@sha256:" + kHex), "docker.io/library/web@sha256:" + kHex);
  EXPECT_EQ(whole("web:1@sha256:" + kHex), "docker.io/library/web:1@sha256:" + kHex);
}

TEST(Reference, WhatIsWrongIsNamed) {
  for (const std::string& text : {std::string(),
                                  std::string("Web"),
                                  std::string("web:"),
                                  std::string("web:-x"),
                                  std::string("web@sha256:12"),
                                  std::string("a//b"),
                                  std::string("a/../b"),
                                  std::string("-web"),
                                  std::string("web-"),
                                  std::string("a..b"),
                                  std::string("a___b"),
                                  std::string("reg:port/web"),
                                  std::string("web:tag/more"),
                                  std::string("reg.io:/x"),
                                  kHex,
                                  std::string("a b"),
                                  std::string("a\nb"),
                                  "x/" + std::string(300, 'a'),
                                  "web:" + std::string(129, 'a'),
                                  std::string("web@sha512:") + kHex,
                                  std::string("/web"),
                                  std::string("web/"),
                                  std::string("[]/web"),
                                  std::string("-a.io/web")}) {
    auto reference = Reference::parse(text);
    EXPECT_FALSE(reference.is_ok()) << text;
    if (!reference) {
      EXPECT_EQ(reference.status().code(), Code::invalid_argument);
    }
  }
}

}  // namespace
}  // namespace pintle::images
