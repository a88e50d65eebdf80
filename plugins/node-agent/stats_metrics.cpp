#include "plugins/node-agent/stats_metrics.hpp"

#include <cmath>
#include <cstdio>
#include <functional>

#include "plugins/node-agent/node_stats.hpp"

namespace pintle::agent {

namespace {

constexpr double kNanosecond = 1e-9;

double seconds(uint64_t nanoseconds) { return static_cast<double>(nanoseconds) * kNanosecond; }
double number(uint64_t value) { return static_cast<double>(value); }

std::string escaped(std::string_view value) {
  std::string text;
  for (const char c : value) {
    if (c == '\\' || c == '"') text += '\\';
    text += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return text;
}

std::string id_of(const PodUsage& pod) { return pod.cgroup.empty() ? "/" + pod.sandbox_id : pod.cgroup; }

/// One family of cAdvisor: a sample for the node, one for each pod and each container.
void each(MetricsText& text, const NodeStats& stats, const std::function<double(const ResourceUsage&)>& value,
          std::string_view extra_name = {}, std::string_view extra_value = {}) {
  const auto sample = [&](std::string_view container, std::string_view id, std::string_view image,
                          std::string_view name, std::string_view namespace_name, std::string_view pod,
                          const ResourceUsage& usage) {
    if (extra_name.empty())
      text.sample({{"container", container},
                   {"id", id},
                   {"image", image},
                   {"name", name},
                   {"namespace", namespace_name},
                   {"pod", pod}},
                  value(usage));
    else
      text.sample({{"container", container},
                   {extra_name, extra_value},
                   {"id", id},
                   {"image", image},
                   {"name", name},
                   {"namespace", namespace_name},
                   {"pod", pod}},
                  value(usage));
  };
  sample("", "/", "", "", "", "", stats.node.usage);
  for (const PodUsage& pod : stats.pods) {
    sample("", id_of(pod), "", "", pod.namespace_name, pod.name, pod.usage);
    for (const ContainerUsage& container : pod.containers)
      sample(container.name, id_of(pod) + "/" + container.id, container.image, container.id, pod.namespace_name,
             pod.name, container.usage);
  }
}

void network(MetricsText& text, const NodeStats& stats, std::string_view name, std::string_view help,
             const std::function<std::optional<uint64_t>(const InterfaceStats&)>& value) {
  text.family(name, "counter", help);
  const auto sample = [&](std::string_view id, std::string_view namespace_name, std::string_view pod,
                          std::string_view sandbox, const InterfaceStats& one) {
    if (const auto counted = value(one))
      text.sample({{"container", ""},
                   {"id", id},
                   {"image", ""},
                   {"interface", one.name},
                   {"name", sandbox},
                   {"namespace", namespace_name},
                   {"pod", pod}},
                  number(*counted));
  };
  for (const InterfaceStats& one : stats.node.interfaces) sample("/", "", "", "", one);
  for (const PodUsage& pod : stats.pods)
    for (const InterfaceStats& one : pod.interfaces)
      sample(id_of(pod), pod.namespace_name, pod.name, pod.sandbox_id, one);
}

void of_containers(MetricsText& text, const NodeStats& stats,
                   const std::function<std::optional<double>(const ContainerUsage&)>& value) {
  for (const PodUsage& pod : stats.pods)
    for (const ContainerUsage& container : pod.containers)
      if (const auto found = value(container))
        text.sample({{"container", container.name},
                     {"id", id_of(pod) + "/" + container.id},
                     {"image", container.image},
                     {"name", container.id},
                     {"namespace", pod.namespace_name},
                     {"pod", pod.name}},
                    *found);
}

}  // namespace

void MetricsText::family(std::string_view name, std::string_view type, std::string_view help) {
  name_ = name;
  head_ = "# HELP " + name_ + " " + std::string(help) + "\n# TYPE " + name_ + " " + std::string(type) + "\n";
}

void MetricsText::sample(std::initializer_list<Label> labels, double value) {
  text_ += head_;
  head_.clear();
  text_ += name_;
  bool first = true;
  for (const auto& [name, content] : labels) {
    text_ += first ? "{" : ",";
    first = false;
    text_ += std::string(name) + "=\"" + escaped(content) + "\"";
  }
  if (!first) text_ += "}";
  char digits[40];
  snprintf(digits, sizeof(digits), std::trunc(value) == value && std::fabs(value) < 1e15 ? " %.0f\n" : " %.15g\n",
           value);
  text_ += digits;
}

std::string cadvisor_metrics(const NodeStats& stats) {
  MetricsText text;
  text.family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.");
  each(
      text, stats, [](const ResourceUsage& usage) { return seconds(usage.cpu_nanoseconds); }, "cpu", "total");
  text.family("container_memory_usage_bytes", "gauge",
              "Current memory usage in bytes, including all memory regardless of when it was accessed.");
  each(text, stats, [](const ResourceUsage& usage) { return number(usage.memory); });
  text.family("container_memory_working_set_bytes", "gauge", "Current working set in bytes.");
  each(text, stats, [](const ResourceUsage& usage) { return number(usage.working_set); });
  text.family("container_memory_rss", "gauge", "Size of RSS in bytes.");
  each(text, stats, [](const ResourceUsage& usage) { return number(usage.anonymous); });
  text.family("container_memory_swap", "gauge", "Container swap usage in bytes.");
  each(text, stats, [](const ResourceUsage& usage) { return number(usage.swap); });
  text.family("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.");
  each(
      text, stats, [](const ResourceUsage& usage) { return number(usage.page_faults); }, "failure_type", "pgfault");
  each(
      text, stats, [](const ResourceUsage& usage) { return number(usage.major_page_faults); }, "failure_type",
      "pgmajfault");
  text.family("container_processes", "gauge", "Number of processes running inside the container.");
  for (const PodUsage& pod : stats.pods)
    text.sample({{"container", ""},
                 {"id", id_of(pod)},
                 {"image", ""},
                 {"name", ""},
                 {"namespace", pod.namespace_name},
                 {"pod", pod.name}},
                number(pod.processes));
  text.family("container_fs_usage_bytes", "gauge",
              "Number of bytes that are consumed by the container on this filesystem.");
  of_containers(text, stats, [](const ContainerUsage& container) -> std::optional<double> {
    if (!container.root.used && !container.logs.used) return std::nullopt;
    return number(container.root.used.value_or(0) + container.logs.used.value_or(0));
  });
  text.family("container_fs_limit_bytes", "gauge",
              "Number of bytes that can be consumed by the container on this filesystem.");
  of_containers(text, stats, [](const ContainerUsage& container) -> std::optional<double> {
    return container.root.capacity ? std::optional<double>(number(*container.root.capacity)) : std::nullopt;
  });
  text.family("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.");
  of_containers(text, stats, [](const ContainerUsage& container) -> std::optional<double> {
    return static_cast<double>(container.started_at) * kNanosecond;
  });
  using Interface = const InterfaceStats&;
  network(text, stats, "container_network_receive_bytes_total", "Cumulative count of bytes received.",
          [](Interface one) { return std::optional(one.received_bytes); });
  network(text, stats, "container_network_receive_packets_total", "Cumulative count of packets received.",
          [](Interface one) { return one.received_packets; });
  network(text, stats, "container_network_receive_errors_total",
          "Cumulative count of errors encountered while receiving.",
          [](Interface one) { return std::optional(one.received_errors); });
  network(text, stats, "container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.",
          [](Interface one) { return std::optional(one.sent_bytes); });
  network(text, stats, "container_network_transmit_packets_total", "Cumulative count of packets transmitted.",
          [](Interface one) { return one.sent_packets; });
  network(text, stats, "container_network_transmit_errors_total",
          "Cumulative count of errors encountered while transmitting.",
          [](Interface one) { return std::optional(one.sent_errors); });
  text.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
  text.sample({}, number(stats.node.cores));
  text.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
  text.sample({}, number(stats.node.memory_capacity));
  return text.text();
}

std::string resource_metrics(const NodeStats& stats) {
  MetricsText text;
  const auto containers = [&](const std::function<double(const ContainerUsage&)>& value) {
    for (const PodUsage& pod : stats.pods)
      for (const ContainerUsage& container : pod.containers)
        text.sample({{"container", container.name}, {"namespace", pod.namespace_name}, {"pod", pod.name}},
                    value(container));
  };
  const auto pods = [&](const std::function<double(const PodUsage&)>& value) {
    for (const PodUsage& pod : stats.pods)
      text.sample({{"namespace", pod.namespace_name}, {"pod", pod.name}}, value(pod));
  };
  text.family("container_cpu_usage_seconds_total", "counter",
              "Cumulative cpu time consumed by the container in core-seconds");
  containers([](const ContainerUsage& one) { return seconds(one.usage.cpu_nanoseconds); });
  text.family("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
  containers([](const ContainerUsage& one) { return number(one.usage.working_set); });
  text.family("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
  containers([](const ContainerUsage& one) { return static_cast<double>(one.started_at) * kNanosecond; });
  text.family("container_swap_usage_bytes", "gauge", "Current amount of the container swap usage in bytes");
  containers([](const ContainerUsage& one) { return number(one.usage.swap); });
  text.family("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
  text.sample({}, seconds(stats.node.usage.cpu_nanoseconds));
  text.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
  text.sample({}, number(stats.node.usage.working_set));
  text.family("node_swap_usage_bytes", "gauge", "Current swap usage of the node in bytes");
  text.sample({}, number(stats.node.usage.swap));
  text.family("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds");
  pods([](const PodUsage& pod) { return seconds(pod.usage.cpu_nanoseconds); });
  text.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
  pods([](const PodUsage& pod) { return number(pod.usage.working_set); });
  text.family("pod_swap_usage_bytes", "gauge", "Current amount of the pod swap usage in bytes");
  pods([](const PodUsage& pod) { return number(pod.usage.swap); });
  text.family("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
  text.sample({}, 0);
  text.family("scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
  text.sample({}, 0);
  return text.text();
}

std::string no_resource_metrics() {
  MetricsText text;
  for (const char* name : {"resource_scrape_error", "scrape_error"}) {
    text.family(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
    text.sample({}, 1);
  }
  return text.text();
}

}  // namespace pintle::agent
