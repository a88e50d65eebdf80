// pintled: reads its options, then hands over to the node.

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "kernel/admin/admin.hpp"
#include "kernel/node/crash.hpp"
#include "kernel/node/handover.hpp"
#include "kernel/node/node.hpp"
#include "kernel/profile/profile.hpp"
#include "kernel/release_key.hpp"
#include "sdk/support/process/own_program.hpp"

namespace pintle::kernel {
namespace {

constexpr const char* version = PINTLE_VERSION;

struct Options {
  NodeOptions node;
  std::string profile = "standalone";
  std::string config_directory = "/etc/pintle";
  std::vector<std::string> plugin_directories;
  std::string profile_directory = "/usr/share/pintle/profiles";
  std::string log_format = "text";
  std::string log_level = "info";
};

/// What the main thread is woken for.
class Events {
 public:
  enum class Kind { none, stop, reload, reexec };
  void raise(Kind kind) {
    std::lock_guard lock(lock_);
    if (kind_ != Kind::stop) kind_ = kind;
    wake_.notify_all();
  }
  Kind wait() {
    std::unique_lock lock(lock_);
    wake_.wait(lock, [this] { return kind_ != Kind::none; });
    return std::exchange(kind_, Kind::none);
  }

 private:
  std::mutex lock_;
  std::condition_variable wake_;
  Kind kind_ = Kind::none;
};

/// Signals come as reads of a descriptor, so no handler runs in the middle of anything.
Result<uint64_t> watch_signals(Reactor& reactor, Events& events) {
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR2}) sigaddset(&set, number);
  const int descriptor = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  auto id = std::make_shared<uint64_t>(0);
  Result<uint64_t> watch = reactor.watch(descriptor, POLLIN, [&reactor, &events, descriptor, id](uint32_t) {
    signalfd_siginfo info{};
    while (read(descriptor, &info, sizeof info) == sizeof info)
      events.raise(info.ssi_signo == SIGHUP    ? Events::Kind::reload
                   : info.ssi_signo == SIGUSR2 ? Events::Kind::reexec
                                               : Events::Kind::stop);
    reactor.rearm(*id);
  });
  if (watch) *id = *watch;
  return watch;
}

void block_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR2}) sigaddset(&set, number);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

class Daemon {
 public:
  explicit Daemon(const Options& options, LogFormat format)
      : options_(options), logs_(format), node_(options.node, logs_) {
    sources_.profile_folders = {options.config_directory + "/profiles", options.profile_directory};
    sources_.plugin_folders = options.plugin_directories;
    sources_.read_plugin = [](const std::string& path) { return read_plugin_file(path); };
  }

  int run(char** arguments) {
    const uint64_t began = now_ns();
    take_over(node_.listeners(), node_.processes());
    const std::string crashes = options_.node.state_directory + "/crashes";
    if (Status recording = record_crashes(crashes); !recording.is_ok()) return refuse(recording);
    profile_ = applied_profile();
    Result<NodePlan> plan = plan_of_profile(profile_, sources_);
    if (!plan && profile_ != options_.profile) {
      node_.say(PINTLE_LOG_ERROR, "the profile that was applied last: " + plan.status().message() + "; going on with " +
                                      options_.profile);
      profile_ = options_.profile;
      plan = plan_of_profile(profile_, sources_);
    }
    if (!plan) return refuse(plan.status());
    Result<int> admin =
        node_.listeners().listen("pintled", "admin", "unix:" + options_.node.run_directory + "/pintled.sock");
    if (!admin) return refuse(admin.status());
    node_.engine().reactor().on_stuck([this](const char* owner, uint64_t lasted, const std::string& stack) {
      node_.log(owner, PINTLE_LOG_ERROR,
                "a turn of " + std::string(owner) + " has lasted for " + std::to_string(lasted / 1'000'000) + " ms",
                {{"stack", stack}});
    });
    node_.engine().reactor().on_beat(watchdog_beat());
    node_.engine().start();
    Events events;
    if (Result<uint64_t> signals = watch_signals(node_.engine().reactor(), events); !signals)
      return refuse(signals.status());
    AdminHooks hooks;
    hooks.make_plan = [this](const std::string& profile) {
      return plan_of_profile(profile.empty() ? profile_name() : profile, sources_);
    };
    hooks.applied = [this](const std::string& profile) { remember_profile(profile); };
    hooks.reexec = [&events] { events.raise(Events::Kind::reexec); };
    hooks.version = version;
    auto server = std::make_unique<AdminServer>(node_, std::move(hooks), *admin);
    report_readiness(began);
    const std::set<std::string> crashed = crashed_too_often(crashes, wall_clock_ms());
    for (const std::string& name : crashed)
      node_.say(PINTLE_LOG_WARN,
                name + " has crashed the daemon three times within ten minutes; it runs in a process of its own now");
    node_.force_isolated(crashed);
    Status started = wait_for([&](Done done) { node_.start(*plan, std::move(done)); });
    if (!started.is_ok()) return refuse(started);

    for (;;) {
      switch (events.wait()) {
        case Events::Kind::none:
          break;
        case Events::Kind::reload:
          reload();
          break;
        case Events::Kind::stop: {
          sd_notify(0, "STOPPING=1");
          node_.say(PINTLE_LOG_INFO, "stopping; what it started goes on");
          stop_node();
          node_.processes().kill_attached();
          server.reset();
          static_cast<void>(node_.listeners().end("pintled", "admin").is_ok());
          if (!node_.engine().reactor().healthy()) _exit(0);  // a stuck lane cannot be joined
          node_.engine().stop();
          return 0;
        }
        case Events::Kind::reexec: {
          sd_notify(0, "RELOADING=1");
          node_.say(PINTLE_LOG_INFO, "replacing itself by the binary on disk");
          server.reset();  // whoever connects from now on is the successor's
          stop_node();
          Status failed = hand_over(node_.listeners(), node_.processes(), arguments);
          return refuse(failed);  // systemd starts it again; the sockets are lost
        }
      }
    }
  }

