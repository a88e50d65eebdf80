#include "sdk/support/engine/engine.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <thread>

#include "sdk/support/engine/reactor.hpp"

namespace pintle::engine {
namespace {

class QuietServices : public Services {
 public:
  Result<pintle_process> spawn(Instance&, const pintle_spawn&, pintle_exited, void*) override {
    return unimplemented("no spawn");
  }
  Result<int> listen(Instance&, const std::string&, const std::string&) override { return unimplemented("no listen"); }
  Status listen_end(Instance&, const std::string&) override { return unimplemented("no listen"); }
  void log(const std::string&, uint32_t, std::string, std::vector<LogField>) override {}
  void failed(Instance& instance, const std::string& reason) override {
    std::lock_guard lock(lock_);
    failures.push_back(instance.name() + ": " + reason);
  }
  Status metrics_text(std::function<void(std::string)> done) override {
    if (!knows_metrics) return Services::metrics_text(std::move(done));
    answering = std::thread([done = std::move(done)] { done("lane_turns 5\n"); });
    return {};
  }
  std::thread answering;
  bool knows_metrics = true;
  std::mutex lock_;
  std::vector<std::string> failures;
};

/// Lets a test wait until something was counted.
class Counter {
 public:
  void add() {
    std::lock_guard lock(lock_);
    ++count_;
    wake_.notify_all();
  }
  int count() {
    std::lock_guard lock(lock_);
    return count_;
  }
  bool reaches(int wanted) {
    std::unique_lock lock(lock_);
    return wake_.wait_for(lock, std::chrono::seconds(10), [&] { return count_ >= wanted; });
  }

 private:
  std::mutex lock_;
  std::condition_variable wake_;
  int count_ = 0;
};

/// An implementer whose methods are functions of the test.
class Scripted : public Handler {
 public:
  std::function<void(Instance&, const pintle_call&, const pintle_message&)> on_handle;
  std::function<void(Instance&, uint64_t)> on_cancelled;
  std::function<void(Instance&, uint64_t, const pintle_message&)> on_message;
  std::function<void(Instance&, uint64_t, uint32_t)> on_credit;
  std::function<void(uint32_t, const std::vector<pintle_binding>&)> on_bindings;
  void handle(Instance& i, const pintle_call& c, const pintle_message& m) override { on_handle(i, c, m); }
  void cancelled(Instance& i, uint64_t id) override {
    if (on_cancelled) on_cancelled(i, id);
  }
  void stream_message(Instance& i, uint64_t id, const pintle_message& m) override {
    if (on_message) on_message(i, id, m);
  }
  void stream_credit(Instance& i, uint64_t id, uint32_t credit) override {
    if (on_credit) on_credit(i, id, credit);
  }
  void bindings(Instance&, uint32_t need, const std::vector<pintle_binding>& list) override {
    if (on_bindings) on_bindings(need, list);
  }
};

pintle_message message(std::string_view header) {
  return {sizeof(pintle_message), 0,       0,      0, reinterpret_cast<const uint8_t*>(header.data()),
          header.size(),          nullptr, nullptr};
}
std::string header(const pintle_message& from) {
  return {reinterpret_cast<const char*>(from.header), from.header_size};
}

class EngineTest : public testing::Test {
 protected:
  EngineTest() : engine(services, options()) {
    caller.set_handler(std::make_unique<Scripted>());
    auto handler = std::make_unique<Scripted>();
    server_script = handler.get();
    server_script->on_handle = [](Instance& self, const pintle_call& call, const pintle_message& m) {
      self.complete(call.call_id, nullptr, &m);
    };
    server.set_handler(std::move(handler));
    binding = engine.bind(caller, server, 0, "test.Echo");
    engine.start();
  }
  void TearDown() override {
    if (services.answering.joinable()) services.answering.join();
  }
  static EngineOptions options() {
    EngineOptions out;
    out.outstanding = 8;
    return out;
  }
  /// Runs on the caller's lane and waits for it.
  void on_lane(std::function<void()> function) {
    Counter done;
    post_turn(caller.lane(), [&] {
      function();
      done.add();
    });
    ASSERT_TRUE(done.reaches(1));
  }
  struct Outcome {
    Counter ends;
    std::mutex lock;
    std::vector<uint32_t> codes;
    std::vector<std::string> replies, messages;
    Counter received, credits;
    static void completion(void* context, uint64_t, const pintle_status* status, const pintle_message* reply) {
      auto* self = static_cast<Outcome*>(context);
      {
        std::lock_guard held(self->lock);
        self->codes.push_back(status->code);
        self->replies.push_back(reply != nullptr ? header(*reply) : std::string(view(status->message)));
      }
      self->ends.add();
    }
    static void on_message(void* context, uint64_t, const pintle_message* m) {
      auto* self = static_cast<Outcome*>(context);
      {
        std::lock_guard held(self->lock);
        self->messages.push_back(header(*m));
      }
      self->received.add();
    }
    static void on_credit(void* context, uint64_t, uint32_t) { static_cast<Outcome*>(context)->credits.add(); }
  };
  pintle_code send_call(Outcome& outcome, std::string_view text, uint64_t* id, uint64_t timeout = 0,
                        uint32_t credit = 0) {
    const pintle_message m = message(text);
    pintle_call_options o{sizeof o,          credit, timeout, 0, credit != 0 ? Outcome::on_message : nullptr,
                          Outcome::on_credit};
    return engine.call(caller, binding, 1, &m, &o, Outcome::completion, &outcome, id);
  }

