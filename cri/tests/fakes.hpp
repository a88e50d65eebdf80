#pragma once

/// Fakes of what the engine needs, named so: the real backends run containers and are tested with the engine end to end
/// (tests/end-to-end/crictl). These show what only a fake can: failures at each step, answers that never come, events in any order.

#include <functional>
#include <map>
#include <pintle/plugin.hpp>
#include <set>
#include <string>
#include <vector>

#include "cri/schema.hpp"

namespace pintle::cri::fakes {

/// Waits until the test lets it go on.
class Hold {
 public:
  bool active = false;
  size_t waiting() const { return handles_.size(); }
  void release() {
    active = false;
    for (const std::coroutine_handle<> handle : std::exchange(handles_, {})) handle.resume();
  }
  auto pass() {
    struct Awaiter {
      Hold& hold;
      bool await_ready() const { return !hold.active; }
      void await_suspend(std::coroutine_handle<> handle) { hold.handles_.push_back(handle); }
      void await_resume() const {}
    };
    return Awaiter{*this};
  }

 private:
  std::vector<std::coroutine_handle<>> handles_;
};

class FakeRuntime final : public Plugin, public runtime_api::RuntimeBackend {
 public:
  explicit FakeRuntime(Host& host) : Plugin(host) {
    provide(*this);
    newest = this;
  }
  static inline FakeRuntime* newest = nullptr;

  std::map<std::string, runtime_api::Container> containers;
  std::map<std::string, runtime_api::CreateContainerRequest> created;
  std::map<std::string, runtime_api::Sandbox> sandboxes;
  std::vector<std::pair<std::string, int>> signals;
  std::set<int> deadly = {9, 15};
  std::string own_network_namespace;  ///< of a sandbox container
  Status fail_create_sandbox, fail_create, fail_start, fail_remove, fail_remove_sandbox;
  Hold hold_create, hold_exec, hold_remove;
  std::function<int(const runtime_api::ExecRequest&, Attachments&)> on_exec;
  int ended_commands = 0;
  Broadcast<runtime_api::Event> events;

