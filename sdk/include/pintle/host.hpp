#pragma once

/// What a plugin asks of its host, in C++.
///
/// `Host` wraps the C table for one instance. All of it may be used from the instance's lane; what is marked [any thread] from
/// any. Coroutines resume on the lane.
///
///     co_await host.sleep(50ms);
///     auto work = [path] { return read_file(path); };             // on a thread that may block
///     Result<std::string> text = co_await host.blocking(work);
///     Result<Process> process = host.spawn(command);
///     int wait_status = co_await process->exited();

#include <pintle/abi.h>

#include <chrono>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <pintle/buffer.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <source_location>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace pintle {

enum class LogLevel : uint32_t { trace = 0, debug = 1, info = 2, warn = 3, error = 4 };

struct LogField {
  std::string_view name;
  std::string_view value;
};

/// A child to start. Nothing is inherited: neither environment nor descriptors nor signals' settings.
struct Command {
  std::string program;                   ///< absolute path
  std::vector<std::string> arguments;    ///< with argv[0]
  std::vector<std::string> environment;  ///< "NAME=value"
  std::string directory;                 ///< empty: "/"
  std::vector<int> descriptors;          ///< become 0, 1, 2, ...; -1 is /dev/null; borrowed
  std::vector<std::string> cgroups;      ///< cgroup folders that it joins before it executes
  bool new_session = false;
  bool detached = false;  ///< outlives the host
};

namespace detail {
struct ProcessState {
  std::optional<int> wait_status;
  std::vector<std::coroutine_handle<>> waiting;
};
}  // namespace detail

/// A started child. Losing the object neither kills nor forgets the child.
class Process {
 public:
  Process(int pid, UniqueFd pidfd, std::shared_ptr<detail::ProcessState> state)
      : pid_(pid), pidfd_(std::move(pidfd)), state_(std::move(state)) {}
  int pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  /// Completes when the child has ended, with its wait status (waitpid(2)). Several may await.
  auto exited() {
    struct Awaiter {
      std::shared_ptr<detail::ProcessState> state;
      bool await_ready() const { return state->wait_status.has_value(); }
      void await_suspend(std::coroutine_handle<> handle) { state->waiting.push_back(handle); }
      int await_resume() const { return *state->wait_status; }
    };
    return Awaiter{state_};
  }
  /// Sends a signal through the pidfd, so never to a stranger.
  Status signal(int number) const;

 private:
  int pid_;
  UniqueFd pidfd_;
  std::shared_ptr<detail::ProcessState> state_;
};

class Host;

/// Calls a function each time a descriptor is ready, until it is destroyed (on the lane).
class Watch {
 public:
  Watch() noexcept;
  Watch(Watch&&) noexcept;
  Watch& operator=(Watch&&) noexcept;
  ~Watch();

