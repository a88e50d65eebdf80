#pragma once

/// One HTTP/1.1 connection, a coroutine. Internal to the server.

#include <chrono>
#include <coroutine>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "sdk/support/http_server/http_server.hpp"
#include "sdk/support/http_server/request_parser.hpp"
#include "sdk/support/http_server/tls.hpp"

namespace pintle::http {

class Connection final : public Exchange {
 public:
  using Clock = std::chrono::steady_clock;

  /// `is_crowded`: others wait for a connection, so none is kept for a next request.
  Connection(Host& host, const Limits& limits, const bool& is_crowded, UniqueFd socket, std::shared_ptr<SSL_CTX> tls,
             std::string peer);
  ~Connection() override = default;

  /// Its whole life.
  static Task<void> serve(std::shared_ptr<Connection> self, const Handler& handler);
  /// Ends it: what it waits for fails from now on, and its handler is told that the client is gone.
  void cut();
  /// Ends it behind the answer that is under way; at once if there is none, or one without an end.
  void wind_up();
  /// Since when it waits for a handshake or a request; nothing while it serves one.
  std::optional<Clock::time_point> idle_since() const { return idle_since_; }

  const Request& request() const override { return request_; }
  Task<Result<std::string>> body(size_t most_bytes) override;
  Task<Status> answer(Answer answer) override;
  Task<Status> begin(Answer head) override;
  Task<Status> write(std::string part) override;
  void abort() override { is_aborted_ = true; }
  bool is_gone() const override { return is_gone_; }
  void on_gone(std::function<void()> function) override;

 private:
  enum class Wait { ready, late, cut };
  struct Awaiter {
    Connection& connection;
    uint32_t events;
    Clock::time_point until;
    bool await_ready() const { return connection.is_cut_; }
    void await_suspend(std::coroutine_handle<> handle) { connection.begin_wait(events, until, handle); }
    Wait await_resume() const { return connection.is_cut_ ? Wait::cut : connection.waited_; }
  };
  Awaiter wait(Transport::Outcome outcome, Clock::time_point until);
  void begin_wait(uint32_t events, Clock::time_point until, std::coroutine_handle<> handle);
  void end_wait(Wait how);
  void watch(uint32_t events);
  void ready();
  void look_for_the_end();
  void gone();

  Task<bool> shake_hands();
  /// The next request. False ends the connection, after an answer where `refusal_` is set.
  Task<bool> read_head();
  Task<Wait> read_some(Clock::time_point until);
  Task<bool> send(std::string bytes);
  Task<void> finish(bool has_thrown);
  Task<void> close();
  std::string head_of(const Answer& answer, bool streams);

  Host& host_;
  const Limits& limits_;
  const bool& is_crowded_;
  Transport transport_;
  std::string peer_;
  std::string input_;  ///< read, and not understood yet
  std::unique_ptr<RequestParser> parser_;
  Request request_;
  int refusal_ = 0;  ///< the HTTP status for what cannot be understood
  std::string refusal_text_;
  std::optional<Clock::time_point> idle_since_;

  bool is_cut_ = false, is_gone_ = false, is_broken_ = false, is_ending_ = false, is_serving_ = false;
  bool is_monitored_ = false;  ///< while a handler runs, it is told when the client goes
  bool has_answered_ = false, is_streaming_ = false, is_chunked_ = false, is_aborted_ = false;
  bool keeps_alive_ = false, is_head_request_ = false;
  std::function<void()> on_gone_;

  std::coroutine_handle<> waiting_;
  Wait waited_ = Wait::ready;
  Watch watch_;
  uint32_t watched_ = 0;
  Timer timer_;
};

}  // namespace pintle::http
