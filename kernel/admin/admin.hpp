#pragma once

/// The admin socket: HTTP/1.1 on a Unix socket, as `kernel/admin/README.md` describes it.

#include <functional>
#include <memory>
#include <pintle/status.hpp>
#include <string>

#include "kernel/node/node.hpp"

namespace pintle::kernel {

struct AdminHooks {
  /// The plan of a profile by name or path; empty: the present one, read again. Blocks.
  std::function<Result<NodePlan>(const std::string& profile)> make_plan;
  /// The plan of this profile is in force now.
  std::function<void(const std::string& profile)> applied;
  /// Replaces the daemon by the binary on disk. Returns at once.
  std::function<void()> reexec;
  std::string version;
};

class AdminServer {
 public:
  /// Accepts on a listening socket, which becomes the server's.
  AdminServer(Node& node, AdminHooks hooks, int listening_socket);
  ~AdminServer();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace pintle::kernel
