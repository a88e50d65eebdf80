#include "cri/images/manifest.hpp"

#include <gtest/gtest.h>

namespace pintle::images {
namespace {

TEST(Manifest, WhatAManifestTellsIsKeptThroughItsJson) {
  Manifest manifest;
  manifest.config = {"application/vnd.oci.image.config.v1+json", digest_of("c"), 1, {}, {}, {}};
  manifest.layers = {{"application/vnd.oci.image.layer.v1.tar+gzip", digest_of("l"), 5, {}, {}, {}}};
  auto again = Manifest::parse(manifest.to_json());
  ASSERT_TRUE(again.is_ok()) << again.status().message();
  EXPECT_EQ(again->config.digest, digest_of("c"));
  ASSERT_EQ(again->layers.size(), 1u);
  EXPECT_EQ(again->layers[0].size, 5u);
}

TEST(Manifest, WrongDocumentsAreRefusedWithTheirPlace) {
  EXPECT_NE(Manifest::parse("{").status().message().find("no JSON"), std::string::npos);
  EXPECT_NE(Manifest::parse("{}").status().message().find("'config'"), std::string::npos);
  EXPECT_NE(Manifest::parse(R"({"schemaVersion":1})").status().message().find("schema version"), std::string::npos);
  EXPECT_NE(Index::parse(R"({"manifests":[{"digest":"md5:1","size":1}]})").status().message().find("manifests[0]"),
            std::string::npos);
  EXPECT_FALSE(Config::parse(R"({"rootfs":{"diff_ids":["x"]}})").is_ok());
  EXPECT_FALSE(parse_saved_images("[{}]").is_ok());
  EXPECT_FALSE(Manifest::parse(std::string(100, '[')).is_ok());
}

TEST(Manifest, EncryptedLayersAreRefused) {
  const std::string digest = digest_of("x").to_string();
  const std::string text =
      R"({"config":{"digest":")" + digest +
      R"(","size":1},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip+encrypted","digest":")" +
      digest + R"(","size":1}]})";
  EXPECT_FALSE(Manifest::parse(text).is_ok());
}

TEST(Manifest, TimesAreNanosecondsSince1970) {
  EXPECT_EQ(parse_time("1970-01-01T00:00:01Z"), 1'000'000'000);
  EXPECT_EQ(parse_time("2024-01-02T03:04:05.5+01:00"), 1704161045'500'000'000);
  EXPECT_EQ(parse_time("yesterday"), 0);
  EXPECT_EQ(parse_time("9999-01-02T03:04:05Z"), 0);
}

}  // namespace
}  // namespace pintle::images
