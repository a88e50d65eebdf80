#include "plugins/node-agent/node_shutdown.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <systemd/sd-bus.h>

#include <algorithm>
#include <boost/json.hpp>
#include <climits>
#include <cstring>

#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_resources.hpp"
#include "plugins/node-agent/pod_worker_common.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

constexpr const char* kLogin = "org.freedesktop.login1";
constexpr const char* kLoginPath = "/org/freedesktop/login1";
constexpr const char* kManager = "org.freedesktop.login1.Manager";
constexpr const char* kDropInFolder = "/run/systemd/logind.conf.d";
constexpr const char* kDropIn = "99-pintle.conf";
constexpr seconds kRetry{30}, kReloadPatience{5};
constexpr const char* kReason = "Terminated";

struct BusCloser {
  void operator()(sd_bus* bus) const { sd_bus_flush_close_unref(bus); }
};
using Bus = std::unique_ptr<sd_bus, BusCloser>;

Status bus_problem(int error, const sd_bus_error& details, const std::string& what) {
  return unavailable(what + ": " + (details.message ? details.message : strerror(-error)));
}

Result<Bus> system_bus() {
  sd_bus* bus = nullptr;
  const int opened = sd_bus_open_system(&bus);
  if (opened < 0) return unavailable(std::string("the system bus does not answer: ") + strerror(-opened));
  return Bus(bus);
}

Result<uint64_t> longest_delay(sd_bus* bus) {
  sd_bus_error error = SD_BUS_ERROR_NULL;
  uint64_t microseconds = 0;
  const int got =
      sd_bus_get_property_trivial(bus, kLogin, kLoginPath, kManager, "InhibitDelayMaxUSec", &error, 't', &microseconds);
  Status status = got < 0 ? bus_problem(got, error, "ask logind for InhibitDelayMaxSec") : Status::ok();
  sd_bus_error_free(&error);
  if (!status) return status;
  return microseconds;
}

/// Makes logind wait for so long; true if it does.
Result<bool> raise_delay(sd_bus* bus, seconds wanted) {
  Result<uint64_t> before = longest_delay(bus);
  if (!before) return before.status();
  const auto enough = [&](uint64_t microseconds) {
    return microseconds >= static_cast<uint64_t>(wanted.count()) * 1'000'000;
  };
  if (enough(*before)) return true;
  if (Status made = files::make_folders(kDropInFolder, 0755); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(kDropInFolder);
  if (!folder) return folder.status();
  const std::string text =
      "# Made by pintled, so that pods get their grace when the machine goes off.\n[Login]\nInhibitDelayMaxSec=" +
      std::to_string(wanted.count()) + "\n";
  if (Status written = files::write_file(folder->get(), kDropIn, text, files::Durability::cached, 0644); !written)
    return written;
  sd_bus_error error = SD_BUS_ERROR_NULL;
  const int told = sd_bus_call_method(bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                                      "org.freedesktop.systemd1.Manager", "KillUnit", &error, nullptr, "ssi",
                                      "systemd-logind.service", "all", SIGHUP);
  Status status = told < 0 ? bus_problem(told, error, "let logind read its settings anew") : Status::ok();
  sd_bus_error_free(&error);
  if (!status) return status;
  for (const auto end = std::chrono::steady_clock::now() + kReloadPatience; std::chrono::steady_clock::now() < end;) {
    const Result<uint64_t> now = longest_delay(bus);
    if (now && enough(*now)) return true;
    struct timespec moment {
      0, 50'000'000
    };
    nanosleep(&moment, nullptr);
  }
  return false;
}

struct Lock {
  UniqueFd descriptor;
  bool long_enough = true;
};

/// Blocks.
Result<Lock> inhibit(seconds wanted) {
  Result<Bus> bus = system_bus();
  if (!bus) return bus.status();
  Lock lock;
  Result<bool> raised = raise_delay(bus->get(), wanted);
  if (!raised) return raised.status();
  lock.long_enough = *raised;
  sd_bus_error error = SD_BUS_ERROR_NULL;
  sd_bus_message* answer = nullptr;
  int done = sd_bus_call_method(bus->get(), kLogin, kLoginPath, kManager, "Inhibit", &error, &answer, "ssss",
                                "shutdown", "pintle", "Pods get their grace before the machine goes off", "delay");
  int descriptor = -1;
  if (done >= 0) done = sd_bus_message_read(answer, "h", &descriptor);
  Status status = done < 0 ? bus_problem(done, error, "take a delay lock of logind") : Status::ok();
  // The message owns its descriptor.
  if (status) lock.descriptor = UniqueFd(fcntl(descriptor, F_DUPFD_CLOEXEC, 3));
  sd_bus_message_unref(answer);
  sd_bus_error_free(&error);
  if (!status) return status;
  return lock;
}

}  // namespace

