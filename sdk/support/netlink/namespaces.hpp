#pragma once

/// Acting in another network namespace, and the sysctls of one.
///
/// A thread of our own enters the namespace and ends there; the process' other threads, and the host's, never change
/// theirs. rtnetlink's NETNSID attributes would save the thread, but the kernel takes them for listing only, not for
/// adding addresses.

#include <functional>
#include <pintle/buffer.hpp>
#include <string>
#include <string_view>

#include "sdk/support/netlink/netlink.hpp"

namespace pintle::netlink {

/// Opens a network namespace by path ("/run/netns/pod7", "/proc/42/ns/net"). NOT_FOUND when nothing is there;
/// FAILED_PRECONDITION when it is something else, as the empty file that is left when its mount has gone.
Result<UniqueFd> open_namespace(const std::string& path);

/// Runs the function on a thread inside of the namespace and waits for it. Costs some 0.05 ms. What the function opens
/// (sockets, monitors) stays bound to that namespace. The function must not throw.
Status run_in_namespace(int name_space, const std::function<Status()>& function);
/// The same in a new, empty namespace, which goes with all that was made there: what a kernel can do is tried without a trace.
Status run_in_new_namespace(const std::function<Status()>& function);

/// Writes "net/ipv4/ip_forward" and the like (below /proc/sys), in the network namespace of the calling thread.
/// NOT_FOUND if the kernel has no such setting (IPv6 switched off).
Status write_sysctl(std::string_view path, std::string_view value);
/// The value without its newline.
Result<std::string> read_sysctl(std::string_view path);

}  // namespace pintle::netlink
