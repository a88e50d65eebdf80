#include "plugins/node-agent/garbage_collection.hpp"

#include <algorithm>
#include <boost/json.hpp>

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_worker_common.hpp"
#include "sdk/api/quantity.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

constexpr const char* kUses = "image-uses.json";
constexpr seconds kPatienceWithWorkers{10};

std::string bytes_text(int64_t bytes) { return api::Quantity::of(bytes, api::Quantity::Notation::binary).text(); }

/// "default_web_4e47e218-b2dd-8f7a-be44-45a5eede15d4": a log folder of this agent, whose uids are of version 8 (RFC 9562); others are
/// of a kubelet or of crictl.
std::string uid_of_log_folder(std::string_view name) {
  constexpr size_t kLength = 36, kVersion = 14;
  if (name.size() < kLength + 4 || name[name.size() - kLength - 1] != '_') return {};
  const std::string_view uid = name.substr(name.size() - kLength);
  for (size_t i = 0; i < kLength; ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char c = uid[i];
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return {};
  }
  return uid[kVersion] == '8' ? std::string(uid) : std::string();
}

}  // namespace

Result<CollectionSettings> read_collection_settings(const json::value& config) {
  CollectionSettings settings;
  const json::object& object = config.as_object();
  Status problem;
  const auto duration = [&](const char* key, std::chrono::nanoseconds& into) {
    const json::value* value = object.if_contains(key);
    if (!value) return;
    const Result<std::chrono::nanoseconds> parsed = parse_duration(std::string(value->as_string()));
    if (parsed)
      into = *parsed;
    else if (problem)
      problem = parsed.status().with_context(key);
  };
  duration("imageMinimumGCAge", settings.minimum_image_age);
  duration("imageMaximumGCAge", settings.maximum_image_age);
  duration("imageGCPeriod", settings.image_period);
  if (!problem) return problem;
  if (const json::value* high = object.if_contains("imageGCHighThresholdPercent"))
    settings.high_percent = high->to_number<int>();
  if (const json::value* low = object.if_contains("imageGCLowThresholdPercent"))
    settings.low_percent = low->to_number<int>();
  if (settings.low_percent >= settings.high_percent)
    return invalid_argument("imageGCLowThresholdPercent (" + std::to_string(settings.low_percent) +
                            ") must be less than imageGCHighThresholdPercent (" +
                            std::to_string(settings.high_percent) + ")");
  if (const json::value* most = object.if_contains("maximumDeadContainers"))
    settings.most_dead_containers = most->to_number<int64_t>();
  settings.container_period = std::min<std::chrono::nanoseconds>(settings.container_period, settings.image_period);
  return settings;
}

GarbageCollection::GarbageCollection(Host& host, WorkerContext& context, const Workers& workers,
                                     const NodePressure& pressure, CollectionSettings settings)
    : host_(host),
      context_(context),
      workers_(workers),
      pressure_(pressure),
      settings_(settings),
      wakeup_(host),
      freed_bytes_(host.counter("node_agent_image_collection_bytes_total", "Bytes of images that were removed.")),
      removed_images_(host.counter("node_agent_image_collection_images_total", "Images that were removed.")) {}

Task<void> GarbageCollection::run() {
  auto load = [path = context_.files.folder() + "/" + kUses] { return files::read_file(path, 16u << 20); };
  auto loading = host_.blocking(std::move(load));
  const Result<std::string> record = co_await std::move(loading);
  uses_ = record ? ImageUses::from_record(*record) : ImageUses();
  auto images_due = WallClock::now();
  while (!context_.stopping) {
    Task<void> containers = collect_containers();
    co_await std::move(containers);
    Task<void> logs = collect_logs();
    co_await std::move(logs);
    if (!context_.stopping && WallClock::now() >= images_due) {
      images_due = WallClock::now() + std::chrono::duration_cast<WallClock::duration>(settings_.image_period);
      Task<void> images = collect_images(false);
      co_await std::move(images);
    }
    if (context_.stopping) break;
    const auto next = WallClock::now() + std::chrono::duration_cast<WallClock::duration>(settings_.container_period);
    auto waiting = wakeup_.wait(std::min(next, images_due));
    co_await waiting;
  }
}

Task<void> GarbageCollection::free_disk() {
  for (const auto& [key, worker] : workers_) worker->collect_dead(0);
  Task<void> awaiting = await_workers();
  co_await std::move(awaiting);
  if (context_.stopping) co_return;
  Task<void> images = collect_images(true);
  co_await std::move(images);
}

