#include "sdk/support/engine/message.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>

namespace pintle::engine {
namespace {

std::atomic<uint64_t> buffers_alive{0};
std::atomic<uint64_t> bytes_copied{0};

struct HostBuffer : pintle_buffer {
  std::atomic<uint64_t> references{1};
  void (*done)(void*) = nullptr;
  void* context = nullptr;
};

void retain(pintle_buffer* buffer) {
  static_cast<HostBuffer*>(buffer)->references.fetch_add(1, std::memory_order_relaxed);
}

void release(pintle_buffer* buffer) {
  auto* mine = static_cast<HostBuffer*>(buffer);
  if (mine->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (mine->done != nullptr) mine->done(mine->context);
  mine->~HostBuffer();
  ::operator delete(static_cast<void*>(mine));
  buffers_alive.fetch_sub(1, std::memory_order_relaxed);
}

HostBuffer* allocate(uint64_t extra) {
  auto* buffer = new (::operator new(sizeof(HostBuffer) + extra)) HostBuffer;
  buffer->size = sizeof(pintle_buffer);
  buffer->flags = 0;
  buffer->retain = retain;
  buffer->release = release;
  buffers_alive.fetch_add(1, std::memory_order_relaxed);
  return buffer;
}

}  // namespace

Result<pintle_message> checked_message(const pintle_message* message) {
  pintle_message out{sizeof(pintle_message), 0, 0, 0, nullptr, 0, nullptr, nullptr};
  if (message == nullptr) return out;
  if (message->size < sizeof(pintle_message)) return invalid_argument("message: size is below that of pintle_message");
  if (message->header_size > PINTLE_MAX_HEADER)
    return invalid_argument("message: the header is larger than 4 MiB; use a buffer");
  if (message->header_size != 0 && message->header == nullptr) return invalid_argument("message: the header is null");
  if (message->buffer_count > PINTLE_MAX_BUFFERS) return invalid_argument("message: more than 16 buffers");
  if (message->descriptor_count > PINTLE_MAX_DESCRIPTORS) return invalid_argument("message: more than 16 descriptors");
  if ((message->buffer_count != 0 && message->buffers == nullptr) ||
      (message->descriptor_count != 0 && message->descriptors == nullptr))
    return invalid_argument("message: a count without its array");
  for (uint32_t i = 0; i < message->buffer_count; ++i) {
    const pintle_buffer* buffer = message->buffers[i];
    if (buffer == nullptr || buffer->size < sizeof(pintle_buffer) || buffer->retain == nullptr ||
        buffer->release == nullptr || (buffer->length != 0 && buffer->data == nullptr))
      return invalid_argument("message: a buffer without its functions or data");
  }
  out = *message;
  out.size = sizeof(pintle_message);
  return out;
}

Status OwnedMessage::assign(const pintle_message& checked) {
  clear();
  for (uint32_t i = 0; i < checked.descriptor_count; ++i) {
    const int copy = fcntl(checked.descriptors[i], F_DUPFD_CLOEXEC, 3);
    if (copy < 0) {
      const bool bad = errno == EBADF;
      clear();
      return bad ? invalid_argument("message: a descriptor is not open")
                 : resource_exhausted("message: too many descriptors are open");
    }
    descriptors_.push_back(copy);
  }
  uint8_t* header = small_;
  if (checked.header_size > small_header) {
    if (capacity_ < checked.header_size) {
      large_.reset(new uint8_t[checked.header_size]);
      capacity_ = checked.header_size;
    }
    header = large_.get();
  }
  if (checked.header_size != 0) std::memcpy(header, checked.header, checked.header_size);
  for (uint32_t i = 0; i < checked.buffer_count; ++i) {
    checked.buffers[i]->retain(checked.buffers[i]);
    buffers_.push_back(checked.buffers[i]);
  }
  view_ = checked;
  view_.header = header;
  view_.buffers = buffers_.data();
  view_.descriptors = descriptors_.data();
  return {};
}

void OwnedMessage::clear() {
  for (pintle_buffer* buffer : buffers_) buffer->release(buffer);
  for (int32_t descriptor : descriptors_) close(descriptor);
  buffers_.clear();
  descriptors_.clear();
  if (capacity_ > kept_header) {
    large_.reset();
    capacity_ = 0;
  }
  view_ = {sizeof(pintle_message), 0, 0, 0, nullptr, 0, nullptr, nullptr};
}

pintle_buffer* make_buffer(uint64_t length, uint8_t** data) {
  HostBuffer* buffer = allocate(length);
  *data = reinterpret_cast<uint8_t*>(buffer + 1);
  buffer->data = *data;
  buffer->length = length;
  return buffer;
}

pintle_buffer* wrap_buffer(const uint8_t* data, uint64_t length, void (*done)(void*), void* context) {
  HostBuffer* buffer = allocate(0);
  buffer->data = data;
  buffer->length = length;
  buffer->done = done;
  buffer->context = context;
  return buffer;
}

uint64_t live_buffers() { return buffers_alive.load(std::memory_order_relaxed); }
uint64_t copied_bytes() { return bytes_copied.load(std::memory_order_relaxed); }
void count_copied_bytes(uint64_t bytes) { bytes_copied.fetch_add(bytes, std::memory_order_relaxed); }

Status read_status(const pintle_status* status) {
  if (status == nullptr || status->code == PINTLE_OK) return {};
  const uint32_t code = status->code <= PINTLE_UNAUTHENTICATED ? status->code : static_cast<uint32_t>(PINTLE_UNKNOWN);
  std::string_view message;
  if (status->size >= sizeof(pintle_status)) message = view(status->message).substr(0, 4096);
  return {static_cast<Code>(code), std::string(message)};
}

}  // namespace pintle::engine