 private:
  int refuse(const Status& status) {
    node_.say(PINTLE_LOG_ERROR, status.message());
    sd_notifyf(0, "STATUS=%s", status.message().c_str());
    return status.code() == Code::invalid_argument || status.code() == Code::not_found ? 2 : 1;
  }

  /// A profile that was applied over the admin socket stays in force over restarts, until the daemon is started with another one.
  /// `<state>/profile`: the name on the command line, the name that was applied.
  std::string applied_profile() {
    Result<std::string> text = files::read_file(options_.node.state_directory + "/profile", 64 << 10);
    const std::string asked = options_.profile + "\n";
    if (!text || text->compare(0, asked.size(), asked) != 0) return options_.profile;
    const std::string applied = text->substr(asked.size());
    return applied.size() < 2 || applied.back() != '\n' ? options_.profile : applied.substr(0, applied.size() - 1);
  }

  void remember_profile(const std::string& profile) {
    std::lock_guard lock(profile_lock_);
    if (profile.empty() || profile == profile_) return;
    profile_ = profile;
    Result<files::Descriptor> folder = files::open_folder(options_.node.state_directory);
    Status written = folder ? files::write_file(folder->get(), "profile", options_.profile + "\n" + profile + "\n",
                                                files::Durability::synced)
                            : folder.status();
    if (!written.is_ok())
      node_.say(PINTLE_LOG_ERROR,
                "the next start will not know that " + profile + " was applied: " + written.message());
  }

  std::string profile_name() {
    std::lock_guard lock(profile_lock_);
    return profile_;
  }

  Status wait_for(const std::function<void(Done)>& begin) {
    std::mutex lock;
    std::condition_variable wake;
    std::optional<Status> outcome;
    begin([&](Status status) {
      std::lock_guard held(lock);
      outcome = std::move(status);
      wake.notify_all();
    });
    std::unique_lock held(lock);
    wake.wait(held, [&] { return outcome.has_value(); });
    return *outcome;
  }

  void stop_node() {
    auto over = std::make_shared<std::pair<std::mutex, std::condition_variable>>();
    auto stopped = std::make_shared<bool>(false);
    node_.shutdown([over, stopped] {
      std::lock_guard held(over->first);
      *stopped = true;
      over->second.notify_all();
    });
    std::unique_lock held(over->first);
    if (!over->second.wait_for(held, std::chrono::seconds(20), [&] { return *stopped; }))
      node_.say(PINTLE_LOG_ERROR, "some plugins did not stop within 20 s; going on without them");
  }

