#include "sdk/support/http_server/request_parser.hpp"

#include <algorithm>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

namespace pintle::http {

namespace beast = boost::beast::http;

namespace {

// One byte less, and Beast takes the limit of the header for the limit of a line.
constexpr size_t kShortestLastChunk = 5;  // "0\r\n\r\n"

Status status_of(const boost::system::error_code& error) {
  if (error == beast::error::header_limit || error == beast::error::buffer_overflow)
    return resource_exhausted("the head of the request is too long");
  return invalid_argument("this is not an HTTP request: " + error.message());
}

}  // namespace

struct RequestParser::State {
  beast::request_parser<beast::string_body> parser;
  size_t most_body = 0;
  bool wants_body = false;
};

RequestParser::RequestParser(size_t most_head_bytes) : state_(std::make_unique<State>()) {
  state_->parser.header_limit(static_cast<uint32_t>(most_head_bytes));
  state_->parser.body_limit(boost::none);  // judged here, when it is known who asks
  state_->parser.eager(false);
}
RequestParser::~RequestParser() = default;

Result<size_t> RequestParser::feed(std::string_view bytes) {
  auto& parser = state_->parser;
  size_t taken = 0;
  while (taken < bytes.size() && !parser.is_done() && !(parser.is_header_done() && !state_->wants_body)) {
    // Beast takes it for granted that the last chunk comes with its end. So much follows wherever a chunked body has not ended.
    if (parser.is_header_done() && parser.chunked() && bytes.size() - taken < kShortestLastChunk) break;
    boost::system::error_code error;
    const size_t count = parser.put(boost::asio::buffer(bytes.data() + taken, bytes.size() - taken), error);
    taken += count;
    if (state_->wants_body && parser.get().body().size() > state_->most_body)
      return resource_exhausted("the body is longer than " + std::to_string(state_->most_body) + " bytes");
    if (error == beast::error::need_more || (!error && count == 0)) break;
    if (error) return status_of(error);
  }
  return taken;
}

bool RequestParser::has_head() const { return state_->parser.is_header_done(); }
bool RequestParser::is_done() const { return state_->parser.is_done() || (has_head() && !has_body()); }
bool RequestParser::has_body() const {
  const auto length = state_->parser.content_length();
  return state_->parser.chunked() || (length && *length > 0);
}
bool RequestParser::waits_for_continue() const {
  return beast::token_list(state_->parser.get()[beast::field::expect]).exists("100-continue") && !is_done();
}
bool RequestParser::keeps_alive() const { return state_->parser.get().keep_alive(); }
bool RequestParser::is_http_1_0() const { return state_->parser.get().version() < 11; }

Status RequestParser::want_body(size_t most_bytes) {
  const auto length = state_->parser.content_length();
  if (length && *length > most_bytes)
    return resource_exhausted("the body has " + std::to_string(*length) + " bytes, more than " +
                              std::to_string(most_bytes));
  state_->most_body = most_bytes;
  state_->wants_body = true;
  state_->parser.eager(true);
  return Status::ok();
}

Result<Request> RequestParser::take_request() const {
  const auto& message = state_->parser.get();
  Result<Target> target = parse_target(std::string_view(message.target().data(), message.target().size()));
  if (!target) return target.status();
  Request request;
  static_cast<Target&>(request) = std::move(*target);
  request.method = std::string(message.method_string());
  for (const auto& field : message) {
    std::string name(field.name_string());
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  if (message.version() >= 11 && !request.header("host")) return invalid_argument("the request has no Host header");
  return request;
}

std::string RequestParser::take_body() { return std::move(state_->parser.get().body()); }

}  // namespace pintle::http
