#include "sdk/support/certificates/certificates.hpp"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "sdk/support/certificates/openssl_handles.hpp"

namespace pintle::certificates {

namespace {

constexpr std::chrono::hours kAuthorityLife(24 * 365 * 10);
constexpr std::chrono::minutes kLateClocks(5);
constexpr size_t kLongestName = 64;  // ub-common-name, ub-organization-name

using openssl::Bio;
using openssl::Certificate;
using openssl::Extension;
using openssl::Key;
using openssl::Names;

/// What OpenSSL says went wrong. It may name files and fields; it holds no secrets.
Status openssl_error(const std::string& what) {
  char text[256] = "";
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  if (code == 0) return internal_error(what);
  ERR_error_string_n(code, text, sizeof(text));
  return internal_error(what + ": " + text);
}

Bio memory(std::string_view text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size > 0 ? size : 0));
}

/// No passphrase is ever asked for on a terminal.
int no_passphrase(char*, int, int, void*) { return 0; }

Result<Key> parse_key(const std::string& pem) {
  Key key(PEM_read_bio_PrivateKey(memory(pem).get(), nullptr, no_passphrase, nullptr));
  ERR_clear_error();
  if (!key) return failed_precondition("no private key in PEM without a passphrase");
  return key;
}

Result<Certificate> parse_certificate(std::string_view pem) {
  Certificate certificate(PEM_read_bio_X509(memory(pem).get(), nullptr, no_passphrase, nullptr));
  ERR_clear_error();
  if (!certificate) return failed_precondition("no certificate in PEM");
  return certificate;
}

Status set_time(ASN1_TIME* to, Time time) {
  if (!ASN1_TIME_set(to, Clock::to_time_t(time))) return openssl_error("set a certificate's time");
  return Status::ok();
}

Status add_name(X509_NAME* name, int field, const std::string& value) {
  if (value.empty() || value.size() > kLongestName)
    return invalid_argument("\"" + value + "\": a certificate's name has 1 to 64 bytes");
  const auto* bytes = reinterpret_cast<const unsigned char*>(value.data());
  if (!X509_NAME_add_entry_by_NID(name, field, MBSTRING_UTF8, bytes, static_cast<int>(value.size()), -1, 0))
    return openssl_error("\"" + value + "\" in a certificate's subject");
  return Status::ok();
}

/// `value` is of our own making, never foreign text: OpenSSL reads a small language in it.
Status add_extension(X509* certificate, X509* issuer, int kind, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value));
  if (!extension || !X509_add_ext(certificate, extension.get(), -1)) return openssl_error("extend a certificate");
  return Status::ok();
}

Status add_alternative_names(X509* certificate, const Request& request) {
  const Names names(GENERAL_NAMES_new());
  const auto add = [&](int kind, const unsigned char* bytes, size_t size) {
    ASN1_STRING* text = kind == GEN_DNS ? ASN1_IA5STRING_new() : ASN1_OCTET_STRING_new();
    ASN1_STRING_set(text, bytes, static_cast<int>(size));
    GENERAL_NAME* name = GENERAL_NAME_new();
    GENERAL_NAME_set0_value(name, kind, text);
    sk_GENERAL_NAME_push(names.get(), name);
  };
  for (const std::string& name : request.dns_names) {
    if (name.empty() || name.size() > 253) return invalid_argument("\"" + name + "\" is not a DNS name");
    add(GEN_DNS, reinterpret_cast<const unsigned char*>(name.data()), name.size());
  }
  for (const std::string& address : request.addresses) {
    std::array<unsigned char, 16> bytes{};
    if (inet_pton(AF_INET, address.c_str(), bytes.data()) == 1)
      add(GEN_IPADD, bytes.data(), 4);
    else if (inet_pton(AF_INET6, address.c_str(), bytes.data()) == 1)
      add(GEN_IPADD, bytes.data(), 16);
    else
      return invalid_argument("\"" + address + "\" is not an IP address");
  }
  if (sk_GENERAL_NAME_num(names.get()) > 0 &&
      !X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, X509V3_ADD_DEFAULT))
    return openssl_error("name where a server is reached");
  return Status::ok();
}

