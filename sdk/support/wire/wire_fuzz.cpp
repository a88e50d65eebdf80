#include "sdk/support/wire/wire.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle::wire;
  pintle::Result<Frame> frame = parse_frame(std::string(reinterpret_cast<const char*>(data), size), {});
  if (!frame) return 0;
  Frame::Message message;
  frame->message(0, message);
  for (Bytes part : frame->parts) static_cast<void>(unpack(part).is_ok());
  return 0;
}
