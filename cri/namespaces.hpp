#pragma once

/// The namespaces of a pod, held without a process.
///
/// A pod's network, IPC and UTS namespaces live as long as something refers to them. Instead of a pause process the
/// engine pins each by a bind mount of `/proc/thread-self/ns/<kind>` on a file of the pod's run folder:
///
///     <run>/sandboxes/<id>/net    nsfs        absent when the pod uses the node's own
///     <run>/sandboxes/<id>/ipc    nsfs
///     <run>/sandboxes/<id>/uts    nsfs
///     <run>/sandboxes/<id>/user   nsfs        of a pod with ids of its own (user_namespaces.hpp)
///     <run>/sandboxes/<id>/shm    tmpfs, the pod's /dev/shm
///
/// `make` does its work on a thread of its own that unshares, configures what can only be set from within (hostname,
/// sysctls, loopback), pins, and ends: no other thread ever leaves the node's namespaces. A namespace is known again by
/// its inode number. A pin that vanished while a process of the pod still runs is pinned anew from that process
/// (`repin`).
///
/// All functions block and may be called from any thread.

#include <cstdint>
#include <map>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cri/user_namespaces.hpp"

namespace pintle::cri {

struct NamespaceRequest {
  std::string folder;  ///< the pod's run folder, made if need be
  bool network = true;
  bool ipc = true;
  bool uts = true;
  std::string hostname;                        ///< set in a UTS namespace of the pod's own; empty: the node's stays
  std::map<std::string, std::string> sysctls;  ///< checked by `check_sysctls` before
  uint64_t shm_bytes = 64u << 20;              ///< size of /dev/shm; only with an IPC namespace of the pod's own
  IdRange ids;                                 ///< mapped: in a user namespace of the pod's own
};

/// Paths of the pins (empty: the node's own) and the inode numbers of what they pin (0: none).
struct Namespaces {
  std::string network, ipc, uts, user, shm;
  uint64_t network_inode = 0, ipc_inode = 0, uts_inode = 0, user_inode = 0;
};

/// Makes and pins. On failure nothing remains.
Result<Namespaces> make_namespaces(const NamespaceRequest& request);

/// Unmounts all pins in the folder and removes it; goes on after an error and reports all. Ok if nothing is there.
Status release_namespaces(const std::string& folder);

/// Whether the path pins the namespace with this inode number.
bool is_pinned(const std::string& path, uint64_t inode);

/// The inode number of a process' namespace ("net", "ipc", "uts", "user"); 0 if the process has gone.
uint64_t namespace_of_process(int pid, std::string_view kind);

/// Pins a running process' namespace at `path` again. FAILED_PRECONDITION if it is not the one with this inode number.
Status repin(int pid, std::string_view kind, uint64_t inode, const std::string& path);

/// Mounts a fresh /dev/shm at `path`, of the node's user `owner`, unless one is mounted there.
Status ensure_shm(const std::string& path, uint64_t bytes, uint32_t owner = 0);

/// INVALID_ARGUMENT for a sysctl that is not namespaced, or one of a namespace that the pod shares with the node, or
/// one whose name or value has characters that no sysctl has (CVE-2022-0811).
Status check_sysctls(const std::map<std::string, std::string>& sysctls, bool own_network, bool own_ipc, bool own_uts);

/// INVALID_ARGUMENT unless the text can be a hostname (RFC 1123 labels, at most 64 characters: the kernel's limit).
Status check_hostname(std::string_view hostname);

}  // namespace pintle::cri
