// What reaches the engine from outside: requests (their checks must hold for any message) and record files.

#include <cstdint>
#include <string_view>

#include "cri/containers.hpp"
#include "cri/node_files.hpp"
#include "cri/records.hpp"
#include "cri/sandboxes.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle::cri;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const pintle::Result<std::string> payload = unframe_record(bytes); payload) {
    SandboxRecord record;
    (void)record.ParseFromString(*payload);
  }
  api::RunPodSandboxRequest pod;
  if (pod.ParseFromArray(data, static_cast<int>(size))) {
    const pintle::Status good = check_sandbox_config(pod.config());
    // What was let through must not be able to write a line of its own.
    if (good) {
      const std::string text = resolv_conf_text(pod.config().dns_config());
      size_t lines = 0;
      for (const char c : text) lines += c == '\n' ? 1 : 0;
      const auto& dns = pod.config().dns_config();
      const size_t expected = static_cast<size_t>(dns.servers_size()) + (dns.searches_size() > 0 ? 1 : 0) +
                              (dns.options_size() > 0 ? 1 : 0);
      if (lines != expected) __builtin_trap();
    }
  }
  api::CreateContainerRequest container;
  if (container.ParseFromArray(data, static_cast<int>(size)))
    (void)check_container_config(container.config(), pod.config());
  return 0;
}
