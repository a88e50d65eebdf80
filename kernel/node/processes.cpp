#include "kernel/node/processes.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pintle::kernel {

Processes::~Processes() {
  std::lock_guard lock(lock_);
  for (auto& [pid, child] : children_) reactor_.unwatch(child->watch);
}

void Processes::watch(int32_t pid, std::shared_ptr<Child> child) {
  std::lock_guard lock(lock_);
  children_[pid] = child;
  Result<uint64_t> id = reactor_.watch(child->pidfd.get(), POLLIN, [this, pid, child](uint32_t) {
    Result<int> status = process::reap(child->pidfd.get());
    if (!status && status.status().code() == Code::unavailable) return reactor_.rearm(child->watch);
    {
      std::lock_guard inner(lock_);
      children_.erase(pid);
    }
    reactor_.unwatch(child->watch);
    if (child->exited) child->exited(pid, status ? *status : 0);
  });
  if (id) child->watch = *id;
}

Result<StartedProcess> Processes::start(const SpawnRequest& request, std::function<void(int32_t, int)> exited) {
  Result<StartedProcess> started = process::start_process(request);
  if (!started) return started.status();
  auto child = std::make_shared<Child>();
  child->pidfd.reset(fcntl(started->pidfd.get(), F_DUPFD_CLOEXEC, 3));
  child->exited = std::move(exited);
  child->detached = (request.flags & PINTLE_SPAWN_DETACHED) != 0;
  watch(started->pid, std::move(child));
  return started;
}

void Processes::adopt(int32_t pid) {
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) return;
  auto child = std::make_shared<Child>();
  child->pidfd.reset(pidfd);
  watch(pid, std::move(child));
}

void Processes::kill_attached() {
  std::lock_guard lock(lock_);
  for (const auto& [pid, child] : children_)
    if (!child->detached) syscall(SYS_pidfd_send_signal, child->pidfd.get(), SIGKILL, nullptr, 0);
}

std::vector<int32_t> Processes::children() {
  std::lock_guard lock(lock_);
  std::vector<int32_t> out;
  for (const auto& [pid, child] : children_) out.push_back(pid);
  return out;
}

}  // namespace pintle::kernel
