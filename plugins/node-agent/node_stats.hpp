#pragma once

/// What the node, its pods and their containers use: gathered when somebody asks, for all who ask alike.
///
///     ask --> runtime's statistics, lists, image file systems (CRI) --+
///             /proc, file systems, sizes of volumes and logs ---------+--> NodeStats --> summary_json (/stats/summary, pintle top)
///                                                                                  \--> metrics (stats_metrics.hpp)
///
/// Counters (CPU time, network) only grow; who wants rates compares two answers. Sizes of volumes and logs are up to a minute old
/// (storage_meter.hpp), and are not looked for where only CPU and memory are asked for. Nothing is gathered while nobody asks.
///
/// Sources: /proc as of proc(5); Kubernetes' Summary API (k8s.io/kubelet/pkg/apis/stats/v1alpha1).

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/node-agent/manifests.hpp"

namespace pintle {
class Host;
}

namespace pintle::agent {

struct WorkerContext;

/// Times are nanoseconds since 1970, sizes bytes.
struct ResourceUsage {
  int64_t time = 0;
  uint64_t cpu_nanoseconds = 0;
  std::optional<uint64_t> nano_cores;
  uint64_t memory = 0, working_set = 0, anonymous = 0, page_faults = 0, major_page_faults = 0, swap = 0;
  std::optional<uint64_t> memory_available;
};

struct InterfaceStats {
  std::string name;
  uint64_t received_bytes = 0, received_errors = 0, sent_bytes = 0, sent_errors = 0;
  std::optional<uint64_t> received_packets, sent_packets;
};

struct FilesystemStats {
  int64_t time = 0;
  std::optional<uint64_t> capacity, available, used, inodes, inodes_free, inodes_used;
};

struct ContainerUsage {
  std::string id, name, image;
  int64_t started_at = 0;
  ResourceUsage usage;
  FilesystemStats root, logs;
};

struct PodUsage {
  std::string sandbox_id, namespace_name, name, uid;
  std::string cgroup;  ///< empty: none of its own
  int64_t started_at = 0;
  ResourceUsage usage;
  uint64_t processes = 0;
  std::vector<InterfaceStats> interfaces;  ///< the default one first
  std::vector<ContainerUsage> containers;
  std::map<std::string, FilesystemStats> volumes;  ///< by name
};

struct NodeUsage {
  std::string name;
  int64_t booted_at = 0;
  ResourceUsage usage;
  uint64_t cores = 0, memory_capacity = 0;
  uint64_t processes = 0, most_processes = 0;
  std::vector<InterfaceStats> interfaces;  ///< that of the default route first
  FilesystemStats root;
};

struct NodeStats {
  NodeUsage node;
  std::vector<PodUsage> pods;
  std::optional<FilesystemStats> image_filesystem;
};

/// The texts of /proc/stat (CPU time, nanoseconds), /proc/meminfo and /proc/vmstat into `usage`.
void read_cpu(std::string_view stat, uint64_t ticks_a_second, NodeUsage& node);
void read_memory(std::string_view meminfo, std::string_view vmstat, NodeUsage& node);

class StatsGatherer {
 public:
  StatsGatherer(Host& host, const WorkerContext& context) : host_(host), context_(context) {}

  /// UNAVAILABLE: the runtime does not answer.
  Task<Result<NodeStats>> gather(bool only_cpu_and_memory);

 private:
  Task<Status> ask_runtime(NodeStats& stats, bool only_cpu_and_memory, std::string& image_folder);

  Host& host_;
  const WorkerContext& context_;
};

/// Kubernetes' Summary as JSON.
std::string summary_json(const NodeStats& stats, bool only_cpu_and_memory);

}  // namespace pintle::agent
