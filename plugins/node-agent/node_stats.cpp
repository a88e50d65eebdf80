#include "plugins/node-agent/node_stats.hpp"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "cri/api.pintle.hpp"
#include "plugins/node-agent/pod_worker.hpp"
#include "plugins/node-agent/storage_meter.hpp"
#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/proc/interfaces.hpp"

namespace pintle::agent {

namespace {

constexpr std::chrono::seconds kPatience{10};

int64_t now_nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(WallClock::now().time_since_epoch()).count();
}

std::string text_of(const std::string& path) {
  Result<std::string> text = files::read_file(path, 1 << 20);
  return text ? std::move(*text) : std::string();
}

/// The number behind "NAME:" or "NAME " at the beginning of a line.
uint64_t number_after(std::string_view text, std::string_view name) {
  for (size_t at = text.find(name); at != std::string_view::npos; at = text.find(name, at + 1)) {
    const size_t behind = at + name.size();
    if ((at > 0 && text[at - 1] != '\n') || behind >= text.size() || (text[behind] != ':' && text[behind] != ' '))
      continue;
    const size_t digits = text.find_first_of("0123456789", behind);
    uint64_t number = 0;
    if (digits != std::string_view::npos) std::from_chars(text.data() + digits, text.data() + text.size(), number);
    return number;
  }
  return 0;
}

FilesystemStats filesystem_of(const std::string& folder, int64_t now) {
  FilesystemStats stats;
  struct statvfs info {};
  if (folder.empty() || statvfs(folder.c_str(), &info) != 0) return stats;
  stats.time = now;
  stats.capacity = info.f_blocks * info.f_frsize;
  stats.available = info.f_bavail * info.f_frsize;
  stats.used = (info.f_blocks - info.f_bfree) * info.f_frsize;
  stats.inodes = info.f_files;
  stats.inodes_free = info.f_ffree;
  stats.inodes_used = info.f_files - info.f_ffree;
  return stats;
}

/// A tree's own size on its file system.
FilesystemStats tree_of(const std::string& path, const PodStorage::Tree& tree, int64_t time) {
  FilesystemStats stats = filesystem_of(path, time);
  stats.time = time;
  stats.used = tree.bytes;
  stats.inodes_used = tree.inodes;
  return stats;
}

std::vector<InterfaceStats> node_interfaces(const std::string& net_dev) {
  std::vector<InterfaceStats> interfaces;
  for (const proc::InterfaceCounters& one : proc::parse_interfaces(net_dev))
    interfaces.push_back({one.name, one.received_bytes, one.received_errors, one.sent_bytes, one.sent_errors,
                          one.received_packets, one.sent_packets});
  return interfaces;
}

/// The interface of the default route, from /proc/net/route.
std::string default_interface(const std::string& routes) {
  std::istringstream lines(routes);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string name, destination;
    if (fields >> name >> destination && destination == "00000000") return name;
  }
  return {};
}

void put_first(std::vector<InterfaceStats>& interfaces, const std::string& name) {
  std::stable_partition(interfaces.begin(), interfaces.end(),
                        [&](const InterfaceStats& one) { return one.name == name; });
}

template <class Cpu, class Memory>
ResourceUsage usage_of(const Cpu& cpu, const Memory& memory) {
  ResourceUsage usage;
  usage.time = std::max(cpu.timestamp(), memory.timestamp());
  usage.cpu_nanoseconds = cpu.usage_core_nano_seconds().value();
  if (cpu.has_usage_nano_cores()) usage.nano_cores = cpu.usage_nano_cores().value();
  usage.memory = memory.usage_bytes().value();
  usage.working_set = memory.working_set_bytes().value();
  usage.anonymous = memory.rss_bytes().value();
  usage.page_faults = memory.page_faults().value();
  usage.major_page_faults = memory.major_page_faults().value();
  if (memory.has_available_bytes()) usage.memory_available = memory.available_bytes().value();
  return usage;
}

