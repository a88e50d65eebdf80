// runtime-oci: containers by crun or runc under conmon, images from an own store, no daemon. This file joins the interfaces of
// the schema to the containers (containers.hpp) and the image store (cri/images/store.hpp).

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <pintle/plugin.hpp>

#include "cri/images/store.hpp"
#include "pintle/runtime.pintle.hpp"
#include "plugins/runtime-oci/apparmor_loader.hpp"
#include "plugins/runtime-oci/containers.hpp"
#include "plugins/runtime-oci/image_service.hpp"
#include "plugins/runtime-oci/placement.hpp"
#include "plugins/runtime-oci/settings.hpp"

namespace pintle::runtime_oci {
namespace {

/// What start() finds out. An instance whose programs are missing serves too: it says what to install, and looks again when it is
/// asked how it is.
struct Parts {
  Status problem;
  std::function<Task<Status>()> look_again;
  CgroupDriver driver = CgroupDriver::cgroupfs;
  std::shared_ptr<const Node> node;
  std::shared_ptr<images::Store> store;
  std::unique_ptr<Containers> containers;
};

class RuntimeService final : public runtime::v1::RuntimeBackend {
 public:
  explicit RuntimeService(Parts& parts, Host& host) : parts_(parts), host_(host) {}

  Task<Result<runtime::v1::DescribeResponse>> Describe(Call&, const runtime::v1::DescribeRequest&) override {
    if (!parts_.containers) {
      Task<Status> looking = parts_.look_again();
      (void)co_await std::move(looking);
    }
    runtime::v1::DescribeResponse response;
    response.set_name("oci");
    response.set_ready(parts_.problem.is_ok());
    response.set_message(parts_.problem.message());
    response.set_cgroup_driver(std::string(driver_name(parts_.driver)));
    if (parts_.node) {
      response.set_name(parts_.node->programs.runtime_name);
      response.set_version(parts_.node->programs.runtime_version);
      response.add_handlers(parts_.node->programs.runtime_name);
    }
    co_return response;
  }
  Task<Result<runtime::v1::CreateContainerResponse>> CreateContainer(
      Call& call, const runtime::v1::CreateContainerRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    Task<Result<runtime::v1::CreateContainerResponse>> task = parts_.containers->create(call, request);
    co_return co_await std::move(task);
  }
  Task<Result<runtime::v1::StartContainerResponse>> StartContainer(
      Call&, const runtime::v1::StartContainerRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    Task<Result<runtime::v1::StartContainerResponse>> task = parts_.containers->start(request.container_id());
    co_return co_await std::move(task);
  }
  Task<Result<runtime::v1::SignalContainerResponse>> SignalContainer(
      Call&, const runtime::v1::SignalContainerRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    co_return parts_.containers->signal(request.container_id(), request.signal());
  }
  Task<Result<runtime::v1::RemoveContainerResponse>> RemoveContainer(
      Call&, const runtime::v1::RemoveContainerRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    Task<Result<runtime::v1::RemoveContainerResponse>> task = parts_.containers->remove(request.container_id());
    co_return co_await std::move(task);
  }
  Task<Result<runtime::v1::ListContainersResponse>> ListContainers(
      Call&, const runtime::v1::ListContainersRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    co_return parts_.containers->list(request.container_id());
  }
  Task<Result<runtime::v1::ExecResponse>> Exec(Call& call, const runtime::v1::ExecRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    Task<Result<runtime::v1::ExecResponse>> task = parts_.containers->exec(call, request);
    co_return co_await std::move(task);
  }
  Task<Result<runtime::v1::UpdateResourcesResponse>> UpdateResources(
      Call&, const runtime::v1::UpdateResourcesRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    Task<Result<runtime::v1::UpdateResourcesResponse>> task = parts_.containers->update(request);
    co_return co_await std::move(task);
  }
  Task<Result<runtime::v1::StatsResponse>> Stats(Call&, const runtime::v1::StatsRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    Task<Result<runtime::v1::StatsResponse>> task = parts_.containers->stats(request.container_id());
    co_return co_await std::move(task);
  }
  Task<Result<runtime::v1::ReopenLogResponse>> ReopenLog(Call&, const runtime::v1::ReopenLogRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    Task<Result<runtime::v1::ReopenLogResponse>> task = parts_.containers->reopen(request.container_id());
    co_return co_await std::move(task);
  }
  Task<Status> Events(Call&, const runtime::v1::EventsRequest&, StreamWriter<runtime::v1::Event>& writer) override {
    if (!parts_.containers) co_return parts_.problem;
    Task<Status> task = parts_.containers->events().subscribe(writer);
    co_return co_await std::move(task);
  }
  Task<Result<runtime::v1::CreateSandboxResponse>> CreateSandbox(
      Call&, const runtime::v1::CreateSandboxRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    const std::string& cgroup = request.sandbox().cgroup_parent();
    if (Status good = check_parent(*parts_.node, cgroup); !good) co_return good;
    if (!cgroup.empty()) {
      const auto limits = oci::limits_of(request.sandbox().config().linux().resources());
      const auto work = [node = parts_.node, cgroup, limits] { return make_pod_place(*node, cgroup, limits); };
      Task<Status> making = host_.blocking(work);
      const Status status = co_await std::move(making);
      if (!status) co_return status.with_context("sandbox " + request.sandbox().id());
    }
    co_return runtime::v1::CreateSandboxResponse();
  }
  Task<Result<runtime::v1::RemoveSandboxResponse>> RemoveSandbox(
      Call&, const runtime::v1::RemoveSandboxRequest& request) override {
    if (!parts_.containers) co_return parts_.problem;
    const std::string& cgroup = request.cgroup_parent();
    // A parent that several pods share is not a pod's to remove; nor is that of a pod which has a newer sandbox already.
    if (!cgroup.empty() && cgroup != parts_.node->settings.cgroup_parent &&
        !parts_.containers->has_others_in(cgroup, request.sandbox_id())) {
      const auto work = [node = parts_.node, cgroup] { return remove_pod_place(*node, cgroup); };
      Task<Status> removing = host_.blocking(work);
      const Status status = co_await std::move(removing);
      if (!status) co_return status.with_context("sandbox " + request.sandbox_id());
    }
    co_return runtime::v1::RemoveSandboxResponse();
  }

