#include "plugins/runtime-oci/image_service.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <pintle/plugin.hpp>
#include <vector>

#include "cri/images/preload.hpp"
#include "cri/images/save.hpp"

namespace pintle::runtime_oci {
namespace {

using namespace std::chrono_literals;

constexpr unsigned kPullsAtATime = 4;
constexpr auto kProgressEvery = 100ms;
/// Less than callers wait for an answer about an image.
constexpr auto kWaitForPreload = 20s;

image::v1::Image to_message(const images::Image& image) {
  image::v1::Image message;
  ::runtime::v1::Image& basic = *message.mutable_image();
  basic.set_id(image.id.to_string());
  for (const std::string& tag : image.tags()) basic.add_repo_tags(tag);
  for (const std::string& digest : image.digests()) basic.add_repo_digests(digest);
  basic.set_size(image.size);
  basic.set_pinned(image.pinned);
  basic.mutable_spec()->set_image(image.id.to_string());
  const images::Config& config = image.config;
  const std::string user = config.user.substr(0, config.user.find(':'));
  if (!user.empty() && user.find_first_not_of("0123456789") == std::string::npos && user.size() < 11) {
    basic.mutable_uid()->set_value(std::stoll(user));
  } else if (user.empty()) {
    basic.mutable_uid()->set_value(0);
  } else {
    basic.set_username(user);
  }
  for (const std::string& text : config.entrypoint) message.add_entrypoint(text);
  for (const std::string& text : config.command) message.add_command(text);
  for (const std::string& text : config.environment) message.add_environment(text);
  message.set_working_directory(config.working_directory);
  message.set_user(config.user);
  message.set_stop_signal(config.stop_signal);
  for (const auto& [key, value] : config.labels) (*message.mutable_labels())[key] = value;
  message.set_created_at(config.created_at);
  message.set_architecture(config.architecture);
  for (const images::Digest& layer : image.layers) message.add_layers(layer.to_string());
  message.set_manifest_digest(image.manifest.to_string());
  return message;
}

image::v1::PullProgress to_message(const images::PullProgress& progress) {
  image::v1::PullProgress message;
  message.set_phase(static_cast<image::v1::PullProgress::Phase>(progress.phase));
  for (const images::PullProgress::Blob& blob : progress.blobs) {
    auto& one = *message.add_blobs();
    one.set_digest(blob.digest);
    one.set_size(blob.size);
    one.set_done(blob.done);
    one.set_present(blob.is_here);
  }
  message.set_cuts(progress.cuts);
  return message;
}

Result<uint64_t> save_to(images::Store& store, const std::string& name, const std::string& path) {
  if (!path.starts_with('/')) return invalid_argument("save image to " + path + ": the path has to be absolute");
  auto file = files::open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (!file) return file.status().with_context("save image");
  auto written = images::save(store, name, file->get());
  if (written && fsync(file->get()) != 0) written = status_from_errno(errno, "sync " + path);
  if (!written) unlink(path.c_str());
  if (!written) return written.status().with_context("save image to " + path);
  return written;
}

}  // namespace

struct ImageService::Pulling {
  Pulling(std::string its_key, std::string its_reference, std::shared_ptr<images::Store> its_store,
          std::shared_ptr<const ImageSettings> its_settings, images::Reference parsed, images::Credentials credentials)
      : key(std::move(its_key)),
        reference(std::move(its_reference)),
        store(std::move(its_store)),
        settings(std::move(its_settings)),
        pull(*store, settings->registries, std::move(parsed), std::move(credentials)) {}

  const std::string key;
  const std::string reference;
  const std::shared_ptr<images::Store> store;
  const std::shared_ptr<const ImageSettings> settings;
  images::Pull pull;
  std::set<Visitor*> visitors;
  Result<ImagePointer> result = unavailable("the pull has not ended");
  bool is_ended = false;
};

/// One caller who waits for a pull.
struct ImageService::Visitor {
  Visitor(Host& host, Call& call, std::shared_ptr<Pulling> its_pulling)
      : host_(host), pulling(std::move(its_pulling)), call_(call) {
    pulling->visitors.insert(this);
    call.on_cancel([this] { wake(); });
  }
  ~Visitor() {
    call_.on_cancel({});
    pulling->visitors.erase(this);
    if (pulling->visitors.empty() && !pulling->is_ended) pulling->pull.cancel();
  }
  Visitor(const Visitor&) = delete;
  Visitor& operator=(const Visitor&) = delete;

