#pragma once

/// Waiting on the lane: for one's turn to look again, and for several tasks.

#include <coroutine>
#include <memory>
#include <optional>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <utility>
#include <vector>

#include "plugins/node-agent/backoff.hpp"

namespace pintle::agent {

/// One coroutine waits; whoever has news notifies. News that come while nobody waits are kept, however many, as one. It must
/// outlive its waiting.
class Wakeup {
 public:
  explicit Wakeup(Host& host) : host_(host) {}
  Wakeup(const Wakeup&) = delete;

  void notify() {
    if (!waiting_) {
      pending_ = true;
      return;
    }
    timer_.cancel();
    const std::coroutine_handle<> handle = std::exchange(waiting_, nullptr);
    host_.post([handle] { handle.resume(); });
  }

  /// Completes at the next notification, or at the time.
  auto wait(std::optional<WallTime> until) {
    struct Awaiter {
      Wakeup& wakeup;
      std::optional<WallTime> until;
      bool await_ready() const { return std::exchange(wakeup.pending_, false); }
      void await_suspend(std::coroutine_handle<> handle) {
        wakeup.waiting_ = handle;
        if (!until) return;
        const auto delay = std::max<std::chrono::nanoseconds>(*until - WallClock::now(), std::chrono::milliseconds(1));
        wakeup.timer_ = wakeup.host_.timer(delay, [this_wakeup = &wakeup] { this_wakeup->notify(); });
      }
      void await_resume() const {}
    };
    return Awaiter{*this, until};
  }

 private:
  Host& host_;
  std::coroutine_handle<> waiting_;
  Timer timer_;
  bool pending_ = false;
};

/// Runs tasks side by side; completes when all have, with the first error (by order of the tasks).
inline Task<Status> together(Host& host, std::vector<Task<Status>> tasks) {
  struct Shared {
    explicit Shared(Host& host) : done(host) {}
    Wakeup done;
    std::vector<Status> results;
    size_t left = 0;
  };
  auto shared = std::make_shared<Shared>(host);
  shared->results.resize(tasks.size());
  shared->left = tasks.size();
  const auto run = [](Task<Status> task, std::shared_ptr<Shared> into, size_t index) -> Task<void> {
    into->results[index] = co_await std::move(task);
    if (--into->left == 0) into->done.notify();
  };
  for (size_t i = 0; i < tasks.size(); ++i) {
    Task<void> running = run(std::move(tasks[i]), shared, i);
    host.detach(std::move(running));
  }
  while (shared->left > 0) co_await shared->done.wait(std::nullopt);
  for (Status& result : shared->results)
    if (!result) co_return std::move(result);
  co_return Status::ok();
}

}  // namespace pintle::agent
