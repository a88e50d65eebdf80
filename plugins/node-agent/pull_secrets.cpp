#include "plugins/node-agent/pull_secrets.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <boost/json.hpp>
#include <optional>

#include "sdk/api/base64.hpp"
#include "sdk/api/names.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

constexpr const char* kDefaultRegistry = "index.docker.io";

std::string text_of(const json::object& object, std::string_view key) {
  const json::value* found = object.if_contains(key);
  return found && found->is_string() ? std::string(found->get_string()) : std::string();
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t end = std::min(text.find(separator), text.size());
    parts.push_back(text.substr(0, end));
    if (end == text.size()) return parts;
    text.remove_prefix(end + 1);
  }
}

/// "https://index.docker.io/v1/" and the like as "index.docker.io".
std::string key_of(std::string_view location) {
  for (const std::string_view scheme : {"https://", "http://"})
    if (location.starts_with(scheme)) location.remove_prefix(scheme.size());
  const size_t slash = std::min(location.find('/'), location.size());
  std::string_view path = location.substr(slash);
  if (path.starts_with("/v1/") || path.starts_with("/v2/")) path.remove_prefix(3);
  if (path == "/" || path == "/v1" || path == "/v2") path = {};
  return std::string(location.substr(0, slash)) + std::string(path);
}

struct Place {
  std::string host, port, path;
};

Place place_of(std::string_view text) {
  const size_t slash = std::min(text.find('/'), text.size());
  std::string_view host = text.substr(0, slash);
  Place place;
  place.path = std::string(text.substr(slash));
  const size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && !host.ends_with(']')) {
    place.port = std::string(host.substr(colon + 1));
    host = host.substr(0, colon);
  }
  place.host = std::string(host);
  return place;
}

bool fits(std::string_view pattern, std::string_view text) {
  return fnmatch(std::string(pattern).c_str(), std::string(text).c_str(), FNM_NOESCAPE) == 0;
}

bool fits_image(const std::string& key, const Place& image) {
  const Place wanted = place_of(key);
  if (wanted.port != image.port || !image.path.starts_with(wanted.path)) return false;
  // Label by label: a wildcard does not stand for a dot.
  const auto labels = split(wanted.host, '.'), own = split(image.host, '.');
  return labels.size() == own.size() && std::equal(labels.begin(), labels.end(), own.begin(), fits);
}

/// The image's registry and repository, without tag and digest, as Docker completes them.
std::string repository_of(std::string_view image) {
  image = image.substr(0, image.find('@'));
  const size_t slash = image.rfind('/');
  if (const size_t colon = image.rfind(':');
      colon != std::string_view::npos && (slash == std::string_view::npos || colon > slash))
    image = image.substr(0, colon);
  const std::string_view first = image.substr(0, image.find('/'));
  if (slash == std::string_view::npos) return "docker.io/library/" + std::string(image);
  if (first.find_first_of(".:") == std::string_view::npos && first != "localhost")
    return "docker.io/" + std::string(image);
  return std::string(image);
}

Result<RegistryLogin> login_of(const json::object& entry) {
  RegistryLogin login{text_of(entry, "username"), text_of(entry, "password"), text_of(entry, "identitytoken"),
                      text_of(entry, "registrytoken")};
  const std::string auth = text_of(entry, "auth");
  if (!login.username.empty() || auth.empty()) return login;
  const std::optional<std::string> pair = api::base64_decode(auth);
  const size_t colon = pair ? pair->find(':') : std::string::npos;
  if (colon == std::string::npos)
    return invalid_argument("\"auth\" of an entry is no base64 of user and password with ':' between");
  login.username = pair->substr(0, colon);
  login.password = pair->substr(colon + 1);
  return login;
}

}  // namespace

