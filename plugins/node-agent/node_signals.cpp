#include "plugins/node-agent/node_signals.hpp"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

struct Known {
  Signal signal;
  std::string_view name, resource;
};
constexpr std::array<Known, 9> kKnown{{
    {Signal::memory_available, "memory.available", "memory"},
    {Signal::allocatable_memory_available, "allocatableMemory.available", "memory"},
    {Signal::nodefs_available, "nodefs.available", "ephemeral-storage"},
    {Signal::nodefs_inodes_free, "nodefs.inodesFree", "inodes"},
    {Signal::imagefs_available, "imagefs.available", "ephemeral-storage"},
    {Signal::imagefs_inodes_free, "imagefs.inodesFree", "inodes"},
    {Signal::containerfs_available, "containerfs.available", "ephemeral-storage"},
    {Signal::containerfs_inodes_free, "containerfs.inodesFree", "inodes"},
    {Signal::pid_available, "pid.available", "pids"},
}};

/// The number after "KEY" and blanks or a colon, in a text of one entry a line.
std::optional<int64_t> number_after(std::string_view text, std::string_view key) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (!line.starts_with(key)) continue;
    line.remove_prefix(key.size());
    const size_t digit = line.find_first_not_of(": \t");
    if (digit == 0 || digit == std::string_view::npos) continue;
    int64_t value = 0;
    if (std::from_chars(line.data() + digit, line.data() + line.size(), value).ec == std::errc()) return value;
  }
  return std::nullopt;
}

std::optional<int64_t> number_in(const std::string& path) {
  const Result<std::string> text = files::read_file(path, 100);
  int64_t value = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc()) return std::nullopt;
  return value;
}

void add_filesystem(const std::string& folder, Signal bytes, Signal inodes, Observations& seen) {
  struct statvfs info {};
  if (folder.empty() || statvfs(folder.c_str(), &info) != 0 || info.f_blocks == 0) return;
  const auto unit = static_cast<int64_t>(info.f_frsize);
  seen[bytes] = {static_cast<int64_t>(info.f_bavail) * unit, static_cast<int64_t>(info.f_blocks) * unit};
  // Some file systems (btrfs) count no inodes.
  if (info.f_files > 0) seen[inodes] = {static_cast<int64_t>(info.f_favail), static_cast<int64_t>(info.f_files)};
}

void add_processes(Observations& seen) {
  const std::optional<int64_t> numbers = number_in("/proc/sys/kernel/pid_max");
  const std::optional<int64_t> threads = number_in("/proc/sys/kernel/threads-max");
  // "0.20 0.18 0.12 1/80 11206": running and existing tasks.
  const Result<std::string> load = files::read_file("/proc/loadavg", 200);
  const size_t slash = load ? load->find('/') : std::string::npos;
  int64_t existing = 0;
  if (!numbers || slash == std::string::npos ||
      std::from_chars(load->data() + slash + 1, load->data() + load->size(), existing).ec != std::errc())
    return;
  const int64_t most = threads ? std::min(*numbers, *threads) : *numbers;
  seen[Signal::pid_available] = {most - existing, most};
}

}  // namespace

std::string_view name_of(Signal signal) { return kKnown[static_cast<size_t>(signal)].name; }
std::string_view resource_of(Signal signal) { return kKnown[static_cast<size_t>(signal)].resource; }

std::optional<Signal> signal_named(std::string_view name) {
  const auto found = std::find_if(kKnown.begin(), kKnown.end(), [&](const Known& known) { return known.name == name; });
  return found == kKnown.end() ? std::nullopt : std::optional(found->signal);
}

bool is_of_memory(Signal signal) {
  return signal == Signal::memory_available || signal == Signal::allocatable_memory_available;
}
bool is_of_disk(Signal signal) { return !is_of_memory(signal) && signal != Signal::pid_available; }
bool counts_inodes(Signal signal) { return resource_of(signal) == "inodes"; }

std::optional<Observation> memory_available(std::string_view meminfo, std::string_view memory_stat,
                                            std::optional<int64_t> usage) {
  const std::optional<int64_t> total = number_after(meminfo, "MemTotal"), free = number_after(meminfo, "MemFree");
  if (!total || !free) return std::nullopt;
  std::optional<int64_t> inactive = number_after(memory_stat, "total_inactive_file");
  if (!inactive) inactive = number_after(memory_stat, "inactive_file");
  if (!inactive) {
    const std::optional<int64_t> kibibytes = number_after(meminfo, "Inactive(file)");
    inactive = kibibytes.value_or(0) << 10;
  }
  const int64_t capacity = *total << 10;
  const int64_t used = usage ? *usage : (*total - *free) << 10;
  return Observation{capacity - std::max<int64_t>(used - *inactive, 0), capacity};
}

Observations observe_memory(const SignalSources& sources) {
  Observations seen;
  const Result<cgroup::Layout> layout = cgroup::Layout::detect();
  const cgroup::Hierarchy* memory = layout ? layout->of("memory") : nullptr;
  const Result<std::string> meminfo = files::read_file("/proc/meminfo", 1u << 16);
  const Result<std::string> stat =
      memory ? files::read_file(memory->mount + "/memory.stat", 1u << 18) : Result<std::string>(std::string());
  std::optional<int64_t> usage;
  if (memory && !memory->unified) usage = number_in(memory->mount + "/memory.usage_in_bytes");
  if (meminfo)
    if (const auto node = memory_available(*meminfo, stat ? *stat : "", usage)) seen[Signal::memory_available] = *node;
  if (!sources.pods_cgroup.empty() && sources.pods_memory > 0 && layout) {
    const Result<cgroup::Stats> pods = layout->stats(sources.pods_cgroup);
    const int64_t used = pods ? static_cast<int64_t>(pods->working_set_bytes) : 0;
    seen[Signal::allocatable_memory_available] = {sources.pods_memory - used, sources.pods_memory};
  }
  return seen;
}

Observations observe(const SignalSources& sources) {
  Observations seen = observe_memory(sources);
  add_filesystem(sources.nodefs, Signal::nodefs_available, Signal::nodefs_inodes_free, seen);
  add_filesystem(sources.imagefs, Signal::imagefs_available, Signal::imagefs_inodes_free, seen);
  add_filesystem(sources.imagefs, Signal::containerfs_available, Signal::containerfs_inodes_free, seen);
  add_processes(seen);
  return seen;
}

std::optional<Fullness> fullness_of(const std::string& folder) {
  struct statvfs info {};
  if (folder.empty() || statvfs(folder.c_str(), &info) != 0 || info.f_blocks == 0) return std::nullopt;
  const auto unit = static_cast<int64_t>(info.f_frsize);
  return Fullness{static_cast<int64_t>(info.f_blocks) * unit, static_cast<int64_t>(info.f_bavail) * unit};
}

bool on_one_filesystem(const std::string& a, const std::string& b) {
  struct stat one {
  }, other{};
  return stat(a.c_str(), &one) == 0 && stat(b.c_str(), &other) == 0 && one.st_dev == other.st_dev;
}

}  // namespace pintle::agent
