#include "cri/oci/seccomp.hpp"

#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <map>
#include <mutex>

#include "sdk/support/files/files.hpp"

namespace pintle::oci {
namespace {

namespace json = boost::json;
using Calls = std::vector<std::string_view>;

const Calls kFilesAndFolders = {"access",
                                "chdir",
                                "chmod",
                                "chown",
                                "chown32",
                                "close",
                                "close_range",
                                "creat",
                                "dup",
                                "dup2",
                                "dup3",
                                "faccessat",
                                "faccessat2",
                                "fadvise64",
                                "fadvise64_64",
                                "fallocate",
                                "fchdir",
                                "fchmod",
                                "fchmodat",
                                "fchmodat2",
                                "fchown",
                                "fchown32",
                                "fchownat",
                                "fcntl",
                                "fcntl64",
                                "fdatasync",
                                "fgetxattr",
                                "flistxattr",
                                "flock",
                                "fremovexattr",
                                "fsetxattr",
                                "fstat",
                                "fstat64",
                                "fstatat64",
                                "fstatfs",
                                "fstatfs64",
                                "fsync",
                                "ftruncate",
                                "ftruncate64",
                                "futimesat",
                                "getcwd",
                                "getdents",
                                "getdents64",
                                "getxattr",
                                "getxattrat",
                                "lchown",
                                "lchown32",
                                "lgetxattr",
                                "link",
                                "linkat",
                                "listxattr",
                                "listxattrat",
                                "llistxattr",
                                "lremovexattr",
                                "lseek",
                                "_llseek",
                                "lsetxattr",
                                "lstat",
                                "lstat64",
                                "mkdir",
                                "mkdirat",
                                "mknod",
                                "mknodat",
                                "name_to_handle_at",
                                "newfstatat",
                                "open",
                                "openat",
                                "openat2",
                                "readlink",
                                "readlinkat",
                                "removexattr",
                                "removexattrat",
                                "rename",
                                "renameat",
                                "renameat2",
                                "rmdir",
                                "setxattr",
                                "setxattrat",
                                "stat",
                                "stat64",
                                "statfs",
                                "statfs64",
                                "statx",
                                "symlink",
                                "symlinkat",
                                "sync",
                                "sync_file_range",
                                "sync_file_range2",
                                "syncfs",
                                "truncate",
                                "truncate64",
                                "umask",
                                "unlink",
                                "unlinkat",
                                "utime",
                                "utimensat",
                                "utimensat_time64",
                                "utimes",
                                "cachestat",
                                "file_getattr"};
const Calls kReadingAndWriting = {
    "copy_file_range", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
    "io_setup",        "io_submit", "ioctl",      "pipe",         "pipe2",         "pread64",
    "preadv",          "preadv2",   "pwrite64",   "pwritev",      "pwritev2",      "read",
    "readahead",       "readv",     "sendfile",   "sendfile64",   "splice",        "tee",
    "vmsplice",        "write",     "writev",     "memfd_create", "memfd_secret"};
const Calls kWaiting = {"epoll_create",    "epoll_create1",     "epoll_ctl",         "epoll_ctl_old",
                        "epoll_pwait",     "epoll_pwait2",      "epoll_wait",        "epoll_wait_old",
                        "eventfd",         "eventfd2",          "inotify_add_watch", "inotify_init",
                        "inotify_init1",   "inotify_rm_watch",  "_newselect",        "poll",
                        "ppoll",           "ppoll_time64",      "pselect6",          "pselect6_time64",
                        "select",          "signalfd",          "signalfd4",         "timerfd_create",
                        "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",   "timerfd_settime64",
                        "fanotify_mark"};
const Calls kMemory = {"brk",
                       "get_mempolicy",
                       "madvise",
                       "map_shadow_stack",
                       "membarrier",
                       "mincore",
                       "mlock",
                       "mlock2",
                       "mlockall",
                       "mmap",
                       "mmap2",
                       "mprotect",
                       "mremap",
                       "mseal",
                       "msync",
                       "munlock",
                       "munlockall",
                       "munmap",
                       "pkey_alloc",
                       "pkey_free",
                       "pkey_mprotect",
                       "process_mrelease",
                       "remap_file_pages",
                       "set_mempolicy_home_node"};
const Calls kProcesses = {"execve",
                          "execveat",
                          "exit",
                          "exit_group",
                          "fork",
                          "vfork",
                          "getpgid",
                          "getpgrp",
                          "getpid",
                          "getppid",
                          "getpriority",
                          "getrlimit",
                          "getrusage",
                          "getsid",
                          "gettid",
                          "ioprio_get",
                          "ioprio_set",
                          "pidfd_open",
                          "pidfd_send_signal",
                          "prctl",
                          "arch_prctl",
                          "prlimit64",
                          "setpgid",
                          "setpriority",
                          "setrlimit",
                          "setsid",
                          "times",
                          "ugetrlimit",
                          "uname",
                          "wait4",
                          "waitid",
                          "waitpid",
                          "getcpu",
                          "set_tid_address",
                          "set_thread_area",
                          "get_thread_area",
                          "rseq",
                          "get_robust_list",
                          "set_robust_list",
                          "sysinfo",
                          "seccomp",
                          "landlock_create_ruleset",
                          "landlock_add_rule",
                          "landlock_restrict_self",
                          "capget",
                          "capset",
                          "getrandom",
                          "modify_ldt",
                          "ptrace",
                          "process_vm_readv",
                          "process_vm_writev"};
const Calls kScheduling = {"nanosleep",
                           "sched_getaffinity",
                           "sched_getattr",
                           "sched_getparam",
                           "sched_get_priority_max",
                           "sched_get_priority_min",
                           "sched_getscheduler",
                           "sched_rr_get_interval",
                           "sched_rr_get_interval_time64",
                           "sched_setaffinity",
                           "sched_setattr",
                           "sched_setparam",
                           "sched_setscheduler",
                           "sched_yield",
                           "futex",
                           "futex_time64",
                           "futex_waitv",
                           "futex_wait",
                           "futex_wake",
                           "futex_requeue"};
const Calls kSignals = {"alarm",
                        "kill",
                        "pause",
                        "restart_syscall",
                        "rt_sigaction",
                        "rt_sigpending",
                        "rt_sigprocmask",
                        "rt_sigqueueinfo",
                        "rt_sigreturn",
                        "rt_sigsuspend",
                        "rt_sigtimedwait",
                        "rt_sigtimedwait_time64",
                        "rt_tgsigqueueinfo",
                        "sigaltstack",
                        "sigprocmask",
                        "sigreturn",
                        "tgkill",
                        "tkill",
                        "signal"};
const Calls kTime = {"adjtimex",
                     "clock_adjtime",
                     "clock_adjtime64",
                     "clock_getres",
                     "clock_getres_time64",
                     "clock_gettime",
                     "clock_gettime64",
                     "clock_nanosleep",
                     "clock_nanosleep_time64",
                     "getitimer",
                     "gettimeofday",
                     "setitimer",
                     "time",
                     "timer_create",
                     "timer_delete",
                     "timer_getoverrun",
                     "timer_gettime",
                     "timer_gettime64",
                     "timer_settime",
                     "timer_settime64"};
const Calls kIdentity = {
    "getegid",   "getegid32",   "geteuid",   "geteuid32",   "getgid",    "getgid32",    "getgroups", "getgroups32",
    "getresgid", "getresgid32", "getresuid", "getresuid32", "getuid",    "getuid32",    "setfsgid",  "setfsgid32",
    "setfsuid",  "setfsuid32",  "setgid",    "setgid32",    "setgroups", "setgroups32", "setregid",  "setregid32",
    "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid",  "setreuid32",  "setuid",    "setuid32"};
const Calls kNetwork = {"accept",     "accept4",    "bind",      "connect",  "getpeername", "getsockname",
                        "getsockopt", "listen",     "recv",      "recvfrom", "recvmmsg",    "recvmmsg_time64",
                        "recvmsg",    "send",       "sendmmsg",  "sendmsg",  "sendto",      "setsockopt",
                        "shutdown",   "socketcall", "socketpair"};
const Calls kIpc = {"ipc",
                    "mq_getsetattr",
                    "mq_notify",
                    "mq_open",
                    "mq_timedreceive",
                    "mq_timedreceive_time64",
                    "mq_timedsend",
                    "mq_timedsend_time64",
                    "mq_unlink",
                    "msgctl",
                    "msgget",
                    "msgrcv",
                    "msgsnd",
                    "semctl",
                    "semget",
                    "semop",
                    "semtimedop",
                    "semtimedop_time64",
                    "shmat",
                    "shmctl",
                    "shmdt",
                    "shmget"};

/// What a capability opens besides.
struct Opened {
  std::string_view capability;
  Calls calls;
};
const Opened kByCapability[] = {
    {"CAP_SYS_ADMIN",
     {"bpf",
      "clone",
      "clone3",
      "fanotify_init",
      "fsconfig",
      "fsmount",
      "fsopen",
      "fspick",
      "lookup_dcookie",
      "lsm_get_self_attr",
      "lsm_list_modules",
      "lsm_set_self_attr",
      "listmount",
      "mount",
      "mount_setattr",
      "move_mount",
      "open_tree",
      "perf_event_open",
      "quotactl",
      "quotactl_fd",
      "setdomainname",
      "sethostname",
      "setns",
      "statmount",
      "syslog",
      "umount",
      "umount2",
      "unshare"}},
    {"CAP_SYS_BOOT", {"reboot"}},
    {"CAP_SYS_CHROOT", {"chroot"}},
    {"CAP_SYS_MODULE", {"delete_module", "finit_module", "init_module"}},
    {"CAP_SYS_PACCT", {"acct"}},
    {"CAP_SYS_PTRACE", {"kcmp", "pidfd_getfd", "process_madvise"}},
    {"CAP_SYS_RAWIO", {"ioperm", "iopl"}},
    {"CAP_SYS_TIME", {"clock_settime", "clock_settime64", "settimeofday", "stime"}},
    {"CAP_SYS_TTY_CONFIG", {"vhangup"}},
    {"CAP_SYS_NICE", {"get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy"}},
    {"CAP_SYSLOG", {"syslog"}},
    {"CAP_BPF", {"bpf"}},
    {"CAP_PERFMON", {"perf_event_open"}},
    {"CAP_DAC_READ_SEARCH", {"open_by_handle_at"}},
};
/// Known, and refused to everybody.
const Calls kRefused = {
    "_sysctl",        "add_key",         "create_module", "get_kernel_syms", "io_uring_enter", "io_uring_register",
    "io_uring_setup", "kexec_file_load", "kexec_load",    "keyctl",          "nfsservctl",     "pivot_root",
    "query_module",   "request_key",     "swapoff",       "swapon",          "sysfs",          "userfaultfd",
    "uselib",         "ustat",           "vm86",          "vm86old"};

constexpr uint64_t kNamespaceFlags =
    0x7E020000;  // CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
constexpr uint64_t kVsock = 40;

std::string_view native_architecture() {
  switch (seccomp_arch_native()) {
    case SCMP_ARCH_X86_64:
      return "SCMP_ARCH_X86_64";
    case SCMP_ARCH_AARCH64:
      return "SCMP_ARCH_AARCH64";
    case SCMP_ARCH_ARM:
      return "SCMP_ARCH_ARM";
    case SCMP_ARCH_PPC64LE:
      return "SCMP_ARCH_PPC64LE";
    case SCMP_ARCH_S390X:
      return "SCMP_ARCH_S390X";
    case SCMP_ARCH_RISCV64:
      return "SCMP_ARCH_RISCV64";
    default:
      return "SCMP_ARCH_NATIVE";
  }
}

std::string to_base64(std::string_view bytes) {
  static constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto at = [&](size_t k) { return k < bytes.size() ? static_cast<unsigned char>(bytes[k]) : 0u; };
    const unsigned group = (at(i) << 16) | (at(i + 1) << 8) | at(i + 2);
    text += kAlphabet[group >> 18];
    text += kAlphabet[(group >> 12) & 63];
    text += i + 1 < bytes.size() ? kAlphabet[(group >> 6) & 63] : '=';
    text += i + 2 < bytes.size() ? kAlphabet[group & 63] : '=';
  }
  return text;
}

Result<std::string> compile(const std::vector<SeccompRule>& rules) {
  struct Filter {
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    ~Filter() { seccomp_release(context); }
  } filter;
  if (!filter.context) return internal_error("make a seccomp filter: out of memory");
  seccomp_attr_set(filter.context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));
  seccomp_attr_set(filter.context, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (const SeccompRule& rule : rules) {
    std::vector<scmp_arg_cmp> comparisons;
    for (const SeccompArgument& argument : rule.arguments) {
      comparisons.push_back(argument.mask
                                ? scmp_arg_cmp{argument.index, SCMP_CMP_MASKED_EQ, argument.mask, argument.value}
                            : argument.differs ? scmp_arg_cmp{argument.index, SCMP_CMP_NE, argument.value, 0}
                                               : scmp_arg_cmp{argument.index, SCMP_CMP_EQ, argument.value, 0});
    }
    for (const std::string_view call : rule.calls) {
      const int number = seccomp_syscall_resolve_name(std::string(call).c_str());
      if (number == __NR_SCMP_ERROR || number < 0) continue;  // not of this architecture or library
      const int code = seccomp_rule_add_array(filter.context, rule.allow ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM),
                                              number, static_cast<unsigned>(comparisons.size()), comparisons.data());
      if (code < 0) return status_from_errno(-code, "add '" + std::string(call) + "' to the seccomp filter");
    }
  }
  files::Descriptor memory(memfd_create("seccomp", MFD_CLOEXEC));
  if (!memory.valid()) return status_from_errno(errno, "make a seccomp filter");
  if (const int code = seccomp_export_bpf(filter.context, memory.get()); code < 0)
    return status_from_errno(-code, "export the seccomp filter");
  if (lseek(memory.get(), 0, SEEK_SET) != 0) return status_from_errno(errno, "read the seccomp filter");
  auto bytes = files::read_all(memory.get(), 1u << 20);
  if (!bytes) return bytes.status();
  return to_base64(*bytes);
}

}  // namespace