InterfaceStats interface_of(const cri::NetworkInterfaceUsage& usage) {
  return {usage.name(),
          usage.rx_bytes().value(),
          usage.rx_errors().value(),
          usage.tx_bytes().value(),
          usage.tx_errors().value(),
          {},
          {}};
}

PodUsage pod_of(const cri::PodSandboxStats& sandbox) {
  PodUsage pod;
  const cri::PodSandboxAttributes& attributes = sandbox.attributes();
  pod.sandbox_id = attributes.id();
  pod.namespace_name = attributes.metadata().namespace_();
  pod.name = attributes.metadata().name();
  pod.uid = attributes.metadata().uid();
  const cri::LinuxPodSandboxStats& used = sandbox.linux();
  pod.usage = usage_of(used.cpu(), used.memory());
  pod.processes = used.process().process_count().value();
  if (used.network().has_default_interface())
    pod.interfaces.push_back(interface_of(used.network().default_interface()));
  for (const cri::NetworkInterfaceUsage& one : used.network().interfaces()) pod.interfaces.push_back(interface_of(one));
  for (const cri::ContainerStats& one : used.containers()) {
    ContainerUsage& container = pod.containers.emplace_back();
    container.id = one.attributes().id();
    container.name = one.attributes().metadata().name();
    container.usage = usage_of(one.cpu(), one.memory());
    container.usage.swap = one.swap().swap_usage_bytes().value();
    container.root.time = one.writable_layer().timestamp();
    if (one.has_writable_layer()) {
      container.root.used = one.writable_layer().used_bytes().value();
      container.root.inodes_used = one.writable_layer().inodes_used().value();
    }
    pod.usage.swap += container.usage.swap;
  }
  return pod;
}

}  // namespace

