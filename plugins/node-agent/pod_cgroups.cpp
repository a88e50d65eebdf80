#include "plugins/node-agent/pod_cgroups.hpp"

#include <algorithm>
#include <charconv>
#include <mutex>

#include "plugins/node-agent/pod_resources.hpp"
#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/systemd/slices.hpp"

namespace pintle::agent {

namespace {

constexpr uint64_t kLeastShares = 2, kMostShares = 262'144;

/// What the pods of a class weigh together, from their own cgroups: nothing has to be remembered.
uint64_t shares_of_pods(const cgroup::Layout& layout, const std::string& path) {
  const cgroup::Hierarchy* cpu = layout.of("cpu");
  if (!cpu) return 0;
  Result<files::Descriptor> folder = files::open_folder(cpu->mount + path);
  if (!folder) return 0;
  Result<std::vector<std::string>> names = files::list_folder(folder->get());
  if (!names) return 0;
  uint64_t sum = 0;
  for (const std::string& name : *names) {
    const bool is_pod = name.starts_with("pod") || (name.ends_with(".slice") && name.find("-pod") != std::string::npos);
    if (!is_pod) continue;
    const Result<std::string> text =
        files::read_file(folder->get(), name + (cpu->unified ? "/cpu.weight" : "/cpu.shares"), 100);
    uint64_t value = 0;
    if (text) std::from_chars(text->data(), text->data() + text->size(), value);
    // A weight of 1 to 10000 stands for shares of 2 to 262144.
    sum += cpu->unified && value > 0 ? 2 + (value - 1) * 262'142 / 9'999 : value;
  }
  return std::min(sum, kMostShares);
}

void weigh(const cgroup::Layout& layout, const std::string& path, bool least) {
  if (!layout.exists(path)) return;
  cgroup::Limits limits;
  limits.cpu_shares = least ? kLeastShares : std::max(kLeastShares, shares_of_pods(layout, path));
  // It may be going at this moment, with its last pod.
  (void)layout.apply(path, limits);
}

/// With the last pod of a class its slice goes, and all that is in it: no other may be made meanwhile.
std::mutex& slices_mutex() {
  static std::mutex mutex;
  return mutex;
}

bool has_processes(const cgroup::Layout& layout, const std::string& path) {
  if (!layout.exists(path)) return false;
  const Result<std::vector<pid_t>> pids = layout.processes(path);
  return pids && !pids->empty();
}

bool holds_slices(const cgroup::Layout& layout, const std::string& path) {
  const Result<files::Descriptor> folder = files::open_folder(layout.unified_folder(path));
  if (!folder) return false;
  const Result<std::vector<std::string>> names = files::list_folder(folder->get());
  return names &&
         std::any_of(names->begin(), names->end(), [](const std::string& name) { return systemd::is_slice(name); });
}

void weigh_slice(const CgroupSettings& settings, const cgroup::Layout& layout, const std::string& name, bool least) {
  const std::string path = systemd::slice_path(name);
  const Result<std::string> text = files::read_file(layout.unified_folder(path) + "/cpu.weight", 100);
  if (!text) return;
  const uint64_t weight =
      cgroup::weight_of_shares(least ? kLeastShares : std::max(kLeastShares, shares_of_pods(layout, path)));
  if (*text == std::to_string(weight) + "\n") return;
  (void)settings.systemd.set_properties(systemd::unit_of(path), {{"CPUWeight", weight}});
}

/// What is as it should be is left alone: a call to systemd takes its time.
Status limit_root_slice(const CgroupSettings& settings, const cgroup::Layout& layout) {
  const std::string path = systemd::slice_path(settings.root), folder = layout.unified_folder(path);
  if (settings.all_memory <= 0 || !layout.exists(path)) return Status::ok();
  const Result<std::string> now = files::read_file(folder + "/memory.max", 100);
  // The kernel counts whole pages.
  if (now && *now == std::to_string(settings.all_memory / 4096 * 4096) + "\n") return Status::ok();
  systemd::Properties limits{{"MemoryMax", static_cast<uint64_t>(settings.all_memory)}};
  if (settings.all_processes > 0) limits.push_back({"TasksMax", static_cast<uint64_t>(settings.all_processes)});
  return settings.systemd.set_properties(systemd::unit_of(path), limits).with_context("limit the slice of all pods");
}

Status make_pod_slice(const CgroupSettings& settings, const cgroup::Layout& layout, const std::string& name) {
  const std::lock_guard<std::mutex> guard(slices_mutex());
  systemd::Properties limits;
  if (settings.pids_limit > 0) limits.push_back({"TasksMax", static_cast<uint64_t>(settings.pids_limit)});
  Status made =
      settings.systemd.start_slice(systemd::unit_of(systemd::slice_path(name)), systemd::kPodDescription, limits);
  if (!made) return made;
  // What cannot be limited was told when the agent began.
  (void)limit_root_slice(settings, layout);
  weigh_slice(settings, layout, settings.root + "/besteffort", true);
  weigh_slice(settings, layout, settings.root + "/burstable", false);
  return Status::ok();
}

void discard_slices(const CgroupSettings& settings, const cgroup::Layout& layout, const std::string& uid) {
  if (layout.mode() != cgroup::Mode::v2 || !layout.exists(systemd::slice_path(settings.root))) return;
  const std::lock_guard<std::mutex> guard(slices_mutex());
  const auto discard = [&](const std::string& name) {
    const std::string path = systemd::slice_path(name);
    if (!layout.exists(path) || holds_slices(layout, path) || has_processes(layout, path)) return;
    (void)settings.systemd.stop(systemd::unit_of(path));
  };
  for (const char* quality : {"", "/burstable", "/besteffort"}) {
    discard(settings.root + quality + "/pod" + uid);
    if (*quality) discard(settings.root + quality);
  }
  discard(settings.root);
  weigh_slice(settings, layout, settings.root + "/burstable", false);
}

}  // namespace

std::string place_of(const CgroupSettings& settings, const std::string& name) {
  return settings.are_slices ? systemd::slice_path(name) : name;
}

namespace {

Status limit_root(const cgroup::Layout& layout, const CgroupSettings& settings) {
  cgroup::Limits limits;
  if (settings.all_memory > 0) limits.memory = settings.all_memory;
  if (settings.all_processes > 0) limits.processes = settings.all_processes;
  if (settings.all_cpu_milli > 0) limits.cpu_shares = cpu_shares(settings.all_cpu_milli);
  return layout.apply(settings.root, limits).with_context("limit the cgroup of all pods");
}

}  // namespace

Status limit_all_pods(const CgroupSettings& settings) {
  if (settings.root.empty()) return Status::ok();
  Result<cgroup::Layout> layout = cgroup::Layout::detect();
  if (!layout) return layout.status();
  if (settings.are_slices) return limit_root_slice(settings, *layout);
  if (Status made = layout->create(settings.root); !made) return made.with_context("make the cgroup of all pods");
  Status limited = limit_root(*layout, settings);
  layout->discard(settings.root);
  return limited;
}

Status make_pod_cgroup(const CgroupSettings& settings, const std::string& path, uint64_t cpu_shares) {
  if (settings.root.empty() || path.empty()) return Status::ok();
  Result<cgroup::Layout> layout = cgroup::Layout::detect();
  if (!layout) return layout.status();
  if (layout->mode() == cgroup::Mode::v2 &&
      has_processes(*layout, settings.are_slices ? path : systemd::slice_path(path)))
    return Status::ok();
  if (settings.are_slices) return make_pod_slice(settings, *layout, path).with_context("make the pod's slice");
  const bool is_first = !layout->exists(settings.root);
  if (Status made = layout->create(path); !made) return made.with_context("make the pod's cgroup");
  // What cannot be limited was told when the agent began.
  if (is_first) (void)limit_root(*layout, settings);
  if (layout->of("cpu")) {
    cgroup::Limits weight;
    weight.cpu_shares = cpu_shares;
    (void)layout->apply(path, weight);  // the runtime sets it once more, and tells what is wrong
  }
  if (settings.pids_limit > 0) {
    cgroup::Limits limits;
    limits.processes = settings.pids_limit;
    if (Status limited = layout->apply(path, limits); !limited)
      return limited.with_context("limit the pod's processes");
  }
  weigh(*layout, settings.root + "/besteffort", true);
  weigh(*layout, settings.root + "/burstable", false);
  return Status::ok();
}

void discard_pod_cgroup(const CgroupSettings& settings, const std::string& uid) {
  if (settings.root.empty()) return;
  const Result<cgroup::Layout> layout = cgroup::Layout::detect();
  if (!layout) return;
  for (const char* quality : {"", "/burstable", "/besteffort"}) {
    layout->discard(settings.root + quality + "/pod" + uid);
    if (*quality) layout->discard(settings.root + quality);
  }
  layout->discard(settings.root);
  discard_slices(settings, *layout, uid);
  weigh(*layout, settings.root + "/burstable", false);
}

}  // namespace pintle::agent
