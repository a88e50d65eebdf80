#include <atomic>
#include <pintle/buffer.hpp>

namespace pintle {
namespace {

struct StringBuffer {
  pintle_buffer buffer;  // first, so that the pointer to it is the pointer to all
  std::atomic<uint32_t> references{1};
  std::string bytes;
};

void retain(pintle_buffer* raw) {
  reinterpret_cast<StringBuffer*>(raw)->references.fetch_add(1, std::memory_order_relaxed);
}

void release(pintle_buffer* raw) {
  auto* self = reinterpret_cast<StringBuffer*>(raw);
  if (self->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete self;
}

}  // namespace

Buffer Buffer::from(std::string bytes) {
  auto* made = new StringBuffer;
  made->bytes = std::move(bytes);
  made->buffer = {sizeof(pintle_buffer), 0,      reinterpret_cast<const uint8_t*>(made->bytes.data()),
                  made->bytes.size(),    retain, release};
  return adopt(&made->buffer);
}

}  // namespace pintle
