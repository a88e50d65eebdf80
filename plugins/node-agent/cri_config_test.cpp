#include "plugins/node-agent/cri_config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cri/api.pb.h"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/pod_status.hpp"

namespace pintle::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

WantedPod wanted(const std::string& spec) {
  Result<Manifest> pods =
      read_manifest("apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: shop}}\nspec: " + spec,
                    {"web.yaml", "/m/web.yaml", "n1"});
  EXPECT_TRUE(pods) << pods.status().message();
  return pods ? pods->pods.front() : WantedPod();
}
WantedPod with_container(const std::string& container) {
  return wanted("{containers: [{name: c, image: i, " + container + "}]}");
}

NodeFacts node() {
  NodeFacts facts;
  facts.log_folder = "/var/log/pods";
  facts.cluster_domain = "cluster.local";
  facts.resolver = {{"192.0.2.53"}, {"example.com"}, {"edns0"}};
  facts.memory_bytes = int64_t{8} << 30;
  facts.seccomp_folder = "/profiles";
  return facts;
}
cri::ContainerConfig container_of(const WantedPod& pod) {
  ContainerPlan plan;
  plan.container = &pod.pod->spec().containers(0);
  plan.volumes = {{"v", "/host/v"}};
  return container_config(pod, node(), plan);
}
cri::LinuxContainerResources resources(const std::string& text) {
  return container_of(with_container("resources: " + text)).linux().resources();
}

TEST(SandboxConfig, carries_names_labels_logs_and_our_mark) {
  const WantedPod pod = wanted("{containers: [{name: c, image: i}]}");
  const cri::PodSandboxConfig config = sandbox_config(pod, node(), 3);
  EXPECT_EQ(config.metadata().name(), "web");
  EXPECT_EQ(config.metadata().attempt(), 3u);
  EXPECT_EQ(config.hostname(), "web");
  EXPECT_EQ(config.log_directory(), "/var/log/pods/default_web_" + pod.uid);
  EXPECT_EQ(config.labels().at("io.kubernetes.pod.uid"), pod.uid);
  EXPECT_EQ(config.labels().at("app"), "shop");
  EXPECT_EQ(config.annotations().at("pintle.io/source"), "node-agent");
  EXPECT_EQ(config.linux().security_context().namespace_options().network(), cri::POD);
  EXPECT_EQ(config.linux().security_context().namespace_options().pid(), cri::CONTAINER);
  EXPECT_THAT(config.dns_config().servers(), IsEmpty()) << "the runtime gives the node's own";
}

TEST(SandboxConfig, shares_the_nodes_namespaces_where_asked) {
  const cri::PodSandboxConfig config = sandbox_config(
      wanted("{hostNetwork: true, hostPID: true, hostIPC: true, containers: [{name: c, image: i}]}"), node(), 0);
  EXPECT_EQ(config.hostname(), "");
  const cri::NamespaceOption& options = config.linux().security_context().namespace_options();
  EXPECT_EQ(options.network(), cri::NODE);
  EXPECT_EQ(options.pid(), cri::NODE);
  EXPECT_EQ(options.ipc(), cri::NODE);
}

TEST(SandboxConfig, follows_the_dns_policy) {
  NodeFacts facts = node();
  facts.cluster_dns = {"10.96.0.10"};
  const auto dns = [&](const std::string& fields) {
    return sandbox_config(wanted("{" + fields + "containers: [{name: c, image: i}]}"), facts, 0).dns_config();
  };
  EXPECT_THAT(dns("").servers(), ElementsAre("10.96.0.10"));
  EXPECT_THAT(dns("").searches(), ElementsAre("default.svc.cluster.local", "svc.cluster.local", "cluster.local"));
  EXPECT_THAT(dns("").options(), ElementsAre("ndots:5"));
  EXPECT_THAT(dns("dnsConfig: {options: [{name: ndots, value: \"2\"}], searches: [a.b]}, ").options(),
              ElementsAre("ndots:2"));
  EXPECT_THAT(dns("dnsPolicy: Default, ").servers(), IsEmpty());
  const cri::DNSConfig merged = dns("dnsPolicy: Default, dnsConfig: {nameservers: [192.0.2.54], searches: [a.b]}, ");
  EXPECT_THAT(merged.servers(), ElementsAre("192.0.2.53", "192.0.2.54"));
  EXPECT_THAT(merged.searches(), ElementsAre("example.com", "a.b"));
  EXPECT_THAT(dns("dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.54]}, ").servers(), ElementsAre("192.0.2.54"));
  const Resolver resolver =
      parse_resolver("# c\nnameserver 192.0.2.1 ; x\nsearch a b\nsearch c\noptions ndots:2 rotate\n");
  EXPECT_THAT(resolver.servers, ElementsAre("192.0.2.1"));
  EXPECT_THAT(resolver.searches, ElementsAre("c"));
  EXPECT_THAT(resolver.options, ElementsAre("ndots:2", "rotate"));
}

