#pragma once

/// A container runtime for tests that has no containers: CRI's two services over tables in memory. What a real one does by itself
/// (a container ends, a sandbox is lost, an image comes) is told to it.

#include <algorithm>
#include <chrono>
#include <map>
#include <pintle/plugin.hpp>
#include <set>
#include <string>
#include <vector>

#include "cri/api.pintle.hpp"

namespace pintle::agent::test {

namespace cri = ::runtime::v1;

class FakeRuntime final : public Plugin, public cri::RuntimeService, public cri::ImageService {
 public:
  explicit FakeRuntime(Host& host) : Plugin(host) {
    provide(static_cast<cri::RuntimeService&>(*this));
    provide(static_cast<cri::ImageService&>(*this));
    instance = this;
    images = {"web:1", "web:2", "sidecar:1"};
  }
  static inline FakeRuntime* instance = nullptr;

  // What tests set and see.
  bool tells_events = true;
  bool refuses_sandboxes = false;
  bool refuses_lists = false;
  std::map<std::string, pintle::Status> refuses_stop_of;  ///< once; by title, "web/web"
  std::string refuses_start_of;                           ///< a container's name
  std::chrono::milliseconds stop_takes{0};                ///< or until the call is cancelled
  std::set<std::string> images;
  std::map<std::string, cri::PodSandboxStatus> sandboxes;
  std::map<std::string, cri::PodSandboxConfig> sandbox_configs;
  std::map<std::string, cri::ContainerStatus> containers;
  std::map<std::string, cri::ContainerConfig> container_configs;
  std::map<std::string, std::string> sandbox_of;
  std::vector<std::string> history;  ///< "run web", "start web/web 0", "stop web/web 30", "remove web"
  int list_calls = 0;
  std::map<std::string, int> exec_codes;  ///< by command; others end with 0
  std::map<std::string, std::chrono::milliseconds> exec_takes;
  bool ignores_cancel = false;  ///< of commands

  void exit(const std::string& id, int code) {
    cri::ContainerStatus& status = containers.at(id);
    status.set_state(cri::CONTAINER_EXITED);
    status.set_exit_code(code);
    status.set_finished_at(now());
    publish(id, cri::CONTAINER_STOPPED_EVENT);
  }
  void lose(const std::string& sandbox) {
    sandboxes.at(sandbox).set_state(cri::SANDBOX_NOTREADY);
    for (auto& [id, status] : containers)
      if (sandbox_of.at(id) == sandbox && status.state() == cri::CONTAINER_RUNNING) exit(id, 137);
  }
  /// Ids of containers of that name that run.
  std::vector<std::string> running(const std::string& name) const {
    std::vector<std::string> ids;
    for (const auto& [id, status] : containers)
      if (status.metadata().name() == name && status.state() == cri::CONTAINER_RUNNING) ids.push_back(id);
    return ids;
  }
  bool did(const std::string& what) const { return std::find(history.begin(), history.end(), what) != history.end(); }

  Task<Result<cri::VersionResponse>> Version(Call&, const cri::VersionRequest&) override {
    cri::VersionResponse response;
    response.set_runtime_name("fake");
    co_return response;
  }

