#include "plugins/node-agent/agent.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <functional>

namespace pintle::agent {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr milliseconds kLockRetry{20};
constexpr milliseconds kResubscribe{200};
constexpr seconds kPoll{1}, kQuickCall{10};
constexpr seconds kSettle{1};

template <class Map>
std::string value_of(const Map& map, const char* key) {
  const auto found = map.find(key);
  return found == map.end() ? std::string() : found->second;
}

int64_t now_nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(WallClock::now().time_since_epoch()).count();
}

/// One thing of ours in the runtime, as both lists tell it.
struct Found {
  std::string uid, namespace_name, name;
  int64_t grace_seconds = 30;
  size_t fingerprint = 0;
};

template <class Item>
void look_at(const Item& item, std::map<std::string, Found>& found) {
  const std::string uid = value_of(item.labels(), label::kPodUid);
  if (value_of(item.annotations(), annotation::kSource) != annotation::kSourceValue || !is_uid(uid)) return;
  Found& one = found[uid];
  one.uid = uid;
  one.namespace_name = value_of(item.labels(), label::kPodNamespace);
  one.name = value_of(item.labels(), label::kPodName);
  const std::string grace = value_of(item.annotations(), annotation::kGraceSeconds);
  std::from_chars(grace.data(), grace.data() + grace.size(), one.grace_seconds);
  // Order does not matter, so that lists may come in any.
  one.fingerprint += std::hash<std::string>()(item.id() + ":" + std::to_string(item.state()));
}

}  // namespace

Agent::Agent(Host& host, AgentSettings settings)
    : host_(host),
      settings_(std::move(settings)),
      context_{.host = host,
               .files = PodFiles(settings_.state_folder, settings_.node.cgroups, settings_.ids),
               .node = settings_.node,
               .backoff = settings_.backoff,
               .runtime_name = "pintle",
               .starts = host.counter("node_agent_container_starts_total", "Containers that were started."),
               .restarts = host.counter("node_agent_container_restarts_total",
                                        "Containers that were started again after they had ended."),
               .start_seconds =
                   host.histogram("node_agent_pod_start_seconds", "From the manifest to all containers running.",
                                  {0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10})},
      web_(host),
      storage_(host),
      folder_(settings_.manifests, std::string(host.node())),
      url_(host, web_, settings_.url, std::string(host.node()), settings_.state_folder),
      posted_(host, settings_.state_folder),
      watch_(host, [this](FolderChange change) { folder_changed(std::move(change)); }),
      log_rotation_(host, context_, settings_.container_logs),
      pressure_(host, context_, workers_, settings_.pressure),
      shutdown_(host, context_, workers_, settings_.shutdown),
      collection_(host, context_, workers_, pressure_, settings_.collection),
      loop_ended_(host),
      events_wakeup_(host),
      poll_wakeup_(host),
      tick_wakeup_(host),
      lock_wakeup_(host),
      url_wakeup_(host),
      pods_metric_(host.gauge("node_agent_pods", "Pods that manifests want or that are ending.")),
      broken_metric_(host.gauge("node_agent_broken_manifests", "Manifest files that could not be read.")) {
  context_.runtime = &runtime_;
  context_.start = [this](Task<void> task) { start_loop(std::move(task)); };
  context_.images = &images_;
  context_.dead_kept = settings_.dead_kept;
  context_.dead_for = settings_.dead_for;
  pressure_.free_disk = [this] { return collection_.free_disk(); };
  shutdown_.called_off = [this] { reconsider_refused(); };
  context_.admit = [this](const PodWorker& asking, const WantedPod& pod) { return admit(asking, pod); };
  context_.freed = [this] {
    pressure_.pods_changed();
    shutdown_.pods_changed();
    host_.post([this] { reconsider_refused(); });
  };
  context_.web = &web_;
  context_.storage = &storage_;
}

void Agent::bind(cri::RuntimeServiceStub runtime, cri::ImageServiceStub images) {
  const uint64_t before = runtime_.binding().id;
  runtime_ = std::move(runtime);
  images_ = std::move(images);
  if (!begun_ || before == runtime_.binding().id) return;
  events_wakeup_.notify();
  for (const auto& [key, worker] : workers_) worker->runtime_changed();
}

