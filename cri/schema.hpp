#pragma once

/// Short names for the schemas that meet in the engine: `api` is CRI as clients see it, the others are what plugins
/// provide.

#include "cri/api.pintle.hpp"
#include "cri/records.pb.h"
#include "pintle/image.pintle.hpp"
#include "pintle/network.pintle.hpp"
#include "pintle/runtime.pintle.hpp"

namespace pintle::cri {

namespace api = ::runtime::v1;
namespace runtime_api = ::pintle::runtime::v1;
namespace image_api = ::pintle::image::v1;
namespace network_api = ::pintle::network::v1;

}  // namespace pintle::cri
