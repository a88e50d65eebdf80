// What the kernel must be able to do, and how its control groups are set up.

#include <linux/magic.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "kernel/cli/doctor.hpp"

namespace pintle::cli {

namespace {

Finding version_finding(const Host& host) {
  const std::string release = host.read("/proc/sys/kernel/osrelease").value_or("");
  const std::vector<int> version = parse_version(release);
  const std::string why =
      "pidfds and openat2(2), with which Pintle tells processes and files apart safely, came with Linux 5.6";
  if (version.size() < 2)
    return {"kernel", Health::warn, "its version \"" + release + "\" cannot be read", why, "look with: uname -r"};
  if (version < std::vector<int>{5, 6})
    return {"kernel", Health::fail, "Linux " + release, why, "install a newer kernel; Debian 12 has 6.1"};
  return {"kernel", Health::ok, "Linux " + release, "", ""};
}

Finding namespace_finding(const Host& host) {
  if (host.can_try()) {
    const int error = try_in_child([] {
      return unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWCGROUP) == 0
                 ? 0
                 : errno;
    });
    if (error == 0)
      return {"namespaces", Health::ok, "mount, network, IPC, UTS, PID and cgroup namespaces can be made", "", ""};
    return {"namespaces", Health::fail, std::string("namespaces cannot be made: ") + std::strerror(error),
            "every pod lives in namespaces of its own",
            error == EPERM ? "inside of a container, start that one privileged (CAP_SYS_ADMIN, no seccomp profile)"
                           : "use a kernel with CONFIG_NAMESPACES"};
  }
  std::string missing;
  for (const char* name : {"mnt", "net", "ipc", "uts", "pid", "cgroup"}) {
    if (!host.exists("/proc/self/ns/" + std::string(name)))
      missing += (missing.empty() ? "" : ", ") + std::string(name);
  }
  if (missing.empty()) return {"namespaces", Health::ok, "the kernel has them all", "", ""};
  return {"namespaces", Health::fail, "the kernel lacks " + missing, "every pod lives in namespaces of its own",
          "use a kernel with CONFIG_NAMESPACES"};
}

// Mounts an overlay on a tmpfs, in a mount namespace that ends with the process.
int attempt_overlay() {
  if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return errno;
  if (mount("none", "/tmp", "tmpfs", 0, "size=1m") != 0) return errno;
  for (const char* folder : {"/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/merged"}) {
    if (mkdir(folder, 0700) != 0) return errno;
  }
  return mount("none", "/tmp/merged", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work") == 0
             ? 0
             : errno;
}

Finding overlay_finding(const Host& host) {
  const std::string why = "image layers are stacked by overlayfs";
  if (host.can_try()) {
    const int error = try_in_child(attempt_overlay);
    if (error == 0) return {"overlayfs", Health::ok, "an overlay can be mounted", "", ""};
    return {"overlayfs", Health::fail, std::string("an overlay cannot be mounted: ") + std::strerror(error), why,
            "load it with: modprobe overlay    (and keep it: echo overlay > /etc/modules-load.d/overlay.conf)"};
  }
  const std::string known = host.read("/proc/filesystems").value_or("");
  if (known.find("\toverlay") != std::string::npos) return {"overlayfs", Health::ok, "the kernel has it", "", ""};
  return {"overlayfs", Health::warn, "not loaded", why, "load it with: modprobe overlay"};
}

// Asks nf_tables for its generation, in a network namespace of its own.
int attempt_nf_tables() {
  if (unshare(CLONE_NEWNET) != 0) return errno;
  const int descriptor = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
  if (descriptor < 0) return errno;
  struct {
    nlmsghdr header;
    nfgenmsg family;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETGEN;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  if (send(descriptor, &request, sizeof request, 0) < 0) return errno;
  alignas(nlmsghdr) std::array<char, 8192> answer;
  const ssize_t got = recv(descriptor, answer.data(), answer.size(), 0);
  if (got < static_cast<ssize_t>(sizeof(nlmsghdr))) return EIO;
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer.data());
  if (header->nlmsg_type != NLMSG_ERROR) return 0;
  return -reinterpret_cast<const nlmsgerr*>(header + 1)->error;
}

int attempt_bridge() {
  if (unshare(CLONE_NEWNET) != 0) return errno;
  const int descriptor = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  char name[IFNAMSIZ] = "pintle-doctor";
  return descriptor >= 0 && ioctl(descriptor, SIOCBRADDBR, name) == 0 ? 0 : errno;
}

Finding tried(const std::string& name, int error, const std::string& can, const std::string& cannot,
              const std::string& why, const std::string& mend) {
  if (error == 0) return {name, Health::ok, can, "", ""};
  return {name, Health::fail, cannot + ": " + std::strerror(error), why, mend};
}

Finding seccomp_finding(const Host& host) {
  if (host.exists("/proc/sys/kernel/seccomp/actions_avail"))
    return {"seccomp", Health::ok, "the kernel filters system calls", "", ""};
  return {"seccomp", Health::fail, "the kernel cannot filter system calls",
          "containers and isolated plugins run behind a seccomp profile", "use a kernel with CONFIG_SECCOMP_FILTER"};
}

struct Mount {
  std::string point, type, options;
};

std::vector<Mount> mounts_of(const Host& host) {
  std::vector<Mount> mounts;
  std::istringstream lines(host.read("/proc/self/mountinfo").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    // id parent device root POINT options [fields] - TYPE source OPTIONS
    std::istringstream words(line);
    std::string word;
    Mount mount;
    for (int i = 0; words >> word && word != "-"; ++i) {
      if (i == 4) mount.point = word;
    }
    words >> mount.type >> word >> mount.options;
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

bool has_word(const std::string& text, const std::string& word, char between) {
  return (between + text + between).find(between + word + between) != std::string::npos;
}

}  // namespace

std::vector<Finding> check_kernel(const Host& host) {
  std::vector<Finding> findings = {version_finding(host), namespace_finding(host), overlay_finding(host)};
  if (host.can_try()) {
    findings.push_back(tried("nf_tables", try_in_child(attempt_nf_tables), "answers", "does not answer",
                             "pods reach the world through nftables rules",
                             "load it with: modprobe nf_tables nft_masq nft_ct"));
    findings.push_back(tried("bridge", try_in_child(attempt_bridge), "a bridge can be made", "a bridge cannot be made",
                             "the network plugin network-bridge connects pods by one",
                             "load it with: modprobe bridge"));
  }
  findings.push_back(seccomp_finding(host));
  return findings;
}

namespace {

/// Who makes the cgroups of pods on a host with cgroup v2, and whether pods were made in another way.
Finding driver_finding(const Host& host, const std::string& root) {
  const std::string past = host.exists(root + "/kubepods")          ? "/kubepods"
                           : host.exists(root + "/pintle/monitors") ? "/pintle/monitors"
                                                                    : "";
  const std::string slices = host.exists(root + "/kubepods.slice") ? "/kubepods.slice" : "";
  if (!host.exists("/run/systemd/system")) {
    if (slices.empty()) return {"cgroup-driver", Health::ok, "cgroupfs: systemd does not run here", "", ""};
    return {"cgroup-driver", Health::warn, slices + " is there, but systemd does not run here",
            "nobody keeps the limits of slices", "end the pods in it; cgroupDriver auto makes others without"};
  }
  if (!host.exists("/run/dbus/system_bus_socket"))
    return {"cgroup-driver", Health::fail, "systemd runs, but D-Bus does not",
            "the plugin runtime-oci and OCI runtimes make the cgroups of pods through it",
            "apt-get install dbus && systemctl start dbus.socket; or set cgroupDriver of runtime-oci to cgroupfs"};
  if (past.empty()) return {"cgroup-driver", Health::ok, "systemd: pods are slices, containers scopes", "", ""};
  return {"cgroup-driver", Health::warn, past + " was made past systemd, which runs here",
          "on such a host systemd is to know all limits; these are from before an update, or cgroupDriver is cgroupfs",
          "leave cgroupDriver of runtime-oci at auto; pods from before move when they are made anew"};
}

}  // namespace

std::vector<Finding> check_cgroups(const Host& host) {
  const std::vector<Mount> mounts = mounts_of(host);
  std::vector<std::string> v1;
  std::string v2_point;
  for (const Mount& mount : mounts) {
    if (mount.type == "cgroup2" && v2_point.empty()) v2_point = mount.point;
    if (mount.type == "cgroup") v1.push_back(mount.options);
  }
  const std::string why_limits = "limits, statistics and the end of all processes of a container need them";
  if (v1.empty() && v2_point.empty()) {
    return {{"hierarchy", Health::fail, "no cgroup hierarchy is mounted", why_limits,
             "mount -t cgroup2 cgroup2 /sys/fs/cgroup"}};
  }

  std::vector<Finding> findings;
  const std::string unified = v2_point.empty() ? "" : host.read(v2_point + "/cgroup.controllers").value_or("");
  if (v1.empty()) {
    findings.push_back({"hierarchy", Health::ok, "cgroup v2 at " + v2_point, "", ""});
    std::string missing;
    for (const char* controller : {"cpu", "memory", "pids"}) {
      if (!has_word(unified, controller, ' ')) missing += (missing.empty() ? "" : ", ") + std::string(controller);
    }
    if (missing.empty()) {
      findings.push_back({"controllers", Health::ok, unified, "", ""});
    } else {
      findings.push_back({"controllers", Health::fail, "missing: " + missing, why_limits,
                          "inside of a container, start that one with --cgroupns=host or delegated controllers; on a "
                          "machine, boot with "
                          "cgroup_enable=memory"});
    }
    if (host.can_try() && access((v2_point + "/cgroup.procs").c_str(), W_OK) != 0) {
      findings.push_back({"delegation", Health::fail, v2_point + " cannot be written to",
                          "containers get cgroups of their own below it",
                          "mount it read-write, or start this container with a writable cgroup"});
    }
    findings.push_back(driver_finding(host, v2_point));
    return findings;
  }

  findings.push_back(
      {"hierarchy", Health::ok, v2_point.empty() ? "cgroup v1" : "hybrid: cgroup v1, and v2 at " + v2_point, "", ""});
  std::string missing;
  for (const char* controller : {"cpu", "memory", "pids", "freezer", "devices"}) {
    const bool mounted = std::any_of(v1.begin(), v1.end(),
                                     [&](const std::string& options) { return has_word(options, controller, ','); });
    if (!mounted) missing += (missing.empty() ? "" : ", ") + std::string(controller);
  }
  if (missing.empty()) {
    findings.push_back({"controllers", Health::ok, "cpu, memory, pids, freezer and devices are mounted", "", ""});
  } else {
    findings.push_back({"controllers", Health::warn, "not mounted as v1: " + missing, why_limits,
                        "mount each: mkdir /sys/fs/cgroup/NAME && mount -t cgroup -o NAME cgroup /sys/fs/cgroup/NAME"});
  }
  if (!unified.empty()) {
    const std::vector<int> crun =
        host.is_real() ? parse_version(run_program({"crun", "--version"}).output) : std::vector<int>();
    findings.push_back(
        {"hybrid", Health::warn, "the v2 hierarchy holds controllers beside v1 (" + unified + ")",
         "crun up to 1.8 refuses to run containers then" +
             std::string(crun.empty() ? ""
                                      : "; here it is " + std::to_string(crun[0]) + "." +
                                            (crun.size() > 1 ? std::to_string(crun[1]) : "0")),
         "mount these as v1 as well, e.g.: mkdir /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup "
         "/sys/fs/cgroup/hugetlb; or boot with systemd.unified_cgroup_hierarchy=1"});
  }
  return findings;
}

std::vector<Finding> check_programs(const Host&) {
  std::vector<Finding> findings;
  const auto version_of = [](const std::string& name) {
    const std::string output = run_program({name, "--version"}).output;
    return output.substr(0, output.find('\n'));
  };
  bool any_runtime = false;
  for (const char* name : {"crun", "runc"}) {
    const std::string path = find_program(name);
    any_runtime = any_runtime || !path.empty();
    if (!path.empty()) findings.push_back({name, Health::ok, version_of(name) + " (" + path + ")", "", ""});
  }
  if (!any_runtime) {
    findings.push_back({"crun or runc", Health::fail, "neither is installed",
                        "the plugin runtime-oci runs containers by one of them", "apt-get install crun"});
  }
  const std::string conmon = find_program("conmon");
  if (conmon.empty()) {
    findings.push_back(
        {"conmon", Health::fail, "is not installed",
         "it watches each container of the plugin runtime-oci and writes its log, so that containers outlive pintled",
         "apt-get install conmon"});
  } else {
    const std::string version = version_of("conmon");
    const bool old = parse_version(version) < std::vector<int>{2, 1};
    findings.push_back({"conmon", old ? Health::warn : Health::ok, version + " (" + conmon + ")",
                        old ? "2.1 is the oldest that was tried" : "",
                        old ? "install a newer one; Debian 12 has 2.1.6" : ""});
  }
  return findings;
}

}  // namespace pintle::cli