 private:
  Parts& parts_;
  Host& host_;
};

class RuntimeOci final : public Plugin {
 public:
  explicit RuntimeOci(Host& host) : Plugin(host), runtime_(parts_, host), images_(host, image_settings(host)) {
    Result<Settings> settings = Settings::parse(host.config_json());
    if (!settings) throw PluginError(settings.status());
    settings_ = std::move(*settings);
    parts_.problem = unavailable("runtime-oci has not started yet");
    parts_.look_again = [this] { return bring_up(); };
    provide(runtime_);
    provide(images_);
  }

  Task<Status> start() override {
    Task<Status> opening = open_store();
    Status status = co_await std::move(opening);
    if (!status) co_return status;
    Task<Status> bringing = bring_up();
    co_return co_await std::move(bringing);
  }

  Task<Status> stop() override {
    Task<Status> closing = images_.close();
    (void)co_await std::move(closing);
    if (!parts_.containers || parts_.containers->size() != 0) co_return Status::ok();
    Task<Status> discarding = host().blocking([node = parts_.node] {
      discard_places(*node);
      return Status::ok();
    });
    co_return co_await std::move(discarding);
  }

  Task<Status> retire() override {
    is_retired_ = true;
    if (parts_.containers) {
      parts_.containers->retire();
    } else {
      // Without its programs it cannot say what became of its containers, but whether it has any.
      auto folder = files::open_folder(std::string(host().state_directory()) + "/containers");
      auto names = folder ? files::list_folder(folder->get()) : Result<std::vector<std::string>>(folder.status());
      if (!names || names->empty()) host().retired();
    }
    co_return Status::ok();
  }

 private:
  static ImageSettings image_settings(Host& host) {
    Result<ImageSettings> settings = ImageSettings::parse(host.config_json());
    if (!settings) throw PluginError(settings.status());
    return std::move(*settings);
  }

