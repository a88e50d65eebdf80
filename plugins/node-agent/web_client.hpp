#pragma once

/// HTTP/1.1, HTTP/2 without TLS, and plain TCP connects from the agent's lane, without a thread that waits: libcurl's multi interface
/// over the host's timers and watched descriptors.
///
///     WebRequest request{.url = "http://10.85.0.7:8080/healthz", .timeout = 1s};
///     Task<Result<WebAnswer>> fetching = client.fetch(std::move(request));
///     Result<WebAnswer> answer = co_await std::move(fetching);      // UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED, or an answer
///
/// Redirects are answers: who wants to follow one asks again. All on the plugin's lane.

#include <chrono>
#include <map>
#include <memory>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <string>
#include <utility>
#include <vector>

namespace pintle::agent {

struct WebRequest {
  std::string url;
  std::vector<std::pair<std::string, std::string>> headers;
  std::chrono::nanoseconds timeout = std::chrono::seconds(1);
  std::string post;           ///< a body: POST instead of GET
  bool http2 = false;         ///< without TLS and without asking first, as gRPC speaks
  bool connect_only = false;  ///< only the TCP connection is made, and closed
  bool verify = true;         ///< the certificate of https
  std::string authority;      ///< file of certificates that are trusted instead of the node's own
  size_t most_body = 10 << 10;
  bool may_cut = false;  ///< a longer body is cut, else it is an error
};

struct WebAnswer {
  int status = 0;
  std::string body;
  std::map<std::string, std::string> headers;  ///< lower-case names; trailers as well; of several the last
  std::string redirect;                        ///< where a 3xx answer points to, absolute
};

class WebClient {
 public:
  explicit WebClient(Host& host);
  ~WebClient();
  WebClient(const WebClient&) = delete;

  Task<Result<WebAnswer>> fetch(WebRequest request);
  /// Everything under way ends with CANCELLED, and so does what comes later.
  void close();

 private:
  struct Core;
  std::shared_ptr<Core> core_;
};

/// "::1" becomes "[::1]": an address or name as a URL has it.
std::string url_host(const std::string& host);

/// The host of a URL, in lower case; empty if it has none.
std::string host_in(const std::string& url);

}  // namespace pintle::agent
