#pragma once

/// `pintle.image.v1.ImageBackend` over the image store and the registries' client. What blocks runs on blocking threads.
///
/// Pulls. Callers that ask for one reference with the same credentials share one pull; it is given up when the last of them
/// has gone. A few pulls run at a time, the others wait their turn. While the folder of images is being loaded after a start,
/// nobody is told that an image is absent before its end (or a while): pods of a host without a network start with the node.
///
/// Lane only.

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <pintle/host.hpp>
#include <set>
#include <string>

#include "cri/images/pull.hpp"
#include "cri/images/store.hpp"
#include "pintle/image.pintle.hpp"
#include "plugins/runtime-oci/image_settings.hpp"
#include "plugins/runtime-oci/lane.hpp"

namespace pintle::runtime_oci {

class ImageService final : public image::v1::ImageBackend {
 public:
  using ImagePointer = std::shared_ptr<const images::Image>;

  ImageService(Host& host, ImageSettings settings)
      : host_(host), settings_(std::make_shared<const ImageSettings>(std::move(settings))), preloaded_(host) {}

  /// Serves this store from now on, and begins to load the folder of images.
  void open(std::shared_ptr<images::Store> store);
  /// Gives up what is under way; completes when it has ended.
  Task<pintle::Status> close();

  Task<Result<image::v1::ListResponse>> List(Call& call, const image::v1::ListRequest& request) override;
  Task<Result<image::v1::StatusResponse>> Status(Call& call, const image::v1::StatusRequest& request) override;
  Task<Result<image::v1::LoadResponse>> Load(Call& call, const image::v1::LoadRequest& request) override;
  Task<Result<image::v1::RemoveResponse>> Remove(Call& call, const image::v1::RemoveRequest& request) override;
  Task<Result<image::v1::PullResponse>> Pull(Call& call, const image::v1::PullRequest& request) override;
  Task<pintle::Status> PullWithProgress(Call& call, const image::v1::PullRequest& request,
                                        StreamWriter<image::v1::PullProgress>& writer) override;
  Task<Result<image::v1::SaveResponse>> Save(Call& call, const image::v1::SaveRequest& request) override;
  Task<Result<image::v1::SetPinnedResponse>> SetPinned(Call& call, const image::v1::SetPinnedRequest& request) override;
  Task<Result<image::v1::FileSystemResponse>> FileSystem(Call& call,
                                                         const image::v1::FileSystemRequest& request) override;

 private:
  struct Pulling;
  struct Visitor;
  Result<std::shared_ptr<Pulling>> join(const image::v1::PullRequest& request);
  Task<void> run(std::shared_ptr<Pulling> pulling);
  Task<void> preload(std::shared_ptr<images::Store> store);
  Task<void> empty_trash(std::shared_ptr<images::Store> store);
  pintle::Status closed() const { return unavailable("runtime-oci has not opened its image store yet"); }

  Host& host_;
  std::shared_ptr<const ImageSettings> settings_;
  std::shared_ptr<images::Store> store_;
  std::map<std::string, std::shared_ptr<Pulling>> pulls_;  // by reference and credentials
  unsigned running_ = 0;
  std::deque<std::shared_ptr<Moment>> queue_;  // of those that wait to run
  std::shared_ptr<std::atomic<bool>> closing_ = std::make_shared<std::atomic<bool>>(false);
  Moment preloaded_;
  bool is_preloading_ = false;
  std::shared_ptr<Moment> ended_;  // while `close` waits
};

}  // namespace pintle::runtime_oci
