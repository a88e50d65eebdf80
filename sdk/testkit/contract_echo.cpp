#include "pintle/example.pintle.hpp"
#include "sdk/testkit/contract_check.hpp"

namespace pintle::testkit {

using namespace std::chrono_literals;
using example::v1::CountRequest;
using example::v1::Saying;

void check_echo(InterfaceCheck& check) {
  if (!check.is_unimplemented("Say")) {
    Saying request;
    request.set_number(~uint64_t{0});
    request.set_text("hello, hello");
    request.set_offset(-7);
    RawCall options;
    options.buffers.push_back(Buffer::from(std::string(64 * 1024, 'x')));
    const CallOutcome outcome = check.call("Say", request, options);
    if (const auto answer = check.expect_answer<Saying>(outcome, "Say", "it gives back what it is told")) {
      check.expect(answer->SerializeAsString() == request.SerializeAsString(), "Say",
                   "the message comes back unchanged");
      check.expect(outcome.buffers.size() == 1 && outcome.buffers[0].text() == options.buffers[0].text(), "Say",
                   "the buffers come back unchanged");
    }
    request.set_shout(true);
    const auto shouted = check.expect_answer<Saying>(check.call("Say", request), "Say", "it shouts when asked to");
    if (shouted)
      check.expect(shouted->text() == "HELLO, HELLO", "Say", "a shout is in capitals", "it is " + shouted->text());
    // More calls than an implementation is likely to have written down.
    for (int i = 0; i < 1000; ++i) {
      request.set_number(static_cast<uint64_t>(i));
      const CallOutcome again = check.call("Say", request);
      if (again.status.is_ok()) continue;
      check.expect(false, "Say", "a thousand calls succeed one after the other", again.status.to_string());
      break;
    }
  }
  if (!check.is_unimplemented("Count")) {
    CountRequest request;
    request.set_count(500);
    RawCall options;
    options.initial_credit = 3;
    const CallOutcome outcome = check.call("Count", request, options);
    check.expect_code(outcome, "Count", {Code::ok}, "it counts to the end as credit comes");
    check.expect(outcome.stream.size() == 500, "Count", "it counts all",
                 std::to_string(outcome.stream.size()) + " came");
    for (size_t i = 0; i < outcome.stream.size(); ++i) {
      Saying saying;
      if (saying.ParseFromString(outcome.stream[i]) && saying.number() == i) continue;
      check.expect(false, "Count", "messages come in the order of sending",
                   "number " + std::to_string(i) + " is another");
      break;
    }
    RawCall cancelling;
    cancelling.initial_credit = 1;
    cancelling.cancel_after_messages = 5;
    request.set_count(1u << 30);
    const CallOutcome cancelled = check.call("Count", request, cancelling);
    check.expect_code(cancelled, "Count", {Code::cancelled}, "a count whose caller cancels ends as CANCELLED");
  }
}

}  // namespace pintle::testkit
