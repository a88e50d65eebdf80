#include "plugins/node-agent/node_pressure.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_resources.hpp"
#include "plugins/node-agent/pod_usage.hpp"
#include "plugins/node-agent/pod_worker_common.hpp"
#include "sdk/api/pod.hpp"

namespace pintle::agent {

namespace {

using Clock = ThresholdWatch::Clock;

constexpr double kFastestUse = 1 << 30;  // bytes that a second can take
constexpr milliseconds kShortest{200};
constexpr seconds kPatienceWithEnd{30};
constexpr int64_t kHardGrace = 1;  // seconds; kubelet's
constexpr int kWalkShare = 20;     // walking takes at most this part of the time
// Some task waited for memory for 100 ms of a second: psi.rst, "Monitoring for pressure thresholds".
constexpr char kStallTrigger[] = "some 100000 1000000";

constexpr const char* kConditions[] = {"MemoryPressure", "DiskPressure", "PIDPressure"};

}  // namespace

NodePressure::NodePressure(Host& host, WorkerContext& context, const Workers& workers, PressureSettings settings)
    : host_(host),
      context_(context),
      workers_(workers),
      settings_(std::move(settings)),
      sources_{settings_.nodefs, "", settings_.pods_cgroup, settings_.pods_memory},
      watch_(settings_.eviction),
      wakeup_(host),
      settled_(host) {
  const int64_t now = nanoseconds(WallClock::now());
  for (const char* name : kConditions) {
    conditions_[name] = {false, now};
    gauges_.emplace(name, host.gauge("node_agent_node_pressure", "1 while the node runs short of a resource.",
                                     {{"condition", name}}));
  }
}

Task<void> NodePressure::run() {
  listen_to_stalls();
  Clock::time_point all_due{};
  while (!context_.stopping) {
    const bool only_memory = Clock::now() < all_due;
    if (!only_memory) all_due = Clock::now() + settings_.housekeeping;
    Task<void> measuring = measure(only_memory);
    co_await std::move(measuring);
    if (context_.stopping) break;
    Task<bool> relieving = relieve();
    bool again = co_await std::move(relieving);
    if (!again && !only_memory && !context_.stopping) {
      Task<bool> limiting = keep_storage_limits();
      again = co_await std::move(limiting);
    }
    if (again) all_due = {};
    if (again || context_.stopping) continue;
    auto waiting = wakeup_.wait(WallClock::now() + std::chrono::duration_cast<WallClock::duration>(until_next()));
    co_await waiting;
  }
  stall_watch_ = Watch();
}

/// The soonest that memory could be short, or the next housekeeping.
std::chrono::nanoseconds NodePressure::until_next() const {
  std::chrono::nanoseconds next = settings_.housekeeping;
  if (told_nothing_to_evict_) return next;
  for (const Signal signal : {Signal::memory_available, Signal::allocatable_memory_available}) {
    const auto seen = watch_.observations().find(signal);
    const int64_t threshold = watch_.highest_threshold(signal);
    if (seen == watch_.observations().end() || threshold == 0) continue;
    const double left = static_cast<double>(std::max<int64_t>(seen->second.available - threshold, 0));
    next = std::min(next, std::chrono::nanoseconds(static_cast<int64_t>(left / kFastestUse * 1e9)));
  }
  return std::max<std::chrono::nanoseconds>(next, kShortest);
}

void NodePressure::listen_to_stalls() {
  stalls_ = UniqueFd(open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (stalls_.get() < 0 || write(stalls_.get(), kStallTrigger, sizeof kStallTrigger) < 0) {
    stalls_ = UniqueFd();
    return;
  }
  Result<Watch> watch = host_.watch(stalls_.get(), POLLPRI, [this](uint32_t events) {
    // Not here: a watch must not destroy itself while its function runs.
    if (events & (POLLERR | POLLNVAL))
      host_.post([this] { stall_watch_ = Watch(); });
    else
      wakeup_.notify();
  });
  if (watch) stall_watch_ = std::move(*watch);
}

Task<void> NodePressure::ask_for_image_folder() {
  cri::ImageFsInfoRequest request;
  CallOptions options;
  options.timeout = kQuickCall;
  auto asking = context_.images->ImageFsInfo(request, std::move(options));
  const Result<cri::ImageFsInfoResponse> answer = co_await asking;
  if (!answer || answer->image_filesystems_size() == 0) co_return;
  sources_.imagefs = answer->image_filesystems(0).fs_id().mountpoint();
  auto compare = [a = sources_.nodefs, b = sources_.imagefs] { return on_one_filesystem(a, b); };
  auto comparing = host_.blocking(std::move(compare));
  one_filesystem_ = co_await std::move(comparing);
}

Task<void> NodePressure::measure(bool only_memory) {
  if (!only_memory && sources_.imagefs.empty()) {
    Task<void> asking = ask_for_image_folder();
    co_await std::move(asking);
  }
  // Which driver the runtime has is known with the first pod.
  if (!settings_.pods_cgroup.empty()) sources_.pods_cgroup = place_of(context_.node.cgroups, settings_.pods_cgroup);
  auto look = [sources = sources_, only_memory] { return only_memory ? observe_memory(sources) : observe(sources); };
  auto looking = host_.blocking(std::move(look));
  const Observations seen = co_await std::move(looking);
  watch_.update(seen, Clock::now());
  tell_conditions();
}

void NodePressure::tell_conditions() {
  const std::set<std::string> now_true = watch_.conditions(Clock::now());
  bool relieved = false;
  for (auto& [name, condition] : conditions_) {
    const bool is_true = now_true.contains(name);
    if (is_true == condition.is_true) continue;
    condition = {is_true, nanoseconds(WallClock::now())};
    gauges_.at(name).set(is_true ? 1 : 0);
    relieved = relieved || !is_true;
    if (is_true)
      host_.warn("the node runs short: " + name, {{"condition", name}});
    else
      host_.info("the node does not run short any more: " + name, {{"condition", name}});
  }
  if (!relieved) return;
  for (const auto& [key, worker] : workers_) worker->reconsider();
}

std::vector<std::shared_ptr<const WantedPod>> NodePressure::active_pods() const {
  std::vector<std::shared_ptr<const WantedPod>> pods;
  for (const auto& [key, worker] : workers_)
    if (std::shared_ptr<const WantedPod> pod = worker->active()) pods.push_back(std::move(pod));
  return pods;
}

/// What lies on the file system of a disk signal.
DiskParts NodePressure::parts_of(Signal signal) const {
  if (one_filesystem_) return {true, true};
  const bool node = signal == Signal::nodefs_available || signal == Signal::nodefs_inodes_free;
  return {node, !node};
}

/// True: something was done, so that everything is to be measured again.
Task<bool> NodePressure::relieve() {
  if (watch_.acting(Clock::now()).empty()) told_nothing_to_evict_ = false;
  for (const Threshold& threshold : watch_.acting(Clock::now())) {
    if (is_of_disk(threshold.signal) && free_disk) {
      Task<void> freeing = free_disk();
      co_await std::move(freeing);
      Task<void> measuring = measure(false);
      co_await std::move(measuring);
      if (context_.stopping || !watch_.is_met(threshold)) co_return false;
    }
    Task<bool> evicting = evict_for(threshold);
    if (co_await std::move(evicting)) co_return true;
    if (context_.stopping) co_return false;
  }
  co_return false;
}

Task<bool> NodePressure::evict_for(Threshold threshold) {
  const DiskParts parts = parts_of(threshold.signal);
  // What was evicted or written since the last walk decides who is next.
  std::optional<std::chrono::nanoseconds> storage;
  if (is_of_disk(threshold.signal)) storage.emplace(0);
  Task<std::vector<PodUse>> measuring = measure_pods(context_, active_pods(), storage);
  std::vector<PodUse> uses = co_await std::move(measuring);
  const std::vector<PodUse> order = in_order_of_eviction(std::move(uses), threshold.signal, parts);
  if (order.empty()) {
    if (!std::exchange(told_nothing_to_evict_, true))
      host_.warn("the node runs short, but there is no pod to evict", {{"signal", name_of(threshold.signal)}});
    co_return false;
  }
  told_nothing_to_evict_ = false;
  const Observation observation = watch_.observations().at(threshold.signal);
  host_.warn("attempting to reclaim " + std::string(resource_of(threshold.signal)),
             {{"reason", "EvictionThresholdMet"},
              {"signal", name_of(threshold.signal)},
              {"available", std::to_string(observation.available)},
              {"threshold", std::to_string(threshold.value.of(observation.capacity))}});
  const PodUse& first = order.front();
  PodVerdict verdict;
  verdict.reason = "Evicted";
  verdict.message = eviction_message(first, threshold, observation, parts);
  verdict.disruption_message = verdict.message;
  verdict.grace_seconds = threshold.is_hard() ? kHardGrace : settings_.eviction.longest_pod_grace;
  verdict.frees_disk = is_of_disk(threshold.signal);
  const auto worker = workers_.find(first.pod->key());
  if (worker == workers_.end()) co_return false;
  const std::shared_ptr<PodWorker> ending = worker->second;
  evict(*first.pod, std::move(verdict), name_of(threshold.signal));
  Task<void> awaiting = await_end(ending);
  co_await std::move(awaiting);
  co_return true;
}

void NodePressure::evict(const WantedPod& pod, PodVerdict verdict, std::string_view signal) {
  const auto worker = workers_.find(pod.key());
  if (worker == workers_.end()) return;
  const std::shared_ptr<const WantedPod> active = worker->second->active();
  if (!active || active->uid != pod.uid) return;
  const auto [metric, is_new] = evictions_.try_emplace(std::string(signal));
  if (is_new)
    metric->second = host_.counter("node_agent_evictions_total", "Pods that were evicted.", {{"signal", signal}});
  metric->second.add();
  worker->second->end_with(std::move(verdict));
}

Task<void> NodePressure::await_end(std::shared_ptr<PodWorker> worker) {
  const WallTime end = WallClock::now() + kPatienceWithEnd;
  while (!context_.stopping && !worker->is_settled() && WallClock::now() < end) {
    auto waiting = settled_.wait(std::min<WallTime>(end, WallClock::now() + seconds(1)));
    co_await waiting;
  }
}

Task<bool> NodePressure::keep_storage_limits() {
  if (Clock::now() < storage_due_) co_return false;
  std::vector<std::shared_ptr<const WantedPod>> pods = active_pods();
  std::erase_if(pods, [](const std::shared_ptr<const WantedPod>& pod) { return !has_storage_limit(*pod->pod); });
  if (pods.empty()) co_return false;
  const Clock::time_point begun = Clock::now();
  Task<std::vector<PodUse>> measuring = measure_pods(context_, std::move(pods), settings_.housekeeping);
  const std::vector<PodUse> uses = co_await std::move(measuring);
  // Large volumes are walked less often.
  storage_due_ = Clock::now() + kWalkShare * (Clock::now() - begun);
  bool evicted = false;
  for (const PodUse& use : uses) {
    const std::string message = broken_storage_limit(use);
    if (message.empty()) continue;
    evict(*use.pod,
          {.reason = "Evicted",
           .message = message,
           .grace_seconds = kHardGrace,
           .is_refusal = false,
           .frees_disk = true,
           .keeps_volumes = false,
           .disruption_message = message},
          "ephemeralStorageLimit");
    evicted = true;
  }
  co_return evicted;
}

std::optional<PodVerdict> NodePressure::admit(const core::Pod& pod) const {
  std::string pressed;
  bool only_memory = true;
  for (const auto& [name, condition] : conditions_) {
    if (!condition.is_true) continue;
    pressed += (pressed.empty() ? "" : " ") + name;
    only_memory = only_memory && name == "MemoryPressure";
  }
  if (pressed.empty() || is_critical(pod)) return std::nullopt;
  if (only_memory && api::quality_of_service(pod) != "BestEffort") return std::nullopt;
  PodVerdict verdict;
  verdict.reason = "Evicted";
  verdict.message = "Pod was rejected: The node had condition: [" + pressed + "].";
  verdict.is_refusal = true;
  return verdict;
}

bool has_storage_limit(const core::Pod& pod) {
  const auto limited = [](const core::Container& container) {
    return !limit_of(container, "ephemeral-storage").is_zero();
  };
  const auto& spec = pod.spec();
  return std::any_of(spec.containers().begin(), spec.containers().end(), limited) ||
         std::any_of(spec.init_containers().begin(), spec.init_containers().end(), limited) ||
         std::any_of(spec.volumes().begin(), spec.volumes().end(), [](const core::Volume& volume) {
           const auto& source = volume.volume_source().empty_dir();
           return volume.volume_source().has_empty_dir() && source.medium().empty() && source.has_size_limit();
         });
}

std::string broken_storage_limit(const PodUse& use) {
  const core::Pod& pod = *use.pod->pod;
  for (const core::Volume& volume : pod.spec().volumes()) {
    const auto& source = volume.volume_source();
    if (!source.has_empty_dir() || !source.empty_dir().has_size_limit()) continue;
    const api::Quantity limit = api::Quantity::of(source.empty_dir().size_limit());
    const auto used = use.volumes.find(volume.name());
    if (!limit.is_zero() && used != use.volumes.end() && used->second > limit.units())
      return "Usage of EmptyDir volume \"" + volume.name() + "\" exceeds the limit \"" + limit.text() + "\".";
  }
  // As a whole before one by one, as kubelet looks at them.
  const PodAmount together = limit_of(pod, "ephemeral-storage");
  int64_t all = use.volume_bytes;
  for (const auto& [name, container] : use.containers) all += container.writable_bytes + container.log_bytes;
  if (!together.amount.is_zero() && all > together.amount.units())
    return "Pod ephemeral local storage usage exceeds the total limit of containers " + together.amount.text() + ".";
  for (const auto* list : {&pod.spec().containers(), &pod.spec().init_containers()})
    for (const core::Container& container : *list) {
      const api::Quantity limit = limit_of(container, "ephemeral-storage");
      const auto used = use.containers.find(container.name());
      if (!limit.is_zero() && used != use.containers.end() &&
          used->second.writable_bytes + used->second.log_bytes > limit.units())
        return "Container " + container.name() + " exceeded its local ephemeral storage limit \"" + limit.text() +
               "\".";
    }
  return {};
}

}  // namespace pintle::agent
