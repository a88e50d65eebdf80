#include "sdk/support/engine/reactor.hpp"

#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "sdk/support/engine/lane.hpp"

namespace pintle::engine {
namespace {

constexpr uint64_t second = 1'000'000'000;
constexpr auto beat_interval = std::chrono::milliseconds(250);
constexpr unsigned max_spares = 8;
constexpr size_t signal_stack_size = 64 << 10;

// The stack of another thread: it is sent a signal, and its handler writes here. One asker at a time, the watchdog.
struct StackRequest {
  std::atomic<int32_t> tid{0};
  std::atomic<int> count{-1};
  void* frames[64];
} stack_request;

int stack_signal() { return SIGRTMIN + 7; }

void write_stack(int) {
  const int saved = errno;
  if (stack_request.tid.load() == static_cast<int32_t>(syscall(SYS_gettid)))
    stack_request.count.store(backtrace(stack_request.frames, 64));
  errno = saved;
}

std::string frame_name(void* address) {
  Dl_info info{};
  char line[512];
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) {
    snprintf(line, sizeof line, "%p", address);
  } else if (info.dli_sname != nullptr) {
    snprintf(line, sizeof line, "%s(%s+0x%lx)", info.dli_fname, info.dli_sname,
             static_cast<unsigned long>(static_cast<char*>(address) - static_cast<char*>(info.dli_saddr)));
  } else {
    snprintf(line, sizeof line, "%s+0x%lx", info.dli_fname,
             static_cast<unsigned long>(static_cast<char*>(address) - static_cast<char*>(info.dli_fbase)));
  }
  return line;
}

std::string stack_of(int32_t tid) {
  stack_request.count.store(-1);
  stack_request.tid.store(tid);
  if (syscall(SYS_tgkill, getpid(), tid, stack_signal()) != 0) return {};
  for (int i = 0; i < 100 && stack_request.count.load() < 0; ++i) usleep(1000);
  stack_request.tid.store(0);
  std::string out;
  for (int i = 0; i < stack_request.count.load(); ++i) out += frame_name(stack_request.frames[i]) + "\n";
  return out;
}

}  // namespace

uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * second + static_cast<uint64_t>(now.tv_nsec);
}

struct Reactor::State {
  struct Watch {
    Watch(int owned, uint32_t wanted, Ready callback) : descriptor(owned), events(wanted), ready(std::move(callback)) {}
    ~Watch() { close(descriptor); }
    const int descriptor;
    const uint32_t events;
    const Ready ready;
  };

