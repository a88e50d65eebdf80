#include "sdk/support/http_server/connection.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <exception>
#include <utility>

namespace pintle::http {

namespace {

using Outcome = Transport::Outcome;

constexpr size_t kReadAtOnce = 16 << 10;
constexpr size_t kLongestLine = 32 << 10;  // of what stands between the parts of a chunked body
constexpr size_t kMostLingering = 16 << 20;
constexpr std::chrono::seconds kLinger{2};
constexpr std::chrono::milliseconds kShortest{1};

std::string_view reason_of(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 422:
      return "Unprocessable Content";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 507:
      return "Insufficient Storage";
    case 503:
      return "Service Unavailable";
    default:
      return "Status";
  }
}

/// "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 section 5.6.7), whatever the locale.
std::string date() {
  constexpr const char* days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const time_t now = time(nullptr);
  tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 64> text{};
  snprintf(text.data(), text.size(), "%s, %02d %s %d %02d:%02d:%02d GMT", days[parts.tm_wday], parts.tm_mday,
           months[parts.tm_mon], parts.tm_year + 1900, parts.tm_hour, parts.tm_min, parts.tm_sec);
  return text.data();
}

/// What would end the header line is left out.
std::string one_line(std::string text) {
  std::erase_if(text, [](char c) { return c == '\r' || c == '\n' || c == '\0'; });
  return text;
}

std::string hexadecimal(size_t value) {
  std::array<char, 20> text{};
  snprintf(text.data(), text.size(), "%zx", value);
  return text.data();
}

}  // namespace

Connection::Connection(Host& host, const Limits& limits, const bool& is_crowded, UniqueFd socket,
                       std::shared_ptr<SSL_CTX> tls, std::string peer)
    : host_(host),
      limits_(limits),
      is_crowded_(is_crowded),
      transport_(std::move(socket), std::move(tls)),
      peer_(std::move(peer)) {
  idle_since_ = Clock::now();  // a handshake that lasts is no better
}

// ---- Waiting ---------------------------------------------------------------------------------------------------------------

Connection::Awaiter Connection::wait(Outcome outcome, Clock::time_point until) {
  return {*this, static_cast<uint32_t>(outcome == Outcome::wait_writable ? POLLOUT : POLLIN), until};
}

void Connection::watch(uint32_t events) {
  if (events == watched_) return;
  watch_ = Watch();
  watched_ = 0;
  if (events == 0) return;
  Result<Watch> watch = host_.watch(transport_.descriptor(), events, [this](uint32_t) { ready(); });
  if (!watch) {
    is_cut_ = true;
    return;
  }
  watch_ = std::move(*watch);
  watched_ = events;
}

void Connection::begin_wait(uint32_t events, Clock::time_point until, std::coroutine_handle<> handle) {
  waiting_ = handle;
  watch(events);
  const auto delay = std::max<std::chrono::nanoseconds>(until - Clock::now(), kShortest);
  timer_ = host_.timer(delay, [this] { end_wait(Wait::late); });
  if (is_cut_) timer_ = host_.timer(kShortest, [this] { end_wait(Wait::cut); });
}

void Connection::end_wait(Wait how) {
  if (!waiting_) return;
  timer_ = Timer();
  watch(is_monitored_ ? POLLIN : 0);
  waited_ = how;
  std::exchange(waiting_, nullptr).resume();
}

void Connection::ready() {
  if (waiting_)
    end_wait(Wait::ready);
  else
    look_for_the_end();
}

/// The client has said something while its request is served: another request, or goodbye.
void Connection::look_for_the_end() {
  std::array<char, 4096> bytes;
  size_t count = 0;
  const Outcome outcome = transport_.read(bytes.data(), bytes.size(), count);
  if (outcome == Outcome::wait_readable || outcome == Outcome::wait_writable) return;
  is_monitored_ = false;
  watch(0);
  if (outcome == Outcome::done)
    input_.append(bytes.data(), count);
  else
    gone();
}

