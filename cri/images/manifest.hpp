#pragma once

/// The JSON documents of images: OCI image index, manifest and config (image-spec v1), Docker's schema 2 forms of them,
/// and the `manifest.json` of `docker save`. Foreign input: every size, depth and type is checked; unknown keys are
/// ignored, as the specification asks.

#include <cstdint>
#include <map>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cri/images/digest.hpp"

namespace pintle::images {

/// No index, manifest or config is larger.
inline constexpr size_t kMaximalDocument = 8u << 20;

struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  std::string operating_system;  ///< of its platform; empty: not told
  std::string architecture;
  std::map<std::string, std::string> annotations;
};

struct Index {
  std::vector<Descriptor> manifests;
  static Result<Index> parse(std::string_view json);
};

struct Manifest {
  Descriptor config;
  std::vector<Descriptor> layers;  ///< base first
  static Result<Manifest> parse(std::string_view json);
  /// OCI's JSON; the digest of these bytes names the manifest.
  std::string to_json() const;
};

bool is_index_media_type(std::string_view media_type);
bool is_manifest_media_type(std::string_view media_type);

/// What the image's author set, and its layers.
struct Config {
  std::vector<std::string> entrypoint;
  std::vector<std::string> command;
  std::vector<std::string> environment;  ///< "NAME=value"
  std::string working_directory;
  std::string user;
  std::string stop_signal;
  std::map<std::string, std::string> labels;
  std::string architecture;
  std::string operating_system;
  int64_t created_at = 0;        ///< nanoseconds since 1970; 0: not told
  std::vector<Digest> diff_ids;  ///< digests of the uncompressed layers, base first
  static Result<Config> parse(std::string_view json);
};

/// One image of `docker save`'s manifest.json.
struct SavedImage {
  std::string config;  ///< a name in the archive
  std::vector<std::string> tags;
  std::vector<std::string> layers;  ///< names in the archive, base first
};
Result<std::vector<SavedImage>> parse_saved_images(std::string_view json);

/// This machine's architecture as images name it ("amd64", "arm64").
std::string native_architecture();

/// RFC 3339 to nanoseconds since 1970; 0 if it is none.
int64_t parse_time(std::string_view text);

}  // namespace pintle::images
