// The closed list of what a Pod can ask for that this agent does not do yet. A feature that arrives takes its line away here.

#include <algorithm>

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
    refuse(spec.init_containers_size() > 0, child(at, "initContainers"), "init containers are");
    refuse(spec.ephemeral_containers_size() > 0, child(at, "ephemeralContainers"), "ephemeral containers are");
    refuse(spec.has_active_deadline_seconds(), child(at, "activeDeadlineSeconds"), "deadlines of pods are");
    refuse(spec.share_process_namespace(), child(at, "shareProcessNamespace"),
           "a process namespace shared by containers is");
    refuse(spec.host_aliases_size() > 0, child(at, "hostAliases"), "host aliases are");
    refuse(spec.image_pull_secrets_size() > 0, child(at, "imagePullSecrets"), "pull secrets are");
    refuse(!spec.runtime_class_name().empty(), child(at, "runtimeClassName"), "runtime classes are");
    refuse(spec.overhead_size() > 0, child(at, "overhead"), "overhead of runtime classes is");
    refuse(spec.readiness_gates_size() > 0, child(at, "readinessGates"), "readiness gates are");
    refuse(spec.scheduling_gates_size() > 0, child(at, "schedulingGates"), "scheduling gates are");
    refuse(spec.resource_claims_size() > 0, child(at, "resourceClaims"), "resource claims are");
    refuse(spec.has_resources(), child(at, "resources"), "resources of whole pods are");
    refuse(spec.has_host_users() && !spec.host_users(), child(at, "hostUsers"), "user namespaces are");
    refuse(spec.set_hostname_as_fqdn(), child(at, "setHostnameAsFQDN"), "a full domain name as hostname is");
    refuse(!spec.hostname_override().empty(), child(at, "hostnameOverride"), "hostname overrides are");
    refuse(!spec.subdomain().empty(), child(at, "subdomain"), "subdomains are");
    refuse(spec.has_os() && spec.os().name() != "linux", child(at, "os"), "other systems than linux are");
    const core::PodSecurityContext& security = spec.security_context();
    const std::string security_at = child(at, "securityContext");
    refuse(security.has_se_linux_options(), child(security_at, "seLinuxOptions"), "SELinux labels are");
    refuse(security.has_app_armor_profile(), child(security_at, "appArmorProfile"), "AppArmor profiles are");
    refuse(security.has_windows_options(), child(security_at, "windowsOptions"), "Windows containers are");
    refuse(security.has_fs_group(), child(security_at, "fsGroup"), "file system groups are");
    refuse(security.supplemental_groups_size() > 0, child(security_at, "supplementalGroups"),
           "supplementary groups are");
    refuse(security.supplemental_groups_policy() == "Strict", child(security_at, "supplementalGroupsPolicy"),
           "this policy is");
    refuse(security.sysctls_size() > 0, child(security_at, "sysctls"), "sysctls are");
    for (int i = 0; i < spec.volumes_size(); ++i)
      volume(spec.volumes(i), child(child(at, "volumes"), static_cast<size_t>(i)));
    for (int i = 0; i < spec.containers_size(); ++i)
      container(spec.containers(i), spec, child(child(at, "containers"), static_cast<size_t>(i)));
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
      if (field->name() != "empty_dir" && field->name() != "host_path")
        problems_.push_back(
            {child(at, field->json_name()), "volumes of this kind are not supported yet: use emptyDir or hostPath"});
    refuse(!source.empty_dir().medium().empty(), child(child(at, "emptyDir"), "medium"),
           "emptyDir volumes in memory are");
    refuse(source.empty_dir().has_size_limit(), child(child(at, "emptyDir"), "sizeLimit"),
           "size limits of emptyDir volumes are");
  }

  void container(const core::Container& container, const core::PodSpec& spec, const std::string& at) {
    refuse(container.has_liveness_probe(), child(at, "livenessProbe"), "probes are");
    refuse(container.has_readiness_probe(), child(at, "readinessProbe"), "probes are");
    refuse(container.has_startup_probe(), child(at, "startupProbe"), "probes are");
    refuse(container.has_lifecycle(), child(at, "lifecycle"), "lifecycle hooks are");
    refuse(container.env_from_size() > 0, child(at, "envFrom"), "ConfigMaps and Secrets are");
    refuse(container.volume_devices_size() > 0, child(at, "volumeDevices"), "block devices are");
    refuse(container.has_restart_policy(), child(at, "restartPolicy"), "restart policies of single containers are");
    refuse(container.restart_policy_rules_size() > 0, child(at, "restartPolicyRules"), "restart rules are");
    refuse(container.stdin(), child(at, "stdin"), "standard input of containers is");
    refuse(container.termination_message_policy() == "FallbackToLogsOnError", child(at, "terminationMessagePolicy"),
           "termination messages are");
    for (int i = 0; i < container.env_size(); ++i) {
      const core::EnvVarSource& source = container.env(i).value_from();
      const std::string from = child(child(child(at, "env"), static_cast<size_t>(i)), "valueFrom");
      refuse(source.has_config_map_key_ref(), child(from, "configMapKeyRef"), "ConfigMaps are");
      refuse(source.has_secret_key_ref(), child(from, "secretKeyRef"), "Secrets are");
      refuse(source.has_resource_field_ref(), child(from, "resourceFieldRef"), "references to resources are");
      refuse(source.has_file_key_ref(), child(from, "fileKeyRef"), "variables from files are");
    }
    for (int i = 0; i < container.ports_size(); ++i)
      refuse(!spec.host_network() && container.ports(i).host_port() != 0,
             child(child(child(at, "ports"), static_cast<size_t>(i)), "hostPort"), "host ports are");
    for (int i = 0; i < container.volume_mounts_size(); ++i) {
      const core::VolumeMount& mount = container.volume_mounts(i);
      const std::string mount_at = child(child(at, "volumeMounts"), static_cast<size_t>(i));
      refuse(!mount.sub_path().empty(), child(mount_at, "subPath"), "paths inside of volumes are");
      refuse(!mount.sub_path_expr().empty(), child(mount_at, "subPathExpr"), "paths inside of volumes are");
      refuse(!mount.mount_propagation().empty() && mount.mount_propagation() != "None",
             child(mount_at, "mountPropagation"), "propagation of mounts is");
      refuse(!mount.recursive_read_only().empty() && mount.recursive_read_only() != "Disabled",
             child(mount_at, "recursiveReadOnly"), "recursive read-only mounts are");
    }
    for (const auto& [name, quantity] : container.resources().limits())
      refuse(name != "cpu" && name != "memory", child(child(child(at, "resources"), "limits"), name),
             "limits besides cpu and memory are");
    refuse(container.resources().claims_size() > 0, child(child(at, "resources"), "claims"), "resource claims are");
    const core::SecurityContext& security = container.security_context();
    const std::string security_at = child(at, "securityContext");
    refuse(security.has_se_linux_options(), child(security_at, "seLinuxOptions"), "SELinux labels are");
    refuse(security.has_app_armor_profile(), child(security_at, "appArmorProfile"), "AppArmor profiles are");
    refuse(security.has_windows_options(), child(security_at, "windowsOptions"), "Windows containers are");
    refuse(security.has_proc_mount() && security.proc_mount() != "Default", child(security_at, "procMount"),
           "unmasked /proc is");
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
