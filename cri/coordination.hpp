#pragma once

/// What coroutines of one lane need to wait for each other: `Mutex` and `Notification`.
///
/// Both are used on the lane only, so they need no atomics; who waits is resumed by a turn of its own, first come,
/// first served. Both must outlive who waits on them.
///
///     Mutex::Lock lock = co_await sandbox->mutex.lock();
///     bool told = co_await container->changed.wait(5s);

#include <chrono>
#include <coroutine>
#include <deque>
#include <memory>
#include <pintle/host.hpp>
#include <pintle/task.hpp>
#include <utility>
#include <vector>

namespace pintle::cri {

/// Lets one coroutine at a time through.
class Mutex {
 public:
  explicit Mutex(Host& host) : host_(host) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  class [[nodiscard]] Lock {
   public:
    Lock() = default;
    Lock(Lock&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Lock& operator=(Lock&& other) noexcept {
      if (this != &other) {
        unlock();
        mutex_ = std::exchange(other.mutex_, nullptr);
      }
      return *this;
    }
    ~Lock() { unlock(); }
    void unlock() {
      if (mutex_) std::exchange(mutex_, nullptr)->release();
    }

   private:
    friend class Mutex;
    explicit Lock(Mutex* mutex) : mutex_(mutex) {}
    Mutex* mutex_ = nullptr;
  };

  auto lock() {
    struct Awaiter {
      Mutex& mutex;
      bool await_ready() const { return !std::exchange(mutex.held_, true); }
      void await_suspend(std::coroutine_handle<> handle) { mutex.waiting_.push_back(handle); }
      Lock await_resume() const { return Lock(&mutex); }
    };
    return Awaiter{*this};
  }

 private:
  void release() {
    if (waiting_.empty()) {
      held_ = false;
      return;
    }
    const std::coroutine_handle<> next = waiting_.front();
    waiting_.pop_front();
    host_.post([next] { next.resume(); });
  }

  Host& host_;
  bool held_ = false;
  std::deque<std::coroutine_handle<>> waiting_;
};

/// Tells all who wait at the moment that something has changed; they look what.
class Notification {
 public:
  explicit Notification(Host& host) : host_(host) {}
  Notification(const Notification&) = delete;
  Notification& operator=(const Notification&) = delete;

  void notify_all() {
    for (const std::shared_ptr<Waiter>& waiter : std::exchange(waiting_, {})) resume(waiter, true);
  }

  /// True: notified; false: the time has passed. A time of zero or less does not wait.
  Task<bool> wait(std::chrono::nanoseconds time) {
    if (time.count() <= 0) co_return false;
    auto waiter = std::make_shared<Waiter>();
    waiting_.push_back(waiter);
    Host& host = host_;
    Timer timer = host.timer(time, [this, waiter] {
      std::erase(waiting_, waiter);
      resume(waiter, false);
    });
    Awaiter awaiter{*waiter};
    co_await awaiter;
    co_return waiter->notified;
  }

 private:
  struct Waiter {
    std::coroutine_handle<> handle;
    bool done = false;
    bool notified = false;
  };
  struct Awaiter {
    Waiter& waiter;
    bool await_ready() const { return waiter.done; }
    void await_suspend(std::coroutine_handle<> handle) { waiter.handle = handle; }
    void await_resume() const {}
  };
  void resume(const std::shared_ptr<Waiter>& waiter, bool notified) {
    if (waiter->done) return;
    waiter->done = true;
    waiter->notified = notified;
    host_.post([waiter] {
      if (waiter->handle) waiter->handle.resume();
    });
  }

  Host& host_;
  std::vector<std::shared_ptr<Waiter>> waiting_;
};

}  // namespace pintle::cri