  QuietServices services;
  Engine engine;
  Instance& caller = engine.add({"caller", "caller@1", "caller", {}});
  Instance& server = engine.add({"server", "server@1", "server", {}});
  Scripted* server_script = nullptr;
  uint64_t binding = 0;
};

TEST_F(EngineTest, CompletionComesOnceAndNotBeforeTheCallReturned) {
  Outcome outcome;
  bool returned = false, before = false;
  on_lane([&] {
    uint64_t id = 0;
    ASSERT_EQ(send_call(outcome, "hello", &id), PINTLE_OK);
    before = outcome.ends.count() != 0;
    returned = true;
  });
  ASSERT_TRUE(outcome.ends.reaches(1));
  EXPECT_TRUE(returned);
  EXPECT_FALSE(before);
  EXPECT_EQ(outcome.replies, std::vector<std::string>{"hello"});
  EXPECT_EQ(outcome.codes, std::vector<uint32_t>{PINTLE_OK});
}

TEST_F(EngineTest, SecondCompletionIsNotFound) {
  pintle_code second = PINTLE_OK;
  server_script->on_handle = [&](Instance& self, const pintle_call& call, const pintle_message&) {
    self.complete(call.call_id, nullptr, nullptr);
    second = self.complete(call.call_id, nullptr, nullptr);
  };
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] { send_call(outcome, "", &id); });
  ASSERT_TRUE(outcome.ends.reaches(1));
  EXPECT_EQ(second, PINTLE_NOT_FOUND);
}

