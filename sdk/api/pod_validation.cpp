#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <cctype>
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

constexpr std::string_view kHugePages = "hugepages-";

constexpr size_t kMostAnnotationBytes = 256 << 10;
constexpr int kMostNameservers = 3, kMostSearches = 32;
constexpr size_t kMostSearchBytes = 2048;
constexpr int64_t kMostUserId = 2147483647;

constexpr int kMostRestartRules = 20, kMostExitCodes = 255;
constexpr size_t kLongestHostname = 64;  // the kernel's
constexpr std::string_view kApparmorAnnotation = "container.apparmor.security.beta.kubernetes.io/";

/// What an annotation says, as a field would. False for what it may not say.
bool parse_apparmor(std::string_view text, core::AppArmorProfile& profile) {
  constexpr std::string_view kLocalhost = "localhost/";
  if (text == "runtime/default") {
    profile.set_type("RuntimeDefault");
  } else if (text == "unconfined") {
    profile.set_type("Unconfined");
  } else if (text.starts_with(kLocalhost) && text.size() > kLocalhost.size()) {
    profile.set_type("Localhost");
    profile.set_localhost_profile(std::string(text.substr(kLocalhost.size())));
  } else {
    return false;
  }
  return true;
}

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
    if (const std::string& hostname = spec.hostname_override(); spec.has_hostname_override()) {
      const std::string at = "/spec/hostnameOverride";
      add(at,
          hostname.size() > kLongestHostname ? "must not be longer than 64 characters" : subdomain_problem(hostname));
      if (spec.host_network()) add(at, "cannot be combined with hostNetwork: the node has its own");
      if (spec.set_hostname_as_fqdn()) add(at, "cannot be combined with setHostnameAsFQDN");
    }
    if (!spec.subdomain().empty()) add("/spec/subdomain", label_problem(spec.subdomain()));
    if (!spec.node_name().empty()) add("/spec/nodeName", subdomain_problem(spec.node_name()));
    if (!spec.service_account_name().empty())
      add("/spec/serviceAccountName", subdomain_problem(spec.service_account_name()));
    dns(spec);
    pod_security(spec);
    for (int i = 0; i < spec.host_aliases_size(); ++i) {
      const std::string at = child("/spec/hostAliases", static_cast<size_t>(i));
      add(child(at, "ip"), address_problem(spec.host_aliases(i).ip()));
      for (int j = 0; j < spec.host_aliases(i).hostnames_size(); ++j)
        add(child(child(at, "hostnames"), static_cast<size_t>(j)),
            subdomain_problem(spec.host_aliases(i).hostnames(j)));
    }
    for (int i = 0; i < spec.volumes_size(); ++i)
      volume(spec.volumes(i), child("/spec/volumes", static_cast<size_t>(i)));
    if (spec.containers_size() == 0) add("/spec/containers", "at least one container is required");
    for (int i = 0; i < spec.init_containers_size(); ++i) {
      const std::string at = child("/spec/initContainers", static_cast<size_t>(i));
      container(spec.init_containers(i), spec, at);
      init_container(spec.init_containers(i), at);
    }
    for (int i = 0; i < spec.containers_size(); ++i)
      container(spec.containers(i), spec, child("/spec/containers", static_cast<size_t>(i)));
    apparmor_annotations(pod);
    if (spec.has_resources()) pod_resources(spec);
    huge_page_volumes(spec);
    for (const auto& [pointer, name] : references_)
      if (!containers_.contains(name)) add(child(pointer, "containerName"), "there is no container \"" + name + "\"");
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

  void apparmor(const core::AppArmorProfile& profile, const std::string& pointer) {
    if (profile.type().empty()) add(child(pointer, "type"), "a type is required");
    one_of(profile, "type", profile.type(), child(pointer, "type"));
    if (profile.type() == "Localhost" && profile.localhost_profile().empty())
      add(child(pointer, "localhostProfile"), "is required with type Localhost");
    if (profile.type() != "Localhost" && profile.has_localhost_profile())
      add(child(pointer, "localhostProfile"), "may only be set with type Localhost");
  }

  /// The older way to name a container's profile; a field that says something else is a contradiction.
  void apparmor_annotations(const core::Pod& pod) {
    for (const auto& [key, value] : pod.metadata().annotations()) {
      if (!key.starts_with(kApparmorAnnotation)) continue;
      const std::string pointer = child("/metadata/annotations", key);
      const std::string name = key.substr(kApparmorAnnotation.size());
      if (!containers_.contains(name)) add(pointer, "there is no container \"" + name + "\"");
      core::AppArmorProfile profile;
      const bool is_good = parse_apparmor(value, profile);
      if (!is_good && !value.empty())
        add(pointer, "must be runtime/default, localhost/NAME or unconfined, is \"" + value.substr(0, 100) + "\"");
      if (!is_good) continue;
      const auto contradicts = [&](const core::Container& container) {
        const core::AppArmorProfile& field = container.security_context().app_armor_profile();
        return container.name() == name && container.security_context().has_app_armor_profile() &&
               (field.type() != profile.type() || field.localhost_profile() != profile.localhost_profile());
      };
      const auto& spec = pod.spec();
      if (std::any_of(spec.containers().begin(), spec.containers().end(), contradicts) ||
          std::any_of(spec.init_containers().begin(), spec.init_containers().end(), contradicts))
        add(pointer, "and the container's securityContext.appArmorProfile name different profiles; leave one out");
    }
  }

  /// Files of the pod's own fields, in a downwardAPI volume or a projected one.
  void downward_items(const google::protobuf::RepeatedPtrField<core::DownwardAPIVolumeFile>& items,
                      const std::string& pointer, std::set<std::string>& paths) {
    for (int i = 0; i < items.size(); ++i) {
      const core::DownwardAPIVolumeFile& item = items.Get(i);
      const std::string at = child(pointer, static_cast<size_t>(i));
      if (item.path().empty())
        add(child(at, "path"), "a path is required");
      else if (item.path().starts_with("..") || item.path().back() == '/' ||
               item.path().find("//") != std::string::npos)
        add(child(at, "path"),
            "must be the path of a file that does not begin with \"..\", is \"" + item.path() + "\"");
      else if (!paths.insert(item.path()).second)
        add(child(at, "path"), "is used twice: \"" + item.path() + "\"");
      else
        add(child(at, "path"), descending_path_problem(item.path()));
      if (item.has_field_ref() == item.has_resource_field_ref())
        add(at, "must have one of fieldRef and resourceFieldRef");
      if (item.has_mode()) file_mode(item.mode(), child(at, "mode"));
      if (item.has_field_ref()) {
        static const std::set<std::string_view> known = {"metadata.name", "metadata.namespace", "metadata.uid",
                                                         "metadata.labels", "metadata.annotations"};
        const std::string& path = item.field_ref().field_path();
        if (!known.contains(path) && !is_keyed_field(path))
          add(child(child(at, "fieldRef"), "fieldPath"),
              "must be metadata.name, metadata.namespace, metadata.uid, metadata.labels, metadata.annotations, "
              "metadata.labels['KEY'] or metadata.annotations['KEY'], is \"" +
                  path + "\"");
      }
      if (item.has_resource_field_ref()) {
        if (item.resource_field_ref().container_name().empty())
          add(child(child(at, "resourceFieldRef"), "containerName"), "a container's name is required");
        resource_reference(item.resource_field_ref(), child(at, "resourceFieldRef"));
      }
    }
    // A file cannot be a folder of another one.
    for (const std::string& path : paths) {
      const auto next = paths.upper_bound(path + "/");
      if (next != paths.end() && next->starts_with(path + "/"))
        add(pointer, "\"" + path + "\" cannot be both a file and a folder");
    }
  }

  static bool is_keyed_field(std::string_view path) {
    return (path.starts_with("metadata.labels['") || path.starts_with("metadata.annotations['")) &&
           path.ends_with("']");
  }

  void file_mode(int32_t mode, const std::string& pointer) {
    if (mode < 0 || mode > 0777) add(pointer, "must be between 0 and 0777, is " + std::to_string(mode) + " (decimal)");
  }

  void resource_reference(const core::ResourceFieldSelector& reference, const std::string& pointer) {
    static const std::set<std::string_view> known = {"limits.cpu",   "limits.memory",   "limits.ephemeral-storage",
                                                     "requests.cpu", "requests.memory", "requests.ephemeral-storage"};
    if (!known.contains(reference.resource()))
      add(child(pointer, "resource"),
          "must be limits.cpu, limits.memory, limits.ephemeral-storage, requests.cpu, requests.memory or "
          "requests.ephemeral-storage, is \"" +
              reference.resource() + "\"");
    if (reference.has_divisor() && Quantity::of(reference.divisor()).is_negative())
      add(child(pointer, "divisor"), "must not be negative");
    if (!reference.container_name().empty()) references_.emplace_back(pointer, reference.container_name());
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
    if (context.has_fs_group_change_policy())
      one_of(context, "fs_group_change_policy", context.fs_group_change_policy(),
             child(pointer, "fsGroupChangePolicy"));
    if (context.has_supplemental_groups_policy())
      one_of(context, "supplemental_groups_policy", context.supplemental_groups_policy(),
             child(pointer, "supplementalGroupsPolicy"));
    if (context.has_app_armor_profile()) apparmor(context.app_armor_profile(), child(pointer, "appArmorProfile"));
    std::set<std::string> names;
    for (int i = 0; i < context.sysctls_size(); ++i) {
      const std::string at = child(child(pointer, "sysctls"), static_cast<size_t>(i));
      const std::string& name = context.sysctls(i).name();
      const auto is_plain = [](std::string_view text, std::string_view more) {
        return std::all_of(text.begin(), text.end(), [&](unsigned char c) {
          return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                 more.find(static_cast<char>(c)) != std::string_view::npos;
        });
      };
      if (name.empty() || name.size() > 253 || !is_plain(name, "._-/") || name.find("..") != std::string::npos)
        add(child(at, "name"), "must be the name of a sysctl, such as net.ipv4.tcp_syncookies, is \"" + name + "\"");
      else if (!names.insert(name).second)
        add(child(at, "name"), "is used twice: \"" + name + "\"");
      else if (spec.host_network() && name.starts_with("net"))
        add(child(at, "name"), "cannot be set with hostNetwork: it would be the node's");
      else if (spec.host_ipc() && !name.starts_with("net"))
        add(child(at, "name"), "cannot be set with hostIPC: it would be the node's");
      if (!is_plain(context.sysctls(i).value(), " \t._-+:,/"))
        add(child(at, "value"), "holds characters that no sysctl takes");
    }
    if (spec.has_host_users() && !spec.host_users())
      for (const auto& [field, shared] : {std::pair("hostNetwork", spec.host_network()),
                                          std::pair("hostPID", spec.host_pid()), std::pair("hostIPC", spec.host_ipc())})
        if (shared) add(child("/spec", field), "cannot be combined with hostUsers: false");
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
    std::set<std::string> paths;
    if (source.has_downward_api()) {
      const std::string at = child(pointer, "downwardAPI");
      if (source.downward_api().has_default_mode())
        file_mode(source.downward_api().default_mode(), child(at, "defaultMode"));
      downward_items(source.downward_api().items(), child(at, "items"), paths);
    }
    if (source.has_projected()) {
      const std::string at = child(pointer, "projected");
      if (source.projected().has_default_mode()) file_mode(source.projected().default_mode(), child(at, "defaultMode"));
      for (int i = 0; i < source.projected().sources_size(); ++i)
        downward_items(source.projected().sources(i).downward_api().items(),
                       child(child(child(child(at, "sources"), static_cast<size_t>(i)), "downwardAPI"), "items"),
                       paths);
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
    if (const std::string& proc = container.security_context().proc_mount(); !proc.empty() && proc != "Default") {
      const std::string at = child(child(pointer, "securityContext"), "procMount");
      if (proc != "Unmasked")
        add(at, "must be Default or Unmasked, is \"" + proc + "\"");
      else if (!spec.has_host_users() || spec.host_users())
        add(at, "needs hostUsers: false in the pod to be Unmasked");
    }
    if (container.has_startup_probe()) probe(container.startup_probe(), child(pointer, "startupProbe"), true);
    if (container.has_liveness_probe()) probe(container.liveness_probe(), child(pointer, "livenessProbe"), true);
    if (container.has_readiness_probe()) probe(container.readiness_probe(), child(pointer, "readinessProbe"), false);
    const core::Lifecycle& lifecycle = container.lifecycle();
    const std::string hooks = child(pointer, "lifecycle");
    if (lifecycle.has_stop_signal()) {
      one_of(lifecycle, "stop_signal", lifecycle.stop_signal(), child(hooks, "stopSignal"));
      if (spec.os().name().empty())
        add(child(hooks, "stopSignal"), "may only be set with os: {name: linux} in the pod");
    }
    restart_rules(container, pointer);
    if (lifecycle.has_post_start()) handler(lifecycle.post_start(), spec, child(hooks, "postStart"));
    if (lifecycle.has_pre_stop()) handler(lifecycle.pre_stop(), spec, child(hooks, "preStop"));
  }

  void restart_rules(const core::Container& container, const std::string& pointer) {
    const std::string& policy = container.restart_policy();
    if (container.has_restart_policy() && policy != "Always" && policy != "OnFailure" && policy != "Never")
      add(child(pointer, "restartPolicy"), "must be Always, OnFailure or Never, is \"" + policy + "\"");
    const std::string at = child(pointer, "restartPolicyRules");
    if (container.restart_policy_rules_size() > 0 && !container.has_restart_policy())
      add(at, "may only be set with a restartPolicy of the container's own");
    if (container.restart_policy_rules_size() > kMostRestartRules) add(at, "must not have more than 20 rules");
    for (int i = 0; i < container.restart_policy_rules_size(); ++i) {
      const core::ContainerRestartRule& rule = container.restart_policy_rules(i);
      const std::string one = child(at, static_cast<size_t>(i));
      if (rule.action() != "Restart") add(child(one, "action"), "must be Restart, is \"" + rule.action() + "\"");
      const core::ContainerRestartRuleOnExitCodes& codes = rule.exit_codes();
      if (codes.operator_() != "In" && codes.operator_() != "NotIn")
        add(child(child(one, "exitCodes"), "operator"), "must be In or NotIn, is \"" + codes.operator_() + "\"");
      if (codes.values_size() == 0 || codes.values_size() > kMostExitCodes)
        add(child(child(one, "exitCodes"), "values"), "must have 1 to 255 exit codes");
    }
  }

  /// Only a sidecar lives long enough to be looked at.
  void init_container(const core::Container& container, const std::string& pointer) {
    if (container.restart_policy() == "Always") return;
    const auto sidecars_only = [&](bool is_set, const char* field) {
      if (is_set) add(child(pointer, field), "may only be set with restartPolicy Always");
    };
    sidecars_only(container.has_startup_probe(), "startupProbe");
    sidecars_only(container.has_liveness_probe(), "livenessProbe");
    sidecars_only(container.has_readiness_probe(), "readinessProbe");
    sidecars_only(container.has_lifecycle(), "lifecycle");
  }

  void probe(const core::Probe& probe, const std::string& pointer, bool ends_the_container) {
    const auto not_negative = [&](int32_t value, const char* field) {
      if (value < 0) add(child(pointer, field), "must not be negative, is " + std::to_string(value));
    };
    not_negative(probe.initial_delay_seconds(), "initialDelaySeconds");
    not_negative(probe.timeout_seconds(), "timeoutSeconds");
    not_negative(probe.period_seconds(), "periodSeconds");
    not_negative(probe.success_threshold(), "successThreshold");
    not_negative(probe.failure_threshold(), "failureThreshold");
    if (ends_the_container && probe.success_threshold() > 1) add(child(pointer, "successThreshold"), "must be 1");
    const std::string grace = child(pointer, "terminationGracePeriodSeconds");
    if (probe.has_termination_grace_period_seconds() && !ends_the_container)
      add(grace, "cannot be set for a readiness probe, which ends nothing");
    else if (probe.has_termination_grace_period_seconds() && probe.termination_grace_period_seconds() < 1)
      add(grace, "must be at least 1");
    one_action(probe.handler(), pointer, "exec, httpGet, tcpSocket or grpc");
    actions(probe.handler(), pointer);
    if (probe.handler().has_grpc()) port_number(probe.handler().grpc().port(), child(child(pointer, "grpc"), "port"));
  }

  void handler(const core::LifecycleHandler& handler, const core::PodSpec& spec, const std::string& pointer) {
    one_action(handler, pointer, "exec, httpGet, tcpSocket or sleep");
    actions(handler, pointer);
    if (!handler.has_sleep()) return;
    const int64_t seconds = handler.sleep().seconds(), most = spec.termination_grace_period_seconds();
    if (seconds < 0 || seconds > most)
      add(child(child(pointer, "sleep"), "seconds"), "must be between 0 and the pod's terminationGracePeriodSeconds " +
                                                         std::to_string(most) + ", is " + std::to_string(seconds));
  }

  void one_action(const google::protobuf::Message& handler, const std::string& pointer, const std::string& choice) {
    std::vector<const google::protobuf::FieldDescriptor*> set;
    handler.GetReflection()->ListFields(handler, &set);
    if (set.empty()) add(pointer, "what to do is required: " + choice);
    if (set.size() > 1) add(pointer, "must have one of " + choice + ", has " + std::to_string(set.size()));
  }

  /// What probes and hooks have in common.
  template <class Handler>
  void actions(const Handler& handler, const std::string& pointer) {
    if (handler.has_exec() && handler.exec().command_size() == 0)
      add(child(child(pointer, "exec"), "command"), "a command is required");
    if (handler.has_tcp_socket()) port_or_name(handler.tcp_socket().port(), child(child(pointer, "tcpSocket"), "port"));
    if (!handler.has_http_get()) return;
    const core::HTTPGetAction& http = handler.http_get();
    const std::string at = child(pointer, "httpGet");
    port_or_name(http.port(), child(at, "port"));
    one_of(http, "scheme", http.scheme(), child(at, "scheme"));
    for (int i = 0; i < http.http_headers_size(); ++i) {
      const core::HTTPHeader& header = http.http_headers(i);
      const std::string in = child(child(at, "httpHeaders"), static_cast<size_t>(i));
      const bool is_token =
          !header.name().empty() && std::all_of(header.name().begin(), header.name().end(), [](unsigned char c) {
            return std::isalnum(c) != 0 ||
                   std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != std::string_view::npos;
          });
      if (!is_token) add(child(in, "name"), "must be a header's name (RFC 9110), is \"" + header.name() + "\"");
      if (header.value().find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos)
        add(child(in, "value"), "must be one line");
    }
  }

  void port_number(int32_t port, const std::string& pointer) {
    if (port < 1 || port > 65535) add(pointer, "must be between 1 and 65535, is " + std::to_string(port));
  }

  template <class Port>
  void port_or_name(const Port& port, const std::string& pointer) {
    if (port.type() == 0)
      port_number(port.int_val(), pointer);
    else
      add(pointer, port_name_problem(port.str_val()));
  }

  void ports(const core::Container& container, const core::PodSpec& spec, const std::string& pointer) {
    std::set<std::string> names;
    for (int i = 0; i < container.ports_size(); ++i) {
      const core::ContainerPort& port = container.ports(i);
      const std::string at = child(pointer, static_cast<size_t>(i));
      if (!port.has_container_port())
        add(child(at, "containerPort"), "a port is required");
      else
        port_number(port.container_port(), child(at, "containerPort"));
      one_of(port, "protocol", port.protocol(), child(at, "protocol"));
      if (!port.name().empty()) {
        add(child(at, "name"), port_name_problem(port.name()));
        if (!names.insert(port.name()).second) add(child(at, "name"), "is used twice: \"" + port.name() + "\"");
      }
      if (!port.host_ip().empty()) add(child(at, "hostIP"), address_problem(port.host_ip()));
      if (port.host_port() == 0) continue;
      port_number(port.host_port(), child(at, "hostPort"));
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
    if (source.has_resource_field_ref()) resource_reference(source.resource_field_ref(), child(at, "resourceFieldRef"));
    if (!source.has_field_ref()) return;
    const std::string& path = source.field_ref().field_path();
    const std::string field = child(child(at, "fieldRef"), "fieldPath");
    static const std::set<std::string_view> known = {
        "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
        "status.hostIP", "status.hostIPs",     "status.podIP", "status.podIPs"};
    const bool keyed = is_keyed_field(path);
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

  void huge_pages(const std::string& name, const Quantity& amount, const std::string& at) {
    const Result<Quantity> size = Quantity::parse(name.substr(kHugePages.size()));
    if (!size || !size->is_whole() || size->is_negative() || size->is_zero())
      add(at, "must be named after the size of its pages, such as hugepages-2Mi");
    else if (!amount.is_negative() && amount.units() % size->units() != 0)
      add(at, "must be so many pages of " + size->text() + ", is " + amount.text());
  }

  /// Whose pages a volume of them has, is told by its medium or by what the containers ask for.
  void huge_page_volumes(const core::PodSpec& spec) {
    std::set<std::string> sizes;
    const auto note = [&](const core::ResourceRequirements& resources) {
      for (const auto& [name, quantity] : resources.limits())
        if (name.starts_with(kHugePages) && !Quantity::of(quantity).is_zero()) sizes.insert(name);
    };
    for (const auto* list : {&spec.init_containers(), &spec.containers()})
      for (const core::Container& container : *list) note(container.resources());
    note(spec.resources());
    for (int i = 0; i < spec.volumes_size(); ++i) {
      const std::string& medium = spec.volumes(i).volume_source().empty_dir().medium();
      if (!medium.starts_with("HugePages")) continue;
      const std::string at = child(child(child("/spec/volumes", static_cast<size_t>(i)), "emptyDir"), "medium");
      if (medium == "HugePages" && sizes.size() != 1)
        add(at, sizes.empty() ? "HugePages: neither the pod nor a container has a limit of hugepages-SIZE"
                              : "HugePages: containers have pages of several sizes: say which, as HugePages-2Mi");
      else if (medium != "HugePages" &&
               !sizes.contains("hugepages-" + medium.substr(std::min<size_t>(medium.size(), 10))))
        add(at, medium + ": neither the pod nor a container has a limit of hugepages-" +
                    medium.substr(std::min<size_t>(medium.size(), 10)));
    }
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
        if (name.starts_with(kHugePages)) huge_pages(name, amount, child(at, name));
      }
    };
    amounts(resources.limits(), child(pointer, "limits"));
    amounts(resources.requests(), child(pointer, "requests"));
    bool has_huge_pages = false, has_others = false;
    for (const auto* list : {&resources.limits(), &resources.requests()})
      for (const auto& [name, quantity] : *list) {
        has_huge_pages = has_huge_pages || (name.starts_with(kHugePages) && !Quantity::of(quantity).is_zero());
        has_others = has_others || name == "cpu" || name == "memory";
      }
    if (has_huge_pages && !has_others) add(pointer, "huge pages need a request or limit of cpu or memory beside them");
    for (const auto& [name, quantity] : resources.requests()) {
      const auto limit = resources.limits().find(name);
      // They cannot be overcommitted.
      if (name.starts_with(kHugePages) &&
          (limit == resources.limits().end() || !(Quantity::of(limit->second) == Quantity::of(quantity))))
        add(child(child(pointer, "requests"), name),
            "must be equal to the limit" +
                (limit == resources.limits().end()
                     ? ", and there is none"
                     : " " + Quantity::of(limit->second).text() + ", is " + Quantity::of(quantity).text()));
      if (limit == resources.limits().end() || name.starts_with(kHugePages)) continue;
      const Quantity requested = Quantity::of(quantity), limited = Quantity::of(limit->second);
      if (requested > limited)
        add(child(child(pointer, "requests"), name),
            "must be at most the limit " + limited.text() + ", is " + requested.text());
    }
  }

  /// Of the pod as a whole: its containers cannot need more together, and none of them may have more.
  void pod_resources(const core::PodSpec& spec) {
    const std::string at = "/spec/resources";
    resources(spec.resources(), at);
    for (const char* list : {"requests", "limits"}) {
      const auto& amounts = *list == 'l' ? spec.resources().limits() : spec.resources().requests();
      for (const auto& [name, quantity] : amounts) {
        if (name != "cpu" && name != "memory" && !name.starts_with("hugepages-"))
          add(child(child(at, list), name), "must be cpu, memory or hugepages-SIZE");
        Quantity together, largest;
        for (const core::Container& container : spec.containers()) {
          const auto& own = *list == 'l' ? container.resources().limits() : container.resources().requests();
          const auto found = own.find(name);
          if (found == own.end()) continue;
          together += Quantity::of(found->second);
          if (Quantity::of(found->second) > largest) largest = Quantity::of(found->second);
        }
        // Huge pages cannot be overcommitted: who may use them has them.
        const bool is_together = *list == 'r' || name.starts_with(kHugePages);
        const Quantity& most = is_together ? together : largest;
        if (most > Quantity::of(quantity))
          add(child(child(at, list), name), std::string("must be at least what ") +
                                                (*list == 'r'  ? "its containers request together, "
                                                 : is_together ? "its containers may use together, "
                                                               : "each container may use, ") +
                                                most.text() + ", is " + Quantity::of(quantity).text());
      }
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
      if (!mount.sub_path_expr().empty()) add(child(at, "subPathExpr"), descending_path_problem(mount.sub_path_expr()));
      if (!mount.recursive_read_only().empty() && mount.recursive_read_only() != "Disabled") {
        const std::string recursive = child(at, "recursiveReadOnly");
        one_of(mount, "recursive_read_only", mount.recursive_read_only(), recursive);
        if (!mount.read_only()) add(recursive, "needs readOnly: true");
        if (!mount.mount_propagation().empty() && mount.mount_propagation() != "None")
          add(recursive, "needs mountPropagation None");
      }
      one_of(mount, "mount_propagation", mount.mount_propagation(), child(at, "mountPropagation"));
      if (mount.mount_propagation() == "Bidirectional" && !container.security_context().privileged())
        add(child(at, "mountPropagation"), "Bidirectional needs a privileged container");
    }
  }

  void security(const core::SecurityContext& context, const std::string& pointer) {
    if (context.has_run_as_user()) user_id(context.run_as_user(), child(pointer, "runAsUser"));
    if (context.has_run_as_group()) user_id(context.run_as_group(), child(pointer, "runAsGroup"));
    if (context.has_seccomp_profile()) seccomp(context.seccomp_profile(), child(pointer, "seccompProfile"));
    if (context.has_app_armor_profile()) apparmor(context.app_armor_profile(), child(pointer, "appArmorProfile"));
    if (!context.has_allow_privilege_escalation() || context.allow_privilege_escalation()) return;
    if (context.privileged())
      add(child(pointer, "allowPrivilegeEscalation"), "cannot be false in a privileged container");
    const auto& added = context.capabilities().add();
    if (std::any_of(added.begin(), added.end(),
                    [](const std::string& name) { return name == "SYS_ADMIN" || name == "CAP_SYS_ADMIN"; }))
      add(child(pointer, "allowPrivilegeEscalation"), "cannot be false with the capability SYS_ADMIN");
  }

  Problems& problems_;
  std::vector<std::pair<std::string, std::string>> references_;  ///< to containers that are read later
  std::set<std::string> volumes_;
  std::set<std::string> containers_;
  std::set<std::tuple<std::string, std::string, int32_t>> host_ports_;
};

}  // namespace

bool find_apparmor_profile(const core::Pod& pod, const core::Container& container, core::AppArmorProfile& profile) {
  if (container.security_context().has_app_armor_profile()) {
    profile = container.security_context().app_armor_profile();
    return true;
  }
  const auto& annotations = pod.metadata().annotations();
  const auto annotation = annotations.find(std::string(kApparmorAnnotation) + container.name());
  if (annotation != annotations.end() && parse_apparmor(annotation->second, profile)) return true;
  if (!pod.spec().security_context().has_app_armor_profile()) return false;
  profile = pod.spec().security_context().app_armor_profile();
  return true;
}

Problems validate_pod(const core::Pod& pod) {
  Problems problems;
  PodValidator(problems).pod(pod);
  return problems;
}

}  // namespace pintle::api