void read_cpu(std::string_view stat, uint64_t ticks_a_second, NodeUsage& node) {
  std::istringstream lines{std::string(stat)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string name;
    fields >> name;
    if (name == "cpu") {
      // user nice system idle iowait irq softirq steal; guest time is in user time already.
      uint64_t ticks[8] = {}, busy = 0;
      for (uint64_t& one : ticks) fields >> one;
      for (const size_t i : {0, 1, 2, 5, 6, 7}) busy += ticks[i];
      node.usage.cpu_nanoseconds = busy * (1'000'000'000 / std::max<uint64_t>(ticks_a_second, 1));
    } else if (name.starts_with("cpu")) {
      ++node.cores;
    } else if (name == "btime") {
      uint64_t seconds = 0;
      fields >> seconds;
      node.booted_at = static_cast<int64_t>(seconds) * 1'000'000'000;
    }
  }
}

void read_memory(std::string_view meminfo, std::string_view vmstat, NodeUsage& node) {
  constexpr uint64_t kilobyte = 1024;
  const auto of = [&](std::string_view name) { return number_after(meminfo, name) * kilobyte; };
  ResourceUsage& usage = node.usage;
  const uint64_t total = of("MemTotal");
  node.memory_capacity = total;
  usage.memory = total - std::min(total, of("MemFree"));
  usage.working_set = usage.memory - std::min(usage.memory, of("Inactive(file)"));
  usage.memory_available = total - std::min(total, usage.working_set);
  usage.anonymous = of("AnonPages");
  usage.swap = of("SwapTotal") - std::min(of("SwapTotal"), of("SwapFree"));
  usage.page_faults = number_after(vmstat, "pgfault");
  usage.major_page_faults = number_after(vmstat, "pgmajfault");
}

Task<Status> StatsGatherer::ask_runtime(NodeStats& stats, bool only_cpu_and_memory, std::string& image_folder) {
  cri::ListPodSandboxStatsRequest ask_stats;
  auto asking_stats = context_.runtime->ListPodSandboxStats(ask_stats, {.timeout = kPatience});
  Result<cri::ListPodSandboxStatsResponse> measured = co_await asking_stats;
  if (!measured) co_return measured.status().with_context("statistics of the runtime");
  for (const cri::PodSandboxStats& sandbox : measured->stats()) stats.pods.push_back(pod_of(sandbox));

  cri::ListPodSandboxRequest ask_sandboxes;
  auto asking_sandboxes = context_.runtime->ListPodSandbox(ask_sandboxes, {.timeout = kPatience});
  const Result<cri::ListPodSandboxResponse> sandboxes = co_await asking_sandboxes;
  if (!sandboxes) co_return sandboxes.status().with_context("list sandboxes");
  cri::ListContainersRequest ask_containers;
  auto asking_containers = context_.runtime->ListContainers(ask_containers, {.timeout = kPatience});
  const Result<cri::ListContainersResponse> containers = co_await asking_containers;
  if (!containers) co_return containers.status().with_context("list containers");
  std::map<std::string, const cri::Container*> by_id;
  for (const cri::Container& container : containers->containers()) by_id[container.id()] = &container;
  std::map<std::string, int64_t> made;
  for (const cri::PodSandbox& sandbox : sandboxes->items()) made[sandbox.id()] = sandbox.created_at();
  for (PodUsage& pod : stats.pods) {
    pod.started_at = made[pod.sandbox_id];
    for (ContainerUsage& container : pod.containers) {
      const auto found = by_id.find(container.id);
      if (found == by_id.end()) continue;
      container.started_at = found->second->created_at();
      container.image = found->second->image().user_specified_image().empty()
                            ? found->second->image().image()
                            : found->second->image().user_specified_image();
    }
  }

  if (only_cpu_and_memory) co_return Status::ok();
  cri::ImageFsInfoRequest ask_images;
  auto asking_images = context_.images->ImageFsInfo(ask_images, {.timeout = kPatience});
  const Result<cri::ImageFsInfoResponse> images = co_await asking_images;
  if (images && images->image_filesystems_size() > 0) {
    const cri::FilesystemUsage& usage = images->image_filesystems(0);
    image_folder = usage.fs_id().mountpoint();
    stats.image_filesystem.emplace();
    stats.image_filesystem->used = usage.used_bytes().value();
    stats.image_filesystem->inodes_used = usage.inodes_used().value();
  }
  co_return Status::ok();
}

Task<Result<NodeStats>> StatsGatherer::gather(bool only_cpu_and_memory) {
  NodeStats stats;
  stats.node.name = std::string(host_.node());
  std::string image_folder;
  Task<Status> asking = ask_runtime(stats, only_cpu_and_memory, image_folder);
  if (Status asked = co_await std::move(asking); !asked) co_return asked;

  struct Work {
    NodeStats stats;
    std::map<std::string, StoragePlace> places;  ///< by uid
    std::map<std::string, PodStorage> storage;
    std::string state_folder, image_folder;
    CgroupSettings cgroups;
    bool only_cpu_and_memory;
  };
  Work work{std::move(stats),   {}, {}, context_.files.folder(), std::move(image_folder), context_.node.cgroups,
            only_cpu_and_memory};
  if (!only_cpu_and_memory) {
    std::vector<StoragePlace> places;
    for (const PodUsage& pod : work.stats.pods) {
      // Others may have pods here too, with uids and names of any form.
      if (!is_uid(pod.uid)) continue;
      StoragePlace place{pod.uid,
                         context_.files.volumes_folder(pod.uid),
                         context_.node.log_folder + "/" + pod.namespace_name + "_" + pod.name + "_" + pod.uid,
                         {}};
      for (const ContainerUsage& container : pod.containers) place.containers.push_back(container.name);
      work.places[pod.uid] = place;
      places.push_back(std::move(place));
    }
    auto walking = context_.storage->measure(std::move(places), StorageMeter::kOldest);
    work.storage = co_await std::move(walking);
  }
  const auto measure = [](Work& of) {
    const int64_t now = now_nanoseconds();
    NodeUsage& node = of.stats.node;
    node.usage.time = now;
    read_cpu(text_of("/proc/stat"), static_cast<uint64_t>(sysconf(_SC_CLK_TCK)), node);
    read_memory(text_of("/proc/meminfo"), text_of("/proc/vmstat"), node);
    const Result<cgroup::Layout> layout = cgroup::Layout::detect();
    for (PodUsage& pod : of.stats.pods) {
      for (const char* quality : {"/pod", "/burstable/pod", "/besteffort/pod"}) {
        if (of.cgroups.root.empty() || !layout || !pod.cgroup.empty()) break;
        const std::string path = place_of(of.cgroups, of.cgroups.root + quality + pod.uid);
        if (layout->exists(path)) pod.cgroup = path;
      }
    }
    if (of.only_cpu_and_memory) return;
    node.interfaces = node_interfaces(text_of("/proc/net/dev"));
    put_first(node.interfaces, default_interface(text_of("/proc/net/route")));
    node.root = filesystem_of(of.state_folder, now);
    const std::string load = text_of("/proc/loadavg");
    if (const size_t slash = load.find('/'); slash != std::string::npos)
      std::from_chars(load.data() + slash + 1, load.data() + load.size(), node.processes);
    node.most_processes = UINT64_MAX;
    for (const char* path : {"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"}) {
      const std::string text = text_of(path);
      uint64_t limit = 0;
      std::from_chars(text.data(), text.data() + text.size(), limit);
      if (limit > 0) node.most_processes = std::min(node.most_processes, limit);
    }
    if (of.stats.image_filesystem) {
      const FilesystemStats found = filesystem_of(of.image_folder, now);
      FilesystemStats& images = *of.stats.image_filesystem;
      images.time = now;
      images.capacity = found.capacity;
      images.available = found.available;
      images.inodes = found.inodes;
      images.inodes_free = found.inodes_free;
    }
    for (PodUsage& pod : of.stats.pods) {
      // CRI counts no packets: they stand where the runtime has its other numbers from.
      if (const auto pids = layout && !pod.cgroup.empty() && !pod.interfaces.empty()
                                ? layout->processes(pod.cgroup)
                                : Result<std::vector<pid_t>>(not_found("")))
        for (const proc::InterfaceCounters& known :
             pids->empty() ? std::vector<proc::InterfaceCounters>()
                           : proc::parse_interfaces(text_of("/proc/" + std::to_string(pids->front()) + "/net/dev")))
          for (InterfaceStats& one : pod.interfaces)
            if (one.name == known.name) {
              one.received_packets = known.received_packets;
              one.sent_packets = known.sent_packets;
            }
      for (ContainerUsage& container : pod.containers) {
        container.root.capacity = of.stats.image_filesystem ? of.stats.image_filesystem->capacity : std::nullopt;
        container.root.available = of.stats.image_filesystem ? of.stats.image_filesystem->available : std::nullopt;
      }
      const auto found = of.storage.find(pod.uid);
      if (found == of.storage.end()) continue;
      const PodStorage& storage = found->second;
      for (const auto& [name, tree] : storage.volumes)
        pod.volumes[name] = tree_of(of.places[pod.uid].volumes_folder + "/" + name, tree, storage.time);
      for (ContainerUsage& container : pod.containers)
        if (const auto logs = storage.logs.find(container.name); logs != storage.logs.end())
          container.logs = tree_of(of.places[pod.uid].log_folder + "/" + container.name, logs->second, storage.time);
    }
  };
  auto run = [work = std::move(work), measure]() mutable {
    measure(work);
    return std::move(work);
  };
  auto running = host_.blocking(std::move(run));
  Work done = co_await std::move(running);
  co_return std::move(done.stats);
}

}  // namespace pintle::agent