TEST_F(EngineTest, ImplementerSeesCallerMethodAndDeadline) {
  std::string who;
  uint32_t method = 0;
  uint64_t remaining = 0;
  server_script->on_handle = [&](Instance& self, const pintle_call& call, const pintle_message&) {
    who = view(call.caller);
    method = call.method;
    remaining = call.remaining_ns;
    self.complete(call.call_id, nullptr, nullptr);
  };
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] { send_call(outcome, "", &id, 5'000'000'000); });
  ASSERT_TRUE(outcome.ends.reaches(1));
  EXPECT_EQ(who, "plugin:caller");
  EXPECT_EQ(method, 1u);
  EXPECT_GT(remaining, 4'000'000'000u);
  EXPECT_LE(remaining, 5'000'000'000u);
}

TEST_F(EngineTest, CallsOfOneBindingArriveInOrderFromLaneAndForeignThreads) {
  std::vector<std::string> seen;
  server_script->on_handle = [&](Instance& self, const pintle_call& call, const pintle_message& m) {
    seen.push_back(header(m));
    self.complete(call.call_id, nullptr, nullptr);
  };
  Outcome outcome;
  for (int i = 0; i < 500; ++i) {
    uint64_t id = 0;
    while (send_call(outcome, std::to_string(i), &id) == PINTLE_RESOURCE_EXHAUSTED) std::this_thread::yield();
  }
  ASSERT_TRUE(outcome.ends.reaches(500));
  ASSERT_EQ(seen.size(), 500u);
  for (int i = 0; i < 500; ++i) EXPECT_EQ(seen[static_cast<size_t>(i)], std::to_string(i));
}

TEST_F(EngineTest, OutstandingCallsAreBoundedAndTheBoundIsGivenBack) {
  std::vector<uint64_t> ids;
  server_script->on_handle = [&](Instance&, const pintle_call& call, const pintle_message&) {
    ids.push_back(call.call_id);
  };
  Outcome outcome;
  on_lane([&] {
    uint64_t id = 0;
    for (int i = 0; i < 8; ++i) EXPECT_EQ(send_call(outcome, "", &id), PINTLE_OK);
    EXPECT_EQ(send_call(outcome, "", &id), PINTLE_RESOURCE_EXHAUSTED);
  });
  for (uint64_t id : ids) EXPECT_EQ(server.complete(id, nullptr, nullptr), PINTLE_OK);
  ASSERT_TRUE(outcome.ends.reaches(8));
  on_lane([&] {
    uint64_t id = 0;
    EXPECT_EQ(send_call(outcome, "", &id), PINTLE_OK);
  });
}

TEST_F(EngineTest, DeadlineCompletesTheCallTellsTheImplementerAndDropsWhatComesLater) {
  uint64_t served = 0;
  Counter cancelled;
  server_script->on_handle = [&](Instance&, const pintle_call& call, const pintle_message&) { served = call.call_id; };
  server_script->on_cancelled = [&](Instance&, uint64_t id) {
    EXPECT_EQ(id, served);
    cancelled.add();
  };
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] { send_call(outcome, "", &id, 30'000'000); });
  ASSERT_TRUE(outcome.ends.reaches(1));
  EXPECT_EQ(outcome.codes[0], static_cast<uint32_t>(PINTLE_DEADLINE_EXCEEDED));
  EXPECT_TRUE(cancelled.reaches(1));
  EXPECT_EQ(server.complete(served, nullptr, nullptr), PINTLE_NOT_FOUND);
  EXPECT_EQ(outcome.ends.count(), 1);
}

TEST_F(EngineTest, ShortDeadlineAfterALongOneIsNotMissed) {
  server_script->on_handle = [](Instance&, const pintle_call&, const pintle_message&) {};
  Outcome outcome;
  on_lane([&] {
    uint64_t id = 0;
    send_call(outcome, "", &id, 20'000'000'000);
    send_call(outcome, "", &id, 20'000'000);
  });
  const uint64_t began = now_ns();
  ASSERT_TRUE(outcome.ends.reaches(1));
  EXPECT_LT(now_ns() - began, 5'000'000'000u);
  EXPECT_EQ(outcome.codes[0], static_cast<uint32_t>(PINTLE_DEADLINE_EXCEEDED));
}

TEST_F(EngineTest, CancelIsAdvisoryAndTheCompletionStillComes) {
  uint64_t served = 0;
  server_script->on_handle = [&](Instance&, const pintle_call& call, const pintle_message&) { served = call.call_id; };
  server_script->on_cancelled = [&](Instance& self, uint64_t id) {
    const pintle_status status{sizeof status, PINTLE_CANCELLED, text("as you wish")};
    self.complete(id, &status, nullptr);
  };
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] {
    send_call(outcome, "", &id);
    EXPECT_EQ(caller.cancel(id), PINTLE_OK);
  });
  ASSERT_TRUE(outcome.ends.reaches(1));
  EXPECT_EQ(outcome.codes[0], static_cast<uint32_t>(PINTLE_CANCELLED));
  EXPECT_EQ(outcome.replies[0], "as you wish");
  EXPECT_EQ(caller.cancel(id), PINTLE_NOT_FOUND);
}

TEST_F(EngineTest, ForeignIdsAreNotFoundAndDoNoHarm) {
  server_script->on_handle = [](Instance&, const pintle_call&, const pintle_message&) {};
  Instance& stranger = engine.add({"stranger", "stranger@1", "stranger", {}});
  stranger.set_handler(std::make_unique<Scripted>());
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] { send_call(outcome, "", &id, 0, 4); });
  const pintle_message m = message("x");
  EXPECT_EQ(stranger.complete(id, nullptr, nullptr), PINTLE_NOT_FOUND);
  EXPECT_EQ(stranger.cancel(id), PINTLE_NOT_FOUND);
  EXPECT_EQ(stranger.send(id, &m), PINTLE_NOT_FOUND);
  EXPECT_EQ(stranger.grant(id, 1), PINTLE_NOT_FOUND);
  EXPECT_EQ(caller.complete(id, nullptr, nullptr), PINTLE_NOT_FOUND) << "the caller completed its own call";
  EXPECT_EQ(server.cancel(id), PINTLE_NOT_FOUND) << "the implementer cancelled the caller's call";
  for (uint64_t forged : {uint64_t{0}, uint64_t{1}, id + 1, id + (1u << 24), ~uint64_t{0}})
    EXPECT_EQ(server.complete(forged, nullptr, nullptr), PINTLE_NOT_FOUND);
  uint64_t other = 0;
  EXPECT_EQ(engine.call(stranger, binding, 1, nullptr, nullptr, Outcome::completion, &outcome, &other),
            PINTLE_NOT_FOUND);
  EXPECT_EQ(outcome.ends.count(), 0);
  EXPECT_EQ(server.complete(id, nullptr, nullptr), PINTLE_OK);
  EXPECT_TRUE(outcome.ends.reaches(1));
}

