#include <algorithm>

#include "sdk/support/engine/engine.hpp"

namespace pintle::engine {

void Handler::start(Instance& instance, uint64_t token) { instance.lifecycle_done(token, {}); }
void Handler::drain(Instance& instance, uint64_t token) { instance.lifecycle_done(token, {}); }
void Handler::retire(Instance& instance, uint64_t token) { instance.lifecycle_done(token, {}); }
void Handler::stop(Instance& instance, uint64_t token) { instance.lifecycle_done(token, {}); }

Instance::Instance(Engine& engine, InstanceOptions options)
    : engine_(engine),
      options_([&] {
        if (options.identity.empty()) options.identity = "plugin:" + options.name;
        return std::move(options);
      }()),
      lane_(engine.reactor(), options_.key.c_str()) {}

// ---- Life --------------------------------------------------------------------------------------------------------------------

void Instance::create(InstanceConfig config, Done done) {
  post_turn(lane_, [this, config = std::move(config), done = std::move(done)]() mutable {
    guarded("create", [&] { handler_->create(*this, config, std::move(done)); });
  });
}

void Instance::step(Step step, Done done) {
  const uint64_t token = engine_.last_token_.fetch_add(1) + 1;
  {
    std::lock_guard lock(lock_);
    steps_.emplace(token, std::move(done));
  }
  struct StepTurn : Turn {
    Instance* instance;
    Step step;
    uint64_t token;
  };
  auto* turn = new StepTurn;
  turn->instance = this;
  turn->step = step;
  turn->token = token;
  turn->run = [](Turn* self, bool live) {
    const std::unique_ptr<StepTurn> mine(static_cast<StepTurn*>(self));
    Instance& instance = *mine->instance;
    if (!live) {
      instance.lifecycle_done(mine->token, unavailable(instance.options_.key + ": it has stopped"));
      return;
    }
    switch (mine->step) {
      case Step::start:
        return instance.guarded("start", [&] { instance.handler_->start(instance, mine->token); });
      case Step::drain:
        return instance.guarded("drain", [&] { instance.handler_->drain(instance, mine->token); });
      case Step::retire:
        return instance.guarded("retire", [&] { instance.handler_->retire(instance, mine->token); });
      case Step::stop:
        return instance.guarded("stop", [&] { instance.handler_->stop(instance, mine->token); });
    }
  };
  lane_.post(turn);
}

pintle_code Instance::lifecycle_done(uint64_t token, Status status) {
  Done done;
  {
    std::lock_guard lock(lock_);
    auto found = steps_.find(token);
    if (found == steps_.end()) return PINTLE_NOT_FOUND;
    done = std::move(found->second);
    steps_.erase(found);
  }
  engine_.reactor().post([done = std::move(done), status = std::move(status)] { done(status); });
  return PINTLE_OK;
}

void Instance::destroy(Done done) {
  {
    std::lock_guard lock(lock_);
    ending_ = true;
  }
  post_turn(lane_, [this, done = std::move(done)] {
    {
      std::lock_guard lock(lock_);
      // Blocking work may touch the object that goes, and a turn before this one may have begun some.
      if (blocking_jobs_ != 0) {
        blocking_ended_ = [this, done] { destroy(done); };
        return;
      }
    }
    guarded("destroy", [&] { handler_->destroy(*this, done); });
  });
}

void Instance::close(const std::string& reason, std::function<void()> flushed) {
  const auto close_down = [this, reason] {
    lane_.close();
    ++life_;
    std::unordered_map<uint64_t, Done> steps;
    {
      std::lock_guard lock(lock_);
      for (const auto& [id, timer] : timers_) engine_.reactor().cancel(timer.reactor_id);
      for (const auto& [id, watch] : watches_) engine_.reactor().unwatch(watch.reactor_id);
      timers_.clear();
      watches_.clear();
      conditions_.clear();
      steps.swap(steps_);
    }
    for (auto& [token, done] : steps)
      engine_.reactor().post([done = std::move(done), reason] { done(unavailable(reason)); });
    engine_.abort_calls(*this, reason);
    engine_.metrics().hide(options_.name);
  };
  struct FlushTurn : Turn {
    std::function<void()> flushed;
    Reactor* reactor;
  };
  auto* flush = new FlushTurn;
  flush->flushed = std::move(flushed);
  flush->reactor = &engine_.reactor();
  flush->run = [](Turn* self, bool) {
    const std::unique_ptr<FlushTurn> mine(static_cast<FlushTurn*>(self));
    if (mine->flushed) mine->reactor->post(std::move(mine->flushed));
  };
  // Runs whether the lane is live or not: `destroy` of a plugin in process has closed it. The flush goes behind the completions
  // that closing posts: whoever opens the lane again must not have them run live, as they belong to what was there before.
  struct CloseTurn : Turn {
    std::function<void()> close_down;
    Lane* lane;
    Turn* flush;
  };
  auto* closing = new CloseTurn;
  closing->close_down = close_down;
  closing->lane = &lane_;
  closing->flush = flush;
  closing->run = [](Turn* self, bool) {
    const std::unique_ptr<CloseTurn> mine(static_cast<CloseTurn*>(self));
    mine->close_down();
    mine->lane->post(mine->flush);
  };
  lane_.post(closing);
}

void Instance::open() {
  failed_.store(false, std::memory_order_relaxed);
  {
    std::lock_guard lock(lock_);
    ending_ = false;
  }
  lane_.open();
}

void Instance::tell_bindings(uint32_t need, std::vector<pintle_binding> bindings, std::vector<std::string> texts) {
  post_turn(lane_, [this, need, bindings = std::move(bindings), texts = std::move(texts)]() mutable {
    for (size_t i = 0; i < bindings.size(); ++i) {
      bindings[i].provider = text(texts[2 * i]);
      bindings[i].key = text(texts[2 * i + 1]);
    }
    guarded("bindings", [&] { handler_->bindings(*this, need, bindings); });
  });
}

void Instance::fail(const char* where, const std::string& what) {
  failed_.store(true, std::memory_order_relaxed);
  engine_.services().failed(*this, std::string("an exception left ") + where + ": " + what);
}

std::vector<Condition> Instance::conditions() {
  std::lock_guard lock(lock_);
  return conditions_;
}

void Instance::set_condition(Condition condition) {
  {
    std::lock_guard lock(lock_);
    auto found = std::find_if(conditions_.begin(), conditions_.end(),
                              [&](const Condition& c) { return c.type == condition.type; });
    if (found != conditions_.end()) {
      *found = std::move(condition);
    } else if (conditions_.size() < 64) {
      conditions_.push_back(std::move(condition));
    }
  }
  engine_.services().condition_changed(*this);
}

// ---- Timers, watches, blocking work, exits -----------------------------------------------------------------------------------

pintle_code Instance::timer(uint64_t delay_ns, pintle_function function, void* context, uint64_t* id) {
  if (function == nullptr || id == nullptr) return PINTLE_INVALID_ARGUMENT;
  if (!lane_.live()) return PINTLE_UNAVAILABLE;
  const uint64_t mine = engine_.last_token_.fetch_add(1) + 1;
  std::lock_guard lock(lock_);
  if (timers_.size() >= 65536) return PINTLE_RESOURCE_EXHAUSTED;
  *id = mine;
  const uint64_t reactor_id = engine_.reactor().after(delay_ns, [this, mine] {
    post_turn(lane_, [this, mine] {
      Timer timer{};
      {
        std::lock_guard inner(lock_);
        auto found = timers_.find(mine);
        if (found == timers_.end()) return;
        timer = found->second;
        timers_.erase(found);
      }
      guarded("a timer", [&] { timer.function(timer.context); });
    });
  });
  timers_.emplace(mine, Timer{reactor_id, function, context});
  return PINTLE_OK;
}

pintle_code Instance::timer_cancel(uint64_t id) {
  uint64_t reactor_id = 0;
  {
    std::lock_guard lock(lock_);
    auto found = timers_.find(id);
    if (found == timers_.end()) return PINTLE_NOT_FOUND;
    reactor_id = found->second.reactor_id;
    timers_.erase(found);
  }
  engine_.reactor().cancel(reactor_id);
  return PINTLE_OK;
}

pintle_code Instance::watch(int32_t descriptor, uint32_t events, pintle_ready ready, void* context, uint64_t* id) {
  if (ready == nullptr || id == nullptr) return PINTLE_INVALID_ARGUMENT;
  if (!lane_.live()) return PINTLE_UNAVAILABLE;
  const uint64_t mine = engine_.last_token_.fetch_add(1) + 1;
  std::lock_guard lock(lock_);
  if (watches_.size() >= 65536) return PINTLE_RESOURCE_EXHAUSTED;
  Result<uint64_t> reactor_id = engine_.reactor().watch(descriptor, events, [this, mine](uint32_t happened) {
    post_turn(lane_, [this, mine, happened] {
      Watch watch{};
      {
        std::lock_guard inner(lock_);
        auto found = watches_.find(mine);
        if (found == watches_.end()) return;
        watch = found->second;
      }
      guarded("a watch", [&] { watch.ready(watch.context, happened); });
      std::lock_guard inner(lock_);
      if (watches_.count(mine) != 0) engine_.reactor().rearm(watch.reactor_id);
    });
  });
  if (!reactor_id) return static_cast<pintle_code>(reactor_id.status().code());
  watches_.emplace(mine, Watch{*reactor_id, ready, context});
  *id = mine;
  return PINTLE_OK;
}

pintle_code Instance::unwatch(uint64_t id) {
  std::lock_guard lock(lock_);
  auto found = watches_.find(id);
  if (found == watches_.end()) return PINTLE_NOT_FOUND;
  engine_.reactor().unwatch(found->second.reactor_id);
  watches_.erase(found);
  return PINTLE_OK;
}

pintle_code Instance::blocking(pintle_function function, void* context) {
  if (function == nullptr) return PINTLE_INVALID_ARGUMENT;
  if (!lane_.live()) return PINTLE_UNAVAILABLE;
  {
    std::lock_guard lock(lock_);
    if (ending_) return PINTLE_UNAVAILABLE;
    if (blocking_jobs_ >= 4096) return PINTLE_RESOURCE_EXHAUSTED;
    ++blocking_jobs_;
  }
  engine_.reactor().blocking([this, function, context] {
    set_blocking_owner(key().c_str());
    guarded("blocking work", [&] { function(context); });
    set_blocking_owner(nullptr);
    std::function<void()> ended;
    {
      std::lock_guard lock(lock_);
      if (--blocking_jobs_ == 0) ended.swap(blocking_ended_);
    }
    if (ended) ended();
  });
  return PINTLE_OK;
}

void Instance::process_exited(uint64_t life, pintle_exited exited, void* context, int32_t pid, int32_t wait_status) {
  if (exited == nullptr) return;
  post_turn(lane_, [=, this] {
    if (life == life_) guarded("an exit's callback", [&] { exited(context, pid, wait_status); });
  });
}

// ---- The host's table --------------------------------------------------------------------------------------------------------

namespace {

constexpr uint64_t max_text = 64 << 10;

Instance& self(pintle_host* host) { return *static_cast<Instance*>(host); }
std::string owned(const pintle_text& from) { return std::string(view(from).substr(0, max_text)); }

pintle_code code_of(const Status& status) { return static_cast<pintle_code>(status.code()); }

pintle_code api_spawn(pintle_host* host, const pintle_spawn* spawn, pintle_exited exited, void* context,
                      pintle_process* process) {
  if (spawn == nullptr || process == nullptr || spawn->size < sizeof(pintle_spawn)) return PINTLE_INVALID_ARGUMENT;
  Instance& instance = self(host);
  Result<pintle_process> started = instance.engine().services().spawn(instance, *spawn, exited, context);
  if (!started) {
    instance.engine().services().log(instance.name(), PINTLE_LOG_WARN, "spawn: " + started.status().message(), {});
    return code_of(started.status());
  }
  *process = *started;
  return PINTLE_OK;
}

pintle_code api_listen(pintle_host* host, pintle_text name, pintle_text address, int32_t* descriptor) {
  if (descriptor == nullptr || name.size == 0) return PINTLE_INVALID_ARGUMENT;
  Instance& instance = self(host);
  Result<int> socket = instance.engine().services().listen(instance, owned(name), owned(address));
  if (!socket) {
    instance.engine().services().log(instance.name(), PINTLE_LOG_ERROR, "listen: " + socket.status().message(), {});
    return code_of(socket.status());
  }
  *descriptor = *socket;
  return PINTLE_OK;
}

void api_log(pintle_host* host, uint32_t level, pintle_text message, const pintle_field* fields, uint32_t count) {
  Instance& instance = self(host);
  if (level < instance.log_level.load(std::memory_order_relaxed)) return;
  std::vector<LogField> owned_fields;
  for (uint32_t i = 0; i < std::min<uint32_t>(count, 32) && fields != nullptr; ++i)
    owned_fields.push_back({owned(fields[i].name), owned(fields[i].value)});
  instance.engine().services().log(instance.name(), std::min<uint32_t>(level, PINTLE_LOG_ERROR), owned(message),
                                   std::move(owned_fields));
}

}  // namespace

const pintle_host_api host_api = {
    sizeof(pintle_host_api),
    PINTLE_ABI_MAJOR,
    PINTLE_ABI_MINOR,
    [](pintle_host* host, uint64_t binding, uint32_t method, const pintle_message* message,
       const pintle_call_options* options, pintle_completion completion, void* context, uint64_t* id) {
      return self(host).engine().call(self(host), binding, method, message, options, completion, context, id);
    },
    [](pintle_host* host, uint64_t id) { return self(host).cancel(id); },
    [](pintle_host* host, uint64_t id, const pintle_status* status, const pintle_message* reply) {
      return self(host).complete(id, status, reply);
    },
    [](pintle_host* host, uint64_t id, const pintle_message* message) { return self(host).send(id, message); },
    [](pintle_host* host, uint64_t id, uint32_t credit) { return self(host).grant(id, credit); },
    [](pintle_host* host, pintle_function function, void* context) -> pintle_code {
      if (function == nullptr) return PINTLE_INVALID_ARGUMENT;
      Instance& instance = self(host);
      if (!instance.lane().live()) return PINTLE_UNAVAILABLE;
      post_turn(instance.lane(),
                [&instance, function, context] { instance.guarded("a posted turn", [&] { function(context); }); });
      return PINTLE_OK;
    },
    [](pintle_host* host, pintle_function function, void* context) { return self(host).blocking(function, context); },
    [](pintle_host* host, uint64_t delay, pintle_function function, void* context, uint64_t* id) {
      return self(host).timer(delay, function, context, id);
    },
    [](pintle_host* host, uint64_t id) { return self(host).timer_cancel(id); },
    [](pintle_host* host, int32_t descriptor, uint32_t events, pintle_ready ready, void* context, uint64_t* id) {
      return self(host).watch(descriptor, events, ready, context, id);
    },
    [](pintle_host* host, uint64_t id) { return self(host).unwatch(id); },
    api_spawn,
    api_listen,
    [](pintle_host* host, pintle_text name) {
      return code_of(self(host).engine().services().listen_end(self(host), owned(name)));
    },
    api_log,
    [](pintle_host* host) { return self(host).log_level.load(std::memory_order_relaxed); },
    [](pintle_host* host, const pintle_metric* metric, uint64_t* id) -> pintle_code {
      if (metric == nullptr || id == nullptr || metric->size < sizeof(pintle_metric)) return PINTLE_INVALID_ARGUMENT;
      Instance& instance = self(host);
      Result<uint64_t> defined = instance.engine().metrics().define(instance.name(), *metric);
      if (!defined) {
        instance.engine().services().log(instance.name(), PINTLE_LOG_WARN, "metric: " + defined.status().message(), {});
        return code_of(defined.status());
      }
      *id = *defined;
      return PINTLE_OK;
    },
    [](pintle_host* host, uint64_t id, double value) {
      return code_of(self(host).engine().metrics().update(self(host).name(), id, value));
    },
    [](pintle_host* host, pintle_text type, uint32_t is_true, pintle_text reason, pintle_text message) -> pintle_code {
      if (type.size == 0) return PINTLE_INVALID_ARGUMENT;
      self(host).set_condition({owned(type), is_true != 0, owned(reason), owned(message)});
      return PINTLE_OK;
    },
    [](pintle_host*, uint64_t length, pintle_buffer** buffer, uint8_t** data) -> pintle_code {
      constexpr uint64_t limit = 1ull << 30;
      if (buffer == nullptr || data == nullptr) return PINTLE_INVALID_ARGUMENT;
      if (length > limit) return PINTLE_RESOURCE_EXHAUSTED;
      *buffer = make_buffer(length, data);
      return PINTLE_OK;
    },
    [](pintle_host* host, uint64_t token, const pintle_status* status) {
      return self(host).lifecycle_done(token, read_status(status));
    },
    [](pintle_host* host) -> pintle_code {
      self(host).engine().services().retired(self(host));
      return PINTLE_OK;
    },
    [](pintle_host* host, pintle_text_ready ready, void* context) -> pintle_code {
      if (ready == nullptr) return PINTLE_INVALID_ARGUMENT;
      Instance& instance = self(host);
      return code_of(instance.engine().services().metrics_text([&instance, life = instance.life(), ready,
                                                                context](const std::string& text) {
        post_turn(instance.lane(), [&instance, life, ready, context, text] {
          if (instance.life() != life) return;
          instance.guarded("a text that was asked for", [&] { ready(context, pintle_text{text.data(), text.size()}); });
        });
      }));
    },
};

// ---- A plugin's functions ----------------------------------------------------------------------------------------------------

namespace {

class PluginHandler final : public Handler {
 public:
  explicit PluginHandler(const pintle_plugin* entry) : entry_(*entry), told_(std::make_unique<Told>()) {}
  /// An object that did not stop in time is left behind, and its configuration with it: a thread of it may still read that.
  ~PluginHandler() override {
    if (object_ != nullptr) static_cast<void>(told_.release());
  }

