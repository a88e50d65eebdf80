#include "sdk/support/http_server/tls.hpp"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "sdk/support/certificates/openssl_handles.hpp"

namespace pintle::http {

namespace {

constexpr unsigned char kProtocols[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
constexpr size_t kMostAtOnce = 16 << 10;

using openssl::Bio;
using openssl::Certificate;
using openssl::Key;

Bio memory(const std::string& text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }
int no_passphrase(char*, int, int, void*) { return 0; }

Status refusal(const std::string& what) {
  ERR_clear_error();
  return failed_precondition(what);
}

/// The verdict is kept for the handler, who answers 401: a broken handshake would tell a person nothing.
int judge(int sound, X509_STORE_CTX* context) {
  auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* first_error = static_cast<int*>(SSL_get_app_data(ssl));
  if (!sound && *first_error == 0) *first_error = X509_STORE_CTX_get_error(context);
  return 1;
}

int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* size, const unsigned char* offered,
                    unsigned int offered_size, void*) {
  unsigned char* match = nullptr;
  if (SSL_select_next_proto(&match, size, kProtocols, sizeof(kProtocols), offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_NOACK;
  *chosen = match;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

Result<std::shared_ptr<SSL_CTX>> make_tls(const TlsMaterial& material) {
  std::shared_ptr<SSL_CTX> made(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  if (!made) return refusal("no TLS context can be made");
  SSL_CTX* context = made.get();
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20");
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                   SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
  // A session that is resumed would bring its client's former certificate along.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_mode(context,
                   SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_alpn_select_cb(context, choose_protocol, nullptr);

  const Bio chain = memory(material.certificate);
  const Certificate certificate(PEM_read_bio_X509(chain.get(), nullptr, no_passphrase, nullptr));
  if (!certificate || !SSL_CTX_use_certificate(context, certificate.get()))
    return refusal("the server's certificate is not one in PEM");
  while (X509* above = PEM_read_bio_X509(chain.get(), nullptr, no_passphrase, nullptr))
    if (!SSL_CTX_add0_chain_cert(context, above)) X509_free(above);
  const Key key(PEM_read_bio_PrivateKey(memory(material.key).get(), nullptr, no_passphrase, nullptr));
  if (!key || !SSL_CTX_use_PrivateKey(context, key.get()))
    return refusal("the server's key is not one in PEM, or not that of its certificate");
  if (!material.client_authority.empty()) {
    const Bio trusted = memory(material.client_authority);
    size_t count = 0;
    while (const Certificate one{PEM_read_bio_X509(trusted.get(), nullptr, no_passphrase, nullptr)}) {
      X509_STORE_add_cert(SSL_CTX_get_cert_store(context), one.get());
      SSL_CTX_add_client_CA(context, one.get());
      ++count;
    }
    if (count == 0) return refusal("the authority of clients is no certificate in PEM");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_CLIENT_ONCE, judge);
  }
  ERR_clear_error();
  return made;
}

Transport::Transport(UniqueFd socket, std::shared_ptr<SSL_CTX> tls)
    : socket_(std::move(socket)), context_(std::move(tls)) {
  if (!context_) return;
  ssl_ = SSL_new(context_.get());
  SSL_set_fd(ssl_, socket_.get());
  SSL_set_app_data(ssl_, &verify_error_);
  SSL_set_accept_state(ssl_);
}

Transport::~Transport() {
  SSL_free(ssl_);
  ERR_clear_error();
}

Transport::Outcome Transport::outcome_of(int result) {
  switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_WANT_READ:
      return Outcome::wait_readable;
    case SSL_ERROR_WANT_WRITE:
      return Outcome::wait_writable;
    case SSL_ERROR_ZERO_RETURN:
      return Outcome::ended;
    default:
      if (!is_shaken_ && ERR_GET_REASON(ERR_peek_error()) == SSL_R_HTTP_REQUEST) spoke_plain_http_ = true;
      is_shaken_ = false;  // no close_notify over what is broken
      return Outcome::failed;
  }
}

Transport::Outcome Transport::handshake() {
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_);
  if (result != 1) {
    const Outcome outcome = outcome_of(result);
    if (!spoke_plain_http_) return outcome;
    SSL_free(ssl_);
    ssl_ = nullptr;
    return outcome;
  }
  is_shaken_ = true;
  return Outcome::done;
}

Transport::Outcome Transport::read(char* to, size_t room, size_t& count) {
  count = 0;
  if (!ssl_) {
    const ssize_t result = recv(socket_.get(), to, room, 0);
    if (result > 0) count = static_cast<size_t>(result);
    if (result > 0) return Outcome::done;
    if (result == 0) return Outcome::ended;
    return errno == EAGAIN || errno == EINTR ? Outcome::wait_readable : Outcome::failed;
  }
  ERR_clear_error();
  const int result = SSL_read(ssl_, to, static_cast<int>(room));
  if (result <= 0) return outcome_of(result);
  count = static_cast<size_t>(result);
  return Outcome::done;
}

Transport::Outcome Transport::write(const char* from, size_t size, size_t& count) {
  count = 0;
  if (!ssl_) {
    const ssize_t result = send(socket_.get(), from, size, MSG_NOSIGNAL);
    if (result >= 0) count = static_cast<size_t>(result);
    if (result >= 0) return Outcome::done;
    return errno == EAGAIN || errno == EINTR ? Outcome::wait_writable : Outcome::failed;
  }
  ERR_clear_error();
  const int result = SSL_write(ssl_, from, static_cast<int>(std::min(size, kMostAtOnce)));
  if (result <= 0) return outcome_of(result);
  count = static_cast<size_t>(result);
  return Outcome::done;
}

void Transport::finish_writing() {
  ERR_clear_error();
  if (ssl_ && is_shaken_) SSL_shutdown(ssl_);
  ERR_clear_error();
  shutdown(socket_.get(), SHUT_WR);
}

std::optional<ClientIdentity> Transport::client() const {
  if (!ssl_ || verify_error_ != 0) return std::nullopt;
  const Certificate certificate(SSL_get1_peer_certificate(ssl_));
  if (!certificate) return std::nullopt;
  ClientIdentity identity;
  X509_NAME* name = X509_get_subject_name(certificate.get());
  for (int i = 0; i < X509_NAME_entry_count(name); ++i) {
    X509_NAME_ENTRY* entry = X509_NAME_get_entry(name, i);
    unsigned char* utf8 = nullptr;
    const int size = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(entry));
    std::string text(reinterpret_cast<char*>(utf8), static_cast<size_t>(std::max(size, 0)));
    OPENSSL_free(utf8);
    const int kind = OBJ_obj2nid(X509_NAME_ENTRY_get_object(entry));
    if (kind == NID_commonName) identity.common_name = std::move(text);
    if (kind == NID_organizationName) identity.organizations.push_back(std::move(text));
  }
  return identity;
}

std::string Transport::certificate_problem() const {
  return verify_error_ == 0 ? std::string() : X509_verify_cert_error_string(verify_error_);
}

}  // namespace pintle::http