void Connection::gone() {
  is_gone_ = true;
  if (const auto function = std::exchange(on_gone_, nullptr)) function();
}

void Connection::on_gone(std::function<void()> function) {
  on_gone_ = std::move(function);
  if (is_gone_) gone();
}

void Connection::cut() {
  is_cut_ = true;
  gone();
  // On a turn of its own: who cuts may be in the midst of its list of connections.
  if (waiting_) timer_ = host_.timer(kShortest, [this] { end_wait(Wait::cut); });
}

void Connection::wind_up() {
  is_ending_ = true;
  if (!is_serving_ || is_streaming_) cut();
}

// ---- Bytes -----------------------------------------------------------------------------------------------------------------

Task<Connection::Wait> Connection::read_some(Clock::time_point until) {
  while (true) {
    size_t count = 0;
    const size_t before = input_.size();
    input_.resize(before + kReadAtOnce);
    const Outcome outcome = transport_.read(input_.data() + before, kReadAtOnce, count);
    input_.resize(before + count);
    if (outcome == Outcome::done) co_return Wait::ready;
    if (outcome == Outcome::ended || outcome == Outcome::failed) {
      is_broken_ = true;
      co_return Wait::cut;
    }
    if (input_.empty()) input_.shrink_to_fit();
    auto waiting = wait(outcome, until);
    if (const Wait waited = co_await waiting; waited != Wait::ready) co_return waited;
  }
}

Task<bool> Connection::send(std::string bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    if (is_cut_ && is_streaming_) co_return false;
    size_t count = 0;
    const Outcome outcome = transport_.write(bytes.data() + sent, bytes.size() - sent, count);
    sent += count;
    if (outcome == Outcome::done) continue;
    if (outcome == Outcome::wait_readable || outcome == Outcome::wait_writable) {
      auto waiting = wait(outcome, Clock::now() + limits_.stall);
      if (const Wait waited = co_await waiting; waited == Wait::ready) continue;
    }
    is_broken_ = true;
    gone();
    co_return false;
  }
  co_return true;
}

Task<bool> Connection::shake_hands() {
  const Clock::time_point until = Clock::now() + limits_.handshake;
  while (true) {
    const Outcome outcome = transport_.handshake();
    if (outcome == Outcome::done) co_return true;
    if (transport_.spoke_plain_http()) {
      Answer answer{.status = 400, .body = "Client sent an HTTP request to an HTTPS server.\n", .headers = {}};
      Task<bool> sending = send(head_of(answer, false) + answer.body);
      (void)co_await std::move(sending);
      co_return false;
    }
    if (outcome == Outcome::failed || outcome == Outcome::ended) {
      is_broken_ = true;
      co_return false;
    }
    auto waiting = wait(outcome, until);
    if (const Wait waited = co_await waiting; waited != Wait::ready) {
      is_broken_ = true;
      co_return false;
    }
  }
}

// ---- Requests --------------------------------------------------------------------------------------------------------------

Task<bool> Connection::read_head() {
  parser_ = std::make_unique<RequestParser>(limits_.head_bytes);
  Clock::time_point until = Clock::now() + limits_.idle;
  idle_since_ = Clock::now();
  bool has_begun = false;
  while (true) {
    if (!input_.empty()) {
      if (!std::exchange(has_begun, true)) until = Clock::now() + limits_.head;
      idle_since_.reset();
      Result<size_t> taken = parser_->feed(input_);
      if (!taken) {
        refusal_ = taken.status().code() == Code::resource_exhausted ? 431 : 400;
        refusal_text_ = taken.status().message();
        co_return false;
      }
      input_.erase(0, *taken);
      if (parser_->has_head()) break;
      if (input_.size() > limits_.head_bytes) {
        refusal_ = 431;
        refusal_text_ = "the head of the request is too long";
        co_return false;
      }
    }
    Task<Wait> reading = read_some(until);
    const Wait read = co_await std::move(reading);
    if (read == Wait::ready) continue;
    if (read == Wait::late && has_begun) {
      refusal_ = 408;
      refusal_text_ = "the head of the request did not come in time";
    }
    co_return false;
  }
  Result<Request> request = parser_->take_request();
  if (!request) {
    refusal_ = 400;
    refusal_text_ = request.status().message();
    co_return false;
  }
  request_ = std::move(*request);
  request_.peer = peer_;
  request_.client = transport_.client();
  request_.certificate_problem = transport_.certificate_problem();
  keeps_alive_ = parser_->keeps_alive();
  is_head_request_ = request_.method == "HEAD";
  co_return true;
}

