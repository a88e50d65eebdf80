#pragma once

/// Waiting on the lane for one's turn to look again.

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

}  // namespace pintle::agent
