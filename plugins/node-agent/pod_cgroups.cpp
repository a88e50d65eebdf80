#include "plugins/node-agent/pod_cgroups.hpp"

#include <algorithm>
#include <charconv>

#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/files/files.hpp"

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
    if (!name.starts_with("pod")) continue;
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

}  // namespace

Status make_pod_cgroup(const CgroupSettings& settings, const std::string& path) {
  if (settings.root.empty() || path.empty()) return Status::ok();
  Result<cgroup::Layout> layout = cgroup::Layout::detect();
  if (!layout) return layout.status();
  if (Status made = layout->create(path); !made) return made.with_context("make the pod's cgroup");
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
  weigh(*layout, settings.root + "/burstable", false);
}

}  // namespace pintle::agent