  void tell(const runtime_api::Container& container) {
    runtime_api::Event event;
    *event.mutable_container() = container;
    events.publish(event);
  }
  void exit(const std::string& id, int code, bool out_of_memory = false) {
    runtime_api::Container& container = containers.at(id);
    container.set_state(runtime_api::CONTAINER_STATE_EXITED);
    container.set_pid(0);
    container.set_exit_code(code);
    container.set_out_of_memory(out_of_memory);
    container.set_finished_at(2'000'000'123);
    tell(container);
  }

  Task<Result<runtime_api::DescribeResponse>> Describe(Call&, const runtime_api::DescribeRequest&) override {
    runtime_api::DescribeResponse response;
    response.set_name("fake");
    response.set_ready(true);
    response.set_cgroup_driver("cgroupfs");
    response.add_handlers("kata");
    co_return response;
  }
  Task<Result<runtime_api::CreateSandboxResponse>> CreateSandbox(
      Call&, const runtime_api::CreateSandboxRequest& request) override {
    if (!fail_create_sandbox) co_return fail_create_sandbox;
    sandboxes[request.sandbox().id()] = request.sandbox();
    runtime_api::CreateSandboxResponse response;
    response.set_network_namespace(own_network_namespace);
    co_return response;
  }
  Task<Result<runtime_api::RemoveSandboxResponse>> RemoveSandbox(
      Call&, const runtime_api::RemoveSandboxRequest& request) override {
    if (!fail_remove_sandbox) co_return fail_remove_sandbox;
    sandboxes.erase(request.sandbox_id());
    co_return runtime_api::RemoveSandboxResponse();
  }
  Task<Result<runtime_api::CreateContainerResponse>> CreateContainer(
      Call&, const runtime_api::CreateContainerRequest& request) override {
    const runtime_api::CreateContainerRequest kept = request;
    runtime_api::Container& container = containers[kept.container_id()];
    container.set_id(kept.container_id());
    container.set_sandbox_id(kept.sandbox().id());
    container.set_state(runtime_api::CONTAINER_STATE_CREATED);
    co_await hold_create.pass();
    if (!fail_create) {
      containers.erase(kept.container_id());
      co_return fail_create;
    }
    created[kept.container_id()] = kept;
    co_return runtime_api::CreateContainerResponse();
  }
  Task<Result<runtime_api::StartContainerResponse>> StartContainer(
      Call&, const runtime_api::StartContainerRequest& request) override {
    if (!fail_start) co_return fail_start;
    runtime_api::Container& container = containers.at(request.container_id());
    container.set_state(runtime_api::CONTAINER_STATE_RUNNING);
    container.set_pid(4242);
    container.set_started_at(1'000'000'789);
    tell(container);
    runtime_api::StartContainerResponse response;
    response.set_pid(container.pid());
    response.set_started_at(container.started_at());
    co_return response;
  }
  Task<Result<runtime_api::SignalContainerResponse>> SignalContainer(
      Call&, const runtime_api::SignalContainerRequest& request) override {
    signals.emplace_back(request.container_id(), request.signal());
    const int number = request.signal() == 0 ? 15 : request.signal();
    const auto found = containers.find(request.container_id());
    if (found == containers.end()) co_return not_found("no such container");
    if (deadly.contains(number)) exit(request.container_id(), 128 + number);
    co_return runtime_api::SignalContainerResponse();
  }
  Task<Result<runtime_api::RemoveContainerResponse>> RemoveContainer(
      Call&, const runtime_api::RemoveContainerRequest& request) override {
    const std::string id = request.container_id();
    co_await hold_remove.pass();
    if (!fail_remove) co_return fail_remove;
    containers.erase(id);
    co_return runtime_api::RemoveContainerResponse();
  }
  Task<Result<runtime_api::ListContainersResponse>> ListContainers(
      Call&, const runtime_api::ListContainersRequest& request) override {
    runtime_api::ListContainersResponse response;
    for (const auto& [id, container] : containers) {
      if (request.container_id().empty() || request.container_id() == id) *response.add_containers() = container;
    }
    co_return response;
  }
  Task<Result<runtime_api::ExecResponse>> Exec(Call& call, const runtime_api::ExecRequest& request) override {
    const runtime_api::ExecRequest kept = request;
    runtime_api::ExecResponse response;
    if (on_exec) response.set_exit_code(on_exec(kept, call.received()));
    call.on_cancel([this] { hold_exec.release(); });
    co_await hold_exec.pass();
    if (call.is_cancelled()) {
      auto dying = host().sleep(std::chrono::milliseconds(50));
      co_await dying;
    }
    ++ended_commands;
    co_return response;
  }
  Task<Result<runtime_api::UpdateResourcesResponse>> UpdateResources(
      Call&, const runtime_api::UpdateResourcesRequest&) override {
    co_return runtime_api::UpdateResourcesResponse();
  }
  Task<Result<runtime_api::StatsResponse>> Stats(Call&, const runtime_api::StatsRequest&) override {
    runtime_api::StatsResponse response;
    for (const auto& [id, container] : containers) {
      if (container.state() != runtime_api::CONTAINER_STATE_RUNNING) continue;
      api::ContainerStats* stats = response.add_containers();
      stats->mutable_attributes()->set_id(id);
      stats->mutable_cpu()->mutable_usage_core_nano_seconds()->set_value(1000);
      stats->mutable_memory()->mutable_working_set_bytes()->set_value(4096);
    }
    co_return response;
  }
  Task<Status> Events(Call&, const runtime_api::EventsRequest&, StreamWriter<runtime_api::Event>& writer) override {
    return events.subscribe(writer);
  }
};

class FakeImages final : public Plugin, public image_api::ImageBackend {
 public:
  explicit FakeImages(Host& host) : Plugin(host) { provide(*this); }
  static image_api::Image image() {
    image_api::Image made;
    made.mutable_image()->set_id("sha256:" + std::string(64, 'a'));
    made.mutable_image()->add_repo_tags("example:latest");
    made.mutable_image()->add_repo_digests("example@sha256:" + std::string(64, 'b'));
    made.mutable_image()->set_size(1234);
    return made;
  }
  Task<Result<image_api::ListResponse>> List(Call&, const image_api::ListRequest&) override {
    image_api::ListResponse response;
    *response.add_images() = image();
    co_return response;
  }
  Task<Result<image_api::StatusResponse>> Status(Call&, const image_api::StatusRequest& request) override {
    image_api::StatusResponse response;
    if (request.reference() == "example:latest" || request.reference() == image().image().id())
      *response.mutable_image() = image();
    co_return response;
  }
  Task<Result<image_api::FileSystemResponse>> FileSystem(Call&, const image_api::FileSystemRequest&) override {
    image_api::FileSystemResponse response;
    response.set_path("/var/lib/images");
    response.set_used_bytes(1234);
    co_return response;
  }
};

class FakeNetwork final : public Plugin, public network_api::PodNetwork {
 public:
  explicit FakeNetwork(Host& host) : Plugin(host) {
    provide(*this);
    newest = this;
  }
  static inline FakeNetwork* newest = nullptr;
  std::map<std::string, network_api::Attachment> attachments;
  Status fail_attach, fail_detach;
  Hold hold_attach;
  std::string hold_only;  ///< a pod's name; empty: every one
  int detached = 0;

  Task<Result<network_api::DescribeResponse>> Describe(Call&, const network_api::DescribeRequest&) override {
    network_api::DescribeResponse response;
    response.set_ready(true);
    co_return response;
  }
  Task<Result<network_api::AttachResponse>> Attach(Call&, const network_api::AttachRequest& request) override {
    const network_api::AttachRequest kept = request;
    if (hold_only.empty() || hold_only == kept.pod_name()) co_await hold_attach.pass();
    if (!fail_attach) co_return fail_attach;
    network_api::Attachment& attachment = attachments[kept.sandbox_id()];
    attachment.set_sandbox_id(kept.sandbox_id());
    attachment.set_interface_name("eth0");
    attachment.add_addresses()->set_address("10.85.0.7/16");
    attachment.add_addresses()->set_address("fd00:85::7/64");
    attachment.set_network_namespace(kept.network_namespace());
    network_api::AttachResponse response;
    *response.mutable_attachment() = attachment;
    co_return response;
  }
  Task<Result<network_api::DetachResponse>> Detach(Call&, const network_api::DetachRequest& request) override {
    if (!fail_detach) co_return fail_detach;
    ++detached;
    attachments.erase(request.sandbox_id());
    co_return network_api::DetachResponse();
  }
  Task<Result<network_api::ListResponse>> List(Call&, const network_api::ListRequest&) override {
    network_api::ListResponse response;
    for (const auto& [id, attachment] : attachments) *response.add_attachments() = attachment;
    co_return response;
  }
};

}  // namespace pintle::cri::fakes
