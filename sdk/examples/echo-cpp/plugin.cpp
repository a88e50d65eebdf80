// echo-cpp: a finished plugin in C++, the smallest that shows each kind of method. See sdk/README.md, "A plugin in ten minutes".

#include <cctype>
#include <pintle/plugin.hpp>

#include "pintle/example.pintle.hpp"

namespace {

using namespace pintle;
using example::v1::CountRequest;
using example::v1::ListenRequest;
using example::v1::MisbehaveRequest;
using example::v1::PublishResponse;
using example::v1::Saying;

class EchoPlugin final : public Plugin, public example::v1::Echo {
 public:
  explicit EchoPlugin(Host& host)
      : Plugin(host), said_(host.counter("echo_said_total", "Sayings that were given back.")) {
    provide(*this);
  }

  Task<Result<Saying>> Say(Call& call, const Saying& request) override {
    said_.add();
    call.reply().buffers = call.received().buffers;
    Saying answer = request;
    if (request.shout()) {
      for (char& letter : *answer.mutable_text())
        letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
    }
    co_return answer;
  }

  Task<Status> Count(Call&, const CountRequest& request, StreamWriter<Saying>& writer) override {
    Saying saying;
    for (uint64_t number = 0; number < request.count(); ++number) {
      saying.set_number(number);
      Status status = co_await writer.write(saying);
      if (!status) co_return status;
    }
    co_return Status::ok();
  }

  Task<Status> Listen(Call&, const ListenRequest&, StreamWriter<Saying>& writer) override {
    return listeners_.subscribe(writer);
  }

  Task<Result<PublishResponse>> Publish(Call& call, const Saying& request) override {
    PublishResponse response;
    response.set_listeners(listeners_.publish(request, &call.received()));
    co_return response;
  }

  Task<Result<Saying>> Misbehave(Call&, const MisbehaveRequest&) override {
    co_return permission_denied("this plugin does not misbehave; the ones that do are test plugins");
  }

 private:
  Metric said_;
  Broadcast<Saying> listeners_;
};

}  // namespace

PINTLE_PLUGIN(EchoPlugin);
