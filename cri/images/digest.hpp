#pragma once

/// Content digests (OCI image spec, "Descriptor", section Digests): only sha256, which every registry and tool writes.

#include <cstdint>
#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::images {

/// "sha256:" and 64 lowercase hexadecimal digits.
class Digest {
 public:
  Digest() = default;
  /// INVALID_ARGUMENT for anything but a well-formed sha256 digest.
  static Result<Digest> parse(std::string_view text);
  /// `hex` is known to be 64 lowercase hexadecimal digits.
  static Digest of_hex(std::string hex);

  bool empty() const { return hex_.empty(); }
  const std::string& hex() const { return hex_; }
  std::string to_string() const { return "sha256:" + hex_; }
  friend auto operator<=>(const Digest&, const Digest&) = default;

 private:
  std::string hex_;
};

/// SHA-256 of a stream.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  void update(const void* data, size_t size);
  void update(std::string_view text) { update(text.data(), text.size()); }
  /// The digest of all that was given; once.
  Digest finish();

 private:
  void* context_;
};

Digest digest_of(std::string_view bytes);
/// Of the whole file from its beginning; the position is not moved.
Result<Digest> digest_of_file(int fd);

/// True for 64 lowercase hexadecimal digits.
bool is_sha256_hex(std::string_view text);

}  // namespace pintle::images
