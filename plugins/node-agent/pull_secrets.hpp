#pragma once

/// Users and passwords for registries: Secrets that stand beside pods' manifests, and the node's own file.
///
/// A node without an API server has no Secrets; those that pods name in imagePullSecrets are written as documents of manifests,
/// in the same sources as pods. Of these two types only, nothing else would be used:
///
///     apiVersion: v1
///     kind: Secret
///     metadata: {name: registry, namespace: shop}
///     type: kubernetes.io/dockerconfigjson            # or kubernetes.io/dockercfg, the older form, with the key .dockercfg
///     stringData: {.dockerconfigjson: '{"auths": {"registry.example.com/shop": {"auth": "dXNlcjpwYXNzd29yZA=="}}}'}
///
/// Which of them is for an image is found as kubelet does it: an entry names a registry ("*.example.com:5000") and the beginning of a
/// path; its labels and path segments may have wildcards; of several the one that sorts last counts first, which is the longest of
/// one registry; all that match are tried, one after the other.
///
/// Nothing in here is ever part of a message, a log or a report.

#include <cstdint>
#include <map>
#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/api/problem.hpp"
#include "sdk/support/document/document.hpp"

namespace pintle::agent {

struct RegistryLogin {
  std::string username, password;
  std::string identity_token;  ///< for the registry's token server
  std::string registry_token;  ///< for the registry itself
};

class RegistryLogins {
 public:
  /// Docker's config.json, {"auths": {...}}; `is_legacy`: what is inside of "auths" alone. INVALID_ARGUMENT shows nothing of it.
  static Result<RegistryLogins> parse(std::string_view json, bool is_legacy);
  /// For an image by its reference, the best first.
  std::vector<RegistryLogin> find(std::string_view image) const;

 private:
  std::vector<std::pair<std::string, RegistryLogin>> entries_;  ///< by "host:port/path", the last in order first
};

/// A Secret that was read. Immutable.
struct PullSecret {
  std::string namespace_name;
  std::string name;
  std::string path;  ///< of the manifest
  std::string yaml;  ///< the Secret as a manifest of its own
  RegistryLogins logins;
  std::string key() const { return namespace_name + "/" + name; }
};
/// By "namespace/name".
using PullSecrets = std::map<std::string, std::shared_ptr<const PullSecret>>;

/// Whether the document says that it is a Secret.
bool is_secret(const document::Document& document);
/// With problems the secret is not to be used.
std::shared_ptr<const PullSecret> read_secret(const document::Document& document, const std::string& path,
                                              api::Problems& problems);

}  // namespace pintle::agent
