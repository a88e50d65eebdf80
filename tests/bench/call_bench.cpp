// What a call costs: through generated stubs, with deadline, identity, trace and metrics, over the engine that pintled runs on.
//
//   in process       a message of four fields and a 1 KiB buffer each way, a plugin in C++ and one in C
//   isolated         the same in a plugin-host, and the same bytes bare over a socketpair to another process and back, in turns
//   event            2 KiB to eight subscribers in process; payload bytes that the engine copied are counted
//
// With `--check` the floors of this file are demanded, and the exit code tells.

#include <benchmark/benchmark.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "pintle/example.pintle.hpp"
#include "sdk/support/engine/message.hpp"
#include "tests/bench/engine_party.hpp"
#include "tests/isolation/node_party.hpp"

namespace pintle::bench {
namespace {

using example::v1::EchoStub;
using example::v1::ListenRequest;
using example::v1::Saying;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;

constexpr int calls_per_round = 10'000;
constexpr size_t payload_bytes = 1024, event_bytes = 2048, subscribers = 8;

/// Single times, and what benchmarks tell of them: a mean hides what waits.
struct Times {
  std::vector<double> seen;
  double quantile(double q) {
    const size_t at = std::min(seen.size() - 1, static_cast<size_t>(q * static_cast<double>(seen.size())));
    std::nth_element(seen.begin(), seen.begin() + static_cast<std::ptrdiff_t>(at), seen.end());
    return seen[at];
  }
  void report(benchmark::State& state) {
    state.counters["median_ns"] = quantile(0.5);
    state.counters["p99_ns"] = quantile(0.99);
  }
};

Saying four_fields() {
  Saying saying;
  saying.set_number(1'000'000);
  saying.set_text("what is said here");
  saying.set_shout(false);
  saying.set_offset(-42);
  return saying;
}

Task<void> call_many(EchoStub& stub, int count, Times& times) {
  const Saying request = four_fields();
  Attachments sent, received;
  sent.buffers.push_back(Buffer::from(std::string(payload_bytes, 'x')));
  CallOptions options;
  options.timeout = std::chrono::seconds(5);
  options.attach = &sent;
  options.receive = &received;
  auto before = steady_clock::now();
  for (int i = 0; i < count; ++i) {
    Result<Saying> answer = co_await stub.Say(request, options);
    if (!answer || received.buffers.size() != 1) {
      std::fprintf(stderr, "the call failed: %s\n", answer.status().to_string().c_str());
      std::abort();
    }
    received.buffers.clear();
    const auto now = steady_clock::now();
    times.seen.push_back(std::chrono::duration<double, std::nano>(now - before).count());
    before = now;
  }
}

void in_process(benchmark::State& state, const std::string& plugin) {
  EngineParty party;
  engine::Instance& echo = party.load(plugin);
  Client& client = party.client("bench");
  auto stub = party.stub<EchoStub>(client, echo, 0);
  Times times;
  Times warm;
  party.run(client, call_many(stub, calls_per_round, warm));
  const uint64_t copied = engine::copied_bytes();
  for (auto _ : state) {
    const size_t first = times.seen.size();
    party.run(client, call_many(stub, calls_per_round, times));
    double sum = 0;
    for (size_t i = first; i < times.seen.size(); ++i) sum += times.seen[i];
    state.SetIterationTime(sum * 1e-9);
  }
  times.report(state);
  state.SetItemsProcessed(static_cast<int64_t>(times.seen.size()));
  state.counters["copied_bytes"] = static_cast<double>(engine::copied_bytes() - copied);
}

// ---- The bare socketpair ----

/// Answers each packet with itself until the other side closes.
[[noreturn]] void answer_packets(int socket) {
  char bytes[4096];
  for (;;) {
    const ssize_t size = recv(socket, bytes, sizeof bytes, 0);
    if (size <= 0 || send(socket, bytes, static_cast<size_t>(size), MSG_NOSIGNAL) != size) _exit(0);
  }
}

/// A bare ping-pong with a process of its own.
class PingPong {
 public:
  PingPong() : packet_(four_fields().ByteSizeLong() + payload_bytes, 'x') {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    child_ = fork();
    if (child_ == 0) {
      close(ends[0]);
      answer_packets(ends[1]);
    }
    close(ends[1]);
    socket_ = ends[0];
  }
  ~PingPong() {
    close(socket_);
    waitpid(child_, nullptr, 0);
  }
  void play(int count, Times& times) {
    const auto size = static_cast<ssize_t>(packet_.size());
    for (int i = 0; i < count; ++i) {
      const auto before = steady_clock::now();
      if (send(socket_, packet_.data(), packet_.size(), MSG_NOSIGNAL) != size ||
          recv(socket_, packet_.data(), packet_.size(), 0) != size)
        std::abort();
      times.seen.push_back(std::chrono::duration<double, std::nano>(steady_clock::now() - before).count());
    }
  }

