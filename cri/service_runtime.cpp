#include "cri/service_runtime.hpp"

#include <algorithm>
#include <boost/json.hpp>

#include "cri/containers.hpp"
#include "cri/sandboxes.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kRuntimeName = "pintle";
constexpr std::string_view kRuntimeVersion = "0.1.0";
// What kubelet and crictl take in one answer is 16 MiB for both streams together; a call between plugins takes 4 MiB.
constexpr size_t kSocketOutputLimit = 8u << 20;
constexpr size_t kPluginOutputLimit = 1u << 20;

bool labels_match(const google::protobuf::Map<std::string, std::string>& selector,
                  const google::protobuf::Map<std::string, std::string>& labels) {
  return std::all_of(selector.begin(), selector.end(), [&](const auto& wanted) {
    const auto found = labels.find(wanted.first);
    return found != labels.end() && found->second == wanted.second;
  });
}

/// Nothing to do where the thing is gone, as CRI wants it of stop and remove.
bool is_gone(const Status& status) { return status.code() == Code::not_found; }

bool is_listed(const Sandbox& sandbox) { return sandbox.record.phase() != PHASE_CREATING; }
bool is_listed(const Container& container) { return container.record.phase() != PHASE_CREATING; }

}  // namespace

RuntimeServer::RuntimeServer(Engine& engine, Gate& gate) : Gated(gate), engine_(engine) {}

class RuntimeServer::Measured {
 public:
  Measured(RuntimeServer& server, std::string operation)
      : server_(server), operation_(std::move(operation)), begun_(std::chrono::steady_clock::now()) {}
  ~Measured() {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun_;
    Host& host = server_.engine_.host();
    auto duration = server_.durations_.find(operation_);
    if (duration == server_.durations_.end()) {
      const std::vector<double> buckets = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10, 60};
      Metric made = host.histogram("pintle_cri_operation_seconds", "How long an operation of CRI took", buckets,
                                   {{"operation", operation_}});
      duration = server_.durations_.emplace(operation_, made).first;
    }
    duration->second.observe(took.count());
    if (succeeded_) return;
    auto failure = server_.failures_.find(operation_);
    if (failure == server_.failures_.end()) {
      Metric made = host.counter("pintle_cri_operation_failures_total", "How many operations of CRI failed",
                                 {{"operation", operation_}});
      failure = server_.failures_.emplace(operation_, made).first;
    }
    failure->second.add();
  }
  const pintle::Status& note(const pintle::Status& status) {
    succeeded_ = status.is_ok();
    return status;
  }

 private:
  RuntimeServer& server_;
  std::string operation_;
  std::chrono::steady_clock::time_point begun_;
  bool succeeded_ = false;
};

// ---- The runtime --------------------------------------------------------------------------------------------------

Task<Result<api::VersionResponse>> RuntimeServer::Version(Call&, const api::VersionRequest&) {
  api::VersionResponse response;
  response.set_version("0.1.0");
  response.set_runtime_name(std::string(kRuntimeName));
  response.set_runtime_version(std::string(kRuntimeVersion));
  response.set_runtime_api_version("v1");
  co_return response;
}

Task<Result<api::StatusResponse>> RuntimeServer::Status(Call&, const api::StatusRequest& request) {
  Task<Engine::Health> asking = engine_.health();
  const Engine::Health health = co_await std::move(asking);
  api::StatusResponse response;
  const auto condition = [&](const char* type, bool good, const std::string& reason, const std::string& message) {
    api::RuntimeCondition* made = response.mutable_status()->add_conditions();
    made->set_type(type);
    made->set_status(good);
    made->set_reason(reason);
    made->set_message(message);
  };
  condition("RuntimeReady", health.runtime_ready, health.runtime_reason, health.runtime_message);
  condition("NetworkReady", health.network_ready, health.network_reason, health.network_message);
  const auto add_handler = [&](const std::string& name, const Binding* binding) {
    api::RuntimeHandler* handler = response.add_runtime_handlers();
    handler->set_name(name);
    api::RuntimeHandlerFeatures* features = handler->mutable_features();
    features->set_recursive_read_only_mounts(true);
    features->set_user_namespaces(binding && binding->has_feature(RuntimeStub::Interface::feature_user_namespaces));
  };
  const Result<Providers::Choice> usual = engine_.providers().choose_runtime("");
  add_handler("", usual ? &usual->binding : nullptr);
  boost::json::array backends;
  for (const Binding& binding : engine_.providers().runtimes()) {
    const runtime_api::DescribeResponse& description = engine_.providers().description(binding.key);
    backends.push_back({{"key", binding.key},
                        {"name", description.name()},
                        {"version", description.version()},
                        {"retiring", binding.retiring}});
    if (binding.retiring) continue;
    add_handler(binding.provider, &binding);
    for (const std::string& handler : description.handlers()) add_handler(handler, &binding);
  }
  response.mutable_features()->set_supplemental_groups_policy(true);
  if (request.verbose()) {
    boost::json::array networks;
    for (const Binding& binding : engine_.providers().networks())
      networks.push_back({{"key", binding.key}, {"retiring", binding.retiring}});
    const boost::json::object config = {{"stateFolder", engine_.settings().state_folder},
                                        {"runFolder", engine_.settings().run_folder},
                                        {"runtimes", std::move(backends)},
                                        {"networks", std::move(networks)},
                                        {"sandboxes", engine_.sandbox_index().size()},
                                        {"containers", engine_.container_index().size()}};
    (*response.mutable_info())["config"] = boost::json::serialize(config);
  }
  co_return response;
}