  Task<Result<cri::RunPodSandboxResponse>> RunPodSandbox(Call&, const cri::RunPodSandboxRequest& request) override {
    if (refuses_sandboxes) co_return unavailable("no network");
    const std::string id = "sandbox" + std::to_string(++next_id_);
    cri::PodSandboxStatus& status = sandboxes[id];
    status.set_id(id);
    *status.mutable_metadata() = request.config().metadata();
    status.set_state(cri::SANDBOX_READY);
    status.set_created_at(now());
    *status.mutable_labels() = request.config().labels();
    *status.mutable_annotations() = request.config().annotations();
    status.mutable_network()->set_ip("10.85.0." + std::to_string(next_id_));
    sandbox_configs[id] = request.config();
    history.push_back("run " + request.config().metadata().name());
    publish_of_sandbox(id, id, cri::CONTAINER_STARTED_EVENT);
    cri::RunPodSandboxResponse response;
    response.set_pod_sandbox_id(id);
    co_return response;
  }
  Task<Result<cri::StopPodSandboxResponse>> StopPodSandbox(Call&, const cri::StopPodSandboxRequest& request) override {
    if (sandboxes.contains(request.pod_sandbox_id())) {
      lose(request.pod_sandbox_id());
      publish_of_sandbox(request.pod_sandbox_id(), request.pod_sandbox_id(), cri::CONTAINER_STOPPED_EVENT);
    }
    co_return cri::StopPodSandboxResponse();
  }
  Task<Result<cri::RemovePodSandboxResponse>> RemovePodSandbox(Call&,
                                                               const cri::RemovePodSandboxRequest& request) override {
    const std::string id = request.pod_sandbox_id();
    if (sandboxes.contains(id)) {
      history.push_back("remove " + sandboxes[id].metadata().name());
      for (auto one = sandbox_of.begin(); one != sandbox_of.end();) {
        if (one->second == id) {
          containers.erase(one->first);
          container_configs.erase(one->first);
          one = sandbox_of.erase(one);
        } else {
          ++one;
        }
      }
      sandboxes.erase(id);
    }
    co_return cri::RemovePodSandboxResponse();
  }
  Task<Result<cri::PodSandboxStatusResponse>> PodSandboxStatus(Call&,
                                                               const cri::PodSandboxStatusRequest& request) override {
    const auto found = sandboxes.find(request.pod_sandbox_id());
    if (found == sandboxes.end()) co_return not_found("no such sandbox");
    cri::PodSandboxStatusResponse response;
    *response.mutable_status() = found->second;
    co_return response;
  }
  Task<Result<cri::ListPodSandboxResponse>> ListPodSandbox(Call&, const cri::ListPodSandboxRequest& request) override {
    ++list_calls;
    if (refuses_lists) co_return unavailable("the runtime is away");
    cri::ListPodSandboxResponse response;
    for (const auto& [id, status] : sandboxes) {
      if (!matches(status.labels(), request.filter().label_selector())) continue;
      cri::PodSandbox& item = *response.add_items();
      item.set_id(id);
      *item.mutable_metadata() = status.metadata();
      item.set_state(status.state());
      item.set_created_at(status.created_at());
      *item.mutable_labels() = status.labels();
      *item.mutable_annotations() = status.annotations();
    }
    co_return response;
  }