void Agent::start_loop(Task<void> loop) {
  ++loops_;
  Task<void> running = counted(this, std::move(loop));
  host_.detach(std::move(running));
}

Task<void> Agent::counted(Agent* agent, Task<void> loop) {
  try {
    co_await std::move(loop);
  } catch (const std::exception& error) {
    agent->host_.error("a loop of the node agent ended by an exception", {{"what", error.what()}});
  }
  --agent->loops_;
  agent->loop_ended_.notify();
}

// ---- Life ------------------------------------------------------------------------------------------------------------------

Task<Status> Agent::start() {
  auto prepare = [manifests = settings_.manifests, state = settings_.state_folder]() -> Status {
    if (Status made = files::make_folders(manifests, 0700); !made)
      return made.with_context("make the folder of manifests");
    return files::make_folders(state, 0700).with_context("make the folder of state");
  };
  auto preparing = host_.blocking(std::move(prepare));
  if (Status prepared = co_await std::move(preparing); !prepared) co_return prepared;
  Result<files::Descriptor> state = files::open_folder(settings_.state_folder);
  if (!state) co_return state.status();
  Result<files::Lock> lock = files::Lock::try_acquire(state->get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) {
    host_.condition("PodsManaged", false, "WaitingForFormerInstance",
                    "another instance of this plugin still acts on the pods");
    start_loop(take_over());
    co_return Status::ok();
  }
  lock_ = std::move(*lock);
  Task<Status> beginning = begin();
  co_return co_await std::move(beginning);
}

Task<void> Agent::take_over() {
  while (!context_.stopping && !lock_.held()) {
    auto waiting = lock_wakeup_.wait(WallClock::now() + kLockRetry);
    co_await waiting;
    Result<files::Descriptor> state = files::open_folder(settings_.state_folder);
    if (!state) continue;
    Result<files::Lock> lock = files::Lock::try_acquire(state->get(), "lock", files::Lock::Kind::exclusive);
    if (lock) lock_ = std::move(*lock);
  }
  while (!context_.stopping) {
    Task<Status> beginning = begin();
    const Status begun = co_await std::move(beginning);
    if (begun) co_return;
    host_.condition("PodsManaged", false, "CannotBegin", begun.message());
    auto waiting = lock_wakeup_.wait(WallClock::now() + kPoll);
    co_await waiting;
  }
}

Task<Status> Agent::begin() {
  cri::VersionRequest ask;
  auto asking = runtime_.Version(ask, {.timeout = kQuickCall});
  Result<cri::VersionResponse> version = co_await asking;
  if (!version) co_return version.status().with_context("ask the container runtime for its version");
  if (!version->runtime_name().empty()) context_.runtime_name = version->runtime_name();

  struct Loaded {
    std::vector<std::shared_ptr<const WantedPod>> records;
    std::map<std::string, PodVerdict> verdicts;
    std::string boot;
    std::vector<std::string> problems;
    Status limited;
  };
  auto load = [files = context_.files, cgroups = context_.node.cgroups] {
    Loaded loaded;
    loaded.records = files.load(loaded.problems);
    loaded.boot = boot_id();
    loaded.verdicts = files.load_verdicts(loaded.boot, loaded.problems);
    loaded.limited = limit_all_pods(cgroups);
    return loaded;
  };
  auto loading = host_.blocking(std::move(load));
  Loaded loaded = co_await std::move(loading);
  context_.boot_id = std::move(loaded.boot);
  context_.verdicts = std::move(loaded.verdicts);
  const auto& [records, verdicts, boot, problems, limited] = loaded;
  if (!limited) host_.warn("pods together are not limited to what is left for them", {{"problem", limited.message()}});
  for (const std::string& problem : problems) host_.warn("a pod's record is passed over", {{"problem", problem}});
  std::map<std::string, std::vector<std::shared_ptr<const WantedPod>>> by_path;
  for (const std::shared_ptr<const WantedPod>& record : records) {
    accepted_[record->uid] = record;
    by_path[record->path].push_back(record);
  }
  for (auto& [path, pods] : by_path)
    if (path.starts_with('/'))
      folder_.remember(path, std::move(pods));
    else if (path == settings_.url.url)
      url_.remember(std::move(pods));
  Task<void> loading_posted = posted_.load(std::move(by_path[kPostedPath]));
  co_await std::move(loading_posted);
  if (!settings_.url.url.empty()) {
    Task<void> loading_url = url_.load();
    co_await std::move(loading_url);
  }

  // Watching begins before reading, so that nothing falls between the two.
  if (Status watching = watch_.watch(settings_.manifests); !watching) co_return watching;
  Task<Status> reading = read_folder(folder_.request());
  if (Status read = co_await std::move(reading); !read) co_return read;
  Task<Status> adopting = adopt_all();
  if (Status adopted = co_await std::move(adopting); !adopted) co_return adopted;
  begun_ = true;
  reconcile();
  // What changed while this was going on.
  folder_changed({});
  start_loop(follow_events());
  start_loop(tick());
  start_loop(log_rotation_.run());
  start_loop(pressure_.run());
  start_loop(shutdown_.run());
  start_loop(collection_.run());
  if (!settings_.url.url.empty()) start_loop(follow_url());
  host_.condition("PodsManaged", true, "Acting", "");
  if (on_begin_) on_begin_();
  co_return Status::ok();
}

