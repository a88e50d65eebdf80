#include "sdk/support/netlink/namespaces.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <cerrno>
#include <system_error>
#include <thread>

namespace pintle::netlink {

Result<UniqueFd> open_namespace(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return status_from_errno(errno, "open network namespace " + path);
  struct statfs file_system {};
  if (fstatfs(fd.get(), &file_system) != 0 || file_system.f_type != NSFS_MAGIC ||
      ioctl(fd.get(), NS_GET_NSTYPE) != CLONE_NEWNET) {
    return failed_precondition(path + " is not a network namespace; it was unmounted, or never mounted there");
  }
  return fd;
}

namespace {

/// `enter` is a system call's answer.
Status run_elsewhere(const std::function<int()>& enter, const std::function<Status()>& function) {
  Status result;
  try {
    std::thread([&] {
      result = enter() == 0 ? function() : status_from_errno(errno, "enter the network namespace");
    }).join();
  } catch (const std::system_error& error) {
    return status_from_errno(error.code().value(), "start a thread for the network namespace");
  }
  return result;
}

}  // namespace

Status run_in_namespace(int name_space, const std::function<Status()>& function) {
  return run_elsewhere([name_space] { return setns(name_space, CLONE_NEWNET); }, function);
}

Status run_in_new_namespace(const std::function<Status()>& function) {
  return run_elsewhere([] { return unshare(CLONE_NEWNET); }, function);
}

Status write_sysctl(std::string_view path, std::string_view value) {
  const std::string file = "/proc/sys/" + std::string(path);
  const UniqueFd fd(open(file.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return status_from_errno(errno, "open " + file);
  if (write(fd.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
    return status_from_errno(errno, "write '" + std::string(value) + "' to " + file);
  }
  return Status::ok();
}

Result<std::string> read_sysctl(std::string_view path) {
  const std::string file = "/proc/sys/" + std::string(path);
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return status_from_errno(errno, "open " + file);
  char buffer[256];
  const ssize_t size = read(fd.get(), buffer, sizeof buffer);
  if (size < 0) return status_from_errno(errno, "read " + file);
  std::string value(buffer, static_cast<size_t>(size));
  while (!value.empty() && value.back() == '\n') value.pop_back();
  return value;
}

}  // namespace pintle::netlink