TEST_F(EngineTest, StreamFlowsByCreditAndEndsBeforeItsCompletion) {
  uint64_t served = 0;
  std::vector<pintle_code> codes;
  Counter granted;
  const auto send_all = [&](Instance& self) {
    const pintle_message m = message("item");
    pintle_code code = PINTLE_OK;
    while ((code = self.send(served, &m)) == PINTLE_OK) codes.push_back(code);
    codes.push_back(code);
  };
  server_script->on_handle = [&](Instance& self, const pintle_call& call, const pintle_message&) {
    served = call.call_id;
    EXPECT_EQ(call.initial_credit, 3u);
    send_all(self);
  };
  server_script->on_credit = [&](Instance& self, uint64_t, uint32_t credit) {
    EXPECT_EQ(credit, 2u);
    send_all(self);
    self.complete(served, nullptr, nullptr);
    granted.add();
  };
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] { send_call(outcome, "", &id, 0, 3); });
  ASSERT_TRUE(outcome.received.reaches(3));
  EXPECT_EQ(codes, (std::vector<pintle_code>{0, 0, 0, PINTLE_RESOURCE_EXHAUSTED}));
  EXPECT_EQ(caller.grant(id, 2), PINTLE_OK);
  ASSERT_TRUE(outcome.ends.reaches(1));
  EXPECT_TRUE(granted.reaches(1));
  EXPECT_EQ(outcome.messages.size(), 5u) << "a message came after the completion, or never";
}

TEST_F(EngineTest, CallerStreamsToTheImplementer) {
  std::vector<std::string> got;
  Counter arrived;
  server_script->on_handle = [&](Instance& self, const pintle_call& call, const pintle_message&) {
    self.grant(call.call_id, 2);
  };
  server_script->on_message = [&](Instance&, uint64_t, const pintle_message& m) {
    got.push_back(header(m));
    arrived.add();
  };
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] { send_call(outcome, "", &id); });
  ASSERT_TRUE(outcome.credits.reaches(1));
  const pintle_message one = message("one"), two = message("two");
  EXPECT_EQ(caller.send(id, &one), PINTLE_OK);
  EXPECT_EQ(caller.send(id, &two), PINTLE_OK);
  EXPECT_EQ(caller.send(id, &two), PINTLE_RESOURCE_EXHAUSTED);
  ASSERT_TRUE(arrived.reaches(2));
  EXPECT_EQ(got, (std::vector<std::string>{"one", "two"}));
}

