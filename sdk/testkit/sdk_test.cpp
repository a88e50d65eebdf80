// The C++ layer over the fake node: stubs, skeletons, streams, deadlines, exceptions, blocking work, processes.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "pintle/example.pintle.hpp"
#include "sdk/testkit/fake_node.hpp"

namespace pintle {
namespace {

using namespace std::chrono_literals;
using example::v1::CountRequest;
using example::v1::EchoStub;
using example::v1::ListenRequest;
using example::v1::MisbehaveRequest;
using example::v1::PublishResponse;
using example::v1::Saying;
using testkit::FakeInstance;
using testkit::FakeNode;

Task<Result<Saying>> say(EchoStub stub, Saying request, CallOptions options = {}) {
  co_return co_await stub.Say(request, std::move(options));
}

class Examples : public testing::TestWithParam<const char*> {
 protected:
  Examples() : plugin(node.load(std::string(PLUGINS "/") + GetParam() + ".so")), client(node.client()) {
    EXPECT_TRUE(node.start(plugin));
    stub = node.stub<EchoStub>(client, plugin);
  }
  ~Examples() override { EXPECT_THAT_NO_PROMISE_WAS_BROKEN(); }
  void EXPECT_THAT_NO_PROMISE_WAS_BROKEN() {
    for (const std::string& violation : node.violations()) ADD_FAILURE() << violation;
  }
  FakeNode node;
  FakeInstance& plugin;
  FakeInstance& client;
  EchoStub stub;
};
INSTANTIATE_TEST_SUITE_P(BothLanguages, Examples, testing::Values("echo-cpp", "echo-c"));

TEST_P(Examples, GiveBackMessageAndBuffers) {
  Saying request;
  request.set_number(7);
  request.set_text("hello");
  request.set_offset(-3);
  Attachments sent, received;
  sent.buffers.push_back(Buffer::from(std::string(1024, 'b')));
  CallOptions options;
  options.attach = &sent;
  options.receive = &received;
  auto answer = node.wait(say(stub, request, std::move(options)));
  ASSERT_TRUE(answer && *answer) << (answer ? answer->status().to_string() : "hangs");
  EXPECT_EQ((*answer)->number(), 7u);
  EXPECT_EQ((*answer)->text(), "hello");
  EXPECT_EQ((*answer)->offset(), -3);
  ASSERT_EQ(received.buffers.size(), 1u);
  EXPECT_EQ(received.buffers[0].get(), sent.buffers[0].get()) << "the buffer was copied";
}

TEST_P(Examples, ShoutInCapitals) {
  Saying request;
  request.set_text("hello");
  request.set_shout(true);
  auto answer = node.wait(say(stub, request));
  ASSERT_TRUE(answer && *answer);
  EXPECT_EQ((*answer)->text(), "HELLO");
}

TEST_P(Examples, CountFurtherThanTheFirstCredit) {
  CountRequest request;
  request.set_count(1000);
  uint64_t expected = 0;
  const auto count = [](EchoStub echo, CountRequest wanted, uint64_t& next) -> Task<Status> {
    auto on_message = [&next](const Saying& saying, Attachments&) { EXPECT_EQ(saying.number(), next++); };
    co_return co_await echo.Count(wanted, on_message);
  };
  auto end = node.wait(count(stub, request, expected));
  ASSERT_TRUE(end);
  EXPECT_TRUE(*end) << end->to_string();
  EXPECT_EQ(expected, 1000u);
}

TEST_P(Examples, HandOneBufferToEachListener) {
  std::vector<pintle_buffer*> seen;
  uint64_t first_call = 0;
  const auto listen = [](EchoStub echo, std::vector<pintle_buffer*>& buffers, uint64_t& id) -> Task<void> {
    ListenRequest request;
    auto on_message = [&buffers](const Saying&, Attachments& attachments) {
      for (const Buffer& buffer : attachments.buffers) buffers.push_back(buffer.get());
    };
    CallOptions options;
    options.call_id = &id;
    Status end = co_await echo.Listen(request, on_message, std::move(options));
    EXPECT_EQ(end.code(), Code::cancelled) << end.to_string();
  };
  uint64_t second_call = 0;
  client.host().detach(listen(stub, seen, first_call));
  client.host().detach(listen(stub, seen, second_call));
  Attachments sent;
  sent.buffers.push_back(Buffer::from(std::string(2048, 'e')));
  const auto publish = [](EchoStub echo, Attachments& with) -> Task<Result<PublishResponse>> {
    Saying saying;
    CallOptions options;
    options.attach = &with;
    co_return co_await echo.Publish(saying, std::move(options));
  };
  auto published = node.wait(publish(stub, sent));
  ASSERT_TRUE(published && *published);
  EXPECT_EQ((*published)->listeners(), 2u);
  ASSERT_TRUE(node.run_until([&] { return seen.size() == 2; }));
  EXPECT_EQ(seen[0], sent.buffers[0].get());
  EXPECT_EQ(seen[1], sent.buffers[0].get());
  client.host().api()->cancel(client.host().raw(), first_call);
  client.host().api()->cancel(client.host().raw(), second_call);
  published = node.wait(publish(stub, sent));
  ASSERT_TRUE(published && *published);
  EXPECT_EQ((*published)->listeners(), 0u);
}

TEST_P(Examples, RefuseWhatIsNoMessageAndWhatIsNoMethod) {
  const std::string no_message = "\xff\xff\xff";
  EXPECT_EQ(node.call(client, plugin, 0, 2, no_message).status.code(), Code::invalid_argument);
  EXPECT_EQ(node.call(client, plugin, 0, 99, "").status.code(), Code::unimplemented);
}

/// Publishes many at once, and lets its backlog be small.
class Loud : public Plugin, public example::v1::Echo {
 public:
  explicit Loud(Host& host) : Plugin(host), listeners_(100) { provide(*this); }
  Task<Status> Listen(Call&, const ListenRequest&, StreamWriter<Saying>& writer) override {
    return listeners_.subscribe(writer);
  }
  Task<Result<PublishResponse>> Publish(Call&, const Saying& request) override {
    Saying saying;
    for (uint64_t number = 0; number < request.number(); ++number) {
      saying.set_number(number);
      listeners_.publish(saying);
    }
    co_return PublishResponse();
  }