Result<RegistryLogins> RegistryLogins::parse(std::string_view text, bool is_legacy) {
  json::error_code error;
  const json::value value = json::parse(text, error);
  // The parser's own words could repeat what stands there.
  if (error || !value.is_object()) return invalid_argument("is no JSON object");
  const json::object* entries = &value.get_object();
  if (!is_legacy) {
    const json::value* auths = entries->if_contains("auths");
    if (!auths || !auths->is_object()) return invalid_argument("has no object \"auths\"");
    entries = &auths->get_object();
  }
  RegistryLogins logins;
  for (const auto& [location, entry] : *entries) {
    if (!entry.is_object()) return invalid_argument("has an entry that is no object");
    Result<RegistryLogin> login = login_of(entry.get_object());
    if (!login) return login.status();
    logins.entries_.emplace_back(key_of(location), std::move(*login));
  }
  std::stable_sort(logins.entries_.begin(), logins.entries_.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  return logins;
}

std::vector<RegistryLogin> RegistryLogins::find(std::string_view image) const {
  const std::string repository = repository_of(image);
  const Place place = place_of(repository);
  std::vector<RegistryLogin> found;
  for (const auto& [key, login] : entries_)
    if (fits_image(key, place)) found.push_back(login);
  if (found.empty() && place.host == "docker.io")
    for (const auto& [key, login] : entries_)
      if (key == kDefaultRegistry) found.push_back(login);
  return found;
}

bool is_secret(const document::Document& document) {
  return document.value().is_object() && text_of(document.value().get_object(), "kind") == "Secret";
}

std::shared_ptr<const PullSecret> read_secret(const document::Document& document, const std::string& path,
                                              api::Problems& problems) {
  const json::object& object = document.value().get_object();
  auto secret = std::make_shared<PullSecret>();
  const auto add = [&](std::string pointer, std::string problem) {
    if (!problem.empty()) problems.push_back({std::move(pointer), std::move(problem)});
  };
  for (const auto& [key, value] : object)
    if (key != "apiVersion" && key != "kind" && key != "metadata" && key != "type" && key != "data" &&
        key != "stringData" && key != "immutable")
      add(api::child("", key), "unknown field of a Secret");
  if (text_of(object, "apiVersion") != "v1") add("/apiVersion", "must be v1");
  if (const json::value* metadata = object.if_contains("metadata"); metadata && metadata->is_object()) {
    secret->name = text_of(metadata->get_object(), "name");
    secret->namespace_name = text_of(metadata->get_object(), "namespace");
  }
  if (secret->namespace_name.empty()) secret->namespace_name = "default";
  add("/metadata/name", secret->name.empty() ? "a name is required" : api::subdomain_problem(secret->name));
  add("/metadata/namespace", api::label_problem(secret->namespace_name));
  const std::string type = text_of(object, "type");
  const bool is_legacy = type == "kubernetes.io/dockercfg";
  if (!is_legacy && type != "kubernetes.io/dockerconfigjson") {
    add("/type", "only Secrets for registries are used on a node without an API server: " +
                     std::string("kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg"));
    return secret;
  }
  const std::string key = is_legacy ? ".dockercfg" : ".dockerconfigjson";
  const auto section = [&](std::string_view name) {
    const json::value* found = object.if_contains(name);
    return found && found->is_object() ? text_of(found->get_object(), key) : std::string();
  };
  std::optional<std::string> content;
  std::string pointer = api::child("/stringData", key);
  // stringData counts before data, as in the API.
  if (std::string plain = section("stringData"); !plain.empty()) {
    content = std::move(plain);
  } else if (const std::string encoded = section("data"); !encoded.empty()) {
    pointer = api::child("/data", key);
    content = api::base64_decode(encoded);
    if (!content) add(pointer, "is no base64");
  } else {
    add("/data", "must have the key \"" + key + "\", as text");
  }
  if (content) {
    Result<RegistryLogins> logins = RegistryLogins::parse(*content, is_legacy);
    if (logins)
      secret->logins = std::move(*logins);
    else
      add(pointer, logins.status().message());
  }
  secret->path = path;
  secret->yaml = document::write_yaml(document.value());
  return secret;
}

}  // namespace pintle::agent
