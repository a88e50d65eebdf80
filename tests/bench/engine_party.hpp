#pragma once

/// Parties on a real engine for benchmarks: a plugin from the build tree, and clients that call it through generated stubs.
///
///     EngineParty party;
///     engine::Instance& echo = party.load("echo-cpp");
///     Client& client = party.client("bench");
///     auto stub = party.stub<example::v1::EchoStub>(client, echo, 0);
///     party.run(client, measure(stub));          // the coroutine runs on the client's lane; returns when it has ended

#include <deque>
#include <memory>
#include <pintle/call.hpp>
#include <pintle/host.hpp>
#include <string>

#include "sdk/support/engine/engine.hpp"

namespace pintle::bench {

/// Services of a process without children, sockets and logs.
class NoServices final : public engine::Services {
 public:
  Result<pintle_process> spawn(engine::Instance&, const pintle_spawn&, pintle_exited, void*) override {
    return unimplemented("benchmarks start no processes");
  }
  Result<int> listen(engine::Instance&, const std::string&, const std::string&) override {
    return unimplemented("benchmarks do not listen");
  }
  Status listen_end(engine::Instance&, const std::string&) override { return {}; }
  void log(const std::string& plugin, uint32_t level, std::string message, std::vector<engine::LogField>) override;
};

/// A caller without a plugin: an instance of the engine, and the C++ host over it.
struct Client {
  engine::Instance* instance = nullptr;
  pintle_instance_config config{};
  std::unique_ptr<Host> host;
};

/// Makes one in any engine that is started; it must outlive the engine's last turn of it.
void make_client(engine::Engine& engine, const std::string& name, Client& client);
/// Runs the coroutine on the client's lane and waits for its end.
void run_on(Client& client, Task<void> task);

class EngineParty {
 public:
  EngineParty();
  ~EngineParty();

  /// Loads PLUGINS/name.so into this process, creates and starts an instance of it. Ends the program when that fails.
  engine::Instance& load(const std::string& name);
  Client& client(const std::string& name);
  template <class Stub>
  Stub stub(Client& caller, engine::Instance& provider, uint32_t interface_index) {
    Binding binding;
    binding.id = engine_.bind(*caller.instance, provider, interface_index, std::string(Stub::Interface::info.name));
    binding.revision = Stub::Interface::info.revision;
    binding.provider = provider.name();
    binding.key = provider.key();
    return Stub(*caller.host, binding);
  }
  void run(Client& client, Task<void> task) { run_on(client, std::move(task)); }
  /// Starts it and returns: for listeners.
  void spawn(Client& client, Task<void> task);
  engine::Engine& engine() { return engine_; }

 private:
  NoServices services_;
  engine::Engine engine_;
  std::deque<Client> clients_;
};

}  // namespace pintle::bench
