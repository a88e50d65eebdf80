#include "plugins/node-agent/manifests.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/backoff.hpp"
#include "plugins/node-agent/event_log.hpp"
#include "plugins/node-agent/variables.hpp"
#include "sdk/api/json.hpp"

namespace pintle::agent {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

constexpr const char* kPod =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}]}\n";

Result<std::vector<WantedPod>> read(std::string_view text, const std::string& path = "/m/a.yaml",
                                    const std::string& node = "n1") {
  Result<Manifest> manifest = read_manifest(text, {"a.yaml", path, node});
  if (!manifest) return manifest.status();
  return std::move(manifest->pods);
}
std::string complaint(std::string_view text) { return read(text).status().message(); }

TEST(Manifest, brings_secrets_for_registries_and_shows_nothing_of_them) {
  const std::string head = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
  Result<Manifest> manifest =
      read_manifest(std::string(kPod) + "---\n" + head +
                        "type: kubernetes.io/dockercfg\ndata: {.dockercfg: eyJyLmlvIjp7ImF1dGgiOiJZVHBpIn19}\n",
                    {"a.yaml", "/m/a.yaml", "n1"});
  ASSERT_TRUE(manifest) << manifest.status().message();
  ASSERT_EQ(manifest->secrets.size(), 1u);
  EXPECT_EQ(manifest->secrets.front()->key(), "default/s");
  EXPECT_EQ(manifest->secrets.front()->logins.find("r.io/x").size(), 1u);
  for (const char* rest :
       {"type: Opaque\ndata: {a: hidden}", "type: kubernetes.io/dockercfg\ndata: {.dockercfg: hidden!}",
        "type: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: hidden}",
        "type: kubernetes.io/dockerconfigjson\nstringData: {.dockercfg: hidden}"}) {
    const std::string text = complaint(head + rest);
    EXPECT_THAT(text, HasSubstr("a.yaml:")) << rest;
    EXPECT_THAT(text, testing::Not(HasSubstr("hidden"))) << rest;
  }
}

TEST(Manifest, becomes_a_pod_with_identity_and_defaults) {
  Result<std::vector<WantedPod>> pods = read(kPod);
  ASSERT_TRUE(pods) << pods.status().message();
  ASSERT_EQ(pods->size(), 1u);
  const WantedPod& pod = pods->front();
  EXPECT_EQ(pod.key(), "default/a");
  EXPECT_EQ(pod.uid.size(), 36u);
  EXPECT_EQ(pod.pod->metadata().uid(), pod.uid);
  EXPECT_EQ(pod.pod->spec().node_name(), "n1");
  EXPECT_EQ(pod.pod->spec().restart_policy(), "Always");
}

TEST(Manifest, keeps_its_uid_until_node_path_or_content_change) {
  const std::string uid = read(kPod)->front().uid;
  EXPECT_EQ(read(std::string("# comment\n") + kPod)->front().uid, uid);
  EXPECT_EQ(
      read(
          R"({"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"image":"i","name":"c"}]},"metadata":{"name":"a"}})")
          ->front()
          .uid,
      uid);
  EXPECT_NE(read(kPod, "/m/b.yaml")->front().uid, uid);
  EXPECT_NE(read(kPod, "/m/a.yaml", "n2")->front().uid, uid);
  EXPECT_NE(
      read("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: j}]}")->front().uid,
      uid);
}

TEST(Manifest, may_hold_several_pods_but_each_name_once) {
  EXPECT_EQ(read(std::string(kPod) + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: other}\nspec: "
                                     "{containers: [{name: c, image: i}]}")
                ->size(),
            2u);
  EXPECT_THAT(complaint(std::string(kPod) + "---\n" + kPod),
              HasSubstr("a.yaml:8:18: the pod default/a stands twice, the first at a.yaml:3:18"));
}

TEST(Manifest, is_refused_whole_with_all_that_is_wrong_and_where) {
  EXPECT_THAT(
      complaint(std::string(kPod) +
                "---\napiVersion: v1\nkind: Pod\nmetadata: {name: B}\nspec: {hostNetwrk: true, containers: []}\n"),
      HasSubstr("a.yaml:9:8: spec.hostNetwrk: unknown field; did you mean hostNetwork?"));
  EXPECT_THAT(complaint("apiVersion: v1\nkind: Pod\nmetadata: {name: B}\nspec: {containers: []}\n"),
              testing::AllOf(HasSubstr("a.yaml:3:12: metadata.name: must be"),
                             HasSubstr("; a.yaml:4:8: spec.containers: at least one")));
  EXPECT_THAT(complaint("apiVersion: v1\nkind: Service\n"), HasSubstr("v1 Service cannot be run from a manifest"));
  EXPECT_THAT(complaint("apiVersion: v1\nkind: Pod\nmetadata: {name: " + std::string(250, 'a') +
                        "}\nspec: {containers: [{name: c, image: i}]}"),
              HasSubstr("metadata.name: is too long for the name of a log folder"));
  EXPECT_THAT(complaint("kind: Pod"), HasSubstr("apiVersion is required"));
  EXPECT_THAT(complaint("- a"), HasSubstr("must be a Pod"));
  EXPECT_THAT(complaint("# nothing\n"), HasSubstr("no manifest in it"));
  EXPECT_THAT(
      complaint(
          "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodeName: n2, containers: [{name: c, image: i}]}\n"),
      HasSubstr("spec.nodeName: names another node, \"n2\": this is \"n1\""));
}

