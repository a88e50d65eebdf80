#include <pintle/plugin.hpp>

#include "@SCHEMA@.pintle.hpp"

namespace {

using namespace pintle;
namespace api = @NAMESPACE@;

class @CLASS@ final : public Plugin, public api::@SERVICE@ {
 public:
  explicit @CLASS@(Host& host) : Plugin(host) { provide(*this); }

  Task<Status> start() override { co_return Status::ok(); }
  Task<Status> stop() override { co_return Status::ok(); }
@METHODS@};

}  // namespace

PINTLE_PLUGIN(@CLASS@);
