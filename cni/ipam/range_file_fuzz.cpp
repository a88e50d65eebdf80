#include <cstdlib>

#include "cni/ipam/address_pool.hpp"

/// Whatever is read as a range's file is written and read back as the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = pintle::cni::read_range_file({reinterpret_cast<const char*>(data), size});
  if (!file) return 0;
  const auto again = pintle::cni::read_range_file(pintle::cni::write_range_file(*file));
  if (!again || again->held != file->held || again->last != file->last) std::abort();
  return 0;
}
