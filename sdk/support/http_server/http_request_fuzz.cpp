// Requests, in pieces as a network brings them: whatever comes, it is a request or an error, and what is taken is not read twice.

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "sdk/support/http_server/request_parser.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle::http;
  if (size == 0) return 0;
  const size_t piece = 1 + data[0] % 64;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  RequestParser parser(4096);
  std::string input;
  for (size_t at = 0; at < text.size() && !parser.is_done();) {
    const std::string_view next = text.substr(at, piece);
    at += next.size();
    input += next;
    pintle::Result<size_t> taken = parser.feed(input);
    if (!taken) return 0;
    if (*taken > input.size()) abort();
    input.erase(0, *taken);
    if (!parser.has_head()) continue;
    if (pintle::Result<Request> request = parser.take_request(); request) {
      (void)request->parameter("follow");
      (void)request->header("content-type");
      if (request->segments.empty()) abort();
    }
    if (parser.has_body() && !parser.want_body(1 << 16)) return 0;
  }
  if (parser.is_done() && parser.take_body().size() > 1 << 16) abort();
  (void)parse_target(text);
  return 0;
}
