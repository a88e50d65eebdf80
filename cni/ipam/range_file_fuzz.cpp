#include <cstdlib>

#include "cni/ipam/address_pool.hpp"

/// Whatever is read as a range's file, written anew without what cancels out, is read as the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  size_t used = 0;
  const auto file = pintle::cni::read_range_file({reinterpret_cast<const char*>(data), size}, used);
  if (!file) return 0;
  std::string text = pintle::cni::first_line(file->subnet, file->boot);
  for (const auto& [address, owner] : file->held) text += pintle::cni::allocation_line(address, owner);
  const auto again = pintle::cni::read_range_file(text, used);
  if (!again || again->held != file->held || used != text.size()) std::abort();
  return 0;
}
