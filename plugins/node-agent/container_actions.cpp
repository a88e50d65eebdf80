#include "plugins/node-agent/container_actions.hpp"

#include <algorithm>

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"

namespace pintle::agent {

namespace cri = ::runtime::v1;
using Kind = ProbeAnswer::Kind;

namespace {

constexpr std::chrono::milliseconds kLateAnswer{500};  // of a runtime that tells that the command took too long
constexpr int kMostRedirects = 10;                     // as Go's client follows
constexpr size_t kMostCommandOutput = 10 << 10;

/// A port's number, by itself or by the name of one of the container's ports; 0: there is none.
template <class Port>
int32_t port_of(const Port& port, const core::Container& container) {
  if (port.type() == 0) return port.int_val();
  for (const core::ContainerPort& known : container.ports())
    if (known.name() == port.str_val()) return known.container_port();
  return 0;
}

template <class Port>
ProbeAnswer no_port(const Port& port) {
  return {Kind::error, "the container has no port named \"" + port.str_val() + "\": add it to its ports"};
}

Task<ProbeAnswer> run_command(const cri::RuntimeServiceStub& runtime, std::string container_id,
                              const core::ExecAction& action, std::chrono::nanoseconds timeout, uint64_t* call_id) {
  cri::ExecSyncRequest request;
  request.set_container_id(std::move(container_id));
  for (const std::string& word : action.command()) request.add_cmd(word);
  request.set_timeout(std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::seconds>(timeout).count()));
  CallOptions options;
  options.timeout = timeout + kLateAnswer;
  options.call_id = call_id;
  auto running = runtime.ExecSync(request, std::move(options));
  Result<cri::ExecSyncResponse> answer = co_await running;
  if (call_id) *call_id = 0;
  if (answer) {
    const std::string output = answer->stdout() + answer->stderr();
    co_return judge_exec(answer->exit_code(), std::string_view(output).substr(0, kMostCommandOutput));
  }
  if (answer.status().code() == Code::deadline_exceeded)
    co_return ProbeAnswer{Kind::failure,
                          "command timed out: \"" + presentable(action.command(0), 64) + "\" timed out after " +
                              std::to_string(std::chrono::duration_cast<std::chrono::seconds>(timeout).count()) + "s"};
  co_return ProbeAnswer{Kind::error, presentable(answer.status().message(), 512)};
}

Task<ProbeAnswer> ask_http(WebClient& web, ActionTarget target, const core::HTTPGetAction& action,
                           std::chrono::nanoseconds timeout, bool judge) {
  const int32_t port = port_of(action.port(), *target.spec);
  if (port == 0) co_return no_port(action.port());
  const std::string host = url_host(action.host().empty() ? target.address : action.host());
  const std::string path = action.path().starts_with('/') ? action.path() : "/" + action.path();
  std::string url = (action.scheme() == "HTTPS" ? "https://" : "http://") + host + ":" + std::to_string(port) + path;
  const auto begun = std::chrono::steady_clock::now();
  for (int redirects = 0;; ++redirects) {
    WebRequest request;
    request.url = url;
    request.verify = false;
    request.may_cut = true;
    request.timeout = timeout - (std::chrono::steady_clock::now() - begun);
    bool has_agent = false, has_accept = false;
    for (const core::HTTPHeader& header : action.http_headers()) {
      std::string name = header.name();
      std::transform(name.begin(), name.end(), name.begin(),
                     [](char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
      has_agent = has_agent || name == "user-agent";
      has_accept = has_accept || name == "accept";
      request.headers.emplace_back(header.name(), header.value());
    }
    if (!has_agent) request.headers.emplace_back("User-Agent", "kube-probe/1.34");
    if (!has_accept) request.headers.emplace_back("Accept", "*/*");
    Task<Result<WebAnswer>> fetching = web.fetch(std::move(request));
    Result<WebAnswer> answer = co_await std::move(fetching);
    if (!answer) co_return ProbeAnswer{Kind::failure, "Get \"" + url + "\": " + answer.status().message()};
    // Only to the same host: a pod shall not send the node elsewhere.
    if (answer->redirect.empty() || host_in(answer->redirect) != host_in(url)) {
      if (!judge) co_return ProbeAnswer{Kind::success, ""};
      co_return judge_http(answer->status, answer->body);
    }
    if (redirects == kMostRedirects)
      co_return ProbeAnswer{Kind::failure, "Get \"" + url + "\": stopped after 10 redirects"};
    url = answer->redirect;
  }
}

Task<ProbeAnswer> connect_tcp(WebClient& web, ActionTarget target, const core::TCPSocketAction& action,
                              std::chrono::nanoseconds timeout) {
  const int32_t port = port_of(action.port(), *target.spec);
  if (port == 0) co_return no_port(action.port());
  const std::string place =
      url_host(action.host().empty() ? target.address : action.host()) + ":" + std::to_string(port);
  WebRequest request;
  request.url = "http://" + place;
  request.connect_only = true;
  request.timeout = timeout;
  Task<Result<WebAnswer>> fetching = web.fetch(std::move(request));
  Result<WebAnswer> answer = co_await std::move(fetching);
  if (answer) co_return ProbeAnswer{Kind::success, ""};
  co_return ProbeAnswer{Kind::failure, "dial tcp " + place + ": " + answer.status().message()};
}

Task<ProbeAnswer> ask_grpc(WebClient& web, ActionTarget target, const core::GRPCAction& action,
                           std::chrono::nanoseconds timeout) {
  const std::string place = url_host(target.address) + ":" + std::to_string(action.port());
  WebRequest request;
  request.url = "http://" + place + "/grpc.health.v1.Health/Check";
  request.http2 = true;
  request.may_cut = true;
  request.timeout = timeout;
  request.post = grpc_health_request(action.service());
  request.headers = {{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "kube-probe/1.34"}};
  Task<Result<WebAnswer>> fetching = web.fetch(std::move(request));
  Result<WebAnswer> answer = co_await std::move(fetching);
  if (!answer)
    co_return ProbeAnswer{Kind::failure,
                          "health rpc to " + place + " within the timeout: " + answer.status().message()};
  co_return judge_grpc(answer->status, answer->body, answer->headers["grpc-status"], answer->headers["grpc-message"]);
}

}  // namespace

Task<ProbeAnswer> run_probe(WebClient& web, const cri::RuntimeServiceStub& runtime, const ActionTarget& target,
                            const core::ProbeHandler& handler, std::chrono::nanoseconds timeout, uint64_t* call_id) {
  if (handler.has_exec()) return run_command(runtime, target.container_id, handler.exec(), timeout, call_id);
  if (handler.has_http_get()) return ask_http(web, target, handler.http_get(), timeout, true);
  if (handler.has_tcp_socket()) return connect_tcp(web, target, handler.tcp_socket(), timeout);
  return ask_grpc(web, target, handler.grpc(), timeout);
}

Task<ProbeAnswer> run_hook(WebClient& web, const cri::RuntimeServiceStub& runtime, const ActionTarget& target,
                           const core::LifecycleHandler& handler, std::chrono::nanoseconds timeout, uint64_t* call_id) {
  if (handler.has_exec()) return run_command(runtime, target.container_id, handler.exec(), timeout, call_id);
  if (handler.has_http_get()) return ask_http(web, target, handler.http_get(), timeout, false);
  return connect_tcp(web, target, handler.tcp_socket(), timeout);
}

}  // namespace pintle::agent
