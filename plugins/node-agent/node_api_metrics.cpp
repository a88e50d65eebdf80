// What the node counts, through the node API.

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <sstream>

#include "cri/api.pintle.hpp"
#include "plugins/node-agent/agent.hpp"
#include "plugins/node-agent/node_api.hpp"
#include "plugins/node-agent/node_stats.hpp"
#include "plugins/node-agent/stats_metrics.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

constexpr std::chrono::seconds kQuickCall{10};
constexpr const char* kType = "text/plain; version=0.0.4; charset=utf-8";

/// Our own metrics that kubelet has under another name.
struct Renamed {
  std::string_view ours, kubelets, type, help;
};
constexpr Renamed kRenamed[] = {
    {"node_agent_pod_start_seconds", "kubelet_pod_start_duration_seconds", "histogram",
     "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run"},
    {"node_agent_container_starts_total", "kubelet_started_containers_total", "counter",
     "Cumulative number of containers started"},
};

/// The samples of one of the agent's metrics under its other name, without the label that names the plugin.
std::string renamed(const std::string& text, const Renamed& metric, std::string_view plugin) {
  const std::string label = "plugin=\"" + std::string(plugin) + "\"";
  std::string samples;
  std::istringstream lines(text);
  for (std::string one; std::getline(lines, one);) {
    if (!one.starts_with(metric.ours)) continue;
    const size_t open = one.find('{'), at = one.find(label);
    if (open == std::string::npos || at != open + 1) continue;
    const size_t behind = at + label.size();
    const bool is_last = behind < one.size() && one[behind] == '}';
    samples += std::string(metric.kubelets) + one.substr(metric.ours.size(), open - metric.ours.size());
    samples += is_last ? one.substr(behind + 1) : "{" + one.substr(behind + 1);
    samples += '\n';
  }
  if (samples.empty()) return samples;
  return "# HELP " + std::string(metric.kubelets) + " " + std::string(metric.help) + "\n# TYPE " +
         std::string(metric.kubelets) + " " + std::string(metric.type) + "\n" + samples;
}

/// What every Prometheus client tells of its process.
struct ProcessFacts {
  double cpu_seconds = 0, resident_bytes = 0, virtual_bytes = 0, started_at = 0;
  double open_files = 0, most_open_files = 0;
};

ProcessFacts process_facts() {
  ProcessFacts facts;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  facts.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  if (const auto text = files::read_file("/proc/self/statm", 4096)) {
    std::istringstream numbers(*text);
    double size = 0, resident = 0;
    numbers >> size >> resident;
    facts.virtual_bytes = size * page;
    facts.resident_bytes = resident * page;
  }
  if (const auto folder = files::open_folder("/proc/self/fd"))
    if (const auto names = files::list_folder(folder->get())) facts.open_files = static_cast<double>(names->size());
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  facts.most_open_files = static_cast<double>(limit.rlim_cur);
  const auto stat = files::read_file("/proc/self/stat", 4096), node = files::read_file("/proc/stat", 1 << 20);
  if (stat && node) {
    // The name in brackets may hold anything; starttime is the 20th field behind it (proc(5)).
    std::istringstream fields(stat->substr(stat->rfind(')') + 1));
    std::string field;
    for (int i = 0; i < 20; ++i) fields >> field;
    const size_t boot = node->find("\nbtime ");
    if (boot != std::string::npos && !field.empty())
      facts.started_at =
          std::stod(node->substr(boot + 7)) + std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  return facts;
}

}  // namespace

