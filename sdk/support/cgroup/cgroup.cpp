#include "sdk/support/cgroup/cgroup.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <set>

#include "sdk/support/files/files.hpp"

namespace pintle::cgroup {
namespace {

constexpr size_t kFileLimit = 1u << 20;

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    if (end != 0) parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  if (!parts.empty() && parts.back().empty()) parts.pop_back();
  return parts;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  return text;
}

/// Mount points in mountinfo have blanks and the like as \ooo.
std::string unescape(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

Status check_path(std::string_view path) {
  if (path.size() < 2 || path[0] != '/' || path.size() > 3000) {
    return invalid_argument("cgroup path '" + std::string(path.substr(0, 200)) +
                            "' has to be absolute, such as /pintle/web");
  }
  for (std::string_view part : split(path, '/')) {
    if (part == "." || part == ".." || part.size() > 255 || part.find('\n') != std::string_view::npos) {
      return invalid_argument("cgroup path '" + std::string(path.substr(0, 200)) + "' has a component '" +
                              std::string(part.substr(0, 50)) + "' that no cgroup has");
    }
  }
  return {};
}

Status write_value(const std::string& file, std::string_view value) {
  auto opened = files::open_at(AT_FDCWD, file, O_WRONLY);
  if (!opened) return opened.status();
  if (write(opened->get(), value.data(), value.size()) < 0) {
    const int error = errno;
    return status_from_errno(error, "write '" + std::string(value.substr(0, 100)) + "' into " + file);
  }
  return {};
}

std::string read_text(const std::string& file) {
  auto text = files::read_file(file, kFileLimit);
  return text ? std::move(*text) : std::string();
}

uint64_t number(std::string_view text) {
  uint64_t value = 0;
  text = trim(text);
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// "max" and v1's page-rounded largest number mean no limit.
uint64_t limit(std::string_view text) {
  const uint64_t value = number(text);
  return value > (1ull << 62) ? 0 : value;
}

/// The value of `key` in a file of "key value" lines; 0 if it is not there.
uint64_t keyed(std::string_view text, std::string_view key) {
  for (std::string_view line : split(text, '\n')) {
    if (line.size() > key.size() && line.starts_with(key) && line[key.size()] == ' ')
      return number(line.substr(key.size() + 1));
  }
  return 0;
}

std::vector<std::string> children(const std::string& folder) {
  std::vector<std::string> names;
  DIR* dir = opendir(folder.c_str());
  if (!dir) return names;
  while (dirent* entry = readdir(dir)) {
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  closedir(dir);
  return names;
}

void processes_into(const std::string& folder, std::set<pid_t>& pids) {
  const std::string text = read_text(folder + "/cgroup.procs");
  for (std::string_view line : split(text, '\n')) {
    if (const uint64_t pid = number(line)) pids.insert(static_cast<pid_t>(pid));
  }
  for (const std::string& child : children(folder)) processes_into(folder + "/" + child, pids);
}

void pause_ms(long milliseconds) {
  const timespec time{milliseconds / 1000, (milliseconds % 1000) * 1'000'000};
  nanosleep(&time, nullptr);
}

Status remove_folder(const std::string& folder, unsigned& patience_ms) {
  for (;;) {
    if (rmdir(folder.c_str()) == 0 || errno == ENOENT) return {};
    int error = errno;
    if (error == EBUSY || error == ENOTEMPTY) {
      Status first;
      const std::vector<std::string> below = children(folder);
      for (const std::string& child : below) {
        if (Status status = remove_folder(folder + "/" + child, patience_ms); !status && first) first = status;
      }
      if (!first) return first;
      if (!below.empty() && rmdir(folder.c_str()) == 0) return {};
      if (patience_ms == 0) return status_from_errno(error, "remove the cgroup " + folder);
      pause_ms(1);
      --patience_ms;
      continue;
    }
    return status_from_errno(error, "remove the cgroup " + folder);
  }
}

/// A v1 cpuset takes no process until it has CPUs and memory nodes; they come from above.
Status inherit_cpuset(const std::string& folder) {
  const std::string above = folder.substr(0, folder.rfind('/'));
  for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
    if (!trim(read_text(folder + file)).empty()) continue;
    const std::string value = read_text(above + file);
    if (trim(value).empty()) continue;
    if (Status status = write_value(folder + file, trim(value)); !status) return status;
  }
  return {};
}

std::string text_of(int64_t value) { return value < 0 ? "max" : std::to_string(value); }

}  // namespace

std::string_view mode_name(Mode mode) {
  switch (mode) {
    case Mode::v1:
      return "v1";
    case Mode::v2:
      return "v2";
    case Mode::hybrid:
      return "hybrid";
  }
  return "?";
}

Result<Layout> Layout::detect() {
  auto mounts = files::read_file("/proc/self/mountinfo", 16u << 20);
  if (!mounts) return mounts.status();
  auto layout = parse(*mounts, "");
  if (!layout) return layout;
  for (Hierarchy& hierarchy : layout->hierarchies_) {
    if (!hierarchy.unified) continue;
    const std::string text = read_text(hierarchy.mount + "/cgroup.controllers");
    for (std::string_view name : split(trim(text), ' ')) hierarchy.controllers.emplace_back(name);
  }
  return layout;
}

Result<Layout> Layout::parse(std::string_view mountinfo, std::string_view unified_controllers) {
  static const std::set<std::string_view> known = {"cpu",      "cpuacct",    "cpuset", "memory",  "devices",
                                                   "freezer",  "blkio",      "pids",   "hugetlb", "net_cls",
                                                   "net_prio", "perf_event", "rdma",   "misc"};
  Layout layout;
  bool has_v1 = false, has_unified = false;
  for (std::string_view line : split(mountinfo, '\n')) {
    // "36 35 0:30 ROOT MOUNT OPTIONS FIELDS... - TYPE SOURCE SUPER-OPTIONS" (proc(5))
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    const auto before = split(line.substr(0, dash), ' '), after = split(line.substr(dash + 3), ' ');
    if (before.size() < 6 || after.size() < 3) continue;
    Hierarchy hierarchy;
    hierarchy.mount = unescape(before[4]);
    if (after[0] == "cgroup2") {
      hierarchy.unified = true;
      for (std::string_view name : split(trim(unified_controllers), ' ')) hierarchy.controllers.emplace_back(name);
    } else if (after[0] == "cgroup") {
      for (std::string_view option : split(after[2], ',')) {
        if (known.count(option)) hierarchy.controllers.emplace_back(option);
      }
    } else {
      continue;
    }
    // The same hierarchy may be mounted again elsewhere; the first mount is the host's.
    const bool again = std::any_of(layout.hierarchies_.begin(), layout.hierarchies_.end(), [&](const Hierarchy& other) {
      return other.unified == hierarchy.unified &&
             (hierarchy.unified || (!hierarchy.controllers.empty() && other.controllers == hierarchy.controllers) ||
              other.mount == hierarchy.mount);
    });
    if (again) continue;
    has_unified = has_unified || hierarchy.unified;
    has_v1 = has_v1 || !hierarchy.unified;
    layout.hierarchies_.push_back(std::move(hierarchy));
  }
  if (layout.hierarchies_.empty()) {
    return failed_precondition("no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup");
  }
  layout.mode_ = has_v1 && has_unified ? Mode::hybrid : has_v1 ? Mode::v1 : Mode::v2;
  return layout;
}

const Hierarchy* Layout::of(std::string_view controller) const {
  for (const Hierarchy& hierarchy : hierarchies_) {
    if (std::find(hierarchy.controllers.begin(), hierarchy.controllers.end(), controller) !=
        hierarchy.controllers.end())
      return &hierarchy;
  }
  return nullptr;
}

std::vector<std::string> Layout::folders(std::string_view path) const {
  std::vector<std::string> all;
  for (const Hierarchy& hierarchy : hierarchies_) all.push_back(hierarchy.mount + std::string(path));
  return all;
}

std::vector<std::string> Layout::tasks_files(std::string_view path) const {
  std::vector<std::string> all;
  for (const Hierarchy& hierarchy : hierarchies_) {
    if (!hierarchy.unified) all.push_back(hierarchy.mount + std::string(path) + "/tasks");
  }
  return all;
}

std::string Layout::unified_folder(std::string_view path) const {
  for (const Hierarchy& hierarchy : hierarchies_) {
    if (hierarchy.unified) return hierarchy.mount + std::string(path);
  }
  return {};
}

Status Layout::open_attach_lock() const {
  // Any hierarchy: the lock is one. This process is written to where it is, which changes nothing and needs no cgroup of its own.
  const std::string membership = read_text("/proc/self/cgroup");
  for (std::string_view line : split(membership, '\n')) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string_view controller = controllers.substr(0, controllers.find(','));
    const auto hierarchy = std::find_if(hierarchies_.begin(), hierarchies_.end(), [&](const Hierarchy& candidate) {
      return controller.empty()
                 ? candidate.unified
                 : std::count(candidate.controllers.begin(), candidate.controllers.end(), controller) > 0 &&
                       !candidate.unified;
    });
    if (hierarchy == hierarchies_.end()) continue;
    return write_value(hierarchy->mount + std::string(line.substr(second + 1)) + "/cgroup.procs",
                       std::to_string(getpid()));
  }
  return not_found("this process is in no cgroup that is mounted here");
}

Status Layout::create(std::string_view path) const {
  if (Status status = check_path(path); !status) return status;
  Status status = create_once(path);
  // Somebody may have discarded an empty parent meanwhile.
  if (status.code() == Code::not_found) status = create_once(path);
  return status;
}

Status Layout::create_once(std::string_view path) const {
  std::vector<std::string> made;
  Status status;
  for (const Hierarchy& hierarchy : hierarchies_) {
    const bool is_cpuset =
        std::find(hierarchy.controllers.begin(), hierarchy.controllers.end(), "cpuset") != hierarchy.controllers.end();
    std::string folder = hierarchy.mount;
    for (std::string_view part : split(path, '/')) {
      // Not on hybrid hosts: a controller that is in use on v2 can be mounted as v1 no more, and crun insists on that.
      if (mode_ == Mode::v2) {
        // One by one: a controller that cannot be passed on (its parent holds realtime processes, say) must not keep
        // the others.
        const std::string available = read_text(folder + "/cgroup.controllers"),
                          passed = read_text(folder + "/cgroup.subtree_control");
        const auto already = split(trim(passed), ' ');
        for (std::string_view controller : split(trim(available), ' ')) {
          if (std::find(already.begin(), already.end(), controller) != already.end()) continue;
          (void)write_value(folder + "/cgroup.subtree_control", "+" + std::string(controller));
        }
      }
      folder += "/" + std::string(part);
      if (mkdir(folder.c_str(), 0755) == 0) {
        made.push_back(folder);
        // Whatever the umask: programs of any user read their limits there.
        if (chmod(folder.c_str(), 0755) != 0) {
          status = status_from_errno(errno, "open the cgroup to be read: " + folder);
          break;
        }
      } else if (errno != EEXIST) {
        const int error = errno;
        status = status_from_errno(error, "make the cgroup " + folder);
        break;
      }
      if (is_cpuset && !hierarchy.unified) {
        status = inherit_cpuset(folder);
        if (!status) break;
      }
    }
    if (!status) break;
  }
  if (!status) {
    for (auto folder = made.rbegin(); folder != made.rend(); ++folder) rmdir(folder->c_str());
  }
  return status;
}

Status Layout::apply(std::string_view path, const Limits& limits) const {
  Status first;
  const auto folder_of = [&](const char* controller, const char* what, bool* unified) -> std::string {
    const Hierarchy* hierarchy = of(controller);
    if (!hierarchy) {
      if (first) {
        first = failed_precondition(std::string(what) + " is asked for, but this host has no cgroup controller '" +
                                    controller + "'");
      }
      return {};
    }
    *unified = hierarchy->unified;
    return hierarchy->mount + std::string(path);
  };
  const auto set = [&](const std::string& file, const std::string& value) {
    if (Status status = write_value(file, value); !status && first) first = status;
  };
  bool unified = false;

  if (limits.cpu_shares || limits.cpu_quota || limits.cpu_period) {
    if (const std::string folder = folder_of("cpu", "a CPU limit", &unified); !folder.empty()) {
      if (limits.cpu_shares) {
        unified ? set(folder + "/cpu.weight", std::to_string(weight_of_shares(*limits.cpu_shares)))
                : set(folder + "/cpu.shares", std::to_string(*limits.cpu_shares));
      }
      if (unified && (limits.cpu_quota || limits.cpu_period)) {
        set(folder + "/cpu.max",
            text_of(limits.cpu_quota.value_or(-1)) + " " + std::to_string(limits.cpu_period.value_or(100'000)));
      } else if (!unified) {
        if (limits.cpu_period) set(folder + "/cpu.cfs_period_us", std::to_string(*limits.cpu_period));
        if (limits.cpu_quota) set(folder + "/cpu.cfs_quota_us", std::to_string(*limits.cpu_quota));
      }
    }
  }
  if (limits.memory || limits.memory_and_swap) {
    if (const std::string folder = folder_of("memory", "a memory limit", &unified); !folder.empty()) {
      if (unified) {
        if (limits.memory) set(folder + "/memory.max", text_of(*limits.memory));
        if (limits.memory_and_swap && access((folder + "/memory.swap.max").c_str(), F_OK) == 0) {
          const int64_t swap = *limits.memory_and_swap < 0
                                   ? -1
                                   : std::max<int64_t>(0, *limits.memory_and_swap - limits.memory.value_or(0));
          set(folder + "/memory.swap.max", text_of(swap));
        }
      } else {
        // The sum of memory and swap must never be below the memory alone: which one goes first depends on the
        // direction.
        const bool has_swap = access((folder + "/memory.memsw.limit_in_bytes").c_str(), F_OK) == 0;
        const auto set_memory = [&] {
          if (limits.memory) set(folder + "/memory.limit_in_bytes", std::to_string(*limits.memory));
        };
        const auto set_swap = [&] {
          if (limits.memory_and_swap && has_swap)
            set(folder + "/memory.memsw.limit_in_bytes", std::to_string(*limits.memory_and_swap));
        };
        const uint64_t now = number(read_text(folder + "/memory.memsw.limit_in_bytes"));
        const bool grows =
            limits.memory && has_swap && (*limits.memory < 0 || static_cast<uint64_t>(*limits.memory) > now);
        if (grows) {
          set_swap();
          set_memory();
        } else {
          set_memory();
          set_swap();
        }
      }
    }
  }
  if (limits.processes) {
    if (const std::string folder = folder_of("pids", "a limit of processes", &unified); !folder.empty()) {
      set(folder + "/pids.max", text_of(*limits.processes));
    }
  }
  if (!limits.cpuset_cpus.empty() || !limits.cpuset_mems.empty()) {
    if (const std::string folder = folder_of("cpuset", "a set of CPUs", &unified); !folder.empty()) {
      if (!limits.cpuset_cpus.empty()) set(folder + "/cpuset.cpus", limits.cpuset_cpus);
      if (!limits.cpuset_mems.empty()) set(folder + "/cpuset.mems", limits.cpuset_mems);
    }
  }
  for (const auto& [size, bytes] : limits.huge_pages) {
    if (const std::string folder = folder_of("hugetlb", "a limit of huge pages", &unified); !folder.empty()) {
      set(folder + "/hugetlb." + size + (unified ? ".max" : ".limit_in_bytes"), std::to_string(bytes));
    }
  }
  for (const auto& [file, value] : limits.unified) {
    if (file.find('/') != std::string::npos || file.starts_with("cgroup.") || file.empty() || file[0] == '.') {
      if (first)
        first = invalid_argument("unified cgroup setting '" + file.substr(0, 100) + "' is no file of a controller");
      continue;
    }
    if (mode_ != Mode::v2) {
      if (first)
        first = failed_precondition("unified cgroup setting '" + file.substr(0, 100) + "' needs a host with cgroup v2");
      continue;
    }
    set(unified_folder(path) + "/" + file, value);
  }
  return first;
}

bool Layout::exists(std::string_view path) const {
  for (const std::string& folder : folders(path)) {
    if (access(folder.c_str(), F_OK) == 0) return true;
  }
  return false;
}

Result<Stats> Layout::stats(std::string_view path) const {
  Stats stats;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  stats.time = now.tv_sec * 1'000'000'000ll + now.tv_nsec;
  const auto folder_of = [&](const char* controller, bool* unified) {
    const Hierarchy* hierarchy = of(controller);
    *unified = hierarchy && hierarchy->unified;
    return hierarchy ? hierarchy->mount + std::string(path) : std::string();
  };
  if (!exists(path)) return not_found("the cgroup " + std::string(path) + " is gone");
  bool unified = false;
  // On v2 cpu.stat is there whether or not the controller is on.
  if (const std::string folder = folder_of("cpuacct", &unified); !folder.empty()) {
    stats.cpu_nanoseconds = number(read_text(folder + "/cpuacct.usage"));
  } else {
    stats.cpu_nanoseconds = keyed(read_text(unified_folder(path) + "/cpu.stat"), "usage_usec") * 1000;
  }
  if (const std::string folder = folder_of("memory", &unified); !folder.empty()) {
    const std::string text = read_text(folder + "/memory.stat");
    const std::string prefix = unified ? "" : "total_";
    stats.memory_bytes = number(read_text(folder + (unified ? "/memory.current" : "/memory.usage_in_bytes")));
    const uint64_t inactive = keyed(text, prefix + "inactive_file");
    stats.working_set_bytes = stats.memory_bytes > inactive ? stats.memory_bytes - inactive : 0;
    stats.anonymous_bytes = keyed(text, unified ? "anon" : "total_rss");
    stats.page_faults = keyed(text, prefix + "pgfault");
    stats.major_page_faults = keyed(text, prefix + "pgmajfault");
    stats.memory_limit = limit(read_text(folder + (unified ? "/memory.max" : "/memory.limit_in_bytes")));
    if (unified) {
      stats.swap_bytes = number(read_text(folder + "/memory.swap.current"));
      stats.swap_limit = limit(read_text(folder + "/memory.swap.max"));
      stats.out_of_memory_kills = keyed(read_text(folder + "/memory.events"), "oom_kill");
    } else {
      stats.swap_bytes = keyed(text, "total_swap");
      const uint64_t both = limit(read_text(folder + "/memory.memsw.limit_in_bytes"));
      stats.swap_limit = both > stats.memory_limit ? both - stats.memory_limit : 0;
      stats.out_of_memory_kills = keyed(read_text(folder + "/memory.oom_control"), "oom_kill");
    }
  }
  if (const std::string folder = folder_of("pids", &unified); !folder.empty()) {
    stats.processes = number(read_text(folder + "/pids.current"));
  }
  return stats;
}

Result<std::vector<pid_t>> Layout::processes(std::string_view path) const {
  std::set<pid_t> pids;
  bool found = false;
  // A process may be in the cgroup of some hierarchies only, if it was caught while joining.
  for (const std::string& folder : folders(path)) {
    if (access(folder.c_str(), F_OK) != 0) continue;
    found = true;
    processes_into(folder, pids);
  }
  if (!found) return not_found("the cgroup " + std::string(path) + " is gone");
  return std::vector<pid_t>(pids.begin(), pids.end());
}

Status Layout::kill(std::string_view path) const {
  if (Status status = check_path(path); !status) return status;
  if (const std::string folder = unified_folder(path); !folder.empty()) (void)write_value(folder + "/cgroup.kill", "1");
  std::set<pid_t> signalled;
  for (int round = 0; round < 100; ++round) {
    auto pids = processes(path);
    if (!pids) return {};
    bool is_new = false;
    for (const pid_t pid : *pids) {
      files::Descriptor handle(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
      if (!handle.valid()) continue;
      // The descriptor means whoever has the PID now: a member still, or it is not signalled.
      std::set<pid_t> members;
      for (const std::string& folder : folders(path)) processes_into(folder, members);
      if (!members.count(pid)) continue;
      syscall(SYS_pidfd_send_signal, handle.get(), SIGKILL, nullptr, 0);
      is_new = signalled.insert(pid).second || is_new;
    }
    if (!is_new) return {};
  }
  return failed_precondition("the processes of cgroup " + std::string(path) + " go on forking");
}

Status Layout::remove(std::string_view path, unsigned patience_ms) const {
  if (Status status = check_path(path); !status) return status;
  Status first;
  for (const std::string& folder : folders(path)) {
    if (Status status = remove_folder(folder, patience_ms); !status && first) first = status;
  }
  return first;
}

void Layout::discard(std::string_view path) const {
  if (!check_path(path)) return;
  for (const std::string& folder : folders(path)) rmdir(folder.c_str());
}

uint64_t weight_of_shares(uint64_t shares) {
  shares = std::clamp<uint64_t>(shares, 2, 262144);
  return 1 + ((shares - 2) * 9999) / 262142;
}

}  // namespace pintle::cgroup
