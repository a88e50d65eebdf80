#pragma once

/// The user namespace of a pod that has one of its own (KEP-127): root inside is an ordinary, powerless user of the node.
///
/// Ids are mapped one range to one range, both for users and groups: 0 of the pod is `host_id` of the node. Which range a pod
/// gets is the client's decision (kubelet, the node agent); the engine only makes the namespace. The pod's network, IPC and UTS
/// namespaces belong to it, so that root of the pod is root over them and over nothing else.
///
/// A process of many threads cannot unshare its user namespace. A child is cloned into the new namespaces instead, which shares our
/// memory and only waits until the namespaces are pinned (namespaces.hpp); then it is killed.
///
///     Result<NamespaceHolder> holder = NamespaceHolder::make({.host_id = 131072, .length = 65536}, CLONE_NEWNET | CLONE_NEWUTS);
///     mount("/proc/" + std::to_string(holder->pid()) + "/ns/user", ...);
///
/// All functions block and may be called from any thread.

#include <cstdint>
#include <memory>
#include <pintle/status.hpp>
#include <string>

#include "cri/schema.hpp"

namespace pintle::cri {

/// Which ids of the node a pod's ids from 0 on are. A length of 0: the pod has the node's own ids.
struct IdRange {
  uint32_t host_id = 0;
  uint32_t length = 0;
  bool is_mapped() const { return length != 0; }
};

/// What a pod or one of its containers asks for. INVALID_ARGUMENT unless users and groups have the same single mapping from
/// id 0 on; or the pod shares its network, processes or IPC with the node, over which its root would have no power.
Result<IdRange> id_range_of(const api::NamespaceOption& options);

/// A process in a new user namespace, for as long as the object lives.
class NamespaceHolder {
 public:
  /// `flags` names the other namespaces (CLONE_NEW*), which will belong to the user namespace.
  static Result<NamespaceHolder> make(const IdRange& range, int flags);
  NamespaceHolder(NamespaceHolder&&) noexcept;
  NamespaceHolder& operator=(NamespaceHolder&&) = delete;
  ~NamespaceHolder();

  int pid() const;
  /// Puts the calling thread into those namespaces of the holder that `flags` names.
  Status enter(int flags) const;

 private:
  struct Child;
  explicit NamespaceHolder(std::unique_ptr<Child> child);
  std::unique_ptr<Child> child_;
};

/// While it lives, the calling thread acts as another user of the node, and is root again afterwards. Only this thread: the
/// kernel keeps credentials by thread, and the C library's functions, which change them in all threads, are not used.
class ActingAs {
 public:
  explicit ActingAs(uint32_t user);
  ActingAs(const ActingAs&) = delete;
  ~ActingAs();
};

}  // namespace pintle::cri