Task<Result<api::RuntimeConfigResponse>> RuntimeServer::RuntimeConfig(Call&, const api::RuntimeConfigRequest&) {
  Result<Providers::Choice> runtime = engine_.providers().choose_runtime("");
  if (!runtime) co_return runtime.status();
  const std::string& driver = engine_.providers().description(runtime->binding.key).cgroup_driver();
  api::RuntimeConfigResponse response;
  response.mutable_linux()->set_cgroup_driver(driver == "systemd" ? api::SYSTEMD : api::CGROUPFS);
  co_return response;
}

Task<Result<api::UpdateRuntimeConfigResponse>> RuntimeServer::UpdateRuntimeConfig(
    Call&, const api::UpdateRuntimeConfigRequest&) {
  // The pod network takes its address range from its own config, not from kubelet's.
  co_return api::UpdateRuntimeConfigResponse();
}

// ---- Sandboxes ----------------------------------------------------------------------------------------------------

Task<Result<api::RunPodSandboxResponse>> RuntimeServer::RunPodSandbox(Call& call,
                                                                      const api::RunPodSandboxRequest& request) {
  Measured measured(*this, "run_pod_sandbox");
  Task<Result<std::string>> running = engine_.sandboxes().run(CallContext(call), request);
  Result<std::string> id = co_await std::move(running);
  if (!measured.note(id.status())) co_return id.status();
  api::RunPodSandboxResponse response;
  response.set_pod_sandbox_id(*id);
  co_return response;
}

Task<Result<api::StopPodSandboxResponse>> RuntimeServer::StopPodSandbox(Call& call,
                                                                        const api::StopPodSandboxRequest& request) {
  Measured measured(*this, "stop_pod_sandbox");
  Result<std::shared_ptr<Sandbox>> sandbox = engine_.sandbox_index().find(request.pod_sandbox_id());
  if (!sandbox && !is_gone(sandbox.status())) co_return sandbox.status();
  if (sandbox) {
    Task<pintle::Status> stopping = engine_.sandboxes().stop(CallContext(call), *sandbox);
    if (pintle::Status stopped = co_await std::move(stopping); !stopped) co_return stopped;
  }
  measured.note({});
  co_return api::StopPodSandboxResponse();
}

Task<Result<api::RemovePodSandboxResponse>> RuntimeServer::RemovePodSandbox(
    Call& call, const api::RemovePodSandboxRequest& request) {
  Measured measured(*this, "remove_pod_sandbox");
  Result<std::shared_ptr<Sandbox>> sandbox = engine_.sandbox_index().find(request.pod_sandbox_id());
  if (!sandbox && !is_gone(sandbox.status())) co_return sandbox.status();
  if (sandbox) {
    Task<pintle::Status> removing = engine_.sandboxes().remove(CallContext(call), *sandbox);
    if (pintle::Status removed = co_await std::move(removing); !removed) co_return removed;
  }
  measured.note({});
  co_return api::RemovePodSandboxResponse();
}

