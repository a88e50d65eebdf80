// The closed list of what a Pod can ask for that this agent does not do yet. A feature that arrives takes its line away here.

#include <algorithm>
#include <set>

#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/manifests.hpp"

namespace pintle::agent {

namespace {

using api::child;

class Unsupported {
 public:
  explicit Unsupported(api::Problems& problems) : problems_(problems) {}

  void pod(const core::PodSpec& spec) {
    const std::string at = "/spec";
    refuse(spec.ephemeral_containers_size() > 0, child(at, "ephemeralContainers"), "ephemeral containers are");
    refuse(!spec.runtime_class_name().empty(), child(at, "runtimeClassName"), "runtime classes are");
    refuse(spec.overhead_size() > 0, child(at, "overhead"), "overhead of runtime classes is");
    refuse(spec.scheduling_gates_size() > 0, child(at, "schedulingGates"), "scheduling gates are");
    refuse(spec.resource_claims_size() > 0, child(at, "resourceClaims"), "resource claims are");
    for (const auto& [name, quantity] : spec.resources().limits())
      refuse(name != "cpu" && name != "memory" && !name.starts_with("hugepages-"),
             child(child(child(at, "resources"), "limits"), name),
             "limits of whole pods besides cpu, memory and hugepages-SIZE are");
    refuse(spec.resources().claims_size() > 0, child(child(at, "resources"), "claims"), "resource claims are");
    refuse(spec.has_os() && spec.os().name() != "linux", child(at, "os"), "other systems than linux are");
    const core::PodSecurityContext& security = spec.security_context();
    const std::string security_at = child(at, "securityContext");
    refuse(security.has_windows_options(), child(security_at, "windowsOptions"), "Windows containers are");
    for (int i = 0; i < security.sysctls_size(); ++i)
      sysctl(security.sysctls(i), child(child(security_at, "sysctls"), static_cast<size_t>(i)));
    for (int i = 0; i < spec.volumes_size(); ++i)
      volume(spec.volumes(i), child(child(at, "volumes"), static_cast<size_t>(i)));
    for (int i = 0; i < spec.init_containers_size(); ++i)
      container(spec.init_containers(i), child(child(at, "initContainers"), static_cast<size_t>(i)));
    for (int i = 0; i < spec.containers_size(); ++i)
      container(spec.containers(i), child(child(at, "containers"), static_cast<size_t>(i)));
  }

 private:
  void refuse(bool asked_for, const std::string& pointer, const char* what) {
    if (asked_for) problems_.push_back({pointer, std::string(what) + " not supported yet"});
  }

  void volume(const core::Volume& volume, const std::string& at) {
    const core::VolumeSource& source = volume.volume_source();
    std::vector<const google::protobuf::FieldDescriptor*> set;
    source.GetReflection()->ListFields(source, &set);
    for (const auto* field : set)
      if (field->name() != "empty_dir" && field->name() != "host_path" && field->name() != "downward_api" &&
          field->name() != "projected")
        problems_.push_back(
            {child(at, field->json_name()),
             "volumes of this kind are not supported yet: use emptyDir, hostPath, downwardAPI or projected"});
    for (int i = 0; i < source.projected().sources_size(); ++i) {
      const core::VolumeProjection& projection = source.projected().sources(i);
      refuse(!projection.has_downward_api(), child(child(child(at, "projected"), "sources"), static_cast<size_t>(i)),
             "sources besides downwardAPI are");
    }
  }

  /// Those that Kubernetes calls safe: they are the pod's own, and can neither harm the node nor its other pods.
  void sysctl(const core::Sysctl& sysctl, const std::string& at) {
    static const std::set<std::string_view> safe = {"kernel.shm_rmid_forced",
                                                    "net.ipv4.ip_local_port_range",
                                                    "net.ipv4.tcp_syncookies",
                                                    "net.ipv4.ping_group_range",
                                                    "net.ipv4.ip_unprivileged_port_start",
                                                    "net.ipv4.ip_local_reserved_ports",
                                                    "net.ipv4.tcp_keepalive_time",
                                                    "net.ipv4.tcp_fin_timeout",
                                                    "net.ipv4.tcp_keepalive_intvl",
                                                    "net.ipv4.tcp_keepalive_probes",
                                                    "net.ipv4.tcp_rmem",
                                                    "net.ipv4.tcp_wmem"};
    std::string name = sysctl.name();
    if (name.find('/') < name.find('.')) std::replace(name.begin(), name.end(), '/', '.');
    if (!safe.contains(name))
      problems_.push_back(
          {child(at, "name"), "sysctl \"" + sysctl.name() + "\" is not one of those that are safe for the node"});
  }

  void container(const core::Container& container, const std::string& at) {
    refuse(container.env_from_size() > 0, child(at, "envFrom"), "ConfigMaps and Secrets are");
    refuse(container.volume_devices_size() > 0, child(at, "volumeDevices"), "block devices are");
    for (int i = 0; i < container.env_size(); ++i) {
      const core::EnvVarSource& source = container.env(i).value_from();
      const std::string from = child(child(child(at, "env"), static_cast<size_t>(i)), "valueFrom");
      refuse(source.has_config_map_key_ref(), child(from, "configMapKeyRef"), "ConfigMaps are");
      refuse(source.has_secret_key_ref(), child(from, "secretKeyRef"), "Secrets are");
      refuse(source.has_file_key_ref(), child(from, "fileKeyRef"), "variables from files are");
    }
    for (const auto& [name, quantity] : container.resources().limits())
      refuse(name != "cpu" && name != "memory" && name != "ephemeral-storage" && !name.starts_with("hugepages-"),
             child(child(child(at, "resources"), "limits"), name),
             "limits besides cpu, memory, ephemeral-storage and hugepages-SIZE are");
    refuse(container.resources().claims_size() > 0, child(child(at, "resources"), "claims"), "resource claims are");
    const core::SecurityContext& security = container.security_context();
    const std::string security_at = child(at, "securityContext");
    refuse(security.has_windows_options(), child(security_at, "windowsOptions"), "Windows containers are");
  }

  api::Problems& problems_;
};

}  // namespace

api::Problems find_unsupported(const core::Pod& pod) {
  api::Problems problems;
  Unsupported(problems).pod(pod.spec());
  return problems;
}

}  // namespace pintle::agent