TEST(Manifest, is_refused_for_every_feature_that_is_not_there_yet) {
  const std::array in_pod = {"runtimeClassName: kata", "volumes: [{name: v, configMap: {name: c}}]",
                             "resources: {claims: [{name: c}]}", "os: {name: windows}"};
  for (const char* field : in_pod)
    EXPECT_THAT(complaint("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}], " +
                          std::string(field) + "}"),
                HasSubstr("not supported yet"))
        << field;
  const std::array in_container = {"envFrom: [{configMapRef: {name: a}}]",
                                   "env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}]",
                                   "resources: {limits: {example.com/gpu: 1}}"};
  for (const char* field : in_container)
    EXPECT_THAT(complaint("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {volumes: [{name: v}], containers: "
                          "[{name: c, image: i, " +
                          std::string(field) + "}]}"),
                HasSubstr("not supported yet"))
        << field;
}

TEST(Manifest, survives_as_a_record) {
  WantedPod pod = read(kPod)->front();
  pod.created_at = 42;
  Result<WantedPod> back = from_record(to_record(pod));
  ASSERT_TRUE(back) << back.status().message();
  EXPECT_EQ(back->uid, pod.uid);
  EXPECT_EQ(back->key(), pod.key());
  EXPECT_EQ(back->created_at, 42);
  EXPECT_EQ(back->yaml, pod.yaml);
  EXPECT_EQ(api::encode_text(*back->pod), api::encode_text(*pod.pod));
  for (const char* text : {"", "{", "{}", "[]", "null"})
    EXPECT_EQ(from_record(text).status().code(), Code::data_loss) << text;
}

TEST(Variables, are_expanded_as_kubernetes_does) {
  const std::map<std::string, std::string> values = {{"A", "1"}, {"B", "two"}};
  EXPECT_EQ(expand("$(A)-$(B)", values), "1-two");
  EXPECT_EQ(expand("$$(A) $A $(C) $( $", values), "$(A) $A $(C) $( $");
  EXPECT_EQ(expand("$$$(A)$$", values), "$1$");
}

TEST(Variables, see_those_before_them_and_fields_of_the_pod) {
  core::Pod pod;
  pod.mutable_metadata()->set_name("web");
  (*pod.mutable_metadata()->mutable_labels())["app"] = "shop";
  core::Container container;
  const auto add = [&](const char* name, const char* value, const char* field) {
    core::EnvVar& variable = *container.add_env();
    variable.set_name(name);
    if (field)
      variable.mutable_value_from()->mutable_field_ref()->set_field_path(field);
    else
      variable.set_value(value);
  };
  add("EARLY", "$(NAME)", nullptr);
  add("NAME", "", "metadata.name");
  add("LATE", "$(NAME):$(APP)", nullptr);
  add("APP", "", "metadata.labels['app']");
  add("IPS", "", "status.podIPs");
  EXPECT_THAT(environment_of(pod, container, {"192.0.2.1", {"10.0.0.1", "fd00::1"}}),
              ElementsAre(Pair("EARLY", "$(NAME)"), Pair("NAME", "web"), Pair("LATE", "web:$(APP)"),
                          Pair("APP", "shop"), Pair("IPS", "10.0.0.1,fd00::1")));
}

TEST(Backoff, doubles_up_to_its_maximum_and_forgets_after_a_quiet_time) {
  using namespace std::chrono_literals;
  const BackoffSettings settings{10s, 35s, 600s};
  Backoff backoff(settings);
  WallTime now;
  EXPECT_EQ(backoff.ready_at(now), now) << "the first time at once";
  for (const auto delay : {10s, 20s, 35s, 35s}) {
    backoff.tried(now, now);
    now += 1s;
    EXPECT_EQ(backoff.ready_at(now), now + delay);
  }
  now += 601s;
  EXPECT_EQ(backoff.ready_at(now), now);
  backoff.tried(now, now);
  EXPECT_EQ(backoff.ready_at(now), now + 10s);
}

TEST(EventLog, counts_what_repeats_and_keeps_the_newest) {
  EventLog log;
  for (int i = 0; i < 100; ++i) {
    log.add("Warning", "BackOff", "again", i);
    log.add("Normal", "Started", "container " + std::to_string(i), i);
  }
  EXPECT_EQ(log.events().size(), 40u);
  EXPECT_EQ(log.events()[log.events().size() - 2].count, 100u);
  EXPECT_EQ(log.events().back().message, "container 99");
}

}  // namespace
}  // namespace pintle::agent
