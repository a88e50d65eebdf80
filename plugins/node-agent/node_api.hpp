#pragma once

/// The node's API over HTTPS, port 10250: what kubelet answers, to the letter where clients read it.
///
///     GET  /healthz /healthz/ping /healthz/syncloop    "ok"
///     GET  /pods                                       a PodList of all pods, with their status
///     GET  /runningpods/                               a PodList of what the runtime has
///     POST /pods                                       a Pod, PodList or List, YAML or JSON: kept and run (posted_manifests.hpp)
///     DELETE /pods/{namespace}/{name}                  ends one that was posted; gracePeriodSeconds in the query
///     GET  /containerLogs/{namespace}/{pod}/{container}  log_reader.hpp tells its query
///     GET  /stats/summary                              Kubernetes' Summary; only_cpu_and_memory=true
///     GET  /metrics /metrics/cadvisor /metrics/resource /metrics/probes
///
/// Who may. Everybody needs a client certificate of the authority (node_credentials.hpp): without one every path is answered 401, with one
/// of a user in none of the allowed groups 403. Only /healthz is told without, on the loopback's health port and in plain HTTP, as kubelet
/// does it.
///
/// Errors of POST and DELETE are Kubernetes' Status objects, others one line of text.
///
/// Life. It serves while its agent acts on pods; another instance's requests wait in the listening socket until this one takes over.
///
///     begin -> credentials -> listening <--> renewing credentials (timer)
///                 ^               |
///                 +-- 20 s later -+ what fails is told by the condition NodeApiServing, and tried again
///
/// All on the plugin's lane.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <pintle/host.hpp>
#include <string>
#include <vector>

#include "plugins/node-agent/node_credentials.hpp"
#include "plugins/node-agent/wakeup.hpp"
#include "sdk/support/http_server/http_server.hpp"

namespace pintle::agent {

class Agent;
class StatsGatherer;

struct NodeApiSettings {
  bool enabled = false;
  std::string address = "0.0.0.0";
  int port = 10250;
  int health_port = 10248;  ///< on 127.0.0.1; 0: none
  bool accepts_manifests = true;
  std::vector<std::string> groups = {"system:masters"};
  CredentialSettings credentials;
};

class NodeApi {
 public:
  NodeApi(Host& host, Agent& agent, StatsGatherer& stats, NodeApiSettings settings);

  /// The agent acts from now on.
  void begin();
  Task<void> stop();

 private:
  Task<void> run();
  Task<Status> renew();
  Task<Status> open();
  void listen_for_health();

  Task<void> serve(http::Exchange& exchange);
  Task<void> serve_health(http::Exchange& exchange);
  Task<http::Answer> route(http::Exchange& exchange);
  std::optional<http::Answer> refuse(const http::Request& request) const;
  http::Answer health() const;

  // node_api_pods.cpp
  http::Answer list_pods() const;
  Task<http::Answer> list_running_pods();
  Task<http::Answer> post_pods(http::Exchange& exchange);
  Task<http::Answer> delete_pod(const http::Request& request);

  // node_api_logs.cpp
  Task<void> serve_logs(http::Exchange& exchange);

  // node_api_metrics.cpp
  Task<http::Answer> metrics();
  Task<http::Answer> gathered_metrics(bool cadvisor);
  http::Answer probe_metrics() const;
  Task<http::Answer> summary(const http::Request& request);

  Host& host_;
  Agent& agent_;
  StatsGatherer& stats_;
  NodeApiSettings settings_;
  http::Server server_, health_server_;
  Credentials credentials_;
  bool is_listening_ = false, is_health_listening_ = false, is_stopping_ = false, is_running_ = false;
  Wakeup wakeup_, ended_;
  std::map<std::pair<std::string, std::string>, uint64_t> requests_;  ///< by path of the API and method
};

/// The path of a request as it is counted: what stands for names is left out, and what is not served is "other".
std::string counted_path(const http::Request& request);

/// A Kubernetes Status of a failure, with one line.
http::Answer status_answer(int code, const std::string& reason, const std::string& message);

}  // namespace pintle::agent
