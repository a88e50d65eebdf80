#include "sdk/support/engine/lane.hpp"

#include "sdk/support/engine/reactor.hpp"

namespace pintle::engine {
namespace {

constexpr int max_depth = 8;    // nested turns on one stack
constexpr int max_batch = 128;  // turns before other lanes get the thread

thread_local ThreadState* this_thread = nullptr;
thread_local const char* blocking_owner = nullptr;

void run_nothing(Turn*, bool) {}
Turn running_marker{nullptr, run_nothing};
Turn* const running = &running_marker;

}  // namespace

ThreadState* current_thread() { return this_thread; }
void set_current_thread(ThreadState* state) { this_thread = state; }
const char* running_owner() {
  return this_thread != nullptr ? this_thread->owner.load(std::memory_order_relaxed) : blocking_owner;
}
void set_blocking_owner(const char* owner) { blocking_owner = owner; }
bool may_nest() { return this_thread != nullptr && this_thread->depth < max_depth; }

LaneScope::LaneScope(Lane& lane) : state_(this_thread) {
  if (state_ == nullptr) return;
  outer_ = std::exchange(state_->lane, &lane);
  outer_owner_ = state_->owner.load(std::memory_order_relaxed);
  state_->owner.store(lane.owner_, std::memory_order_relaxed);
  state_->turns.store(state_->turns.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  ++state_->depth;
}

LaneScope::~LaneScope() {
  if (state_ == nullptr) return;
  --state_->depth;
  state_->turns.store(state_->turns.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  state_->owner.store(outer_owner_, std::memory_order_relaxed);
  state_->lane = outer_;
}

bool Lane::is_current() const { return this_thread != nullptr && this_thread->lane == this; }

bool Lane::try_enter() {
  Turn* idle = nullptr;
  return head_.load(std::memory_order_relaxed) == nullptr &&
         head_.compare_exchange_strong(idle, running, std::memory_order_acquire, std::memory_order_relaxed);
}

bool Lane::try_enter_live() {
  if (!try_enter()) return false;
  if (live()) return true;
  leave();
  return false;
}

void Lane::leave() {
  Turn* expected = running;
  if (head_.compare_exchange_strong(expected, nullptr, std::memory_order_release, std::memory_order_relaxed)) return;
  reactor_.schedule(*this);
}

void Lane::post(Turn* turn) {
  Turn* head = head_.load(std::memory_order_relaxed);
  do {
    turn->next = head == nullptr ? running : head;
  } while (!head_.compare_exchange_weak(head, turn, std::memory_order_acq_rel, std::memory_order_relaxed));
  if (head == nullptr) reactor_.schedule(*this);
}

void Lane::run_queued() {
  for (int done = 0;;) {
    if (batch_ == nullptr) {
      Turn* newest = head_.exchange(running, std::memory_order_acq_rel);
      while (newest != running) {
        Turn* next = newest->next;
        newest->next = batch_;
        batch_ = newest;
        newest = next;
      }
    }
    while (batch_ != nullptr) {
      if (done++ == max_batch) return reactor_.schedule(*this);
      Turn* turn = batch_;
      batch_ = turn->next;
      LaneScope scope(*this);
      turn->run(turn, live());
    }
    Turn* expected = running;
    if (head_.compare_exchange_strong(expected, nullptr, std::memory_order_release, std::memory_order_relaxed)) return;
  }
}

}  // namespace pintle::engine