TEST_F(EngineTest, QueuedMessagesKeepHeaderBuffersAndDescriptors) {
  Counter entered, leave;
  std::string got;
  const uint8_t* data = nullptr;
  int seen_descriptor = -1;
  bool open_inside = false;
  server_script->on_handle = [&](Instance& self, const pintle_call& call, const pintle_message& m) {
    if (call.method == 7) {
      entered.add();
      leave.reaches(1);
    } else {
      got = header(m);
      data = m.buffers[0]->data;
      seen_descriptor = m.descriptors[0];
      open_inside = fcntl(seen_descriptor, F_GETFD) >= 0;
    }
    self.complete(call.call_id, nullptr, nullptr);
  };
  Outcome outcome;
  uint64_t id = 0;
  ASSERT_EQ(engine.call(caller, binding, 7, nullptr, nullptr, Outcome::completion, &outcome, &id), PINTLE_OK);
  ASSERT_TRUE(entered.reaches(1));  // the lane is busy: what follows has to wait
  const uint64_t buffers_before = live_buffers(), copied_before = copied_bytes();
  uint8_t* bytes = nullptr;
  pintle_buffer* buffer = make_buffer(1024, &bytes);
  const int pipe_end = open("/dev/null", O_RDONLY | O_CLOEXEC);
  {
    std::string text(300, 'h');
    pintle_message m = message(text);
    m.buffers = &buffer;
    m.buffer_count = 1;
    m.descriptors = &pipe_end;
    m.descriptor_count = 1;
    ASSERT_EQ(engine.call(caller, binding, 1, &m, nullptr, Outcome::completion, &outcome, &id), PINTLE_OK);
    text.assign(300, 'x');  // the caller's memory is its own again
    buffer->release(buffer);
    close(pipe_end);
  }
  leave.add();
  ASSERT_TRUE(outcome.ends.reaches(2));
  EXPECT_EQ(got, std::string(300, 'h'));
  EXPECT_EQ(data, bytes);
  EXPECT_EQ(copied_bytes(), copied_before) << "a payload was copied within the process";
  EXPECT_TRUE(open_inside);
  while (engine.calls_under_way() != 0) std::this_thread::yield();
  EXPECT_EQ(live_buffers(), buffers_before);
  EXPECT_LT(fcntl(seen_descriptor, F_GETFD), 0) << "the duplicate was not closed";
}

TEST_F(EngineTest, BadMessagesAreRefused) {
  Outcome outcome;
  uint64_t id = 0;
  pintle_message m = message("");
  m.header_size = PINTLE_MAX_HEADER + 1ull;
  m.header = reinterpret_cast<const uint8_t*>("");
  EXPECT_EQ(engine.call(caller, binding, 1, &m, nullptr, Outcome::completion, &outcome, &id), PINTLE_INVALID_ARGUMENT);
  m = message("");
  m.buffer_count = 1;
  EXPECT_EQ(engine.call(caller, binding, 1, &m, nullptr, Outcome::completion, &outcome, &id), PINTLE_INVALID_ARGUMENT);
  m = message("");
  const int closed = 1'000'000;
  m.descriptors = &closed;
  m.descriptor_count = 1;
  EXPECT_EQ(engine.call(caller, binding, 1, &m, nullptr, Outcome::completion, &outcome, &id), PINTLE_INVALID_ARGUMENT);
  EXPECT_EQ(engine.calls_under_way(), 0u);
}

TEST_F(EngineTest, ExceptionsStopAtTheEdge) {
  server_script->on_handle = [](Instance&, const pintle_call&, const pintle_message&) {
    throw std::runtime_error("boom");
  };
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] { send_call(outcome, "", &id); });
  EXPECT_TRUE(server.failed());
  ASSERT_EQ(services.failures.size(), 1u);
  EXPECT_EQ(services.failures[0], "server: an exception left handle: boom");
  on_lane([&] { EXPECT_EQ(send_call(outcome, "", &id), PINTLE_UNAVAILABLE); });
}

TEST_F(EngineTest, ClosingEndsWhatIsUnderWayBothWays) {
  server_script->on_handle = [](Instance&, const pintle_call&, const pintle_message&) {};
  Outcome outcome;
  uint64_t id = 0;
  on_lane([&] { send_call(outcome, "", &id); });
  Counter flushed;
  server.close("server has stopped", [&] { flushed.add(); });
  ASSERT_TRUE(outcome.ends.reaches(1));
  ASSERT_TRUE(flushed.reaches(1));
  EXPECT_EQ(outcome.codes[0], static_cast<uint32_t>(PINTLE_UNAVAILABLE));
  EXPECT_EQ(outcome.replies[0], "server has stopped");
  on_lane([&] { EXPECT_EQ(send_call(outcome, "", &id), PINTLE_UNAVAILABLE); });
  server.open();
  server_script->on_handle = [](Instance& self, const pintle_call& call, const pintle_message&) {
    self.complete(call.call_id, nullptr, nullptr);
  };
  on_lane([&] { EXPECT_EQ(send_call(outcome, "", &id), PINTLE_OK); });
  EXPECT_TRUE(outcome.ends.reaches(2));
}