/// Version, serial number, times and key; the rest is the caller's.
Result<Certificate> begin(EVP_PKEY* key, Time now, std::chrono::seconds life) {
  Certificate certificate(X509_new());
  std::array<unsigned char, 16> serial;
  if (!certificate || RAND_bytes(serial.data(), serial.size()) != 1) return openssl_error("begin a certificate");
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7f) | 0x40);  // positive, and never zero
  const openssl::Number number(BN_bin2bn(serial.data(), serial.size(), nullptr));
  BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate.get()));
  X509_set_version(certificate.get(), X509_VERSION_3);
  const auto back = std::min<std::chrono::seconds>(kLateClocks, life / 20);
  if (Status set = set_time(X509_getm_notBefore(certificate.get()), now - back); !set) return set;
  if (Status set = set_time(X509_getm_notAfter(certificate.get()), now + life); !set) return set;
  if (!X509_set_pubkey(certificate.get(), key)) return openssl_error("put a key into a certificate");
  return certificate;
}

Result<Pair> finish(X509* certificate, EVP_PKEY* key, EVP_PKEY* signer) {
  if (!X509_sign(certificate, signer, EVP_sha256())) return openssl_error("sign a certificate");
  const Bio certificate_text(BIO_new(BIO_s_mem())), key_text(BIO_new(BIO_s_secmem()));
  if (!PEM_write_bio_X509(certificate_text.get(), certificate) ||
      !PEM_write_bio_PKCS8PrivateKey(key_text.get(), key, nullptr, nullptr, 0, nullptr, nullptr))
    return openssl_error("write a certificate");
  return Pair{text_of(certificate_text.get()), text_of(key_text.get())};
}

Result<Key> make_key() {
  Key key(EVP_EC_gen("P-256"));
  if (!key) return openssl_error("make a key");
  return key;
}

std::string entry_text(X509_NAME_ENTRY* entry) {
  unsigned char* utf8 = nullptr;
  const int size = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(entry));
  std::string text(reinterpret_cast<char*>(utf8), static_cast<size_t>(size > 0 ? size : 0));
  OPENSSL_free(utf8);
  return text;
}

Time time_of(const ASN1_TIME* time) {
  tm parts{};
  ASN1_TIME_to_tm(time, &parts);
  return Clock::from_time_t(timegm(&parts));
}

}  // namespace

Result<Pair> make_authority(const std::string& common_name, Time now, const std::string& key_text) {
  Result<Key> key = key_text.empty() ? make_key() : parse_key(key_text);
  if (!key) return key.status();
  Result<Certificate> certificate = begin(key->get(), now, kAuthorityLife);
  if (!certificate) return certificate.status();
  X509* made = certificate->get();
  X509_NAME* name = X509_get_subject_name(made);
  if (Status named = add_name(name, NID_commonName, common_name); !named) return named;
  X509_set_issuer_name(made, name);
  for (const auto& [kind, value] : {std::pair(NID_basic_constraints, "critical,CA:TRUE"),
                                    std::pair(NID_key_usage, "critical,digitalSignature,keyCertSign,cRLSign"),
                                    std::pair(NID_subject_key_identifier, "hash")})
    if (Status added = add_extension(made, made, kind, value); !added) return added;
  return finish(made, key->get(), key->get());
}

