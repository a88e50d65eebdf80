#include "cri/images/transfer.hpp"

#include <curl/curl.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <memory>
#include <new>

namespace pintle::images {
namespace {

constexpr int kMaximalRedirects = 10;
constexpr size_t kErrorBody = 64 * 1024;
constexpr size_t kMaximalHeaders = 256;
constexpr long kReceiveBuffer = 256 * 1024;

std::string lowercase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\r' || text.back() == '\n' || text.back() == ' ' || text.back() == '\t'))
    text.remove_suffix(1);
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  return text;
}

/// "bytes 100-199/200" -> 100
uint64_t begin_of(const std::string& content_range) {
  const size_t digit = content_range.find_first_of("0123456789");
  return digit == std::string::npos ? 0 : std::strtoull(content_range.c_str() + digit, nullptr, 10);
}

/// What curl's callbacks of one exchange share.
struct Exchange {
  const Request& request;
  const std::atomic<bool>& cancelled;
  CURL* curl;
  Response response;
  std::chrono::seconds stall_timeout;
  std::chrono::steady_clock::time_point moved_at = std::chrono::steady_clock::now();
  curl_off_t moved = 0;
  bool has_started = false;
  bool too_large = false;
  bool has_stalled = false;
};

size_t take_header(char* data, size_t size, size_t count, void* context) {
  auto& exchange = *static_cast<Exchange*>(context);
  const std::string_view line(data, size * count);
  auto& headers = exchange.response.headers;
  if (line.starts_with("HTTP/")) {
    headers.clear();  // what came before was an interim answer
    return line.size();
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || headers.size() >= kMaximalHeaders) return line.size();
  std::string& value = headers[lowercase(line.substr(0, colon))];
  const std::string_view text = trimmed(line.substr(colon + 1));
  const bool joined = lowercase(line.substr(0, colon)) == "www-authenticate" && !value.empty();
  value = joined ? value + ", " + std::string(text) : std::string(text);
  return line.size();
}

size_t take_body(char* data, size_t size, size_t count, void* context) {
  auto& exchange = *static_cast<Exchange*>(context);
  const std::string_view piece(data, size * count);
  Response& response = exchange.response;
  curl_easy_getinfo(exchange.curl, CURLINFO_RESPONSE_CODE, &response.status);
  const bool is_success = response.status >= 200 && response.status < 300;
  if (is_success && exchange.request.take) {
    if (!exchange.has_started && exchange.request.start) {
      exchange.has_started = true;
      const uint64_t begin = response.status == 206 ? begin_of(response.header("content-range")) : 0;
      response.stopped = !exchange.request.start(response.status, begin);
      if (response.stopped) return 0;
    }
    response.stopped = !exchange.request.take(piece);
    return response.stopped ? 0 : piece.size();
  }
  const size_t limit = is_success ? exchange.request.body_limit : kErrorBody;
  if (response.body.size() + piece.size() > limit) {
    // An error's explanation may be cut, a document may not.
    exchange.too_large = is_success;
    response.stopped = !is_success;
    return 0;
  }
  response.body += piece;
  return piece.size();
}

/// Called at least once a second. curl's own limit of speed looks at an average, which notices late.
int look_at_progress(void* context, curl_off_t, curl_off_t received, curl_off_t, curl_off_t sent) {
  auto& exchange = *static_cast<Exchange*>(context);
  const auto now = std::chrono::steady_clock::now();
  if (received + sent != exchange.moved) {
    exchange.moved = received + sent;
    exchange.moved_at = now;
  }
  exchange.has_stalled = now - exchange.moved_at > exchange.stall_timeout;
  return exchange.has_stalled || exchange.cancelled.load(std::memory_order_relaxed) ? 1 : 0;
}

std::string variable(const char* upper, const char* lower) {
  for (const char* name : {upper, lower}) {
    const char* value = std::getenv(name);
    if (value && *value) return value;
  }
  return {};
}

std::string url_part(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, 0) != CURLUE_OK) return {};
  std::string copy(text);
  curl_free(text);
  return copy;
}

}  // namespace

