#include "cri/images/registry.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <boost/json.hpp>
#include <thread>

#include "cri/images/challenge.hpp"

namespace pintle::images {
namespace {

using namespace std::chrono_literals;

constexpr int kMaximalFailures = 5;  // in a row, without any progress
constexpr int kMaximalTries = 200;   // of one document or blob, whatever progress there is
constexpr auto kFirstPause = 200ms;
constexpr std::chrono::seconds kLongestPause = 30s;
constexpr size_t kTokenLimit = 1 << 20;

constexpr char kAccept[] =
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

std::string base64(std::string_view text) {
  std::string encoded(4 * ((text.size() + 2) / 3) + 1, '\0');
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(encoded.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  encoded.resize(static_cast<size_t>(size));
  return encoded;
}

std::string percent_encoded(std::string_view text) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string encoded;
  for (char c : text) {
    const bool is_plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
                          c == '_' || c == '.' || c == '~';
    const auto byte = static_cast<unsigned char>(c);
    if (is_plain) {
      encoded += c;
    } else {
      encoded += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return encoded;
}

/// Header values may not end their line.
bool is_one_line(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

std::string host_of_domain(const std::string& domain) {
  const size_t colon = domain.rfind(':');
  return domain.ends_with(']') || colon == std::string::npos ? domain : domain.substr(0, colon);
}

bool may_pass(long status) { return status == 429 || status == 408 || status >= 500; }

std::string media_type_of(const Response& response) {
  std::string type = response.header("content-type");
  type.resize(std::min(type.size(), type.find(';')));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  return type;
}

}  // namespace

bool Retries::again(std::chrono::seconds wanted) {
  if (++failures_ >= kMaximalFailures || ++total_ >= kMaximalTries) return false;
  auto pause = std::chrono::duration_cast<std::chrono::milliseconds>(kFirstPause) * (1 << (failures_ - 1));
  pause = std::min<std::chrono::milliseconds>(std::max<std::chrono::milliseconds>(pause, wanted), kLongestPause);
  const auto end = std::chrono::steady_clock::now() + pause;
  while (!cancelled_ && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(20ms);
  return !cancelled_;
}

const RegistrySettings* RegistriesSettings::find(const std::string& domain) const {
  auto found = registries.find(domain);
  if (found == registries.end()) found = registries.find("*");
  return found == registries.end() ? nullptr : &found->second;
}

Repository::Repository(const RegistriesSettings& settings, const Reference& reference, Credentials credentials,
                       const std::atomic<bool>& cancelled, const Mirror* mirror)
    : settings_(settings), reference_(reference), credentials_(std::move(credentials)), cancelled_(cancelled) {
  if (mirror) {
    base_ = mirror->url;
    while (base_.ends_with('/')) base_.pop_back();
    mirror_ = base_.substr(base_.find("//") + 2);
    registry_.ca_file = mirror->ca_file;
    return;
  }
  if (const RegistrySettings* found = settings.find(reference.domain)) registry_ = *found;
  if (!credentials_.registry_token.empty()) authorization_ = "Bearer " + credentials_.registry_token;
}

Result<std::string> Repository::base_url(Connection& connection) {
  const std::lock_guard guard(mutex_);
  if (!base_.empty()) return base_;
  const std::string host = reference_.domain == "docker.io" ? "registry-1.docker.io" : reference_.domain;
  const bool may_be_plain = is_loopback(host_of_domain(host)) && registry_.ca_file.empty();
  if (!registry_.plain_http && may_be_plain) {
    Request probe;
    probe.url = "https://" + host + "/v2/";
    auto answer = connection.exchange(probe);
    if (!answer && !connection.was_not_tls()) return answer.status();
    return base_ = (answer ? "https://" : "http://") + host;
  }
  return base_ = (registry_.plain_http.value_or(false) ? "http://" : "https://") + host;
}

Result<Response> Repository::ask(Connection& connection, Request request) {
  auto base = base_url(connection);
  if (!base) return base.status();
  request.url = *base + "/v2/" + reference_.path + request.url;
  request.ca_file = registry_.ca_file;
  std::string used;
  for (int rounds = 0;; ++rounds) {
    {
      const std::lock_guard guard(mutex_);
      used = request.authorization = authorization_;
    }
    auto response = connection.exchange(request);
    if (!response || response->status != 401 || rounds == 2) return response;
    {
      // Another thread may have renewed the token meanwhile.
      const std::lock_guard guard(mutex_);
      if (authorization_ != used) continue;
    }
    auto authorization = authorize(connection, *response);
    if (!authorization) return authorization.status();
    if (*authorization == used) return response;
    const std::lock_guard guard(mutex_);
    authorization_ = std::move(*authorization);
  }
}

Result<std::string> Repository::authorize(Connection& connection, const Response& refusal) {
  const auto challenges = parse_challenges(refusal.header("www-authenticate"));
  const auto with_scheme = [&](std::string_view scheme) {
    return std::find_if(challenges.begin(), challenges.end(), [&](const Challenge& c) { return c.scheme == scheme; });
  };
  if (const auto bearer = with_scheme("bearer"); bearer != challenges.end() && credentials_.registry_token.empty()) {
    std::string scope = bearer->parameter("scope");
    if (scope.empty()) scope = "repository:" + reference_.path + ":pull";
    auto token = fetch_token(connection, bearer->parameter("realm"), bearer->parameter("service"), scope);
    if (!token) return token.status();
    return "Bearer " + *token;
  }
  if (with_scheme("basic") != challenges.end() && !credentials_.username.empty())
    return "Basic " + base64(credentials_.username + ":" + credentials_.password);
  return refusal_of(refusal, name());
}

Result<std::string> Repository::fetch_token(Connection& connection, const std::string& realm,
                                            const std::string& service, const std::string& scope) {
  const std::string where = "token server of " + reference_.domain;
  auto origin = origin_of(realm);
  if (!origin) return origin.status().with_context(where);
  std::string base;
  {
    const std::lock_guard guard(mutex_);
    base = base_;
  }
  if (origin->scheme == "http" && base.starts_with("https://")) {
    return invalid_argument(where + ": " + origin->text() +
                            " is not encrypted though its registry is; no credentials are sent there");
  }
  Request request;
  request.url = realm;
  request.ca_file = registry_.ca_file;
  request.body_limit = kTokenLimit;
  const std::string parameters = (service.empty() ? "" : "service=" + percent_encoded(service) + "&") +
                                 "scope=" + percent_encoded(scope) + "&client_id=pintle";
  if (!credentials_.identity_token.empty()) {
    request.form =
        "grant_type=refresh_token&refresh_token=" + percent_encoded(credentials_.identity_token) + "&" + parameters;
  } else {
    request.url += (realm.find('?') == std::string::npos ? "?" : "&") + parameters;
    if (!credentials_.username.empty()) {
      request.url += "&account=" + percent_encoded(credentials_.username);
      request.authorization = "Basic " + base64(credentials_.username + ":" + credentials_.password);
    }
  }
  Retries retries(cancelled_);
  for (;;) {
    auto response = connection.exchange(request);
    if (!response) {
      if (connection.was_cut() && retries.again()) continue;
      return response.status().with_context(where);
    }
    if (may_pass(response->status) && retries.again(response->retry_after())) continue;
    if (response->status != 200) return refusal_of(*response, where);
    auto token = parse_token(response->body);
    return token ? std::move(token) : token.status().with_context(where);
  }
}

Status Repository::refusal_of(const Response& response, const std::string& what) const {
  const std::string told = ": " + explain_answer(response);
  switch (response.status) {
    case 401:
      return credentials_.empty()
                 ? Status(Code::unauthenticated,
                          what + ": " + reference_.domain + " asks for credentials and none were given" + told)
                 : Status(Code::unauthenticated,
                          what + ": " + reference_.domain + " does not accept the credentials" + told);
    case 403:
      return permission_denied(what + ": " + reference_.domain + " denies access" + told);
    case 404:
      return not_found(what + ": " + reference_.domain + " does not have it" + told);
    default:
      break;
  }
  if (may_pass(response.status)) return unavailable(what + ": " + reference_.domain + " is not able to answer" + told);
  return invalid_argument(what + ": " + reference_.domain + " answers with" + told.substr(1));
}

Result<Repository::Document> Repository::manifest(Connection& connection, const std::string& tag_or_digest) {
  const bool is_digest = tag_or_digest.starts_with("sha256:");
  const std::string what = name() + (is_digest ? "@" : ":") + tag_or_digest;
  Retries retries(cancelled_);
  for (;;) {
    Request request;
    request.url = "/manifests/" + tag_or_digest;
    request.headers["Accept"] = kAccept;
    request.body_limit = kMaximalDocument;
    auto response = ask(connection, std::move(request));
    if (!response) {
      if (connection.was_cut() && retries.again()) continue;
      return response.status().with_context(what);
    }
    if (may_pass(response->status) && retries.again(response->retry_after())) continue;
    if (response->status != 200) return refusal_of(*response, what);
    Document document{std::move(response->body), media_type_of(*response), {}};
    if (document.media_type.starts_with("text/html"))
      return invalid_argument(what + ": " + reference_.domain + " answers with a web page; is it a registry?");
    document.digest = digest_of(document.bytes);
    const std::string told = is_digest ? tag_or_digest : response->header("docker-content-digest");
    if (told.starts_with("sha256:") && told != document.digest.to_string()) {
      return data_loss(what + ": the manifest has the digest " + document.digest.to_string() + ", not " +
                       told.substr(0, 71) + "; it is damaged or forged");
    }
    return document;
  }
}

Result<Response> Repository::blob(Connection& connection, const Digest& digest, uint64_t offset,
                                  std::function<bool(long, uint64_t)> start, std::function<bool(std::string_view)> take,
                                  bool* can_retry, std::chrono::seconds* wait) {
  Request request;
  request.url = "/blobs/" + digest.to_string();
  request.offset = offset;
  request.start = std::move(start);
  request.take = std::move(take);
  *can_retry = false;
  *wait = 0s;
  const std::string what = name() + ": blob " + digest.to_string();
  auto response = ask(connection, std::move(request));
  if (!response) {
    *can_retry = connection.was_cut();
    return response.status().with_context(what);
  }
  if ((response->status >= 200 && response->status < 300) || response->status == 416) return response;
  *can_retry = may_pass(response->status);
  *wait = response->retry_after();
  return refusal_of(*response, what);
}

bool is_index(const Repository::Document& document) {
  if (is_index_media_type(document.media_type)) return true;
  if (!document.media_type.empty() && is_manifest_media_type(document.media_type)) return false;
  return Index::parse(document.bytes).is_ok() && !Manifest::parse(document.bytes).is_ok();
}

Result<Descriptor> choose_manifest(const Index& index, const std::string& architecture) {
  std::string offered;
  const Descriptor* silent = nullptr;
  for (const Descriptor& descriptor : index.manifests) {
    if (!is_index_media_type(descriptor.media_type) && !is_manifest_media_type(descriptor.media_type)) continue;
    if (descriptor.operating_system.empty() && descriptor.architecture.empty()) {
      if (!silent) silent = &descriptor;
      continue;
    }
    if (descriptor.operating_system == "linux" && descriptor.architecture == architecture) return descriptor;
    // What belongs to no platform is no image but something about one (signatures, attestations).
    if (descriptor.architecture != "unknown" && offered.size() < 200)
      offered += (offered.empty() ? "" : ", ") + descriptor.operating_system + "/" + descriptor.architecture;
  }
  if (silent) return *silent;
  return not_found("there is no image for linux/" + architecture + (offered.empty() ? "" : ", only for " + offered));
}

Result<std::string> parse_token(std::string_view text) {
  boost::json::error_code error;
  boost::json::parse_options options;
  options.max_depth = 16;
  const boost::json::value value = boost::json::parse(text, error, {}, options);
  if (error || !value.is_object()) return invalid_argument("its answer is no JSON object");
  for (const char* key : {"token", "access_token"}) {
    const boost::json::value* token = value.get_object().if_contains(key);
    if (!token || !token->is_string() || token->get_string().empty()) continue;
    if (!is_one_line(token->get_string())) return invalid_argument("its token holds control characters");
    return std::string(token->get_string());
  }
  return invalid_argument("its answer holds no token");
}

}  // namespace pintle::images
