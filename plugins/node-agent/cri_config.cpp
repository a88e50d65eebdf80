#include "plugins/node-agent/cri_config.hpp"

#include <algorithm>
#include <array>
#include <sstream>

#include "cri/api.pb.h"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_resources.hpp"
#include "plugins/node-agent/volumes.hpp"
#include "sdk/api/pod.hpp"
#include "sdk/api/quantity.hpp"

namespace pintle::agent {

namespace {

constexpr size_t kLongestHostname = 63;
constexpr int kMostServers = 3;                                 // that a resolver takes
constexpr int64_t kQuotaPeriod = 100'000, kLeastQuota = 1'000;  // microseconds
constexpr int64_t kScoreGuaranteed = -997, kScoreBestEffort = 1'000;

// What Kubernetes hides of /proc and /sys from containers that are not privileged.
constexpr std::array kMaskedPaths = {"/proc/asound",     "/proc/acpi",        "/proc/interrupts",
                                     "/proc/kcore",      "/proc/keys",        "/proc/latency_stats",
                                     "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                                     "/proc/scsi",       "/sys/firmware",     "/sys/devices/virtual/powercap"};
constexpr std::array kReadonlyPaths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};

std::string hostname_of(const core::Pod& pod, const NodeFacts& node) {
  return pod.spec().set_hostname_as_fqdn() ? full_hostname_of(pod, node.cluster_domain) : short_hostname_of(pod);
}

void set_dns(cri::DNSConfig& dns, const WantedPod& pod, const NodeFacts& node) {
  const core::PodSpec& spec = pod.pod->spec();
  const core::PodDNSConfig& config = spec.dns_config();
  // With hostNetwork, ClusterFirst means Default (Kubernetes' rule).
  const bool cluster = !node.cluster_dns.empty() && (spec.dns_policy() == "ClusterFirstWithHostNet" ||
                                                     (spec.dns_policy() == "ClusterFirst" && !spec.host_network()));
  const bool adds = config.nameservers_size() + config.searches_size() + config.options_size() > 0;
  if (cluster) {
    for (const std::string& server : node.cluster_dns) dns.add_servers(server);
    dns.add_searches(pod.namespace_name + ".svc." + node.cluster_domain);
    dns.add_searches("svc." + node.cluster_domain);
    dns.add_searches(node.cluster_domain);
    dns.add_options("ndots:5");
  } else if (spec.dns_policy() != "None") {
    // The runtime gives the node's own resolv.conf to a pod that asks for nothing.
    if (!adds) return;
    for (const std::string& server : node.resolver.servers) dns.add_servers(server);
    for (const std::string& search : node.resolver.searches) dns.add_searches(search);
    for (const std::string& option : node.resolver.options) dns.add_options(option);
  }
  const auto add = [](auto* list, const std::string& value) {
    if (std::find(list->begin(), list->end(), value) == list->end()) *list->Add() = value;
  };
  for (const std::string& server : config.nameservers())
    if (dns.servers_size() < kMostServers) add(dns.mutable_servers(), server);
  for (const std::string& search : config.searches()) add(dns.mutable_searches(), search);
  for (const core::PodDNSConfigOption& option : config.options()) {
    auto* options = dns.mutable_options();
    const std::string prefix = option.name() + ":";
    options->erase(
        std::remove_if(options->begin(), options->end(),
                       [&](const std::string& other) { return other == option.name() || other.starts_with(prefix); }),
        options->end());
    *options->Add() = option.has_value() ? prefix + option.value() : option.name();
  }
}

template <class Mappings>
void set_mapping(Mappings* mappings, PodIds ids) {
  cri::IDMapping& mapping = *mappings->Add();
  mapping.set_host_id(ids.first);
  mapping.set_length(ids.count);
}

void set_namespaces(cri::NamespaceOption& options, const core::PodSpec& spec, PodIds ids) {
  if (ids.count != 0) {
    options.mutable_userns_options()->set_mode(cri::POD);
    set_mapping(options.mutable_userns_options()->mutable_uids(), ids);
    set_mapping(options.mutable_userns_options()->mutable_gids(), ids);
  }
  options.set_network(spec.host_network() ? cri::NODE : cri::POD);
  options.set_ipc(spec.host_ipc() ? cri::NODE : cri::POD);
  options.set_pid(spec.host_pid() ? cri::NODE : spec.share_process_namespace() ? cri::POD : cri::CONTAINER);
}

void set_seccomp(cri::SecurityProfile& profile, const core::SeccompProfile* wanted, const NodeFacts& node) {
  profile.set_profile_type(cri::SecurityProfile::RuntimeDefault);
  if (!wanted) return;
  if (wanted->type() == "Unconfined") profile.set_profile_type(cri::SecurityProfile::Unconfined);
  if (wanted->type() == "Localhost") {
    profile.set_profile_type(cri::SecurityProfile::Localhost);
    profile.set_localhost_ref(node.seccomp_folder + "/" + wanted->localhost_profile());
  }
}

void set_apparmor(cri::SecurityProfile& profile, const core::AppArmorProfile& wanted) {
  profile.set_profile_type(wanted.type() == "Unconfined"  ? cri::SecurityProfile::Unconfined
                           : wanted.type() == "Localhost" ? cri::SecurityProfile::Localhost
                                                          : cri::SecurityProfile::RuntimeDefault);
  profile.set_localhost_ref(wanted.localhost_profile());
}

void set_selinux(cri::SELinuxOption& option, const core::SELinuxOptions& wanted) {
  option.set_user(wanted.user());
  option.set_role(wanted.role());
  option.set_type(wanted.type());
  option.set_level(wanted.level());
}

template <class Context>
void set_groups(Context& out, const core::PodSecurityContext& of_pod) {
  for (const int64_t group : of_pod.supplemental_groups()) out.add_supplemental_groups(group);
  if (of_pod.has_fs_group()) out.add_supplemental_groups(of_pod.fs_group());
  if (of_pod.supplemental_groups_policy() == "Strict")
    out.set_supplemental_groups_policy(cri::SupplementalGroupsPolicy::Strict);
}

int64_t quota_of(int64_t milli) { return std::max(milli * kQuotaPeriod / 1000, kLeastQuota); }

/// What all containers of a pod may use together.
void add_huge_pages(cri::LinuxContainerResources& resources, const std::string& name, const api::Quantity& amount) {
  cri::HugepageLimit& limit = *resources.add_hugepage_limits();
  limit.set_page_size(huge_page_name(huge_page_size(name)));
  limit.set_limit(static_cast<uint64_t>(amount.units()));
}

cri::LinuxContainerResources resources_of_pod(const core::Pod& pod) {
  cri::LinuxContainerResources resources;
  resources.set_cpu_shares(static_cast<int64_t>(cpu_shares(requested_by(pod, "cpu").amount.milli())));
  if (const PodAmount cpu = limit_of(pod, "cpu"); cpu.complete) {
    resources.set_cpu_period(kQuotaPeriod);
    resources.set_cpu_quota(quota_of(cpu.amount.milli()));
  }
  if (const PodAmount memory = limit_of(pod, "memory"); memory.complete)
    resources.set_memory_limit_in_bytes(memory.amount.units());
  for (const std::string& name : huge_pages_of(pod)) add_huge_pages(resources, name, limit_of(pod, name).amount);
  return resources;
}

void set_resources(cri::LinuxContainerResources& resources, const WantedPod& pod, const core::Container& container,
                   const NodeFacts& node) {
  const api::Quantity cpu_limit = limit_of(container, "cpu");
  const api::Quantity cpu_request = requested_by(container, "cpu");
  const api::Quantity memory_limit = limit_of(container, "memory");
  const api::Quantity memory_request = requested_by(container, "memory");

  const int64_t shared_milli = cpu_request.is_zero() && container.resources().requests().count("cpu") == 0
                                   ? cpu_limit.milli()
                                   : cpu_request.milli();
  resources.set_cpu_shares(static_cast<int64_t>(cpu_shares(shared_milli)));
  if (!cpu_limit.is_zero()) {
    resources.set_cpu_period(kQuotaPeriod);
    resources.set_cpu_quota(quota_of(cpu_limit.milli()));
  }
  if (!memory_limit.is_zero()) resources.set_memory_limit_in_bytes(memory_limit.units());
  // Whoever asked for none of a size gets none: others count on theirs.
  for (const auto& [name, bytes] : node.huge_pages)
    add_huge_pages(resources, name, huge_pages_limit(*pod.pod, container, name));

  // The kernel ends first who uses most beyond what it asked for (kubelet's formula).
  const std::string_view quality = api::quality_of_service(*pod.pod);
  if (quality == "Guaranteed") {
    resources.set_oom_score_adj(kScoreGuaranteed);
  } else if (quality == "BestEffort" || node.memory_bytes <= 0) {
    resources.set_oom_score_adj(kScoreBestEffort);
  } else {
    const double share = static_cast<double>(memory_request.units()) / static_cast<double>(node.memory_bytes);
    resources.set_oom_score_adj(
        std::clamp<int64_t>(1000 - static_cast<int64_t>(1000 * share), 1000 + kScoreGuaranteed, kScoreBestEffort - 1));
  }
}

void set_security(cri::LinuxContainerSecurityContext& out, const core::Pod& pod, const core::Container& container,
                  const NodeFacts& node, PodIds ids) {
  const core::PodSecurityContext& of_pod = pod.spec().security_context();
  const core::SecurityContext& own = container.security_context();
  set_namespaces(*out.mutable_namespace_options(), pod.spec(), ids);
  out.set_privileged(own.privileged());
  out.set_readonly_rootfs(own.read_only_root_filesystem());
  out.set_no_new_privs(own.has_allow_privilege_escalation() && !own.allow_privilege_escalation());
  if (const int64_t user = user_of(pod, container); user >= 0) out.mutable_run_as_user()->set_value(user);
  if (own.has_run_as_group())
    out.mutable_run_as_group()->set_value(own.run_as_group());
  else if (of_pod.has_run_as_group())
    out.mutable_run_as_group()->set_value(of_pod.run_as_group());
  for (const std::string& name : own.capabilities().add()) out.mutable_capabilities()->add_add_capabilities(name);
  for (const std::string& name : own.capabilities().drop()) out.mutable_capabilities()->add_drop_capabilities(name);
  set_groups(out, of_pod);
  if (own.has_se_linux_options())
    set_selinux(*out.mutable_selinux_options(), own.se_linux_options());
  else if (of_pod.has_se_linux_options())
    set_selinux(*out.mutable_selinux_options(), of_pod.se_linux_options());
  core::AppArmorProfile apparmor;
  if (api::find_apparmor_profile(pod, container, apparmor)) set_apparmor(*out.mutable_apparmor(), apparmor);
  if (own.privileged()) {
    out.mutable_seccomp()->set_profile_type(cri::SecurityProfile::Unconfined);
    return;
  }
  set_seccomp(*out.mutable_seccomp(),
              own.has_seccomp_profile()      ? &own.seccomp_profile()
              : of_pod.has_seccomp_profile() ? &of_pod.seccomp_profile()
                                             : nullptr,
              node);
  if (own.proc_mount() == "Unmasked") return;
  for (const char* path : kMaskedPaths) out.add_masked_paths(path);
  for (const char* path : kReadonlyPaths) out.add_readonly_paths(path);
}

/// Kubernetes' HostToContainer is a slave of the node's mounts, Bidirectional a peer.
cri::MountPropagation propagation_of(const std::string& wanted) {
  return wanted == "HostToContainer" ? cri::PROPAGATION_HOST_TO_CONTAINER
         : wanted == "Bidirectional" ? cri::PROPAGATION_BIDIRECTIONAL
                                     : cri::PROPAGATION_PRIVATE;
}

void set_mounts(cri::ContainerConfig& config, const core::Pod& pod, const ContainerPlan& plan) {
  const core::Container& container = *plan.container;
  for (int i = 0; i < container.volume_mounts_size(); ++i) {
    const core::VolumeMount& wanted = container.volume_mounts(i);
    cri::Mount& mount = *config.add_mounts();
    // A relative mountPath is one from the root, as Kubernetes takes it.
    mount.set_container_path(wanted.mount_path().starts_with('/') ? wanted.mount_path() : "/" + wanted.mount_path());
    const auto sub_path = plan.sub_paths.find(i);
    mount.set_host_path(sub_path == plan.sub_paths.end() ? plan.volumes.at(wanted.name()) : sub_path->second);
    const auto volume = std::find_if(pod.spec().volumes().begin(), pod.spec().volumes().end(),
                                     [&](const core::Volume& one) { return one.name() == wanted.name(); });
    mount.set_readonly(wanted.read_only() || (volume != pod.spec().volumes().end() && is_read_only(*volume)));
    mount.set_propagation(propagation_of(wanted.mount_propagation()));
    mount.set_recursive_read_only(wanted.recursive_read_only() == "Enabled" ||
                                  wanted.recursive_read_only() == "IfPossible");
  }
  if (plan.hosts.empty()) return;
  cri::Mount& hosts = *config.add_mounts();
  hosts.set_container_path("/etc/hosts");
  hosts.set_host_path(plan.hosts);
  hosts.set_readonly(container.security_context().read_only_root_filesystem());
}

/// Those that lead from the node into the pod; a pod of the node's network has the node's ports as they are.
void set_ports(cri::PodSandboxConfig& config, const core::PodSpec& spec) {
  if (spec.host_network()) return;
  const auto add = [&](const core::Container& container) {
    for (const core::ContainerPort& port : container.ports()) {
      if (port.host_port() == 0) continue;
      cri::PortMapping& mapping = *config.add_port_mappings();
      mapping.set_protocol(port.protocol() == "UDP" ? cri::UDP : port.protocol() == "SCTP" ? cri::SCTP : cri::TCP);
      mapping.set_container_port(port.container_port());
      mapping.set_host_port(port.host_port());
      mapping.set_host_ip(port.host_ip());
    }
  };
  for (const core::Container& container : spec.init_containers()) add(container);
  for (const core::Container& container : spec.containers()) add(container);
}

}  // namespace

std::string short_hostname_of(const core::Pod& pod) {
  if (!pod.spec().hostname_override().empty()) return pod.spec().hostname_override();
  std::string name = pod.spec().hostname().empty() ? pod.metadata().name() : pod.spec().hostname();
  if (name.size() > kLongestHostname) name.resize(kLongestHostname);
  while (!name.empty() && (name.back() == '-' || name.back() == '.')) name.pop_back();
  return name;
}

std::string full_hostname_of(const core::Pod& pod, const std::string& cluster_domain) {
  const std::string name = short_hostname_of(pod);
  if (pod.spec().subdomain().empty() || !pod.spec().hostname_override().empty()) return name;
  return name + "." + pod.spec().subdomain() + "." + pod.metadata().namespace_() + ".svc." + cluster_domain;
}

std::string cgroup_of(const WantedPod& pod, const std::string& root) {
  if (root.empty()) return {};
  const std::string_view quality = api::quality_of_service(*pod.pod);
  return root +
         (quality == "Guaranteed"  ? ""
          : quality == "Burstable" ? "/burstable"
                                   : "/besteffort") +
         "/pod" + pod.uid;
}

Resolver parse_resolver(std::string_view resolv_conf) {
  Resolver resolver;
  std::istringstream lines{std::string(resolv_conf)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line.substr(0, line.find_first_of("#;")));
    std::string keyword, word;
    if (!(words >> keyword)) continue;
    // Of `search` and `domain` the last one counts.
    if (keyword == "search" || keyword == "domain") resolver.searches.clear();
    while (words >> word) {
      if (keyword == "nameserver" && resolver.servers.size() < static_cast<size_t>(kMostServers))
        resolver.servers.push_back(word);
      if (keyword == "search" || keyword == "domain") resolver.searches.push_back(word);
      if (keyword == "options") resolver.options.push_back(word);
    }
  }
  return resolver;
}

