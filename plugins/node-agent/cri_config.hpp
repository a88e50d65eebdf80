#pragma once

/// A pod in the words of the container runtime (CRI v1), as kubelet puts it: names, labels, logs, resources, security.
///
/// Labels `io.kubernetes.*` make tools (crictl, log shippers) show pods and containers by name. The annotation
/// `pintle.io/source` marks what is this agent's: a sandbox without it belongs to somebody else and is left alone.

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/node-agent/id_ranges.hpp"
#include "plugins/node-agent/manifests.hpp"
#include "plugins/node-agent/pod_cgroups.hpp"
#include "plugins/node-agent/variables.hpp"

namespace runtime::v1 {
class ContainerConfig;
class PodSandboxConfig;
}  // namespace runtime::v1

namespace pintle::agent {

namespace cri = ::runtime::v1;

namespace label {
inline constexpr const char* kPodName = "io.kubernetes.pod.name";
inline constexpr const char* kPodNamespace = "io.kubernetes.pod.namespace";
inline constexpr const char* kPodUid = "io.kubernetes.pod.uid";
inline constexpr const char* kContainerName = "io.kubernetes.container.name";
}  // namespace label

namespace annotation {
inline constexpr const char* kSource = "pintle.io/source";
inline constexpr const char* kSourceValue = "node-agent";
inline constexpr const char* kGraceSeconds = "io.kubernetes.pod.terminationGracePeriod";
inline constexpr const char* kRestartCount = "io.kubernetes.container.restartCount";
}  // namespace annotation

/// Of a resolv.conf.
struct Resolver {
  std::vector<std::string> servers, searches, options;
};
Resolver parse_resolver(std::string_view resolv_conf);

struct NodeFacts {
  std::string log_folder;  ///< "/var/log/pods"
  std::string address;     ///< the node's
  std::vector<std::string> cluster_dns;
  std::string cluster_domain;
  Resolver resolver;         ///< the node's own
  int64_t memory_bytes = 0;  ///< the node's
  std::map<std::string, int64_t>
      huge_pages;                 ///< bytes that the node has of "hugepages-2Mi"; sizes without any are left out
  std::string seccomp_folder;     ///< of localhost profiles
  std::string image_credentials;  ///< file of the node's own users of registries; empty: none
  CgroupSettings cgroups;
};

/// The first label that a pod has as its name, and with a subdomain its whole name in DNS ("web.shop.default.svc.cluster.local").
std::string short_hostname_of(const core::Pod& pod);
std::string full_hostname_of(const core::Pod& pod, const std::string& cluster_domain);

/// The neutral name of a pod's cgroup (pod_cgroups.hpp), by its quality of service: "/kubepods/burstable/podUID".
std::string cgroup_of(const WantedPod& pod, const std::string& root);

/// "/var/log/pods/default_web_UID"
std::string log_folder_of(const NodeFacts& node, const WantedPod& pod);
/// "web/0.log", below the pod's log folder.
std::string log_path_of(const std::string& container, uint32_t attempt);

/// `attempt` counts the sandboxes of this pod.
cri::PodSandboxConfig sandbox_config(const WantedPod& pod, const NodeFacts& node, uint32_t attempt, PodIds ids = {});

struct ContainerPlan {
  const core::Container* container = nullptr;
  uint32_t attempt = 0;
  RunningFacts facts;
  std::map<std::string, std::string> volumes;  ///< where each volume of the pod is on the node
  std::map<int, std::string> sub_paths;        ///< instead of it, by index of the volume mount
  std::string hosts;                           ///< for /etc/hosts; empty: the runtime's own
  PodIds ids;                                  ///< of the pod
  std::string termination_message;             ///< file on the node for terminationMessagePath; empty: none
};
cri::ContainerConfig container_config(const WantedPod& pod, const NodeFacts& node, const ContainerPlan& plan);

/// The user that the manifest sets, of the container or else of the pod; -1: the image's.
int64_t user_of(const core::Pod& pod, const core::Container& container);
/// Whether the manifest forbids root.
bool must_not_be_root(const core::Pod& pod, const core::Container& container);

}  // namespace pintle::agent
