#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <pintle/host.hpp>

namespace pintle {
namespace {

Status status_of(pintle_code code, std::string_view what) {
  if (code == PINTLE_OK) return Status::ok();
  return {static_cast<Code>(code), std::string(what)};
}

std::vector<pintle_text> texts_of(const std::vector<std::string>& strings) {
  std::vector<pintle_text> texts;
  texts.reserve(strings.size());
  for (const std::string& string : strings) texts.push_back(text_of(string));
  return texts;
}

std::vector<pintle_field> fields_of(std::initializer_list<LogField> fields) {
  std::vector<pintle_field> raw;
  raw.reserve(fields.size());
  for (const LogField& field : fields) raw.push_back({text_of(field.name), text_of(field.value)});
  return raw;
}

/// Logs what a function of the plugin threw on a turn of its own, where nobody awaits it.
template <class F>
void guarded(Host& host, F&& function) noexcept {
  try {
    function();
  } catch (const std::exception& error) {
    host.error("an exception left a function on the lane", {{"what", error.what()}});
  } catch (...) {
    host.error("an exception of an unknown type left a function on the lane");
  }
}

}  // namespace

Host::Host(const pintle_host_api* api, pintle_host* host, const pintle_instance_config& config)
    : api_(api), host_(host), config_(&config) {}

// ---- Running code --------------------------------------------------------------------------------------------------------

namespace {
struct Posted {
  Host* host;
  std::function<void()> function;
};
}  // namespace

void Host::post(std::function<void()> function) {
  auto* posted = new Posted{this, std::move(function)};
  const auto run = [](void* context) {
    std::unique_ptr<Posted> owned(static_cast<Posted*>(context));
    guarded(*owned->host, owned->function);
  };
  if (api_->post(host_, run, posted) != PINTLE_OK) delete posted;  // the instance ends: nothing runs any more
}

namespace {
detail::Detached run_detached(Host& host, Task<void> task) {
  try {
    co_await std::move(task);
  } catch (const std::exception& error) {
    host.error("an exception left a detached task", {{"what", error.what()}});
  } catch (...) {
    host.error("an exception of an unknown type left a detached task");
  }
}
}  // namespace

void Host::detach(Task<void> task) { run_detached(*this, std::move(task)); }

bool detail::SleepAwaiter::await_suspend(std::coroutine_handle<> handle) {
  uint64_t id = 0;
  const auto resume = [](void* context) { std::coroutine_handle<>::from_address(context).resume(); };
  return host.api()->timer(host.raw(), static_cast<uint64_t>(time.count()), resume, handle.address(), &id) == PINTLE_OK;
}

struct Timer::State {
  Host* host;
  uint64_t id = 0;
  bool armed = false;
  std::function<void()> function;
};
Timer::Timer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Timer::Timer() noexcept = default;
Timer::Timer(Timer&&) noexcept = default;
Timer& Timer::operator=(Timer&& other) noexcept {
  if (this != &other) {
    cancel();
    state_ = std::move(other.state_);
  }
  return *this;
}
Timer::~Timer() { cancel(); }
void Timer::cancel() {
  if (state_ && state_->armed) state_->host->api()->timer_cancel(state_->host->raw(), state_->id);
  state_.reset();
}

Timer Host::timer(std::chrono::nanoseconds delay, std::function<void()> function) {
  auto state = std::make_unique<Timer::State>();
  state->host = this;
  state->function = std::move(function);
  const auto run = [](void* context) {
    auto* self = static_cast<Timer::State*>(context);
    self->armed = false;
    // The function may destroy its own timer, and with it the state: it runs from a copy.
    std::function<void()> taken = std::move(self->function);
    guarded(*self->host, taken);
  };
  const auto nanoseconds = static_cast<uint64_t>(delay.count() > 0 ? delay.count() : 0);
  state->armed = true;
  if (api_->timer(host_, nanoseconds, run, state.get(), &state->id) != PINTLE_OK) state->armed = false;
  return Timer(std::move(state));
}

struct Watch::State {
  Host* host;
  uint64_t id = 0;
  std::function<void(uint32_t)> ready;
};
Watch::Watch(std::unique_ptr<State> state) : state_(std::move(state)) {}
Watch::Watch() noexcept = default;
Watch::Watch(Watch&&) noexcept = default;
Watch& Watch::operator=(Watch&& other) noexcept {
  if (this != &other) {
    Watch ending(std::move(*this));
    state_ = std::move(other.state_);
  }
  return *this;
}
Watch::~Watch() {
  if (state_) state_->host->api()->unwatch(state_->host->raw(), state_->id);
}

Result<Watch> Host::watch(int descriptor, uint32_t poll_events, std::function<void(uint32_t)> ready) {
  auto state = std::make_unique<Watch::State>();
  state->host = this;
  state->ready = std::move(ready);
  const auto run = [](void* context, uint32_t events) {
    auto* self = static_cast<Watch::State*>(context);
    Host& host = *self->host;
    std::function<void(uint32_t)> function = self->ready;  // it may end its own watch
    guarded(host, [&] { function(events); });
  };
  const pintle_code code = api_->watch(host_, descriptor, poll_events, run, state.get(), &state->id);
  if (code != PINTLE_OK) {
    return status_of(code, "watch descriptor " + std::to_string(descriptor) + ": refused by the host");
  }
  return Watch(std::move(state));
}

namespace {
struct TextAwaiter {
  const pintle_host_api* api;
  pintle_host* host;
  Status status = {};
  std::string text = {};
  std::coroutine_handle<> handle = {};

