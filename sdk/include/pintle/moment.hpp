#pragma once

/// Something that happens once, and coroutines of one instance that wait for it. Not for several threads: all of it is on the lane.
///
///     Moment gone(host());
///     co_await gone.wait();   // in any number of coroutines, before or after
///     gone.set();

#include <coroutine>
#include <pintle/host.hpp>
#include <utility>
#include <vector>

namespace pintle {

/// Who waits is resumed in a turn of its own. It must outlive those who wait.
class Moment {
 public:
  explicit Moment(Host& host) : host_(host) {}
  Moment(const Moment&) = delete;
  Moment& operator=(const Moment&) = delete;
  bool has_come() const { return come_; }
  void set() {
    come_ = true;
    for (const std::coroutine_handle<> handle : std::exchange(waiting_, {})) host_.post([handle] { handle.resume(); });
  }
  auto wait() {
    struct Awaiter {
      Moment& moment;
      bool await_ready() const { return moment.come_; }
      void await_suspend(std::coroutine_handle<> handle) { moment.waiting_.push_back(handle); }
      void await_resume() const {}
    };
    return Awaiter{*this};
  }

 private:
  Host& host_;
  bool come_ = false;
  std::vector<std::coroutine_handle<>> waiting_;
};

}  // namespace pintle
