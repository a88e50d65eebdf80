#pragma once

/// `runtime.v1.ImageService` over the image stores that the engine is bound to. Questions go to all of them, the
/// default one first; a pull goes to the default one.

#include "cri/engine.hpp"
#include "cri/gate.hpp"

namespace pintle::cri {

class ImageServer final : public Gated<api::ImageService> {
 public:
  ImageServer(Engine& engine, Gate& gate) : Gated(gate), engine_(engine) {}

  Task<Result<api::ListImagesResponse>> ListImages(Call& call, const api::ListImagesRequest& request) override;
  Task<Result<api::ImageStatusResponse>> ImageStatus(Call& call, const api::ImageStatusRequest& request) override;
  Task<Result<api::PullImageResponse>> PullImage(Call& call, const api::PullImageRequest& request) override;
  Task<Result<api::RemoveImageResponse>> RemoveImage(Call& call, const api::RemoveImageRequest& request) override;
  Task<Result<api::ImageFsInfoResponse>> ImageFsInfo(Call& call, const api::ImageFsInfoRequest& request) override;

 private:
  Engine& engine_;
};

}  // namespace pintle::cri