Task<void> Agent::quiesce() {
  context_.stopping = true;
  watch_.stop();
  log_rotation_.stop();
  pressure_.stop();
  shutdown_.stop();
  collection_.stop();
  pressure_.pods_changed();
  web_.close();
  for (const auto& [key, worker] : workers_) worker->interrupt();
  if (events_call_ != 0) host_.api()->cancel(host_.raw(), events_call_);
  for (Wakeup* wakeup : {&events_wakeup_, &poll_wakeup_, &tick_wakeup_, &lock_wakeup_, &url_wakeup_}) wakeup->notify();
  while (loops_ > 0) {
    auto waiting = loop_ended_.wait(std::nullopt);
    co_await waiting;
  }
  lock_ = files::Lock();
}

// ---- The runtime -----------------------------------------------------------------------------------------------------------

Task<Status> Agent::adopt_all() {
  Task<Status> comparing = compare_with_runtime(false);
  if (Status compared = co_await std::move(comparing); !compared) co_return compared;
  // Files of pods that neither the runtime nor a manifest knows are left from an interrupted end.
  const Wanted wanted = this->wanted();
  std::set<std::string> alive;
  for (const auto& [key, pod] : wanted.pods) alive.insert(pod->uid);
  for (const auto& [uid, fingerprint] : fingerprints_) alive.insert(uid);
  auto clean = [files = context_.files, node = context_.node, accepted = accepted_, alive] {
    for (const std::string& uid : files.uids()) {
      if (alive.contains(uid) || !is_uid(uid)) continue;
      const auto record = accepted.find(uid);
      (void)files.remove(uid, record == accepted.end() ? std::string() : log_folder_of(node, *record->second));
    }
  };
  auto cleaning = host_.blocking(std::move(clean));
  co_await std::move(cleaning);
  co_return Status::ok();
}