 private:
  friend class Host;
  struct State;
  explicit Watch(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// A timer that calls a function once unless it is destroyed before (on the lane).
class Timer {
 public:
  Timer() noexcept;
  Timer(Timer&&) noexcept;
  Timer& operator=(Timer&&) noexcept;
  ~Timer();
  /// Forgets the function if it has not run yet.
  void cancel();

 private:
  friend class Host;
  struct State;
  explicit Timer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// A metric of Prometheus' kinds; updates are cheap and may come from any thread. A metric that could not be registered
/// swallows its updates (the registration's error is logged).
class Metric {
 public:
  Metric() = default;
  void add(double value = 1) const { update(value); }
  void set(double value) const { update(value); }
  void observe(double value) const { update(value); }

 private:
  friend class Host;
  void update(double value) const;
  const pintle_host_api* api_ = nullptr;
  pintle_host* host_ = nullptr;
  uint64_t id_ = 0;
};

class Host {
 public:
  Host(const pintle_host_api* api, pintle_host* host, const pintle_instance_config& config);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // The instance.
  std::string_view name() const { return view(config_->name); }
  std::string_view key() const { return view(config_->key); }
  std::string_view node() const { return view(config_->node); }
  std::string_view config_json() const { return view(config_->config); }
  std::string_view state_directory() const { return view(config_->state_directory); }
  std::string_view run_directory() const { return view(config_->run_directory); }
  std::string_view shared_directory() const { return view(config_->shared_directory); }
  bool is_retiring() const { return (config_->flags & PINTLE_INSTANCE_RETIRING) != 0; }
  bool is_isolated() const { return (config_->flags & PINTLE_INSTANCE_ISOLATED) != 0; }

  // Running code.
  /// Runs the function as a turn of its own on the lane. [any thread]
  void post(std::function<void()> function);
  /// Starts a coroutine that nobody awaits. An exception that leaves it is logged.
  void detach(Task<void> task);
  /// Completes after the time.
  auto sleep(std::chrono::nanoseconds time);
  /// Asks that a call be given up; its awaited result still comes. False: it has ended.
  bool cancel(uint64_t call_id) { return api_->cancel(host_, call_id) == PINTLE_OK; }
  Timer timer(std::chrono::nanoseconds delay, std::function<void()> function);
  /// Runs the function on a thread that may block, and gives its result (or rethrows) on the lane. The function must own what
  /// it uses; keep it in a local of its own (see task.hpp).
  template <class F>
  auto blocking(F function) -> Task<std::invoke_result_t<F&>>;
  Result<Watch> watch(int descriptor, uint32_t poll_events, std::function<void(uint32_t)> ready);
  Result<Process> spawn(const Command& command);
  /// A listening socket ("unix:/path", "tcp:IP:PORT") that stays open over restarts. A duplicate, owned by the caller.
  Result<UniqueFd> listen(std::string_view name, std::string_view address);
  Status listen_end(std::string_view name);

  // Being seen. [any thread]
  void log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});
  void debug(std::string_view message, std::initializer_list<LogField> fields = {}) {
    log(LogLevel::debug, message, fields);
  }
  void info(std::string_view message, std::initializer_list<LogField> fields = {}) {
    log(LogLevel::info, message, fields);
  }
  void warn(std::string_view message, std::initializer_list<LogField> fields = {}) {
    log(LogLevel::warn, message, fields);
  }
  void error(std::string_view message, std::initializer_list<LogField> fields = {}) {
    log(LogLevel::error, message, fields);
  }
  Metric counter(std::string_view name, std::string_view help, std::initializer_list<LogField> labels = {});
  Metric gauge(std::string_view name, std::string_view help, std::initializer_list<LogField> labels = {});
  Metric histogram(std::string_view name, std::string_view help, std::vector<double> buckets,
                   std::initializer_list<LogField> labels = {});
  /// All metrics of the node, in Prometheus' text format. UNAVAILABLE: the plugin runs in a process of its own. [lane]
  Task<Result<std::string>> metrics_text();
  /// A condition that readiness and `pintle status` show, as "NetworkReady".
  void condition(std::string_view type, bool is_true, std::string_view reason, std::string_view message);

  /// A retiring instance owns nothing any more: the host will stop it for good.
  void retired();
  /// A buffer in the host's memory; `fill` writes its bytes.
  Result<Buffer> buffer(size_t length, const std::function<void(uint8_t*)>& fill);

  const pintle_host_api* api() const { return api_; }
  pintle_host* raw() const { return host_; }

 private:
  Metric metric(uint32_t kind, std::string_view name, std::string_view help, const std::vector<double>& buckets,
                std::initializer_list<LogField> labels);

  const pintle_host_api* api_;
  pintle_host* host_;
  const pintle_instance_config* config_;
};

// ---- Implementation ------------------------------------------------------------------------------------------------------

namespace detail {
struct SleepAwaiter {
  Host& host;
  std::chrono::nanoseconds time;
  bool await_ready() const { return time.count() <= 0; }
  /// False (go on at once) when the host takes no timer any more.
  bool await_suspend(std::coroutine_handle<> handle);
  void await_resume() const {}
};

template <class R>
struct BlockingResult {
  std::optional<R> value;
  std::exception_ptr exception;
  template <class F>
  void run(F& function) noexcept {
    try {
      value.emplace(function());
    } catch (...) {
      exception = std::current_exception();
    }
  }
  R take() {
    if (exception) std::rethrow_exception(exception);
    return std::move(*value);
  }
};
template <>
struct BlockingResult<void> {
  std::exception_ptr exception;
  template <class F>
  void run(F& function) noexcept {
    try {
      function();
    } catch (...) {
      exception = std::current_exception();
    }
  }
  void take() {
    if (exception) std::rethrow_exception(exception);
  }
};

template <class F>
struct BlockingAwaiter {
  using R = std::invoke_result_t<F&>;
  Host& host;
  F& function;
  BlockingResult<R> result;
  std::coroutine_handle<> handle;

  bool await_ready() const { return false; }
  bool await_suspend(std::coroutine_handle<> awaiting) {
    handle = awaiting;
    const pintle_code code = host.api()->post_blocking(
        host.raw(),
        [](void* context) {
          auto* self = static_cast<BlockingAwaiter*>(context);
          self->result.run(self->function);
          Host& back = self->host;
          const auto resume = [](void* awaiter) { static_cast<BlockingAwaiter*>(awaiter)->handle.resume(); };
          back.api()->post(back.raw(), resume, self);
        },
        this);
    if (code == PINTLE_OK) return true;
    result.run(function);  // the host is closing its blocking threads: better late on the lane than never
    return false;
  }
  R await_resume() { return result.take(); }
};
}  // namespace detail

inline auto Host::sleep(std::chrono::nanoseconds time) { return detail::SleepAwaiter{*this, time}; }

template <class F>
auto Host::blocking(F function) -> Task<std::invoke_result_t<F&>> {
  detail::BlockingAwaiter<F> awaiter{*this, function, {}, {}};
  co_return co_await awaiter;
}

}  // namespace pintle
