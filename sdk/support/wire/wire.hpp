#pragma once

/// The wire between `pintled` and a child: frames on an inherited SOCK_SEQPACKET pair, one frame a packet.
///
/// A frame is a fixed head, a table of part lengths, and the parts. Parts that do not fit into 64 KiB together travel as sealed
/// memory files and are mapped by the receiver, never copied. Descriptors travel by SCM_RIGHTS: first those of the message, then
/// the memory files. Every count and length is checked before it is used; a frame that does not add up ends the connection.
///
///     head | length of part 0 | length of part 1 | ... | bytes of the inline parts, one after the other
///
/// Both ends are of one release (the child is started from the same package), but the head begins with a version all the same.

#include <pintle/abi.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <pintle/status.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/support/files/files.hpp"

namespace pintle::wire {

enum class FrameKind : uint8_t {
  hello = 1,  // to the child: what to run, and how confined
  create,     // to the child; answered by `done` with the same id, like `step` and `destroy`
  step,
  destroy,
  done,
  call,  // either way
  completion,
  cancel,
  message,  // of a stream
  credit,
  bindings,  // to the child
  ping,      // to the child's lane; answered by `pong`
  pong,
  log,  // from the child, like `condition` and `retired`
  condition,
  retired,
  log_level,  // to the child
  metrics,    // asked for by the parent, answered with one part
  ask,        // from the child: spawn, listen, listen_end; answered by `told`
  told,
  exited,  // to the child: a process that it spawned
};

enum class AskKind : uint8_t { spawn = 1, listen, listen_end };

struct FrameHead {
  uint32_t version = 1;
  FrameKind kind = FrameKind::hello;
  uint8_t mine = 0;  // `id` names a call of the sender; else one of the receiver
  uint16_t descriptors = 0;
  uint32_t parts = 0;
  uint32_t code = 0;   // a status, a step, an interface, a level
  uint32_t count = 0;  // credit
  uint32_t reserved = 0;
  uint64_t id = 0;
  uint64_t binding = 0;
  uint64_t method = 0;
  uint64_t time = 0;  // nanoseconds that remain; 0: no deadline
  uint8_t trace[16] = {};
};

inline FrameHead frame_head(FrameKind kind, uint64_t id = 0, uint32_t code = 0, uint32_t count = 0) {
  FrameHead head;
  head.kind = kind;
  head.id = id;
  head.code = code;
  head.count = count;
  return head;
}

using Bytes = std::string_view;

constexpr size_t max_inline = 64 << 10;
constexpr uint32_t max_parts = 18;

/// A frame as it was received. Parts are valid while it lives.
class Frame {
 public:
  FrameHead head;
  std::vector<Bytes> parts;
  std::vector<files::Descriptor> descriptors;

  Frame() = default;
  Frame(Frame&&) = default;
  Frame& operator=(Frame&&) = default;
  /// The message that begins at part `first` (its header, then its buffers), with the frame's descriptors. The buffers are
  /// owned by `keep`, which must outlive the view.
  struct Message {
    pintle_message view;
    std::vector<pintle_buffer*> buffers;
    std::vector<int32_t> descriptors;
    Message() = default;
    Message(const Message&) = delete;
    Message& operator=(const Message&) = delete;
    ~Message();
  };
  void message(size_t first, Message& keep);

 private:
  friend Result<Frame> parse_frame(std::string packet, std::vector<files::Descriptor> descriptors);
  struct Mapping {
    const uint8_t* data = nullptr;
    size_t size = 0;
    Mapping(const uint8_t* d, size_t s) : data(d), size(s) {}
    Mapping(Mapping&& other) noexcept : data(std::exchange(other.data, nullptr)), size(other.size) {}
    Mapping& operator=(Mapping&&) = delete;
    ~Mapping();
  };
  std::string packet_;
  std::vector<std::pair<size_t, Mapping>> mapped_;  // by part
};

/// INVALID_ARGUMENT says what does not add up.
Result<Frame> parse_frame(std::string packet, std::vector<files::Descriptor> descriptors);

/// A list of texts in one part, and back. INVALID_ARGUMENT: it does not add up.
std::string pack(const std::vector<std::string_view>& texts);
Result<std::vector<std::string>> unpack(Bytes part);

/// One end of the pair.
class Wire {
 public:
  explicit Wire(files::Descriptor socket) : socket_(std::move(socket)) {}
  int descriptor() const { return socket_.get(); }

  enum class Sent : uint8_t { yes, queued, refused };
  /// [any thread] With `wait` it blocks until the other end has room. Else what does not fit is queued; `refused`: the queue
  /// is full, because the other end does not read, or the connection is over.
  Sent send(FrameHead head, std::span<const Bytes> parts, std::span<const int32_t> descriptors, bool wait);
  /// Sends what is queued; true when nothing is left.
  bool flush();

  enum class Got : uint8_t { frame, nothing, end, broken };
  /// One thread at a time. `broken`: `why` says what is wrong with the frame.
  Got receive(Frame& frame, bool wait, std::string& why);

 private:
  struct Packet {
    std::string bytes;
    std::vector<files::Descriptor> descriptors;
  };
  bool send_now(std::span<const Bytes> pieces, std::span<const int32_t> descriptors, bool wait, int& error);
  files::Descriptor socket_;
  std::mutex lock_;
  std::deque<Packet> queue_;
  size_t queued_bytes_ = 0;
};

}  // namespace pintle::wire
