// The same file of a plugin, in process and isolated, passes the same contract suite over the real engine.

#include "sdk/testkit/contract.hpp"

#include <gmock/gmock.h>

#include <condition_variable>
#include <future>
#include <map>
#include <mutex>

#include "tests/isolation/node_party.hpp"

namespace pintle::node_test {
namespace {

using testkit::CallOutcome;
using testkit::RawCall;

/// Reaches a plugin of a node from an instance of its own, through the functions that plugins have.
class NodeTarget final : public testkit::ContractTarget {
 public:
  NodeTarget(NodeParty& party, std::string provider, std::vector<std::string> provides)
      : party_(party),
        provider_(std::move(provider)),
        provides_(std::move(provides)),
        client_(party.client("contract")) {}

  CallOutcome call(uint32_t interface_index, uint32_t method, std::string_view header,
                   const RawCall& options) override {
    auto& running = calls_.emplace_back(std::make_unique<Running>());
    running->target = this;
    running->options = &options;
    const uint64_t binding = binding_of(interface_index);
    engine::post_turn(client_.lane(), [this, &running = *running, binding, method, header] {
      begin(running, binding, method, header);
    });
    std::unique_lock held(lock_);
    ended_.wait_for(held, options.timeout + std::chrono::seconds(10),
                    [&] { return running->begun && (!running->outcome.accepted || running->outcome.completions > 0); });
    held.unlock();
    flush();  // a second completion would be queued behind the first
    held.lock();
    running->options = nullptr;
    return running->outcome;
  }

 private:
  /// A call under way; kept, because a broken plugin may still complete it later.
  struct Running {
    NodeTarget* target = nullptr;
    const RawCall* options = nullptr;  // null once nobody waits
    bool begun = false, inside = false;
    uint64_t id = 0;
    uint32_t messages = 0;
    CallOutcome outcome;
  };

  uint64_t binding_of(uint32_t interface_index) {
    auto found = bindings_.find(interface_index);
    if (found != bindings_.end()) return found->second;
    Result<uint64_t> bound = party_.bind(client_, provides_.at(interface_index), provider_);
    EXPECT_TRUE(bound.is_ok()) << bound.status().to_string();
    return bindings_[interface_index] = bound ? *bound : 0;
  }

  void flush() {
    std::promise<void> done;
    engine::post_turn(client_.lane(), [&] { done.set_value(); });
    done.get_future().wait();
  }

  void begin(Running& running, uint64_t binding, uint32_t method, std::string_view header) {
    const RawCall& options = *running.options;
    std::vector<pintle_buffer*> buffers;
    for (const Buffer& buffer : options.buffers) buffers.push_back(buffer.get());
    pintle_message message{};
    message.size = sizeof message;
    message.header = reinterpret_cast<const uint8_t*>(header.data());
    message.header_size = header.size();
    message.buffers = buffers.data();
    message.buffer_count = static_cast<uint32_t>(buffers.size());
    pintle_call_options call{};
    call.size = sizeof call;
    call.timeout_ns = static_cast<uint64_t>(options.timeout.count());
    call.initial_credit = options.initial_credit;
    call.on_message = options.initial_credit > 0 ? streamed : nullptr;
    running.inside = true;
    const pintle_code code =
        engine::host_api.call(&client_, binding, method, &message, &call, completed, &running, &running.id);
    running.inside = false;
    std::lock_guard held(lock_);
    running.begun = true;
    running.outcome.accepted = code == PINTLE_OK;
    if (code != PINTLE_OK) running.outcome.status = Status(static_cast<Code>(code), "the call was not accepted");
    if (code == PINTLE_OK && options.cancel_after_messages == 0u) engine::host_api.cancel(&client_, running.id);
    ended_.notify_all();
  }

  static void completed(void* context, uint64_t, const pintle_status* status, const pintle_message* reply) {
    auto& running = *static_cast<Running*>(context);
    std::lock_guard held(running.target->lock_);
    CallOutcome& outcome = running.outcome;
    ++outcome.completions;
    outcome.completed_inside_call = outcome.completed_inside_call || running.inside;
    outcome.status = Status(static_cast<Code>(status->code), std::string(engine::view(status->message)));
    if (reply) {
      outcome.header.assign(reinterpret_cast<const char*>(reply->header), reply->header_size);
      for (uint32_t i = 0; i < reply->buffer_count; ++i) outcome.buffers.push_back(Buffer::share(reply->buffers[i]));
    }
    running.target->ended_.notify_all();
  }

  static void streamed(void* context, uint64_t call_id, const pintle_message* message) {
    auto& running = *static_cast<Running*>(context);
    NodeTarget& target = *running.target;
    std::unique_lock held(target.lock_);
    if (!running.options) return;
    running.outcome.stream.emplace_back(reinterpret_cast<const char*>(message->header), message->header_size);
    const bool grant = running.options->grant_on_message;
    const bool cancel = running.options->cancel_after_messages == ++running.messages;
    held.unlock();
    if (grant) engine::host_api.grant(&target.client_, call_id, 1);
    if (cancel) engine::host_api.cancel(&target.client_, call_id);
  }

  NodeParty& party_;
  const std::string provider_;
  const std::vector<std::string> provides_;
  engine::Instance& client_;
  std::map<uint32_t, uint64_t> bindings_;
  std::vector<std::unique_ptr<Running>> calls_;
  std::mutex lock_;
  std::condition_variable ended_;
};

struct Case {
  const char* plugin;
  Isolation isolation;
};

class SameContract : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Examples, SameContract,
                         testing::Values(Case{"echo-cpp", Isolation::in_process}, Case{"echo-cpp", Isolation::process},
                                         Case{"echo-c", Isolation::in_process}, Case{"echo-c", Isolation::process}),
                         [](const testing::TestParamInfo<Case>& one) {
                           const std::string language = std::string(one.param.plugin) == "echo-c" ? "C" : "Cpp";
                           return language + (one.param.isolation == Isolation::process ? "Isolated" : "InProcess");
                         });

TEST_P(SameContract, IsGreen) {
  NodeParty party({{.name = "echo", .plugin = GetParam().plugin, .isolation = GetParam().isolation}});
  const Status ready = party.wait_until_ready();
  ASSERT_TRUE(ready.is_ok()) << ready.to_string();
  const std::vector<std::string> provides{"pintle.example.v1.Echo"};
  NodeTarget target(party, "echo", provides);
  const testkit::ContractReport report = testkit::check_contract(target, provides);
  for (const testkit::ContractFinding& finding : report.broken) ADD_FAILURE() << finding.method << ": " << finding.what;
  for (const testkit::ContractFinding& finding : report.unimplemented)
    ADD_FAILURE() << finding.method << ": " << finding.what;
  EXPECT_GT(report.passed, 20u);
}

}  // namespace
}  // namespace pintle::node_test
