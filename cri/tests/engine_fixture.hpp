#pragma once

/// The plugin `cri` as a whole, between fakes of a runtime backend, an image store and a pod network. Namespaces, mounts, cgroups and
/// records are real. `restart` ends it as kill -9 would and starts it on what it left.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "cri/namespaces.hpp"
#include "cri/process_namespaces.hpp"
#include "cri/tests/fakes.hpp"
#include "sdk/testkit/fake_node.hpp"

namespace pintle::cri::testing_engine {

using namespace std::chrono_literals;
namespace fs = std::filesystem;
using fakes::FakeImages;
using fakes::FakeNetwork;
using fakes::FakeRuntime;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testkit::FakeInstance;
using testkit::FakeNode;

using Runtime = api::RuntimeServiceStub;

template <class Stub, class Request, class Response>
Task<Result<Response>> invoke(Stub stub, UnaryCall<Response> (Stub::*method)(const Request&, CallOptions) const,
                              Request request, CallOptions options) {
  auto call = (stub.*method)(request, options);
  co_return co_await call;
}

class EngineTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "namespaces and mounts need root";
    node = std::make_unique<FakeNode>();
    runtime_instance =
        &node->add<FakeRuntime>("runtime", {"pintle.runtime.v1.RuntimeBackend"}, {}, without_sandbox_container());
    images_instance = &node->add<FakeImages>("runtime-images", {"pintle.image.v1.ImageBackend"});
    network_instance = &node->add<FakeNetwork>("network", {"pintle.network.v1.PodNetwork"});
    runtime = FakeRuntime::newest;
    network = FakeNetwork::newest;
    for (FakeInstance* instance : {runtime_instance, images_instance, network_instance})
      ASSERT_TRUE(node->start(*instance));
    client = &node->client();
    folder = node->directory() + "/cri";
    boot();
  }
  void TearDown() override {
    if (!node) return;
    for (const std::string& violation : node->violations()) ADD_FAILURE() << violation;
    node.reset();
    for (const std::string& id : made_pods)
      (void)end_process_namespace(process_cgroup(process_root(), "", id), process_root());
    for (const auto& entry : pins()) (void)release_namespaces(entry);
    fs::remove_all(fs::path(folder).parent_path());  // the node could not, with its mounts
  }

  static testkit::InstanceOptions without_sandbox_container() {
    testkit::InstanceOptions options;
    options.features = 0;
    return options;
  }

  /// Starts the engine on the folders that the former one left.
  void boot() {
    testkit::InstanceOptions options;
    options.name = "cri";
    options.config =
        R"({"socket": ")" + folder +
        R"(/cri.sock", "defaultRuntime": "", "defaultNetwork": "", "shmMegabytes": 1, "podInit": ")" POD_INIT R"("})";
    options.shared_directory = folder + "/shared";
    options.state_directory = folder + "/state";
    options.run_directory = folder + "/run";
    for (const char* part : {"/shared", "/state", "/run"}) fs::create_directories(folder + part);
    engine = &node->load(PLUGIN, options);
    node->bind(*engine, "runtime", {runtime_instance});
    node->bind(*engine, "images", {images_instance});
    node->bind(*engine, "network", {network_instance});
    const Status started = node->start(*engine);
    ASSERT_TRUE(started) << started.to_string();
    stub = node->stub<Runtime>(*client, *engine);
  }
  /// As after kill -9: nothing was told to stop.
  void crash() { node->destroy(*engine); }
  void restart() {
    crash();
    boot();
  }

  template <class Request, class Response>
  Result<Response> ask(UnaryCall<Response> (Runtime::*method)(const Request&, CallOptions) const,
                       const Request& request, CallOptions options = {}) {
    auto answer = node->wait(invoke(stub, method, request, options), 20s);
    return answer ? std::move(*answer) : Result<Response>(deadline_exceeded("the method hangs"));
  }

  static api::RunPodSandboxRequest pod(const std::string& name) {
    api::RunPodSandboxRequest request;
    api::PodSandboxConfig& config = *request.mutable_config();
    config.mutable_metadata()->set_name(name);
    config.mutable_metadata()->set_namespace_("default");
    config.mutable_metadata()->set_uid("uid-" + name);
    config.set_hostname(name);
    (*config.mutable_labels())["app"] = name;
    config.set_log_directory("/tmp/pintle-cri-test-logs");
    if (name != "shared")
      config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(api::CONTAINER);
    config.mutable_dns_config()->add_servers("10.96.0.10");
    return request;
  }
  std::string run_pod(const std::string& name = "web") {
    Result<api::RunPodSandboxResponse> made = ask(&Runtime::RunPodSandbox, pod(name));
    EXPECT_TRUE(made) << made.status().to_string();
    if (made) made_pods.push_back(made->pod_sandbox_id());
    return made ? made->pod_sandbox_id() : "";
  }
  static api::CreateContainerRequest container(const std::string& sandbox, const std::string& name) {
    api::CreateContainerRequest request;
    request.set_pod_sandbox_id(sandbox);
    request.mutable_config()->mutable_metadata()->set_name(name);
    request.mutable_config()->mutable_image()->set_image("example:latest");
    return request;
  }
  std::string create(const std::string& sandbox, const std::string& name = "main") {
    Result<api::CreateContainerResponse> made = ask(&Runtime::CreateContainer, container(sandbox, name));
    EXPECT_TRUE(made) << made.status().to_string();
    return made ? made->container_id() : "";
  }
  Status start(const std::string& id) {
    api::StartContainerRequest request;
    request.set_container_id(id);
    return ask(&Runtime::StartContainer, request).status();
  }
  Status stop(const std::string& id, int64_t timeout) {
    api::StopContainerRequest request;
    request.set_container_id(id);
    request.set_timeout(timeout);
    return ask(&Runtime::StopContainer, request).status();
  }
  Status remove(const std::string& id) {
    api::RemoveContainerRequest request;
    request.set_container_id(id);
    return ask(&Runtime::RemoveContainer, request).status();
  }
  Status stop_pod(const std::string& id) {
    api::StopPodSandboxRequest request;
    request.set_pod_sandbox_id(id);
    return ask(&Runtime::StopPodSandbox, request).status();
  }
  Status remove_pod(const std::string& id) {
    api::RemovePodSandboxRequest request;
    request.set_pod_sandbox_id(id);
    return ask(&Runtime::RemovePodSandbox, request).status();
  }
  api::PodSandboxStatus pod_status(const std::string& id) {
    api::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(id);
    Result<api::PodSandboxStatusResponse> answer = ask(&Runtime::PodSandboxStatus, request);
    EXPECT_TRUE(answer) << answer.status().to_string();
    return answer ? answer->status() : api::PodSandboxStatus();
  }
  api::ContainerStatus status(const std::string& id) {
    api::ContainerStatusRequest request;
    request.set_container_id(id);
    Result<api::ContainerStatusResponse> answer = ask(&Runtime::ContainerStatus, request);
    EXPECT_TRUE(answer) << answer.status().to_string();
    return answer ? answer->status() : api::ContainerStatus();
  }
  int pods() { return ask(&Runtime::ListPodSandbox, api::ListPodSandboxRequest())->items_size(); }
  int containers() { return ask(&Runtime::ListContainers, api::ListContainersRequest())->containers_size(); }
  std::string process_root() const { return process_namespaces_root(folder + "/shared/cri"); }
  /// Run folders of sandboxes.
  std::vector<fs::path> pins() const {
    std::vector<fs::path> found;
    if (fs::exists(folder + "/run/sandboxes")) {
      for (const auto& entry : fs::directory_iterator(folder + "/run/sandboxes")) found.push_back(entry.path());
    }
    return found;
  }
  std::vector<fs::path> records(const std::string& kind) const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder + "/shared/cri/records/" + kind)) {
      if (entry.is_regular_file()) found.push_back(entry.path());
    }
    return found;
  }
  void expect_nothing_is_left() {
    EXPECT_EQ(pods(), 0);
    EXPECT_EQ(containers(), 0);
    EXPECT_THAT(pins(), IsEmpty());
    EXPECT_THAT(records("sandboxes"), IsEmpty());
    EXPECT_THAT(records("containers"), IsEmpty());
    EXPECT_TRUE(network->attachments.empty());
    EXPECT_TRUE(runtime->sandboxes.empty());
    EXPECT_TRUE(runtime->containers.empty());
    for (const std::string& id : made_pods) EXPECT_FALSE(has_process_namespace(process_cgroup(process_root(), "", id)));
    EXPECT_TRUE(!fs::exists(folder + "/shared/cri/pods") || fs::is_empty(folder + "/shared/cri/pods"));
    std::ifstream mounts("/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);) EXPECT_THAT(line, testing::Not(HasSubstr(folder)));
  }
  static std::string read(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  std::unique_ptr<FakeNode> node;
  FakeInstance *runtime_instance = nullptr, *images_instance = nullptr, *network_instance = nullptr, *client = nullptr,
               *engine = nullptr;
  FakeRuntime* runtime = nullptr;
  FakeNetwork* network = nullptr;
  std::string folder;
  std::vector<std::string> made_pods;
  Runtime stub;
};

}  // namespace pintle::cri::testing_engine
