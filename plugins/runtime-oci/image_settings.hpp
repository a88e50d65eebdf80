#pragma once

/// The part of the instance's config that is about images (config.schema.json), and credentials as CRI brings them.

#include <pintle/status.hpp>
#include <string>
#include <string_view>

#include "cri/images/registry.hpp"

namespace runtime::v1 {
class AuthConfig;
}

namespace pintle::runtime_oci {

struct ImageSettings {
  images::RegistriesSettings registries;
  std::string folder = "/var/lib/pintle/preload";  ///< of images that are loaded at start
  /// From the instance's config; proxies that it does not name come from the environment.
  static Result<ImageSettings> parse(std::string_view json);
};

/// `auth` is base64 of "user:password" where those two are not given. INVALID_ARGUMENT never shows any of it.
Result<images::Credentials> credentials_of(const ::runtime::v1::AuthConfig& auth);

}  // namespace pintle::runtime_oci
