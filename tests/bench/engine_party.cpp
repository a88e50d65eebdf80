#include "tests/bench/engine_party.hpp"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <future>

namespace pintle::bench {

namespace {

void demand(const Status& status, const std::string& what) {
  if (status) return;
  std::fprintf(stderr, "%s: %s\n", what.c_str(), status.to_string().c_str());
  std::exit(1);
}

/// A client serves nothing.
class ClientHandler final : public engine::Handler {
  void handle(engine::Instance&, const pintle_call&, const pintle_message&) override {}
};

Task<void> then_tell(Task<void> task, std::shared_ptr<std::promise<void>> ended) {
  co_await std::move(task);
  ended->set_value();
}

}  // namespace

void NoServices::log(const std::string& plugin, uint32_t level, std::string message, std::vector<engine::LogField>) {
  if (level >= PINTLE_LOG_WARN) std::fprintf(stderr, "%s: %s\n", plugin.c_str(), message.c_str());
}

EngineParty::EngineParty() : engine_(services_) { engine_.start(); }
EngineParty::~EngineParty() { engine_.stop(); }

engine::Instance& EngineParty::load(const std::string& name) {
  const std::string path = std::string(PLUGINS "/") + name + ".so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto* entry = library ? static_cast<const pintle_plugin*>(dlsym(library, "pintle_plugin_entry")) : nullptr;
  if (!entry) demand(not_found(dlerror()), path);
  engine::Instance& instance = engine_.add({.name = name, .key = name + "@1", .plugin = name, .identity = ""});
  instance.set_handler(engine::make_plugin_handler(entry));
  std::promise<Status> created, started;
  instance.create({.node = "bench", .config = "{}"}, [&](const Status& status) { created.set_value(status); });
  demand(created.get_future().get(), path + ": create");
  instance.step(engine::Instance::Step::start, [&](const Status& status) { started.set_value(status); });
  demand(started.get_future().get(), path + ": start");
  return instance;
}

void make_client(engine::Engine& engine, const std::string& name, Client& client) {
  client.instance = &engine.add({.name = name, .key = name, .plugin = "pintled", .identity = "user:root"});
  client.instance->set_handler(std::make_unique<ClientHandler>());
  client.config.size = sizeof(client.config);
  client.host = std::make_unique<Host>(&engine::host_api, client.instance, client.config);
}

Client& EngineParty::client(const std::string& name) {
  Client& made = clients_.emplace_back();
  make_client(engine_, name, made);
  return made;
}

void EngineParty::spawn(Client& client, Task<void> task) {
  auto shared = std::make_shared<Task<void>>(std::move(task));
  client.host->post([&client, shared] { client.host->detach(std::move(*shared)); });
}

void run_on(Client& client, Task<void> task) {
  auto ended = std::make_shared<std::promise<void>>();
  auto shared = std::make_shared<Task<void>>(then_tell(std::move(task), ended));
  client.host->post([&client, shared] { client.host->detach(std::move(*shared)); });
  ended->get_future().wait();
}

}  // namespace pintle::bench