std::vector<SeccompRule> default_seccomp_rules(const std::set<std::string>& capabilities) {
  std::vector<SeccompRule> rules;
  SeccompRule always, opened;
  for (const Calls* calls : {&kFilesAndFolders, &kReadingAndWriting, &kWaiting, &kMemory, &kProcesses, &kScheduling,
                             &kSignals, &kTime, &kIdentity, &kNetwork, &kIpc}) {
    always.calls.insert(always.calls.end(), calls->begin(), calls->end());
  }
  std::set<std::string_view> allowed(always.calls.begin(), always.calls.end()),
      closed(kRefused.begin(), kRefused.end());
  for (const Opened& item : kByCapability) {
    const bool has = capabilities.count(std::string(item.capability)) != 0;
    for (const std::string_view call : item.calls) {
      if (!has) closed.insert(call);
      if (has && allowed.insert(call).second) opened.calls.push_back(call);
    }
  }
  const bool admin = capabilities.count("CAP_SYS_ADMIN") != 0;
  rules.push_back(std::move(always));
  if (!opened.calls.empty()) rules.push_back(std::move(opened));
  if (!admin) {
    // Without new namespaces, which is all that most programs want of it. clone3 hides its flags behind a pointer: ENOSYS makes
    // C libraries fall back to clone.
    rules.push_back({true, {"clone"}, {{0, 0, kNamespaceFlags}}});
    closed.erase("clone");
    closed.erase("clone3");
  }
  rules.push_back({true, {"socket"}, {{0, kVsock, 0, true}}});
  for (const uint64_t persona : {0x0ull, 0x8ull, 0x20000ull, 0x20008ull, 0xffffffffull}) {
    rules.push_back({true, {"personality"}, {{0, persona}}});
  }
  SeccompRule refused{false, {}, {}};
  for (const std::string_view call : closed) {
    if (!allowed.count(call)) refused.calls.push_back(call);
  }
  rules.push_back(std::move(refused));
  return rules;
}

