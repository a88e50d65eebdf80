// Kubernetes' Summary: k8s.io/kubelet/pkg/apis/stats/v1alpha1.

#include <boost/json.hpp>

#include "plugins/node-agent/node_stats.hpp"
#include "sdk/api/time.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

std::string time_of(int64_t nanoseconds) { return api::format_time(api::instant_of_nanoseconds(nanoseconds)); }

void add(json::object& to, std::string_view name, const std::optional<uint64_t>& value) {
  if (value) to[name] = *value;
}

json::object cpu_of(const ResourceUsage& usage) {
  json::object cpu{{"time", time_of(usage.time)}};
  add(cpu, "usageNanoCores", usage.nano_cores);
  cpu["usageCoreNanoSeconds"] = usage.cpu_nanoseconds;
  return cpu;
}

json::object memory_of(const ResourceUsage& usage) {
  json::object memory{{"time", time_of(usage.time)}};
  add(memory, "availableBytes", usage.memory_available);
  memory["usageBytes"] = usage.memory;
  memory["workingSetBytes"] = usage.working_set;
  memory["rssBytes"] = usage.anonymous;
  memory["pageFaults"] = usage.page_faults;
  memory["majorPageFaults"] = usage.major_page_faults;
  return memory;
}

json::object swap_of(const ResourceUsage& usage) {
  return {{"time", time_of(usage.time)}, {"swapUsageBytes", usage.swap}};
}

json::object interface_of(const InterfaceStats& one) {
  return {{"name", one.name},
          {"rxBytes", one.received_bytes},
          {"rxErrors", one.received_errors},
          {"txBytes", one.sent_bytes},
          {"txErrors", one.sent_errors}};
}

/// The default interface's numbers stand beside the list of all.
json::object network_of(const std::vector<InterfaceStats>& interfaces, int64_t time) {
  json::object network{{"time", time_of(time)}};
  for (auto& member : interface_of(interfaces.front())) network[member.key()] = member.value();
  json::array all;
  for (const InterfaceStats& one : interfaces) all.push_back(interface_of(one));
  network["interfaces"] = std::move(all);
  return network;
}

json::object filesystem_of(const FilesystemStats& stats) {
  json::object filesystem{{"time", time_of(stats.time)}};
  add(filesystem, "availableBytes", stats.available);
  add(filesystem, "capacityBytes", stats.capacity);
  add(filesystem, "usedBytes", stats.used);
  add(filesystem, "inodesFree", stats.inodes_free);
  add(filesystem, "inodes", stats.inodes);
  add(filesystem, "inodesUsed", stats.inodes_used);
  return filesystem;
}

json::object pod_of(const PodUsage& pod, bool only_cpu_and_memory) {
  json::array containers;
  FilesystemStats ephemeral;
  ephemeral.time = pod.usage.time;
  ephemeral.used = 0;
  ephemeral.inodes_used = 0;
  const auto count = [&](const FilesystemStats& stats) {
    *ephemeral.used += stats.used.value_or(0);
    *ephemeral.inodes_used += stats.inodes_used.value_or(0);
  };
  for (const ContainerUsage& container : pod.containers) {
    json::object one{{"name", container.name},
                     {"startTime", time_of(container.started_at)},
                     {"cpu", cpu_of(container.usage)},
                     {"memory", memory_of(container.usage)}};
    if (!only_cpu_and_memory) {
      one["rootfs"] = filesystem_of(container.root);
      one["logs"] = filesystem_of(container.logs);
      one["swap"] = swap_of(container.usage);
      count(container.root);
      count(container.logs);
      ephemeral.capacity = container.root.capacity;
      ephemeral.available = container.root.available;
    }
    containers.push_back(std::move(one));
  }
  json::object out{{"podRef", json::object{{"name", pod.name}, {"namespace", pod.namespace_name}, {"uid", pod.uid}}},
                   {"startTime", time_of(pod.started_at)},
                   {"containers", std::move(containers)},
                   {"cpu", cpu_of(pod.usage)},
                   {"memory", memory_of(pod.usage)}};
  if (only_cpu_and_memory) return out;
  if (!pod.interfaces.empty()) out["network"] = network_of(pod.interfaces, pod.usage.time);
  json::array volumes;
  for (const auto& [name, stats] : pod.volumes) {
    json::object volume = filesystem_of(stats);
    volume["name"] = name;
    volumes.push_back(std::move(volume));
    count(stats);
  }
  if (!volumes.empty()) out["volume"] = std::move(volumes);
  out["ephemeral-storage"] = filesystem_of(ephemeral);
  out["process_stats"] = json::object{{"process_count", pod.processes}};
  out["swap"] = swap_of(pod.usage);
  return out;
}

}  // namespace

std::string summary_json(const NodeStats& stats, bool only_cpu_and_memory) {
  const NodeUsage& node = stats.node;
  json::object out{{"nodeName", node.name},
                   {"startTime", time_of(node.booted_at)},
                   {"cpu", cpu_of(node.usage)},
                   {"memory", memory_of(node.usage)}};
  if (!only_cpu_and_memory) {
    if (!node.interfaces.empty()) out["network"] = network_of(node.interfaces, node.usage.time);
    out["fs"] = filesystem_of(node.root);
    if (stats.image_filesystem) {
      const json::object images = filesystem_of(*stats.image_filesystem);
      out["runtime"] = json::object{{"imageFs", images}, {"containerFs", images}};
    }
    out["rlimit"] =
        json::object{{"time", time_of(node.usage.time)}, {"maxpid", node.most_processes}, {"curproc", node.processes}};
    out["swap"] = swap_of(node.usage);
  }
  json::array pods;
  for (const PodUsage& pod : stats.pods) pods.push_back(pod_of(pod, only_cpu_and_memory));
  return json::serialize(json::object{{"node", std::move(out)}, {"pods", std::move(pods)}});
}

}  // namespace pintle::agent
