#pragma once

/// A process namespace that the containers of a pod share.
///
/// Unlike the others (namespaces.hpp) it needs a process: its first one, whose end ends all others in it. That is `pintle-pod-init`
/// (cri/pod-init), which reaps orphans and can do nothing else. It lives in a cgroup of its own, outside of the daemon's: by that it is
/// found again after a restart, also when the daemon was killed before it could note the PID. That is `<pod's>/pintle-<sandbox>` in a pod
/// with a cgroup, whose limits and account hold for it too, else `<root>/<sandbox>`; the root, `/pintle/pods-<checksum of the engine's
/// state folder>`, is one engine's own. The sandbox' record, which is there before the process, tells the pod's.
///
/// The namespace is pinned at `<run>/sandboxes/<id>/pid`. Ending it kills every process of the pod that shares it.

#include <cstdint>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::cri {

struct ProcessNamespace {
  std::string path;  ///< the pin
  uint64_t inode = 0;
  int first_process = 0;
};

/// Where a sandbox' first process is; `pod_cgroup` is empty for a pod without one.
std::string process_cgroup(const std::string& root, const std::string& pod_cgroup, const std::string& sandbox_id);

/// Starts the first process in `cgroup` and pins its namespace in the pod's run folder, which exists. What was made remains on failure:
/// `end_process_namespace` removes it. With a path of the pod's user namespace it belongs to that. FAILED_PRECONDITION: the program is not on this host. Lane.
Task<Result<ProcessNamespace>> make_process_namespace(Host& host, std::string program, std::string cgroup,
                                                      std::string sandbox_id, std::string run_folder,
                                                      std::string user_namespace);

/// Kills what is in the cgroup and removes it, with the last one also the root; the pin goes with the pod's run folder. Ok if there is
/// none. Blocks, any thread.
Status end_process_namespace(const std::string& cgroup, const std::string& root);

/// Whether its first process lives. Blocks, any thread.
bool has_process_namespace(const std::string& cgroup);

/// The sandboxes that have one below the root, known to the engine or not. Blocks, any thread.
std::vector<std::string> all_process_namespaces(const std::string& root);

/// The cgroup below which an engine with this state folder keeps its pods' first processes.
std::string process_namespaces_root(std::string_view state_folder);

}  // namespace pintle::cri
