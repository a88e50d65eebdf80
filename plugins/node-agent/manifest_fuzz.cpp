// Any text as a Pod manifest: it is read or refused, and what was read survives as a record.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "plugins/node-agent/manifests.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Result<agent::Manifest> pods = agent::read_manifest(text, {"fuzz.yaml", "/m/fuzz.yaml", "node"});
  if (!pods) {
    if (pods.status().message().empty()) std::abort();
    return 0;
  }
  for (const agent::WantedPod& pod : pods->pods) {
    Result<agent::WantedPod> back = agent::from_record(agent::to_record(pod));
    if (!back || back->uid != pod.uid || back->key() != pod.key()) std::abort();
    // What was read is written so that it reads as the same pod.
    Result<agent::Manifest> again = agent::read_manifest(pod.yaml, {"fuzz.yaml", "/m/fuzz.yaml", "node"});
    if (!again || again->pods.size() != 1 || again->pods.front().uid != pod.uid) std::abort();
  }
  return 0;
}
