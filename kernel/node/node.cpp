#include "kernel/node/node.hpp"

#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>

#include "kernel/isolation/child.hpp"
#include "kernel/node/records.hpp"
#include "sdk/support/document/nearest.hpp"

namespace pintle::kernel {
namespace {

namespace json = boost::json;

constexpr int64_t patience_ms = 10'000;  // with a provider that is on its way

bool is_up(UnitState state) { return state == UnitState::running || state == UnitState::retiring; }
bool is_between(UnitState state) {
  return state == UnitState::created || state == UnitState::starting || state == UnitState::draining;
}

/// Another configuration of the plugin: what the present generation owns must be told apart from what is new.
bool needs_new_generation(const PlannedInstance& from, const PlannedInstance& to) {
  return from.plugin != to.plugin || from.config != to.config;
}

bool needs_restart(const PlannedInstance& from, const PlannedInstance& to) {
  return from.path != to.path || from.isolation != to.isolation || from.allow_unsigned != to.allow_unsigned;
}

}  // namespace

Node::Node(NodeOptions options, Logs& logs)
    : options_(std::move(options)),
      logs_(logs),
      loader_(options_.plugin_directory, options_.public_key),
      engine_(*this),
      processes_(engine_.reactor()),
      lane_(engine_.reactor(), "pintled"),
      log_level_(options_.log_level) {}

Node::~Node() { engine_.stop(); }

// ---- Services ----------------------------------------------------------------------------------------------------------------

Result<pintle_process> Node::spawn(Instance& instance, const pintle_spawn& spawn, pintle_exited exited, void* context) {
  Result<SpawnRequest> request = process::spawn_request(spawn);
  if (!request) return request.status();
  auto tell = [&instance, life = instance.life(), exited, context](int32_t pid, int status) {
    instance.process_exited(life, exited, context, pid, status);
  };
  Result<StartedProcess> started = processes_.start(*request, std::move(tell));
  if (!started) return started.status();
  return pintle_process{sizeof(pintle_process), started->pid, started->pidfd.release(), 0};
}

Result<int> Node::listen(Instance& instance, const std::string& name, const std::string& address) {
  return listeners_.listen(instance.name(), name, address);
}

Status Node::listen_end(Instance& instance, const std::string& name) { return listeners_.end(instance.name(), name); }

void Node::log(const std::string& plugin, uint32_t level, std::string message, std::vector<LogField> fields) {
  if (plugin == "pintled" && level < log_level_) return;
  logs_.write(plugin, level, message, fields);
}

void Node::condition_changed(Instance&) {
  on_lane([this] {
    if (changed_) changed_();
  });
}

void Node::retired(Instance& instance) {
  on_lane([this, &instance] {
    for (Unit& unit : units_) {
      if (unit.instance != &instance || !unit.retiring) continue;
      unit.finished = true;
      converge();
    }
  });
}

void Node::failed(Instance& instance, const std::string& reason) {
  on_lane([this, &instance, reason] {
    for (Unit& unit : units_)
      if (unit.instance == &instance && unit.child == nullptr && unit.open) died(unit, reason);
  });
}

// ---- Units -------------------------------------------------------------------------------------------------------------------

Unit& Node::add_unit(const PlannedInstance& plan, uint64_t generation, bool retiring) {
  Unit& unit = units_.emplace_back();
  unit.plan = plan;
  unit.generation = generation;
  unit.key = plan.name + "@" + std::to_string(generation);
  unit.retiring = retiring;
  unit.since = wall_clock_ms();
  unit.instance = &engine_.add({plan.name, unit.key, plan.plugin, {}});
  uint64_t& last = last_generation_[plan.name];
  last = std::max(last, generation);
  if (!plan.enabled) {
    unit.state = UnitState::skipped;
    unit.reason = "the profile says enabled: false";
  }
  return unit;
}

Unit* Node::active(const std::string& name) {
  for (Unit& unit : units_)
    if (unit.plan.name == name && !unit.retiring && !unit.candidate) return &unit;
  return nullptr;
}

Unit* Node::find(const std::string& name_or_key) {
  if (Unit* unit = active(name_or_key); unit != nullptr) return unit;
  for (Unit& unit : units_)
    if (unit.key == name_or_key || unit.plan.name == name_or_key) return &unit;
  return nullptr;
}

void Node::start(NodePlan plan, Done done) {
  on_lane([this, plan = std::move(plan), done = std::move(done)]() mutable {
    plan_ = std::move(plan);
    if (plan_.node.empty()) plan_.node = options_.node_name;
    const std::string instances = options_.state_directory + "/instances";
    if (Status made = files::make_folders(instances, 0700); !made) return done(made);
    Result<std::vector<Record>> records = read_records(instances);
    if (!records) return done(records.status());
    ChildProcess::remove_remains();
    std::map<std::string, std::vector<Record>> of_name;
    for (Record& record : *records) of_name[record.plan.name].push_back(std::move(record));

    for (const PlannedInstance& planned : plan_.instances) {
      auto& former = of_name[planned.name];
      uint64_t generation = planned.enabled ? 1 : 0;
      if (!former.empty() && planned.enabled) {
        Record& last = former.back();
        // A record that was damaged is taken for what the plan says: the newest generation is the active one.
        const bool same = !last.sound || (!last.retiring && !needs_new_generation(last.plan, planned));
        generation = same ? last.generation : last.generation + 1;
        if (same) former.pop_back();
      }
      add_unit(planned, generation, false);
    }
    for (auto& [name, former] : of_name) {
      const auto planned =
          std::find_if(plan_.instances.begin(), plan_.instances.end(), [&](const auto& p) { return p.name == name; });
      for (Record& record : former) {
        if (!record.sound) {
          say(PINTLE_LOG_ERROR, name + "@" + std::to_string(record.generation) + ": its record is damaged" +
                                    (planned == plan_.instances.end() ? "; it is left alone"
                                                                      : "; it retires as what the profile says now"));
          if (planned == plan_.instances.end()) continue;
          record.plan = *planned;
        }
        record.plan.enabled = true;
        Unit& unit = add_unit(record.plan, record.generation, true);
        say(PINTLE_LOG_INFO, unit.key + ": no longer in the profile as it was; it retires");
      }
    }

    std::vector<WiringInput> inputs;
    for (Unit& unit : units_) {
      if (unit.state == UnitState::skipped) continue;
      if (Status verified = verify(unit); !verified) {
        unit.failures = 1;
        unit.not_before = now_ns() + 5'000'000'000;
        set_state(unit, UnitState::failed, verified.message());
      } else if (!unit.retiring) {
        inputs.push_back({&unit.plan, &unit.plugin->manifest, unit.plugin->is_signed});
      }
    }
    Result<Wiring> wiring = wire(inputs);
    if (!wiring) return done(wiring.status());
    wiring_ = std::move(*wiring);
    for (const auto& [name, problem] : wiring_.problems) set_state(*active(name), UnitState::failed, problem);
    converge_now();
    done({});
  });
}

bool Node::answers(const Unit& other, const Unit& unit, size_t index) const {
  if (&other == &unit || other.candidate || !other.plugin) return false;
  const auto& all = other.plugin->manifest.provides;
  const std::string& interface = unit.plugin->manifest.needs[index].interface;
  if (std::none_of(all.begin(), all.end(), [&](const Provided& p) { return p.interface == interface; })) return false;
  const auto wired = wiring_.providers.find(unit.plan.name);
  if (wired == wiring_.providers.end() || index >= wired->second.size()) return true;
  const auto& names = wired->second[index];
  // A need that nobody granted gets nobody, retiring or not.
  if (other.retiring) return !names.empty() || unit.plugin->is_signed;
  return std::find(names.begin(), names.end(), other.plan.name) != names.end();
}

std::vector<Unit*> Node::providers_of(const Unit& unit, size_t index) {
  std::vector<Unit*> out;
  for (const bool retiring : {false, true})
    for (Unit& other : units_)
      if (other.retiring == retiring && is_up(other.state) && answers(other, unit, index)) out.push_back(&other);
  return out;
}

const Unit* Node::coming_provider(const Unit& unit, size_t index) const {
  for (const Unit& other : units_) {
    const bool up_next = other.state == UnitState::created || other.state == UnitState::starting ||
                         (other.state == UnitState::loaded && !(other.retiring && !other.reason.empty()));
    if (up_next && other.wanted && !other.finished && other.failures == 0 &&
        wall_clock_ms() - other.since < patience_ms && answers(other, unit, index))
      return &other;
  }
  return nullptr;
}

Node::Readiness Node::may_start(const Unit& unit, std::string& why_not) {
  if (!unit.plugin) return Readiness::ready;  // verified first, then looked at again
  const auto& needs = unit.plugin->manifest.needs;
  auto readiness = Readiness::ready;
  for (size_t i = 0; i < needs.size(); ++i) {
    if (needs[i].when != When::start) continue;
    const bool has_provider = !providers_of(unit, i).empty();
    // Whoever starts compares what it knows with what its providers own: one that comes a moment later is not gone.
    const Unit* coming = coming_provider(unit, i);
    if (has_provider && (coming == nullptr || (!needs[i].many && !coming->retiring))) continue;
    why_not = "waits for its need " + needs[i].name + " (" + needs[i].interface + ")";
    const auto wired = wiring_.providers.find(unit.plan.name);
    if (coming != nullptr) {
      why_not += "; " + coming->key + " is " + unit_state_name(coming->state);
    } else if (wired != wiring_.providers.end() && i < wired->second.size()) {
      for (const std::string& name : wired->second[i])
        if (const Unit* provider = active(name); provider != nullptr)
          why_not += "; " + name + " is " + unit_state_name(provider->state);
    }
    if (!has_provider) return Readiness::waits;
    readiness = Readiness::soon;
  }
  return readiness;
}

bool Node::is_needed(const Unit& unit) {
  for (const Unit& other : units_) {
    if (&other == &unit || !other.open || !other.plugin) continue;
    for (size_t i = 0; i < other.bound.size(); ++i)
      if (other.plugin->manifest.needs[i].when == When::start)
        for (const Unit::Bound& bound : other.bound[i])
          if (bound.provider == &unit) return true;
  }
  return false;
}

void Node::converge() {
  if (std::exchange(converge_posted_, true)) return;
  on_lane([this] { converge_now(); });
}

void Node::converge_now() {
  converge_posted_ = false;
  rebind();
  const uint64_t now = now_ns();
  uint64_t wake = UINT64_MAX;
  std::vector<Unit*> all;
  for (Unit& unit : units_) all.push_back(&unit);
  for (Unit* unit : all) {
    const bool down = shutting_down_ || !unit->wanted;
    if (is_up(unit->state)) {
      const bool done = unit->finished && unit->state == UnitState::retiring;
      if (unit->restart || done || (down && !(shutting_down_ && is_needed(*unit))))
        take_down(*unit, UnitState::stopped, {});
    } else if (unit->state == UnitState::stopped && unit->finished) {
      forget(*unit);
    } else if (unit->state == UnitState::loaded || unit->state == UnitState::failed) {
      if (unit->open) continue;  // still being closed
      if (down) {
        if (unit->state == UnitState::loaded || !shutting_down_) set_state(*unit, UnitState::stopped);
        settle(*unit);
        continue;
      }
      if (unit->candidate && unit->state == UnitState::failed) continue;  // whoever asked for it decides
      if (!unit->retiring && wiring_.problems.count(unit->plan.name) != 0) continue;
      if (unit->not_before > now) {
        wake = std::min(wake, unit->not_before);
        continue;
      }
      std::string why_not;
      const Readiness readiness = may_start(*unit, why_not);
      if (readiness == Readiness::soon) wake = std::min(wake, now + 1'000'000'000);  // patience ends without an event
      if (readiness == Readiness::ready) {
        bring_up(*unit);
      } else if (unit->reason != why_not) {
        set_state(*unit, UnitState::loaded, why_not);
        settle(*unit);
      }
    }
  }
  if (wake != UINT64_MAX) {
    engine_.reactor().cancel(wake_timer_);
    wake_timer_ = engine_.reactor().after(wake - now, [this] { converge(); });
  }
  if (shutting_down_ && stopped_ &&
      std::none_of(units_.begin(), units_.end(), [](const Unit& unit) { return unit.open || is_between(unit.state); }))
    std::exchange(stopped_, nullptr)();
}

void Node::rebind() {
  for (Unit& unit : units_) {
    if (!unit.open || !unit.plugin || unit.state == UnitState::created || unit.bound.empty()) continue;
    for (size_t i = 0; i < unit.bound.size(); ++i) {
      const Need& need = unit.plugin->manifest.needs[i];
      std::vector<Unit::Bound> wanted;
      for (Unit* provider : providers_of(unit, i))
        wanted.push_back({provider, provider->attempt, 0, provider->retiring});
      auto& present = unit.bound[i];
      for (Unit::Bound& bound : wanted)
        for (const Unit::Bound& old : present)
          if (old.provider == bound.provider && old.provider_attempt == bound.provider_attempt)
            bound.binding_id = old.binding_id;
      if (wanted == present) continue;
      std::vector<pintle_binding> bindings;
      std::vector<std::string> texts;
      for (Unit::Bound& bound : wanted) {
        const auto& provides = bound.provider->plugin->manifest.provides;
        const auto provided = std::find_if(provides.begin(), provides.end(),
                                           [&](const Provided& p) { return p.interface == need.interface; });
        if (bound.binding_id == 0)
          bound.binding_id = engine_.bind(*unit.instance, *bound.provider->instance,
                                          static_cast<uint32_t>(provided - provides.begin()), need.interface);
        bindings.push_back({sizeof(pintle_binding),
                            bound.retiring ? static_cast<uint32_t>(PINTLE_BINDING_RETIRING) : 0u,
                            bound.binding_id,
                            std::min(need.revision, provided->revision),
                            0,
                            provided->feature_bits,
                            {},
                            {}});
        texts.push_back(bound.provider->plan.name);
        texts.push_back(bound.provider->key);
      }
      for (const Unit::Bound& old : present)
        if (std::none_of(wanted.begin(), wanted.end(),
                         [&](const Unit::Bound& bound) { return bound.binding_id == old.binding_id; }))
          engine_.unbind(old.binding_id);
      present = std::move(wanted);
      unit.instance->tell_bindings(static_cast<uint32_t>(i), std::move(bindings), std::move(texts));
    }
  }
}

// ---- Changing the plan -------------------------------------------------------------------------------------------------------

namespace {

/// Counts what is under way; the last one answers.
struct Pending {
  bool* applying = nullptr;
  std::vector<std::shared_ptr<Change>> changes;
  Node::Applied done;
  ~Pending() {
    if (applying != nullptr) *applying = false;
    std::vector<Change> out;
    for (auto& change : changes) out.push_back(std::move(*change));
    done(std::move(out));
  }
};

}  // namespace

void Node::apply(NodePlan plan, bool dry_run, Applied done) {
  on_lane([this, plan = std::move(plan), dry_run, done = std::move(done)]() mutable {
    if (applying_ || shutting_down_)
      return done(Status(Code::aborted, "another change of the profile is under way; try again when it is done"));
    if (plan.node.empty()) plan.node = options_.node_name;
    // Everything is checked before anything is touched.
    std::map<std::string, VerifiedPlugin> fresh;
    std::vector<WiringInput> inputs;
    for (const PlannedInstance& planned : plan.instances) {
      if (!planned.enabled) continue;
      Unit* unit = active(planned.name);
      const bool known = unit != nullptr && unit->plugin && unit->plan.enabled && unit->plan.plugin == planned.plugin &&
                         !needs_restart(unit->plan, planned);
      if (!known) {
        Result<VerifiedPlugin> plugin = loader_.verify(planned.path, planned.allow_unsigned);
        if (!plugin) return done(plugin.status().with_context(planned.name));
        if (plugin->contents.id != planned.plugin)
          return done(invalid_argument(planned.name + ": " + planned.path + " is the plugin " + plugin->contents.id +
                                       ", not " + planned.plugin));
        fresh.emplace(planned.name, std::move(*plugin));
      }
      const VerifiedPlugin& verified = known ? *unit->plugin : fresh.at(planned.name);
      inputs.push_back({&planned, &verified.manifest, verified.is_signed});
    }
    Result<Wiring> wiring = wire(inputs);
    if (!wiring) return done(wiring.status());
    if (!wiring->problems.empty()) return done(invalid_argument(wiring->problems.begin()->second));

    auto pending = std::make_shared<Pending>();  // whoever lets go of it last gives the answer
    pending->done = std::move(done);
    std::vector<std::function<void()>> actions;
    const auto note = [&](const std::string& name, const char* what, const std::string& key,
                          const std::string& retiring) {
      return pending->changes.emplace_back(std::make_shared<Change>(Change{name, what, key, retiring, {}}));
    };
    const auto follow = [this, pending](Unit& unit, std::shared_ptr<Change> change) {
      when_settled(unit, [&unit, change = std::move(change), pending] {
        if (unit.state != UnitState::failed && unit.state != UnitState::quarantined) return;
        change->change = "failed";
        change->message = unit.reason;
      });
    };
    const auto next_key = [&](const std::string& name) {
      return name + "@" + std::to_string(last_generation_[name] + 1);
    };
    for (const PlannedInstance& planned : plan.instances) {
      Unit* unit = active(planned.name);
      if (unit != nullptr && unit->plan == planned) continue;
      if (unit == nullptr || (unit->state == UnitState::skipped && planned.enabled)) {
        auto change = note(planned.name, "added", next_key(planned.name), {});
        actions.push_back([this, planned, unit, change, follow] {
          if (unit != nullptr) units_.remove_if([&](const Unit& other) { return &other == unit; });
          follow(add_unit(planned, last_generation_[planned.name] + 1, false), change);
        });
      } else if (!planned.enabled) {
        auto change = note(planned.name, "removed", {}, unit->state == UnitState::skipped ? "" : unit->key);
        actions.push_back([this, planned, unit, change, pending] {
          if (unit->state != UnitState::skipped) retire(*unit);
          add_unit(planned, 0, false);
        });
      } else if (needs_new_generation(unit->plan, planned)) {
        auto change = note(planned.name, "replaced", next_key(planned.name), unit->key);
        actions.push_back([this, planned, unit, change, pending] { replace(planned, *unit, change, [pending] {}); });
      } else if (needs_restart(unit->plan, planned)) {
        auto change = note(planned.name, "restarted", unit->key, {});
        actions.push_back([this, planned, unit, change, follow] {
          unit->plan = planned;
          unit->plugin.reset();
          unit->restart = is_up(unit->state);
          if (!is_up(unit->state)) unit->not_before = 0;
          follow(*unit, change);
        });
      } else {
        note(planned.name, "updated", unit->key, {});
        actions.push_back([this, planned, unit] {
          unit->plan = planned;
          Result<uint32_t> level = parse_log_level(planned.log_level);
          unit->instance->log_level = level ? *level : options_.log_level;
        });
      }
    }
    for (Unit& unit : units_) {
      if (unit.retiring || unit.candidate) continue;
      if (std::any_of(plan.instances.begin(), plan.instances.end(),
                      [&](const auto& p) { return p.name == unit.plan.name; }))
        continue;
      note(unit.plan.name, "removed", {}, unit.state == UnitState::skipped ? "" : unit.key);
      actions.push_back([this, unit = &unit] {
        if (unit->state == UnitState::skipped) {
          units_.remove_if([&](const Unit& other) { return &other == unit; });
        } else {
          retire(*unit);
        }
      });
    }
    if (dry_run) return;
    pending->applying = &applying_;
    applying_ = true;
    plan_ = std::move(plan);
    wiring_ = std::move(*wiring);
    for (auto& action : actions) action();
    converge();
  });
}

/// The former generation serves until the new one runs; if that fails, it goes on.
void Node::replace(const PlannedInstance& plan, Unit& former, std::shared_ptr<Change> change,
                   std::function<void()> done) {
  Unit& unit = add_unit(plan, last_generation_[plan.name] + 1, false);
  change->key = unit.key;
  if (!is_up(former.state)) {  // it serves nobody, but it may own something
    former.wanted = true;
    retire(former);
  } else {
    unit.candidate = true;
  }
  when_settled(unit, [this, &unit, &former, change = std::move(change), done = std::move(done)] {
    if (unit.state == UnitState::running) {
      unit.candidate = false;
      if (!former.retiring) retire(former);
      rebind();
      return done();
    }
    change->change = "failed";
    change->message = unit.reason;
    if (unit.candidate) {
      for (PlannedInstance& planned : plan_.instances)
        if (planned.name == unit.plan.name) planned = former.plan;
      forget(unit);
      change->message += "; " + former.key + " goes on";
    }
    done();
  });
}

void Node::start_instance(const std::string& name, Done done) {
  on_lane([this, name, done = std::move(done)] {
    Unit* unit = find(name);
    if (unit == nullptr) return done(not_found("no plugin instance \"" + name + "\""));
    if (unit->state == UnitState::skipped)
      return done(
          failed_precondition(name + ": the profile says enabled: false; change it with `pintle profile apply`"));
    if (is_up(unit->state)) return done({});
    unit->wanted = true;
    unit->deaths.clear();
    unit->failures = 0;
    unit->not_before = 0;
    if (!is_between(unit->state)) set_state(*unit, UnitState::loaded);
    when_settled(*unit, [unit, done] {
      done(is_up(unit->state)
               ? Status()
               : failed_precondition(unit->plan.name + " is " + unit_state_name(unit->state) + ": " + unit->reason));
    });
    converge();
  });
}

void Node::stop_instance(const std::string& name, Done done) {
  on_lane([this, name, done = std::move(done)] {
    Unit* unit = find(name);
    if (unit == nullptr) return done(not_found("no plugin instance \"" + name + "\""));
    if (unit->state == UnitState::skipped || unit->state == UnitState::stopped) return done({});
    for (const Unit& other : units_)
      for (size_t i = 0; i < other.bound.size(); ++i)
        if (other.plugin->manifest.needs[i].when == When::start && other.bound[i].size() == 1 &&
            other.bound[i][0].provider == unit)
          return done(failed_precondition(other.plan.name + " needs " + name + "; stop that first"));
    unit->wanted = false;
    if (unit->state == UnitState::quarantined) {
      set_state(*unit, UnitState::stopped);
      return done({});
    }
    when_settled(*unit, [done] { done({}); });
    converge();
  });
}

void Node::restart_instance(const std::string& name, std::function<void(Result<bool>)> done) {
  on_lane([this, name, done = std::move(done)] {
    Unit* unit = find(name);
    if (unit == nullptr) return done(not_found("no plugin instance \"" + name + "\""));
    if (!is_up(unit->state))
      return start_instance(name, [done](Status status) { status.is_ok() ? done(false) : done(status); });
    // The file is judged before the running one is touched.
    Result<VerifiedPlugin> plugin = loader_.verify(unit->plan.path, unit->plan.allow_unsigned);
    if (!plugin) return done(plugin.status());
    const std::string build = loader_.loaded_build(unit->plan.plugin);
    if (!unit->isolated && !build.empty() && build != plugin->file->sha256()) return done(true);
    unit->restart = true;
    when_settled(*unit, [unit, done] {
      if (is_up(unit->state)) return done(false);
      done(failed_precondition(unit->plan.name + " is " + unit_state_name(unit->state) + ": " + unit->reason));
    });
    converge();
  });
}

void Node::set_log_level(const std::string& name, uint32_t level, Done done) {
  on_lane([this, name, level, done = std::move(done)] {
    bool found = name == "pintled";
    if (found) log_level_ = level;
    for (Unit& unit : units_) {
      if (unit.plan.name != name && unit.key != name) continue;
      unit.plan.log_level = log_level_name(level);
      unit.instance->log_level = level;
      if (unit.child != nullptr) unit.child->set_log_level(level);
      found = true;
    }
    done(found ? Status() : not_found("no plugin instance \"" + name + "\""));
  });
}

void Node::shutdown(std::function<void()> done) {
  on_lane([this, done = std::move(done)] {
    shutting_down_ = true;
    stopped_ = done;
    converge_now();
  });
}

bool Node::all_settled() const {
  return std::none_of(units_.begin(), units_.end(), [](const Unit& unit) { return is_between(unit.state); });
}

Result<uint64_t> Node::bind_host(Instance& caller, const std::string& interface, const std::string& provider) {
  std::vector<std::pair<Unit*, uint32_t>> found;
  std::string names;
  for (Unit& unit : units_) {
    if (!unit.plugin || !is_up(unit.state) || (!provider.empty() && unit.plan.name != provider && unit.key != provider))
      continue;
    if (unit.retiring && unit.key != provider) continue;
    for (uint32_t i = 0; i < unit.plugin->manifest.provides.size(); ++i) {
      if (unit.plugin->manifest.provides[i].interface != interface) continue;
      found.emplace_back(&unit, i);
      names += (names.empty() ? "" : ", ") + unit.plan.name;
    }
  }
  if (found.empty())
    return unavailable(
        (provider.empty() ? "no running plugin provides " : provider + " does not run, or does not provide ") +
        interface);
  if (found.size() > 1) return failed_precondition(interface + " is provided by " + names + "; name one as provider");
  return engine_.bind(caller, *found[0].first->instance, found[0].second, interface);
}

// ---- Being seen --------------------------------------------------------------------------------------------------------------

std::vector<std::string> Node::unready() {
  if (plan_.node.empty()) return {"the profile is not taken up yet"};
  std::vector<std::string> out;
  for (Unit& unit : units_) {
    if (unit.retiring || unit.candidate || unit.state == UnitState::skipped || (!unit.plan.required && unit.tried))
      continue;
    if (unit.state != UnitState::running)
      out.push_back(unit.plan.name + " is " + unit_state_name(unit.state) +
                    (unit.reason.empty() ? "" : ": " + unit.reason));
    for (const Condition& condition : unit.instance->conditions())
      if (!condition.is_true)
        out.push_back(unit.plan.name + ": " + condition.type + " is false: " + condition.reason + " " +
                      condition.message);
  }
  return out;
}

Result<json::object> Node::instance_json(const std::string& name, bool with_config) {
  Unit* unit = find(name);
  if (unit == nullptr) {
    std::vector<std::string> names;
    for (const Unit& other : units_) names.push_back(other.plan.name);
    return not_found("no plugin instance \"" + name + "\"" + document::suggestion(name, names));
  }
  json::array conditions, provides, needs;
  bool ready = is_up(unit->state);
  for (const Condition& condition : unit->instance->conditions()) {
    ready = ready && condition.is_true;
    conditions.push_back({{"type", condition.type},
                          {"status", condition.is_true},
                          {"reason", condition.reason},
                          {"message", condition.message}});
  }
  json::object out{{"name", unit->plan.name},
                   {"key", unit->key},
                   {"generation", unit->generation},
                   {"plugin", unit->plan.plugin},
                   {"path", unit->plan.path},
                   {"state", unit_state_name(unit->state)},
                   {"reason", unit->reason},
                   {"since", utc_time(unit->since)},
                   {"isolation", unit->isolated ? "process" : "in-process"},
                   {"pid", unit->child != nullptr ? unit->child->pid() : getpid()},
                   {"restarts", unit->restarts},
                   {"required", unit->plan.required},
                   {"ready", ready},
                   {"log_level", log_level_name(unit->instance->log_level)},
                   {"conditions", std::move(conditions)}};
  if (unit->plugin) {
    const Manifest& manifest = unit->plugin->manifest;
    out["version"] = manifest.version;
    out["summary"] = manifest.summary;
    out["maturity"] = manifest.maturity;
    out["trust"] = unit->plugin->is_signed ? "signed" : "unsigned";
    for (const Provided& provided : manifest.provides)
      provides.push_back({{"interface", provided.interface},
                          {"revision", provided.revision},
                          {"features", json::array(provided.features.begin(), provided.features.end())}});
    for (size_t i = 0; i < manifest.needs.size(); ++i) {
      json::array bound;
      if (i < unit->bound.size())
        for (const Unit::Bound& binding : unit->bound[i]) bound.push_back(json::string(binding.provider->key));
      const Need& need = manifest.needs[i];
      needs.push_back({{"name", need.name},
                       {"interface", need.interface},
                       {"when", when_name(need.when)},
                       {"wants", need.many ? "many" : "one"},
                       {"bound", std::move(bound)}});
    }
  }
  out["provides"] = std::move(provides);
  out["needs"] = std::move(needs);
  if (with_config) out["config"] = to_json(unit->plan).at("config");
  return out;
}

json::object Node::status_json() {
  json::array plugins;
  for (const Unit& unit : units_)
    if (Result<json::object> one = instance_json(unit.key, false); one.is_ok()) plugins.push_back(std::move(*one));
  return {{"node", plan_.node},
          {"profile", plan_.profile},
          {"pid", getpid()},
          {"started", utc_time(started_ms_)},
          {"state", shutting_down_  ? "draining"
                    : all_settled() ? "running"
                                    : "starting"},
          {"ready", unready().empty()},
          {"plugins", std::move(plugins)}};
}

void Node::fetch_metrics(std::function<void()> done) {
  on_lane([this, done = std::move(done)] {
    auto all = std::shared_ptr<void>(nullptr, [done](void*) { done(); });
    for (Unit& unit : units_)
      if (unit.child != nullptr) unit.child->fetch_metrics([all] {});
  });
}

Status Node::metrics_text(std::function<void(std::string)> done) {
  fetch_metrics([this, done = std::move(done)] { on_lane([this, done] { done(render_metrics()); }); });
  return {};
}

std::string Node::render_metrics() {
  std::string out =
      "# HELP pintle_plugin_state Whether the instance is in the state, 1 for the present one.\n# TYPE "
      "pintle_plugin_state gauge\n";
  for (const Unit& unit : units_)
    out += "pintle_plugin_state{plugin=\"" + escape_label(unit.plan.name) + "\",key=\"" + escape_label(unit.key) +
           "\",state=\"" + unit_state_name(unit.state) + "\"} 1\n";
  out +=
      "# HELP pintle_plugin_restarts_total Restarts of the generation since the daemon started.\n# TYPE "
      "pintle_plugin_restarts_total counter\n";
  for (const Unit& unit : units_)
    out += "pintle_plugin_restarts_total{plugin=\"" + escape_label(unit.plan.name) + "\",key=\"" +
           escape_label(unit.key) + "\"} " + std::to_string(unit.restarts) + "\n";
  out +=
      "# HELP pintle_calls_under_way Calls that have not ended yet.\n# TYPE pintle_calls_under_way "
      "gauge\npintle_calls_under_way " +
      std::to_string(engine_.calls_under_way()) + "\n";
  return out + engine_.render_metrics();
}

json::object Node::plan_json() const {
  json::array instances;
  for (const PlannedInstance& planned : plan_.instances) instances.push_back(to_json(planned));
  return {{"profile", plan_.profile}, {"node", plan_.node}, {"instances", std::move(instances)}};
}

}  // namespace pintle::kernel
