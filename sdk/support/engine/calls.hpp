#pragma once

/// Calls and bindings: the slabs behind the ids that cross the boundary.
///
/// An id is a slot's number (low 24 bits) and how often the slot was given out (the rest), so an id is never reused and a
/// stale one is told apart in one comparison. Slots are in chunks that are never freed: looking at a slot of a dead id is
/// harmless.
///
///     free --open--> active --(completion, deadline, cancel by death: whoever locks first)--> ended --delivered--> free
///
/// A record ends once: under its lock `active` becomes `ended`, and the winner owes the caller's lane the one completion. It
/// is freed when the completion was delivered and, if the call itself was queued, that turn was run too.
///
/// Deadlines cost nothing while they do not pass: there is no timer for a call. One scan of the slab is armed for the
/// earliest deadline that was known when it was armed; an earlier one arms it anew.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "sdk/support/engine/lane.hpp"
#include "sdk/support/engine/message.hpp"

namespace pintle::engine {

class Instance;

class SpinLock {
 public:
  void lock() {
    for (int i = 0; flag_.exchange(true, std::memory_order_acquire); ++i) wait(i);
  }
  void unlock() { flag_.store(false, std::memory_order_release); }

 private:
  static void wait(int round);
  std::atomic<bool> flag_{false};
};

/// Latency buckets of a binding: below 1 µs, 4 µs, 16 µs ... 4^11 µs, and above.
constexpr int latency_buckets = 13;

/// Outcomes and latencies of the calls between one caller and one provider.
struct BindingStats {
  std::atomic<uint64_t> codes[17] = {};
  std::atomic<uint64_t> buckets[latency_buckets] = {};
  std::atomic<uint64_t> total_ns{0};
};

/// Who may call whom on which interface.
struct Binding {
  std::atomic<uint64_t> id{0};  // 0: free
  std::atomic<uint32_t> outstanding{0};
  uint32_t index = 0;  // of the slot
  std::atomic<uint64_t> uses{0};
  uint32_t limit = 1024;
  uint32_t interface_index = 0;  // into the implementer's `provides`
  Instance* caller = nullptr;
  Instance* callee = nullptr;
  BindingStats* stats = nullptr;  // shared by all bindings of this caller, provider and interface; never freed
};

struct CallRecord {
  enum class Phase : uint8_t { free, active, ended };

  SpinLock lock;  // of all below but what says otherwise
  Phase phase = Phase::free;
  bool handled = false;    // the implementer was told
  uint8_t references = 0;  // the completion's, and the queued call's
  uint32_t index = 0;
  uint64_t uses = 0;
  std::atomic<uint64_t> id{0};                 // read without the lock
  std::atomic<uint64_t> deadline{UINT64_MAX};  // read without the lock
  uint64_t started = 0;
  Instance* caller = nullptr;
  Instance* callee = nullptr;
  Binding* binding = nullptr;
  uint32_t interface_index = 0;
  uint32_t method = 0;
  uint32_t initial_credit = 0;
  uint32_t callee_credit = 0;  // stream messages that the implementer may send
  uint32_t caller_credit = 0;
  pintle_completion completion = nullptr;
  void* context = nullptr;
  pintle_stream_message on_message = nullptr;
  pintle_stream_credit on_credit = nullptr;
  const std::string* identity = nullptr;
  uint8_t trace[16] = {};

  struct Link : Turn {
    CallRecord* record = nullptr;
  };
  Link call_turn, completion_turn;
  OwnedMessage request, reply;
  uint32_t code = 0;
  std::string message;
};

/// Slots of T, given out and taken back by any thread; an index stays valid for ever.
template <class T, uint32_t chunk_size>
class Slab {
 public:
  static constexpr uint32_t index_bits = 24;
  static constexpr uint32_t max_chunks = (1u << 16) / chunk_size;

  /// Null when 65,536 are out.
  T* take() {
    for (;;) {
      uint64_t head = free_.load(std::memory_order_acquire);
      while (static_cast<uint32_t>(head) != 0) {
        const uint32_t index = static_cast<uint32_t>(head) - 1;
        const uint64_t next = (((head >> 32) + 1) << 32) | link(index).load(std::memory_order_relaxed);
        if (free_.compare_exchange_weak(head, next, std::memory_order_acq_rel)) return &slot(index);
      }
      if (!grow()) return nullptr;
    }
  }

  void give_back(T* slot) {
    uint64_t head = free_.load(std::memory_order_relaxed);
    uint64_t next = 0;
    do {
      link(slot->index).store(static_cast<uint32_t>(head), std::memory_order_relaxed);
      next = (((head >> 32) + 1) << 32) | (slot->index + 1);
    } while (!free_.compare_exchange_weak(head, next, std::memory_order_acq_rel));
  }

  /// The slot that an id names, whether it still is that or not; null for a number that was never given out.
  T* find(uint64_t id) {
    const auto index = static_cast<uint32_t>(id & ((1u << index_bits) - 1));
    return index < size_.load(std::memory_order_acquire) ? &slot(index) : nullptr;
  }
  static uint64_t id_of(const T& slot) { return (slot.uses << index_bits) | slot.index; }

  uint32_t size() const { return size_.load(std::memory_order_acquire); }
  T& slot(uint32_t index) {
    return chunks_[index / chunk_size].load(std::memory_order_acquire)->slots[index % chunk_size];
  }

 private:
  struct Chunk {
    T slots[chunk_size];
    std::atomic<uint32_t> links[chunk_size] = {};  // the next free index + 1
  };
  std::atomic<uint32_t>& link(uint32_t index) {
    return chunks_[index / chunk_size].load(std::memory_order_acquire)->links[index % chunk_size];
  }

  bool grow() {
    std::lock_guard lock(grow_lock_);
    if (static_cast<uint32_t>(free_.load(std::memory_order_acquire)) != 0) return true;
    const uint32_t first = size_.load(std::memory_order_relaxed);
    if (first / chunk_size == max_chunks) return false;
    owned_[first / chunk_size] = std::make_unique<Chunk>();
    chunks_[first / chunk_size].store(owned_[first / chunk_size].get(), std::memory_order_release);
    for (uint32_t i = 0; i < chunk_size; ++i) slot(first + i).index = first + i;
    size_.store(first + chunk_size, std::memory_order_release);
    for (uint32_t i = chunk_size; i-- > 0;) give_back(&slot(first + i));
    return true;
  }

  std::atomic<uint64_t> free_{0};  // a tag against ABA, and the first free index + 1
  std::atomic<uint32_t> size_{0};
  std::unique_ptr<std::atomic<Chunk*>[]> chunks_ { new std::atomic<Chunk*>[ max_chunks ]() };
  std::unique_ptr<std::unique_ptr<Chunk>[]> owned_ { new std::unique_ptr<Chunk>[ max_chunks ]() };
  std::mutex grow_lock_;
};

}  // namespace pintle::engine
