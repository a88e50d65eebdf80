#pragma once

/// What a client asks for, whichever version of HTTP it speaks.

#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pintle::http {

/// Who a client is by its certificate, which the server's authority has signed.
struct ClientIdentity {
  std::string common_name;
  std::vector<std::string> organizations;
};

struct Target {
  std::string path;                                        ///< as it was sent, without the query
  std::vector<std::string> segments;                       ///< of the path, decoded; "/a/b/" has a, b and ""
  std::vector<std::pair<std::string, std::string>> query;  ///< decoded, in order
};

/// "/logs/a%20b?tail=5", or with scheme and host in front of it. INVALID_ARGUMENT: it does not begin with "/", has a broken
/// percent code or a zero byte. (RFC 9112 section 3.2, RFC 3986.)
Result<Target> parse_target(std::string_view text);

struct Request : Target {
  std::string method;                                        ///< as it was sent: "GET"
  std::vector<std::pair<std::string, std::string>> headers;  ///< names in lower case
  std::string peer;                                          ///< the client's address, "127.0.0.1:40412"
  std::optional<ClientIdentity> client;                      ///< nobody, unless a certificate proves who
  std::string certificate_problem;                           ///< why a certificate that was sent proves nothing

  /// The first value of a query parameter; null: it is not there.
  const std::string* parameter(std::string_view name) const;
  /// The first value of a header, its name in lower case; null: it is not there.
  const std::string* header(std::string_view name) const;
};

}  // namespace pintle::http
