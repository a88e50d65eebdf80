#include "plugins/runtime-oci/image_settings.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <boost/json.hpp>

#include "cri/api.pb.h"

namespace pintle::runtime_oci {
namespace {

namespace json = boost::json;

const json::value* find(const json::object& object, std::string_view key) { return object.if_contains(key); }

void take(const json::object& object, std::string_view key, std::string& into) {
  const json::value* found = find(object, key);
  if (found && found->is_string()) into = std::string(found->get_string());
}

Result<std::string> decode_base64(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  std::string decoded(text.size(), '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(decoded.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return invalid_argument("auth.auth is not in base64");
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  decoded.resize(static_cast<size_t>(size) - padding);
  return decoded;
}

}  // namespace

Result<ImageSettings> ImageSettings::parse(std::string_view text) {
  json::error_code error;
  const json::value value = json::parse(text.empty() ? std::string_view("{}") : text, error);
  if (error || !value.is_object()) return invalid_argument("the config of runtime-oci is no JSON object");
  const json::object& config = value.get_object();
  ImageSettings settings;
  take(config, "imageFolder", settings.folder);
  images::Proxies& proxies = settings.registries.transfer.proxies;
  proxies = images::Proxies::of_environment();
  if (const json::value* proxy = find(config, "proxy"); proxy && proxy->is_object()) {
    take(proxy->get_object(), "http", proxies.http);
    take(proxy->get_object(), "https", proxies.https);
    take(proxy->get_object(), "exceptions", proxies.exceptions);
  }
  if (const json::value* parallel = find(config, "parallelDownloads"); parallel && parallel->is_int64())
    settings.registries.parallel = static_cast<unsigned>(parallel->get_int64());
  if (const json::value* stall = find(config, "stallTimeout"); stall && stall->is_int64())
    settings.registries.transfer.stall_timeout = std::chrono::seconds(stall->get_int64());
  if (const json::value* registries = find(config, "registries"); registries && registries->is_object()) {
    for (const auto& [name, about] : registries->get_object()) {
      if (!about.is_object()) continue;
      images::RegistrySettings registry;
      if (const json::value* plain = find(about.get_object(), "plainHTTP"); plain && plain->is_bool())
        registry.plain_http = plain->get_bool();
      take(about.get_object(), "caFile", registry.ca_file);
      if (!registry.ca_file.empty() && !registry.ca_file.starts_with('/'))
        return invalid_argument("registries." + std::string(name) + ".caFile '" + registry.ca_file +
                                "' has to be an absolute path");
      if (const json::value* mirrors = find(about.get_object(), "mirrors"); mirrors && mirrors->is_array()) {
        for (const json::value& mirror : mirrors->get_array()) {
          images::Mirror one;
          if (mirror.is_object()) take(mirror.get_object(), "url", one.url);
          if (mirror.is_object()) take(mirror.get_object(), "caFile", one.ca_file);
          if (!one.url.starts_with("https://") && !one.url.starts_with("http://"))
            return invalid_argument("registries." + std::string(name) + ".mirrors: '" + one.url +
                                    "' has to begin with https:// or http://");
          registry.mirrors.push_back(std::move(one));
        }
      }
      settings.registries.registries[std::string(name)] = std::move(registry);
    }
  }
  return settings;
}

Result<images::Credentials> credentials_of(const ::runtime::v1::AuthConfig& auth) {
  images::Credentials credentials{auth.username(), auth.password(), auth.identity_token(), auth.registry_token()};
  if (credentials.username.empty() && !auth.auth().empty()) {
    auto pair = decode_base64(auth.auth());
    if (!pair) return pair.status();
    const size_t colon = pair->find(':');
    if (colon == std::string::npos) return invalid_argument("auth.auth holds no user and password with a ':' between");
    credentials.username = pair->substr(0, colon);
    credentials.password = pair->substr(colon + 1);
    while (credentials.password.ends_with('\0')) credentials.password.pop_back();
  }
  const std::string& token = credentials.registry_token;
  if (std::any_of(token.begin(), token.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }))
    return invalid_argument("auth.registry_token holds control characters");
  return credentials;
}

}  // namespace pintle::runtime_oci