TEST(ContainerConfig, turns_requests_and_limits_into_what_the_kernel_takes) {
  cri::LinuxContainerResources none = resources("{}");
  EXPECT_EQ(none.cpu_shares(), 2);
  EXPECT_EQ(none.cpu_quota(), 0);
  EXPECT_EQ(none.memory_limit_in_bytes(), 0);
  EXPECT_EQ(none.oom_score_adj(), 1000);
  cri::LinuxContainerResources limited = resources("{limits: {cpu: 500m, memory: 64Mi}}");
  EXPECT_EQ(limited.cpu_shares(), 512);
  EXPECT_EQ(limited.cpu_period(), 100000);
  EXPECT_EQ(limited.cpu_quota(), 50000);
  EXPECT_EQ(limited.memory_limit_in_bytes(), 64 << 20);
  EXPECT_EQ(limited.oom_score_adj(), -997);
  cri::LinuxContainerResources burstable = resources("{requests: {cpu: 2, memory: 2Gi}, limits: {cpu: 4}}");
  EXPECT_EQ(burstable.cpu_shares(), 2048);
  EXPECT_EQ(burstable.cpu_quota(), 400000);
  EXPECT_EQ(burstable.oom_score_adj(), 750);
  EXPECT_EQ(resources("{limits: {cpu: 1m}}").cpu_quota(), 1000);
  EXPECT_EQ(resources("{requests: {memory: 1Mi}}").oom_score_adj(), 999);
}

TEST(ContainerConfig, follows_the_security_context) {
  const cri::LinuxContainerSecurityContext plain = container_of(with_container("")).linux().security_context();
  EXPECT_EQ(plain.seccomp().profile_type(), cri::SecurityProfile::RuntimeDefault);
  EXPECT_FALSE(plain.no_new_privs());
  EXPECT_FALSE(plain.has_run_as_user());
  EXPECT_THAT(plain.masked_paths(), testing::Contains("/proc/kcore"));
  const cri::LinuxContainerSecurityContext tight =
      container_of(with_container("securityContext: {runAsUser: 7, runAsGroup: 8, readOnlyRootFilesystem: true, "
                                  "allowPrivilegeEscalation: false, "
                                  "capabilities: {add: [NET_ADMIN], drop: [ALL]}, seccompProfile: {type: Localhost, "
                                  "localhostProfile: a.json}}"))
          .linux()
          .security_context();
  EXPECT_EQ(tight.run_as_user().value(), 7);
  EXPECT_EQ(tight.run_as_group().value(), 8);
  EXPECT_TRUE(tight.readonly_rootfs());
  EXPECT_TRUE(tight.no_new_privs());
  EXPECT_THAT(tight.capabilities().add_capabilities(), ElementsAre("NET_ADMIN"));
  EXPECT_THAT(tight.capabilities().drop_capabilities(), ElementsAre("ALL"));
  EXPECT_EQ(tight.seccomp().localhost_ref(), "/profiles/a.json");
  const cri::LinuxContainerSecurityContext loose =
      container_of(with_container("securityContext: {privileged: true}")).linux().security_context();
  EXPECT_TRUE(loose.privileged());
  EXPECT_EQ(loose.seccomp().profile_type(), cri::SecurityProfile::Unconfined);
  EXPECT_THAT(loose.masked_paths(), IsEmpty());
  const WantedPod of_pod = wanted(
      "{securityContext: {runAsUser: 5, runAsGroup: 6, seccompProfile: {type: Unconfined}}, containers: [{name: c, "
      "image: i, "
      "securityContext: {runAsUser: 9}}]}");
  EXPECT_EQ(container_of(of_pod).linux().security_context().run_as_user().value(), 9);
  EXPECT_EQ(container_of(of_pod).linux().security_context().run_as_group().value(), 6);
  EXPECT_EQ(container_of(of_pod).linux().security_context().seccomp().profile_type(), cri::SecurityProfile::Unconfined);
}

