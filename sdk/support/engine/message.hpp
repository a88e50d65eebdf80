#pragma once

/// Messages as the engine keeps them while they wait: the header copied, the buffers retained, the descriptors duplicated.
/// A message that is handed on at once is never made into an `OwnedMessage`: the receiver sees the sender's own memory.

#include <pintle/abi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <pintle/status.hpp>
#include <string_view>
#include <vector>

namespace pintle::engine {

/// A view of what the sender handed over, fields that its `size` does not cover left empty. INVALID_ARGUMENT names the bound
/// that is passed.
Result<pintle_message> checked_message(const pintle_message* message);

class OwnedMessage {
 public:
  OwnedMessage() = default;
  OwnedMessage(const OwnedMessage&) = delete;
  OwnedMessage& operator=(const OwnedMessage&) = delete;
  ~OwnedMessage() { clear(); }

  /// Copies, retains, duplicates. INVALID_ARGUMENT: a descriptor is not open; RESOURCE_EXHAUSTED: too many are.
  Status assign(const pintle_message& checked);
  /// Releases what it holds, and keeps a small memory for the next one.
  void clear();
  const pintle_message& view() const { return view_; }

 private:
  static constexpr uint64_t small_header = 256;
  static constexpr uint64_t kept_header = 4096;
  pintle_message view_{sizeof(pintle_message), 0, 0, 0, nullptr, 0, nullptr, nullptr};
  uint64_t capacity_ = 0;
  std::unique_ptr<uint8_t[]> large_;
  std::vector<pintle_buffer*> buffers_;
  std::vector<int32_t> descriptors_;
  uint8_t small_[small_header];
};

/// A buffer of the host's own memory. One allocation; freed by the last release. Never null.
pintle_buffer* make_buffer(uint64_t length, uint8_t** data);
/// A buffer over bytes that end with `done(context)`.
pintle_buffer* wrap_buffer(const uint8_t* data, uint64_t length, void (*done)(void*), void* context);
/// Buffers of `make_buffer` and `wrap_buffer` that are alive, and payload bytes ever copied by the engine. For tests and metrics.
uint64_t live_buffers();
uint64_t copied_bytes();
void count_copied_bytes(uint64_t bytes);

inline std::string_view view(const pintle_text& text) { return {text.data, text.data ? text.size : 0}; }
inline pintle_text text(std::string_view from) { return {from.data(), from.size()}; }

/// Reads a status that crossed the boundary; null is OK. Messages are cut at 4 KiB.
Status read_status(const pintle_status* status);

}  // namespace pintle::engine
