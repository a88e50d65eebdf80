#include <algorithm>
#include <pintle/plugin.hpp>

namespace pintle {

const std::vector<Binding>& Plugin::bindings(std::string_view need) const {
  static const std::vector<Binding> none;
  const auto found = bindings_.find(need);
  return found == bindings_.end() ? none : found->second;
}

PluginEdge::PluginEdge(const PluginFacts& facts, const pintle_host_api* api, pintle_host* host,
                       const pintle_instance_config& config)
    : facts_(facts), host_(api, host, config) {}

pintle_code PluginEdge::create(const PluginFacts& facts, Factory factory, const pintle_host_api* api, pintle_host* host,
                               const pintle_instance_config* config, void** instance, pintle_status* status) noexcept {
  static thread_local std::string refusal;  // lives until the next function of the plugin is called on this thread
  Status failure;
  try {
    std::unique_ptr<PluginEdge> edge(new PluginEdge(facts, api, host, *config));
    edge->plugin_ = factory(edge->host_);
    for (uint32_t i = 0; i < facts.provide_count; ++i) {
      const std::string_view wanted = view(facts.provides[i]);
      const auto& all = edge->plugin_->implementations_;
      const auto found = std::find_if(all.begin(), all.end(), [&](const Implementation* implementation) {
        return implementation->interface_info().name == wanted;
      });
      if (found == all.end()) {
        throw PluginError(internal_error("the manifest provides " + std::string(wanted) +
                                         ", but the plugin's class does not: call provide() in its constructor"));
      }
      edge->by_index_.push_back(*found);
    }
    *instance = edge.release();
    return PINTLE_OK;
  } catch (const PluginError& error) {
    failure = error.status();
  } catch (const std::exception& error) {
    failure = internal_error(std::string("an exception left the plugin's constructor: ") + error.what());
  } catch (...) {
    failure = internal_error("an exception of an unknown type left the plugin's constructor");
  }
  refusal = failure.message();
  if (status) {
    status->code = static_cast<pintle_code>(failure.code());
    status->message = text_of(refusal);
  }
  return static_cast<pintle_code>(failure.code());
}

detail::Detached PluginEdge::drive(PluginEdge* edge, uint64_t token, Task<Status> (Plugin::*member)()) {
  Status status;
  try {
    Task<Status> task = (edge->plugin_.get()->*member)();
    status = co_await std::move(task);
  } catch (const std::exception& error) {
    status = internal_error(std::string("an exception left the plugin: ") + error.what());
  } catch (...) {
    status = internal_error("an exception of an unknown type left the plugin");
  }
  pintle_status raw{};
  raw.size = sizeof(raw);
  raw.code = static_cast<pintle_code>(status.code());
  raw.message = text_of(status.message());
  edge->host_.api()->lifecycle_done(edge->host_.raw(), token, &raw);
}

void PluginEdge::start(void* instance, uint64_t token) noexcept {
  drive(static_cast<PluginEdge*>(instance), token, &Plugin::start);
}
void PluginEdge::drain(void* instance, uint64_t token) noexcept {
  drive(static_cast<PluginEdge*>(instance), token, &Plugin::drain);
}
void PluginEdge::retire(void* instance, uint64_t token) noexcept {
  drive(static_cast<PluginEdge*>(instance), token, &Plugin::retire);
}
void PluginEdge::stop(void* instance, uint64_t token) noexcept {
  drive(static_cast<PluginEdge*>(instance), token, &Plugin::stop);
}
void PluginEdge::destroy(void* instance) noexcept { delete static_cast<PluginEdge*>(instance); }

void PluginEdge::handle(void* instance, const pintle_call* call, const pintle_message* message) noexcept {
  auto* edge = static_cast<PluginEdge*>(instance);
  const auto refuse = [&](const Status& status) {
    pintle_status raw{};
    raw.size = sizeof(raw);
    raw.code = static_cast<pintle_code>(status.code());
    raw.message = text_of(status.message());
    edge->host_.api()->complete(edge->host_.raw(), call->call_id, &raw, nullptr);
  };
  if (call->interface_index >= edge->by_index_.size()) {
    refuse(unimplemented("this plugin provides no interface number " + std::to_string(call->interface_index)));
    return;
  }
  try {
    edge->by_index_[call->interface_index]->handle(edge->host_, *call, *message);
  } catch (const std::exception& error) {
    refuse(internal_error(std::string("an exception left the plugin: ") + error.what()));
  } catch (...) {
    refuse(internal_error("an exception of an unknown type left the plugin"));
  }
}

void PluginEdge::cancelled(void* instance, uint64_t call_id) noexcept {
  for (Implementation* implementation : static_cast<PluginEdge*>(instance)->by_index_)
    implementation->cancelled(call_id);
}

void PluginEdge::stream_message(void* instance, uint64_t call_id, const pintle_message*) noexcept {
  // No schema has a stream from the caller yet, so a message on one is a caller's error: the call ends.
  auto* edge = static_cast<PluginEdge*>(instance);
  pintle_status raw{};
  raw.size = sizeof(raw);
  raw.code = PINTLE_INVALID_ARGUMENT;
  raw.message = text_of("this method takes no stream from its caller");
  edge->host_.api()->complete(edge->host_.raw(), call_id, &raw, nullptr);
}

void PluginEdge::stream_credit(void* instance, uint64_t call_id, uint32_t credit) noexcept {
  for (Implementation* implementation : static_cast<PluginEdge*>(instance)->by_index_)
    implementation->credit(call_id, credit);
}

void PluginEdge::bindings(void* instance, uint32_t need, const pintle_binding* bindings, uint32_t count) noexcept {
  auto* edge = static_cast<PluginEdge*>(instance);
  if (need >= edge->facts_.need_count) return;
  const std::string name(view(edge->facts_.needs[need]));
  std::vector<Binding> now;
  for (uint32_t i = 0; i < count; ++i) {
    now.push_back({bindings[i].binding_id, bindings[i].revision, bindings[i].features,
                   (bindings[i].flags & PINTLE_BINDING_RETIRING) != 0, std::string(view(bindings[i].provider)),
                   std::string(view(bindings[i].key))});
  }
  edge->plugin_->bindings_[name] = std::move(now);
  try {
    edge->plugin_->bindings_changed(name);
  } catch (const std::exception& error) {
    edge->host_.error("an exception left bindings_changed", {{"what", error.what()}});
  } catch (...) {
    edge->host_.error("an exception of an unknown type left bindings_changed");
  }
}

}  // namespace pintle
