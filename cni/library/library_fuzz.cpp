#include <cstdlib>

#include "cni/library/network.hpp"
#include "cni/protocol.hpp"

/// Configurations, results, errors and cache files come from anybody: what is read is written and read back as the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle::cni;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto list = parse_network_list(text)) {
    const auto again = parse_network_list(boost::json::serialize(to_json(*list)));
    if (!again || to_json(*again) != to_json(*list)) std::abort();
  }
  if (const auto object = parse_object("input", text)) {
    static_cast<void>(status_of_error(*object));
    if (const auto result = parse_add_result(*object)) {
      for (const std::string_view version : kVersions) {
        const auto again = parse_add_result(to_json(*result, version));
        if (!again || *again != *result) std::abort();
      }
    }
  }
  if (const auto cached = read_cached(text)) {
    const auto again = read_cached(write_cached(*cached));
    if (!again || write_cached(*again) != write_cached(*cached)) std::abort();
  }
  static_cast<void>(parse_arguments(text));
  return 0;
}