Task<Result<std::string>> Connection::body(size_t most_bytes) {
  if (!parser_->has_body()) co_return std::string();
  if (Status wanted = parser_->want_body(std::min(most_bytes, limits_.body_bytes)); !wanted) co_return wanted;
  const Clock::time_point until = Clock::now() + limits_.body;
  if (parser_->waits_for_continue() && input_.empty()) {
    Task<bool> sending = send("HTTP/1.1 100 Continue\r\n\r\n");
    if (const bool sent = co_await std::move(sending); !sent) co_return cancelled("the client is gone");
  }
  while (true) {
    Result<size_t> taken = parser_->feed(input_);
    if (!taken) {
      keeps_alive_ = false;
      co_return taken.status();
    }
    input_.erase(0, *taken);
    if (parser_->is_done()) break;
    if (input_.size() > kLongestLine) co_return invalid_argument("a line within the body is too long");
    Task<Wait> reading = read_some(until);
    const Wait read = co_await std::move(reading);
    if (read == Wait::ready) continue;
    keeps_alive_ = false;
    co_return cancelled(read == Wait::late ? "the body did not come in time" : "the client went away within the body");
  }
  is_monitored_ = input_.empty();
  if (is_monitored_) watch(POLLIN);
  co_return parser_->take_body();
}

std::string Connection::head_of(const Answer& answer, bool streams) {
  std::string head = "HTTP/1.1 " + std::to_string(answer.status) + " " + std::string(reason_of(answer.status)) +
                     "\r\nDate: " + date() + "\r\n";
  if (!answer.type.empty()) head += "Content-Type: " + one_line(answer.type) + "\r\n";
  for (const auto& [name, value] : answer.headers) head += one_line(name) + ": " + one_line(value) + "\r\n";
  if (!streams)
    head += "Content-Length: " + std::to_string(answer.body.size()) + "\r\n";
  else if (is_chunked_)
    head += "Transfer-Encoding: chunked\r\n";
  if (!keeps_alive_) head += "Connection: close\r\n";
  return head + "\r\n";
}

Task<Status> Connection::answer(Answer answer) {
  if (has_answered_) co_return failed_precondition("the request has been answered");
  has_answered_ = true;
  // What is left of a body that nobody wanted would be read as the next request.
  if (answer.close || is_ending_ || is_crowded_ || (parser_ && parser_->has_head() && !parser_->is_done()))
    keeps_alive_ = false;
  std::string bytes = head_of(answer, false);
  if (!is_head_request_) bytes += answer.body;
  Task<bool> sending = send(std::move(bytes));
  if (const bool sent = co_await std::move(sending); !sent) co_return cancelled("the client is gone");
  co_return Status::ok();
}

Task<Status> Connection::begin(Answer head) {
  if (has_answered_) co_return failed_precondition("the request has been answered");
  has_answered_ = true;
  is_streaming_ = true;
  is_chunked_ = !parser_->is_http_1_0();
  if (head.close || is_crowded_ || !is_chunked_ || !parser_->is_done()) keeps_alive_ = false;
  Task<bool> sending = send(head_of(head, true));
  if (const bool sent = co_await std::move(sending); !sent) co_return cancelled("the client is gone");
  Task<Status> writing = write(std::move(head.body));
  co_return co_await std::move(writing);
}

