#pragma once

/// Containers: CreateContainer to RemoveContainer, and what can be done with one that runs (engine.hpp draws their
/// life).

#include "cri/engine.hpp"

namespace pintle::cri {

class Containers {
 public:
  explicit Containers(Engine& engine) : engine_(engine) {}

  /// Makes a container ready to start and returns its id. NOT_FOUND: the image; FAILED_PRECONDITION: the sandbox is not
  /// ready. On any error nothing remains.
  Task<Result<std::string>> create(CallContext context, std::shared_ptr<Sandbox> sandbox,
                                   const api::ContainerConfig& config);
  /// FAILED_PRECONDITION unless it is created and was never started. A container that cannot start is exited
  /// afterwards.
  Task<Status> start(CallContext context, std::shared_ptr<Container> container);
  /// Sends the stop signal, waits for `grace`, then kills. Ok if it does not run. A second, shorter stop may overtake a
  /// first.
  Task<Status> stop(CallContext context, std::shared_ptr<Container> container, std::chrono::nanoseconds grace);
  /// Kills what runs and removes what was made. Ok if it is gone.
  Task<Status> remove(CallContext context, std::shared_ptr<Container> container);
  Task<Status> update(CallContext context, std::shared_ptr<Container> container,
                      const api::LinuxContainerResources& resources,
                      const google::protobuf::Map<std::string, std::string>& annotations);
  Task<Status> reopen_log(CallContext context, std::shared_ptr<Container> container);

  /// Runs a command and collects what it writes, each stream up to `limit` bytes; the rest is read and dropped.
  /// DEADLINE_EXCEEDED after `timeout` (zero: none): the command is killed.
  Task<Result<api::ExecSyncResponse>> exec_sync(CallContext context, std::shared_ptr<Container> container,
                                                const api::ExecSyncRequest& request, size_t limit);

  /// Statistics of the containers that `wanted` accepts, with their attributes. A backend that fails is left out.
  Task<std::vector<api::ContainerStats>> stats(CallContext context, std::function<bool(const Container&)> wanted);

  api::ContainerStatus status(const Container& container) const;
  /// What `crictl inspect` shows besides the status.
  std::string verbose_info(const Container& container) const;
  /// The entry in lists; to be called after each change of the record.
  static void summarize(Container& container);
  static std::string name_of(const api::ContainerMetadata& metadata, const api::PodSandboxMetadata& pod);

  /// Notes that it has ended, tells who waits and keeps it in the background. Nothing if it has ended before.
  void exited(std::shared_ptr<Container> container, int64_t finished_at, int32_t exit_code, std::string reason,
              std::string message);
  Task<Status> save(std::shared_ptr<Container> container, Durability durability);

 private:
  Task<Status> make(CallContext context, std::shared_ptr<Container> container);
  Task<Status> take_down(std::shared_ptr<Container> container);
  Task<Status> kill_quietly(std::shared_ptr<Container> container);
  Task<Status> signal(std::shared_ptr<Container> container, int number);
  Task<bool> wait_for_exit(CallContext context, std::shared_ptr<Container> container, std::chrono::nanoseconds time);
  Task<Status> look_again(std::shared_ptr<Container> container);
  Task<Status> keep_exit(std::shared_ptr<Container> container);

  Engine& engine_;
};

/// INVALID_ARGUMENT: what is wrong in a container's config, before anything is made.
Status check_container_config(const api::ContainerConfig& config, const api::PodSandboxConfig& pod);

/// Linux's number of CRI's signal name; 0 for the default.
int signal_number(api::Signal signal);

/// Nanoseconds since 1970.
int64_t now_ns();

}  // namespace pintle::cri
