#pragma once

/// TLS 1.2 and 1.3 by OpenSSL, for one connection over a non-blocking socket. Internal to the server.

#include <openssl/ssl.h>
#include <sys/types.h>

#include <memory>
#include <optional>
#include <pintle/status.hpp>

#include "sdk/support/http_server/http_server.hpp"

namespace pintle::http {

Result<std::shared_ptr<SSL_CTX>> make_tls(const TlsMaterial& material);

/// One end of a socket. What would block says for which event to wait.
class Transport {
 public:
  enum class Outcome { done, wait_readable, wait_writable, ended, failed };

  /// Takes over the socket; `tls` may be null.
  Transport(UniqueFd socket, std::shared_ptr<SSL_CTX> tls);
  ~Transport();
  Transport(const Transport&) = delete;

  int descriptor() const { return socket_.get(); }
  bool is_encrypted() const { return ssl_ != nullptr; }
  Outcome handshake();
  Outcome read(char* to, size_t room, size_t& count);
  Outcome write(const char* from, size_t size, size_t& count);
  /// No more is sent; what the other side still sends may be read.
  void finish_writing();
  /// Plain HTTP came where TLS was expected: from now on plain text is spoken.
  bool spoke_plain_http() const { return spoke_plain_http_; }

  std::optional<ClientIdentity> client() const;
  std::string certificate_problem() const;

 private:
  Outcome outcome_of(int result);

  UniqueFd socket_;
  std::shared_ptr<SSL_CTX> context_;
  SSL* ssl_ = nullptr;
  int verify_error_ = 0;
  bool spoke_plain_http_ = false, is_shaken_ = false;
};

}  // namespace pintle::http