Task<Result<api::PodSandboxStatusResponse>> RuntimeServer::PodSandboxStatus(
    Call&, const api::PodSandboxStatusRequest& request) {
  Result<std::shared_ptr<Sandbox>> sandbox = engine_.sandbox_index().find(request.pod_sandbox_id());
  if (!sandbox) co_return sandbox.status();
  api::PodSandboxStatusResponse response;
  *response.mutable_status() = engine_.sandboxes().status(**sandbox);
  if (request.verbose()) (*response.mutable_info())["info"] = engine_.sandboxes().verbose_info(**sandbox);
  for (const std::string& id : (*sandbox)->containers) {
    if (const std::shared_ptr<Container> container = engine_.container_index().get(id)) {
      *response.add_containers_statuses() = engine_.containers().status(*container);
    }
  }
  response.set_timestamp(now_ns());
  co_return response;
}

Task<Result<api::ListPodSandboxResponse>> RuntimeServer::ListPodSandbox(Call&,
                                                                        const api::ListPodSandboxRequest& request) {
  const api::PodSandboxFilter& filter = request.filter();
  api::ListPodSandboxResponse response;
  const auto add = [&](const Sandbox& sandbox) {
    if (!is_listed(sandbox) || (filter.has_state() && filter.state().state() != sandbox.summary.state())) return;
    if (!labels_match(filter.label_selector(), sandbox.summary.labels())) return;
    *response.add_items() = sandbox.summary;
  };
  if (filter.id().empty()) {
    engine_.sandbox_index().for_each(add);
  } else if (Result<std::shared_ptr<Sandbox>> sandbox = engine_.sandbox_index().find(filter.id()); sandbox) {
    add(**sandbox);
  }
  co_return response;
}

// ---- Containers ---------------------------------------------------------------------------------------------------

Task<Result<api::CreateContainerResponse>> RuntimeServer::CreateContainer(Call& call,
                                                                          const api::CreateContainerRequest& request) {
  Measured measured(*this, "create_container");
  Result<std::shared_ptr<Sandbox>> sandbox = engine_.sandbox_index().find(request.pod_sandbox_id());
  if (!sandbox) co_return sandbox.status();
  Task<Result<std::string>> creating = engine_.containers().create(CallContext(call), *sandbox, request.config());
  Result<std::string> id = co_await std::move(creating);
  if (!measured.note(id.status())) co_return id.status();
  api::CreateContainerResponse response;
  response.set_container_id(*id);
  co_return response;
}

Task<Result<api::StartContainerResponse>> RuntimeServer::StartContainer(Call& call,
                                                                        const api::StartContainerRequest& request) {
  Measured measured(*this, "start_container");
  Result<std::shared_ptr<Container>> container = engine_.container_index().find(request.container_id());
  if (!container) co_return container.status();
  Task<pintle::Status> starting = engine_.containers().start(CallContext(call), *container);
  const pintle::Status started = co_await std::move(starting);
  if (!measured.note(started)) co_return started;
  co_return api::StartContainerResponse();
}

Task<Result<api::StopContainerResponse>> RuntimeServer::StopContainer(Call& call,
                                                                      const api::StopContainerRequest& request) {
  Measured measured(*this, "stop_container");
  Result<std::shared_ptr<Container>> container = engine_.container_index().find(request.container_id());
  if (!container && !is_gone(container.status())) co_return container.status();
  if (container) {
    // A client that goes away wakes the wait.
    call.on_cancel([held = *container] { held->changed.notify_all(); });
    const std::chrono::seconds grace(std::clamp<int64_t>(request.timeout(), 0, 365 * 24 * 3600));
    Task<pintle::Status> stopping = engine_.containers().stop(CallContext(call), *container, grace);
    if (pintle::Status stopped = co_await std::move(stopping); !stopped) co_return stopped;
  }
  measured.note({});
  co_return api::StopContainerResponse();
}

Task<Result<api::RemoveContainerResponse>> RuntimeServer::RemoveContainer(Call& call,
                                                                          const api::RemoveContainerRequest& request) {
  Measured measured(*this, "remove_container");
  Result<std::shared_ptr<Container>> container = engine_.container_index().find(request.container_id());
  if (!container && !is_gone(container.status())) co_return container.status();
  if (container) {
    Task<pintle::Status> removing = engine_.containers().remove(CallContext(call), *container);
    if (pintle::Status removed = co_await std::move(removing); !removed) co_return removed;
  }
  measured.note({});
  co_return api::RemoveContainerResponse();
}