/// Lists what is ours in the runtime; wakes the workers whose pods differ from the last time, and adopts what has none.
Task<Status> Agent::compare_with_runtime(bool wake_all) {
  cri::ListPodSandboxRequest ask_sandboxes;
  auto listing_sandboxes = runtime_.ListPodSandbox(ask_sandboxes, {.timeout = kQuickCall});
  Result<cri::ListPodSandboxResponse> sandboxes = co_await listing_sandboxes;
  if (!sandboxes) co_return sandboxes.status().with_context("list sandboxes");
  cri::ListContainersRequest ask_containers;
  auto listing_containers = runtime_.ListContainers(ask_containers, {.timeout = kQuickCall});
  Result<cri::ListContainersResponse> containers = co_await listing_containers;
  if (!containers) co_return containers.status().with_context("list containers");

  std::map<std::string, Found> found;
  for (const cri::PodSandbox& sandbox : sandboxes->items()) look_at(sandbox, found);
  for (const cri::Container& container : containers->containers()) look_at(container, found);
  const std::map<std::string, size_t> before = std::exchange(fingerprints_, {});
  for (const auto& [uid, one] : found) fingerprints_[uid] = one.fingerprint;

  for (const auto& [uid, one] : found) {
    if (worker_of_uid(uid)) continue;
    const auto record = accepted_.find(uid);
    const std::shared_ptr<const WantedPod> wanted = record == accepted_.end() ? nullptr : record->second;
    if (!wanted && (one.namespace_name.empty() || one.name.empty() || one.name.find('/') != std::string::npos))
      continue;
    const std::string key = wanted ? wanted->key() : one.namespace_name + "/" + one.name;
    const std::string logs = context_.node.log_folder + "/" + one.namespace_name + "_" + one.name + "_" + uid;
    // Before anything is reconciled it is not known what is wanted: the worker must learn that first.
    const std::shared_ptr<PodWorker> worker = worker_for(key);
    const Wanted now = this->wanted();
    const auto still = now.pods.find(key);
    if (still != now.pods.end() && still->second->uid == uid && !worker->wanted())
      worker->want(wanted ? wanted : still->second);
    worker->adopt(uid,
                  wanted                                                 ? wanted
                  : still != now.pods.end() && still->second->uid == uid ? still->second
                                                                         : nullptr,
                  one.grace_seconds, logs);
  }
  for (const auto& [key, worker] : workers_) {
    const auto differs = [&](const auto& entry) {
      const auto old = before.find(entry.first);
      return (old == before.end() || old->second != entry.second) && worker->has_uid(entry.first);
    };
    const auto vanished = [&](const auto& entry) {
      return !fingerprints_.contains(entry.first) && worker->has_uid(entry.first);
    };
    if (wake_all || std::any_of(fingerprints_.begin(), fingerprints_.end(), differs) ||
        std::any_of(before.begin(), before.end(), vanished))
      worker->runtime_changed();
  }
  co_return Status::ok();
}

Task<void> Agent::follow_events() {
  bool told = false;
  while (!context_.stopping) {
    cri::GetEventsRequest request;
    auto on_event = [this](const cri::ContainerEventResponse& event, Attachments&) {
      if (const std::shared_ptr<PodWorker> worker = worker_of_uid(event.pod_sandbox_status().metadata().uid()))
        worker->runtime_changed();
    };
    CallOptions options;
    options.call_id = &events_call_;
    auto following = runtime_.GetContainerEvents(request, on_event, std::move(options));
    // What happened before the subscription took hold is seen by comparing after it.
    host_.post([this] {
      if (!context_.stopping) start_loop(poll_while_there_are_no_events());
    });
    const Status ended = co_await following;
    events_call_ = 0;
    if (context_.stopping) co_return;
    if (ended.code() == Code::unimplemented) {
      if (!std::exchange(told, true))
        host_.info("the runtime tells no container events: its lists are compared once a second");
      Task<Status> comparing = compare_with_runtime(false);
      (void)co_await std::move(comparing);
    }
    auto waiting = events_wakeup_.wait(
        WallClock::now() + (ended.code() == Code::unimplemented ? std::chrono::nanoseconds(kPoll) : kResubscribe));
    co_await waiting;
  }
}

Task<void> Agent::poll_while_there_are_no_events() {
  Task<Status> comparing = compare_with_runtime(true);
  (void)co_await std::move(comparing);
}