  /// Takes over the containers as soon as all programs are there.
  Task<Status> bring_up() {
    if (is_coming_up_) co_return Status::ok();
    is_coming_up_ = true;
    Task<Status> assembling = assemble();
    Status status = co_await std::move(assembling);
    if (status) {
      auto containers = std::make_unique<Containers>(host(), parts_.node, parts_.store);
      Task<Status> recovering = containers->recover();
      status = co_await std::move(recovering);
      if (status) {
        parts_.containers = std::move(containers);
        if (is_retired_) parts_.containers->retire();
      }
    }
    is_coming_up_ = false;
    if (status) {
      parts_.problem = Status::ok();
      host().condition("RuntimeReady", true, "Ready",
                       parts_.node->programs.runtime_name + " " + parts_.node->programs.runtime_version);
      co_return status;
    }
    if (status.code() != Code::failed_precondition) co_return status.with_context("take over containers");
    // The image store serves, and whoever asks is told what is missing.
    if (parts_.problem.message() != status.message()) host().error(status.message());
    parts_.problem = status;
    host().condition("RuntimeReady", false, "Missing", status.message());
    co_return Status::ok();
  }

  Task<Status> open_store() {
    const auto work = [path = std::string(host().shared_directory()) +
                              "/images"]() -> Result<std::shared_ptr<images::Store>> {
      auto store = images::Store::open(path, {});
      if (!store) return store.status();
      return std::shared_ptr<images::Store>(std::move(*store));
    };
    Task<Result<std::shared_ptr<images::Store>>> opening = host().blocking(work);
    Result<std::shared_ptr<images::Store>> store = co_await std::move(opening);
    if (!store) co_return store.status();
    parts_.store = std::move(*store);
    for (const std::string& warning : parts_.store->warnings()) host().warn(warning);
    images_.open(parts_.store);
    co_return Status::ok();
  }

  Task<Status> assemble() {
    auto node = std::make_shared<Node>();
    node->key = std::string(host().key());
    node->settings = settings_;
    Result<cgroup::Layout> cgroups = cgroup::Layout::detect();
    if (!cgroups) co_return cgroups.status();
    node->cgroups = std::move(*cgroups);
    Result<CgroupDriver> driver = choose_driver(settings_.cgroup_driver, node->cgroups, systemd::Manager::runs_here());
    // What was asked for is told, also where it cannot be had: whoever asks must not make pods in another way.
    if (!driver) parts_.driver = CgroupDriver::systemd;
    if (!driver) co_return driver.status();
    node->driver = parts_.driver = *driver;
    Result<Programs> programs = find_programs(settings_, node->cgroups);
    if (!programs) co_return programs.status();
    node->programs = std::move(*programs);
    Task<Result<std::string>> asking = ask_version(node->programs.runtime);
    Result<std::string> version = co_await std::move(asking);
    if (!version) co_return version.status();
    if (Status status = identify_runtime(node->programs, *version); !status) co_return status;
    node->host = oci::HostFacts::detect(node->cgroups.mode());
    Result<Folders> folders = Folders::make(host().state_directory(), host().run_directory());
    if (!folders) co_return folders.status();
    node->folders = std::move(*folders);
    host().info("OCI runtime found", {{"runtime", node->programs.runtime},
                                      {"version", node->programs.runtime_version},
                                      {"cgroups", cgroup::mode_name(node->cgroups.mode())},
                                      {"cgroup driver", driver_name(node->driver)}});
    parts_.node = std::move(node);
    Task<Status> confining = load_default_profile(host(), parts_.node);
    const Status confined = co_await std::move(confining);
    if (!confined) host().warn(confined.message());
    co_return Status::ok();
  }

  Task<Result<std::string>> ask_version(std::string program) {
    const UniqueFd answer(memfd_create("version", MFD_CLOEXEC));
    Command command;
    command.program = program;
    command.arguments = {program, "--version"};
    command.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
    command.descriptors = {-1, answer.get(), -1};
    Result<Process> process = host().spawn(command);
    if (!process) co_return process.status();
    (void)co_await process->exited();
    std::string text(4096, '\0');
    const ssize_t count = pread(answer.get(), text.data(), text.size(), 0);
    text.resize(count > 0 ? static_cast<size_t>(count) : 0);
    co_return text;
  }

  Settings settings_;
  bool is_coming_up_ = false;
  bool is_retired_ = false;
  Parts parts_;
  RuntimeService runtime_;
  ImageService images_;
};

}  // namespace
}  // namespace pintle::runtime_oci

using pintle::runtime_oci::RuntimeOci;
PINTLE_PLUGIN(RuntimeOci);
