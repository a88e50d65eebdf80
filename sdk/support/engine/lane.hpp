#pragma once

/// A lane: the queue of an instance's turns, which never overlap, on whatever thread.
///
///     idle --try_enter--> running --leave--> idle          nobody else wanted it
///       |                    |
///       +------post------> queued --(a thread of the reactor)--> running ...
///
/// The whole state is one word: idle, running with nothing queued, or the newest of the queued turns (a stack that the
/// running thread takes as one batch and turns round). So a call to an idle lane costs two compare-and-swaps and no thread
/// switch, and whatever was posted first runs first: `try_enter` succeeds only when nothing waits.
///
/// Turns belong to who makes them; `run` is called exactly once and disposes of the turn. After `close` it is called with
/// `live == false`: release what the turn holds, run nothing of the instance.

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace pintle::engine {

class Reactor;

struct Turn {
  Turn* next = nullptr;
  void (*run)(Turn* self, bool live) = nullptr;
};

class Lane {
 public:
  /// `owner` is what the watchdog and crash records call the lane's code; it outlives the lane.
  Lane(Reactor& reactor, const char* owner) : reactor_(reactor), owner_(owner) {}
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  /// Takes an idle lane for the calling thread. [any thread]
  bool try_enter();
  /// The same, but never of a closed lane: `close` runs on the lane, so that who holds it sees the truth.
  bool try_enter_live();
  /// Gives it back. What was queued meanwhile runs on a thread of the reactor.
  void leave();
  /// [any thread]
  void post(Turn* turn);
  /// Runs what is queued. Called by the reactor only.
  void run_queued();

  /// Turns run dead from now on. To be called on the lane, or before its first turn.
  void close() { live_.store(false, std::memory_order_release); }
  void open() { live_.store(true, std::memory_order_release); }
  bool live() const { return live_.load(std::memory_order_acquire); }
  const char* owner() const { return owner_; }
  /// The calling thread is in a turn of this lane.
  bool is_current() const;

 private:
  friend class LaneScope;
  Reactor& reactor_;
  const char* owner_;
  std::atomic<Turn*> head_{nullptr};
  Turn* batch_ = nullptr;  // taken, not yet run; the running thread's
  std::atomic<bool> live_{true};
};

/// What a thread of the engine is doing; read by the watchdog and by the crash handler.
struct ThreadState {
  std::atomic<const char*> owner{nullptr};  // of the lane whose turn runs
  std::atomic<uint64_t> turns{0};           // begun so far
  Lane* lane = nullptr;
  int depth = 0;    // nested turns
  int32_t tid = 0;  // the kernel's thread id
  bool reported = false;
  uint64_t seen_turns = 0, seen_since = 0;  // the watchdog's own
  std::unique_ptr<char[]> signal_stack;
};

/// Of the calling thread; null on threads that do not belong to an engine.
ThreadState* current_thread();
void set_current_thread(ThreadState* state);

/// Whose code runs on this thread, in a turn or on a blocking thread; null: the host's own. A signal handler may ask.
const char* running_owner();
/// Marks a blocking thread as running an instance's code; null ends it.
void set_blocking_owner(const char* owner);

/// A turn of `lane` on this thread, from construction to destruction. The lane has been entered.
class LaneScope {
 public:
  explicit LaneScope(Lane& lane);
  ~LaneScope();
  LaneScope(const LaneScope&) = delete;
  LaneScope& operator=(const LaneScope&) = delete;

 private:
  ThreadState* state_;
  Lane* outer_ = nullptr;
  const char* outer_owner_ = nullptr;
};

/// True if this thread may run another lane's turn within its own: it belongs to an engine and is not too deep already.
bool may_nest();

/// Posts `function` as a turn. It is dropped unrun when the lane is closed by then.
template <class Function>
void post_turn(Lane& lane, Function function) {
  struct FunctionTurn : Turn {
    explicit FunctionTurn(Function f) : function(std::move(f)) {}
    Function function;
  };
  auto* turn = new FunctionTurn(std::move(function));
  turn->run = [](Turn* self, bool live) {
    auto* mine = static_cast<FunctionTurn*>(self);
    if (live) mine->function();
    delete mine;
  };
  lane.post(turn);
}

}  // namespace pintle::engine
