#include <cstdlib>

#include "cni/bridge/attachments.hpp"

/// Anybody may write a link's alias, and a record may be damaged in any way: what is read is written and read back as the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle::bridge;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)read_mark(text);
  const auto record = read_record(text);
  if (!record) return 0;
  const auto again = read_record(write_record(*record));
  if (!again || again->result() != record->result()) std::abort();
  return 0;
}