  bool is_over() const { return pulling->is_ended || call_.is_cancelled(); }
  void wake() {
    if (awake_) awake_->set();
  }
  /// Until the pull has ended, the caller has gone, or the time has passed (0: never).
  Task<void> wait(std::chrono::nanoseconds time) {
    if (is_over()) co_return;
    awake_ = std::make_shared<Moment>(host_);
    const std::shared_ptr<Moment> awake = awake_;
    Timer timer;
    if (time.count() > 0) timer = host_.timer(time, [awake] { awake->set(); });
    co_await awake->wait();
  }
  Result<ImagePointer> result() const {
    if (!pulling->is_ended) return pintle::cancelled("pull " + pulling->reference + ": the caller has gone");
    return pulling->result;
  }

 private:
  Host& host_;

 public:
  const std::shared_ptr<Pulling> pulling;

 private:
  Call& call_;
  std::shared_ptr<Moment> awake_;
};

void ImageService::open(std::shared_ptr<images::Store> store) {
  store_ = std::move(store);
  is_preloading_ = true;
  host_.detach(preload(store_));
}

Task<Status> ImageService::close() {
  *closing_ = true;
  for (const auto& [key, pulling] : pulls_) pulling->pull.cancel();
  while (!pulls_.empty() || is_preloading_) {
    ended_ = std::make_shared<Moment>(host_);
    const std::shared_ptr<Moment> ended = ended_;
    co_await ended->wait();
  }
  co_return pintle::Status::ok();
}

Task<void> ImageService::preload(std::shared_ptr<images::Store> store) {
  const auto work = [store, settings = settings_, closing = closing_] {
    return images::preload(*store, settings->folder, *closing);
  };
  Task<std::vector<images::Preloaded>> loading = host_.blocking(work);
  const std::vector<images::Preloaded> loaded = co_await std::move(loading);
  for (const images::Preloaded& one : loaded) {
    if (!one.status) {
      host_.warn("a file of the image folder could not be loaded",
                 {{"file", one.file}, {"error", one.status.message()}});
      continue;
    }
    for (const ImagePointer& image : one.images) {
      host_.info("image loaded", {{"file", one.file},
                                  {"image", image->id.to_string()},
                                  {"reference", image->references.empty() ? "" : image->references.front()}});
    }
  }
  is_preloading_ = false;
  preloaded_.set();
  if (ended_) ended_->set();
}

Task<Result<image::v1::ListResponse>> ImageService::List(Call&, const image::v1::ListRequest&) {
  if (!store_) co_return closed();
  const auto work = [store = store_] { return store->list(); };
  Task<Result<std::vector<ImagePointer>>> listing = host_.blocking(work);
  Result<std::vector<ImagePointer>> images = co_await std::move(listing);
  if (!images) co_return images.status();
  image::v1::ListResponse response;
  for (const ImagePointer& image : *images) *response.add_images() = to_message(*image);
  co_return response;
}

Task<Result<image::v1::StatusResponse>> ImageService::Status(Call&, const image::v1::StatusRequest& request) {
  if (!store_) co_return closed();
  const auto work = [store = store_, name = request.reference()] { return store->find(name); };
  for (bool is_last = false;; is_last = true) {
    const bool may_come = is_preloading_;
    Task<Result<ImagePointer>> finding = host_.blocking(work);
    Result<ImagePointer> image = co_await std::move(finding);
    if (!image) co_return image.status();
    image::v1::StatusResponse response;
    if (*image) *response.mutable_image() = to_message(**image);
    if (*image || !may_come || is_last) co_return response;
    // The moment is this object's, which outlives its calls.
    const std::shared_ptr<Moment> moment(std::shared_ptr<Moment>(), &preloaded_);
    Task<void> waiting = wait_at_most(host_, moment, kWaitForPreload);
    co_await std::move(waiting);
  }
}

Task<Result<image::v1::LoadResponse>> ImageService::Load(Call& call, const image::v1::LoadRequest& request) {
  if (!store_) co_return closed();
  auto& descriptors = call.received().descriptors;
  if (request.path().empty() && descriptors.empty())
    co_return invalid_argument("nothing to load: give a path, or the archive as a descriptor");
  const int descriptor = descriptors.empty() ? -1 : descriptors[0].get();
  const auto work = [store = store_, path = request.path(), reference = request.reference(), descriptor] {
    return path.empty() ? store->load(descriptor, reference) : store->load(path, reference);
  };
  Task<Result<std::vector<ImagePointer>>> loading = host_.blocking(work);
  Result<std::vector<ImagePointer>> images = co_await std::move(loading);
  if (!images) co_return images.status();
  image::v1::LoadResponse response;
  for (const ImagePointer& image : *images) {
    *response.add_images() = to_message(*image);
    host_.info("image loaded", {{"image", image->id.to_string()},
                                {"reference", image->references.empty() ? "" : image->references.front()}});
  }
  co_return response;
}

Task<Result<image::v1::RemoveResponse>> ImageService::Remove(Call&, const image::v1::RemoveRequest& request) {
  if (!store_) co_return closed();
  const auto work = [store = store_, name = request.reference()] { return store->remove(name); };
  Task<Result<std::vector<images::Digest>>> removing = host_.blocking(work);
  Result<std::vector<images::Digest>> removed = co_await std::move(removing);
  if (!removed) co_return removed.status();
  image::v1::RemoveResponse response;
  for (const images::Digest& id : *removed) response.add_removed_ids(id.to_string());
  if (!removed->empty()) host_.detach(empty_trash(store_));
  co_return response;
}

Task<void> ImageService::empty_trash(std::shared_ptr<images::Store> store) {
  const auto work = [store] { return store->empty_trash(); };
  Task<pintle::Status> emptying = host_.blocking(work);
  const pintle::Status status = co_await std::move(emptying);
  if (!status) host_.warn("the image store's trash could not be emptied", {{"error", status.message()}});
}

Result<std::shared_ptr<ImageService::Pulling>> ImageService::join(const image::v1::PullRequest& request) {
  if (!store_ || *closing_) return closed();
  auto reference = images::Reference::parse(request.reference());
  if (!reference) return reference.status();
  auto credentials = credentials_of(request.auth());
  if (!credentials) return credentials.status().with_context("pull " + request.reference());
  const std::string key = reference->to_string() + '\n' + request.auth().SerializeAsString();
  if (const auto found = pulls_.find(key); found != pulls_.end()) return found->second;
  auto pulling = std::make_shared<Pulling>(key, reference->to_string(), store_, settings_, *reference, *credentials);
  pulls_[key] = pulling;
  host_.detach(run(pulling));
  return pulling;
}

Task<void> ImageService::run(std::shared_ptr<Pulling> pulling) {
  while (running_ >= kPullsAtATime) {
    auto turn = std::make_shared<Moment>(host_);
    queue_.push_back(turn);
    co_await turn->wait();
  }
  ++running_;
  const auto begun = std::chrono::steady_clock::now();
  const auto work = [pulling] { return pulling->pull.run(); };
  Task<Result<ImagePointer>> pulled = host_.blocking(work);
  pulling->result = co_await std::move(pulled);
  --running_;
  if (!queue_.empty()) {
    queue_.front()->set();
    queue_.pop_front();
  }
  if (pulling->result) {
    const std::string took =
        std::to_string(std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
    host_.info("image pulled", {{"reference", pulling->reference},
                                {"image", (*pulling->result)->id.to_string()},
                                {"cuts", std::to_string(pulling->pull.progress().cuts)},
                                {"seconds", took}});
  } else {
    host_.warn("image not pulled", {{"reference", pulling->reference}, {"error", pulling->result.status().message()}});
  }
  pulling->is_ended = true;
  pulls_.erase(pulling->key);
  for (Visitor* visitor : pulling->visitors) visitor->wake();
  if (ended_) ended_->set();
}

Task<Result<image::v1::PullResponse>> ImageService::Pull(Call& call, const image::v1::PullRequest& request) {
  auto pulling = join(request);
  if (!pulling) co_return pulling.status();
  Visitor visitor(host_, call, *pulling);
  while (!visitor.is_over()) {
    Task<void> waiting = visitor.wait(0s);
    co_await std::move(waiting);
  }
  Result<ImagePointer> image = visitor.result();
  if (!image) co_return image.status();
  image::v1::PullResponse response;
  response.set_image_id((*image)->id.to_string());
  co_return response;
}

Task<Status> ImageService::PullWithProgress(Call& call, const image::v1::PullRequest& request,
                                            StreamWriter<image::v1::PullProgress>& writer) {
  auto pulling = join(request);
  if (!pulling) co_return pulling.status();
  Visitor visitor(host_, call, *pulling);
  images::PullProgress shown;
  bool is_first = true;
  while (!visitor.is_over()) {
    images::PullProgress now = visitor.pulling->pull.progress();
    if (is_first || !(now == shown)) {
      // Who reads slowly misses a step, not the end.
      if (writer.try_write(to_message(now))) shown = std::move(now);
      is_first = false;
    }
    Task<void> waiting = visitor.wait(kProgressEvery);
    co_await std::move(waiting);
  }
  Result<ImagePointer> image = visitor.result();
  if (!image) co_return image.status();
  image::v1::PullProgress last = to_message(visitor.pulling->pull.progress());
  last.set_phase(image::v1::PullProgress::DONE);
  *last.mutable_image() = to_message(**image);
  co_return co_await writer.write(last);
}

Task<Result<image::v1::SaveResponse>> ImageService::Save(Call& call, const image::v1::SaveRequest& request) {
  if (!store_) co_return closed();
  auto& descriptors = call.received().descriptors;
  if (request.path().empty() && descriptors.empty())
    co_return invalid_argument("nowhere to save to: give a path, or a descriptor to write to");
  const int descriptor = descriptors.empty() ? -1 : descriptors[0].get();
  const auto work = [store = store_, name = request.reference(), path = request.path(), descriptor] {
    return path.empty() ? images::save(*store, name, descriptor) : save_to(*store, name, path);
  };
  Task<Result<uint64_t>> saving = host_.blocking(work);
  const Result<uint64_t> written = co_await std::move(saving);
  if (!written) co_return written.status();
  image::v1::SaveResponse response;
  response.set_bytes(*written);
  co_return response;
}

Task<Result<image::v1::SetPinnedResponse>> ImageService::SetPinned(Call&, const image::v1::SetPinnedRequest& request) {
  if (!store_) co_return closed();
  const auto work = [store = store_, name = request.reference(), pinned = request.pinned()] {
    return store->set_pinned(name, pinned);
  };
  Task<Result<ImagePointer>> setting = host_.blocking(work);
  const Result<ImagePointer> image = co_await std::move(setting);
  if (!image) co_return image.status();
  if (!*image) co_return not_found("image '" + request.reference() + "' is not on this node");
  image::v1::SetPinnedResponse response;
  *response.mutable_image() = to_message(**image);
  co_return response;
}

Task<Result<image::v1::FileSystemResponse>> ImageService::FileSystem(Call&, const image::v1::FileSystemRequest&) {
  if (!store_) co_return closed();
  const auto work = [store = store_] { return store->usage(); };
  Task<files::Usage> measuring = host_.blocking(work);
  const files::Usage usage = co_await std::move(measuring);
  image::v1::FileSystemResponse response;
  response.set_path(store_->path());
  response.set_used_bytes(usage.bytes);
  response.set_used_inodes(usage.inodes);
  co_return response;
}

}  // namespace pintle::runtime_oci