  State(unsigned thread_count, unsigned blocking_count, std::chrono::nanoseconds idle)
      : threads(thread_count),
        max_blocking(blocking_count),
        blocking_idle(idle),
        io(static_cast<int>(thread_count)),
        work(io.get_executor()),
        clock(io),
        poll(io) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    poll.assign(epoll);
  }

  void enlist() {
    ThreadState* mine = nullptr;
    {
      std::lock_guard lock(threads_lock);  // the watchdog reads all states
      mine = &thread_states.emplace_back();
      mine->tid = static_cast<int32_t>(syscall(SYS_gettid));
      mine->signal_stack = std::make_unique<char[]>(signal_stack_size);
    }
    const stack_t stack{mine->signal_stack.get(), 0, signal_stack_size};
    sigaltstack(&stack, nullptr);  // a stack that overflowed has no room for the handler that records it
    set_current_thread(mine);
  }

  void run_thread() {
    enlist();
    io.run();
    set_current_thread(nullptr);
    const stack_t none{nullptr, SS_DISABLE, 0};
    sigaltstack(&none, nullptr);
  }

  void add_thread(const char* name) {
    std::lock_guard lock(threads_lock);
    auto& thread = runners.emplace_back([this] { run_thread(); });
    pthread_setname_np(thread.native_handle(), name);
  }

  // ---- Time ----

  void arm_clock() {  // under clock_lock
    if (timers.empty()) return;
    const uint64_t first = timers.begin()->first.first;
    if (armed != 0 && armed <= first) return;
    armed = first;
    clock.expires_at(std::chrono::steady_clock::time_point(std::chrono::nanoseconds(first)));
    clock.async_wait([this](const boost::system::error_code& error) {
      if (!error) run_timers();
    });
  }

  void run_timers() {
    std::unique_lock lock(clock_lock);
    armed = 0;
    const uint64_t now = now_ns();
    while (!timers.empty() && timers.begin()->first.first <= now) {
      auto entry = timers.extract(timers.begin());
      times.erase(entry.key().second);
      boost::asio::post(io, std::move(entry.mapped()));
    }
    arm_clock();
  }

  // ---- Readiness ----

  void await_ready() {
    poll.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](const boost::system::error_code& error) {
      if (error) return;
      epoll_event event{};
      const int count = epoll_wait(epoll, &event, 1, 0);
      await_ready();  // before the callback runs, so that another thread may take the next event
      if (count != 1) return;
      std::shared_ptr<Watch> watch;
      {
        std::lock_guard lock(watch_lock);
        auto found = watches.find(event.data.u64);
        if (found != watches.end()) watch = found->second;
      }
      if (watch != nullptr) watch->ready(event.events);
    });
  }

  // ---- Blocking work ----

  /// Work wakes threads in turn, so that with some work none would ever be idle for long. As many as were never needed at once go.
  bool is_one_too_many() {  // under blocking_lock
    const auto now = std::chrono::steady_clock::now();
    if (now - counts_since >= blocking_idle) {
      counts_since = now;
      surplus = std::exchange(least_idlers, blocking_idlers);
    }
    if (surplus == 0 || !blocking_queue.empty()) return false;
    --surplus;
    return true;
  }

  void run_blocking() {
    std::unique_lock lock(blocking_lock);
    while (!is_one_too_many()) {
      if (!blocking_wake.wait_for(lock, blocking_idle, [this] { return stopping || !blocking_queue.empty(); }) ||
          stopping)
        break;
      Function function = std::move(blocking_queue.front());
      blocking_queue.pop_front();
      least_idlers = std::min(least_idlers, --blocking_idlers);
      lock.unlock();
      function();
      function = nullptr;
      lock.lock();
      ++blocking_idlers;
    }
    --blocking_idlers;
    --blocking_threads;
    // A burst of work is over: what it had of memory goes back to the kernel, once for all threads that end with it.
    const auto now = std::chrono::steady_clock::now();
    const bool trims = !stopping && now - trimmed_at >= blocking_idle;
    if (trims) trimmed_at = now;
    blocking_ended.notify_all();
    lock.unlock();
    if (trims) malloc_trim(0);
  }

  void add_blocking_thread() {  // under blocking_lock
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    const int error = pthread_create(
        &thread, &attributes,
        [](void* self) -> void* {
          pthread_setname_np(pthread_self(), "blocking");
          static_cast<State*>(self)->run_blocking();
          return nullptr;
        },
        this);
    pthread_attr_destroy(&attributes);
    if (error != 0) return;
    ++blocking_threads;
    ++blocking_idlers;
  }

  // ---- The watchdog ----

  void watch_lanes() {
    std::unique_lock lock(threads_lock);
    while (!watchdog_wake.wait_for(lock, beat_interval, [this] { return stopping.load(); })) {
      const uint64_t now = now_ns();
      bool moving = true;
      for (ThreadState& thread : thread_states) {
        const char* owner = thread.owner.load(std::memory_order_relaxed);
        const uint64_t turns = thread.turns.load(std::memory_order_relaxed);
        if (owner == nullptr || turns != thread.seen_turns) {
          thread.seen_turns = turns;
          thread.seen_since = now;
          thread.reported = false;
          continue;
        }
        const uint64_t lasted = now - thread.seen_since;
        if (lasted < second) continue;
        moving = false;
        if (thread.reported) continue;
        thread.reported = true;
        const int32_t tid = thread.tid;
        lock.unlock();
        if (stuck) stuck(owner, lasted, stack_of(tid));
        if (spares < max_spares) {
          ++spares;
          add_thread("lanes-spare");
        }
        lock.lock();
        break;  // the list may have grown
      }
      all_moving.store(moving, std::memory_order_relaxed);
      if (moving && beat) {
        lock.unlock();
        beat();
        lock.lock();
      }
    }
  }

  const unsigned threads, max_blocking;
  const std::chrono::nanoseconds blocking_idle;
  boost::asio::io_context io;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work;
  std::atomic<bool> stopping{false}, all_moving{true};
  Stuck stuck;
  Function beat;

  std::mutex threads_lock;
  std::list<ThreadState> thread_states;
  std::list<std::thread> runners;
  std::thread watchdog;
  std::condition_variable watchdog_wake;
  unsigned spares = 0;

  std::mutex clock_lock;
  boost::asio::steady_timer clock;
  std::map<std::pair<uint64_t, uint64_t>, Function> timers;  // by time and id
  std::unordered_map<uint64_t, uint64_t> times;              // of each id
  uint64_t armed = 0, last_timer = 0;

  std::mutex watch_lock;
  int epoll = -1;
  boost::asio::posix::stream_descriptor poll;
  std::unordered_map<uint64_t, std::shared_ptr<Watch>> watches;
  uint64_t last_watch = 0;

  std::mutex blocking_lock;
  std::condition_variable blocking_wake, blocking_ended;
  std::deque<Function> blocking_queue;
  unsigned blocking_threads = 0, blocking_idlers = 0;
  unsigned least_idlers = 0, surplus = 0;  // in the present span of blocking_idle; in the one before
  std::chrono::steady_clock::time_point counts_since, trimmed_at;
};

