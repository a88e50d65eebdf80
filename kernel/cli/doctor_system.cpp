// The rest of the host: space, time, security modules, limits; and Pintle itself.

#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <ctime>
#include <sstream>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/doctor.hpp"

namespace pintle::cli {

namespace json = boost::json;

namespace {

constexpr const char* state_folder = "/var/lib/pintle";

// The folder, or the nearest above it that exists.
std::string existing(const Host& host, std::string path) {
  while (path.size() > 1 && !host.exists(path)) path.erase(std::max<size_t>(path.rfind('/'), 1));
  return path;
}

std::vector<Finding> space_findings(const Host& host) {
  std::vector<Finding> findings;
  const std::string folder = existing(host, state_folder);
  struct statvfs space {};
  if (statvfs(host.path(folder).c_str(), &space) != 0 || space.f_blocks == 0) return findings;
  const uint64_t free_bytes = static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
  const double share = static_cast<double>(space.f_bavail) / static_cast<double>(space.f_blocks);
  const bool scarce = share < 0.10 || free_bytes < (uint64_t{1} << 30),
             out = share < 0.02 || free_bytes < (uint64_t{100} << 20);
  const std::string text =
      short_bytes(free_bytes) + " free at " + folder + " (" + std::to_string(static_cast<int>(share * 100)) + " %)";
  findings.push_back(
      {"disk",
       out      ? Health::fail
       : scarce ? Health::warn
                : Health::ok,
       text, scarce ? "images, containers' layers and Pintle's own state lie there" : "",
       scarce ? "remove images (pintle image rm), or give " + std::string(state_folder) + " more space" : ""});
  if (space.f_files > 0) {
    const double inodes = static_cast<double>(space.f_favail) / static_cast<double>(space.f_files);
    const bool few = inodes < 0.05;
    findings.push_back({"inodes", few ? Health::warn : Health::ok,
                        std::to_string(static_cast<int>(inodes * 100)) + " % free at " + folder,
                        few ? "every file of an image takes one" : "",
                        few ? "remove images, or make the file system with more inodes" : ""});
  }
  struct statfs kind {};
  if (statfs(host.path(folder).c_str(), &kind) == 0) {
    const auto type = static_cast<uint64_t>(kind.f_type);
    if (type == OVERLAYFS_SUPER_MAGIC || type == NFS_SUPER_MAGIC) {
      findings.push_back({"file-system", Health::fail,
                          folder + " lies on " + (type == NFS_SUPER_MAGIC ? "NFS" : "an overlay"),
                          "overlayfs cannot stack its upper layers there",
                          "mount ext4, xfs or btrfs at " + std::string(state_folder)});
    }
  }
  return findings;
}

Finding systemd_finding(const Host& host) {
  if (host.exists("/run/systemd/system")) return {"systemd", Health::ok, "runs; pintled is a unit of it", "", ""};
  return {"systemd", Health::ok, "does not run; start pintled by hand or by another supervisor", "", ""};
}

Finding time_finding() {
  timex clock{};
  const int state = adjtimex(&clock);
  const std::time_t now = std::time(nullptr);
  constexpr std::time_t year_2024 = 1'704'067'200;
  if (now < year_2024)
    return {"time", Health::fail, "the clock stands at " + format_time(int64_t{now} * 1'000'000'000),
            "certificates and logs would be wrong", "set it: date -s ..., and install chrony"};
  if (state == TIME_ERROR || (clock.status & STA_UNSYNC) != 0) {
    return {"time", Health::warn, "the clock is not synchronised",
            "certificates and the order of events in a cluster depend on it",
            "apt-get install chrony (nothing, if the host of this machine keeps its time)"};
  }
  return {"time", Health::ok, "the clock is synchronised", "", ""};
}

Finding security_module_finding(const Host& host) {
  const std::string enforce = host.read("/sys/fs/selinux/enforce").value_or("");
  if (enforce == "1") {
    return {"selinux", Health::warn, "is enforcing", "without labels, containers may be refused their own files",
            "install container-selinux; if pods are refused: ausearch -m avc -ts recent"};
  }
  if (host.read("/sys/module/apparmor/parameters/enabled").value_or("") == "Y") {
    for (const char* folder : {"/usr/sbin", "/sbin"}) {
      if (host.exists(folder + std::string("/apparmor_parser")))
        return {"apparmor", Health::ok, "is enabled; containers run in its profile pintle-default unless they name one",
                "", ""};
    }
    return {"apparmor", Health::warn, "is enabled, but apparmor_parser is not installed",
            "containers run unconfined by it unless they name a profile", "apt-get install apparmor"};
  }
  return {"security-module", Health::ok, "neither SELinux nor AppArmor confines programs here", "", ""};
}

Finding number_finding(const Host& host, const std::string& name, const std::string& key, uint64_t least,
                       const std::string& why) {
  std::string dotted = key;
  std::replace(dotted.begin(), dotted.end(), '/', '.');
  const std::optional<std::string> text = host.read("/proc/sys/" + key);
  if (!text) return {name, Health::ok, dotted + " is not limited here", "", ""};
  const uint64_t value = std::strtoull(text->c_str(), nullptr, 10);
  if (value >= least) return {name, Health::ok, dotted + " is " + *text, "", ""};
  return {name, Health::warn, dotted + " is only " + *text, why,
          "sysctl -w " + dotted + "=" + std::to_string(least) + "; keep it in /etc/sysctl.d/"};
}

// The limit of the daemon if it runs, else that of a program started from here.
Finding descriptor_finding(const Host& host, int64_t daemon) {
  constexpr uint64_t least = 4096;
  uint64_t limit = 0;
  std::string whose = "of this session";
  std::istringstream lines(daemon > 0 ? host.read("/proc/" + std::to_string(daemon) + "/limits").value_or("") : "");
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("Max open files")) continue;
    limit = std::strtoull(line.c_str() + 14, nullptr, 10);
    whose = "of pintled";
  }
  rlimit own{};
  if (limit == 0 && getrlimit(RLIMIT_NOFILE, &own) == 0) limit = own.rlim_max;
  const std::string text = std::to_string(limit) + " open files " + whose;
  if (limit >= least) return {"open-files", Health::ok, text, "", ""};
  return {"open-files", Health::warn, text, "every pod and connection takes some",
          "LimitNOFILE=65536 in the unit of pintled, or ulimit -n 65536 before it starts"};
}

int64_t daemon_pid(const Host& host) {
  if (host.context() == nullptr) return 0;
  Result<json::value> status = host.context()->admin().json("GET", "/v1/status", "", std::chrono::seconds(5));
  return status ? integer_member(*status, "pid") : 0;
}

}  // namespace

