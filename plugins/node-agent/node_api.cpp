#include "plugins/node-agent/node_api.hpp"

#include <algorithm>
#include <boost/json.hpp>

#include "plugins/node-agent/agent.hpp"
#include "plugins/node-agent/node_stats.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

constexpr std::chrono::seconds kTryAgain{20}, kShortestWait{1};
constexpr const char* kListener = "node-api";
constexpr const char* kHealthListener = "node-api-health";

std::string address_of(const std::string& address, int port) {
  const bool is_six = address.find(':') != std::string::npos;
  return "tcp:" + (is_six ? "[" + address + "]" : address) + ":" + std::to_string(port);
}

http::Answer line(int status, std::string text) {
  return {.status = status, .body = std::move(text) + "\n", .headers = {}};
}

}  // namespace

std::string counted_path(const http::Request& request) {
  const std::vector<std::string>& parts = request.segments;
  const std::string& first = parts.front();
  if (first == "metrics" && parts.size() > 1 && !parts[1].empty())
    return parts[1] == "cadvisor" || parts[1] == "resource" || parts[1] == "probes" ? "metrics/" + parts[1] : "other";
  for (const char* known : {"healthz", "pods", "runningpods", "metrics", "stats", "containerLogs"})
    if (first == known) return first;
  return "other";
}

http::Answer status_answer(int code, const std::string& reason, const std::string& message) {
  const json::object status{{"kind", "Status"},
                            {"apiVersion", "v1"},
                            {"metadata", json::object()},
                            {"status", code < 300 ? "Success" : "Failure"},
                            {"message", message},
                            {"reason", reason},
                            {"code", code}};
  return {.status = code, .type = "application/json", .body = json::serialize(status) + "\n", .headers = {}};
}

NodeApi::NodeApi(Host& host, Agent& agent, StatsGatherer& stats, NodeApiSettings settings)
    : host_(host),
      agent_(agent),
      stats_(stats),
      settings_(std::move(settings)),
      server_(host, {.tls = true, .limits = {}}, [this](http::Exchange& exchange) { return serve(exchange); }),
      health_server_(host, {.tls = false, .limits = {.connections = 16}},
                     [this](http::Exchange& exchange) { return serve_health(exchange); }),
      wakeup_(host),
      ended_(host) {}

// ---- Life ------------------------------------------------------------------------------------------------------------------

void NodeApi::begin() {
  if (!settings_.enabled) {
    (void)host_.listen_end(kListener);
    (void)host_.listen_end(kHealthListener);
    return;
  }
  if (is_running_ || is_stopping_) return;
  is_running_ = true;
  host_.detach(run());
}

Task<void> NodeApi::stop() {
  is_stopping_ = true;
  wakeup_.notify();
  while (is_running_) {
    auto waiting = ended_.wait(std::nullopt);
    co_await waiting;
  }
  Task<void> stopping = server_.stop();
  co_await std::move(stopping);
  Task<void> stopping_health = health_server_.stop();
  co_await std::move(stopping_health);
}

Task<void> NodeApi::run() {
  std::string told;
  while (!is_stopping_) {
    Task<Status> renewing = renew();
    Status status = co_await std::move(renewing);
    if (is_stopping_) break;
    if (status && !is_listening_) {
      Task<Status> opening = open();
      status = co_await std::move(opening);
    }
    if (!is_health_listening_) listen_for_health();
    if (status.message() != told && !status)
      host_.error("the node API cannot be served: " + status.message() + "; it is tried again");
    told = status.message();
    host_.condition("NodeApiServing", status.is_ok(), status ? "Serving" : "Failed", status.message());
    WallTime next = status ? credentials_.look_again : WallClock::now() + kTryAgain;
    if (!is_health_listening_ && settings_.health_port > 0)
      next = std::min<WallTime>(next, WallClock::now() + kTryAgain);
    auto waiting = wakeup_.wait(std::max<WallTime>(next, WallClock::now() + kShortestWait));
    co_await waiting;
  }
  is_running_ = false;
  ended_.notify();
}

Task<Status> NodeApi::renew() {
  auto keep = [settings = settings_.credentials] { return keep_credentials(settings); };
  auto keeping = host_.blocking(std::move(keep));
  Result<Credentials> kept = co_await std::move(keeping);
  // What is served with now goes on being served while new credentials cannot be had.
  if (!kept) co_return kept.status();
  const bool differs = kept->certificate != credentials_.certificate || kept->key != credentials_.key ||
                       kept->client_authority != credentials_.client_authority;
  if (differs) {
    const http::TlsMaterial material{kept->certificate, kept->key, kept->client_authority};
    if (Status set = server_.set_certificate(material); !set) co_return set;
    if (is_listening_) host_.info("the node API has a new certificate");
  }
  credentials_ = std::move(*kept);
  co_return Status::ok();
}