Task<Status> Connection::write(std::string part) {
  if (is_gone_) co_return cancelled("the client is gone");
  if (part.empty() || is_head_request_) co_return Status::ok();
  if (is_chunked_) part = hexadecimal(part.size()) + "\r\n" + part + "\r\n";
  Task<bool> sending = send(std::move(part));
  if (const bool sent = co_await std::move(sending); !sent) co_return cancelled("the client is gone");
  co_return Status::ok();
}

/// Ends the answer, or gives one where the handler has not.
Task<void> Connection::finish(bool has_thrown) {
  on_gone_ = nullptr;
  is_monitored_ = false;
  watch(0);
  if (!has_answered_) {
    Answer nothing{.status = 500, .body = "the request could not be served: see the log of the node\n", .headers = {}};
    Task<Status> answering = answer(std::move(nothing));
    (void)co_await std::move(answering);
    co_return;
  }
  if (!is_streaming_) co_return;
  if (has_thrown || is_aborted_ || is_gone_) {
    is_broken_ = true;
    co_return;
  }
  if (!is_chunked_ || is_head_request_) co_return;
  Task<bool> sending = send("0\r\n\r\n");
  (void)co_await std::move(sending);
}

/// What the client still sends is read for a moment, so that the kernel does not reset the connection before it has our answer.
Task<void> Connection::close() {
  watch(0);
  if (is_broken_) co_return;
  transport_.finish_writing();
  const Clock::time_point until = Clock::now() + kLinger;
  for (size_t read = 0; read < kMostLingering && !is_cut_;) {
    input_.clear();
    Task<Wait> reading = read_some(until);
    if (const Wait waited = co_await std::move(reading); waited != Wait::ready) co_return;
    read += input_.size();
  }
}

Task<void> Connection::serve(std::shared_ptr<Connection> self, const Handler& handler) {
  Connection& connection = *self;
  if (connection.transport_.is_encrypted()) {
    Task<bool> shaking = connection.shake_hands();
    if (const bool shaken = co_await std::move(shaking); !shaken) {
      Task<void> closing = connection.close();
      co_await std::move(closing);
      co_return;
    }
  }
  do {
    Task<bool> reading = connection.read_head();
    const bool has_request = co_await std::move(reading);
    connection.idle_since_.reset();
    connection.has_answered_ = connection.is_streaming_ = connection.is_chunked_ = false;
    if (!has_request) {
      connection.keeps_alive_ = connection.is_head_request_ = false;
      if (connection.refusal_ == 0) break;
      Answer refusal{.status = connection.refusal_, .body = connection.refusal_text_ + "\n", .headers = {}};
      refusal.close = true;
      Task<Status> answering = connection.answer(std::move(refusal));
      (void)co_await std::move(answering);
      break;
    }
    if (connection.parser_->is_done() && connection.input_.empty()) {
      connection.is_monitored_ = true;
      connection.watch(POLLIN);
    }
    bool has_thrown = false;
    connection.is_serving_ = true;
    try {
      Task<void> handling = handler(connection);
      co_await std::move(handling);
    } catch (const std::exception& error) {
      has_thrown = true;
      connection.host_.error("a request ended by an exception",
                             {{"path", connection.request_.path}, {"what", error.what()}});
    }
    Task<void> finishing = connection.finish(has_thrown);
    co_await std::move(finishing);
    connection.is_serving_ = false;
    connection.parser_.reset();
    connection.request_ = Request();
  } while (connection.keeps_alive_ && !connection.is_ending_ && !connection.is_cut_ && !connection.is_broken_ &&
           !connection.is_gone_);
  Task<void> closing = connection.close();
  co_await std::move(closing);
}

}  // namespace pintle::http
