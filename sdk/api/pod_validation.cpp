#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "k8s/core/v1/pod.pb.h"
#include "k8s/options.pb.h"
#include "sdk/api/names.hpp"
#include "sdk/api/pod.hpp"
#include "sdk/api/quantity.hpp"

namespace pintle::api {

namespace core = k8s::io::api::core::v1;

namespace {

constexpr size_t kMostAnnotationBytes = 256 << 10;
constexpr int kMostNameservers = 3, kMostSearches = 32;
constexpr size_t kMostSearchBytes = 2048;
constexpr int64_t kMostUserId = 2147483647;

class PodValidator {
 public:
  explicit PodValidator(Problems& problems) : problems_(problems) {}

  void pod(const core::Pod& pod) {
    metadata(pod);
    const core::PodSpec& spec = pod.spec();
    one_of(spec, "restart_policy", spec.restart_policy(), "/spec/restartPolicy");
    one_of(spec, "dns_policy", spec.dns_policy(), "/spec/dnsPolicy");
    if (spec.termination_grace_period_seconds() < 0) add("/spec/terminationGracePeriodSeconds", "must not be negative");
    if (spec.has_active_deadline_seconds() && spec.active_deadline_seconds() < 1)
      add("/spec/activeDeadlineSeconds", "must be at least 1");
    if (!spec.hostname().empty()) add("/spec/hostname", label_problem(spec.hostname()));
    if (!spec.subdomain().empty()) add("/spec/subdomain", label_problem(spec.subdomain()));
    if (!spec.node_name().empty()) add("/spec/nodeName", subdomain_problem(spec.node_name()));
    if (!spec.service_account_name().empty())
      add("/spec/serviceAccountName", subdomain_problem(spec.service_account_name()));
    dns(spec);
    pod_security(spec);
    for (int i = 0; i < spec.host_aliases_size(); ++i)
      add(child(child("/spec/hostAliases", static_cast<size_t>(i)), "ip"), address_problem(spec.host_aliases(i).ip()));
    for (int i = 0; i < spec.volumes_size(); ++i)
      volume(spec.volumes(i), child("/spec/volumes", static_cast<size_t>(i)));
    if (spec.containers_size() == 0) add("/spec/containers", "at least one container is required");
    for (int i = 0; i < spec.init_containers_size(); ++i)
      container(spec.init_containers(i), spec, child("/spec/initContainers", static_cast<size_t>(i)));
    for (int i = 0; i < spec.containers_size(); ++i)
      container(spec.containers(i), spec, child("/spec/containers", static_cast<size_t>(i)));
  }

 private:
  /// Nothing is added for an empty text: the functions of names.hpp answer so when all is well.
  void add(const std::string& pointer, std::string message) {
    if (!message.empty()) problems_.push_back({pointer, std::move(message)});
  }

  /// A text field whose closed set of values stands in its schema. Empty is right: defaults were set before.
  void one_of(const google::protobuf::Message& message, const char* name, std::string_view value,
              const std::string& pointer) {
    const google::protobuf::FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
    const auto& values = field->options().GetExtension(field_rules).one_of();
    if (value.empty() || values.empty() || std::find(values.begin(), values.end(), value) != values.end()) return;
    std::string list;
    for (const std::string& right : values) {
      if (right.empty()) continue;
      if (!list.empty()) list += ", ";
      list += right;
    }
    add(pointer, "must be one of " + list + ", is \"" + std::string(value) + "\"");
  }

  void metadata(const core::Pod& pod) {
    const auto& meta = pod.metadata();
    add("/metadata/name", meta.name().empty() ? "a name is required" : subdomain_problem(meta.name()));
    if (!meta.namespace_().empty()) add("/metadata/namespace", label_problem(meta.namespace_()));
    for (const auto& [key, value] : meta.labels()) {
      add(child("/metadata/labels", key), qualified_name_problem(key));
      add(child("/metadata/labels", key), label_value_problem(value));
    }
    size_t bytes = 0;
    for (const auto& [key, value] : meta.annotations()) {
      add(child("/metadata/annotations", key), qualified_name_problem(key));
      bytes += key.size() + value.size();
    }
    if (bytes > kMostAnnotationBytes)
      add("/metadata/annotations", "must be at most 256 KiB together, are " + std::to_string(bytes) + " bytes");
  }

