// One unit's way through its states. What runs when is decided in node.cpp.

#include <algorithm>

#include "kernel/isolation/child.hpp"
#include "kernel/node/node.hpp"
#include "kernel/node/records.hpp"

namespace pintle::kernel {
namespace {

constexpr uint64_t millisecond = 1'000'000, second = 1'000'000'000;
constexpr uint64_t step_limit = 10 * second;  // for drain, and again for stop
constexpr size_t deaths_to_quarantine = 5;
constexpr uint64_t death_window = 60 * second;

}  // namespace

const char* unit_state_name(UnitState state) {
  constexpr const char* names[] = {"skipped",  "loaded",   "created", "starting", "running",
                                   "draining", "retiring", "stopped", "failed",   "quarantined"};
  return names[static_cast<int>(state)];
}

void Node::set_state(Unit& unit, UnitState state, std::string reason) {
  const bool same = unit.state == state && unit.reason == reason;
  unit.state = state;
  unit.reason = std::move(reason);
  if (same) return;
  unit.since = wall_clock_ms();
  const bool bad = state == UnitState::failed || state == UnitState::quarantined;
  say(bad ? PINTLE_LOG_ERROR : PINTLE_LOG_INFO,
      unit.key + " is " + unit_state_name(state) + (unit.reason.empty() ? "" : ": " + unit.reason));
  if (changed_) changed_();
}

Status Node::verify(Unit& unit) {
  Result<VerifiedPlugin> plugin = loader_.verify(unit.plan.path, unit.plan.allow_unsigned);
  if (!plugin) return plugin.status();
  if (plugin->contents.id != unit.plan.plugin)
    return invalid_argument(unit.plan.path + ": it is the plugin " + plugin->contents.id + ", not " + unit.plan.plugin);
  unit.plugin = std::move(*plugin);
  return {};
}

Status Node::prepare_folders(Unit& unit, InstanceConfig& config) {
  const std::string generation = std::to_string(unit.generation);
  const std::string instances = options_.state_directory + "/instances";
  Record record{unit.generation, unit.retiring, true, unit.plan};
  if (Status written = write_record(instances, record); !written) return written;
  config.state_directory = instances + "/" + unit.plan.name + "/" + generation;
  config.run_directory = options_.run_directory + "/instances/" + unit.plan.name + "/" + generation;
  config.shared_directory = options_.state_directory + "/shared/" + unit.plan.plugin;
  for (const std::string& folder : {config.state_directory, config.run_directory, config.shared_directory})
    if (Status made = files::make_folders(folder, 0700); !made) return made;
  if (!unit.lock.held()) {
    Result<files::Descriptor> folder = files::open_folder(instances + "/" + unit.plan.name);
    if (!folder) return folder.status();
    Result<files::Lock> lock =
        files::Lock::try_acquire(folder->get(), generation + ".lock", files::Lock::Kind::exclusive);
    if (!lock) return unavailable(config.state_directory + ": another process holds its lock; it is waited for");
    unit.lock = std::move(*lock);
  }
  config.node = plan_.node;
  config.config = unit.plan.config.empty() ? "{}" : unit.plan.config;
  if (unit.retiring) config.flags |= PINTLE_INSTANCE_RETIRING;
  if (unit.isolated) config.flags |= PINTLE_INSTANCE_ISOLATED;
  return {};
}

void Node::bring_up(Unit& unit) {
  const uint64_t attempt = ++unit.attempt;
  if (!unit.plugin) {
    if (Status verified = verify(unit); !verified) return fail_unit(unit, verified.message());
  }
  unit.isolated = unit.plan.isolation == Isolation::process || forced_.count(unit.plan.name) != 0 ||
                  (unit.plan.isolation == Isolation::automatic && !unit.plugin->is_signed);
  set_state(unit, UnitState::loaded);
  InstanceConfig config;
  if (Status prepared = prepare_folders(unit, config); !prepared) return fail_unit(unit, prepared.message());
  unit.instance->log_level = options_.log_level;
  if (Result<uint32_t> level = parse_log_level(unit.plan.log_level); level.is_ok()) unit.instance->log_level = *level;
  if (unit.isolated) {
    ChildOptions child_options;
    child_options.plugin_host = options_.plugin_host;
    child_options.plugin = &*unit.plugin;
    child_options.on_death = [this, &unit, serial = ++unit.child_serial](std::string reason) {
      on_lane([this, &unit, serial, reason = std::move(reason)] {
        if (unit.child_serial == serial) died(unit, reason);
      });
    };
    Result<std::shared_ptr<ChildProcess>> child = ChildProcess::start(*this, *unit.instance, std::move(child_options));
    if (!child) return fail_unit(unit, child.status().message());
    unit.child = *child;
    unit.instance->set_handler(unit.child->make_handler());
  } else {
    Result<const pintle_plugin*> entry = loader_.load(*unit.plugin);
    if (!entry) return fail_unit(unit, entry.status().message());
    unit.instance->set_handler(make_plugin_handler(*entry));
  }
  unit.instance->open();
  unit.open = true;
  set_state(unit, UnitState::created);
  unit.instance->create(std::move(config), [this, &unit, attempt](Status status) {
    on_lane([this, &unit, attempt, status = std::move(status)] {
      if (unit.attempt == attempt) created(unit, status);
    });
  });
}

void Node::created(Unit& unit, const Status& status) {
  if (!status.is_ok()) {
    const uint64_t attempt = ++unit.attempt;
    unit.instance->close(status.message(), [this, &unit, attempt, status] {
      on_lane([this, &unit, attempt, status] {
        unit.open = false;
        if (unit.attempt == attempt) fail_unit(unit, status.message());
      });
    });
    return;
  }
  set_state(unit, UnitState::starting);
  unit.bound.assign(unit.plugin->manifest.needs.size(), {});
  rebind();
  // A need that nobody answers yet is told as well: `bindings` comes before `start`, for every need.
  for (uint32_t need = 0; need < unit.bound.size(); ++need)
    if (unit.bound[need].empty()) unit.instance->tell_bindings(need, {}, {});
  unit.instance->step(Instance::Step::start, [this, &unit, attempt = unit.attempt](Status done) {
    on_lane([this, &unit, attempt, done = std::move(done)] {
      if (unit.attempt == attempt) started(unit, done);
    });
  });
}

void Node::started(Unit& unit, const Status& status) {
  if (!status.is_ok())
    return take_down(unit, UnitState::failed,
                     status.message().empty() ? "start failed without a message" : status.message());
  unit.failures = 0;
  set_state(unit, UnitState::running);
  if (unit.retiring) retire(unit);
  settle(unit);
  converge();
}

/// Tells a running generation that it serves only what it owns.
void Node::retire(Unit& unit) {
  unit.retiring = true;
  unit.candidate = false;
  Record record{unit.generation, true, true, unit.plan};
  if (Status written = write_record(options_.state_directory + "/instances", record); !written)
    say(PINTLE_LOG_ERROR, unit.key + ": it retires, but that could not be written down: " + written.message());
  if (unit.state != UnitState::running) return converge();
  unit.instance->step(Instance::Step::retire, [this, &unit, attempt = unit.attempt](Status done) {
    on_lane([this, &unit, attempt, done = std::move(done)] {
      if (unit.attempt != attempt || unit.state != UnitState::running) return;
      if (!done.is_ok()) say(PINTLE_LOG_ERROR, unit.key + ": retire: " + done.message());
      set_state(unit, UnitState::retiring);
      settle(unit);
      converge();
    });
  });
}

void Node::take_down(Unit& unit, UnitState end, const std::string& reason) {
  const uint64_t attempt = ++unit.attempt;
  set_state(unit, UnitState::draining, reason);
  rebind();
  // A step is over when the plugin says so, or when its time is; whichever comes second is void.
  auto step = [this, &unit, attempt](Instance::Step which, std::function<void(bool)> next) {
    auto over = std::make_shared<bool>(false);
    auto end_step = [this, &unit, attempt, over, next = std::move(next)](bool in_time) {
      on_lane([&unit, attempt, over, next, in_time] {
        if (unit.attempt == attempt && !std::exchange(*over, true)) next(in_time);
      });
    };
    unit.instance->step(which, [end_step](const Status&) { end_step(true); });
    engine_.reactor().after(step_limit, [end_step] { end_step(false); });
  };
  auto close = [this, &unit, end, reason] {
    unit.instance->close(unit.key + " has stopped", [this, &unit, end, reason] {
      on_lane([this, &unit, end, reason] {
        if (unit.child == nullptr) return torn_down(unit, end, reason);
        unit.after_child = [this, &unit, end, reason] { torn_down(unit, end, reason); };
        unit.child->kill("it has stopped");
      });
    });
  };
  auto stop = [this, &unit, attempt, step, close](bool) {
    step(Instance::Step::stop, [this, &unit, attempt, close](bool in_time) {
      if (!in_time) {
        say(PINTLE_LOG_ERROR, unit.key + ": it did not stop within 10 s");
        if (unit.child != nullptr) unit.child->kill("it did not stop");
        if (unit.child == nullptr) return close();  // its object is left behind: some thread of it may be stuck
      }
      unit.instance->destroy([this, &unit, attempt, close](const Status&) {
        on_lane([&unit, attempt, close] {
          if (unit.attempt == attempt) close();
        });
      });
    });
  };
  if (end == UnitState::failed) return stop(true);
  step(Instance::Step::drain, stop);
}

void Node::torn_down(Unit& unit, UnitState end, const std::string& reason) {
  unit.open = false;
  ++unit.attempt;
  for (auto& list : unit.bound)
    for (const Unit::Bound& bound : list) engine_.unbind(bound.binding_id);
  unit.bound.clear();
  unit.lock = {};
  if (unit.restart) {
    unit.restart = false;
    unit.plugin.reset();
    ++unit.restarts;
    set_state(unit, UnitState::loaded);
  } else if (end == UnitState::failed) {
    return fail_unit(unit, reason);
  } else {
    set_state(unit, end, reason);
    settle(unit);
  }
  converge();
}

void Node::fail_unit(Unit& unit, const std::string& reason) {
  ++unit.attempt;
  if (unit.child != nullptr) unit.child->kill("it could not start");
  unit.child.reset();
  ++unit.child_serial;
  unit.lock = {};
  unit.restart = false;
  const uint64_t delay =
      std::min<uint64_t>(30 * second, (200 * millisecond) << std::min<uint32_t>(unit.failures++, 10));
  unit.not_before = now_ns() + delay;
  unit.plugin.reset();
  set_state(unit, UnitState::failed, reason);
  settle(unit);
  converge();
}

void Node::died(Unit& unit, const std::string& reason) {
  ++unit.attempt;
  unit.child.reset();
  if (unit.after_child) return std::exchange(unit.after_child, nullptr)();
  const bool was_going = unit.state == UnitState::draining;
  const uint64_t now = now_ns();
  unit.deaths.erase(
      std::remove_if(unit.deaths.begin(), unit.deaths.end(), [&](uint64_t at) { return now - at > death_window; }),
      unit.deaths.end());
  if (!was_going) unit.deaths.push_back(now);
  set_state(unit, UnitState::failed, reason);
  rebind();
  unit.instance->close(unit.key + " is unavailable: " + reason, [this, &unit, was_going, reason] {
    on_lane([this, &unit, was_going, reason] {
      const bool meant = shutting_down_ || !unit.wanted || unit.finished || unit.restart;
      if (was_going) return torn_down(unit, meant ? UnitState::stopped : UnitState::failed, meant ? "" : reason);
      unit.open = false;
      unit.bound.clear();
      unit.lock = {};
      ++unit.restarts;
      if (unit.deaths.size() >= deaths_to_quarantine) {
        set_state(unit, UnitState::quarantined,
                  "it died " + std::to_string(unit.deaths.size()) + " times within a minute, the last time: " + reason +
                      "; `pintle plugin start " + unit.plan.name + "` tries again");
      } else {
        const size_t before = unit.deaths.empty() ? 0 : unit.deaths.size() - 1;
        unit.not_before = now_ns() + ((50 * millisecond) << before);
      }
      settle(unit);
      converge();
    });
  });
}

void Node::forget(Unit& unit) {
  if (Status removed = remove_record(options_.state_directory + "/instances", unit.plan.name, unit.generation);
      !removed)
    say(PINTLE_LOG_WARN, unit.key + ": what it left behind could not be removed: " + removed.message());
  Result<files::Descriptor> run = files::open_folder(options_.run_directory + "/instances/" + unit.plan.name);
  if (run) static_cast<void>(files::remove_tree(run->get(), std::to_string(unit.generation)).is_ok());
  auto found = std::find_if(units_.begin(), units_.end(), [&](const Unit& other) { return &other == &unit; });
  if (found == units_.end()) return;
  const std::string name = unit.plan.name;
  unit.plugin.reset();
  gone_.splice(gone_.end(), units_, found);
  if (std::none_of(units_.begin(), units_.end(), [&](const Unit& other) { return other.plan.name == name; }))
    listeners_.end_all(name);
}

void Node::settle(Unit& unit) {
  if (!std::exchange(unit.tried, true) && changed_) changed_();
  std::vector<std::function<void()>> functions;
  functions.swap(unit.settled);
  for (auto& function : functions) on_lane(std::move(function));
}

void Node::when_settled(Unit& unit, std::function<void()> function) { unit.settled.push_back(std::move(function)); }

}  // namespace pintle::kernel
