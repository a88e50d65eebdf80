// What a parsed reference says of itself parses to the same reference again.
#include <cstdlib>

#include "cri/images/reference.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using pintle::images::Reference;
  auto first = Reference::parse({reinterpret_cast<const char*>(data), size});
  if (!first) return 0;
  auto second = Reference::parse(first->to_string());
  if (!second || !(*second == *first)) std::abort();
  return 0;
}