/// A plugin that is started anew gets the lane of the one before. One thread, so that the order of turns is the order of the queue; and
/// so many turns before, that the lane's thread turns to something else at each place of the closing once.
TEST(EngineReopenTest, CompletionsOfWhatWasClosedDoNotRunWhenTheLaneIsOpenedAgain) {
  QuietServices services;
  EngineOptions options;
  options.threads = 1;
  Engine engine(services, options);
  Instance& caller = engine.add({"caller", "caller@1", "caller", {}});
  Instance& server = engine.add({"server", "server@1", "server", {}});
  caller.set_handler(std::make_unique<Scripted>());
  auto silent = std::make_unique<Scripted>();
  silent->on_handle = [](Instance&, const pintle_call&, const pintle_message&) {};
  server.set_handler(std::move(silent));
  const uint64_t binding = engine.bind(caller, server, 0, "test.Echo");
  engine.start();
  std::atomic<int> completed{0};
  const auto completion = [](void* context, uint64_t, const pintle_status*, const pintle_message*) {
    ++*static_cast<std::atomic<int>*>(context);
  };
  for (int turns_before = 0; turns_before < 160; ++turns_before) {
    Counter opened, settled;
    post_turn(caller.lane(), [&] {
      const pintle_message nothing = message("");
      uint64_t id = 0;
      ASSERT_EQ(engine.call(caller, binding, 1, &nothing, nullptr, completion, &completed, &id), PINTLE_OK);
      for (int i = 0; i < turns_before; ++i) post_turn(caller.lane(), [] {});
      caller.close("it is started anew", [&] {
        caller.open();
        opened.add();
      });
    });
    ASSERT_TRUE(opened.reaches(1));
    post_turn(caller.lane(), [&] { settled.add(); });
    ASSERT_TRUE(settled.reaches(1));
    ASSERT_EQ(completed, 0) << "with " << turns_before << " turns before";
  }
}

/// A plugin that only remembers what it was told, for the engine's own handler of plugins.
struct Remembering {
  static inline const pintle_instance_config* told = nullptr;
  static pintle_code create(const pintle_host_api*, pintle_host*, const pintle_instance_config* config, void** object,
                            pintle_status*) {
    told = config;
    *object = &told;
    return PINTLE_OK;
  }
  static pintle_plugin table() {
    pintle_plugin out{};
    out.size = sizeof out;
    out.create = create;
    return out;
  }
};