TEST(ContainerConfig, mounts_volumes) {
  const cri::ContainerConfig config =
      container_of(wanted("{volumes: [{name: v, hostPath: {path: /host/v}}], containers: [{name: c, image: i, "
                          "volumeMounts: [{name: v, mountPath: /data, readOnly: true}, {name: v, mountPath: srv}]}]}"));
  ASSERT_EQ(config.mounts_size(), 2);
  EXPECT_EQ(config.mounts(0).host_path(), "/host/v");
  EXPECT_EQ(config.mounts(0).container_path(), "/data");
  EXPECT_TRUE(config.mounts(0).readonly());
  EXPECT_EQ(config.mounts(1).container_path(), "/srv");
}

struct Shown {
  cri::ContainerState state;
  int exit_code;
  const char* waiting;
};
core::PodStatus status_of(const WantedPod& pod, const std::vector<std::optional<Shown>>& containers,
                          ConditionMemory& memory, int64_t now = 5'000'000'000) {
  std::vector<cri::ContainerStatus> statuses(containers.size());
  PodView view;
  view.pod = &pod;
  view.now = now;
  view.sandbox_ready = true;
  view.runtime_name = "pintle";
  for (size_t i = 0; i < containers.size(); ++i) {
    ContainerView& one = view.containers.emplace_back();
    one.spec = &pod.pod->spec().containers(static_cast<int>(i));
    if (!containers[i]) continue;
    statuses[i].set_id("id");
    statuses[i].set_state(containers[i]->state);
    statuses[i].set_exit_code(containers[i]->exit_code);
    statuses[i].set_started_at(1'000'000'000);
    one.newest = &statuses[i];
    one.started = one.ready = statuses[i].state() == cri::CONTAINER_RUNNING;
    one.waiting.reason = containers[i]->waiting;
  }
  return make_pod_status(view, memory);
}

TEST(PodStatus, has_the_phase_that_kubelet_would_tell) {
  const auto phase = [](const char* policy, const std::vector<std::optional<Shown>>& containers) {
    ConditionMemory memory;
    return status_of(wanted("{restartPolicy: " + std::string(policy) +
                            ", containers: [{name: a, image: i}, {name: b, image: i}]}"),
                     containers, memory)
        .phase();
  };
  const Shown running{cri::CONTAINER_RUNNING, 0, ""}, done{cri::CONTAINER_EXITED, 0, ""},
      failed{cri::CONTAINER_EXITED, 1, ""}, looping{cri::CONTAINER_EXITED, 1, "CrashLoopBackOff"};
  EXPECT_EQ(phase("Always", {running, std::nullopt}), "Pending");
  EXPECT_EQ(phase("Always", {running, running}), "Running");
  EXPECT_EQ(phase("Always", {running, looping}), "Running");
  EXPECT_EQ(phase("Always", {done, done}), "Running");
  EXPECT_EQ(phase("Never", {done, done}), "Succeeded");
  EXPECT_EQ(phase("Never", {done, failed}), "Failed");
  EXPECT_EQ(phase("Never", {running, failed}), "Running");
  EXPECT_EQ(phase("OnFailure", {done, looping}), "Running");
  EXPECT_EQ(phase("OnFailure", {done, done}), "Succeeded");
}

TEST(PodStatus, remembers_when_conditions_changed) {
  const WantedPod pod = wanted("{containers: [{name: a, image: i}]}");
  ConditionMemory memory;
  const Shown running{cri::CONTAINER_RUNNING, 0, ""};
  const auto ready = [](const core::PodStatus& status) {
    for (const core::PodCondition& condition : status.conditions())
      if (condition.type() == "Ready") return condition;
    return core::PodCondition();
  };
  const core::PodStatus before = status_of(pod, {std::nullopt}, memory, 5'000'000'000);
  EXPECT_EQ(ready(before).status(), "False");
  EXPECT_EQ(ready(before).reason(), "ContainersNotReady");
  EXPECT_EQ(ready(before).message(), "containers with unready status: [a]");
  EXPECT_EQ(before.container_statuses(0).state().waiting().reason(), "ContainerCreating");
  EXPECT_EQ(ready(status_of(pod, {running}, memory, 6'000'000'000)).last_transition_time().seconds(), 6);
  EXPECT_EQ(ready(status_of(pod, {running}, memory, 9'000'000'000)).last_transition_time().seconds(), 6);
}

}  // namespace
}  // namespace pintle::agent