Task<http::Answer> NodeApi::metrics() {
  Task<Result<std::string>> asking = host_.metrics_text();
  const Result<std::string> known = co_await std::move(asking);
  cri::ListContainersRequest ask;
  auto asking_containers = agent_.context().runtime->ListContainers(ask, {.timeout = kQuickCall});
  const Result<cri::ListContainersResponse> containers = co_await asking_containers;
  cri::ListPodSandboxRequest ask_pods;
  ask_pods.mutable_filter()->mutable_state()->set_state(cri::SANDBOX_READY);
  auto asking_pods = agent_.context().runtime->ListPodSandbox(ask_pods, {.timeout = kQuickCall});
  const Result<cri::ListPodSandboxResponse> sandboxes = co_await asking_pods;
  auto look = [] { return process_facts(); };
  auto looking = host_.blocking(std::move(look));
  const ProcessFacts process = co_await std::move(looking);

  MetricsText text;
  text.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
  text.sample({{"node", host_.node()}}, 1);
  if (containers) {
    std::map<std::string, double> states{{"created", 0}, {"exited", 0}, {"running", 0}, {"unknown", 0}};
    for (const cri::Container& container : containers->containers())
      ++states[container.state() == cri::CONTAINER_RUNNING   ? "running"
               : container.state() == cri::CONTAINER_EXITED  ? "exited"
               : container.state() == cri::CONTAINER_CREATED ? "created"
                                                             : "unknown"];
    text.family("kubelet_running_containers", "gauge", "Number of containers currently running");
    for (const auto& [state, count] : states) text.sample({{"container_state", state}}, count);
  }
  if (sandboxes) {
    text.family("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    text.sample({}, sandboxes->items_size());
  }
  const int pods = agent_.list({}).pods_size();
  for (const auto& [name, help] :
       {std::pair("kubelet_desired_pods", "The number of pods the node is instructed to run."),
        std::pair("kubelet_active_pods", "The number of pods the node considers active.")}) {
    text.family(name, "gauge", help);
    text.sample({{"static", "true"}}, pods);
  }
  text.family("kubelet_http_requests_total", "counter",
              "Number of the http requests received since the server started");
  for (const auto& [request, count] : requests_)
    text.sample({{"long_running", request.first == "containerLogs" ? "true" : "false"},
                 {"method", request.second},
                 {"path", request.first},
                 {"server_type", "readwrite"}},
                static_cast<double>(count));
  text.family("kubelet_certificate_manager_server_ttl_seconds", "gauge",
              "Gauge of the shortest TTL (time-to-live) of the serving certificate in seconds");
  text.sample({}, std::chrono::duration<double>(credentials_.expires - WallClock::now()).count());
  text.family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
  text.sample({}, process.cpu_seconds);
  text.family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
  text.sample({}, process.resident_bytes);
  text.family("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.");
  text.sample({}, process.virtual_bytes);
  text.family("process_open_fds", "gauge", "Number of open file descriptors.");
  text.sample({}, process.open_files);
  text.family("process_max_fds", "gauge", "Maximum number of open file descriptors.");
  text.sample({}, process.most_open_files);
  text.family("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.");
  text.sample({}, process.started_at);

  http::Answer answer{.type = kType, .body = text.text(), .headers = {}};
  if (known) {
    for (const Renamed& metric : kRenamed) answer.body += renamed(*known, metric, host_.name());
    answer.body += *known;
  }
  co_return answer;
}

Task<http::Answer> NodeApi::gathered_metrics(bool cadvisor) {
  Task<Result<NodeStats>> gathering = stats_.gather(!cadvisor);
  const Result<NodeStats> stats = co_await std::move(gathering);
  if (!stats && cadvisor) co_return http::Answer{.status = 500, .body = stats.status().message() + "\n", .headers = {}};
  co_return http::Answer{.type = kType,
                         .body = cadvisor ? cadvisor_metrics(*stats)
                                 : stats  ? resource_metrics(*stats)
                                          : no_resource_metrics(),
                         .headers = {}};
}

http::Answer NodeApi::probe_metrics() const {
  MetricsText text;
  text.family("prober_probe_total", "counter",
              "Cumulative number of a liveness, readiness or startup probe for a container by result.");
  for (const auto& [what, count] : agent_.context().probes) {
    const auto& [uid, key, container, kind, result] = what;
    const size_t slash = key.find('/');
    text.sample({{"container", container},
                 {"namespace", std::string_view(key).substr(0, slash)},
                 {"pod", std::string_view(key).substr(slash + 1)},
                 {"pod_uid", uid},
                 {"probe_type", kind},
                 {"result", result}},
                static_cast<double>(count));
  }
  return {.type = kType, .body = text.text(), .headers = {}};
}

Task<http::Answer> NodeApi::summary(const http::Request& request) {
  const std::string* only = request.parameter("only_cpu_and_memory");
  const bool is_short = only && *only != "false" && *only != "0";
  Task<Result<NodeStats>> gathering = stats_.gather(is_short);
  const Result<NodeStats> stats = co_await std::move(gathering);
  if (!stats) co_return http::Answer{.status = 500, .body = stats.status().message() + "\n", .headers = {}};
  co_return http::Answer{.type = "application/json", .body = summary_json(*stats, is_short) + "\n", .headers = {}};
}

}  // namespace pintle::agent
