#include "plugins/node-agent/cri_config.hpp"

#include <algorithm>
#include <array>
#include <sstream>

#include "cri/api.pb.h"
#include "k8s/core/v1/pod.pb.h"
#include "sdk/api/pod.hpp"
#include "sdk/api/quantity.hpp"

namespace pintle::agent {

namespace {

constexpr size_t kLongestHostname = 63;
constexpr int kMostServers = 3;                                 // that a resolver takes
constexpr int64_t kQuotaPeriod = 100'000, kLeastQuota = 1'000;  // microseconds
constexpr int64_t kLeastShares = 2, kMostShares = 262'144, kSharesOfCore = 1'024;
constexpr int64_t kScoreGuaranteed = -997, kScoreBestEffort = 1'000;

// What Kubernetes hides of /proc and /sys from containers that are not privileged.
constexpr std::array kMaskedPaths = {"/proc/asound",     "/proc/acpi",        "/proc/interrupts",
                                     "/proc/kcore",      "/proc/keys",        "/proc/latency_stats",
                                     "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                                     "/proc/scsi",       "/sys/firmware",     "/sys/devices/virtual/powercap"};
constexpr std::array kReadonlyPaths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};

template <class Map>
api::Quantity amount(const Map& map, const char* name) {
  const auto found = map.find(name);
  return found == map.end() ? api::Quantity() : api::Quantity::of(found->second);
}

std::string hostname_of(const core::Pod& pod) {
  std::string name = pod.spec().hostname().empty() ? pod.metadata().name() : pod.spec().hostname();
  if (name.size() > kLongestHostname) name.resize(kLongestHostname);
  while (!name.empty() && (name.back() == '-' || name.back() == '.')) name.pop_back();
  return name;
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

void set_namespaces(cri::NamespaceOption& options, const core::PodSpec& spec) {
  options.set_network(spec.host_network() ? cri::NODE : cri::POD);
  options.set_ipc(spec.host_ipc() ? cri::NODE : cri::POD);
  options.set_pid(spec.host_pid() ? cri::NODE : cri::CONTAINER);
}

void set_seccomp(cri::SecurityProfile& profile, const core::SeccompProfile* wanted) {
  profile.set_profile_type(cri::SecurityProfile::RuntimeDefault);
  if (!wanted) return;
  if (wanted->type() == "Unconfined") profile.set_profile_type(cri::SecurityProfile::Unconfined);
  if (wanted->type() == "Localhost") {
    profile.set_profile_type(cri::SecurityProfile::Localhost);
    profile.set_localhost_ref(wanted->localhost_profile());
  }
}

void set_resources(cri::LinuxContainerResources& resources, const WantedPod& pod, const core::Container& container,
                   const NodeFacts& node) {
  const api::Quantity cpu_limit = amount(container.resources().limits(), "cpu");
  const api::Quantity cpu_request = amount(container.resources().requests(), "cpu");
  const api::Quantity memory_limit = amount(container.resources().limits(), "memory");
  const api::Quantity memory_request = amount(container.resources().requests(), "memory");

  const int64_t shared_milli = cpu_request.is_zero() && container.resources().requests().count("cpu") == 0
                                   ? cpu_limit.milli()
                                   : cpu_request.milli();
  resources.set_cpu_shares(std::clamp(shared_milli * kSharesOfCore / 1000, kLeastShares, kMostShares));
  if (!cpu_limit.is_zero()) {
    resources.set_cpu_period(kQuotaPeriod);
    resources.set_cpu_quota(std::max(cpu_limit.milli() * kQuotaPeriod / 1000, kLeastQuota));
  }
  if (!memory_limit.is_zero()) resources.set_memory_limit_in_bytes(memory_limit.units());

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

void set_security(cri::LinuxContainerSecurityContext& out, const core::Pod& pod, const core::Container& container) {
  const core::PodSecurityContext& of_pod = pod.spec().security_context();
  const core::SecurityContext& own = container.security_context();
  set_namespaces(*out.mutable_namespace_options(), pod.spec());
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
  if (own.privileged()) {
    out.mutable_seccomp()->set_profile_type(cri::SecurityProfile::Unconfined);
    return;
  }
  set_seccomp(*out.mutable_seccomp(), own.has_seccomp_profile()      ? &own.seccomp_profile()
                                      : of_pod.has_seccomp_profile() ? &of_pod.seccomp_profile()
                                                                     : nullptr);
  for (const char* path : kMaskedPaths) out.add_masked_paths(path);
  for (const char* path : kReadonlyPaths) out.add_readonly_paths(path);
}

}  // namespace

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

cri::PodSandboxConfig sandbox_config(const WantedPod& pod, const NodeFacts& node, uint32_t attempt) {
  const core::Pod& object = *pod.pod;
  const core::PodSpec& spec = object.spec();
  cri::PodSandboxConfig config;
  config.mutable_metadata()->set_name(pod.name);
  config.mutable_metadata()->set_namespace_(pod.namespace_name);
  config.mutable_metadata()->set_uid(pod.uid);
  config.mutable_metadata()->set_attempt(attempt);
  if (!spec.host_network()) config.set_hostname(hostname_of(object));
  config.set_log_directory(log_folder_of(node, pod));
  // Policy Default without a dnsConfig leaves this empty: the runtime then gives the node's own resolv.conf.
  set_dns(*config.mutable_dns_config(), pod, node);
  for (const auto& [key, value] : object.metadata().labels()) (*config.mutable_labels())[key] = value;
  (*config.mutable_labels())[label::kPodName] = pod.name;
  (*config.mutable_labels())[label::kPodNamespace] = pod.namespace_name;
  (*config.mutable_labels())[label::kPodUid] = pod.uid;
  for (const auto& [key, value] : object.metadata().annotations()) (*config.mutable_annotations())[key] = value;
  (*config.mutable_annotations())[annotation::kSource] = annotation::kSourceValue;
  (*config.mutable_annotations())[annotation::kGraceSeconds] = std::to_string(spec.termination_grace_period_seconds());

  cri::LinuxSandboxSecurityContext& security = *config.mutable_linux()->mutable_security_context();
  set_namespaces(*security.mutable_namespace_options(), spec);
  if (spec.security_context().has_run_as_user())
    security.mutable_run_as_user()->set_value(spec.security_context().run_as_user());
  if (spec.security_context().has_run_as_group())
    security.mutable_run_as_group()->set_value(spec.security_context().run_as_group());
  set_seccomp(*security.mutable_seccomp(),
              spec.security_context().has_seccomp_profile() ? &spec.security_context().seccomp_profile() : nullptr);
  security.set_privileged(
      std::any_of(spec.containers().begin(), spec.containers().end(),
                  [](const core::Container& container) { return container.security_context().privileged(); }));
  return config;
}

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

  for (const core::VolumeMount& wanted : container.volume_mounts()) {
    cri::Mount& mount = *config.add_mounts();
    // A relative mountPath is one from the root, as Kubernetes takes it.
    mount.set_container_path(wanted.mount_path().starts_with('/') ? wanted.mount_path() : "/" + wanted.mount_path());
    mount.set_host_path(plan.volumes.at(wanted.name()));
    mount.set_readonly(wanted.read_only());
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
  set_security(*config.mutable_linux()->mutable_security_context(), *pod.pod, container);
  return config;
}

}  // namespace pintle::agent