  void create(Instance& instance, const InstanceConfig& config, Done done) override {
    told_->config = config;
    told_->name = instance.name();
    told_->key = instance.key();
    told_->view = {sizeof(pintle_instance_config),
                   told_->config.flags,
                   text(told_->name),
                   text(told_->key),
                   text(told_->config.node),
                   text(told_->config.config),
                   text(told_->config.state_directory),
                   text(told_->config.run_directory),
                   text(told_->config.shared_directory)};
    pintle_status status{sizeof(pintle_status), PINTLE_OK, {}};
    pintle_code code = PINTLE_INTERNAL;
    try {
      code = entry_.create(&host_api, &instance, &told_->view, &object_, &status);
    } catch (const std::exception& error) {
      return done(internal_error(std::string("an exception left create: ") + error.what()));
    } catch (...) {
      return done(internal_error("an exception left create"));
    }
    if (code == PINTLE_OK) return done({});
    object_ = nullptr;
    status.code = code;
    Status failed = read_status(&status);
    done(failed.message().empty() ? Status(failed.code(), "create failed without a message") : failed);
  }
  void start(Instance&, uint64_t token) override { entry_.start(object_, token); }
  void drain(Instance&, uint64_t token) override { entry_.drain(object_, token); }
  void retire(Instance&, uint64_t token) override { entry_.retire(object_, token); }
  void stop(Instance&, uint64_t token) override { entry_.stop(object_, token); }
  void destroy(Instance& instance, Done done) override {
    entry_.destroy(std::exchange(object_, nullptr));
    instance.close_lane();  // what was queued behind would touch an object that is gone
    done({});
  }
  void handle(Instance&, const pintle_call& call, const pintle_message& message) override {
    entry_.handle(object_, &call, &message);
  }
  void cancelled(Instance&, uint64_t id) override { entry_.cancelled(object_, id); }
  void stream_message(Instance&, uint64_t id, const pintle_message& message) override {
    entry_.stream_message(object_, id, &message);
  }
  void stream_credit(Instance&, uint64_t id, uint32_t credit) override { entry_.stream_credit(object_, id, credit); }
  void bindings(Instance&, uint32_t need, const std::vector<pintle_binding>& bindings) override {
    entry_.bindings(object_, need, bindings.data(), static_cast<uint32_t>(bindings.size()));
  }

 private:
  struct Told {
    InstanceConfig config;
    std::string name, key;
    pintle_instance_config view{};
  };

  const pintle_plugin entry_;
  std::unique_ptr<Told> told_;
  void* object_ = nullptr;
};

}  // namespace

std::unique_ptr<Handler> make_plugin_handler(const pintle_plugin* entry) {
  return std::make_unique<PluginHandler>(entry);
}

}  // namespace pintle::engine