Task<Result<api::ListContainersResponse>> RuntimeServer::ListContainers(Call&,
                                                                        const api::ListContainersRequest& request) {
  const api::ContainerFilter& filter = request.filter();
  api::ListContainersResponse response;
  std::string sandbox_id = filter.pod_sandbox_id();
  if (!sandbox_id.empty()) {
    Result<std::shared_ptr<Sandbox>> sandbox = engine_.sandbox_index().find(sandbox_id);
    if (!sandbox) co_return response;
    sandbox_id = (*sandbox)->record.id();
  }
  const auto add = [&](const Container& container) {
    if (!is_listed(container) || (filter.has_state() && filter.state().state() != container.state())) return;
    if (!sandbox_id.empty() && container.record.sandbox_id() != sandbox_id) return;
    if (!labels_match(filter.label_selector(), container.summary.labels())) return;
    *response.add_containers() = container.summary;
  };
  if (filter.id().empty()) {
    engine_.container_index().for_each(add);
  } else if (Result<std::shared_ptr<Container>> container = engine_.container_index().find(filter.id()); container) {
    add(**container);
  }
  co_return response;
}

Task<Result<api::ContainerStatusResponse>> RuntimeServer::ContainerStatus(Call&,
                                                                          const api::ContainerStatusRequest& request) {
  Result<std::shared_ptr<Container>> container = engine_.container_index().find(request.container_id());
  if (!container) co_return container.status();
  api::ContainerStatusResponse response;
  *response.mutable_status() = engine_.containers().status(**container);
  if (request.verbose()) (*response.mutable_info())["info"] = engine_.containers().verbose_info(**container);
  co_return response;
}

Task<Result<api::UpdateContainerResourcesResponse>> RuntimeServer::UpdateContainerResources(
    Call& call, const api::UpdateContainerResourcesRequest& request) {
  Measured measured(*this, "update_container_resources");
  Result<std::shared_ptr<Container>> container = engine_.container_index().find(request.container_id());
  if (!container) co_return container.status();
  Task<pintle::Status> updating =
      engine_.containers().update(CallContext(call), *container, request.linux(), request.annotations());
  const pintle::Status updated = co_await std::move(updating);
  if (!measured.note(updated)) co_return updated;
  co_return api::UpdateContainerResourcesResponse();
}

Task<Result<api::ReopenContainerLogResponse>> RuntimeServer::ReopenContainerLog(
    Call& call, const api::ReopenContainerLogRequest& request) {
  Result<std::shared_ptr<Container>> container = engine_.container_index().find(request.container_id());
  if (!container) co_return container.status();
  Task<pintle::Status> reopening = engine_.containers().reopen_log(CallContext(call), *container);
  if (pintle::Status reopened = co_await std::move(reopening); !reopened) co_return reopened;
  co_return api::ReopenContainerLogResponse();
}

Task<Result<api::ExecSyncResponse>> RuntimeServer::ExecSync(Call& call, const api::ExecSyncRequest& request) {
  Measured measured(*this, "exec_sync");
  Result<std::shared_ptr<Container>> container = engine_.container_index().find(request.container_id());
  if (!container) co_return container.status();
  const size_t limit = call.caller() == kSocketCaller ? kSocketOutputLimit : kPluginOutputLimit;
  Task<Result<api::ExecSyncResponse>> executing =
      engine_.containers().exec_sync(CallContext(call), *container, request, limit);
  Result<api::ExecSyncResponse> executed = co_await std::move(executing);
  measured.note(executed.status());
  co_return executed;
}

// ---- Streaming ----------------------------------------------------------------------------------------------------

Task<Result<api::ExecResponse>> RuntimeServer::Exec(Call&, const api::ExecRequest&) {
  co_return unimplemented("interactive exec is not served yet: use `crictl exec -s` (ExecSync) or `pintle pod exec`");
}

Task<Result<api::AttachResponse>> RuntimeServer::Attach(Call&, const api::AttachRequest&) {
  co_return unimplemented("attach is not served yet: follow the container's output with `crictl logs -f`");
}

Task<Result<api::PortForwardResponse>> RuntimeServer::PortForward(Call&, const api::PortForwardRequest&) {
  co_return unimplemented("port forwarding is not served yet: connect to the pod's address, which this node can reach");
}

Task<pintle::Status> RuntimeServer::GetContainerEvents(Call&, const api::GetEventsRequest&,
                                                       StreamWriter<api::ContainerEventResponse>& writer) {
  return engine_.events().subscribe(writer);
}