Task<void> GarbageCollection::await_workers() {
  const WallTime end = WallClock::now() + kPatienceWithWorkers;
  const auto busy = [&] {
    return std::any_of(workers_.begin(), workers_.end(),
                       [](const auto& entry) { return entry.second->is_collecting(); });
  };
  while (busy() && !context_.stopping && WallClock::now() < end) co_await host_.sleep(milliseconds(20));
}

/// kubelet's maximum-dead-containers: what is too much goes from the pods with the most of it.
Task<void> GarbageCollection::collect_containers() {
  if (settings_.most_dead_containers < 0) co_return;
  std::vector<std::pair<size_t, std::shared_ptr<PodWorker>>> dead;
  size_t sum = 0;
  for (const auto& [key, worker] : workers_) {
    dead.emplace_back(worker->dead_containers(), worker);
    sum += dead.back().first;
  }
  std::stable_sort(dead.begin(), dead.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  for (const auto& [count, worker] : dead) {
    if (count == 0 || static_cast<int64_t>(sum) <= settings_.most_dead_containers) break;
    worker->collect_dead(0);
    sum -= count;
  }
  Task<void> awaiting = await_workers();
  co_await std::move(awaiting);
}

Task<void> GarbageCollection::collect_logs() {
  auto look = [folder = context_.node.log_folder, files = context_.files] {
    std::vector<std::pair<std::string, std::string>> found;  // name of the folder, uid
    const Result<files::Descriptor> logs = files::open_folder(folder);
    const Result<std::vector<std::string>> names =
        logs ? files::list_folder(logs->get()) : Result<std::vector<std::string>>(logs.status());
    if (!names) return found;
    for (const std::string& name : *names)
      if (std::string uid = uid_of_log_folder(name); !uid.empty()) found.emplace_back(name, std::move(uid));
    const std::vector<std::string> recorded = files.uids();
    std::erase_if(found, [&](const auto& entry) {
      return std::find(recorded.begin(), recorded.end(), entry.second) != recorded.end();
    });
    return found;
  };
  auto looking = host_.blocking(std::move(look));
  std::vector<std::pair<std::string, std::string>> found = co_await std::move(looking);
  // A pod that begins just now has its folder of logs before its record.
  std::erase_if(found, [&](const auto& entry) {
    return std::any_of(workers_.begin(), workers_.end(),
                       [&](const auto& worker) { return worker.second->knows_uid(entry.second); });
  });
  if (found.empty() || context_.stopping) co_return;
  auto clear = [folder = context_.node.log_folder, found] {
    const Result<files::Descriptor> logs = files::open_folder(folder);
    if (!logs) return;
    for (const auto& [name, uid] : found) (void)files::remove_tree(logs->get(), name);
  };
  auto clearing = host_.blocking(std::move(clear));
  co_await std::move(clearing);
  for (const auto& [name, uid] : found) host_.info("logs of a pod that has gone were removed", {{"folder", name}});
}

Task<std::optional<std::vector<KnownImage>>> GarbageCollection::list_images() {
  cri::ListImagesRequest request;
  CallOptions options;
  options.timeout = kQuickCall;
  auto listing = context_.images->ListImages(request, std::move(options));
  const Result<cri::ListImagesResponse> listed = co_await listing;
  if (!listed) co_return std::nullopt;
  std::vector<KnownImage> images;
  for (const cri::Image& image : listed->images()) {
    KnownImage& one = images.emplace_back();
    one.id = image.id();
    one.names = {image.repo_tags().begin(), image.repo_tags().end()};
    one.names.insert(one.names.end(), image.repo_digests().begin(), image.repo_digests().end());
    one.bytes = static_cast<int64_t>(image.size());
    one.is_pinned = image.pinned();
  }
  co_return images;
}

/// Those of containers in any state, and those that wanted pods name: a pod that waits to begin must find its image.
Task<std::optional<std::set<std::string>>> GarbageCollection::images_in_use(std::vector<KnownImage> images) {
  cri::ListContainersRequest request;
  CallOptions options;
  options.timeout = kQuickCall;
  auto listing = context_.runtime->ListContainers(request, std::move(options));
  const Result<cri::ListContainersResponse> listed = co_await listing;
  if (!listed) co_return std::nullopt;
  std::set<std::string> in_use, names;
  for (const cri::Container& container : listed->containers())
    for (const std::string& name : {container.image_ref(), container.image().image(), container.image_id()})
      if (!name.empty()) names.insert(name);
  std::set<std::string> wanted;
  for (const auto& [key, worker] : workers_) {
    const std::shared_ptr<const WantedPod> pod = worker->active();
    if (!pod) continue;
    for (const core::Container& container : pod->pod->spec().init_containers()) wanted.insert(container.image());
    for (const core::Container& container : pod->pod->spec().containers()) wanted.insert(container.image());
  }
  for (const std::string& name : wanted) {
    // As the store knows it ("web" is "docker.io/library/web:latest").
    cri::ImageStatusRequest ask;
    ask.mutable_image()->set_image(name);
    CallOptions patience;
    patience.timeout = kQuickCall;
    auto asking = context_.images->ImageStatus(ask, std::move(patience));
    const Result<cri::ImageStatusResponse> answer = co_await asking;
    if (context_.stopping) co_return std::nullopt;
    if (answer && answer->has_image()) names.insert(answer->image().id());
  }
  for (const KnownImage& image : images)
    if (names.contains(image.id) ||
        std::any_of(image.names.begin(), image.names.end(), [&](const auto& name) { return names.contains(name); }))
      in_use.insert(image.id);
  co_return in_use;
}

Task<Status> GarbageCollection::remove_image(KnownImage image) {
  cri::RemoveImageRequest request;
  request.mutable_image()->set_image(image.id);
  CallOptions options;
  options.timeout = kMakeCall;
  auto removing = context_.images->RemoveImage(request, std::move(options));
  const Result<cri::RemoveImageResponse> removed = co_await removing;
  if (!removed) co_return removed.status();
  freed_bytes_.add(static_cast<double>(image.bytes));
  removed_images_.add();
  host_.info("removed an unused image",
             {{"image", image.names.empty() ? image.id : image.names.front()}, {"bytes", std::to_string(image.bytes)}});
  co_return Status::ok();
}

Task<void> GarbageCollection::collect_images(bool all_unused) {
  if (!uses_) co_return;
  Task<std::optional<std::vector<KnownImage>>> listing = list_images();
  std::optional<std::vector<KnownImage>> images = co_await std::move(listing);
  if (!images || context_.stopping) co_return;
  Task<std::optional<std::set<std::string>>> asking = images_in_use(*images);
  const std::optional<std::set<std::string>> in_use = co_await std::move(asking);
  if (!in_use || context_.stopping) co_return;
  const int64_t now = nanoseconds(WallClock::now());
  if (uses_->update(*images, *in_use, now)) {
    auto keep = [folder = context_.files.folder(), record = uses_->to_record()] {
      const Result<files::Descriptor> opened = files::open_folder(folder);
      return opened ? files::write_file(opened->get(), kUses, record, files::Durability::cached) : opened.status();
    };
    auto keeping = host_.blocking(std::move(keep));
    if (const Status kept = co_await std::move(keeping); !kept)
      host_.warn("it is not remembered which images were used", {{"problem", kept.message()}});
  }
  auto look = [folder = pressure_.image_folder()] { return fullness_of(folder); };
  auto looking = host_.blocking(std::move(look));
  const std::optional<Fullness> disk = co_await std::move(looking);
  int64_t to_free = 0;
  if (disk) {
    const int64_t used_percent = 100 - disk->available * 100 / disk->capacity;
    if (used_percent >= settings_.high_percent)
      to_free = disk->capacity / 100 * (100 - settings_.low_percent) - disk->available;
  }
  int64_t freed = 0;
  for (const KnownImage& image : uses_->removable(*images, *in_use, settings_.minimum_image_age, now)) {
    const bool is_old =
        settings_.maximum_image_age.count() > 0 && uses_->unused_for(image.id, now) > settings_.maximum_image_age;
    if (context_.stopping || (!all_unused && !is_old && freed >= to_free)) continue;
    Task<Status> removing = remove_image(image);
    const Status removed = co_await std::move(removing);
    if (removed) freed += image.bytes;
    if (!removed) host_.warn("an unused image was not removed", {{"image", image.id}, {"problem", removed.message()}});
  }
  const bool is_short = !all_unused && freed < to_free;
  if (is_short && !std::exchange(told_full_, true))
    host_.warn("Failed to garbage collect required amount of images. Attempted to free " + std::to_string(to_free) +
                   " bytes, but only found " + std::to_string(freed) + " bytes eligible to free.",
               {{"reason", "FreeDiskSpaceFailed"}});
  if (!is_short) told_full_ = false;
  if (freed > 0) host_.info("images were collected", {{"freed", bytes_text(freed)}});
}

}  // namespace pintle::agent
