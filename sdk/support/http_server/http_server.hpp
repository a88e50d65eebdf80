#pragma once

/// An HTTP server on a plugin's lane, with or without TLS and client certificates.
///
/// It has no thread: sockets are watched by the host, and each connection is a coroutine that costs a few hundred bytes while it
/// waits. The listening sockets are the host's, so that a restart refuses no connect. HTTP/1.1 with keep-alive (RFC 9112); nothing of
/// that shows to handlers, so another version can be served beside it.
///
///     Server server(host, {.tls = true}, [](Exchange& exchange) { return answer(exchange); });
///     server.set_certificate({.certificate = pem, .key = pem, .client_authority = pem});
///     server.listen(std::move(socket));
///     ...
///     co_await server.stop();
///
/// A connection:
///
///     accepted --handshake--> idle --first byte--> head --> handler runs <--> body, answer --> idle again
///        |          |           |                   |          |                               (or closed)
///        +----------+-----------+---- too slow -----+          +-- client gone, or the server stops: `on_gone`
///
/// Bounds (`Limits`). Whoever is too slow is cut off; when all connections are taken, the one that has waited longest for a
/// handshake or a request makes room, else the next ones wait in the kernel's queue. A write is accepted when the kernel has it: a
/// client that does not read holds its handler, and nothing piles up.
///
/// Client certificates are asked for and never required: who a client is stands in `Request::client`, and the handler decides. A
/// certificate that does not hold is told there as well, instead of a broken handshake that nobody understands.
///
/// All on the plugin's lane.

#include <chrono>
#include <functional>
#include <memory>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <string>
#include <utility>
#include <vector>

#include "sdk/support/http_server/request.hpp"

namespace pintle::http {

struct Answer {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  ///< besides Content-Type, Content-Length and Date
  bool close = false;                                        ///< the connection ends with this answer
};

/// One request and its answer. Lives until the handler's task has ended.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual const Request& request() const = 0;
  /// The whole body; RESOURCE_EXHAUSTED if it is longer than this or than the server's limit, INVALID_ARGUMENT if it is
  /// broken, CANCELLED if it does not come.
  virtual Task<Result<std::string>> body(size_t most_bytes) = 0;
  /// The whole answer.
  virtual Task<Status> answer(Answer answer) = 0;
  /// The head of an answer (`body` is its beginning); its parts follow by `write`, until the handler ends.
  virtual Task<Status> begin(Answer head) = 0;
  /// Completes when the client has taken so much that there is room for this. CANCELLED: it is gone.
  virtual Task<Status> write(std::string part) = 0;
  /// The answer ends in the middle: the client shall see that it is not whole.
  virtual void abort() = 0;
  /// The client went away, or the server stops.
  virtual bool is_gone() const = 0;
  /// Runs when it does; at once if it has.
  virtual void on_gone(std::function<void()> function) = 0;
};

using Handler = std::function<Task<void>(Exchange&)>;

struct Limits {
  size_t connections = 128;
  size_t head_bytes = 16 << 10;
  size_t body_bytes = 8 << 20;
  std::chrono::nanoseconds handshake = std::chrono::seconds(10);
  std::chrono::nanoseconds head = std::chrono::seconds(10);   ///< from its first byte to its last
  std::chrono::nanoseconds body = std::chrono::seconds(60);   ///< the same of a body
  std::chrono::nanoseconds idle = std::chrono::seconds(60);   ///< between two requests
  std::chrono::nanoseconds stall = std::chrono::seconds(30);  ///< how long a client may take nothing of its answer
};

struct ServerSettings {
  bool tls = false;
  Limits limits;
};

/// All PEM. With an empty `client_authority` no certificate is asked for.
struct TlsMaterial {
  std::string certificate;  ///< with those between it and its authority
  std::string key;
  std::string client_authority;
};

class Server {
 public:
  Server(Host& host, ServerSettings settings, Handler handler);
  ~Server();
  Server(const Server&) = delete;

  /// What new connections are greeted with; those that are open keep what they have. FAILED_PRECONDITION: it does not fit together.
  Status set_certificate(const TlsMaterial& material);
  /// Accepts on a listening socket from now on. With TLS a certificate must be there.
  Status listen(UniqueFd socket);
  /// Accepts no more, and completes when all connections have ended: idle ones and streams at once, answers that are under way
  /// within a second. Must have completed before the server goes, unless nobody ever connected.
  Task<void> stop();

  size_t connections() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace pintle::http
