#pragma once

/// Parties on a real engine for benchmarks: a plugin from the build tree, and clients that call it through generated stubs.
///
///     EngineParty party;
///     kernel::Instance& echo = party.load("echo-cpp");
///     Client& client = party.client("bench");
///     auto stub = party.stub<example::v1::EchoStub>(client, echo, 0);
///     party.run(client, measure(stub));          // the coroutine runs on the client's lane; returns when it has ended

#include <deque>
#include <memory>
#include <pintle/call.hpp>
#include <pintle/host.hpp>
#include <string>

#include "kernel/engine/engine.hpp"

namespace pintle::bench {

/// Services of a process without children, sockets and logs.
class NoServices final : public kernel::Services {
 public:
  Result<pintle_process> spawn(kernel::Instance&, const pintle_spawn&, pintle_exited, void*) override {
    return unimplemented("benchmarks start no processes");
  }
  Result<int> listen(kernel::Instance&, const std::string&, const std::string&) override {
    return unimplemented("benchmarks do not listen");
  }
  Status listen_end(kernel::Instance&, const std::string&) override { return {}; }
  void log(const std::string& plugin, uint32_t level, std::string message, std::vector<kernel::LogField>) override;
};

/// A caller without a plugin: an instance of the engine, and the C++ host over it.
struct Client {
  kernel::Instance* instance = nullptr;
  pintle_instance_config config{};
  std::unique_ptr<Host> host;
};

class EngineParty {
 public:
  EngineParty();
  ~EngineParty();

  /// Loads PLUGINS/name.so into this process, creates and starts an instance of it. Ends the program when that fails.
  kernel::Instance& load(const std::string& name);
  Client& client(const std::string& name);
  template <class Stub>
  Stub stub(Client& caller, kernel::Instance& provider, uint32_t interface_index) {
    Binding binding;
    binding.id = engine_.bind(*caller.instance, provider, interface_index, std::string(Stub::Interface::info.name));
    binding.revision = Stub::Interface::info.revision;
    binding.provider = provider.name();
    binding.key = provider.key();
    return Stub(*caller.host, binding);
  }
  /// Runs the coroutine on the client's lane and waits for its end.
  void run(Client& client, Task<void> task);
  /// Starts it and returns: for listeners.
  void spawn(Client& client, Task<void> task);
  kernel::Engine& engine() { return engine_; }

 private:
  NoServices services_;
  kernel::Engine engine_;
  std::deque<Client> clients_;
};

}  // namespace pintle::bench