  Task<Result<cri::CreateContainerResponse>> CreateContainer(Call&,
                                                             const cri::CreateContainerRequest& request) override {
    const std::string id = "container" + std::to_string(++next_id_);
    cri::ContainerStatus& status = containers[id];
    status.set_id(id);
    *status.mutable_metadata() = request.config().metadata();
    status.set_state(cri::CONTAINER_CREATED);
    status.set_created_at(now());
    *status.mutable_labels() = request.config().labels();
    *status.mutable_annotations() = request.config().annotations();
    container_configs[id] = request.config();
    sandbox_of[id] = request.pod_sandbox_id();
    cri::CreateContainerResponse response;
    response.set_container_id(id);
    co_return response;
  }
  Task<Result<cri::StartContainerResponse>> StartContainer(Call&, const cri::StartContainerRequest& request) override {
    cri::ContainerStatus& status = containers.at(request.container_id());
    if (status.metadata().name() == refuses_start_of) co_return failed_precondition("exec: no such file");
    status.set_state(cri::CONTAINER_RUNNING);
    status.set_started_at(now());
    history.push_back("start " + title(request.container_id()) + " " + std::to_string(status.metadata().attempt()));
    publish(request.container_id(), cri::CONTAINER_STARTED_EVENT);
    co_return cri::StartContainerResponse();
  }
  Task<Result<cri::StopContainerResponse>> StopContainer(Call& call,
                                                         const cri::StopContainerRequest& request) override {
    const std::string id = request.container_id();
    if (!containers.contains(id)) co_return cri::StopContainerResponse();
    history.push_back("stop " + title(id) + " " + std::to_string(request.timeout()));
    if (auto refusal = refuses_stop_of.extract(title(id))) co_return refusal.mapped();
    const auto until = std::chrono::steady_clock::now() + stop_takes;
    while (std::chrono::steady_clock::now() < until && !call.is_cancelled())
      co_await host().sleep(std::chrono::milliseconds(5));
    if (call.is_cancelled()) co_return pintle::cancelled("the client has gone");
    if (containers.contains(id) && containers[id].state() != cri::CONTAINER_EXITED) exit(id, 143);
    co_return cri::StopContainerResponse();
  }
  Task<Result<cri::RemoveContainerResponse>> RemoveContainer(Call&,
                                                             const cri::RemoveContainerRequest& request) override {
    containers.erase(request.container_id());
    container_configs.erase(request.container_id());
    sandbox_of.erase(request.container_id());
    co_return cri::RemoveContainerResponse();
  }
  Task<Result<cri::ListContainersResponse>> ListContainers(Call&, const cri::ListContainersRequest& request) override {
    ++list_calls;
    cri::ListContainersResponse response;
    for (const auto& [id, status] : containers) {
      if (!matches(status.labels(), request.filter().label_selector())) continue;
      cri::Container& item = *response.add_containers();
      item.set_id(id);
      item.set_pod_sandbox_id(sandbox_of.at(id));
      *item.mutable_metadata() = status.metadata();
      item.set_state(status.state());
      item.set_created_at(status.created_at());
      *item.mutable_labels() = status.labels();
      *item.mutable_annotations() = status.annotations();
    }
    co_return response;
  }
  Task<Result<cri::ContainerStatusResponse>> ContainerStatus(Call&,
                                                             const cri::ContainerStatusRequest& request) override {
    const auto found = containers.find(request.container_id());
    if (found == containers.end()) co_return not_found("no such container");
    cri::ContainerStatusResponse response;
    *response.mutable_status() = found->second;
    co_return response;
  }
  Task<Result<cri::ExecSyncResponse>> ExecSync(Call& call, const cri::ExecSyncRequest& request) override {
    const std::string command = request.cmd(0);
    if (!containers.contains(request.container_id())) co_return not_found("no such container");
    history.push_back("exec " + title(request.container_id()) + " " + command);
    const auto until = std::chrono::steady_clock::now() + exec_takes[command];
    while (std::chrono::steady_clock::now() < until && (!call.is_cancelled() || ignores_cancel))
      co_await host().sleep(std::chrono::milliseconds(5));
    cri::ExecSyncResponse response;
    response.set_exit_code(exec_codes[command]);
    response.set_stdout("said " + command);
    co_return response;
  }
  Task<pintle::Status> GetContainerEvents(Call&, const cri::GetEventsRequest&,
                                          StreamWriter<cri::ContainerEventResponse>& writer) override {
    if (!tells_events) co_return unimplemented("no events");
    Task<pintle::Status> subscribed = events_.subscribe(writer);
    co_return co_await std::move(subscribed);
  }

  Task<Result<cri::ImageStatusResponse>> ImageStatus(Call&, const cri::ImageStatusRequest& request) override {
    cri::ImageStatusResponse response;
    if (images.contains(request.image().image())) {
      response.mutable_image()->set_id("sha256:" + request.image().image());
      response.mutable_image()->mutable_uid()->set_value(request.image().image() == "sidecar:1" ? 1000 : 0);
    }
    co_return response;
  }

 private:
  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
  template <class Labels>
  static bool matches(const Labels& labels, const Labels& selector) {
    return std::all_of(selector.begin(), selector.end(), [&](const auto& wanted) {
      const auto found = labels.find(wanted.first);
      return found != labels.end() && found->second == wanted.second;
    });
  }
  std::string title(const std::string& container) const {
    return sandboxes.at(sandbox_of.at(container)).metadata().name() + "/" + containers.at(container).metadata().name();
  }
  void publish(const std::string& container, cri::ContainerEventType type) {
    publish_of_sandbox(container, sandbox_of.at(container), type);
  }
  void publish_of_sandbox(const std::string& id, const std::string& sandbox, cri::ContainerEventType type) {
    cri::ContainerEventResponse event;
    event.set_container_id(id);
    event.set_container_event_type(type);
    *event.mutable_pod_sandbox_status() = sandboxes.at(sandbox);
    events_.publish(event);
  }

  Broadcast<cri::ContainerEventResponse> events_;
  int next_id_ = 0;
};

}  // namespace pintle::agent::test