  void dns(const core::PodSpec& spec) {
    const core::PodDNSConfig& config = spec.dns_config();
    if (spec.dns_policy() == "None" && config.nameservers_size() == 0)
      add("/spec/dnsConfig/nameservers", "at least one is required with dnsPolicy None");
    if (config.nameservers_size() > kMostNameservers) add("/spec/dnsConfig/nameservers", "must be at most 3");
    for (int i = 0; i < config.nameservers_size(); ++i)
      add(child("/spec/dnsConfig/nameservers", static_cast<size_t>(i)), address_problem(config.nameservers(i)));
    if (config.searches_size() > kMostSearches) add("/spec/dnsConfig/searches", "must be at most 32");
    size_t bytes = 0;
    for (int i = 0; i < config.searches_size(); ++i) {
      std::string_view search = config.searches(i);
      bytes += search.size() + 1;
      if (search.size() > 1 && search.back() == '.') search.remove_suffix(1);
      if (search != ".") add(child("/spec/dnsConfig/searches", static_cast<size_t>(i)), search_problem(search));
    }
    if (bytes > kMostSearchBytes) add("/spec/dnsConfig/searches", "must be at most 2048 characters together");
    for (int i = 0; i < config.options_size(); ++i)
      if (config.options(i).name().empty())
        add(child(child("/spec/dnsConfig/options", static_cast<size_t>(i)), "name"), "a name is required");
  }

  /// Search domains may also have underscores, as names of services in DNS do.
  static std::string search_problem(std::string_view search) {
    std::string plain(search);
    std::replace(plain.begin(), plain.end(), '_', 'x');
    return subdomain_problem(plain).empty() ? std::string() : subdomain_problem(search);
  }

  void user_id(int64_t id, const std::string& pointer) {
    if (id < 0 || id > kMostUserId) add(pointer, "must be between 0 and " + std::to_string(kMostUserId));
  }

  void seccomp(const core::SeccompProfile& profile, const std::string& pointer) {
    if (profile.type().empty()) add(child(pointer, "type"), "a type is required");
    one_of(profile, "type", profile.type(), child(pointer, "type"));
    if (profile.type() == "Localhost" && profile.localhost_profile().empty())
      add(child(pointer, "localhostProfile"), "is required with type Localhost");
    if (profile.type() != "Localhost" && profile.has_localhost_profile())
      add(child(pointer, "localhostProfile"), "may only be set with type Localhost");
    if (profile.has_localhost_profile())
      add(child(pointer, "localhostProfile"), descending_path_problem(profile.localhost_profile()));
  }

  void pod_security(const core::PodSpec& spec) {
    const core::PodSecurityContext& context = spec.security_context();
    const std::string pointer = "/spec/securityContext";
    if (context.has_run_as_user()) user_id(context.run_as_user(), child(pointer, "runAsUser"));
    if (context.has_run_as_group()) user_id(context.run_as_group(), child(pointer, "runAsGroup"));
    if (context.has_fs_group()) user_id(context.fs_group(), child(pointer, "fsGroup"));
    for (int i = 0; i < context.supplemental_groups_size(); ++i)
      user_id(context.supplemental_groups(i), child(child(pointer, "supplementalGroups"), static_cast<size_t>(i)));
    if (context.has_seccomp_profile()) seccomp(context.seccomp_profile(), child(pointer, "seccompProfile"));
    if (spec.host_pid() && spec.share_process_namespace())
      add("/spec/shareProcessNamespace", "cannot be combined with hostPID: choose one of them");
  }

  static std::string descending_path_problem(std::string_view path) {
    if (!path.empty() && path.front() == '/') return "must be a relative path, is \"" + std::string(path) + "\"";
    return dots_problem(path);
  }

  static std::string dots_problem(std::string_view path) {
    for (size_t begin = 0; begin <= path.size();) {
      const size_t end = std::min(path.find('/', begin), path.size());
      if (path.substr(begin, end - begin) == "..") return "must not contain \"..\", is \"" + std::string(path) + "\"";
      begin = end + 1;
    }
    return {};
  }

  void volume(const core::Volume& volume, const std::string& pointer) {
    const std::string& name = volume.name();
    add(child(pointer, "name"), name.empty() ? "a name is required" : label_problem(name));
    if (!name.empty() && !volumes_.insert(name).second) add(child(pointer, "name"), "is used twice: \"" + name + "\"");

    const core::VolumeSource& source = volume.volume_source();
    std::vector<const google::protobuf::FieldDescriptor*> set;
    source.GetReflection()->ListFields(source, &set);
    if (set.size() > 1) {
      std::string list;
      for (const auto* field : set) list += (list.empty() ? "" : ", ") + field->json_name();
      add(pointer, "must have one source, has " + list);
    }
    if (source.has_host_path()) {
      const core::HostPathVolumeSource& host = source.host_path();
      const std::string at = child(child(pointer, "hostPath"), "path");
      if (host.path().empty())
        add(at, "a path is required");
      else if (host.path().front() != '/')
        add(at, "must be an absolute path, is \"" + host.path() + "\"");
      else
        add(at, dots_problem(host.path()));
      one_of(host, "type", host.type(), child(child(pointer, "hostPath"), "type"));
    }
    if (source.has_empty_dir()) {
      const core::EmptyDirVolumeSource& empty = source.empty_dir();
      const std::string at = child(pointer, "emptyDir");
      const std::string& medium = empty.medium();
      if (!medium.empty() && medium != "Memory" && !medium.starts_with("HugePages"))
        add(child(at, "medium"), "must be empty, Memory, HugePages or HugePages-SIZE, is \"" + medium + "\"");
      if (empty.has_size_limit() && Quantity::of(empty.size_limit()).is_negative())
        add(child(at, "sizeLimit"), "must not be negative");
    }
  }