TEST_F(EngineTest, AnObjectThatIsLeftBehindKeepsItsConfiguration) {
  static const pintle_plugin table = Remembering::table();
  Instance& lan = engine.add({"lan", "lan@1", "network", {}});
  lan.set_handler(make_plugin_handler(&table));
  InstanceConfig config;
  config.config = std::string(10'000, 'x');
  config.node = "a node with a name that is long enough to be on the heap";
  Counter created, flushed;
  lan.create(config, [&](const Status&) { created.add(); });
  ASSERT_TRUE(created.reaches(1));
  lan.close("it did not stop in time, so it was not destroyed", [&] { flushed.add(); });
  ASSERT_TRUE(flushed.reaches(1));
  lan.set_handler(make_plugin_handler(&table));
  const std::string other(10'000, 'y'), another(10'000, 'y');  // takes the memory, if it was given back
  EXPECT_EQ(view(Remembering::told->config), config.config);
  EXPECT_EQ(view(Remembering::told->node), config.node);
  EXPECT_EQ(view(Remembering::told->key), "lan@1");
}

TEST_F(EngineTest, AnUnboundBindingIsUnavailableAndItsSlotIsUsedAgainUnderAnotherId) {
  Outcome outcome;
  uint64_t id = 0;
  engine.unbind(binding);
  EXPECT_EQ(send_call(outcome, "", &id), PINTLE_UNAVAILABLE);
  const uint64_t next = engine.bind(caller, server, 0, "test.Echo");
  EXPECT_NE(next, binding);
  EXPECT_EQ(send_call(outcome, "", &id), PINTLE_UNAVAILABLE);
  binding = next;
  EXPECT_EQ(send_call(outcome, "", &id), PINTLE_OK);
  EXPECT_TRUE(outcome.ends.reaches(1));
}

TEST_F(EngineTest, TimersRunOnceAndNotAfterTheyWereCancelled) {
  Counter ran;
  uint64_t first = 0, second = 0;
  const auto count = [](void* context) { static_cast<Counter*>(context)->add(); };
  on_lane([&] {
    EXPECT_EQ(caller.timer(1'000'000, count, &ran, &first), PINTLE_OK);
    EXPECT_EQ(caller.timer(2'000'000, count, &ran, &second), PINTLE_OK);
    EXPECT_EQ(caller.timer_cancel(second), PINTLE_OK);
    EXPECT_EQ(caller.timer_cancel(second), PINTLE_NOT_FOUND);
  });
  ASSERT_TRUE(ran.reaches(1));
  Counter third;
  uint64_t id = 0;
  caller.timer(20'000'000, count, &third, &id);
  ASSERT_TRUE(third.reaches(1));
  EXPECT_EQ(ran.count(), 1);
  on_lane([&] { EXPECT_EQ(caller.timer_cancel(first), PINTLE_NOT_FOUND); });
}

TEST_F(EngineTest, WatchesAreLevelTriggeredUntilUnwatched) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  Counter ready;
  uint64_t id = 0;
  EXPECT_EQ(caller.watch(
                ends[0], POLLIN, [](void* context, uint32_t) { static_cast<Counter*>(context)->add(); }, &ready, &id),
            PINTLE_OK);
  ASSERT_EQ(write(ends[1], "x", 1), 1);
  ASSERT_TRUE(ready.reaches(3)) << "nobody read the byte: it must be told again and again";
  on_lane([&] { EXPECT_EQ(caller.unwatch(id), PINTLE_OK); });
  const int at_unwatch = ready.count();
  on_lane([] {});
  on_lane([] {});
  EXPECT_EQ(ready.count(), at_unwatch);
  on_lane([&] { EXPECT_EQ(caller.unwatch(id), PINTLE_NOT_FOUND); });
  close(ends[0]);
  close(ends[1]);
}

TEST_F(EngineTest, TheNodesMetricsComeOnTheLaneOrAreUnavailable) {
  struct Told {
    Counter count;
    std::string text;
  } told;
  const auto ready = [](void* context, pintle_text text) {
    auto* into = static_cast<Told*>(context);
    into->text.assign(text.data, text.size);
    into->count.add();
  };
  EXPECT_EQ(host_api.metrics_text(&caller, ready, &told), PINTLE_OK);
  ASSERT_TRUE(told.count.reaches(1));
  EXPECT_EQ(told.text, "lane_turns 5\n");
  services.knows_metrics = false;
  EXPECT_EQ(host_api.metrics_text(&caller, ready, &told), PINTLE_UNAVAILABLE);
  EXPECT_EQ(host_api.metrics_text(&caller, nullptr, &told), PINTLE_INVALID_ARGUMENT);
  on_lane([] {});
  EXPECT_EQ(told.count.count(), 1);
}

TEST_F(EngineTest, AStuckTurnIsReportedWithItsOwnerAndOthersGoOn) {
  QuietServices quiet;
  Engine other(quiet);
  Counter stuck;
  std::string owner, stack;
  other.reactor().on_stuck([&](const char* who, uint64_t, const std::string& frames) {
    owner = who;
    stack = frames;
    stuck.add();
  });
  Instance& slow = other.add({"slow", "slow@1", "slow", {}});
  Instance& slower = other.add({"slower", "slower@1", "slower", {}});
  Instance& fine = other.add({"fine", "fine@1", "fine", {}});
  other.start();
  Counter release;
  post_turn(slow.lane(), [&] { release.reaches(1); });
  post_turn(slower.lane(), [&] { release.reaches(1); });
  ASSERT_TRUE(stuck.reaches(1));
  EXPECT_EQ(owner.substr(0, 4), "slow");
  EXPECT_FALSE(stack.empty());
  Counter went_on;
  post_turn(fine.lane(), [&] { went_on.add(); });
  EXPECT_TRUE(went_on.reaches(1)) << "two stuck lanes stopped everybody";
  release.add();
}

TEST_F(EngineTest, LifecycleDoneCountsOnce) {
  Counter done;
  server.step(Instance::Step::start, [&](Status status) {
    EXPECT_TRUE(status.is_ok());
    done.add();
  });
  EXPECT_TRUE(done.reaches(1));
  EXPECT_EQ(server.lifecycle_done(424242, {}), PINTLE_NOT_FOUND);
}