Task<void> Agent::tick() {
  bool unsettled = false;
  while (!context_.stopping) {
    auto waiting = tick_wakeup_.wait(
        WallClock::now() +
        std::chrono::duration_cast<WallClock::duration>(
            unsettled ? std::min<std::chrono::nanoseconds>(kSettle, settings_.reread) : settings_.reread));
    co_await waiting;
    if (context_.stopping) co_return;
    if (Status watching = watch_.watch(settings_.manifests); !watching)
      host_.debug("the folder of manifests cannot be watched", {{"problem", watching.message()}});
    ReadRequest request = folder_.request();
    request.patient = true;
    auto read = [request = std::move(request)] { return ManifestFolder::read(request); };
    auto reading = host_.blocking(std::move(read));
    FolderReading seen = co_await std::move(reading);
    if (context_.stopping) co_return;
    unsettled = seen.unsettled;
    const bool readable = seen.status.is_ok();
    if (!readable) {
      host_.condition("ManifestsRead", false, "Unreadable",
                      seen.status.message() + ": the pods run on; make the folder readable again");
    } else if (folder_.merge(std::move(seen)) || !folder_readable_) {
      reconcile();
    }
    folder_readable_ = readable;
    Task<Status> comparing = compare_with_runtime(false);
    const Status compared = co_await std::move(comparing);
    if (!compared && !context_.stopping) host_.warn("the runtime does not answer", {{"problem", compared.message()}});
  }
}

// ---- Manifests -------------------------------------------------------------------------------------------------------------

Task<Status> Agent::read_folder(ReadRequest request) {
  auto read = [request = std::move(request)] { return ManifestFolder::read(request); };
  auto reading = host_.blocking(std::move(read));
  FolderReading seen = co_await std::move(reading);
  const Status status = seen.status;
  folder_.merge(std::move(seen));
  co_return status;
}

void Agent::folder_changed(FolderChange change) {
  pending_.complete.merge(change.complete);
  pending_.created.merge(change.created);
  pending_.lost = pending_.lost || change.lost;
  if (!begun_ || context_.stopping || (!pending_.lost && pending_.complete.empty() && pending_.created.empty())) return;
  if (reading_) {
    read_again_ = true;
    return;
  }
  reading_ = true;
  start_loop(read_changed());
}

Task<void> Agent::read_changed() {
  do {
    read_again_ = false;
    FolderChange change = std::exchange(pending_, {});
    ReadRequest request = folder_.request();
    if (change.lost) {
      if (Status watching = watch_.watch(settings_.manifests); !watching)
        host_.warn("the folder of manifests went away: its pods run on", {{"problem", watching.message()}});
    } else {
      request.created = change.created;
      for (const std::string& name : change.complete) request.created.erase(name);
      change.complete.merge(change.created);
      request.only = std::move(change.complete);
    }
    Task<Status> reading = read_folder(std::move(request));
    (void)co_await std::move(reading);
    if (!context_.stopping) reconcile();
  } while (read_again_ && !context_.stopping);
  reading_ = false;
}

/// Of all sources: of several pods of a name the folder's counts, then the server's, then the one that was posted.
Wanted Agent::wanted() const {
  Wanted all = folder_.wanted();
  const auto add = [&all](const std::shared_ptr<const WantedPod>& pod) {
    const auto [entry, is_new] = all.pods.emplace(pod->key(), pod);
    if (!is_new) all.duplicates.push_back({pod->key(), pod->path, entry->second->path});
  };
  for (const std::shared_ptr<const WantedPod>& pod : url_.pods()) add(pod);
  for (const auto& [key, pod] : posted_.pods()) add(pod);
  for (const std::shared_ptr<const PullSecret>& secret : url_.secrets()) all.secrets.emplace(secret->key(), secret);
  return all;
}

Task<void> Agent::follow_url() {
  while (!context_.stopping) {
    Task<bool> polling = url_.poll();
    const bool differs = co_await std::move(polling);
    if (context_.stopping) co_return;
    if (differs) reconcile();
    if (differs) report_url();
    auto waiting =
        url_wakeup_.wait(WallClock::now() + std::chrono::duration_cast<WallClock::duration>(settings_.url.period));
    co_await waiting;
  }
}

