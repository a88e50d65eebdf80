#pragma once

/// X.509 certificates (RFC 5280) for TLS: an authority of one's own, and what it issues to servers and clients.
///
/// A *pair* is a certificate and its private key, both PEM; a certificate may be followed by those of the authorities above it.
/// Keys are ECDSA on P-256. A server certificate names where it is reached (DNS names and addresses: subjectAltName is all that
/// clients look at); a client certificate names who it is as Kubernetes reads it: the common name is the user, each organization a
/// group.
///
///     made --valid from a little earlier---> in use --two thirds of its life--> due: issued anew --> expired
///
/// That little (five minutes, of short lives a twentieth) forgives clocks that are late. An authority that is due is made anew with its old key, so that what it has
/// issued stays good. `keep` functions do all this for a pair in a folder:
///
///     Result<Kept> authority = keep_authority("/var/lib/x/pki", "ca", "x node1");
///     Request request{.common_name = "node1", .use = Use::server, .dns_names = {"localhost"}, .addresses = {"127.0.0.1"}};
///     Result<Kept> server = keep_issued("/var/lib/x/pki", "server", authority->pair, request);
///     // ... at renew_at(*facts) of read_certificate(server->pair.certificate): the same call again
///
/// Files are NAME.crt (0644) and NAME.key (0600), each replaced as a whole and synced. A pair that a crash has torn (the key is not
/// the certificate's) is issued anew. So is an authority that is damaged: with its key if that is whole, else as another one, and what the
/// former one issued is issued anew as well.
///
/// All functions block for less than a millisecond, `keep` ones for as long as the disk takes; any thread. Error messages name
/// files, never what is in a key.

#include <chrono>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::certificates {

using Clock = std::chrono::system_clock;
using Time = Clock::time_point;

struct Pair {
  std::string certificate;  ///< PEM
  std::string key;          ///< PEM, PKCS #8, not encrypted
};

enum class Use { server, client };

/// What is asked of an authority.
struct Request {
  std::string common_name;                 ///< of a client: the user
  std::vector<std::string> organizations;  ///< of a client: groups
  Use use = Use::server;
  std::vector<std::string> dns_names;
  std::vector<std::string> addresses;  ///< IPv4 and IPv6, as text
  std::chrono::seconds life = std::chrono::hours(24 * 365);
};

/// What a certificate says.
struct Facts {
  std::string common_name;
  std::vector<std::string> organizations;
  std::vector<std::string> dns_names, addresses;
  bool is_authority = false;
  Time not_before, not_after;
};

/// An authority that signs itself, for ten years. `key` is that of a former one to go on with, or empty.
Result<Pair> make_authority(const std::string& common_name, Time now = Clock::now(), const std::string& key = {});
/// INVALID_ARGUMENT: an address that is none, an empty or too long name, the authority's own name. FAILED_PRECONDITION: the authority's pair is none.
Result<Pair> issue(const Pair& authority, const Request& request, Time now = Clock::now());

/// The first certificate of a PEM text.
Result<Facts> read_certificate(std::string_view pem);
/// When a certificate is to be issued anew: two thirds of its life are over.
Time renew_at(const Facts& facts);
/// Whether the key is the certificate's, and the certificate is valid now, was signed by the authority and is for this use.
Status check(const Pair& pair, const std::string& authority_certificate, Use use, Time now = Clock::now());

struct Kept {
  Pair pair;
  bool is_new = false;  ///< it was made or made anew by this call
};

/// NAME.crt and NAME.key of the folder.
Result<Pair> load(const std::string& folder, const std::string& name);
/// Writes them, durably: the key first. The folder is made, 0700, where it is missing.
Status store(const std::string& folder, const std::string& name, const Pair& pair);
/// The authority of the folder, made where there is none, and made anew when it is due or damaged; with the same key if that is whole.
Result<Kept> keep_authority(const std::string& folder, const std::string& name, const std::string& common_name,
                            Time now = Clock::now());
/// The pair of the folder; issued (anew) when it is missing, torn, due, of another authority or of another request.
Result<Kept> keep_issued(const std::string& folder, const std::string& name, const Pair& authority,
                         const Request& request, Time now = Clock::now());

}  // namespace pintle::certificates