 private:
  std::string packet_;
  pid_t child_ = -1;
  int socket_ = -1;
};

/// Calls of an isolated plugin and the bare ping-pong take turns, so that both see the same machine.
void isolated(benchmark::State& state) {
  PingPong bare;
  node_test::NodeParty party({{.name = "echo", .plugin = "echo-cpp", .isolation = Isolation::process}});
  if (Status ready = party.wait_until_ready(); !ready) return state.SkipWithError(ready.message().c_str());
  Client client;
  make_client(party.node().engine(), "bench", client);
  Result<uint64_t> bound = party.bind(*client.instance, "pintle.example.v1.Echo", "echo");
  if (!bound) return state.SkipWithError(bound.status().message().c_str());
  Binding binding;
  binding.id = *bound;
  EchoStub stub(*client.host, binding);
  Times calls, packets, warm;
  run_on(client, call_many(stub, 500, warm));
  bare.play(500, warm);
  for (auto _ : state) {
    const size_t first = calls.seen.size();
    run_on(client, call_many(stub, 500, calls));
    bare.play(500, packets);
    double sum = 0;
    for (size_t i = first; i < calls.seen.size(); ++i) sum += calls.seen[i];
    state.SetIterationTime(sum * 1e-9);
  }
  calls.report(state);
  state.counters["bare_median_ns"] = packets.quantile(0.5);
  state.counters["bare_p99_ns"] = packets.quantile(0.99);
  state.counters["ratio"] = calls.quantile(0.5) / packets.quantile(0.5);
}

// ---- Events ----

/// What the subscribers have seen of one round.
struct Hearing {
  std::atomic<int> heard{0};
  std::atomic<const uint8_t*> sent{nullptr};  // where the publisher's bytes are
  std::atomic<uint64_t> copies{0};            // events whose bytes were elsewhere
};

Task<void> listen(EchoStub stub, Hearing& hearing) {
  auto on_message = [&hearing](const Saying&, Attachments& attachments) {
    if (attachments.buffers.size() != 1 || attachments.buffers[0].text().size() != event_bytes) return;
    if (attachments.buffers[0].get()->data != hearing.sent.load()) hearing.copies.fetch_add(1);
    hearing.heard.fetch_add(1);
  };
  StreamCall<Saying>::OnMessage function = on_message;
  CallOptions options;
  Status end = co_await stub.Listen(ListenRequest(), function, options);
  (void)end;
}

Task<void> publish_many(EchoStub& stub, int count, Hearing& hearing, Times& times) {
  const Saying request = four_fields();
  Attachments sent;
  sent.buffers.push_back(Buffer::from(std::string(event_bytes, 'x')));
  hearing.sent = sent.buffers[0].get()->data;
  CallOptions options;
  options.attach = &sent;
  for (int i = 0; i < count; ++i) {
    const auto before = steady_clock::now();
    const int due = hearing.heard.load() + static_cast<int>(subscribers);
    auto answer = co_await stub.Publish(request, options);
    if (!answer || answer->listeners() != subscribers) {
      std::fprintf(stderr, "published to %u of %zu\n", answer ? answer->listeners() : 0, subscribers);
      std::abort();
    }
    while (hearing.heard.load() < due) {
    }
    times.seen.push_back(std::chrono::duration<double, std::nano>(steady_clock::now() - before).count());
  }
}

Task<void> publish_until_all_listen(EchoStub& stub) {
  for (;;) {
    auto answer = co_await stub.Publish(Saying(), CallOptions());
    if (answer && answer->listeners() == subscribers) co_return;
  }
}

void event_to_subscribers(benchmark::State& state) {
  EngineParty party;
  engine::Instance& echo = party.load("echo-cpp");
  Client& publisher = party.client("publisher");
  auto stub = party.stub<EchoStub>(publisher, echo, 0);
  Hearing hearing;
  for (size_t i = 0; i < subscribers; ++i) {
    Client& listener = party.client("listener-" + std::to_string(i));
    party.spawn(listener, listen(party.stub<EchoStub>(listener, echo, 0), hearing));
  }
  party.run(publisher, publish_until_all_listen(stub));
  Times times;
  const uint64_t copied = engine::copied_bytes();
  for (auto _ : state) {
    const size_t first = times.seen.size();
    party.run(publisher, publish_many(stub, 1000, hearing, times));
    double sum = 0;
    for (size_t i = first; i < times.seen.size(); ++i) sum += times.seen[i];
    state.SetIterationTime(sum * 1e-9);
  }
  times.report(state);
  state.counters["copied_bytes"] = static_cast<double>(engine::copied_bytes() - copied);
  state.counters["copies"] = static_cast<double>(hearing.copies.load());
}

BENCHMARK_CAPTURE(in_process, cpp, "echo-cpp")->UseManualTime()->Iterations(50);
BENCHMARK_CAPTURE(in_process, c, "echo-c")->UseManualTime()->Iterations(50);
BENCHMARK(isolated)->UseManualTime()->Iterations(40);
BENCHMARK(event_to_subscribers)->UseManualTime()->Iterations(10);

// ---- Floors ----

class Floors : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      for (const auto& [name, counter] : run.counters) seen_[run.run_name.function_name + "." + name] = counter.value;
    }
  }
  /// The number of floors that are missed, each told.
  int missed() {
    int count = 0;
    count += demand("in_process/cpp.median_ns", 1000, "a call in process takes under 1 us at the median");
    count +=
        demand("in_process/c.median_ns", 1000, "a call in process takes under 1 us at the median, to a plugin in C");
    count += demand("in_process/cpp.copied_bytes", 0, "no payload is copied by a call in process");
    count += demand("isolated.ratio", 3, "an isolated call takes at most three times a bare ping-pong");
    count += demand("event_to_subscribers.copied_bytes", 0, "the engine copies no payload of an event");
    count += demand("event_to_subscribers.copies", 0, "every subscriber sees the publisher's own bytes");
    return count;
  }

 private:
  int demand(const std::string& name, double at_most, const std::string& promise) {
    const auto found = seen_.find(name);
    const bool held = found != seen_.end() && found->second <= at_most;
    std::printf("%s: %s (%s is %g, at most %g)\n", held ? "held" : "MISSED", promise.c_str(), name.c_str(),
                found == seen_.end() ? -1.0 : found->second, at_most);
    return held ? 0 : 1;
  }
  std::map<std::string, double> seen_;
};

}  // namespace
}  // namespace pintle::bench

int main(int count, char** arguments) {
  bool check = false;
  for (int i = 1; i < count; ++i) check = check || std::strcmp(arguments[i], "--check") == 0;
  benchmark::Initialize(&count, arguments);
  pintle::bench::Floors floors;
  benchmark::RunSpecifiedBenchmarks(&floors);
  return check && floors.missed() > 0 ? 1 : 0;
}
