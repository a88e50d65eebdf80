#include "sdk/support/process/process.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pintle::process {
namespace {

std::string_view view(const pintle_text& text) { return {text.data, text.data != nullptr ? text.size : 0}; }

constexpr size_t child_stack = 64 << 10;
constexpr long cgroup2_magic = 0x63677270;
constexpr uint32_t max_arguments = 4096, max_descriptors = 256, max_cgroups = 32;

/// All that the child needs, made before it exists: it must not allocate.
struct Plan {
  const char* program;
  char* const* arguments;
  char* const* environment;
  const char* directory;
  const int* descriptors;  // above all targets already
  int descriptor_count;
  const int* joins;  // cgroup folders' `tasks` or `cgroup.procs`, open for writing
  int join_count;
  bool new_session, dies_with_parent;
  pid_t parent;
  sigset_t mask;
  const char* step;
  int error;
};

int run_child(void* argument) {
  Plan& plan = *static_cast<Plan*>(argument);
  const auto fail = [&](const char* step) {
    plan.step = step;
    plan.error = errno;
    _exit(127);
  };
  // The handlers are the parent's code: none may run here.
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < 65; ++number) {
    struct sigaction present {};
    if (number != SIGKILL && number != SIGSTOP && syscall(SYS_rt_sigaction, number, nullptr, &present, 8) == 0 &&
        present.sa_handler != SIG_DFL)
      sigaction(number, &standard, nullptr);
  }
  if (plan.dies_with_parent) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail("prctl");
    if (getppid() != plan.parent) _exit(127);
  }
  for (int i = 0; i < plan.join_count; ++i)
    if (write(plan.joins[i], "0", 1) != 1) fail("join cgroup");
  if (plan.new_session && setsid() < 0) fail("setsid");
  if (chdir(plan.directory) != 0) fail("change directory");
  for (int i = 0; i < plan.descriptor_count; ++i) {
    if (plan.descriptors[i] >= 0) {
      if (dup2(plan.descriptors[i], i) < 0) fail("set up descriptors");
    } else {
      const int null = open("/dev/null", O_RDWR);
      if (null < 0 || (null != i && (dup2(null, i) < 0 || close(null) != 0))) fail("open /dev/null");
    }
  }
  if (syscall(SYS_close_range, static_cast<unsigned>(plan.descriptor_count), ~0u, CLOSE_RANGE_CLOEXEC) != 0)
    fail("close descriptors");
  sigprocmask(SIG_SETMASK, &plan.mask, nullptr);
  execve(plan.program, plan.arguments, plan.environment);
  fail("execute");
  __builtin_unreachable();
}

/// As clone(2), into a v2 cgroup. glibc has no clone3, and its `syscall` would return through a stack that the child has
/// written over: so the child goes on right behind the instruction, below this frame, while we are suspended.
__attribute__((noinline)) pid_t clone_into_cgroup(Plan& plan, int cgroup, int* pidfd) {
#if defined(__x86_64__)
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP;
  arguments.exit_signal = SIGCHLD;
  arguments.pidfd = reinterpret_cast<uint64_t>(pidfd);
  arguments.cgroup = static_cast<uint64_t>(cgroup);
  long result = 0;
  asm volatile("syscall"
               : "=a"(result)
               : "0"(SYS_clone3), "D"(&arguments), "S"(sizeof arguments)
               : "rcx", "r11", "memory");
  if (result == 0) run_child(&plan);
  if (result >= 0) return static_cast<pid_t>(result);
  errno = static_cast<int>(-result);
  return -1;
#else
#error "clone_into_cgroup is written for x86_64"
#endif
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (const std::string& text : texts) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

}  // namespace

Result<int> reap(int pidfd) {
  siginfo_t info{};
  while (waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG) != 0)
    if (errno != EINTR) return status_from_errno(errno, "waitid");
  if (info.si_pid == 0) return unavailable("it still runs");
  return info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8
                                    : (info.si_status & 0x7f) | (info.si_code == CLD_DUMPED ? 0x80 : 0);
}

