// What stands in a request's line: where it leads to, and which part of a log it asks for. Whatever it is, it is understood or refused.

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "plugins/node-agent/log_reader.hpp"
#include "sdk/support/http_server/request.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle;
  const Result<http::Target> target = http::parse_target({reinterpret_cast<const char*>(data), size});
  if (!target) return 0;
  if (target->segments.empty()) std::abort();
  constexpr int64_t now = 1'800'000'000'000'000'000;
  const Result<agent::LogQuery> query = agent::parse_log_query(target->query, now);
  if (!query && query.status().message().empty()) std::abort();
  if (query && query->limit_bytes && *query->limit_bytes == 0) std::abort();
  return 0;
}
