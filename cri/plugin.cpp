/// The plugin `cri`: the engine as two interfaces for other plugins, and as CRI's gRPC socket for everybody else.
///
/// What the engine owns lies in the folder that all generations of the instance share, under a lock. A new generation (a changed config)
/// waits for the lock with its calls held back; the old one, told to retire, lets go at once. So ownership moves as a whole.

#include <fcntl.h>

#include <boost/json.hpp>
#include <pintle/plugin.hpp>

#include "cri/engine.hpp"
#include "cri/gate.hpp"
#include "cri/grpc_server.hpp"
#include "cri/process_namespaces.hpp"
#include "cri/service_image.hpp"
#include "cri/service_runtime.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/process/own_program.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::nanoseconds kLockPoll = 5ms;
constexpr std::chrono::nanoseconds kCallPatience = 5s;

struct Config {
  std::string socket;
  Engine::Settings settings;
};

Config read_config(Host& host) {
  const boost::json::object json = boost::json::parse(host.config_json()).as_object();
  const auto text = [&](const char* key) {
    const boost::json::value* value = json.if_contains(key);
    return value ? std::string(value->as_string()) : std::string();
  };
  Config config;
  config.socket = text("socket");
  config.settings.preferences.runtime = text("defaultRuntime");
  config.settings.preferences.network = text("defaultNetwork");
  if (const boost::json::value* megabytes = json.if_contains("shmMegabytes")) {
    config.settings.shm_bytes = static_cast<uint64_t>(megabytes->to_number<int64_t>()) << 20;
  }
  config.settings.pod_init =
      text("podInit").empty() ? process::installed_beside("lib/pintle/pintle-pod-init") : text("podInit");
  config.settings.state_folder = std::string(host.shared_directory()) + "/" + std::string(host.name());
  config.settings.process_root = process_namespaces_root(config.settings.state_folder);
  config.settings.run_folder = std::string(host.run_directory());
  return config;
}

class CriPlugin final : public Plugin {
 public:
  explicit CriPlugin(Host& host)
      : Plugin(host),
        config_(read_config(host)),
        gate_(host),
        engine_(host, config_.settings),
        runtime_(engine_, gate_),
        images_(engine_, gate_),
        grpc_(host, std::string(kSocketCaller), {&runtime_, &images_}),
        stopping_notification_(host) {
    provide(runtime_);
    provide(images_);
  }

  void bindings_changed(std::string_view need) override {
    if (need == "runtime") engine_.set_runtimes(bindings("runtime"));
    if (need == "images") engine_.set_images(bindings("images"));
    if (need == "network") engine_.set_networks(bindings("network"));
  }

  Task<Status> start() override {
    if (host().is_retiring()) {
      // The generation that is not retiring owns everything.
      host().retired();
      co_return Status::ok();
    }
    if (Status made = files::make_folders(config_.settings.state_folder); !made) co_return made;
    Task<Status> taking = take_over();
    Status taken = co_await std::move(taking);
    if (taken.code() == Code::unavailable) {
      host().info("another generation owns the sandboxes still; calls wait for it to retire");
      host().detach(wait_to_take_over());
    } else if (!taken) {
      co_return taken;
    }
    Result<UniqueFd> socket = host().listen("cri", "unix:" + config_.socket);
    if (!socket) co_return socket.status().with_context("CRI socket");
    co_return grpc_.listen(std::move(*socket));
  }

  Task<Status> drain() override {
    Task<void> stopping = grpc_.stop(kCallPatience);
    co_await std::move(stopping);
    co_return Status::ok();
  }

  Task<Status> retire() override {
    Task<Status> letting_go = let_go();
    Status gone = co_await std::move(letting_go);
    host().retired();
    co_return gone;
  }

  Task<Status> stop() override {
    Task<Status> letting_go = let_go();
    co_return co_await std::move(letting_go);
  }

 private:
  /// UNAVAILABLE: another generation holds the lock.
  Task<Status> take_over() {
    Result<files::Lock> lock =
        files::Lock::try_acquire(AT_FDCWD, config_.settings.state_folder + "/lock", files::Lock::Kind::exclusive);
    if (!lock) co_return lock.status();
    lock_ = std::move(*lock);
    Task<Status> starting = engine_.start();
    if (Status started = co_await std::move(starting); !started) co_return started;
    Task<Engine::Health> asking = engine_.health();
    (void)co_await std::move(asking);
    gate_.open();
    co_return Status::ok();
  }

  Task<void> wait_to_take_over() {
    while (!stopping_) {
      Task<bool> waiting = stopping_notification_.wait(kLockPoll);
      (void)co_await std::move(waiting);
      if (stopping_) break;
      Task<Status> taking = take_over();
      const Status taken = co_await std::move(taking);
      if (taken) break;
      if (taken.code() != Code::unavailable) {
        host().error("the sandboxes could not be taken over", {{"why", taken.message()}});
        break;
      }
    }
  }

  Task<Status> let_go() {
    stopping_ = true;
    stopping_notification_.notify_all();
    Task<void> ending = grpc_.stop(kCallPatience);
    co_await std::move(ending);
    gate_.shut();
    Task<void> stopping = engine_.stop();
    co_await std::move(stopping);
    lock_ = files::Lock();
    co_return Status::ok();
  }

  Config config_;
  Gate gate_;
  Engine engine_;
  RuntimeServer runtime_;
  ImageServer images_;
  GrpcServer grpc_;
  files::Lock lock_;
  Notification stopping_notification_;
  bool stopping_ = false;
};

}  // namespace
}  // namespace pintle::cri

PINTLE_PLUGIN(pintle::cri::CriPlugin);
