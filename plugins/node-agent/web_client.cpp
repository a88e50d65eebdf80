#include "plugins/node-agent/web_client.hpp"

#include <curl/curl.h>
#include <poll.h>

#include <algorithm>
#include <cctype>
#include <mutex>

#include "plugins/node-agent/wakeup.hpp"

namespace pintle::agent {

namespace {

constexpr size_t kMostHeaderBytes = 64 << 10;

struct Transfer {
  explicit Transfer(Host& host) : done(host) {}
  ~Transfer() {
    if (easy) curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
  }
  Transfer(const Transfer&) = delete;

  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  WebRequest request;
  WebAnswer answer;
  char error[CURL_ERROR_SIZE] = {};
  CURLcode result = CURLE_OK;
  size_t header_bytes = 0;
  bool is_cut = false, is_cancelled = false, has_ended = false;
  Wakeup done;
};

size_t take_body(char* bytes, size_t, size_t count, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  const size_t room = transfer.request.most_body - transfer.answer.body.size();
  transfer.answer.body.append(bytes, std::min(room, count));
  if (count <= room) return count;
  transfer.is_cut = true;
  return 0;  // ends the transfer
}

size_t take_header(char* bytes, size_t, size_t count, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  transfer.header_bytes += count;
  if (transfer.header_bytes > kMostHeaderBytes) return 0;
  std::string_view line(bytes, count);
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return count;
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  line.remove_prefix(colon + 1);
  while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  transfer.answer.headers[name] = std::string(line);
  return count;
}

}  // namespace

struct WebClient::Core : std::enable_shared_from_this<WebClient::Core> {
  explicit Core(Host& the_host) : host(the_host) {
    static std::once_flag once;
    std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, &Core::socket_changed);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, this);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, &Core::timer_changed);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, this);
  }
  ~Core() {
    watches.clear();
    timer.cancel();
    curl_multi_cleanup(multi);
  }

  static int socket_changed(CURL*, curl_socket_t socket, int what, void* context, void*) {
    auto& core = *static_cast<Core*>(context);
    core.watches.erase(socket);
    if (what == CURL_POLL_REMOVE) return 0;
    uint32_t events = 0;
    if (what & CURL_POLL_IN) events |= POLLIN;
    if (what & CURL_POLL_OUT) events |= POLLOUT;
    Result<Watch> watch = core.host.watch(socket, events, [self = core.weak_from_this(), socket](uint32_t ready) {
      if (const auto alive = self.lock()) alive->act(socket, ready);
    });
    if (!watch) return -1;
    core.watches.emplace(socket, std::move(*watch));
    return 0;
  }

  static int timer_changed(CURLM*, long milliseconds, void* context) {
    auto& core = *static_cast<Core*>(context);
    core.timer.cancel();
    if (milliseconds < 0) return 0;
    core.timer = core.host.timer(std::chrono::milliseconds(std::max(milliseconds, 1L)), [self = core.weak_from_this()] {
      if (const auto alive = self.lock()) alive->act(CURL_SOCKET_TIMEOUT, 0);
    });
    return 0;
  }

  void act(curl_socket_t socket, uint32_t ready) {
    int mask = 0, running = 0;
    if (ready & (POLLIN | POLLHUP)) mask |= CURL_CSELECT_IN;
    if (ready & POLLOUT) mask |= CURL_CSELECT_OUT;
    if (ready & POLLERR) mask |= CURL_CSELECT_ERR;
    curl_multi_socket_action(multi, socket, mask, &running);
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      CURL* easy = message->easy_handle;
      const CURLcode result = message->data.result;
      const auto found =
          std::find_if(transfers.begin(), transfers.end(), [&](const auto& one) { return one->easy == easy; });
      if (found != transfers.end()) finish(*found, result);
    }
  }

  void finish(std::shared_ptr<Transfer> transfer, CURLcode result) {
    std::erase(transfers, transfer);
    curl_multi_remove_handle(multi, transfer->easy);
    transfer->result = result;
    transfer->has_ended = true;
    transfer->done.notify();
  }

  Host& host;
  CURLM* multi = nullptr;
  std::map<curl_socket_t, Watch> watches;
  Timer timer;
  std::vector<std::shared_ptr<Transfer>> transfers;
  bool is_closed = false;
};