  bool await_ready() const { return false; }
  bool await_suspend(std::coroutine_handle<> awaiting) {
    handle = awaiting;
    const auto ready = [](void* context, pintle_text given) {
      auto* self = static_cast<TextAwaiter*>(context);
      self->text.assign(given.data, given.size);
      self->handle.resume();
    };
    status = status_of(api->metrics_text(host, ready, this), "the metrics of the node cannot be had in this process");
    return status.is_ok();
  }
  void await_resume() const {}
};
}  // namespace

Task<Result<std::string>> Host::metrics_text() {
  const size_t needed = offsetof(pintle_host_api, metrics_text) + sizeof(api_->metrics_text);
  if (api_->size < needed || api_->metrics_text == nullptr)
    co_return unavailable("this host does not tell the metrics of the node");
  TextAwaiter awaiter{api_, host_};
  co_await awaiter;
  if (!awaiter.status) co_return awaiter.status;
  co_return std::move(awaiter.text);
}

// ---- Processes and listeners ---------------------------------------------------------------------------------------------

Status Process::signal(int number) const {
  if (syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0) == 0) return Status::ok();
  return status_from_errno(errno, "signal process " + std::to_string(pid_));
}

Result<Process> Host::spawn(const Command& command) {
  const std::vector<pintle_text> arguments = texts_of(command.arguments);
  const std::vector<pintle_text> environment = texts_of(command.environment);
  const std::vector<pintle_text> cgroups = texts_of(command.cgroups);
  std::vector<int32_t> descriptors(command.descriptors.begin(), command.descriptors.end());
  pintle_spawn spawn{};
  spawn.size = sizeof(spawn);
  if (command.new_session) spawn.flags |= PINTLE_SPAWN_NEW_SESSION;
  if (command.detached) spawn.flags |= PINTLE_SPAWN_DETACHED;
  spawn.program = text_of(command.program);
  spawn.arguments = arguments.data();
  spawn.argument_count = static_cast<uint32_t>(arguments.size());
  spawn.environment = environment.data();
  spawn.environment_count = static_cast<uint32_t>(environment.size());
  spawn.directory = text_of(command.directory);
  spawn.descriptors = descriptors.data();
  spawn.descriptor_count = static_cast<uint32_t>(descriptors.size());
  spawn.cgroups = cgroups.data();
  spawn.cgroup_count = static_cast<uint32_t>(cgroups.size());

  auto state = std::make_shared<detail::ProcessState>();
  auto* held = new std::shared_ptr<detail::ProcessState>(state);
  const auto exited = [](void* context, int32_t, int32_t wait_status) {
    std::unique_ptr<std::shared_ptr<detail::ProcessState>> owned(
        static_cast<std::shared_ptr<detail::ProcessState>*>(context));
    detail::ProcessState& ended = **owned;
    ended.wait_status = wait_status;
    for (std::coroutine_handle<> waiting : std::exchange(ended.waiting, {})) waiting.resume();
  };
  pintle_process process{};
  process.size = sizeof(process);
  const pintle_code code = api_->spawn(host_, &spawn, exited, held, &process);
  if (code != PINTLE_OK) {
    delete held;
    return status_of(code, "start " + command.program + ": " + std::string(code_name(static_cast<Code>(code))) +
                               "; is it there, and may this plugin start it?");
  }
  return Process(process.pid, UniqueFd(process.pidfd), std::move(state));
}

