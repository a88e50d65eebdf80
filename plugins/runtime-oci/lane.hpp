#pragma once

/// Waiting on the lane: what coroutines of one instance need among themselves. Not for several threads.

#include <chrono>
#include <coroutine>
#include <deque>
#include <memory>
#include <pintle/host.hpp>
#include <pintle/moment.hpp>
#include <utility>

namespace pintle::runtime_oci {

/// Waits until the moment has come or the time is over.
inline Task<void> wait_at_most(Host& host, std::shared_ptr<Moment> moment, std::chrono::nanoseconds time) {
  if (moment->has_come()) co_return;
  // A moment of this wait alone, which both can bring.
  auto either = std::make_shared<Moment>(host);
  Timer timer = host.timer(time, [either] { either->set(); });
  const auto follow = [](std::shared_ptr<Moment> first, std::shared_ptr<Moment> second) -> Task<void> {
    co_await first->wait();
    second->set();
  };
  host.detach(follow(moment, either));
  co_await either->wait();
  timer.cancel();
}

/// One at a time, in the order of asking.
class Turnstile {
 public:
  explicit Turnstile(Host& host) : host_(host) {}
  Turnstile(const Turnstile&) = delete;
  Turnstile& operator=(const Turnstile&) = delete;

  class Pass {
   public:
    explicit Pass(Turnstile& turnstile) : turnstile_(&turnstile) {}
    Pass(Pass&& other) noexcept : turnstile_(std::exchange(other.turnstile_, nullptr)) {}
    Pass& operator=(Pass&&) = delete;
    ~Pass() {
      if (turnstile_) turnstile_->leave();
    }

   private:
    Turnstile* turnstile_;
  };

  auto enter() {
    struct Awaiter {
      Turnstile& turnstile;
      bool await_ready() const {
        if (turnstile.taken_) return false;
        return turnstile.taken_ = true;
      }
      void await_suspend(std::coroutine_handle<> handle) { turnstile.waiting_.push_back(handle); }
      Pass await_resume() const { return Pass(turnstile); }
    };
    return Awaiter{*this};
  }

 private:
  void leave() {
    if (waiting_.empty()) {
      taken_ = false;
      return;
    }
    const std::coroutine_handle<> next = waiting_.front();
    waiting_.pop_front();
    host_.post([next] { next.resume(); });
  }
  Host& host_;
  bool taken_ = false;
  std::deque<std::coroutine_handle<>> waiting_;
};

}  // namespace pintle::runtime_oci