  void reload() {
    sd_notify(0, "RELOADING=1");
    Result<NodePlan> plan = plan_of_profile(profile_name(), sources_);
    if (!plan) {
      node_.say(PINTLE_LOG_ERROR, "the profile was not applied: " + plan.status().message());
    } else {
      node_.apply(*plan, false, [this](Result<std::vector<Change>> changes) {
        if (!changes) return node_.say(PINTLE_LOG_ERROR, "the profile was not applied: " + changes.status().message());
        node_.say(PINTLE_LOG_INFO, "the profile was applied", {{"changes", std::to_string(changes->size())}});
      });
    }
    sd_notify(0, "READY=1");
  }

  Reactor::Function watchdog_beat() {
    uint64_t interval_us = 0;
    if (sd_watchdog_enabled(0, &interval_us) <= 0) return {};
    return [interval_us, last = uint64_t{0}]() mutable {
      const uint64_t now = now_ns();
      if (now - last < interval_us * 1000 / 3) return;
      last = now;
      sd_notify(0, "WATCHDOG=1");
    };
  }

  /// Tells systemd once everything is ready, or after ten seconds that it serves; and what is not ready at every change.
  void report_readiness(uint64_t began) {
    node_.on_change([this, began, ready = false]() mutable {
      const std::vector<std::string> unready = node_.unready();
      sd_notifyf(0, "STATUS=%s", unready.empty() ? "ready" : unready.front().c_str());
      if (!unready.empty() || ready) return;
      ready = true;
      node_.say(PINTLE_LOG_INFO, "all plugins are ready",
                {{"milliseconds", std::to_string((now_ns() - began) / 1'000'000)}});
      sd_notify(0, "READY=1");
      malloc_trim(0);
    });
    node_.engine().reactor().after(10'000'000'000, [] { sd_notify(0, "READY=1"); });
  }

  const Options options_;
  std::mutex profile_lock_;
  std::string profile_;  // in force
  ProfileSources sources_;
  Logs logs_;
  Node node_;
};

/// In a build tree the two programs lie side by side.
std::string plugin_host_beside() {
  const std::string own = process::own_program();
  const std::string beside = own.substr(0, own.rfind('/') + 1) + "pintle-plugin-host";
  return access(beside.c_str(), X_OK) == 0 ? beside : process::installed_beside("bin/pintle-plugin-host");
}

int main_of(int count, char** arguments) {
  Options options;
  CLI::App app("The host of Pintle's plugins: runs what a profile names.");
  app.set_version_flag("--version", version);
  app.add_option("--profile", options.profile, "Profile by name or path")->capture_default_str();
  app.add_option("--config-dir", options.config_directory, "Configuration; profiles lie in its folder profiles")
      ->capture_default_str();
  app.add_option("--state-dir", options.node.state_directory, "Durable state")->capture_default_str();
  app.add_option("--run-dir", options.node.run_directory, "Sockets and what may vanish")->capture_default_str();
  app.add_option("--plugin-dir", options.plugin_directories, "Plugins; the first holds those that were shipped");
  app.add_option("--plugin-host", options.node.plugin_host,
                 "The program that isolated plugins run in (/usr/bin/pintle-plugin-host)");
  app.add_option("--profile-dir", options.profile_directory, "Shipped profiles")->capture_default_str();
  app.add_option("--node-name", options.node.node_name, "Name of this node (the host's name)");
  app.add_option("--log-format", options.log_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn or error")->capture_default_str();
  CLI11_PARSE(app, count, arguments);
  Result<uint32_t> level = parse_log_level(options.log_level);
  if (!level) {
    std::fprintf(stderr, "pintled: --log-level: %s\n", level.status().message().c_str());
    return 2;
  }
  options.node.log_level = *level;
  if (options.node.plugin_host.empty()) options.node.plugin_host = plugin_host_beside();
  if (options.plugin_directories.empty()) options.plugin_directories = {options.node.plugin_directory};
  options.node.plugin_directory = options.plugin_directories.front();
  options.node.public_key.assign(reinterpret_cast<const char*>(release_key), sizeof release_key);
  if (options.node.node_name.empty()) {
    char name[256] = {};
    gethostname(name, sizeof name - 1);
    options.node.node_name = name;
  }

  mallopt(M_ARENA_MAX, 2);
  umask(0077);
  block_signals();
  return Daemon(options, options.log_format == "json" ? LogFormat::json : LogFormat::text).run(arguments);
}

}  // namespace
}  // namespace pintle::kernel

int main(int count, char** arguments) { return pintle::kernel::main_of(count, arguments); }