// ---- Statistics ---------------------------------------------------------------------------------------------------

Task<Result<api::ContainerStatsResponse>> RuntimeServer::ContainerStats(Call& call,
                                                                        const api::ContainerStatsRequest& request) {
  Result<std::shared_ptr<Container>> container = engine_.container_index().find(request.container_id());
  if (!container) co_return container.status();
  std::function<bool(const Container&)> wanted = [id = (*container)->record.id()](const Container& other) {
    return other.record.id() == id;
  };
  Task<std::vector<api::ContainerStats>> asking = engine_.containers().stats(CallContext(call), std::move(wanted));
  std::vector<api::ContainerStats> stats = co_await std::move(asking);
  if (stats.empty())
    co_return failed_precondition("container " + (*container)->record.id() + " has no statistics: it does not run");
  api::ContainerStatsResponse response;
  *response.mutable_stats() = std::move(stats.front());
  co_return response;
}

Task<Result<api::ListContainerStatsResponse>> RuntimeServer::ListContainerStats(
    Call& call, const api::ListContainerStatsRequest& request) {
  const api::ContainerStatsFilter filter = request.filter();
  std::function<bool(const Container&)> wanted = [filter](const Container& container) {
    return container.record.id().starts_with(filter.id()) &&
           container.record.sandbox_id().starts_with(filter.pod_sandbox_id()) &&
           labels_match(filter.label_selector(), container.summary.labels());
  };
  Task<std::vector<api::ContainerStats>> asking = engine_.containers().stats(CallContext(call), std::move(wanted));
  std::vector<api::ContainerStats> stats = co_await std::move(asking);
  api::ListContainerStatsResponse response;
  for (api::ContainerStats& one : stats) *response.add_stats() = std::move(one);
  co_return response;
}

PodToMeasure RuntimeServer::to_measure(const Sandbox& sandbox) const {
  PodToMeasure pod;
  pod.cgroup = sandbox.record.cgroup_parent();
  pod.has_own_network = !sandbox.record.network_namespace().empty();
  for (const std::string& id : sandbox.containers) {
    const std::shared_ptr<Container> container = engine_.container_index().get(id);
    if (container && container->pid > 0) pod.pids.push_back(container->pid);
  }
  return pod;
}

api::PodSandboxStats RuntimeServer::pod_stats(const Sandbox& sandbox, const PodUsage& usage,
                                              std::vector<api::ContainerStats> containers) {
  api::PodSandboxStats stats;
  stats.mutable_attributes()->set_id(sandbox.record.id());
  *stats.mutable_attributes()->mutable_metadata() = sandbox.record.config().metadata();
  *stats.mutable_attributes()->mutable_labels() = sandbox.record.config().labels();
  *stats.mutable_attributes()->mutable_annotations() = sandbox.record.config().annotations();
  api::LinuxPodSandboxStats* linux_stats = stats.mutable_linux();
  const int64_t now = now_ns();
  uint64_t cpu = 0, cores = 0, working_set = 0, memory = 0, anonymous = 0, faults = 0, major_faults = 0;
  for (const api::ContainerStats& container : containers) {
    cpu += container.cpu().usage_core_nano_seconds().value();
    cores += container.cpu().usage_nano_cores().value();
    working_set += container.memory().working_set_bytes().value();
    memory += container.memory().usage_bytes().value();
    anonymous += container.memory().rss_bytes().value();
    faults += container.memory().page_faults().value();
    major_faults += container.memory().major_page_faults().value();
  }
  if (usage.whole) {
    cpu = usage.whole->cpu_nanoseconds;
    working_set = usage.whole->working_set_bytes;
    memory = usage.whole->memory_bytes;
    anonymous = usage.whole->anonymous_bytes;
    faults = usage.whole->page_faults;
    major_faults = usage.whole->major_page_faults;
  }
  linux_stats->mutable_cpu()->set_timestamp(now);
  linux_stats->mutable_cpu()->mutable_usage_core_nano_seconds()->set_value(cpu);
  linux_stats->mutable_cpu()->mutable_usage_nano_cores()->set_value(cores);
  api::MemoryUsage& used = *linux_stats->mutable_memory();
  used.set_timestamp(now);
  used.mutable_working_set_bytes()->set_value(working_set);
  used.mutable_usage_bytes()->set_value(memory);
  used.mutable_rss_bytes()->set_value(anonymous);
  used.mutable_page_faults()->set_value(faults);
  used.mutable_major_page_faults()->set_value(major_faults);
  if (usage.whole && usage.whole->memory_limit > working_set)
    used.mutable_available_bytes()->set_value(usage.whole->memory_limit - working_set);
  linux_stats->mutable_process()->set_timestamp(now);
  linux_stats->mutable_process()->mutable_process_count()->set_value(usage.processes);
  if (!usage.interfaces.empty()) {
    linux_stats->mutable_network()->set_timestamp(now);
    const std::string& own = sandbox.record.attachment().interface_name();
    for (const proc::InterfaceCounters& one : usage.interfaces) {
      const bool is_default = one.name == own || (own.empty() && &one == &usage.interfaces.front());
      api::NetworkInterfaceUsage& out = is_default ? *linux_stats->mutable_network()->mutable_default_interface()
                                                   : *linux_stats->mutable_network()->add_interfaces();
      out.set_name(one.name);
      out.mutable_rx_bytes()->set_value(one.received_bytes);
      out.mutable_rx_errors()->set_value(one.received_errors);
      out.mutable_tx_bytes()->set_value(one.sent_bytes);
      out.mutable_tx_errors()->set_value(one.sent_errors);
    }
  }
  for (api::ContainerStats& container : containers) *linux_stats->add_containers() = std::move(container);
  return stats;
}

