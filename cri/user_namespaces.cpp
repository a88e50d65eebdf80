#include "cri/user_namespaces.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <pintle/buffer.hpp>

namespace pintle::cri {
namespace {

constexpr size_t kStackBytes = 16u << 10;

/// Runs in our memory, so it may do nothing but wait for its end.
int wait_for_end(void*) {
  ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  for (;;) ::syscall(SYS_ppoll, nullptr, 0, nullptr, nullptr, 0);
}

Status write_map(const std::string& path, const std::string& text) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return status_from_errno(errno, "map the pod's ids in " + path);
  return Status::ok();
}

bool is_same(const api::IDMapping& a, const api::IDMapping& b) {
  return a.host_id() == b.host_id() && a.container_id() == b.container_id() && a.length() == b.length();
}

}  // namespace

Result<IdRange> id_range_of(const api::NamespaceOption& options) {
  if (!options.has_userns_options() || options.userns_options().mode() == api::NODE) return IdRange();
  const api::UserNamespace& wanted = options.userns_options();
  const std::string what = "namespace_options.userns_options";
  if (wanted.mode() != api::POD) return invalid_argument(what + ".mode: a user namespace is the pod's or the node's");
  if (wanted.uids_size() != 1 || wanted.gids_size() != 1 || !is_same(wanted.uids(0), wanted.gids(0)) ||
      wanted.uids(0).container_id() != 0 || wanted.uids(0).length() == 0)
    return invalid_argument(what + ": uids and gids need one mapping each, the same for both, from container id 0 on");
  const IdRange range{wanted.uids(0).host_id(), wanted.uids(0).length()};
  if (range.host_id == 0 || uint64_t{range.host_id} + range.length > uint64_t{UINT32_MAX})
    return invalid_argument(what + ": host ids have to lie between 1 and 4294967294");
  if (options.network() == api::NODE || options.pid() == api::NODE || options.ipc() == api::NODE)
    return invalid_argument(what + ": a pod with a user namespace cannot use the node's network, processes or IPC");
  return range;
}

struct NamespaceHolder::Child {
  alignas(16) std::array<char, kStackBytes> stack;
  int pid = 0;
  UniqueFd handle;
};

NamespaceHolder::NamespaceHolder(std::unique_ptr<Child> child) : child_(std::move(child)) {}
NamespaceHolder::NamespaceHolder(NamespaceHolder&&) noexcept = default;

Result<NamespaceHolder> NamespaceHolder::make(const IdRange& range, int flags) {
  auto child = std::make_unique<Child>();
  int handle = -1;
  // It must not run our handlers in our memory.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  child->pid = ::clone(wait_for_end, child->stack.data() + child->stack.size(),
                       CLONE_VM | CLONE_PIDFD | CLONE_NEWUSER | flags, nullptr, &handle);
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (child->pid < 0) {
    if (error == ENOSPC || error == EUSERS)
      return resource_exhausted(
          "make the pod's user namespace: this node allows no more (sysctl user.max_user_namespaces)");
    return status_from_errno(error, "make the pod's user namespace");
  }
  child->handle = UniqueFd(handle);
  NamespaceHolder holder(std::move(child));
  const std::string process = "/proc/" + std::to_string(holder.pid());
  const std::string map = "0 " + std::to_string(range.host_id) + " " + std::to_string(range.length) + "\n";
  if (Status mapped = write_map(process + "/uid_map", map); !mapped) return mapped;
  if (Status mapped = write_map(process + "/gid_map", map); !mapped) return mapped;
  return holder;
}

NamespaceHolder::~NamespaceHolder() {
  if (!child_) return;
  ::syscall(SYS_pidfd_send_signal, child_->handle.get(), SIGKILL, nullptr, 0);
  siginfo_t ended{};
  // Its stack is ours: it has to be gone before that is freed.
  while (::waitid(P_PIDFD, static_cast<id_t>(child_->handle.get()), &ended, WEXITED | __WALL) != 0 && errno == EINTR) {
  }
}

int NamespaceHolder::pid() const { return child_->pid; }

Status NamespaceHolder::enter(int flags) const {
  return flags == 0 || ::setns(child_->handle.get(), flags) == 0
             ? Status::ok()
             : status_from_errno(errno, "enter the pod's namespaces");
}

ActingAs::ActingAs(uint32_t user) { (void)::syscall(SYS_setresuid, -1, user, -1); }
ActingAs::~ActingAs() { (void)::syscall(SYS_setresuid, -1, 0, -1); }

}  // namespace pintle::cri