Result<UniqueFd> Host::listen(std::string_view name, std::string_view address) {
  int32_t descriptor = -1;
  const pintle_code code = api_->listen(host_, text_of(name), text_of(address), &descriptor);
  if (code != PINTLE_OK)
    return status_of(code, "listen on " + std::string(address) + ": refused by the host, see its log");
  return UniqueFd(descriptor);
}

Status Host::listen_end(std::string_view name) {
  return status_of(api_->listen_end(host_, text_of(name)), "stop listening on " + std::string(name));
}

// ---- Being seen ----------------------------------------------------------------------------------------------------------

void Host::log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  if (static_cast<uint32_t>(level) < api_->log_level(host_)) return;
  const std::vector<pintle_field> raw = fields_of(fields);
  api_->log(host_, static_cast<uint32_t>(level), text_of(message), raw.data(), static_cast<uint32_t>(raw.size()));
}

Metric Host::metric(uint32_t kind, std::string_view name, std::string_view help, const std::vector<double>& buckets,
                    std::initializer_list<LogField> labels) {
  const std::vector<pintle_field> raw_labels = fields_of(labels);
  pintle_metric raw{};
  raw.size = sizeof(raw);
  raw.kind = kind;
  raw.name = text_of(name);
  raw.help = text_of(help);
  raw.labels = raw_labels.data();
  raw.label_count = static_cast<uint32_t>(raw_labels.size());
  raw.buckets = buckets.data();
  raw.bucket_count = static_cast<uint32_t>(buckets.size());
  Metric made;
  if (api_->metric(host_, &raw, &made.id_) != PINTLE_OK) {
    error("a metric was refused: its name or labels are not Prometheus', or another kind has the name",
          {{"metric", name}});
    return made;
  }
  made.api_ = api_;
  made.host_ = host_;
  return made;
}

Metric Host::counter(std::string_view name, std::string_view help, std::initializer_list<LogField> labels) {
  return metric(PINTLE_METRIC_COUNTER, name, help, {}, labels);
}
Metric Host::gauge(std::string_view name, std::string_view help, std::initializer_list<LogField> labels) {
  return metric(PINTLE_METRIC_GAUGE, name, help, {}, labels);
}
Metric Host::histogram(std::string_view name, std::string_view help, std::vector<double> buckets,
                       std::initializer_list<LogField> labels) {
  return metric(PINTLE_METRIC_HISTOGRAM, name, help, buckets, labels);
}
void Metric::update(double value) const {
  if (api_) api_->metric_update(host_, id_, value);
}

void Host::condition(std::string_view type, bool is_true, std::string_view reason, std::string_view message) {
  api_->condition(host_, text_of(type), is_true ? 1 : 0, text_of(reason), text_of(message));
}

void Host::retired() { api_->retired(host_); }

Result<Buffer> Host::buffer(size_t length, const std::function<void(uint8_t*)>& fill) {
  pintle_buffer* raw = nullptr;
  uint8_t* data = nullptr;
  const pintle_code code = api_->buffer_new(host_, length, &raw, &data);
  if (code != PINTLE_OK)
    return status_of(code, "a buffer of " + std::to_string(length) + " bytes was refused by the host");
  Buffer buffer = Buffer::adopt(raw);
  fill(data);
  return buffer;
}

}  // namespace pintle
