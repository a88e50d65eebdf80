#include "sdk/support/engine/engine.hpp"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

namespace pintle::engine {
namespace {

constexpr uint64_t forever = UINT64_MAX;
constexpr uint64_t deadline_slack = 1'000'000;  // a scan that is this late is early enough

void new_trace(uint8_t (&trace)[16]) {
  thread_local uint64_t state = std::random_device{}() * 0x9e3779b97f4a7c15u + now_ns();
  for (int half = 0; half < 2; ++half) {  // splitmix64: ids need to differ, not to be secret
    uint64_t word = state += 0x9e3779b97f4a7c15u;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
    word ^= word >> 31;
    std::memcpy(trace + half * 8, &word, 8);
  }
}

int latency_bucket(uint64_t nanoseconds) {
  int bucket = 0;
  for (uint64_t bound = 1000; bucket < latency_buckets - 1 && nanoseconds >= bound; bound *= 4) ++bucket;
  return bucket;
}

void bump(std::atomic<uint64_t>& counter, uint64_t by) { counter.fetch_add(by, std::memory_order_relaxed); }

constexpr uint32_t unbound_bit = 1u << 31;

/// Several may think that they are the last; the exchange finds out who is.
template <class Bindings>
void give_back_if_last(Bindings& bindings, Binding& binding) {
  uint32_t expected = unbound_bit;
  if (binding.outstanding.compare_exchange_strong(expected, 0)) bindings.give_back(&binding);
}

template <class Bindings>
void lower_outstanding(Bindings& bindings, Binding& binding) {
  if (binding.outstanding.fetch_sub(1) == (unbound_bit | 1)) give_back_if_last(bindings, binding);
}

uint32_t add_credit(uint32_t present, uint32_t more) {
  constexpr uint32_t limit = 1u << 30;
  return present > limit - std::min(more, limit) ? limit : present + more;
}

struct CancelTurn : Turn {
  Engine* engine;
  Instance* callee;
  uint64_t call_id;
  bool ended;  // the host has ended the call; the implementer was told of it
};

struct StreamTurn : Turn {
  Instance* receiver;
  bool to_callee;
  uint64_t call_id;
  uint32_t credit;  // 0: a message
  OwnedMessage message;
  pintle_stream_message on_message;
  pintle_stream_credit on_credit;
  void* context;
};

void run_stream_turn(Instance& receiver, bool to_callee, uint64_t call_id, uint32_t credit,
                     const pintle_message* message, pintle_stream_message on_message, pintle_stream_credit on_credit,
                     void* context) {
  receiver.guarded("a stream's callback", [&] {
    if (!to_callee) {
      if (message != nullptr) return on_message(context, call_id, message);
      return on_credit(context, call_id, credit);
    }
    if (message != nullptr) return receiver.handler()->stream_message(receiver, call_id, *message);
    receiver.handler()->stream_credit(receiver, call_id, credit);
  });
}

}  // namespace

void SpinLock::wait(int round) {
  if (round > 64) {
    sched_yield();
  } else {
    __builtin_ia32_pause();
  }
}

Engine::Engine(Services& services, EngineOptions options)
    : services_(services), options_(options), reactor_(options.threads, options.blocking_threads) {}

Engine::~Engine() { stop(); }

Instance& Engine::add(InstanceOptions options) {
  std::lock_guard lock(lock_);
  return instances_.emplace_back(*this, std::move(options));
}

const std::string* Engine::intern(std::string_view text) {
  std::lock_guard lock(lock_);
  auto found = interned_.find(text);
  if (found == interned_.end()) found = interned_.emplace(text).first;
  return &*found;
}

BindingStats* Engine::stats_of(const Instance& caller, const Instance& callee, const std::string& interface_name) {
  std::lock_guard lock(stats_lock_);
  return &stats_[{caller.name(), callee.name(), interface_name}];
}

uint64_t Engine::bind(Instance& caller, Instance& callee, uint32_t interface_index, const std::string& interface_name) {
  Binding* binding = bindings_.take();
  if (binding == nullptr) return 0;
  binding->caller = &caller;
  binding->callee = &callee;
  binding->interface_index = interface_index;
  binding->limit = options_.outstanding;
  binding->stats = stats_of(caller, callee, interface_name);
  ++binding->uses;
  const uint64_t id = bindings_.id_of(*binding);
  binding->id.store(id, std::memory_order_seq_cst);
  return id;
}

void Engine::unbind(uint64_t binding_id) {
  Binding* binding = bindings_.find(binding_id);
  uint64_t expected = binding_id;
  if (binding == nullptr || !binding->id.compare_exchange_strong(expected, 0)) return;
  // Whoever raised `outstanding` before it saw the id vanish lowers it again: the last one gives the slot back.
  if (binding->outstanding.fetch_or(unbound_bit) == 0) give_back_if_last(bindings_, *binding);
}

pintle_code Engine::call(Instance& caller, uint64_t binding_id, uint32_t method, const pintle_message* message,
                         const pintle_call_options* options, pintle_completion completion, void* context,
                         uint64_t* call_id, const CallStamp* stamp) {
  if (completion == nullptr || call_id == nullptr) return PINTLE_INVALID_ARGUMENT;
  if (options != nullptr && options->size < sizeof(pintle_call_options)) return PINTLE_INVALID_ARGUMENT;
  const Result<pintle_message> checked = checked_message(message);
  if (!checked) return PINTLE_INVALID_ARGUMENT;
  Binding* binding = bindings_.find(binding_id);
  if (binding == nullptr || binding_id == 0) return PINTLE_NOT_FOUND;
  const uint32_t under_way = binding->outstanding.fetch_add(1);
  if (binding->id.load() != binding_id || binding->caller != &caller) {
    const bool stale = binding->id.load() != binding_id && (binding_id >> 24) <= binding->uses;
    lower_outstanding(bindings_, *binding);
    return stale ? PINTLE_UNAVAILABLE : PINTLE_NOT_FOUND;
  }
  Instance& callee = *binding->callee;
  CallRecord* record = nullptr;
  pintle_code refused = PINTLE_OK;
  if (under_way >= binding->limit) {
    refused = PINTLE_RESOURCE_EXHAUSTED;
  } else if (!callee.lane_.live() || callee.failed() || !caller.lane_.live()) {
    refused = PINTLE_UNAVAILABLE;
  } else if (record = calls_.take(); record == nullptr) {
    refused = PINTLE_RESOURCE_EXHAUSTED;
  }
  if (refused != PINTLE_OK) {
    lower_outstanding(bindings_, *binding);
    return refused;
  }

  const uint64_t now = now_ns();
  const bool stream = options != nullptr &&
                      (options->initial_credit != 0 || options->on_message != nullptr || options->on_credit != nullptr);
  uint64_t timeout = options != nullptr ? options->timeout_ns : 0;
  if (timeout == 0) timeout = stream ? forever : options_.default_timeout_ns;
  uint64_t deadline = timeout >= forever - now ? forever : now + timeout;
  bool traced = false;
  if (options != nullptr && options->parent_call_id != 0) {
    CallRecord* parent = lock_call(options->parent_call_id);
    if (parent != nullptr) {
      if (parent->callee == &caller) {
        std::memcpy(record->trace, parent->trace, sizeof record->trace);
        deadline = std::min(deadline, parent->deadline.load(std::memory_order_relaxed));
        traced = true;
      }
      parent->lock.unlock();
    }
  }
  if (stamp != nullptr && stamp->trace != nullptr) {
    std::memcpy(record->trace, stamp->trace, sizeof record->trace);
  } else if (!traced) {
    new_trace(record->trace);
  }

  record->lock.lock();
  record->phase = CallRecord::Phase::active;
  record->handled = false;
  record->started = now;
  record->caller = &caller;
  record->callee = &callee;
  record->binding = binding;
  record->interface_index = binding->interface_index;
  record->method = method;
  record->initial_credit = record->callee_credit = options != nullptr ? options->initial_credit : 0;
  record->caller_credit = 0;
  record->completion = completion;
  record->context = context;
  record->on_message = options != nullptr ? options->on_message : nullptr;
  record->on_credit = options != nullptr ? options->on_credit : nullptr;
  record->identity = stamp != nullptr && stamp->identity != nullptr ? stamp->identity : &caller.identity();
  record->deadline.store(deadline, std::memory_order_seq_cst);  // before `next_scan_` is read: see scan_deadlines
  ++record->uses;
  const uint64_t id = calls_.id_of(*record);
  record->id.store(id, std::memory_order_relaxed);
  calls_active_.fetch_add(1, std::memory_order_relaxed);
  *call_id = id;

  // Inline only from a turn of the caller: its lane is taken, so the completion cannot overtake this function's return; and
  // not from a plugin's own thread, which may have entered a namespace or hold what the implementer must not get.
  if (caller.lane_.is_current() && may_nest() && callee.lane_.try_enter_live()) {
    record->references = 1;
    record->handled = true;
    record->lock.unlock();
    if (deadline < next_scan_.load(std::memory_order_seq_cst)) arm_deadline(deadline);
    {
      LaneScope scope(callee.lane_);
      run_call(*record, *checked, now);
    }
    callee.lane_.leave();
    return PINTLE_OK;
  }
  if (Status kept = record->request.assign(*checked); !kept) {
    record->phase = CallRecord::Phase::free;
    record->id.store(0, std::memory_order_relaxed);
    record->lock.unlock();
    calls_active_.fetch_sub(1, std::memory_order_relaxed);
    calls_.give_back(record);
    lower_outstanding(bindings_, *binding);
    return static_cast<pintle_code>(kept.code());
  }
  record->references = 2;
  record->call_turn.run = run_call_turn;
  record->call_turn.record = record;
  callee.lane_.post(&record->call_turn);
  record->lock.unlock();
  if (deadline < next_scan_.load(std::memory_order_seq_cst)) arm_deadline(deadline);
  return PINTLE_OK;
}

void Engine::run_call(CallRecord& record, const pintle_message& message, uint64_t now) {
  const uint64_t deadline = record.deadline.load(std::memory_order_relaxed);
  pintle_call call{sizeof(pintle_call),
                   record.interface_index,
                   record.method,
                   record.initial_credit,
                   record.id.load(std::memory_order_relaxed),
                   deadline == forever ? 0
                   : deadline > now    ? deadline - now
                                       : 1,
                   text(*record.identity),
                   {}};
  std::memcpy(call.trace, record.trace, sizeof call.trace);
  Instance& callee = *record.callee;
  callee.guarded("handle", [&] { callee.handler_->handle(callee, call, message); });
}

void Engine::run_call_turn(Turn* turn, bool live) {
  CallRecord& record = *static_cast<CallRecord::Link*>(turn)->record;
  Engine& engine = record.caller->engine();
  record.lock.lock();
  const bool wanted = record.phase == CallRecord::Phase::active;
  if (wanted && live) record.handled = true;
  if (wanted && !live) engine.end_call(record, PINTLE_UNAVAILABLE, "the plugin has stopped");
  record.lock.unlock();
  if (wanted && live) engine.run_call(record, record.request.view(), now_ns());
  engine.drop_reference(record);
}

CallRecord* Engine::lock_call(uint64_t call_id) {
  CallRecord* record = calls_.find(call_id);
  if (record == nullptr || call_id == 0) return nullptr;
  record->lock.lock();
  if (record->phase == CallRecord::Phase::active && record->id.load(std::memory_order_relaxed) == call_id)
    return record;
  record->lock.unlock();
  return nullptr;
}

/// On the caller's lane: the one completion.
void Engine::deliver(CallRecord& record, const pintle_status& status, const pintle_message* reply) {
  BindingStats& stats = *record.binding->stats;
  const uint64_t took = now_ns() - record.started;
  bump(stats.codes[std::min<uint32_t>(status.code, 16)], 1);
  bump(stats.buckets[latency_bucket(took)], 1);
  bump(stats.total_ns, took);
  lower_outstanding(bindings_, *record.binding);
  Instance& caller = *record.caller;
  const uint64_t id = record.id.load(std::memory_order_relaxed);
  caller.guarded("a completion", [&] { record.completion(record.context, id, &status, reply); });
}

void Engine::run_completion_turn(Turn* turn, bool live) {
  CallRecord& record = *static_cast<CallRecord::Link*>(turn)->record;
  Engine& engine = record.caller->engine();
  if (live) {
    const pintle_status status{sizeof(pintle_status), record.code, text(record.message)};
    engine.deliver(record, status, record.code == PINTLE_OK ? &record.reply.view() : nullptr);
  } else {
    lower_outstanding(engine.bindings_, *record.binding);
  }
  engine.drop_reference(record);
}

void Engine::drop_reference(CallRecord& record) {
  record.lock.lock();
  const bool last = --record.references == 0;
  if (last) {
    record.phase = CallRecord::Phase::free;
    record.id.store(0, std::memory_order_relaxed);
    record.deadline.store(forever, std::memory_order_relaxed);
    record.request.clear();
    record.reply.clear();
    record.message.clear();
  }
  record.lock.unlock();
  if (!last) return;
  calls_active_.fetch_sub(1, std::memory_order_relaxed);
  calls_.give_back(&record);
}

void Engine::end_call(CallRecord& record, uint32_t code, std::string message) {
  record.phase = CallRecord::Phase::ended;
  record.code = code;
  record.message = std::move(message);
  record.completion_turn.run = run_completion_turn;
  record.completion_turn.record = &record;
  record.caller->lane_.post(&record.completion_turn);
}

void Engine::post_cancelled(CallRecord& record, bool ended) {
  auto* turn = new CancelTurn;
  turn->engine = this;
  turn->callee = record.callee;
  turn->call_id = record.id.load(std::memory_order_relaxed);
  turn->ended = ended;
  turn->run = [](Turn* self, bool live) {
    const std::unique_ptr<CancelTurn> mine(static_cast<CancelTurn*>(self));
    if (!live) return;
    if (!mine->ended) {
      CallRecord* wanted = mine->engine->lock_call(mine->call_id);
      if (wanted == nullptr) return;
      wanted->lock.unlock();
    }
    mine->callee->guarded("cancelled", [&] { mine->callee->handler_->cancelled(*mine->callee, mine->call_id); });
  };
  record.callee->lane_.post(turn);
}

pintle_code Instance::complete(uint64_t call_id, const pintle_status* status, const pintle_message* reply) {
  Status outcome = read_status(status);
  Result<pintle_message> checked = checked_message(outcome.is_ok() ? reply : nullptr);
  CallRecord* record = engine_.lock_call(call_id);
  if (record == nullptr) return PINTLE_NOT_FOUND;
  if (record->callee != this) {
    record->lock.unlock();
    return PINTLE_NOT_FOUND;
  }
  pintle_code answer = PINTLE_OK;
  if (!checked) {
    answer = PINTLE_INVALID_ARGUMENT;
    outcome = internal_error(options_.name + ": the reply was refused: " + checked.status().message());
  }
  Lane& lane = record->caller->lane_;
  if (may_nest() && lane.try_enter_live()) {
    record->phase = CallRecord::Phase::ended;
    record->lock.unlock();
    {
      LaneScope scope(lane);
      const pintle_status end{sizeof(pintle_status), static_cast<uint32_t>(outcome.code()), text(outcome.message())};
      engine_.deliver(*record, end, outcome.is_ok() ? &*checked : nullptr);
    }
    engine_.drop_reference(*record);
    lane.leave();
    return answer;
  }
  if (outcome.is_ok()) {
    if (Status kept = record->reply.assign(*checked); !kept) {
      answer = static_cast<pintle_code>(kept.code());
      outcome = internal_error(options_.name + ": the reply was refused: " + kept.message());
    }
  }
  engine_.end_call(*record, static_cast<uint32_t>(outcome.code()), outcome.message());
  record->lock.unlock();
  return answer;
}

pintle_code Instance::cancel(uint64_t call_id) {
  CallRecord* record = engine_.lock_call(call_id);
  if (record == nullptr) return PINTLE_NOT_FOUND;
  const bool mine = record->caller == this;
  if (mine) engine_.post_cancelled(*record, false);
  record->lock.unlock();
  return mine ? PINTLE_OK : PINTLE_NOT_FOUND;
}

pintle_code Instance::send(uint64_t call_id, const pintle_message* message) {
  const Result<pintle_message> checked = checked_message(message);
  if (!checked) return PINTLE_INVALID_ARGUMENT;
  CallRecord* record = engine_.lock_call(call_id);
  if (record == nullptr) return PINTLE_NOT_FOUND;
  std::unique_lock lock(record->lock, std::adopt_lock);
  if (record->caller != this && record->callee != this) return PINTLE_NOT_FOUND;
  const bool to_callee = record->caller == this;
  if (to_callee ? record->on_credit == nullptr : record->on_message == nullptr) return PINTLE_FAILED_PRECONDITION;
  uint32_t& credit = to_callee ? record->caller_credit : record->callee_credit;
  if (credit == 0) return PINTLE_RESOURCE_EXHAUSTED;
  Instance& receiver = to_callee ? *record->callee : *record->caller;
  if (may_nest() && receiver.lane_.try_enter_live()) {
    --credit;
    const auto on_message = record->on_message;
    void* const context = record->context;
    lock.unlock();
    {
      LaneScope scope(receiver.lane_);
      run_stream_turn(receiver, to_callee, call_id, 0, &*checked, on_message, nullptr, context);
    }
    receiver.lane_.leave();
    return PINTLE_OK;
  }
  auto turn = std::make_unique<StreamTurn>();
  if (Status kept = turn->message.assign(*checked); !kept) return static_cast<pintle_code>(kept.code());
  --credit;
  turn->receiver = &receiver;
  turn->to_callee = to_callee;
  turn->call_id = call_id;
  turn->on_message = record->on_message;
  turn->context = record->context;
  turn->run = [](Turn* self, bool live) {
    const std::unique_ptr<StreamTurn> mine(static_cast<StreamTurn*>(self));
    if (live)
      run_stream_turn(*mine->receiver, mine->to_callee, mine->call_id, 0, &mine->message.view(), mine->on_message,
                      nullptr, mine->context);
  };
  receiver.lane_.post(turn.release());
  return PINTLE_OK;
}

pintle_code Instance::grant(uint64_t call_id, uint32_t credit) {
  CallRecord* record = engine_.lock_call(call_id);
  if (record == nullptr) return PINTLE_NOT_FOUND;
  std::unique_lock lock(record->lock, std::adopt_lock);
  if (record->caller != this && record->callee != this) return PINTLE_NOT_FOUND;
  if (credit == 0) return PINTLE_OK;
  const bool to_callee = record->caller == this;
  if (!to_callee && record->on_credit == nullptr) return PINTLE_FAILED_PRECONDITION;
  uint32_t& present = to_callee ? record->callee_credit : record->caller_credit;
  present = add_credit(present, credit);
  Instance& receiver = to_callee ? *record->callee : *record->caller;
  auto* turn = new StreamTurn;
  turn->receiver = &receiver;
  turn->to_callee = to_callee;
  turn->call_id = call_id;
  turn->credit = credit;
  turn->on_credit = record->on_credit;
  turn->context = record->context;
  turn->run = [](Turn* self, bool live) {
    const std::unique_ptr<StreamTurn> mine(static_cast<StreamTurn*>(self));
    if (live)
      run_stream_turn(*mine->receiver, mine->to_callee, mine->call_id, mine->credit, nullptr, nullptr, mine->on_credit,
                      mine->context);
  };
  receiver.lane_.post(turn);
  return PINTLE_OK;
}

void Engine::arm_deadline(uint64_t deadline) {
  std::lock_guard lock(scan_lock_);
  const uint64_t armed = next_scan_.load(std::memory_order_relaxed);
  if (armed != forever && deadline + deadline_slack >= armed) return;
  if (armed != forever) reactor_.cancel(scan_timer_);
  next_scan_.store(deadline, std::memory_order_relaxed);
  const uint64_t now = now_ns();
  scan_timer_ = reactor_.after(deadline > now ? deadline - now : 0, [this] { scan_deadlines(); });
}

void Engine::scan_deadlines() {
  // A call stores its deadline, then reads `next_scan_`; here it is the other way round. So either this scan sees the
  // deadline, or the call sees that nothing is armed.
  next_scan_.store(forever, std::memory_order_seq_cst);
  const uint64_t now = now_ns();
  uint64_t next = forever;
  for (uint32_t i = 0; i < calls_.size(); ++i) {
    CallRecord& record = calls_.slot(i);
    const uint64_t deadline = record.deadline.load(std::memory_order_seq_cst);
    if (deadline > now) {
      next = std::min(next, deadline);
      continue;
    }
    record.lock.lock();
    if (record.phase == CallRecord::Phase::active && record.deadline.load(std::memory_order_relaxed) <= now) {
      if (record.handled) post_cancelled(record, true);
      end_call(record, PINTLE_DEADLINE_EXCEEDED, record.callee->name() + " did not answer in time");
      record.deadline.store(forever, std::memory_order_relaxed);
    }
    record.lock.unlock();
  }
  if (next != forever) arm_deadline(next);
}

void Engine::abort_calls(Instance& instance, const std::string& reason) {
  for (uint32_t i = 0; i < calls_.size(); ++i) {
    CallRecord& record = calls_.slot(i);
    if (record.id.load(std::memory_order_relaxed) == 0) continue;
    record.lock.lock();
    if (record.phase == CallRecord::Phase::active && (record.caller == &instance || record.callee == &instance)) {
      if (record.handled && record.callee != &instance) post_cancelled(record, true);
      end_call(record, PINTLE_UNAVAILABLE, reason);
    }
    record.lock.unlock();
  }
}

uint64_t Engine::calls_served_by(const Instance& instance) {
  uint64_t count = 0;
  for (uint32_t i = 0; i < calls_.size(); ++i) {
    CallRecord& record = calls_.slot(i);
    if (record.id.load(std::memory_order_relaxed) == 0) continue;
    record.lock.lock();
    if (record.phase == CallRecord::Phase::active && record.callee == &instance) ++count;
    record.lock.unlock();
  }
  return count;
}

std::string Engine::render_metrics() {
  std::string calls =
      "# HELP pintle_calls_total Calls between plugins that have ended, by outcome.\n# TYPE pintle_calls_total "
      "counter\n";
  std::string times =
      "# HELP pintle_call_duration_seconds From a call to its completion on the caller's lane.\n"
      "# TYPE pintle_call_duration_seconds histogram\n";
  std::lock_guard lock(stats_lock_);
  for (const auto& [names, stats] : stats_) {
    const std::string labels = "caller=\"" + escape_label(names[0]) + "\",plugin=\"" + escape_label(names[1]) +
                               "\",interface=\"" + escape_label(names[2]) + "\"";
    uint64_t count = 0;
    for (uint32_t code = 0; code <= 16; ++code) {
      const uint64_t value = stats.codes[code].load(std::memory_order_relaxed);
      if (value == 0) continue;
      calls += "pintle_calls_total{" + labels + ",code=\"" + std::string(code_name(static_cast<Code>(code))) + "\"} " +
               std::to_string(value) + "\n";
    }
    double bound = 1e-6;
    for (int i = 0; i < latency_buckets; ++i, bound *= 4) {
      count += stats.buckets[i].load(std::memory_order_relaxed);
      char le[32];
      snprintf(le, sizeof le, "%g", bound);
      times += "pintle_call_duration_seconds_bucket{" + labels + ",le=\"" + (i == latency_buckets - 1 ? "+Inf" : le) +
               "\"} " + std::to_string(count) + "\n";
    }
    char sum[40];
    snprintf(sum, sizeof sum, "%.9f", static_cast<double>(stats.total_ns.load(std::memory_order_relaxed)) / 1e9);
    times += "pintle_call_duration_seconds_sum{" + labels + "} " + sum + "\n";
    times += "pintle_call_duration_seconds_count{" + labels + "} " + std::to_string(count) + "\n";
  }
  return calls + times + metrics_.render();
}

// ---- Calls of the host's own -------------------------------------------------------------------------------------------------

namespace {

struct HostCall {
  Instance* caller;
  uint32_t credit;
  std::function<void(Reply)> on_end;
  std::function<void(const pintle_message&)> on_message;
};

const pintle_message no_message{sizeof(pintle_message), 0, 0, 0, nullptr, 0, nullptr, nullptr};

}  // namespace

uint64_t call(Instance& caller, uint64_t binding_id, uint32_t method, const pintle_message& message,
              uint64_t timeout_ns, std::function<void(Reply)> on_end,
              std::function<void(const pintle_message&)> on_message, uint32_t credit, const CallStamp* stamp) {
  auto host_call = std::make_unique<HostCall>(HostCall{&caller, credit, std::move(on_end), std::move(on_message)});
  pintle_call_options options{sizeof(pintle_call_options), credit, timeout_ns, 0, nullptr, nullptr};
  if (host_call->on_message)
    options.on_message = [](void* context, uint64_t id, const pintle_message* received) {
      auto* mine = static_cast<HostCall*>(context);
      mine->on_message(*received);
      mine->caller->grant(id, 1);
    };
  auto completion = [](void* context, uint64_t, const pintle_status* status, const pintle_message* reply) {
    const std::unique_ptr<HostCall> mine(static_cast<HostCall*>(context));
    mine->on_end(Reply{read_status(status), reply != nullptr ? *reply : no_message});
  };
  uint64_t id = 0;
  const pintle_code code =
      caller.engine().call(caller, binding_id, method, &message, &options, completion, host_call.get(), &id, stamp);
  if (code == PINTLE_OK) {
    static_cast<void>(host_call.release());
    return id;
  }
  host_call->on_end(Reply{{static_cast<Code>(code), "the call was not accepted"}, no_message});
  return 0;
}

}  // namespace pintle::engine
