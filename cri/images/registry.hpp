#pragma once

/// A registry's client: OCI distribution-spec 1.1, and Docker's Registry HTTP API V2, which it grew from.
///
/// A *Repository* is one name of one registry ("registry.local:5000/team/web") with the credentials of one user. It asks
/// without credentials first; what the registry then challenges for decides: Basic, or Bearer with a token of the server
/// that the challenge names (Docker's token authentication, OAuth2 for identity tokens). Tokens are renewed when they
/// have run out, credentials go to the registry's own origin and to its token server, never to where it redirects.
///
///     Repository web(settings, reference, credentials, cancelled);
///     auto document = web.manifest(connection, "latest");      // bytes whose digest is known, index or manifest
///     auto status = web.blob(connection, layer, offset, ...);  // one transfer, to be continued when it is cut
///
/// A registry may have mirrors, which are asked before it, each for the whole image: what a mirror does not have, or cannot give,
/// comes from the next one and in the end from the registry itself. Credentials are the registry's and never go to a mirror.
///
/// Plain HTTP is spoken with registries on this host's loopback that speak no TLS, and with those that the settings name.
/// Refusals: UNAUTHENTICATED (401), PERMISSION_DENIED (403), NOT_FOUND (404), UNAVAILABLE (429, 5xx, no connection). What
/// may pass is tried again a few times, with growing pauses or after what Retry-After says.
///
/// All functions block; a Repository may be used by several threads, each with a Connection of its own.

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <pintle/status.hpp>
#include <string>

#include "cri/images/digest.hpp"
#include "cri/images/manifest.hpp"
#include "cri/images/reference.hpp"
#include "cri/images/transfer.hpp"

namespace pintle::images {

/// As `runtime.v1.AuthConfig` brings them. All empty: anonymous.
struct Credentials {
  std::string username;
  std::string password;
  std::string identity_token;  ///< an OAuth2 refresh token, given to the token server
  std::string registry_token;  ///< a bearer token, given to the registry as it is
  bool empty() const { return username.empty() && identity_token.empty() && registry_token.empty(); }
};

struct Mirror {
  std::string url;      ///< "https://mirror.local:5000", with a path before "/v2/" if it has one
  std::string ca_file;  ///< PEM; trusted besides the system's authorities
};

struct RegistrySettings {
  std::optional<bool> plain_http;  ///< absent: only on loopback, where no TLS is spoken
  std::string ca_file;             ///< PEM; trusted besides the system's authorities
  std::vector<Mirror> mirrors;     ///< the first is asked first
};

struct RegistriesSettings {
  TransferSettings transfer;
  std::map<std::string, RegistrySettings>
      registries;  ///< by domain ("docker.io", "registry.local:5000"); "*": all others
  const RegistrySettings* find(const std::string& domain) const;
  unsigned parallel = 3;  ///< blobs of one pull at a time
};

/// How often something is tried again that has failed without any progress, and how long the pauses are.
class Retries {
 public:
  explicit Retries(const std::atomic<bool>& cancelled) : cancelled_(cancelled) {}
  /// Sleeps and gives true, or gives false: enough was tried, or the pull is cancelled.
  bool again(std::chrono::seconds wanted = std::chrono::seconds(0));
  /// Something came: the count begins anew.
  void reset() { failures_ = 0; }

 private:
  const std::atomic<bool>& cancelled_;
  int failures_ = 0;
  int total_ = 0;
};

class Repository {
 public:
  /// `settings` and `cancelled` outlive it.
  /// The credentials are for whom it asks: a mirror has none of the registry's.
  Repository(const RegistriesSettings& settings, const Reference& reference, Credentials credentials,
             const std::atomic<bool>& cancelled, const Mirror* mirror = nullptr);

  struct Document {
    std::string bytes;
    std::string media_type;
    Digest digest;  ///< of the bytes
  };
  /// A manifest or index by tag or digest; what comes under a digest has it.
  Result<Document> manifest(Connection& connection, const std::string& tag_or_digest);

  /// One transfer of a blob from `offset` on. `start` and `take` as in Request. The answer's status is 2xx, or 416 if there is
  /// nothing from there on. `can_retry` tells of a failure whether it may pass.
  Result<Response> blob(Connection& connection, const Digest& digest, uint64_t offset,
                        std::function<bool(long, uint64_t)> start, std::function<bool(std::string_view)> take,
                        bool* can_retry, std::chrono::seconds* wait);

  /// "registry.local:5000/team/web", for messages.
  std::string name() const { return reference_.repository() + (mirror_.empty() ? "" : " of the mirror " + mirror_); }

 private:
  Result<std::string> base_url(Connection& connection);
  Result<Response> ask(Connection& connection, Request request);
  Result<std::string> authorize(Connection& connection, const Response& refusal);
  Result<std::string> fetch_token(Connection& connection, const std::string& realm, const std::string& service,
                                  const std::string& scope);
  Status refusal_of(const Response& response, const std::string& what) const;

  const RegistriesSettings& settings_;
  const Reference reference_;
  const Credentials credentials_;
  const std::atomic<bool>& cancelled_;
  RegistrySettings registry_;
  std::string mirror_;  // its host, for messages; empty: the registry itself

  std::mutex mutex_;           // of what follows
  std::string base_;           // "https://registry.local:5000", once it is known
  std::string authorization_;  // what was accepted last; empty: nothing is asked for
};

/// A document as an index or a manifest, told by its media type or, where that says nothing, by what it holds.
bool is_index(const Repository::Document& document);

/// The manifest of an index that is for this platform. NOT_FOUND names those that there are.
Result<Descriptor> choose_manifest(const Index& index, const std::string& architecture);

/// The token in a token server's answer (`token` or `access_token`).
Result<std::string> parse_token(std::string_view json);

}  // namespace pintle::images