Result<Origin> origin_of(const std::string& text) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> url(curl_url(), curl_url_cleanup);
  if (!url) throw std::bad_alloc();
  const auto shown = [&] { return "'" + text.substr(0, 200) + "'"; };
  if (curl_url_set(url.get(), CURLUPART_URL, text.c_str(), CURLU_DISALLOW_USER) != CURLUE_OK)
    return invalid_argument(shown() + " is no URL that is followed");
  Origin origin{url_part(url.get(), CURLUPART_SCHEME), lowercase(url_part(url.get(), CURLUPART_HOST)),
                url_part(url.get(), CURLUPART_PORT)};
  if (origin.scheme != "http" && origin.scheme != "https")
    return invalid_argument(shown() + " is no http or https URL");
  if (origin.port == (origin.scheme == "http" ? "80" : "443")) origin.port.clear();
  return origin;
}

bool is_loopback(std::string_view host) {
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host == "localhost" || host == "::1") return true;
  return host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string_view::npos;
}

Proxies Proxies::of_environment() {
  return {variable("HTTP_PROXY", "http_proxy"), variable("HTTPS_PROXY", "https_proxy"),
          variable("NO_PROXY", "no_proxy")};
}

std::string Response::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

std::chrono::seconds Response::retry_after() const {
  const std::string text = header("retry-after");
  if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos) return {};
  return std::chrono::seconds(std::stol(text));
}

Connection::Connection(const TransferSettings& settings, const std::atomic<bool>& cancelled)
    : settings_(settings), cancelled_(cancelled), curl_(curl_easy_init()) {
  if (!curl_) throw std::bad_alloc();
}

Connection::~Connection() { curl_easy_cleanup(curl_); }

Result<Response> Connection::exchange(const Request& request) {
  was_cut_ = was_not_tls_ = false;
  auto first = origin_of(request.url);
  if (!first) return first.status();
  Request current = request;
  for (int hops = 0; hops <= kMaximalRedirects; ++hops) {
    auto response = exchange_once(current, *first, hops > 0);
    if (!response) return response;
    const bool is_redirect = response->status == 301 || response->status == 302 || response->status == 303 ||
                             response->status == 307 || response->status == 308;
    if (!is_redirect) return response;
    if (response->url.empty()) return invalid_argument(first->text() + " redirects to nowhere");
    auto from = origin_of(current.url), to = origin_of(response->url);
    if (!to) return to.status().with_context(first->text() + " redirects");
    if (from->scheme == "https" && to->scheme == "http")
      return invalid_argument(first->text() + " redirects to " + to->text() + ", which is not encrypted");
    current.url = response->url;
    current.form.clear();
  }
  return invalid_argument(first->text() + " redirects in a circle (more than " + std::to_string(kMaximalRedirects) +
                          " redirects)");
}

Result<Response> Connection::exchange_once(const Request& request, const Origin& first, bool is_redirected) {
  CURL* curl = curl_;
  auto origin = origin_of(request.url);
  if (!origin) return origin.status();
  Exchange exchange{request, cancelled_, curl, {}, settings_.stall_timeout};
  curl_easy_reset(curl);
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  curl_easy_setopt(curl, CURLOPT_USERAGENT, settings_.user_agent.c_str());
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, static_cast<long>(settings_.connect_timeout.count()));
  curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, kReceiveBuffer);
  curl_easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  const std::string& proxy = origin->scheme == "https" ? settings_.proxies.https : settings_.proxies.http;
  // A registry on this host is never reached through a proxy, which would look for it on its own host.
  curl_easy_setopt(curl, CURLOPT_PROXY, is_loopback(origin->host) ? "" : proxy.c_str());
  curl_easy_setopt(curl, CURLOPT_NOPROXY, settings_.proxies.exceptions.c_str());
  if (!request.ca_file.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, request.ca_file.c_str());
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, look_at_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &exchange);
  char detail[CURL_ERROR_SIZE] = {};
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);

  curl_slist* list = nullptr;
  const auto add = [&](const std::string& line) {
    curl_slist* longer = curl_slist_append(list, line.c_str());
    if (longer) list = longer;
  };
  for (const auto& [name, value] : request.headers) add(name + ": " + value);
  if (!request.authorization.empty() && (!is_redirected || *origin == first))
    add("Authorization: " + request.authorization);
  if (request.offset > 0) add("Range: bytes=" + std::to_string(request.offset) + "-");
  if (!request.form.empty()) {
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.form.size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request.form.data());
  }
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
  const CURLcode code = curl_easy_perform(curl);
  curl_slist_free_all(list);
  Response& response = exchange.response;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &response.status);
  if (exchange.too_large) {
    return invalid_argument(origin->text() + " answers with more than " + std::to_string(request.body_limit) +
                            " bytes where a document is expected");
  }
  if (code != CURLE_OK && !response.stopped)
    return failure_of(exchange.has_stalled ? CURLE_OPERATION_TIMEDOUT : code, *origin, detail);
  response.url = request.url;
  char* next = nullptr;
  if (response.status >= 300 && response.status < 400) {
    curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &next);
    response.url = next ? next : "";
  }
  // An empty body begins too: the taker may hold what came before it.
  if (!exchange.has_started && request.start && response.status >= 200 && response.status < 300) {
    response.stopped =
        !request.start(response.status, response.status == 206 ? begin_of(response.header("content-range")) : 0);
  }
  return std::move(response);
}