/// A server that fails is no reason to call the node unready: its pods are there.
void Agent::report_url() {
  if (url_.status()) {
    host_.info("manifests were read", {{"url", settings_.url.url}});
    return;
  }
  const std::string problem = url_.status().message();
  host_.error(problem, {{"url", settings_.url.url}});
  for (const std::shared_ptr<const WantedPod>& pod : url_.pods())
    if (const auto worker = workers_.find(pod->key()); worker != workers_.end())
      worker->second->add_event("Warning", "InvalidManifest", problem + " (the last good answer counts)");
}

void Agent::reconcile() {
  if (context_.stopping) return;
  const Wanted wanted = this->wanted();
  context_.secrets = wanted.secrets;
  std::map<std::string, std::shared_ptr<const WantedPod>> accepted;
  for (const auto& [key, pod] : wanted.pods) {
    auto known = accepted_.find(pod->uid);
    std::shared_ptr<const WantedPod> taken;
    if (known != accepted_.end()) {
      taken = known->second;
    } else {
      auto fresh = std::make_shared<WantedPod>(*pod);
      fresh->created_at = now_nanoseconds();
      taken = std::move(fresh);
    }
    accepted[pod->uid] = taken;
    worker_for(key)->want(taken);
  }
  for (auto worker = workers_.begin(); worker != workers_.end();) {
    if (!wanted.pods.contains(worker->first)) worker->second->want(nullptr);
    if (worker->second->is_finished() && !wanted.pods.contains(worker->first))
      worker = workers_.erase(worker);
    else
      ++worker;
  }
  accepted_ = std::move(accepted);
  pods_metric_.set(static_cast<double>(workers_.size()));
  report_files(wanted);
}

void Agent::report_files(const Wanted& wanted) {
  std::map<std::string, std::string> problems;
  size_t broken = 0;
  for (const auto& [name, file] : folder_.files()) {
    if (file.status) continue;
    ++broken;
    problems[folder_.path_of(name)] = file.status.message();
  }
  for (const Duplicate& duplicate : wanted.duplicates)
    problems[duplicate.path] = duplicate.path + ": the pod " + duplicate.key + " is also in " + duplicate.winner +
                               ", which counts; rename or remove one of them";
  for (const auto& [path, problem] : problems) {
    const auto before = reported_.find(path);
    if (before != reported_.end() && before->second == problem) continue;
    host_.error(problem, {{"file", path}});
    for (const auto& [key, pod] : wanted.pods)
      if (pod->path == path)
        if (const auto worker = workers_.find(key); worker != workers_.end())
          worker->second->add_event("Warning", "InvalidManifest", problem + " (its last good version runs on)");
  }
  reported_ = problems;
  broken_metric_.set(static_cast<double>(broken));
  if (problems.empty())
    host_.condition("ManifestsRead", true, "AllRead", "");
  else
    host_.condition("ManifestsRead", false, "Broken",
                    problems.begin()->second +
                        (problems.size() > 1 ? " (and " + std::to_string(problems.size() - 1) + " more)" : ""));
}

std::shared_ptr<PodWorker> Agent::worker_for(const std::string& key) {
  std::shared_ptr<PodWorker>& worker = workers_[key];
  if (!worker || worker->is_finished()) {
    worker = std::make_shared<PodWorker>(context_, key);
    // Its first turn comes later, when everything of it is known.
    host_.post([this, started = worker] { start_loop(PodWorker::run(started)); });
  }
  return worker;
}

std::shared_ptr<PodWorker> Agent::worker_of_uid(const std::string& uid) const {
  for (const auto& [key, worker] : workers_)
    if (worker->has_uid(uid)) return worker;
  return nullptr;
}

// ---- Serving ---------------------------------------------------------------------------------------------------------------

