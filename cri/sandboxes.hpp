#pragma once

/// Pod sandboxes: RunPodSandbox to RemovePodSandbox (engine.hpp draws their life).

#include "cri/engine.hpp"

namespace pintle::cri {

class Sandboxes {
 public:
  explicit Sandboxes(Engine& engine) : engine_(engine) {}

  /// Makes a ready sandbox and returns its id. INVALID_ARGUMENT, ALREADY_EXISTS (the name is taken), NOT_FOUND (the
  /// handler), UNAVAILABLE, RESOURCE_EXHAUSTED (a full disk), CANCELLED: nothing remains.
  Task<Result<std::string>> run(CallContext context, const api::RunPodSandboxRequest& request);
  /// Kills what runs and takes the network back. Ok if it was done before.
  Task<Status> stop(CallContext context, std::shared_ptr<Sandbox> sandbox);
  /// Stops, then removes the containers and all that was made for the sandbox. On an error the removal is tried again
  /// in the background and by the next start.
  Task<Status> remove(CallContext context, std::shared_ptr<Sandbox> sandbox);

  api::PodSandboxStatus status(const Sandbox& sandbox) const;
  /// What `crictl inspectp` shows besides the status.
  std::string verbose_info(const Sandbox& sandbox) const;
  /// The entry in lists; to be called after each change of the record.
  static void summarize(Sandbox& sandbox);
  /// As backends are told of it.
  static runtime_api::Sandbox describe(const Sandbox& sandbox);
  /// The pod's addresses without prefix lengths, the primary one first.
  static std::vector<std::string> addresses(const Sandbox& sandbox);
  static std::string name_of(const api::PodSandboxMetadata& metadata);

  /// The sandbox has lost what its containers need: not ready from now on.
  Task<Status> mark_not_ready(std::shared_ptr<Sandbox> sandbox, std::string why);
  /// Writes the record.
  Task<Status> save(std::shared_ptr<Sandbox> sandbox, Durability durability);

 private:
  Task<Status> make(CallContext context, std::shared_ptr<Sandbox> sandbox);
  Task<Status> attach_network(CallContext context, std::shared_ptr<Sandbox> sandbox);
  Task<Status> create_in_backend(CallContext context, std::shared_ptr<Sandbox> sandbox);
  bool wants_sandbox_container(const std::string& runtime_key) const;
  std::string process_cgroup_of(const Sandbox& sandbox) const;
  Task<Status> take_down(std::shared_ptr<Sandbox> sandbox);
  Task<Status> remove_in_backend(std::shared_ptr<Sandbox> sandbox);
  /// Does the same with all containers of the sandbox, side by side.
  Task<Status> each_container(std::shared_ptr<Sandbox> sandbox,
                              std::function<Task<Status>(std::shared_ptr<Container>)> act);
  Task<Status> detach_network(std::shared_ptr<Sandbox> sandbox);

  Engine& engine_;
};

/// The sandbox' own choice of namespaces.
struct NamespaceChoice {
  bool own_network, own_ipc;
  bool shared_processes;  ///< the containers share one process namespace
};
NamespaceChoice namespace_choice(const api::PodSandboxConfig& config);

/// INVALID_ARGUMENT or UNIMPLEMENTED: what is wrong in a pod's config, before anything is made.
Status check_sandbox_config(const api::PodSandboxConfig& config);

}  // namespace pintle::cri