std::chrono::seconds ShutdownSettings::together() const {
  seconds sum{0};
  for (const ShutdownGroup& group : groups) sum += group.time;
  return sum;
}

Result<ShutdownSettings> read_shutdown_settings(const json::value& config) {
  ShutdownSettings settings;
  const json::object& object = config.as_object();
  Status problem;
  const auto duration = [&](const char* key) {
    const json::value* value = object.if_contains(key);
    const Result<std::chrono::nanoseconds> parsed =
        value ? parse_duration(std::string(value->as_string())) : Result<std::chrono::nanoseconds>(seconds(0));
    if (!parsed && problem) problem = parsed.status().with_context(key);
    return parsed ? std::chrono::duration_cast<seconds>(*parsed) : seconds(0);
  };
  const seconds all = duration("shutdownGracePeriod"), critical = duration("shutdownGracePeriodCriticalPods");
  if (!problem) return problem;
  if (critical > all)
    return invalid_argument("shutdownGracePeriodCriticalPods is a part of shutdownGracePeriod: it must not be longer");
  if (const json::value* table = object.if_contains("shutdownGracePeriodByPodPriority"))
    for (const json::value& row : table->as_array())
      settings.groups.push_back({static_cast<int32_t>(row.at("priority").to_number<int64_t>()),
                                 seconds(row.at("shutdownGracePeriodSeconds").to_number<int64_t>())});
  if (!settings.groups.empty() && all.count() > 0)
    return invalid_argument("shutdownGracePeriodByPodPriority and shutdownGracePeriod exclude each other");
  if (settings.groups.empty() && all.count() > 0)
    settings.groups = {{0, all - critical}, {kCriticalPriority, critical}};
  std::sort(settings.groups.begin(), settings.groups.end(),
            [](const ShutdownGroup& a, const ShutdownGroup& b) { return a.priority < b.priority; });
  return settings;
}

NodeShutdown::NodeShutdown(Host& host, WorkerContext& context, const Workers& workers, ShutdownSettings settings)
    : host_(host),
      context_(context),
      workers_(workers),
      settings_(std::move(settings)),
      wakeup_(host),
      settled_(host) {}

NodeShutdown::~NodeShutdown() { sd_bus_flush_close_unref(bus_); }

void NodeShutdown::stop() {
  watch_ = Watch();
  wakeup_.notify();
  settled_.notify();
}

Task<void> NodeShutdown::run() {
  if (settings_.groups.empty() || settings_.together().count() == 0) co_return;
  while (!context_.stopping) {
    if (!under_way_ && lock_.get() < 0) {
      Task<Status> taking = take_lock();
      Status taken = co_await std::move(taking);
      if (taken && !bus_) taken = listen();
      if (context_.stopping) break;
      if (!taken) lock_ = UniqueFd();
      if (!taken && !std::exchange(told_off_, true))
        host_.warn("graceful node shutdown is off: pods are not asked to end before the machine goes off",
                   {{"problem", taken.message()}});
      if (taken) told_off_ = false;
    }
    auto waiting =
        lock_.get() < 0 && !under_way_ ? wakeup_.wait(WallClock::now() + kRetry) : wakeup_.wait(std::nullopt);
    co_await waiting;
  }
  lock_ = UniqueFd();
}

Task<Status> NodeShutdown::take_lock() {
  auto take = [wanted = settings_.together()] { return inhibit(wanted); };
  auto taking = host_.blocking(std::move(take));
  Result<Lock> lock = co_await std::move(taking);
  if (!lock) co_return lock.status();
  if (!lock->long_enough)
    host_.warn("logind waits for less time than pods may take: raise InhibitDelayMaxSec in logind.conf",
               {{"wanted", duration_text(settings_.together())}});
  lock_ = std::move(lock->descriptor);
  host_.info("pods get their grace when the machine goes off", {{"atMost", duration_text(settings_.together())}});
  co_return Status::ok();
}