json::object seccomp_document(const std::vector<SeccompRule>& rules) {
  json::array calls;
  for (const SeccompRule& rule : rules) {
    json::array names, arguments;
    for (const std::string_view call : rule.calls) names.push_back(json::string(call));
    for (const SeccompArgument& argument : rule.arguments) {
      json::object one{{"index", argument.index}, {"value", argument.mask ? argument.mask : argument.value}};
      if (argument.mask) one["valueTwo"] = argument.value;
      one["op"] = argument.mask ? "SCMP_CMP_MASKED_EQ" : argument.differs ? "SCMP_CMP_NE" : "SCMP_CMP_EQ";
      arguments.push_back(std::move(one));
    }
    json::object item{{"names", std::move(names)}, {"action", rule.allow ? "SCMP_ACT_ALLOW" : "SCMP_ACT_ERRNO"}};
    if (!rule.allow) item["errnoRet"] = EPERM;
    if (!arguments.empty()) item["args"] = std::move(arguments);
    calls.push_back(std::move(item));
  }
  return {{"defaultAction", "SCMP_ACT_ERRNO"},
          {"defaultErrnoRet", ENOSYS},
          {"architectures", json::array{json::string(native_architecture())}},
          {"syscalls", std::move(calls)}};
}

Result<std::string> compiled_seccomp(const std::set<std::string>& capabilities) {
  static std::mutex mutex;
  static std::map<std::set<std::string>, std::string> kept;
  std::set<std::string> relevant;
  for (const Opened& item : kByCapability) {
    if (capabilities.count(std::string(item.capability))) relevant.insert(std::string(item.capability));
  }
  std::lock_guard guard(mutex);
  if (const auto found = kept.find(relevant); found != kept.end()) return found->second;
  auto compiled = compile(default_seccomp_rules(capabilities));
  if (!compiled) return compiled;
  return kept[relevant] = std::move(*compiled);
}

}  // namespace pintle::oci
