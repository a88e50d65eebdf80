// What containers answer to probes: whatever they send, it is judged, and what people see of it is presentable.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "plugins/node-agent/probe_answers.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace pintle::agent;
  const std::string_view input(reinterpret_cast<const char*>(bytes), size);
  const std::string_view head = input.substr(0, 4), rest = input.substr(head.size());
  const auto check = [](const ProbeAnswer& answer) {
    for (const char c : answer.message)
      if (static_cast<unsigned char>(c) < 0x20) std::abort();
    if (answer.message.size() > 2048) std::abort();
  };
  check(judge_grpc(200, rest, "0", ""));
  check(judge_grpc(200, rest, head, rest));
  check(judge_http(head.empty() ? 0 : static_cast<uint8_t>(head[0]) * 4, rest));
  check(judge_exec(static_cast<int>(size % 2), rest));
  return 0;
}