Task<Result<api::PodSandboxStatsResponse>> RuntimeServer::PodSandboxStats(Call& call,
                                                                          const api::PodSandboxStatsRequest& request) {
  Result<std::shared_ptr<Sandbox>> sandbox = engine_.sandbox_index().find(request.pod_sandbox_id());
  if (!sandbox) co_return sandbox.status();
  std::function<bool(const Container&)> wanted = [id = (*sandbox)->record.id()](const Container& container) {
    return container.record.sandbox_id() == id;
  };
  Task<std::vector<api::ContainerStats>> asking = engine_.containers().stats(CallContext(call), std::move(wanted));
  std::vector<api::ContainerStats> stats = co_await std::move(asking);
  auto measure = [pod = to_measure(**sandbox)] { return measure_pods({pod}).front(); };
  Task<PodUsage> measuring = engine_.host().blocking(std::move(measure));
  const PodUsage usage = co_await std::move(measuring);
  api::PodSandboxStatsResponse response;
  *response.mutable_stats() = pod_stats(**sandbox, usage, std::move(stats));
  co_return response;
}

Task<Result<api::ListPodSandboxStatsResponse>> RuntimeServer::ListPodSandboxStats(
    Call& call, const api::ListPodSandboxStatsRequest& request) {
  const api::PodSandboxStatsFilter filter = request.filter();
  std::function<bool(const Container&)> all = [](const Container&) { return true; };
  Task<std::vector<api::ContainerStats>> asking = engine_.containers().stats(CallContext(call), std::move(all));
  std::vector<api::ContainerStats> stats = co_await std::move(asking);
  std::map<std::string, std::vector<api::ContainerStats>> by_sandbox;
  for (api::ContainerStats& one : stats) {
    const std::shared_ptr<Container> container = engine_.container_index().get(one.attributes().id());
    if (container) by_sandbox[container->record.sandbox_id()].push_back(std::move(one));
  }
  std::vector<std::shared_ptr<Sandbox>> wanted;
  std::vector<PodToMeasure> pods;
  for (std::shared_ptr<Sandbox>& sandbox : engine_.sandbox_index().all()) {
    if (sandbox->summary.state() != api::SANDBOX_READY || !sandbox->record.id().starts_with(filter.id())) continue;
    if (!labels_match(filter.label_selector(), sandbox->summary.labels())) continue;
    pods.push_back(to_measure(*sandbox));
    wanted.push_back(std::move(sandbox));
  }
  auto measure = [pods = std::move(pods)] { return measure_pods(pods); };
  Task<std::vector<PodUsage>> measuring = engine_.host().blocking(std::move(measure));
  const std::vector<PodUsage> usages = co_await std::move(measuring);
  api::ListPodSandboxStatsResponse response;
  for (size_t i = 0; i < wanted.size(); ++i)
    *response.add_stats() = pod_stats(*wanted[i], usages[i], std::move(by_sandbox[wanted[i]->record.id()]));
  co_return response;
}

}  // namespace pintle::cri