Status Connection::failure_of(int code, const Origin& origin, const char* detail) {
  const std::string why = *detail ? detail : curl_easy_strerror(static_cast<CURLcode>(code));
  const std::string where = origin.text();
  switch (code) {
    case CURLE_ABORTED_BY_CALLBACK:
      return cancelled("the transfer from " + where + " was cancelled");
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
      return unavailable(where + " cannot be reached: " + why);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return permission_denied("the certificate of " + where + " is not trusted: " + why +
                               "; give its authority with 'caFile' in the config of the registry");
    case CURLE_SSL_CONNECT_ERROR:
      was_not_tls_ = why.find("wrong version number") != std::string::npos ||
                     why.find("http request") != std::string::npos ||
                     why.find("packet length too long") != std::string::npos;
      was_cut_ = !was_not_tls_;
      return unavailable(
          "no encrypted connection to " + where + ": " + why +
          (was_not_tls_ ? "; if it is meant to speak plain HTTP, set 'plainHTTP' in the config of the registry" : ""));
    case CURLE_OPERATION_TIMEDOUT: {
      double connected = 0;
      curl_easy_getinfo(curl_, CURLINFO_CONNECT_TIME, &connected);
      was_cut_ = connected > 0;
      return unavailable(connected > 0 ? "the transfer from " + where + " stalled: no byte within " +
                                             std::to_string(settings_.stall_timeout.count()) + " s"
                                       : where + " cannot be reached within " +
                                             std::to_string(settings_.connect_timeout.count()) + " s");
    }
    default:
      was_cut_ = true;
      return unavailable("the connection to " + where + " was cut: " + why);
  }
}

std::string explain_answer(const Response& response) {
  const auto one_line = [](std::string_view text) {
    std::string line;
    for (char c : text.substr(0, 200)) line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    return line;
  };
  boost::json::error_code error;
  boost::json::parse_options options;
  options.max_depth = 16;
  const boost::json::value value = boost::json::parse(response.body, error, {}, options);
  if (!error && value.is_object()) {
    const boost::json::value* errors = value.get_object().if_contains("errors");
    if (errors && errors->is_array() && !errors->get_array().empty() && errors->get_array()[0].is_object()) {
      const boost::json::object& first = errors->get_array()[0].get_object();
      const boost::json::value* code = first.if_contains("code");
      const boost::json::value* message = first.if_contains("message");
      std::string text = code && code->is_string() ? std::string(code->get_string()) : "";
      if (message && message->is_string() && !message->get_string().empty())
        text += (text.empty() ? "" : ": ") + std::string(message->get_string());
      if (!text.empty()) return one_line(text);
    }
    for (const char* key : {"details", "message", "error"}) {
      const boost::json::value* text = value.get_object().if_contains(key);
      if (text && text->is_string()) return one_line(text->get_string());
    }
  }
  if (response.header("content-type").starts_with("text/html")) return "a web page, so it may be no registry";
  return "HTTP status " + std::to_string(response.status);
}

}  // namespace pintle::images