std::vector<Finding> check_system(const Host& host) {
  std::vector<Finding> findings = space_findings(host);
  findings.push_back(systemd_finding(host));
  if (host.is_real()) findings.push_back(time_finding());
  findings.push_back(security_module_finding(host));
  if (host.is_real()) findings.push_back(descriptor_finding(host, daemon_pid(host)));
  findings.push_back(number_finding(host, "inotify", "fs/inotify/max_user_instances", 128,
                                    "pods, their logs and manifests are watched by inotify"));
  findings.push_back(number_finding(host, "keyrings", "kernel/keys/maxkeys", 200,
                                    "each container may take a kernel key; when they are used up none starts"));
  findings.push_back(
      number_finding(host, "processes", "kernel/pid_max", 32768, "all processes of all pods share these numbers"));
  return findings;
}

std::vector<Finding> check_pintle(const Host& host) {
  std::vector<Finding> findings;
  Context* context = host.context();
  if (context == nullptr) return findings;
  Result<json::value> status = context->admin().json("GET", "/v1/status", "", std::chrono::seconds(5));
  if (!status) {
    const bool left_over = access(context->socket.c_str(), F_OK) == 0;
    size_t sandboxes = 0;
    const std::string mounts = host.read("/proc/self/mountinfo").value_or("");
    for (size_t at = 0; (at = mounts.find(" /run/pintle/", at)) != std::string::npos; ++at) ++sandboxes;
    findings.push_back(
        {"pintled", Health::warn, "is not reachable" + std::string(left_over ? "; its socket is left over" : ""),
         "nobody looks after the pods of this node",
         host.exists("/run/systemd/system") ? "systemctl start pintled" : "pintled --profile standalone"});
    if (sandboxes > 0) {
      findings.push_back({"held-namespaces", Health::warn,
                          std::to_string(sandboxes) + " mounts below /run/pintle while pintled is not running",
                          "they belong to pods that outlived it",
                          "start pintled, which adopts the pods; packaging/up.sh down removes all"});
    }
    return findings;
  }
  const bool ready = flag_member(*status, "ready");
  findings.push_back({"pintled", ready ? Health::ok : Health::fail,
                      text_member(*status, "version") + (ready ? ", ready" : ", not ready"),
                      ready ? "" : "some plugins do not run", ready ? "" : "pintle status"});
  const std::string version = text_member(*status, "version");
  if (version != PINTLE_VERSION) {
    findings.push_back({"version", Health::warn, "pintled is " + version + ", this program " + PINTLE_VERSION,
                        "an update waits for a restart of the daemon",
                        "systemctl reload-or-restart pintled; pods go on"});
  }
  return findings;
}

}  // namespace pintle::cli
