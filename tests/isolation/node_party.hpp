#pragma once

/// A node within the test's own process: everything that `pintled` is made of but its main loop and the admin socket.
///
///     NodeParty party({{.name = "echo", .plugin = "echo-cpp", .isolation = Isolation::process}});
///     ASSERT_TRUE(party.wait_until_ready());
///     engine::Instance& client = party.client("test");
///     uint64_t binding = *party.bind(client, "pintle.example.v1.Echo", "echo");
///
/// The plugins are unsigned here, so the plan allows that. State lies in a temporary folder that is removed at the end.

#include <string>
#include <vector>

#include "kernel/node/node.hpp"

namespace pintle::node_test {

/// Serves nothing: for instances that only call.
class ClientHandler final : public engine::Handler {
  void handle(engine::Instance&, const pintle_call&, const pintle_message&) override {}
};

struct Party {
  std::string name;
  std::string plugin;  // PLUGINS/plugin.so
  Isolation isolation = Isolation::automatic;
};

class NodeParty {
 public:
  explicit NodeParty(const std::vector<Party>& parties);
  ~NodeParty();
  NodeParty(const NodeParty&) = delete;

  /// Every instance runs; else what keeps the node from it. Waits for at most ten seconds.
  Status wait_until_ready();
  engine::Instance& client(const std::string& name);
  Result<uint64_t> bind(engine::Instance& client, const std::string& interface_name, const std::string& provider);
  kernel::Node& node() { return *node_; }
  /// Runs the function on the node's lane and waits.
  void on_lane(const std::function<void()>& function);

 private:
  std::string folder_;
  kernel::Logs logs_;
  std::unique_ptr<kernel::Node> node_;
};

}  // namespace pintle::node_test