  void container(const core::Container& container, const core::PodSpec& spec, const std::string& pointer) {
    const std::string& name = container.name();
    add(child(pointer, "name"), name.empty() ? "a name is required" : label_problem(name));
    if (!name.empty() && !containers_.insert(name).second)
      add(child(pointer, "name"), "is used twice: \"" + name + "\"");
    const std::string& image = container.image();
    if (image.empty())
      add(child(pointer, "image"), "an image is required");
    else if (image.find_first_of(" \t\n\r") != std::string::npos)
      add(child(pointer, "image"), "must not contain white space, is \"" + image + "\"");
    one_of(container, "image_pull_policy", container.image_pull_policy(), child(pointer, "imagePullPolicy"));
    one_of(container, "termination_message_policy", container.termination_message_policy(),
           child(pointer, "terminationMessagePolicy"));
    ports(container, spec, child(pointer, "ports"));
    for (int i = 0; i < container.env_size(); ++i)
      variable(container.env(i), child(child(pointer, "env"), static_cast<size_t>(i)));
    resources(container.resources(), child(pointer, "resources"));
    mounts(container, child(pointer, "volumeMounts"));
    if (container.has_security_context()) security(container.security_context(), child(pointer, "securityContext"));
    if (container.liveness_probe().success_threshold() > 1)
      add(child(child(pointer, "livenessProbe"), "successThreshold"), "must be 1");
    if (container.startup_probe().success_threshold() > 1)
      add(child(child(pointer, "startupProbe"), "successThreshold"), "must be 1");
  }

  void ports(const core::Container& container, const core::PodSpec& spec, const std::string& pointer) {
    const auto number = [&](int32_t port, const std::string& at) {
      if (port < 1 || port > 65535) add(at, "must be between 1 and 65535, is " + std::to_string(port));
    };
    std::set<std::string> names;
    for (int i = 0; i < container.ports_size(); ++i) {
      const core::ContainerPort& port = container.ports(i);
      const std::string at = child(pointer, static_cast<size_t>(i));
      if (!port.has_container_port())
        add(child(at, "containerPort"), "a port is required");
      else
        number(port.container_port(), child(at, "containerPort"));
      one_of(port, "protocol", port.protocol(), child(at, "protocol"));
      if (!port.name().empty()) {
        add(child(at, "name"), port_name_problem(port.name()));
        if (!names.insert(port.name()).second) add(child(at, "name"), "is used twice: \"" + port.name() + "\"");
      }
      if (!port.host_ip().empty()) add(child(at, "hostIP"), address_problem(port.host_ip()));
      if (port.host_port() == 0) continue;
      number(port.host_port(), child(at, "hostPort"));
      if (spec.host_network() && port.host_port() != port.container_port())
        add(child(at, "hostPort"), "must be the containerPort " + std::to_string(port.container_port()) +
                                       " with hostNetwork, is " + std::to_string(port.host_port()));
      if (!host_ports_.insert({port.protocol(), port.host_ip(), port.host_port()}).second)
        add(child(at, "hostPort"), "is used twice: " + std::to_string(port.host_port()) + "/" + port.protocol());
    }
  }

  void variable(const core::EnvVar& variable, const std::string& pointer) {
    add(child(pointer, "name"), variable_name_problem(variable.name()));
    if (!variable.has_value_from()) return;
    const core::EnvVarSource& source = variable.value_from();
    const std::string at = child(pointer, "valueFrom");
    std::vector<const google::protobuf::FieldDescriptor*> set;
    source.GetReflection()->ListFields(source, &set);
    if (set.size() != 1) add(at, "must have one source, has " + std::to_string(set.size()));
    if (!variable.value().empty()) add(at, "cannot stand beside a value: choose one of them");
    if (!source.has_field_ref()) return;
    const std::string& path = source.field_ref().field_path();
    const std::string field = child(child(at, "fieldRef"), "fieldPath");
    static const std::set<std::string_view> known = {
        "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
        "status.hostIP", "status.hostIPs",     "status.podIP", "status.podIPs"};
    const bool keyed =
        (path.starts_with("metadata.labels['") || path.starts_with("metadata.annotations['")) && path.ends_with("']");
    if (path.empty())
      add(field, "a field is required");
    else if (!keyed && !known.contains(path))
      add(field,
          "must be metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], "
          "metadata.annotations['KEY'], "
          "spec.nodeName, spec.serviceAccountName, status.hostIP, status.hostIPs, status.podIP or status.podIPs, is "
          "\"" +
              path + "\"");
  }