std::string log_folder_of(const NodeFacts& node, const WantedPod& pod) {
  return node.log_folder + "/" + pod.namespace_name + "_" + pod.name + "_" + pod.uid;
}

std::string log_path_of(const std::string& container, uint32_t attempt) {
  return container + "/" + std::to_string(attempt) + ".log";
}

int64_t user_of(const core::Pod& pod, const core::Container& container) {
  if (container.security_context().has_run_as_user()) return container.security_context().run_as_user();
  if (pod.spec().security_context().has_run_as_user()) return pod.spec().security_context().run_as_user();
  return -1;
}

bool must_not_be_root(const core::Pod& pod, const core::Container& container) {
  if (container.security_context().has_run_as_non_root()) return container.security_context().run_as_non_root();
  return pod.spec().security_context().run_as_non_root();
}

cri::PodSandboxConfig sandbox_config(const WantedPod& pod, const NodeFacts& node, uint32_t attempt, PodIds ids) {
  const core::Pod& object = *pod.pod;
  const core::PodSpec& spec = object.spec();
  cri::PodSandboxConfig config;
  config.mutable_metadata()->set_name(pod.name);
  config.mutable_metadata()->set_namespace_(pod.namespace_name);
  config.mutable_metadata()->set_uid(pod.uid);
  config.mutable_metadata()->set_attempt(attempt);
  if (!spec.host_network()) config.set_hostname(hostname_of(object, node));
  config.set_log_directory(log_folder_of(node, pod));
  // Policy Default without a dnsConfig leaves this empty: the runtime then gives the node's own resolv.conf.
  set_dns(*config.mutable_dns_config(), pod, node);
  set_ports(config, spec);
  for (const auto& [key, value] : object.metadata().labels()) (*config.mutable_labels())[key] = value;
  (*config.mutable_labels())[label::kPodName] = pod.name;
  (*config.mutable_labels())[label::kPodNamespace] = pod.namespace_name;
  (*config.mutable_labels())[label::kPodUid] = pod.uid;
  for (const auto& [key, value] : object.metadata().annotations()) (*config.mutable_annotations())[key] = value;
  (*config.mutable_annotations())[annotation::kSource] = annotation::kSourceValue;
  (*config.mutable_annotations())[annotation::kGraceSeconds] = std::to_string(spec.termination_grace_period_seconds());

  cri::LinuxSandboxSecurityContext& security = *config.mutable_linux()->mutable_security_context();
  set_namespaces(*security.mutable_namespace_options(), spec, ids);
  if (spec.security_context().has_run_as_user())
    security.mutable_run_as_user()->set_value(spec.security_context().run_as_user());
  if (spec.security_context().has_run_as_group())
    security.mutable_run_as_group()->set_value(spec.security_context().run_as_group());
  set_seccomp(*security.mutable_seccomp(),
              spec.security_context().has_seccomp_profile() ? &spec.security_context().seccomp_profile() : nullptr,
              node);
  set_groups(security, spec.security_context());
  if (spec.security_context().has_se_linux_options())
    set_selinux(*security.mutable_selinux_options(), spec.security_context().se_linux_options());
  for (const core::Sysctl& sysctl : spec.security_context().sysctls())
    (*config.mutable_linux()->mutable_sysctls())[sysctl.name()] = sysctl.value();
  if (!node.cgroups.root.empty()) {
    config.mutable_linux()->set_cgroup_parent(place_of(node.cgroups, cgroup_of(pod, node.cgroups.root)));
    *config.mutable_linux()->mutable_resources() = resources_of_pod(object);
  }
  for (const auto* list : {&spec.init_containers(), &spec.containers()})
    for (const core::Container& container : *list)
      if (container.security_context().privileged()) security.set_privileged(true);

  return config;
}

