#include "cri/pod_usage.hpp"

#include <sstream>

#include "sdk/support/files/files.hpp"

namespace pintle::cri {
namespace {

/// The cgroup of a process in a hierarchy that can tell its processes, from /proc/PID/cgroup (cgroups(7)).
std::string cgroup_of_process(int pid) {
  const Result<std::string> text = files::read_file("/proc/" + std::to_string(pid) + "/cgroup", 1u << 16);
  if (!text) return {};
  std::istringstream lines(*text);
  std::string unified;
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers == "pids") return path;
    if (controllers.empty()) unified = path;
  }
  return unified;
}

PodUsage measure_pod(const PodToMeasure& pod, const Result<cgroup::Layout>& layout) {
  PodUsage usage;
  if (layout) {
    if (!pod.cgroup.empty()) {
      if (Result<cgroup::Stats> stats = layout->stats(pod.cgroup); stats) usage.whole = *stats;
    }
    if (usage.whole) {
      if (const auto pids = layout->processes(pod.cgroup); pids) usage.processes = pids->size();
    } else {
      for (const int pid : pod.pids) {
        const std::string path = cgroup_of_process(pid);
        if (path.size() < 2) continue;
        if (const auto pids = layout->processes(path); pids) usage.processes += pids->size();
      }
    }
  }
  for (const int pid : pod.pids) {
    if (!pod.has_own_network || !usage.interfaces.empty()) break;
    if (const auto text = files::read_file("/proc/" + std::to_string(pid) + "/net/dev", 1u << 20); text)
      usage.interfaces = proc::parse_interfaces(*text);
  }
  return usage;
}

}  // namespace

std::vector<PodUsage> measure_pods(const std::vector<PodToMeasure>& pods) {
  // Read from the table of mounts, which is long where many pods run.
  const Result<cgroup::Layout> layout = cgroup::Layout::detect();
  std::vector<PodUsage> usages;
  for (const PodToMeasure& pod : pods) usages.push_back(measure_pod(pod, layout));
  return usages;
}

}  // namespace pintle::cri
