#pragma once

/// Threads, time and readiness for everything in the process, on one Asio context.
///
/// A few threads (two by default) run lanes, timers and watches. A thread apart, the watchdog, looks at them every quarter of
/// a second: a turn that lasts longer than a second is reported once, with the lane's owner and the thread's stack, and a
/// spare thread joins so that the others go on. Work that blocks has threads of its own, which come with demand and go after
/// ten idle seconds.
///
/// Watches are level-triggered, one shot each: the callback runs, then `rearm` asks for the next. All watched descriptors sit
/// in one epoll set of their own, because Asio's edge-triggered set takes a descriptor once and cannot say what poll(2) says.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <pintle/status.hpp>
#include <string>

namespace boost::asio {
class io_context;
}

namespace pintle::engine {

class Lane;

/// CLOCK_MONOTONIC in nanoseconds.
uint64_t now_ns();

class Reactor {
 public:
  using Function = std::function<void()>;
  using Ready = std::function<void(uint32_t events)>;
  /// `stack` is one frame a line, the innermost first.
  using Stuck = std::function<void(const char* owner, uint64_t nanoseconds, const std::string& stack)>;

  /// Threads for blocking work come as they are needed, `blocking_threads` at most, and go when they were not for one to two spans of
  /// `blocking_idle`.
  Reactor(unsigned threads, unsigned blocking_threads,
          std::chrono::nanoseconds blocking_idle = std::chrono::seconds(10));
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  void start();
  /// The calling thread takes turns as well from now on, and the watchdog looks after it.
  void enlist();
  /// Ends and joins all threads but the caller's. What is queued is dropped. Idempotent.
  void stop();
  /// Called on the watchdog's thread. Set before `start`.
  void on_stuck(Stuck stuck);
  /// Beats on the watchdog's thread, about every quarter of a second while all lanes move. Set before `start`.
  void on_beat(Function beat);

  void schedule(Lane& lane);
  /// On a thread of the reactor. [any thread], like all below.
  void post(Function function);
  void blocking(Function function);

  /// `function` runs on a thread of the reactor once. The id is never reused.
  uint64_t after(uint64_t delay_ns, Function function);
  /// False: it has run, or is about to.
  bool cancel(uint64_t timer_id);

  /// `events` and what the callback gets are poll(2)'s. The descriptor is duplicated. FAILED_PRECONDITION: it cannot be polled.
  Result<uint64_t> watch(int descriptor, uint32_t events, Ready ready);
  void rearm(uint64_t watch_id);
  /// After it returned no callback begins.
  void unwatch(uint64_t watch_id);

  boost::asio::io_context& context();
  /// A beat that tells whether all lanes moved within the last second.
  bool healthy() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pintle::engine
