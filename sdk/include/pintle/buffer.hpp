#pragma once

/// Owners for what crosses the boundary: `Buffer` shares immutable bytes, `UniqueFd` owns a descriptor.

#include <pintle/abi.h>
#include <unistd.h>

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pintle {

/// A shared owner of a `pintle_buffer`. Copying retains, never copies bytes. Any thread.
class Buffer {
 public:
  Buffer() = default;
  /// Takes over one reference.
  static Buffer adopt(pintle_buffer* raw) { return Buffer(raw); }
  /// Adds a reference to a borrowed buffer.
  static Buffer share(pintle_buffer* raw) {
    if (raw) raw->retain(raw);
    return Buffer(raw);
  }
  /// Bytes of its own, moved in; freed by the last release.
  static Buffer from(std::string bytes);

  Buffer(const Buffer& other) : raw_(other.raw_) {
    if (raw_) raw_->retain(raw_);
  }
  Buffer(Buffer&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  ~Buffer() {
    if (raw_) raw_->release(raw_);
  }

  explicit operator bool() const { return raw_ != nullptr; }
  std::span<const uint8_t> bytes() const {
    return raw_ ? std::span<const uint8_t>(raw_->data, raw_->length) : std::span<const uint8_t>();
  }
  std::string_view text() const {
    return raw_ ? std::string_view(reinterpret_cast<const char*>(raw_->data), raw_->length) : std::string_view();
  }
  pintle_buffer* get() const { return raw_; }

 private:
  explicit Buffer(pintle_buffer* raw) : raw_(raw) {}
  pintle_buffer* raw_ = nullptr;
};

/// Owns one file descriptor and closes it.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { reset(); }
  void reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// What travels beside a message's header.
struct Attachments {
  std::vector<Buffer> buffers;
  std::vector<UniqueFd> descriptors;
};

inline std::string_view view(pintle_text text) {
  return text.size ? std::string_view(text.data, text.size) : std::string_view();
}
inline pintle_text text_of(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace pintle