Result<Pair> issue(const Pair& authority, const Request& request, Time now) {
  Result<Key> signer = parse_key(authority.key);
  if (!signer) return signer.status().with_context("the authority's key");
  Result<Certificate> issuer = parse_certificate(authority.certificate);
  if (!issuer) return issuer.status().with_context("the authority's certificate");
  if (X509_check_private_key(issuer->get(), signer->get()) != 1) {
    ERR_clear_error();
    return failed_precondition("the authority's key is not that of its certificate");
  }
  Result<Key> key = make_key();
  if (!key) return key.status();
  Result<Certificate> certificate = begin(key->get(), now, request.life);
  if (!certificate) return certificate.status();
  X509* made = certificate->get();
  X509_NAME* name = X509_get_subject_name(made);
  for (const std::string& organization : request.organizations)
    if (Status named = add_name(name, NID_organizationName, organization); !named) return named;
  if (Status named = add_name(name, NID_commonName, request.common_name); !named) return named;
  // Every client would take it for one that signs itself.
  if (X509_NAME_cmp(name, X509_get_subject_name(issuer->get())) == 0)
    return invalid_argument("\"" + request.common_name + "\" is the authority's own name");
  X509_set_issuer_name(made, X509_get_subject_name(issuer->get()));
  const bool is_server = request.use == Use::server;
  for (const auto& [kind, value] :
       {std::pair(NID_basic_constraints, "critical,CA:FALSE"), std::pair(NID_key_usage, "critical,digitalSignature"),
        std::pair(NID_ext_key_usage, is_server ? "serverAuth" : "clientAuth"),
        std::pair(NID_authority_key_identifier, "keyid")})
    if (Status added = add_extension(made, issuer->get(), kind, value); !added) return added;
  if (Status named = add_alternative_names(made, request); !named) return named;
  return finish(made, key->get(), signer->get());
}

Result<Facts> read_certificate(std::string_view pem) {
  Result<Certificate> certificate = parse_certificate(pem);
  if (!certificate) return certificate.status();
  X509* read = certificate->get();
  Facts facts;
  X509_NAME* name = X509_get_subject_name(read);
  for (int i = 0; i < X509_NAME_entry_count(name); ++i) {
    X509_NAME_ENTRY* entry = X509_NAME_get_entry(name, i);
    const int kind = OBJ_obj2nid(X509_NAME_ENTRY_get_object(entry));
    if (kind == NID_commonName) facts.common_name = entry_text(entry);
    if (kind == NID_organizationName) facts.organizations.push_back(entry_text(entry));
  }
  const Names names(static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(read, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int kind = 0;
    const auto* value =
        static_cast<const ASN1_STRING*>(GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &kind));
    const unsigned char* bytes = kind == GEN_DNS || kind == GEN_IPADD ? ASN1_STRING_get0_data(value) : nullptr;
    const int size = bytes ? ASN1_STRING_length(value) : 0;
    char text[INET6_ADDRSTRLEN] = "";
    if (kind == GEN_DNS)
      facts.dns_names.emplace_back(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
    else if (kind == GEN_IPADD && (size == 4 || size == 16))
      facts.addresses.emplace_back(inet_ntop(size == 4 ? AF_INET : AF_INET6, bytes, text, sizeof(text)));
  }
  facts.is_authority = X509_check_ca(read) != 0;
  facts.not_before = time_of(X509_get0_notBefore(read));
  facts.not_after = time_of(X509_get0_notAfter(read));
  ERR_clear_error();
  return facts;
}

Time renew_at(const Facts& facts) { return facts.not_before + (facts.not_after - facts.not_before) / 3 * 2; }

Status check(const Pair& pair, const std::string& authority_certificate, Use use, Time now) {
  Result<Certificate> certificate = parse_certificate(pair.certificate);
  if (!certificate) return certificate.status();
  Result<Key> key = parse_key(pair.key);
  if (!key) return key.status();
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    ERR_clear_error();
    return failed_precondition("the key is not that of the certificate");
  }
  Result<Certificate> authority = parse_certificate(authority_certificate);
  if (!authority) return authority.status().with_context("the authority");
  const openssl::Store trusted(X509_STORE_new());
  const openssl::StoreContext context(X509_STORE_CTX_new());
  X509_STORE_add_cert(trusted.get(), authority->get());
  if (!X509_STORE_CTX_init(context.get(), trusted.get(), certificate->get(), nullptr))
    return openssl_error("check a certificate");
  X509_VERIFY_PARAM* rules = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(rules, Clock::to_time_t(now));
  X509_VERIFY_PARAM_set_flags(rules, X509_V_FLAG_PARTIAL_CHAIN);
  X509_STORE_CTX_set_purpose(context.get(), use == Use::server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT);
  if (X509_verify_cert(context.get()) == 1) return Status::ok();
  const int error = X509_STORE_CTX_get_error(context.get());
  ERR_clear_error();
  return failed_precondition(X509_verify_cert_error_string(error));
}

}  // namespace pintle::certificates
