#pragma once

/// The OCI runtime spec (`config.json` of a bundle) of a container, made from what CRI asks for and what the image brings.
///
/// Pure translation: nothing is created and nothing is started here. Who runs the container decides where its root is, which
/// namespaces it joins and who manages its cgroup; this part knows what CRI means and what is safe by default:
///
///   arguments     command overrides the image's entrypoint and drops its command; args override the image's command
///   environment   PATH, then the image's, then the container's; a later value takes the place of the earlier one
///   user          the container's run_as_*, else the image's; names are looked up inside the root and nowhere else (users.hpp)
///   capabilities  the set that container engines agree upon, then add and drop
///   seccomp       a filter of our own (seccomp.hpp) unless the container is privileged or asks for none
///   /proc, /sys   masked and read-only paths as Kubernetes names them, also where the caller names none; with users of the
///                 pod's own, naming none means none (procMount: Unmasked): there the kernel keeps the node's matters apart
///   devices       the harmless ones of every container, and those asked for; all others are closed by the cgroup
///
/// Whoever starts the container without the OCI runtime managing its cgroup takes `limits` and `devices` of the result to the
/// cgroup library; otherwise they stand in the spec too (`SpecRequest::cgroups_path`).
///
///     auto identity = oci::resolve_identity(root, config, image.user);
///     auto spec = oci::make_spec({.config = &config, .sandbox = &sandbox, .image = image, ...});
///     files::write_file(bundle, "config.json", boost::json::serialize(spec->document), ...);
///
/// Sources: opencontainers/runtime-spec (config.md, config-linux.md), CRI's api.proto.

#include <boost/json/object.hpp>
#include <cstdint>
#include <memory>
#include <pintle/status.hpp>
#include <set>
#include <string>
#include <vector>

#include "sdk/support/cgroup/cgroup.hpp"

namespace runtime::v1 {
class ContainerConfig;
class LinuxContainerResources;
class PodSandboxConfig;
}  // namespace runtime::v1

namespace pintle::oci {

/// What the image says of how to start it.
struct ImageDefaults {
  std::vector<std::string> entrypoint;
  std::vector<std::string> command;
  std::vector<std::string> environment;
  std::string working_directory;
  std::string user;
};

/// What the pod holds for its containers: namespaces by path (empty: the node's own) and files to be bound.
struct PodPlaces {
  std::string network_namespace;
  std::string ipc_namespace;
  std::string uts_namespace;
  std::string pid_namespace;  ///< empty: one of the container's own
  std::string resolv_conf;    ///< empty: none
  std::string hosts;
  std::string hostname_file;
  std::string shm;  ///< empty: a tmpfs of the container's own
};

/// The users of a pod that has its own: id 0 of its containers is `first` of the node, and so on. The namespace exists already.
struct PodUsers {
  uint32_t first = 0;
  uint32_t count = 0;  ///< 0: the pod has the node's users
  std::string user_namespace;
};

/// Whom the first process runs as.
struct Identity {
  uint32_t user = 0;
  uint32_t group = 0;
  std::vector<uint32_t> additional_groups;
};

/// What this host can do.
struct HostFacts {
  cgroup::Mode cgroup_mode = cgroup::Mode::v2;
  std::set<std::string> capabilities;  ///< that a process here can have, "CAP_CHOWN"
  bool can_lower_oom_score = true;     ///< CAP_SYS_RESOURCE
  int own_oom_score = 0;               ///< oom_score_adj of this process, the lowest it can give without the capability
  bool has_apparmor = false;
  std::string apparmor_profiles = "/sys/kernel/security/apparmor/profiles";  ///< the kernel's list of what is loaded
  bool has_selinux = false;
  static HostFacts detect(cgroup::Mode cgroup_mode);
};

struct SpecRequest {
  const ::runtime::v1::ContainerConfig* config = nullptr;
  const ::runtime::v1::PodSandboxConfig* sandbox = nullptr;
  ImageDefaults image;
  PodPlaces places;
  Identity identity;
  PodUsers users;
  std::string root;          ///< the mounted root's path
  std::string cgroups_path;  ///< where the OCI runtime shall make the cgroup; empty: the starter does it
  /// crun takes the filter compiled (annotation run.oci.seccomp_bpf_data), which spares it the time to compile it.
  bool compiled_seccomp = false;
  const HostFacts* host = nullptr;
  std::vector<std::string> hook_folders;  ///< of the node's hooks (hooks.hpp)
};

struct Spec {
  boost::json::object document;
  cgroup::Limits limits;
  std::vector<cgroup::DeviceRule> devices;
  std::vector<std::string> remarks;  ///< what was asked for and could not be given exactly
};

/// INVALID_ARGUMENT for what cannot be meant, FAILED_PRECONDITION for what this host lacks, UNIMPLEMENTED for what we lack.
Result<Spec> make_spec(const SpecRequest& request);

/// The `process` of a command that is run in a running container: the container's own process with other arguments, as
/// `crun exec --process` and `runc exec --process` take it. `container` is the container's spec.
boost::json::object make_exec_process(const boost::json::object& container, const std::vector<std::string>& command,
                                      const std::vector<std::string>& environment, bool terminal);

/// CRI's resources in the cgroup library's terms. Zero means: not set.
cgroup::Limits limits_of(const ::runtime::v1::LinuxContainerResources& resources);

/// The process's arguments by CRI's rules.
Result<std::vector<std::string>> arguments_of(const ::runtime::v1::ContainerConfig& config, const ImageDefaults& image);

/// Sysctl names and values come from pods and end in files of /proc/sys: only namespaced ones, in a plain alphabet.
Status check_sysctl(const std::string& name, const std::string& value, bool own_network, bool own_ipc);

}  // namespace pintle::oci