TEST_F(EngineTest, ManyThreadsCallCancelAndCompleteWithoutLosingOne) {
  std::mutex lock;
  std::vector<uint64_t> open;
  server_script->on_handle = [&](Instance&, const pintle_call& call, const pintle_message&) {
    std::lock_guard held(lock);
    open.push_back(call.call_id);
  };
  server_script->on_cancelled = [&](Instance& self, uint64_t id) { self.complete(id, nullptr, nullptr); };
  Outcome outcome;
  std::atomic<int> accepted{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        uint64_t id = 0;
        if (send_call(outcome, "x", &id, t == 0 ? 1'000'000 : 0) != PINTLE_OK) continue;
        ++accepted;
        if (t == 1) caller.cancel(id);
      }
    });
  std::thread completer([&] {
    while (!over) {
      std::vector<uint64_t> ids;
      {
        std::lock_guard held(lock);
        ids.swap(open);
      }
      for (uint64_t id : ids) server.complete(id, nullptr, nullptr);
      std::this_thread::yield();
    }
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(outcome.ends.reaches(accepted));
  over = true;
  completer.join();
  EXPECT_EQ(outcome.ends.count(), accepted.load());
}

int threads_named(const std::string& wanted) {
  int count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    count += name == wanted;
  }
  return count;
}

TEST(ReactorTest, BlockingThreadsThatABurstHasBroughtGoAlthoughSomeWorkGoesOn) {
  constexpr int kBurst = 16;
  Reactor reactor(1, kBurst, std::chrono::milliseconds(300));
  reactor.start();
  Counter begun, ended;
  std::atomic<bool> is_over = false;
  for (int i = 0; i < kBurst; ++i)
    reactor.blocking([&] {
      begun.add();
      begun.reaches(kBurst);
      ended.add();
    });
  ASSERT_TRUE(ended.reaches(kBurst));
  EXPECT_EQ(threads_named("blocking"), kBurst);
  // One piece of work after the other, each of which wakes one of the threads.
  std::function<void()> work = [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (is_over)
      ended.add();
    else
      reactor.blocking(work);
  };
  reactor.blocking(work);
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  bool are_gone = false;
  while (!are_gone && std::chrono::steady_clock::now() < limit) {
    std::this_thread::yield();
    are_gone = threads_named("blocking") <= kBurst / 4;  // one works, one has just ended, one is on its way
  }
  EXPECT_TRUE(are_gone) << threads_named("blocking") << " are left";
  is_over = true;
  EXPECT_TRUE(ended.reaches(kBurst + 1)) << "work goes on with those that are left";
  reactor.stop();
}

TEST(MetricsTest, RendersPrometheusTextAndRefusesBadNames) {
  Metrics metrics;
  const double bounds[] = {1, 2};
  pintle_metric histogram{
      sizeof histogram, PINTLE_METRIC_HISTOGRAM, text("wait_seconds"), text("How long."), nullptr, 0, 2, bounds};
  const Result<uint64_t> id = metrics.define("lan", histogram);
  ASSERT_TRUE(id);
  EXPECT_EQ(*metrics.define("lan", histogram), *id);
  EXPECT_TRUE(metrics.update("lan", *id, 1.5).is_ok());
  EXPECT_EQ(metrics.update("wan", *id, 1).code(), Code::not_found);
  EXPECT_EQ(
      metrics.render(),
      "# HELP wait_seconds How long.\n# TYPE wait_seconds histogram\nwait_seconds_bucket{plugin=\"lan\",le=\"1\"} 0\n"
      "wait_seconds_bucket{plugin=\"lan\",le=\"2\"} 1\nwait_seconds_bucket{plugin=\"lan\",le=\"+Inf\"} 1\n"
      "wait_seconds_sum{plugin=\"lan\"} 1.5\nwait_seconds_count{plugin=\"lan\"} 1\n");
  histogram.name = text("wait seconds");
  EXPECT_EQ(metrics.define("lan", histogram).status().code(), Code::invalid_argument);
  pintle_metric counter{sizeof counter, PINTLE_METRIC_COUNTER, text("wait_seconds"), {}, nullptr, 0, 0, nullptr};
  EXPECT_EQ(metrics.define("lan", counter).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace pintle::engine
