#pragma once

/// Kills a process before each of its system calls in turn, so that no half-done state is left to chance.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace pintle::bridge::testing {

/// Runs `prepare`, then `action`, in a child, and kills the child before system call number `point` of the action, in whichever of its
/// threads that is. False if the action ended before it came to that. `action` says whether it succeeded.
inline bool kill_at(int point, const std::function<void()>& prepare, const std::function<bool()>& action) {
  const pid_t child = fork();
  if (child == 0) {
    prepare();
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    _exit(action() ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, __WALL), child);
  EXPECT_TRUE(WIFSTOPPED(status)) << "the preparation failed";
  if (!WIFSTOPPED(status)) return false;
  const auto options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
  EXPECT_EQ(ptrace(PTRACE_SETOPTIONS, child, nullptr, options), 0);
  ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
  int calls = 0;
  bool killed = false;
  while (true) {
    const pid_t thread = waitpid(-1, &status, __WALL);
    if (thread < 0) return killed;
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      if (thread != child) continue;
      EXPECT_TRUE(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) << "the action failed by itself";
      return killed;
    }
    int pass_on = 0;
    if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
      __ptrace_syscall_info info{};
      ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info);
      if (info.op == PTRACE_SYSCALL_INFO_ENTRY && ++calls == point) {
        killed = true;
        kill(child, SIGKILL);
        continue;
      }
    } else if (WSTOPSIG(status) != SIGSTOP && WSTOPSIG(status) != SIGTRAP) {
      pass_on = WSTOPSIG(status);
    }
    ptrace(PTRACE_SYSCALL, thread, nullptr, pass_on);
  }
}

}  // namespace pintle::bridge::testing