node::v1::ListPodsResponse Agent::list(const node::v1::PodReference& only) {
  node::v1::ListPodsResponse response;
  const std::string key = only.name().empty()
                              ? std::string()
                              : (only.namespace_().empty() ? "default" : only.namespace_()) + "/" + only.name();
  for (const auto& [name, worker] : workers_) {
    if (worker->is_finished() || (!key.empty() && key != name)) continue;
    *response.add_pods() = worker->report();
  }
  // A file that never brought a pod is told as one, or nobody would see why its pod is missing. So is a server.
  if (!key.empty()) return response;
  if (!url_.status() && url_.pods().empty()) {
    node::v1::Pod& pod = *response.add_pods();
    pod.mutable_reference()->set_name("manifestURL");
    pod.set_source("url:" + settings_.url.url);
    pod.set_phase("Failed");
    pod.set_message(url_.status().message());
  }
  for (const auto& [name, file] : folder_.files()) {
    if (file.status || file.documents() != 0) continue;
    node::v1::Pod& pod = *response.add_pods();
    pod.mutable_reference()->set_name(name);
    pod.set_source("file:" + folder_.path_of(name));
    pod.set_phase("Failed");
    pod.set_message(file.status.message());
  }
  return response;
}

namespace {

/// The file that has a pod of this name, and how many pods it has; null if none has.
const std::pair<const std::string, ManifestFolder::File>* file_of(const ManifestFolder& folder,
                                                                  const std::string& key) {
  for (const auto& entry : folder.files())
    for (const std::shared_ptr<const WantedPod>& pod : entry.second.pods)
      if (pod->key() == key) return &entry;
  return nullptr;
}

}  // namespace

Result<std::vector<Agent::Target>> Agent::targets_of(const std::vector<WantedPod>& pods,
                                                     const node::v1::ApplyPodsRequest& request) const {
  std::vector<Target> targets;
  for (const WantedPod& pod : pods) {
    Target target;
    const auto* file = file_of(folder_, pod.key());
    if (file && file->second.documents() > 1)
      return failed_precondition("the pod " + pod.key() + " is in " + folder_.path_of(file->first) +
                                 " together with others: edit that file");
    target.file = file ? file->first : pod.namespace_name + "_" + pod.name + ".yaml";
    if (!file && folder_.files().contains(target.file))
      return failed_precondition(folder_.path_of(target.file) +
                                 " is there and holds something else: rename or remove it");
    // The uid holds the file's path: read once more as what it will be.
    ReadOptions options{request.origin().empty() ? "manifest" : request.origin(), folder_.path_of(target.file),
                        std::string(host_.node())};
    Result<Manifest> as_file = read_manifest(pod.yaml, options);
    if (!as_file) return as_file.status();
    target.pod = std::move(as_file->pods.front());
    target.change = !file                                                                     ? "created"
                    : file->second.status && file->second.pods.front()->uid == target.pod.uid ? "unchanged"
                                                                                              : "configured";
    targets.push_back(std::move(target));
  }
  return targets;
}

Result<Agent::SecretTarget> Agent::target_of(const PullSecret& secret) const {
  const std::string usual = secret.namespace_name + "_" + secret.name + ".secret.yaml";
  for (const auto& [name, file] : folder_.files())
    for (const std::shared_ptr<const PullSecret>& other : file.secrets) {
      if (other->key() != secret.key()) continue;
      if (file.documents() > 1)
        return failed_precondition("the secret " + secret.key() + " is in " + folder_.path_of(name) +
                                   " together with others: edit that file");
      return SecretTarget{name, file.status && other->yaml == secret.yaml ? "unchanged" : "configured"};
    }
  if (folder_.files().contains(usual))
    return failed_precondition(folder_.path_of(usual) + " is there and holds something else: rename or remove it");
  return SecretTarget{usual, "created"};
}