namespace {

/// CRI spells "SIGRTMIN+1" as SIGNAL_SIGRTMINPLUS1.
cri::Signal stop_signal_of(const core::Container& container) {
  std::string name = container.lifecycle().stop_signal();
  if (const size_t plus = name.find('+'); plus != std::string::npos) name.replace(plus, 1, "PLUS");
  if (const size_t minus = name.find('-'); minus != std::string::npos) name.replace(minus, 1, "MINUS");
  cri::Signal signal = cri::SIGNAL_RUNTIME_DEFAULT;
  return !name.empty() && cri::Signal_Parse("SIGNAL_" + name, &signal) ? signal : cri::SIGNAL_RUNTIME_DEFAULT;
}

}  // namespace

cri::ContainerConfig container_config(const WantedPod& pod, const NodeFacts& node, const ContainerPlan& plan) {
  const core::Container& container = *plan.container;
  cri::ContainerConfig config;
  config.mutable_metadata()->set_name(container.name());
  config.mutable_metadata()->set_attempt(plan.attempt);
  config.mutable_image()->set_image(container.image());
  config.mutable_image()->set_user_specified_image(container.image());

  std::map<std::string, std::string> values;
  for (auto& [name, value] : environment_of(*pod.pod, container, plan.facts)) {
    cri::KeyValue& variable = *config.add_envs();
    variable.set_key(name);
    variable.set_value(value);
    values[name] = std::move(value);
  }
  for (const std::string& word : container.command()) config.add_command(expand(word, values));
  for (const std::string& word : container.args()) config.add_args(expand(word, values));
  config.set_working_dir(container.working_dir());
  config.set_tty(container.tty());
  config.set_stdin(container.stdin());
  config.set_stdin_once(container.stdin_once());
  config.set_stop_signal(stop_signal_of(container));

  set_mounts(config, *pod.pod, plan);

  if (!plan.termination_message.empty()) {
    cri::Mount& mount = *config.add_mounts();
    mount.set_container_path(container.termination_message_path());
    mount.set_host_path(plan.termination_message);
  }

  // Files keep the owners that they have for the node, whatever ids the pod has.
  if (plan.ids.count != 0)
    for (cri::Mount& mount : *config.mutable_mounts()) {
      set_mapping(mount.mutable_uidmappings(), plan.ids);
      set_mapping(mount.mutable_gidmappings(), plan.ids);
    }

  (*config.mutable_labels())[label::kPodName] = pod.name;
  (*config.mutable_labels())[label::kPodNamespace] = pod.namespace_name;
  (*config.mutable_labels())[label::kPodUid] = pod.uid;
  (*config.mutable_labels())[label::kContainerName] = container.name();
  (*config.mutable_annotations())[annotation::kSource] = annotation::kSourceValue;
  (*config.mutable_annotations())[annotation::kRestartCount] = std::to_string(plan.attempt);
  (*config.mutable_annotations())[annotation::kGraceSeconds] =
      std::to_string(pod.pod->spec().termination_grace_period_seconds());
  config.set_log_path(log_path_of(container.name(), plan.attempt));

  set_resources(*config.mutable_linux()->mutable_resources(), pod, container, node);
  set_security(*config.mutable_linux()->mutable_security_context(), *pod.pod, container, node, plan.ids);
  return config;
}

}  // namespace pintle::agent