 private:
  Broadcast<Saying> listeners_;
};

TEST(Broadcast, LosesNothingWithinItsBacklogAndEndsWhoFallsFurtherBehind) {
  FakeNode node;
  FakeInstance& plugin = node.add<Loud>("loud", {"pintle.example.v1.Echo"});
  FakeInstance& client = node.client();
  EchoStub stub = node.stub<EchoStub>(client, plugin);
  std::vector<uint64_t> heard;
  Status end;
  const auto listen = [](EchoStub echo, std::vector<uint64_t>& numbers, Status& result) -> Task<void> {
    ListenRequest request;
    auto on_message = [&numbers](const Saying& saying, Attachments&) { numbers.push_back(saying.number()); };
    result = co_await echo.Listen(request, on_message);
  };
  client.host().detach(listen(stub, heard, end));
  const auto publish = [](EchoStub echo, uint64_t count) -> Task<Result<PublishResponse>> {
    Saying saying;
    saying.set_number(count);
    co_return co_await echo.Publish(saying);
  };
  ASSERT_TRUE(*node.wait(publish(stub, 150)));  // more than the first credit, less than credit and backlog
  ASSERT_TRUE(node.run_until([&] { return heard.size() == 150; })) << heard.size();
  for (size_t i = 0; i < heard.size(); ++i) EXPECT_EQ(heard[i], i);
  ASSERT_TRUE(*node.wait(publish(stub, 1000)));
  ASSERT_TRUE(node.run_until([&] { return !end.is_ok(); }));
  EXPECT_EQ(end.code(), Code::resource_exhausted) << end.to_string();
}

/// Does on request what plugins should not.
class Careless : public Plugin, public example::v1::Echo {
 public:
  explicit Careless(Host& host) : Plugin(host) { provide(*this); }
  Task<Result<Saying>> Misbehave(Call& call, const MisbehaveRequest& request) override {
    if (request.how() == "throw") throw std::runtime_error("careless");
    if (request.how() == "throw after a sleep") {
      co_await host().sleep(1ms);
      throw std::runtime_error("careless");
    }
    if (request.how() == "hang") {
      bool cancelled = false;
      call.on_cancel([&] { cancelled = true; });
      while (!cancelled) co_await host().sleep(1ms);
      ++cancelled_calls;
    }
    if (request.how() == "throw while blocking") {
      auto work = []() -> int { throw std::runtime_error("in the dark"); };
      co_await host().blocking(work);
    }
    Saying answer;
    if (request.how() == "block") {
      auto work = [] { return std::this_thread::get_id(); };
      const auto elsewhere = co_await host().blocking(work);
      answer.set_shout(elsewhere != std::this_thread::get_id());
    }
    if (request.how() == "run") {
      Command command;
      command.program = "/bin/sh";
      command.arguments = {"sh", "-c", "exit 42"};
      Result<Process> process = host().spawn(command);
      if (!process) co_return process.status();
      const int wait_status = co_await process->exited();
      answer.set_number(static_cast<uint64_t>(WEXITSTATUS(wait_status)));
    }
    co_return answer;
  }
  int cancelled_calls = 0;
};

class CarelessPlugin : public testing::Test {
 protected:
  CarelessPlugin() : plugin(node.add<Careless>("careless", {"pintle.example.v1.Echo"})), client(node.client()) {
    stub = node.stub<EchoStub>(client, plugin);
  }
  Result<Saying> misbehave(const std::string& how, CallOptions options = {}) {
    const auto call = [](EchoStub echo, std::string in_which_way, CallOptions with) -> Task<Result<Saying>> {
      MisbehaveRequest request;
      request.set_how(in_which_way);
      co_return co_await echo.Misbehave(request, std::move(with));
    };
    auto answer = node.wait(call(stub, how, std::move(options)));
    return answer ? std::move(*answer) : Result<Saying>(internal_error("the call hangs"));
  }
  FakeNode node;
  FakeInstance& plugin;
  FakeInstance& client;
  EchoStub stub;
};

TEST_F(CarelessPlugin, ExceptionsBecomeInternalErrors) {
  for (const char* how : {"throw", "throw after a sleep", "throw while blocking"}) {
    const Result<Saying> answer = misbehave(how);
    EXPECT_EQ(answer.status().code(), Code::internal) << how;
    EXPECT_NE(answer.status().message().find(how == std::string("throw while blocking") ? "in the dark" : "careless"),
              std::string::npos);
  }
}

TEST_F(CarelessPlugin, AMethodThatIsNotOverriddenSaysSo) {
  auto answer = node.wait(say(stub, {}));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status().code(), Code::unimplemented);
  EXPECT_EQ(answer->status().message(), "pintle.example.v1.Echo.Say is not implemented by this plugin");
}

TEST_F(CarelessPlugin, TheDeadlineEndsACallAndCancelsItsHandler) {
  CallOptions options;
  options.timeout = 20ms;
  EXPECT_EQ(misbehave("hang", std::move(options)).status().code(), Code::deadline_exceeded);
}

TEST_F(CarelessPlugin, BlockingWorkRunsElsewhereAndProcessesAreAwaited) {
  Result<Saying> blocked = misbehave("block");
  ASSERT_TRUE(blocked) << blocked.status().to_string();
  EXPECT_TRUE(blocked->shout());
  Result<Saying> ran = misbehave("run");
  ASSERT_TRUE(ran) << ran.status().to_string();
  EXPECT_EQ(ran->number(), 42u);
}

TEST(EmptyStub, AnswersUnavailable) {
  FakeNode node;
  auto answer = node.wait(say(EchoStub(), {}));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status().code(), Code::unavailable);
}

}  // namespace
}  // namespace pintle
