#pragma once

/// HTTP as registries need it, over libcurl: one exchange at a time on one kept connection, with redirects followed by
/// hand so that what is meant for one host is never sent to another.
///
/// What is the same for all exchanges of a node is `TransferSettings`; what is of one exchange is `Request`. An answer
/// of any status is an answer; a Status is returned only where there is none:
///
///     UNAVAILABLE        the host cannot be reached, or the connection was cut or stalled (`Connection::was_cut`)
///     PERMISSION_DENIED  its certificate is not trusted
///     CANCELLED          `cancelled` became true
///     INVALID_ARGUMENT   a redirect that must not be followed (too many of them, from https to http), a body that is
///                        too large
///
/// A Connection is used by one thread at a time.

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::images {

/// Where requests go: what credentials are bound to.
struct Origin {
  std::string scheme;  ///< "http", "https"
  std::string host;
  std::string port;  ///< empty: the scheme's
  std::string text() const { return scheme + "://" + host + (port.empty() ? "" : ":" + port); }
  friend bool operator==(const Origin&, const Origin&) = default;
};
/// INVALID_ARGUMENT for what is no http or https URL, or has a user in it.
Result<Origin> origin_of(const std::string& url);
/// "localhost", 127.0.0.0/8 and ::1 (with or without brackets).
bool is_loopback(std::string_view host);

/// The proxies of a node; empty: none. URLs as curl takes them ("http://proxy:3128").
struct Proxies {
  std::string http;
  std::string https;
  std::string exceptions;  ///< NO_PROXY: names, ".domains" and CIDR blocks, separated by commas

  /// From HTTP_PROXY, HTTPS_PROXY and NO_PROXY, or the same names in lowercase.
  static Proxies of_environment();
};

struct TransferSettings {
  Proxies proxies;
  std::chrono::seconds connect_timeout{15};
  std::chrono::seconds stall_timeout{30};  ///< without a byte
  std::string user_agent = "pintle";
};

struct Request {
  std::string url;
  std::map<std::string, std::string> headers;
  std::string authorization;  ///< the header's value; sent to the URL's own origin only
  std::string ca_file;        ///< trusted besides the system's authorities; empty: none
  std::string form;           ///< not empty: POST of this application/x-www-form-urlencoded
  uint64_t offset = 0;        ///< Range: bytes=offset-
  size_t body_limit = 1 << 20;
  /// Takes the body of a 2xx answer in pieces; false ends the exchange (`Response::stopped`). The first call comes
  /// after `start`. Absent: the body is kept in `Response::body`, as are those of all other answers.
  std::function<bool(std::string_view)> take;
  /// Tells the status and where the body begins (of a 206's Content-Range; else 0) before the first piece.
  std::function<bool(long status, uint64_t begin)> start;
};

struct Response {
  long status = 0;
  std::map<std::string, std::string> headers;  ///< names in lowercase; the last one of a name, challenges joined
  std::string body;
  bool stopped = false;
  std::string url;  ///< the last one of the redirects

  std::string header(const std::string& name) const;
  /// Retry-After in seconds; 0: none.
  std::chrono::seconds retry_after() const;
};

class Connection {
 public:
  Connection(const TransferSettings& settings, const std::atomic<bool>& cancelled);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Result<Response> exchange(const Request& request);
  /// After a failure: the connection was there and was cut or stalled, so that trying again may help.
  bool was_cut() const { return was_cut_; }
  /// After a failure: the other side does not speak TLS.
  bool was_not_tls() const { return was_not_tls_; }

 private:
  Result<Response> exchange_once(const Request& request, const Origin& first, bool is_redirected);
  Status failure_of(int code, const Origin& origin, const char* detail);

  const TransferSettings& settings_;
  const std::atomic<bool>& cancelled_;
  void* curl_;
  bool was_cut_ = false;
  bool was_not_tls_ = false;
};

/// What an error answer tells for a person: the registry's own message (distribution-spec, "Error Codes"), or what its
/// body looks like. One line of at most 200 printable characters.
std::string explain_answer(const Response& response);

}  // namespace pintle::images