  void resources(const core::ResourceRequirements& resources, const std::string& pointer) {
    const auto amounts = [&](const auto& map, const std::string& at) {
      for (const auto& [name, quantity] : map) {
        const bool standard =
            name == "cpu" || name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-");
        if (!standard && (name.find('/') == std::string::npos || !qualified_name_problem(name).empty()))
          add(child(at, name),
              "must be cpu, memory, ephemeral-storage, hugepages-SIZE or a name with a domain (example.com/gpu)");
        const Quantity amount = Quantity::of(quantity);
        if (amount.is_negative()) add(child(at, name), "must not be negative, is " + amount.text());
        if (name != "cpu" && !amount.is_whole()) add(child(at, name), "must be a whole number, is " + amount.text());
      }
    };
    amounts(resources.limits(), child(pointer, "limits"));
    amounts(resources.requests(), child(pointer, "requests"));
    for (const auto& [name, quantity] : resources.requests()) {
      const auto limit = resources.limits().find(name);
      if (limit == resources.limits().end()) continue;
      const Quantity requested = Quantity::of(quantity), limited = Quantity::of(limit->second);
      if (requested > limited)
        add(child(child(pointer, "requests"), name),
            "must be at most the limit " + limited.text() + ", is " + requested.text());
    }
  }

  void mounts(const core::Container& container, const std::string& pointer) {
    std::set<std::string> paths;
    for (int i = 0; i < container.volume_mounts_size(); ++i) {
      const core::VolumeMount& mount = container.volume_mounts(i);
      const std::string at = child(pointer, static_cast<size_t>(i));
      if (mount.name().empty())
        add(child(at, "name"), "a volume's name is required");
      else if (!volumes_.contains(mount.name()))
        add(child(at, "name"), "there is no volume \"" + mount.name() + "\" in spec.volumes");
      if (mount.mount_path().empty())
        add(child(at, "mountPath"), "a path is required");
      else if (!paths.insert(mount.mount_path()).second)
        add(child(at, "mountPath"), "is used twice: \"" + mount.mount_path() + "\"");
      else
        add(child(at, "mountPath"), dots_problem(mount.mount_path()));
      if (!mount.sub_path().empty()) add(child(at, "subPath"), descending_path_problem(mount.sub_path()));
      if (!mount.sub_path().empty() && !mount.sub_path_expr().empty())
        add(child(at, "subPathExpr"), "cannot stand beside subPath: choose one of them");
      one_of(mount, "mount_propagation", mount.mount_propagation(), child(at, "mountPropagation"));
      if (mount.mount_propagation() == "Bidirectional" && !container.security_context().privileged())
        add(child(at, "mountPropagation"), "Bidirectional needs a privileged container");
    }
  }

  void security(const core::SecurityContext& context, const std::string& pointer) {
    if (context.has_run_as_user()) user_id(context.run_as_user(), child(pointer, "runAsUser"));
    if (context.has_run_as_group()) user_id(context.run_as_group(), child(pointer, "runAsGroup"));
    if (context.has_seccomp_profile()) seccomp(context.seccomp_profile(), child(pointer, "seccompProfile"));
    if (!context.has_allow_privilege_escalation() || context.allow_privilege_escalation()) return;
    if (context.privileged())
      add(child(pointer, "allowPrivilegeEscalation"), "cannot be false in a privileged container");
    const auto& added = context.capabilities().add();
    if (std::any_of(added.begin(), added.end(),
                    [](const std::string& name) { return name == "SYS_ADMIN" || name == "CAP_SYS_ADMIN"; }))
      add(child(pointer, "allowPrivilegeEscalation"), "cannot be false with the capability SYS_ADMIN");
  }

  Problems& problems_;
  std::set<std::string> volumes_;
  std::set<std::string> containers_;
  std::set<std::tuple<std::string, std::string, int32_t>> host_ports_;
};

}  // namespace

Problems validate_pod(const core::Pod& pod) {
  Problems problems;
  PodValidator(problems).pod(pod);
  return problems;
}

}  // namespace pintle::api
