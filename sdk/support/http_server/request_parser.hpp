#pragma once

/// Reads one HTTP/1.1 request from bytes as they come (RFC 9112), with Boost.Beast's parser, which stays out of this header.
///
///     RequestParser parser(16 << 10);
///     Result<size_t> taken = parser.feed(bytes);   // what is not taken is given again, with more
///     if (parser.has_head()) Request request = parser.take_request();
///     if (parser.has_body()) parser.want_body(4 << 20);   // and feed on until is_done
///
/// Errors: INVALID_ARGUMENT is no HTTP (answer 400), RESOURCE_EXHAUSTED is too long a head (431) or body (413). After an error
/// nothing of the connection can be understood any more.

#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

#include "sdk/support/http_server/request.hpp"

namespace pintle::http {

class RequestParser {
 public:
  explicit RequestParser(size_t most_head_bytes);
  ~RequestParser();
  RequestParser(const RequestParser&) = delete;

  /// How many of the bytes were read; none while a line is incomplete. Stops behind the head until a body is wanted.
  Result<size_t> feed(std::string_view bytes);
  bool has_head() const;
  /// Head and body were read.
  bool is_done() const;
  bool has_body() const;
  /// The client waits for "100 Continue" before it sends the body.
  bool waits_for_continue() const;
  bool keeps_alive() const;
  bool is_http_1_0() const;
  /// From now on the body is read, up to this length.
  Status want_body(size_t most_bytes);

  Result<Request> take_request() const;
  std::string take_body();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pintle::http
