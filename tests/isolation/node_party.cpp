#include "tests/isolation/node_party.hpp"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <mutex>

namespace pintle::node_test {

namespace {

kernel::NodeOptions options_in(const std::string& folder) {
  kernel::NodeOptions options;
  options.state_directory = folder + "/state";
  options.run_directory = folder + "/run";
  options.plugin_directory = PLUGINS;
  options.plugin_host = PLUGIN_HOST;
  options.node_name = "test";
  options.log_level = PINTLE_LOG_ERROR;
  return options;
}

std::string make_folder() {
  std::string name = (std::filesystem::temp_directory_path() / "pintle-node-XXXXXX").string();
  return mkdtemp(name.data()) ? name : std::string();
}

}  // namespace

NodeParty::NodeParty(const std::vector<Party>& parties)
    : folder_(make_folder()),
      logs_(kernel::LogFormat::text),
      node_(std::make_unique<kernel::Node>(options_in(folder_), logs_)) {
  for (const char* name : {"/state", "/run"}) std::filesystem::create_directory(folder_ + name);
  NodePlan plan{.profile = "test", .node = "test", .instances = {}};
  for (const Party& party : parties) {
    PlannedInstance planned;
    planned.name = party.name;
    planned.plugin = party.plugin;
    planned.path = std::string(PLUGINS "/") + party.plugin + ".so";
    planned.config = "{}";
    planned.isolation = party.isolation;
    planned.allow_unsigned = true;
    plan.instances.push_back(planned);
  }
  node_->engine().start();
  std::promise<Status> started;
  node_->start(plan, [&](const Status& status) { started.set_value(status); });
  (void)started.get_future().get();
}

NodeParty::~NodeParty() {
  std::promise<void> down;
  node_->shutdown([&] { down.set_value(); });
  down.get_future().wait_for(std::chrono::seconds(20));
  node_->engine().stop();
  node_.reset();
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
}

void NodeParty::on_lane(const std::function<void()>& function) {
  std::promise<void> done;
  engine::post_turn(node_->lane(), [&] {
    function();
    done.set_value();
  });
  done.get_future().wait();
}

Status NodeParty::wait_until_ready() {
  std::mutex lock;
  std::condition_variable changed;
  std::vector<std::string> unready{"nothing was heard yet"};
  const auto look = [&] {
    std::lock_guard held(lock);
    unready = node_->unready();
    changed.notify_all();
  };
  on_lane([&] {
    node_->on_change(look);
    look();
  });
  std::unique_lock held(lock);
  const bool ready = changed.wait_for(held, std::chrono::seconds(10), [&] { return unready.empty(); });
  held.unlock();
  on_lane([&] { node_->on_change({}); });
  return ready ? Status() : unavailable("the node is not ready within 10 s: " + unready.front());
}

engine::Instance& NodeParty::client(const std::string& name) {
  engine::Instance& made =
      node_->engine().add({.name = name, .key = name, .plugin = "pintled", .identity = "user:root"});
  made.set_handler(std::make_unique<ClientHandler>());
  return made;
}

Result<uint64_t> NodeParty::bind(engine::Instance& client, const std::string& interface_name,
                                 const std::string& provider) {
  Result<uint64_t> binding = unavailable("not bound");
  on_lane([&] { binding = node_->bind_host(client, interface_name, provider); });
  return binding;
}

}  // namespace pintle::node_test
