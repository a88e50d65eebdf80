#include "cri/service_image.hpp"

#include <boost/json.hpp>
#include <set>

#include "cri/containers.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::nanoseconds kAskTimeout = 30s;
constexpr std::chrono::nanoseconds kRemoveTimeout = 120s;
constexpr std::chrono::nanoseconds kPullTimeout = 24h;

const Status& no_store() {
  static const Status status = unavailable("no image store is running: look at `pintle status`");
  return status;
}

boost::json::array words(const google::protobuf::RepeatedPtrField<std::string>& list) {
  boost::json::array array;
  for (const std::string& word : list) array.emplace_back(word);
  return array;
}

std::string verbose_info(const image_api::Image& image) {
  boost::json::object labels;
  for (const auto& [key, value] : image.labels()) labels[key] = value;
  const boost::json::object info = {
      {"imageSpec",
       {{"architecture", image.architecture()},
        {"config",
         {{"User", image.user()},
          {"Env", words(image.environment())},
          {"Entrypoint", words(image.entrypoint())},
          {"Cmd", words(image.command())},
          {"WorkingDir", image.working_directory()},
          {"StopSignal", image.stop_signal()},
          {"Labels", std::move(labels)}}}}},
      {"createdAt", image.created_at()},
      {"manifestDigest", image.manifest_digest()},
      {"layers", words(image.layers())},
  };
  return boost::json::serialize(info);
}

}  // namespace

Task<Result<api::ListImagesResponse>> ImageServer::ListImages(Call& call, const api::ListImagesRequest& request) {
  const CallContext context(call);
  const std::vector<ImageStub> stores = engine_.providers().all_images();
  if (stores.empty()) co_return no_store();
  const std::string wanted = request.filter().image().image();
  api::ListImagesResponse response;
  std::set<std::string> seen;
  for (const ImageStub& store : stores) {
    CallOptions options;
    options.timeout = context.at_most(kAskTimeout);
    if (!wanted.empty()) {
      image_api::StatusRequest asking;
      asking.set_reference(wanted);
      auto asked = store.Status(asking, options);
      Result<image_api::StatusResponse> found = co_await asked;
      if (!found) co_return found.status();
      if (found->has_image() && seen.insert(found->image().image().id()).second)
        *response.add_images() = found->image().image();
      continue;
    }
    const image_api::ListRequest asking;
    auto listing = store.List(asking, options);
    Result<image_api::ListResponse> listed = co_await listing;
    if (!listed) co_return listed.status();
    for (image_api::Image& image : *listed->mutable_images()) {
      if (seen.insert(image.image().id()).second) *response.add_images() = std::move(*image.mutable_image());
    }
  }
  co_return response;
}

Task<Result<api::ImageStatusResponse>> ImageServer::ImageStatus(Call& call, const api::ImageStatusRequest& request) {
  const CallContext context(call);
  if (request.image().image().empty()) co_return invalid_argument("image.image is empty: name an image");
  const std::vector<ImageStub> stores = engine_.providers().all_images();
  if (stores.empty()) co_return no_store();
  api::ImageStatusResponse response;
  for (const ImageStub& store : stores) {
    image_api::StatusRequest asking;
    asking.set_reference(request.image().image());
    CallOptions options;
    options.timeout = context.at_most(kAskTimeout);
    auto asked = store.Status(asking, options);
    Result<image_api::StatusResponse> found = co_await asked;
    if (!found) co_return found.status();
    if (!found->has_image() || found->image().image().id().empty()) continue;
    *response.mutable_image() = found->image().image();
    if (request.verbose()) (*response.mutable_info())["info"] = verbose_info(found->image());
    break;
  }
  co_return response;
}

Task<Result<api::PullImageResponse>> ImageServer::PullImage(Call& call, const api::PullImageRequest& request) {
  const CallContext context(call);
  if (request.image().image().empty()) co_return invalid_argument("image.image is empty: name an image");
  const std::vector<ImageStub> stores = engine_.providers().all_images();
  if (stores.empty()) co_return no_store();
  image_api::PullRequest pull;
  pull.set_reference(request.image().image());
  if (request.has_auth()) *pull.mutable_auth() = request.auth();
  CallOptions options;
  options.timeout = context.at_most(kPullTimeout);
  uint64_t pull_id = 0;
  options.call_id = &pull_id;
  // A client that has gone away takes its pull along, unless others wait for it too.
  call.on_cancel([this, &pull_id] {
    if (pull_id != 0) (void)engine_.host().cancel(pull_id);
  });
  auto pulling = stores.front().Pull(pull, options);
  Result<image_api::PullResponse> pulled = co_await pulling;
  call.on_cancel({});
  if (!pulled) co_return pulled.status();
  api::PullImageResponse response;
  response.set_image_ref(pulled->image_id());
  co_return response;
}

Task<Result<api::RemoveImageResponse>> ImageServer::RemoveImage(Call& call, const api::RemoveImageRequest& request) {
  const CallContext context(call);
  if (request.image().image().empty()) co_return invalid_argument("image.image is empty: name an image");
  const std::vector<ImageStub> stores = engine_.providers().all_images();
  if (stores.empty()) co_return no_store();
  for (const ImageStub& store : stores) {
    image_api::RemoveRequest removal;
    removal.set_reference(request.image().image());
    CallOptions options;
    options.timeout = context.at_most(kRemoveTimeout);
    auto removing = store.Remove(removal, options);
    Result<image_api::RemoveResponse> removed = co_await removing;
    // CRI: removing what is not there succeeds.
    if (!removed && removed.status().code() != Code::not_found) co_return removed.status();
  }
  co_return api::RemoveImageResponse();
}

Task<Result<api::ImageFsInfoResponse>> ImageServer::ImageFsInfo(Call& call, const api::ImageFsInfoRequest&) {
  const CallContext context(call);
  const std::vector<ImageStub> stores = engine_.providers().all_images();
  if (stores.empty()) co_return no_store();
  api::ImageFsInfoResponse response;
  for (const ImageStub& store : stores) {
    CallOptions options;
    options.timeout = context.at_most(kAskTimeout);
    const image_api::FileSystemRequest asking;
    auto asked = store.FileSystem(asking, options);
    Result<image_api::FileSystemResponse> answer = co_await asked;
    if (!answer) co_return answer.status();
    // Layers and the containers' own files share one file system in every store that there is.
    for (api::FilesystemUsage* usage : {response.add_image_filesystems(), response.add_container_filesystems()}) {
      usage->set_timestamp(now_ns());
      usage->mutable_fs_id()->set_mountpoint(answer->path());
      usage->mutable_used_bytes()->set_value(answer->used_bytes());
      usage->mutable_inodes_used()->set_value(answer->used_inodes());
    }
  }
  co_return response;
}

}  // namespace pintle::cri