Reactor::Reactor(unsigned threads, unsigned blocking_threads, std::chrono::nanoseconds blocking_idle)
    : state_(std::make_unique<State>(threads, blocking_threads, blocking_idle)) {
  void* warm[2];
  backtrace(warm, 2);  // the first call loads libgcc, which a signal handler must not
  struct sigaction action {};
  action.sa_handler = write_stack;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigaction(stack_signal(), &action, nullptr);
}

Reactor::~Reactor() { stop(); }

void Reactor::start() {
  state_->await_ready();
  for (unsigned i = 0; i < state_->threads; ++i) state_->add_thread("lanes");
  state_->watchdog = std::thread([this] { state_->watch_lanes(); });
  pthread_setname_np(state_->watchdog.native_handle(), "watchdog");
}

void Reactor::enlist() { state_->enlist(); }

void Reactor::stop() {
  {
    std::scoped_lock lock(state_->threads_lock, state_->blocking_lock);
    if (state_->stopping.exchange(true)) return;
  }
  state_->io.stop();
  state_->watchdog_wake.notify_all();
  state_->blocking_wake.notify_all();
  if (state_->watchdog.joinable()) state_->watchdog.join();
  for (std::thread& thread : state_->runners) {
    if (thread.get_id() == std::this_thread::get_id()) {
      thread.detach();
    } else {
      thread.join();
    }
  }
  std::unique_lock lock(state_->blocking_lock);
  state_->blocking_ended.wait(lock, [this] { return state_->blocking_threads == 0; });
}

void Reactor::on_stuck(Stuck stuck) { state_->stuck = std::move(stuck); }
void Reactor::on_beat(Function beat) { state_->beat = std::move(beat); }
boost::asio::io_context& Reactor::context() { return state_->io; }
bool Reactor::healthy() const { return state_->all_moving.load(std::memory_order_relaxed); }

void Reactor::schedule(Lane& lane) {
  boost::asio::post(state_->io, [&lane] { lane.run_queued(); });
}

void Reactor::post(Function function) { boost::asio::post(state_->io, std::move(function)); }

void Reactor::blocking(Function function) {
  std::lock_guard lock(state_->blocking_lock);
  state_->blocking_queue.push_back(std::move(function));
  if (state_->blocking_idlers < state_->blocking_queue.size() && state_->blocking_threads < state_->max_blocking)
    state_->add_blocking_thread();
  state_->blocking_wake.notify_one();
}

uint64_t Reactor::after(uint64_t delay_ns, Function function) {
  std::lock_guard lock(state_->clock_lock);
  const uint64_t now = now_ns();
  const uint64_t time = delay_ns > UINT64_MAX / 4 ? UINT64_MAX / 4 : now + delay_ns;
  const uint64_t id = ++state_->last_timer;
  state_->timers.emplace(std::pair(time, id), std::move(function));
  state_->times.emplace(id, time);
  state_->arm_clock();
  return id;
}

bool Reactor::cancel(uint64_t timer_id) {
  Function dropped;
  std::lock_guard lock(state_->clock_lock);
  auto found = state_->times.find(timer_id);
  if (found == state_->times.end()) return false;
  auto entry = state_->timers.extract(std::pair(found->second, timer_id));
  state_->times.erase(found);
  dropped = std::move(entry.mapped());
  return true;
}

Result<uint64_t> Reactor::watch(int descriptor, uint32_t events, Ready ready) {
  const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
  if (copy < 0)
    return errno == EBADF ? invalid_argument("watch: the descriptor is not open")
                          : resource_exhausted(std::string("watch: ") + strerror(errno));
  auto watch = std::make_shared<State::Watch>(copy, events, std::move(ready));
  std::lock_guard lock(state_->watch_lock);
  const uint64_t id = ++state_->last_watch;
  epoll_event event{};
  event.events = events | EPOLLONESHOT;
  event.data.u64 = id;
  if (epoll_ctl(state_->epoll, EPOLL_CTL_ADD, copy, &event) != 0)
    return failed_precondition(std::string("watch: the descriptor cannot be polled: ") + strerror(errno));
  state_->watches.emplace(id, std::move(watch));
  return id;
}

void Reactor::rearm(uint64_t watch_id) {
  std::lock_guard lock(state_->watch_lock);
  auto found = state_->watches.find(watch_id);
  if (found == state_->watches.end()) return;
  epoll_event event{};
  event.events = found->second->events | EPOLLONESHOT;
  event.data.u64 = watch_id;
  epoll_ctl(state_->epoll, EPOLL_CTL_MOD, found->second->descriptor, &event);
}

void Reactor::unwatch(uint64_t watch_id) {
  std::shared_ptr<State::Watch> dropped;
  std::lock_guard lock(state_->watch_lock);
  auto found = state_->watches.find(watch_id);
  if (found == state_->watches.end()) return;
  dropped = std::move(found->second);
  state_->watches.erase(found);
  epoll_ctl(state_->epoll, EPOLL_CTL_DEL, dropped->descriptor, nullptr);
}

}  // namespace pintle::engine