Result<SpawnRequest> spawn_request(const pintle_spawn& spawn) {
  if (spawn.argument_count > max_arguments || spawn.environment_count > max_arguments ||
      spawn.descriptor_count > max_descriptors || spawn.cgroup_count > max_cgroups)
    return invalid_argument("more than 4096 arguments or variables, 256 descriptors or 32 cgroups");
  SpawnRequest out;
  out.program = view(spawn.program);
  if (out.program.empty() || out.program[0] != '/')
    return invalid_argument("the program \"" + out.program + "\" is not an absolute path");
  for (uint32_t i = 0; i < spawn.argument_count; ++i) out.arguments.emplace_back(view(spawn.arguments[i]));
  for (uint32_t i = 0; i < spawn.environment_count; ++i) out.environment.emplace_back(view(spawn.environment[i]));
  for (uint32_t i = 0; i < spawn.cgroup_count; ++i) out.cgroups.emplace_back(view(spawn.cgroups[i]));
  for (uint32_t i = 0; i < spawn.descriptor_count; ++i) out.descriptors.push_back(spawn.descriptors[i]);
  for (const auto* list : {&out.arguments, &out.environment, &out.cgroups})
    for (const std::string& text : *list)
      if (text.find('\0') != std::string::npos)
        return invalid_argument("an argument, variable or cgroup holds a zero byte");
  if (out.arguments.empty()) out.arguments.push_back(out.program);
  if (spawn.directory.size != 0) out.directory = view(spawn.directory);
  out.flags = spawn.flags;
  return out;
}

Result<StartedProcess> start_process(const SpawnRequest& request) {
  // Descriptors are moved above every target first, so that none overwrites one that is still to be placed.
  const int count = std::max<int>(3, static_cast<int>(request.descriptors.size()));
  std::vector<files::Descriptor> held;
  std::vector<int> sources(static_cast<size_t>(count), -1);
  for (size_t i = 0; i < request.descriptors.size(); ++i) {
    if (request.descriptors[i] < 0) continue;
    held.emplace_back(fcntl(request.descriptors[i], F_DUPFD_CLOEXEC, count));
    if (!held.back().valid()) return status_from_errno(errno, "descriptor " + std::to_string(i) + " of the child");
    sources[i] = held.back().get();
  }
  std::vector<int> joins;
  int into_cgroup = -1;
  for (const std::string& folder : request.cgroups) {
    Result<files::Descriptor> opened = files::open_folder(folder);
    if (!opened) return opened.status().with_context("cgroup");
    struct statfs info {};
    if (fstatfs(opened->get(), &info) == 0 && info.f_type == cgroup2_magic && into_cgroup < 0) {
      into_cgroup = opened->get();
      held.push_back(std::move(*opened));
      continue;
    }
    Result<files::Descriptor> tasks = files::open_at(opened->get(), "tasks", O_WRONLY);
    if (!tasks) tasks = files::open_at(opened->get(), "cgroup.procs", O_WRONLY);
    if (!tasks) return tasks.status().with_context("cgroup " + folder);
    joins.push_back(tasks->get());
    held.push_back(std::move(*tasks));
  }
  const std::vector<char*> arguments = pointers(request.arguments), environment = pointers(request.environment);
  void* stack = mmap(nullptr, child_stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return status_from_errno(errno, "a stack for the child");

  Plan plan{request.program.c_str(),
            arguments.data(),
            environment.data(),
            request.directory.c_str(),
            sources.data(),
            count,
            joins.data(),
            static_cast<int>(joins.size()),
            (request.flags & PINTLE_SPAWN_NEW_SESSION) != 0,
            request.dies_with_parent,
            getpid(),
            {},
            "",
            0};
  sigemptyset(&plan.mask);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int pidfd = -1;
  pid_t pid = -1;
  if (into_cgroup >= 0) {
    pid = clone_into_cgroup(plan, into_cgroup, &pidfd);
  } else {
    pid = clone(run_child, static_cast<char*>(stack) + child_stack, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
                &plan, &pidfd);
  }
  const int clone_error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  munmap(stack, child_stack);
  if (pid < 0) return status_from_errno(clone_error, "clone");
  StartedProcess out{pid, files::Descriptor(pidfd)};
  fcntl(pidfd, F_SETFD, FD_CLOEXEC);
  if (plan.error != 0) {
    while (waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), nullptr, WEXITED) != 0 && errno == EINTR) {
    }
    return status_from_errno(plan.error, std::string(plan.step) + " " + request.program);
  }
  return out;
}

}  // namespace pintle::process
