#include "kernel/isolation/confinement.hpp"

#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "sdk/support/process/capabilities.hpp"

namespace pintle::kernel {
namespace {

constexpr rlim_t max_descriptors = 4096;
constexpr uint64_t process_overhead = 48u
                                      << 20;  // code and stacks that RLIMIT_DATA counts, but the plugin does not use
constexpr int last_syscall = 600;             // numbers above are unknown to every library that we build with

/// Never, whatever the manifest says: what they do is the host's, or nobody's.
constexpr std::string_view denied[] = {"fork",
                                       "vfork",
                                       "execve",
                                       "execveat",
                                       "ptrace",
                                       "process_vm_readv",
                                       "process_vm_writev",
                                       "process_madvise",
                                       "kexec_load",
                                       "kexec_file_load",
                                       "init_module",
                                       "finit_module",
                                       "delete_module",
                                       "bpf",
                                       "perf_event_open",
                                       "userfaultfd",
                                       "keyctl",
                                       "add_key",
                                       "request_key",
                                       "reboot",
                                       "swapon",
                                       "swapoff",
                                       "acct",
                                       "settimeofday",
                                       "clock_settime",
                                       "adjtimex",
                                       "clock_adjtime",
                                       "iopl",
                                       "ioperm",
                                       "modify_ldt",
                                       "lookup_dcookie",
                                       "io_uring_setup",
                                       "io_uring_enter",
                                       "io_uring_register",
                                       "syslog",
                                       "vhangup",
                                       "quotactl",
                                       "quotactl_fd",
                                       "personality",
                                       "uselib",
                                       "ustat",
                                       "sysfs",
                                       "nfsservctl",
                                       "vm86",
                                       "vm86old",
                                       "kcmp",
                                       "get_kernel_syms",
                                       "query_module",
                                       "create_module",
                                       "pidfd_getfd"};

/// What enters namespaces or changes mounts; harmless without CAP_SYS_ADMIN only as long as no user namespace can be made.
constexpr std::string_view administrative[] = {"mount",
                                               "umount",
                                               "umount2",
                                               "pivot_root",
                                               "chroot",
                                               "unshare",
                                               "setns",
                                               "move_mount",
                                               "open_tree",
                                               "fsopen",
                                               "fsconfig",
                                               "fsmount",
                                               "fspick",
                                               "mount_setattr",
                                               "open_by_handle_at",
                                               "name_to_handle_at",
                                               "fanotify_init"};

/// Signals to others: the host is one of them.
constexpr std::string_view signalling[] = {"kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
                                           "pidfd_send_signal"};

template <size_t count>
bool has(const std::string_view (&list)[count], std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

Status filter_system_calls(bool administers, bool signals) {
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
  if (filter == nullptr) return resource_exhausted("seccomp: no memory");
  int error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  const uint32_t refuse = SCMP_ACT_ERRNO(EPERM);
  const auto own = static_cast<scmp_datum_t>(getpid());
  for (int number = 0; number < last_syscall && error == 0; ++number) {
    char* text = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);
    if (text == nullptr) continue;
    const std::string name = text;
    free(text);
    if (name == "clone3")
      continue;  // its flags lie in memory, where no filter can see them: libraries fall back to clone
    if (name == "clone") {
      error =
          seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
      if (error == 0) error = seccomp_rule_add(filter, refuse, number, 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    } else if (name == "tgkill") {
      error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1, SCMP_A0(SCMP_CMP_EQ, own));
    } else {
      const bool no =
          has(denied, name) || (!administers && has(administrative, name)) || (!signals && has(signalling, name));
      error = seccomp_rule_add(filter, no ? refuse : SCMP_ACT_ALLOW, number, 0);
    }
  }
  if (error == 0) error = seccomp_load(filter);
  seccomp_release(filter);
  return error == 0 ? Status() : status_from_errno(-error, "seccomp");
}

}  // namespace

Status confine(const Confinement& confinement) {
  uint64_t kept = 0;
  for (const std::string& name : confinement.capabilities) {
    const auto found = std::find(std::begin(capability_names), std::end(capability_names), name);
    if (found == std::end(capability_names))
      return invalid_argument("the manifest asks for the unknown capability " + name);
    kept |= 1ull << (found - std::begin(capability_names));
  }
  const rlimit descriptors{max_descriptors, max_descriptors}, none{0, 0};
  const rlimit memory{confinement.memory + process_overhead, confinement.memory + process_overhead};
  if (setrlimit(RLIMIT_NOFILE, &descriptors) != 0 || setrlimit(RLIMIT_CORE, &none) != 0)
    return status_from_errno(errno, "setrlimit");
  if (confinement.memory != 0 && setrlimit(RLIMIT_DATA, &memory) != 0) return status_from_errno(errno, "setrlimit");
  prctl(PR_SET_DUMPABLE, 0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return status_from_errno(errno, "no_new_privs");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return status_from_errno(errno, "capget");
  for (int bit = 0; bit < 64; ++bit)
    if ((kept & (1ull << bit)) == 0) prctl(PR_CAPBSET_DROP, bit);  // fails where there is nothing to drop
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  for (int half = 0; half < 2; ++half) {
    data[half].permitted &= static_cast<uint32_t>(kept >> (32 * half));
    data[half].effective = data[half].permitted;
    data[half].inheritable = 0;
  }
  if (syscall(SYS_capset, &header, data) != 0) return status_from_errno(errno, "capset");
  const auto holds = [&](int capability) { return (kept & (1ull << capability)) != 0; };
  return filter_system_calls(holds(CAP_SYS_ADMIN), holds(CAP_KILL));
}

}  // namespace pintle::kernel