Status NodeShutdown::listen() {
  Result<Bus> bus = system_bus();
  if (!bus) return bus.status();
  const auto on_signal = [](sd_bus_message* message, void* self, sd_bus_error*) -> int {
    int begins = 0;
    if (sd_bus_message_read(message, "b", &begins) < 0) return 0;
    auto* shutdown = static_cast<NodeShutdown*>(self);
    shutdown->under_way_ = begins != 0;
    shutdown->host_.post([shutdown] {
      if (shutdown->context_.stopping) return;
      if (shutdown->under_way_ && !shutdown->is_ending_) shutdown->context_.start(shutdown->end_pods());
      if (!shutdown->under_way_) {
        shutdown->host_.info("the shutdown was called off: pods run again");
        for (const auto& [key, worker] : shutdown->workers_) worker->pardon(kReason);
        if (shutdown->called_off) shutdown->called_off();
        shutdown->wakeup_.notify();
      }
    });
    return 0;
  };
  const int matched =
      sd_bus_match_signal(bus->get(), nullptr, kLogin, kLoginPath, kManager, "PrepareForShutdown", on_signal, this);
  if (matched < 0) return unavailable(std::string("listen to logind: ") + strerror(-matched));
  Result<Watch> watch = host_.watch(sd_bus_get_fd(bus->get()), POLLIN, [this](uint32_t) { process(); });
  if (!watch) return watch.status();
  bus_ = bus->release();
  watch_ = std::move(*watch);
  process();
  return Status::ok();
}

void NodeShutdown::process() {
  int done = 0;
  while (bus_ && (done = sd_bus_process(bus_, nullptr)) > 0) {
  }
  if (done >= 0 || !bus_) return;
  // The bus has gone, as when dbus is restarted: begin anew.
  host_.post([this] {
    watch_ = Watch();
    sd_bus_flush_close_unref(std::exchange(bus_, nullptr));
    lock_ = UniqueFd();
    wakeup_.notify();
  });
}

std::optional<PodVerdict> NodeShutdown::admit() const {
  if (!under_way_) return std::nullopt;
  PodVerdict verdict;
  verdict.reason = "NodeShutdown";
  verdict.message = "Pod was rejected as the node is shutting down.";
  verdict.is_refusal = true;
  return verdict;
}

Task<void> NodeShutdown::end_pods() {
  is_ending_ = true;
  host_.info("the machine goes off: pods end", {{"atMost", duration_text(settings_.together())}});
  for (size_t i = 0; i < settings_.groups.size() && under_way_ && !context_.stopping; ++i) {
    Task<void> ending = end_group(i);
    co_await std::move(ending);
  }
  is_ending_ = false;
  if (under_way_) host_.info("pods have ended: the machine may go off");
  lock_ = UniqueFd();
}

Task<void> NodeShutdown::end_group(size_t index) {
  const int64_t time = settings_.groups[index].time.count();
  const int64_t from = index == 0 ? INT_MIN : settings_.groups[index].priority;
  const int64_t to = index + 1 < settings_.groups.size() ? settings_.groups[index + 1].priority : INT64_MAX;
  std::vector<std::shared_ptr<PodWorker>> ending;
  for (const auto& [key, worker] : workers_) {
    const std::shared_ptr<const WantedPod> pod = worker->active();
    if (!pod || priority_of(*pod->pod) < from || priority_of(*pod->pod) >= to) continue;
    worker->end_with({.reason = kReason,
                      .message = "Pod was terminated in response to imminent node shutdown.",
                      .grace_seconds = std::min(time, pod->pod->spec().termination_grace_period_seconds()),
                      .is_refusal = false,
                      .frees_disk = false,
                      .keeps_volumes = true,
                      .disruption_message = "Pod was terminated in response to imminent node shutdown."});
    ending.push_back(worker);
  }
  const WallTime end = WallClock::now() + seconds(time);
  const auto all_ended = [&] {
    return std::all_of(ending.begin(), ending.end(), [](const auto& worker) { return worker->is_settled(); });
  };
  while (!all_ended() && WallClock::now() < end && under_way_ && !context_.stopping) {
    auto waiting = settled_.wait(end);
    co_await waiting;
  }
}

}  // namespace pintle::agent