Task<Status> NodeApi::open() {
  const std::string address = address_of(settings_.address, settings_.port);
  Result<UniqueFd> socket = host_.listen(kListener, address);
  if (!socket)
    co_return unavailable(
        "cannot listen on " + address +
        ": another program (a kubelet?) has the port, or the address is not this node's; set nodeApi.port "
        "or nodeApi.address of node-agent");
  if (Status listening = server_.listen(std::move(*socket)); !listening) co_return listening;
  is_listening_ = true;
  host_.info("the node API is served", {{"address", address.substr(4)}});
  co_return Status::ok();
}

void NodeApi::listen_for_health() {
  if (settings_.health_port == 0) {
    (void)host_.listen_end(kHealthListener);
    is_health_listening_ = true;
    return;
  }
  Result<UniqueFd> socket = host_.listen(kHealthListener, address_of("127.0.0.1", settings_.health_port));
  if (socket && health_server_.listen(std::move(*socket))) is_health_listening_ = true;
}

// ---- Requests --------------------------------------------------------------------------------------------------------------

http::Answer NodeApi::health() const {
  if (agent_.has_begun()) return {.body = "ok", .headers = {}};
  return line(500, "the agent does not act on pods");
}

std::optional<http::Answer> NodeApi::refuse(const http::Request& request) const {
  if (!request.client) {
    http::Answer answer = line(
        401, request.certificate_problem.empty()
                 ? "Unauthorized: this needs a client certificate of the node's authority (curl --cacert ca.crt --cert "
                   "admin.crt --key admin.key)"
                 : "Unauthorized: the client certificate does not hold: " + request.certificate_problem);
    // Whoever proves nothing does not hold a connection.
    answer.close = true;
    return answer;
  }
  const auto allowed = [this](const std::string& group) {
    return std::find(settings_.groups.begin(), settings_.groups.end(), group) != settings_.groups.end();
  };
  if (std::any_of(request.client->organizations.begin(), request.client->organizations.end(), allowed))
    return std::nullopt;
  return line(403, "Forbidden (user=" + request.client->common_name +
                       "): the certificate's organizations hold none of the groups that may use the node's API");
}

Task<void> NodeApi::serve_health(http::Exchange& exchange) {
  http::Answer answer = exchange.request().segments.front() == "healthz"
                            ? health()
                            : line(404, "404 page not found: here is only /healthz");
  Task<Status> answering = exchange.answer(std::move(answer));
  (void)co_await std::move(answering);
}

Task<void> NodeApi::serve(http::Exchange& exchange) {
  const http::Request& request = exchange.request();
  std::optional<http::Answer> refused = refuse(request);
  // Only methods of HTTP are counted by name: others could be any number.
  const bool is_known = request.method == "GET" || request.method == "POST" || request.method == "DELETE";
  ++requests_[{counted_path(request), is_known ? request.method : "other"}];
  if (!refused && request.segments.front() == "containerLogs") {
    Task<void> serving = serve_logs(exchange);
    co_await std::move(serving);
    co_return;
  }
  http::Answer answer;
  if (refused) {
    answer = std::move(*refused);
  } else {
    Task<http::Answer> routing = route(exchange);
    answer = co_await std::move(routing);
  }
  Task<Status> answering = exchange.answer(std::move(answer));
  (void)co_await std::move(answering);
}

Task<http::Answer> NodeApi::route(http::Exchange& exchange) {
  const http::Request& request = exchange.request();
  std::vector<std::string> parts = request.segments;
  if (parts.size() > 1 && parts.back().empty()) parts.pop_back();
  const std::string path = [&] {
    std::string joined;
    for (const std::string& part : parts) joined += "/" + part;
    return joined;
  }();
  const bool reads = request.method == "GET" || request.method == "HEAD";
  const auto only = [](const std::string& methods) {
    http::Answer answer = line(405, "405 method not allowed: " + methods);
    answer.headers.emplace_back("Allow", methods);
    return answer;
  };
  if (path == "/pods") {
    if (reads) co_return list_pods();
    if (request.method != "POST") co_return only("GET, POST");
    Task<http::Answer> posting = post_pods(exchange);
    co_return co_await std::move(posting);
  }
  if (parts.front() == "pods" && parts.size() == 3) {
    if (request.method != "DELETE") co_return only("DELETE");
    Task<http::Answer> deleting = delete_pod(request);
    co_return co_await std::move(deleting);
  }
  const bool is_known = path == "/healthz" || path == "/healthz/ping" || path == "/healthz/syncloop" ||
                        path == "/runningpods" || path == "/stats/summary" || path == "/metrics" ||
                        path == "/metrics/cadvisor" || path == "/metrics/resource" || path == "/metrics/probes";
  if (!is_known) co_return line(404, "404 page not found");
  if (!reads) co_return only("GET");
  if (parts.front() == "healthz") co_return health();
  if (path == "/metrics/probes") co_return probe_metrics();
  Task<http::Answer> answering = path == "/runningpods"     ? list_running_pods()
                                 : path == "/stats/summary" ? summary(request)
                                 : path == "/metrics"       ? metrics()
                                                            : gathered_metrics(path == "/metrics/cadvisor");
  co_return co_await std::move(answering);
}

}  // namespace pintle::agent
