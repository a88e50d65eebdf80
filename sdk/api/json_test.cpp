#include "sdk/api/json.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>

#include "k8s/core/v1/configuration.pb.h"
#include "k8s/core/v1/event.pb.h"
#include "k8s/core/v1/pod.pb.h"
#include "sdk/support/document/document.hpp"

namespace pintle::api {
namespace {

namespace core = k8s::io::api::core::v1;
namespace json = boost::json;
using testing::HasSubstr;

/// A pod as `kubectl get pod -o yaml` shows it, with most of what JSON treats in a way of its own.
constexpr const char* kPod = R"(
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: default
  uid: 5f0c3c1e-6f43-4b7a-8f3e-2f6f1f8d8a11
  creationTimestamp: "2026-11-20T10:51:20Z"
  labels: {app: web, tier: front}
  managedFields:
  - manager: kubectl
    operation: Apply
    apiVersion: v1
    time: "2026-11-20T10:51:20Z"
    fieldsType: FieldsV1
    fieldsV1: {"f:metadata": {"f:labels": {"f:app": {}}}}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  volumes:
  - name: data
    emptyDir: {}
  - name: logs
    hostPath: {path: /var/log, type: ""}
  - name: token
    projected:
      defaultMode: 420
      sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
  containers:
  - name: web
    image: registry.example.com/web:1.2
    command: [/bin/web, --port, "8080"]
    env:
    - {name: PORT, value: "8080"}
    - {name: POD, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}
    - {name: CONFIG, valueFrom: {configMapKeyRef: {name: settings, key: config, optional: true}}}
    ports:
    - {containerPort: 8080, name: http, protocol: TCP}
    readinessProbe:
      httpGet: {path: /healthz, port: http, scheme: HTTP}
      periodSeconds: 10
    livenessProbe:
      tcpSocket: {port: 8080}
    resources:
      limits: {cpu: "1", memory: 64Mi}
      requests: {cpu: 500m, memory: 64Mi}
    securityContext: {privileged: false, runAsUser: 0}
status:
  phase: Running
  hostIPs: [{ip: 192.0.2.1}]
  podIP: 10.85.0.2
  startTime: "2026-11-20T10:51:21Z"
)";

json::value normal(const json::value& value) {
  if (value.is_object()) {
    std::vector<std::pair<std::string, json::value>> members;
    for (const auto& member : value.get_object()) members.emplace_back(member.key(), normal(member.value()));
    std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    json::object result;
    for (auto& [key, member] : members) result.emplace(key, std::move(member));
    return result;
  }
  if (value.is_array()) {
    json::array result;
    for (const json::value& element : value.get_array()) result.push_back(normal(element));
    return result;
  }
  return value;
}

document::Document read(std::string_view yaml) {
  Result<document::Document> document = document::read_document(yaml, "pod.yaml");
  EXPECT_TRUE(document) << document.status().message();
  return document ? *document : document::Document::of_value(nullptr, "pod.yaml");
}

std::string complaint(std::string_view yaml, const DecodeOptions& options = {}) {
  const document::Document document = read(yaml);
  core::Pod pod;
  return to_status(decode(document.value(), pod, options),
                   [&](const Problem& p) { return document.where(p.pointer).text(); })
      .message();
}

TEST(Json, gives_a_pod_back_as_it_was_read) {
  const document::Document document = read(kPod);
  core::Pod pod;
  const Problems problems = decode(document.value(), pod);
  ASSERT_TRUE(problems.empty()) << to_status(problems).message();
  EXPECT_EQ(pod.spec().containers(0).readiness_probe().handler().http_get().port().str_val(), "http");
  EXPECT_EQ(pod.spec().containers(0).liveness_probe().handler().tcp_socket().port().int_val(), 8080);
  EXPECT_EQ(pod.spec().volumes(1).volume_source().host_path().path(), "/var/log");
  EXPECT_TRUE(pod.spec().has_termination_grace_period_seconds());
  EXPECT_EQ(normal(encode(pod)), normal(document.value()));
}

TEST(Json, survives_the_protobuf_encoding) {
  core::Pod pod, copy;
  ASSERT_TRUE(decode(read(kPod).value(), pod).empty());
  ASSERT_TRUE(copy.ParseFromString(pod.SerializeAsString()));
  EXPECT_EQ(encode_text(copy), encode_text(pod));
}

TEST(Json, leaves_out_what_go_leaves_out_and_writes_what_go_writes) {
  core::Pod pod;
  pod.mutable_metadata()->set_name("");
  pod.mutable_spec()->set_host_network(false);
  pod.mutable_spec()->set_termination_grace_period_seconds(0);
  core::Container& container = *pod.mutable_spec()->add_containers();
  container.set_stdin(false);
  container.mutable_security_context()->set_privileged(false);
  EXPECT_EQ(encode_text(pod),
            R"({"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"containers":[{"name":"","resources":{},)"
            R"("securityContext":{"privileged":false}}],"terminationGracePeriodSeconds":0},"status":{}})");
  core::Event event;
  const json::value value = encode(event);
  EXPECT_TRUE(value.at("firstTimestamp").is_null());
  EXPECT_TRUE(value.at("eventTime").is_null());
  EXPECT_EQ(value.at("reportingComponent"), "");
  EXPECT_FALSE(value.as_object().contains("series"));
  core::PodList list;
  EXPECT_EQ(encode_text(list), R"({"apiVersion":"v1","kind":"PodList","metadata":{},"items":[]})");
  list.add_items();
  EXPECT_FALSE(encode(list).at("items").at(0).as_object().contains("kind"));
}

TEST(Json, carries_bytes_as_base64_and_sorts_maps) {
  core::Secret secret;
  ASSERT_TRUE(decode(json::parse(R"({"data":{"b":"AAECAw==","a":"cGludGxl","c":""}})"), secret).empty());
  EXPECT_EQ(secret.data().at("b"), std::string("\0\1\2\3", 4));
  EXPECT_EQ(secret.data().at("a"), "pintle");
  EXPECT_EQ(json::serialize(encode(secret).at("data")), R"({"a":"cGludGxl","b":"AAECAw==","c":""})");
  for (const char* text : {R"({"data":{"a":"cGludGxl="}})", R"({"data":{"a":"?"}})", R"({"data":{"a":"c=Gl"}})"})
    EXPECT_THAT(to_status(decode(json::parse(text), secret)).message(), HasSubstr("data.a: must be base64"));
}

TEST(Json, writes_times_and_quantities_canonically) {
  core::Event event;
  ASSERT_TRUE(
      decode(json::parse(R"({"eventTime":"2026-11-20T12:51:20.5+02:00","lastTimestamp":"2026-11-20T10:51:20.9Z"})"),
             event)
          .empty());
  EXPECT_EQ(encode(event).at("eventTime"), "2026-11-20T10:51:20.500000Z");
  EXPECT_EQ(encode(event).at("lastTimestamp"), "2026-11-20T10:51:20Z");
  core::Pod pod;
  ASSERT_TRUE(
      decode(
          json::parse(
              R"({"spec":{"containers":[{"resources":{"limits":{"cpu":0.5,"memory":1073741824,"x/y":"1024Mi"}}}]}})"),
          pod)
          .empty());
  EXPECT_EQ(json::serialize(encode(pod).at("spec").at("containers").at(0).at("resources").at("limits")),
            R"({"cpu":"500m","memory":"1073741824","x/y":"1Gi"})");
}

TEST(Json, names_an_unknown_field_with_its_place_and_the_nearest_right_name) {
  EXPECT_EQ(complaint("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n    imge: b\n"),
            "pod.yaml:6:11: spec.containers[0].imge: unknown field; did you mean image?");
  EXPECT_THAT(complaint("spec: {volumes: [{name: a, hostpath: {path: /}}]}"), HasSubstr("did you mean hostPath?"));
  EXPECT_EQ(complaint("spec: {containers: [{imge: b}]}", {.strict = false}), "");
}

TEST(Json, says_what_stands_where_something_else_should) {
  EXPECT_THAT(complaint("spec: {containers: [{env: [{name: A, value: 8080}]}]}"),
              HasSubstr("spec.containers[0].env[0].value: must be a text, is the number 8080: put it in quotes"));
  EXPECT_THAT(complaint("spec: {containers: {name: a}}"), HasSubstr("spec.containers: must be a list, is an object"));
  EXPECT_THAT(complaint("spec: {hostNetwork: \"yes\"}"),
              HasSubstr("spec.hostNetwork: must be true or false, is the text \"yes\""));
  EXPECT_THAT(complaint("spec: {containers: [{ports: [{containerPort: 99999999999}]}]}"),
              HasSubstr("must be between -2147483648 and"));
  EXPECT_THAT(complaint("spec: {containers: [{ports: [{containerPort: 80.5}]}]}"),
              HasSubstr("must be a whole number, is the number"));
  EXPECT_THAT(complaint("metadata: {creationTimestamp: yesterday}"),
              HasSubstr("metadata.creationTimestamp: must be a time like"));
  EXPECT_THAT(complaint("spec: {containers: [{resources: {limits: {memory: 64MB}}}]}"),
              HasSubstr("limits.memory: must be a quantity"));
  EXPECT_THAT(complaint("kind: Deployment\napiVersion: apps/v1"),
              HasSubstr("kind: must be \"Pod\", is the text \"Deployment\""));
  EXPECT_THAT(complaint("[1]"), HasSubstr("must be an object, is a list"));
}

TEST(Json, takes_null_for_absent) {
  core::Pod pod;
  ASSERT_TRUE(
      decode(
          json::parse(
              R"({"metadata":{"creationTimestamp":null,"labels":{"a":null}},"spec":{"containers":[null]},"status":null})"),
          pod)
          .empty());
  EXPECT_FALSE(pod.metadata().has_creation_timestamp());
  EXPECT_EQ(pod.spec().containers_size(), 1);
}

}  // namespace
}  // namespace pintle::api
