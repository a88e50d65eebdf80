#include <boost/json.hpp>
#include <cstddef>
#include <cstdint>

#include "cri/oci/hooks.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  boost::json::object hooks;
  const pintle::oci::HookFacts facts{{{"com.example", "yes"}}, "/bin/sh", true};
  (void)pintle::oci::add_hook({reinterpret_cast<const char*>(data), size}, facts, hooks);
  return 0;
}