WebClient::WebClient(Host& host) : core_(std::make_shared<Core>(host)) {}
WebClient::~WebClient() { close(); }

void WebClient::close() {
  core_->is_closed = true;
  while (!core_->transfers.empty()) {
    const std::shared_ptr<Transfer> transfer = core_->transfers.back();
    transfer->is_cancelled = true;
    core_->finish(transfer, CURLE_ABORTED_BY_CALLBACK);
  }
}

Task<Result<WebAnswer>> WebClient::fetch(WebRequest request) {
  const std::shared_ptr<Core> core = core_;
  if (core->is_closed) co_return cancelled("the agent ends");
  const auto transfer = std::make_shared<Transfer>(core->host);
  transfer->request = std::move(request);
  const WebRequest& wanted = transfer->request;
  CURL* easy = transfer->easy = curl_easy_init();
  if (!easy) co_return resource_exhausted("no memory for a connection");
  const long timeout = std::max<long>(
      1, static_cast<long>(std::chrono::duration_cast<std::chrono::milliseconds>(wanted.timeout).count()));
  curl_easy_setopt(easy, CURLOPT_URL, wanted.url.c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_PROXY, "");
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, timeout);
  curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
  curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &take_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer.get());
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &take_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer.get());
  if (wanted.connect_only) curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
  if (wanted.http2) curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
  if (!wanted.http2) curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
  if (!wanted.verify) {
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
  } else if (!wanted.authority.empty()) {
    curl_easy_setopt(easy, CURLOPT_CAINFO, wanted.authority.c_str());
  }
  if (!wanted.post.empty()) {
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, wanted.post.data());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(wanted.post.size()));
  }
  for (const auto& [name, value] : wanted.headers)
    transfer->headers = curl_slist_append(transfer->headers, (name + (value.empty() ? ";" : ": " + value)).c_str());
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);

  if (curl_multi_add_handle(core->multi, easy) != CURLM_OK) co_return internal_error("libcurl takes no request");
  core->transfers.push_back(transfer);
  while (!transfer->has_ended) {
    auto waiting = transfer->done.wait(std::nullopt);
    co_await waiting;
  }
  if (transfer->is_cancelled) co_return cancelled("the agent ends");
  const std::string why = transfer->error[0] ? transfer->error : curl_easy_strerror(transfer->result);
  if (transfer->is_cut && !wanted.may_cut)
    co_return resource_exhausted("the answer has more than " + std::to_string(wanted.most_body) + " bytes");
  if (transfer->result == CURLE_OPERATION_TIMEDOUT)
    co_return deadline_exceeded("no answer within " + std::to_string(timeout) + " ms");
  if (transfer->result != CURLE_OK && !transfer->is_cut) co_return unavailable(why);
  long status = 0;
  const char* redirect = nullptr;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(easy, CURLINFO_REDIRECT_URL, &redirect);
  transfer->answer.status = static_cast<int>(status);
  if (redirect) transfer->answer.redirect = redirect;
  co_return std::move(transfer->answer);
}

std::string url_host(const std::string& host) {
  return host.find(':') != std::string::npos && host.front() != '[' ? "[" + host + "]" : host;
}

std::string host_in(const std::string& url) {
  CURLU* parsed = curl_url();
  char* part = nullptr;
  std::string host;
  if (parsed && curl_url_set(parsed, CURLUPART_URL, url.c_str(), 0) == CURLUE_OK &&
      curl_url_get(parsed, CURLUPART_HOST, &part, 0) == CURLUE_OK)
    host = part;
  curl_free(part);
  curl_url_cleanup(parsed);
  std::transform(host.begin(), host.end(), host.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return host;
}

}  // namespace pintle::agent