Task<Result<node::v1::ApplyPodsResponse>> Agent::apply(node::v1::ApplyPodsRequest request) {
  if (!begun_) co_return unavailable("the agent does not act on pods yet: try again");
  const ReadOptions options{request.origin().empty() ? "manifest" : request.origin(), "", std::string(host_.node())};
  Result<Manifest> manifest = read_manifest(request.manifest(), options);
  if (!manifest) co_return manifest.status();
  Result<std::vector<Target>> targets = targets_of(manifest->pods, request);
  if (!targets) co_return targets.status();

  node::v1::ApplyPodsResponse response;
  std::map<std::string, std::string> texts;
  for (const Target& target : *targets) {
    node::v1::AppliedPod& applied = *response.add_pods();
    applied.mutable_reference()->set_namespace_(target.pod.namespace_name);
    applied.mutable_reference()->set_name(target.pod.name);
    applied.set_change(target.change);
    if (target.change != "unchanged") texts[target.file] = target.pod.yaml;
  }
  for (const std::shared_ptr<const PullSecret>& secret : manifest->secrets) {
    Result<SecretTarget> target = target_of(*secret);
    if (!target) co_return target.status();
    node::v1::AppliedPod& applied = *response.add_pods();
    applied.set_kind("Secret");
    applied.mutable_reference()->set_namespace_(secret->namespace_name);
    applied.mutable_reference()->set_name(secret->name);
    applied.set_change(target->change);
    if (target->change != "unchanged") texts[target->file] = secret->yaml;
  }
  if (request.dry_run() || texts.empty()) co_return response;
  auto write = [path = settings_.manifests, texts]() -> Status {
    Result<files::Descriptor> folder = files::open_folder(path);
    if (!folder) return folder.status();
    for (const auto& [name, text] : texts)
      if (Status written = files::write_file(folder->get(), name, text, files::Durability::synced); !written)
        return written;
    return Status::ok();
  };
  auto writing = host_.blocking(std::move(write));
  if (Status written = co_await std::move(writing); !written) co_return written.with_context("keep the manifest");
  ReadRequest reread = folder_.request();
  reread.only.emplace();
  for (const auto& [name, text] : texts) reread.only->insert(name);
  Task<Status> reading = read_folder(std::move(reread));
  if (Status read = co_await std::move(reading); !read) co_return read;
  reconcile();
  co_return response;
}

Task<Result<node::v1::RemovePodResponse>> Agent::remove(node::v1::RemovePodRequest request) {
  if (!begun_) co_return unavailable("the agent does not act on pods yet: try again");
  const std::string key =
      (request.pod().namespace_().empty() ? "default" : request.pod().namespace_()) + "/" + request.pod().name();
  const auto worker = workers_.find(key);
  const bool running = worker != workers_.end() && !worker->second->is_finished();
  const auto* file = file_of(folder_, key);
  if (!file && !running) co_return not_found("no pod " + key + ": `pintle pod ls` shows all");
  if (!file && posted_.pods().contains(key)) {
    Task<Status> taking = take_back(
        key, request.has_grace() ? std::optional<int64_t>(request.grace_seconds()) : std::optional<int64_t>());
    if (Status taken = co_await std::move(taking); !taken) co_return taken;
    co_return node::v1::RemovePodResponse();
  }
  if (!file && running && worker->second->wanted() && worker->second->wanted()->path == settings_.url.url)
    co_return failed_precondition("the pod " + key + " comes from " + worker->second->wanted()->path +
                                  ": take it out of what that server answers");
  if (file && file->second.documents() > 1)
    co_return failed_precondition("the pod " + key + " is in " + folder_.path_of(file->first) +
                                  " together with others: take it out of that file");
  if (request.has_grace() && running) worker->second->set_grace(request.grace_seconds());
  if (!file) co_return node::v1::RemovePodResponse();
  auto unlink = [path = settings_.manifests, name = file->first]() -> Status {
    Result<files::Descriptor> folder = files::open_folder(path);
    if (!folder) return folder.status();
    if (unlinkat(folder->get(), name.c_str(), 0) != 0 && errno != ENOENT)
      return status_from_errno(errno, "remove " + path + "/" + name);
    return fsync(folder->get()) == 0 ? Status::ok() : status_from_errno(errno, "sync " + path);
  };
  ReadRequest reread = folder_.request();
  reread.only = std::set<std::string>{file->first};
  auto unlinking = host_.blocking(std::move(unlink));
  if (Status removed = co_await std::move(unlinking); !removed) co_return removed;
  Task<Status> reading = read_folder(std::move(reread));
  if (Status read = co_await std::move(reading); !read) co_return read;
  reconcile();
  co_return node::v1::RemovePodResponse();
}

}  // namespace pintle::agent
