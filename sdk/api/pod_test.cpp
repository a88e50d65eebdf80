#include "sdk/api/pod.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "k8s/core/v1/pod.pb.h"
#include "sdk/api/json.hpp"
#include "sdk/support/document/document.hpp"

namespace pintle::api {
namespace {

namespace core = k8s::io::api::core::v1;
using testing::HasSubstr;

core::Pod read(std::string_view yaml) {
  core::Pod pod;
  Result<document::Document> document = document::read_document(yaml, "pod.yaml");
  EXPECT_TRUE(document) << document.status().message();
  if (document) {
    const Problems problems = decode(document->value(), pod);
    EXPECT_TRUE(problems.empty()) << to_status(problems).message();
  }
  set_pod_defaults(pod);
  return pod;
}

std::string complaint(std::string_view yaml) { return to_status(validate_pod(read(yaml))).message(); }

TEST(PodDefaults, fill_in_what_a_manifest_may_leave_out) {
  const core::Pod pod = read(
      "metadata: {name: a}\nspec: {containers: [{name: a, image: nginx, ports: [{containerPort: 80}], "
      "livenessProbe: {httpGet: {port: 80}}, resources: {limits: {cpu: 1}}}], volumes: [{name: v}]}");
  const core::PodSpec& spec = pod.spec();
  EXPECT_EQ(spec.restart_policy(), "Always");
  EXPECT_EQ(spec.termination_grace_period_seconds(), 30);
  EXPECT_EQ(spec.dns_policy(), "ClusterFirst");
  EXPECT_TRUE(spec.enable_service_links());
  EXPECT_TRUE(spec.volumes(0).volume_source().has_empty_dir());
  const core::Container& container = spec.containers(0);
  EXPECT_EQ(container.image_pull_policy(), "Always");
  EXPECT_EQ(container.ports(0).protocol(), "TCP");
  EXPECT_EQ(container.liveness_probe().failure_threshold(), 3);
  EXPECT_EQ(container.liveness_probe().handler().http_get().scheme(), "HTTP");
  EXPECT_EQ(container.resources().requests().at("cpu").string(), "1");
}

TEST(PodDefaults, pull_always_only_what_may_change_behind_its_name) {
  for (const char* image : {"nginx", "nginx:latest", "registry:5000/nginx", "registry:5000/a/nginx:latest"})
    EXPECT_TRUE(is_latest_image(image)) << image;
  for (const char* image : {"nginx:1", "registry:5000/nginx:1", "nginx@sha256:abc", "nginx:latest@sha256:abc"})
    EXPECT_FALSE(is_latest_image(image)) << image;
}

TEST(PodDefaults, keep_what_was_said) {
  const core::Pod pod = read(
      "metadata: {name: a}\nspec: {restartPolicy: Never, terminationGracePeriodSeconds: 0, enableServiceLinks: false, "
      "containers: [{name: a, image: nginx, imagePullPolicy: Never}]}");
  EXPECT_EQ(pod.spec().restart_policy(), "Never");
  EXPECT_EQ(pod.spec().termination_grace_period_seconds(), 0);
  EXPECT_FALSE(pod.spec().enable_service_links());
  EXPECT_EQ(pod.spec().containers(0).image_pull_policy(), "Never");
}

TEST(PodValidation, takes_a_right_pod) {
  EXPECT_EQ(
      complaint("metadata: {name: a.b-c, labels: {app.example.com/x: z}}\nspec: {volumes: [{name: v, hostPath: "
                "{path: /x, type: Directory}}], "
                "containers: [{name: a, image: x, env: [{name: A.b-c, value: x}, {name: NAME, valueFrom: {fieldRef: "
                "{fieldPath: \"metadata.labels['a']\"}}}], "
                "volumeMounts: [{name: v, mountPath: /v}], ports: [{name: http, containerPort: 80}, "
                "{containerPort: 80, protocol: UDP}]}]}"),
      "");
}

TEST(PodValidation, looks_at_probes_hooks_and_init_containers) {
  const std::string begin = "metadata: {name: a}\nspec: {containers: [{name: a, image: b, ";
  const std::pair<const char*, const char*> cases[] = {
      {"livenessProbe: {periodSeconds: 3}", "livenessProbe: what to do is required: exec, httpGet, tcpSocket or grpc"},
      {"livenessProbe: {tcpSocket: {port: 1}, exec: {command: [a]}}",
       "must have one of exec, httpGet, tcpSocket or grpc"},
      {"livenessProbe: {tcpSocket: {port: 70000}}", "tcpSocket.port: must be between 1 and 65535, is 70000"},
      {"livenessProbe: {tcpSocket: {port: \"no_name\"}}", "tcpSocket.port: must"},
      {"livenessProbe: {exec: {}}", "exec.command: a command is required"},
      {"livenessProbe: {grpc: {port: 1}, periodSeconds: -1}", "periodSeconds: must not be negative, is -1"},
      {"livenessProbe: {grpc: {port: 1}, successThreshold: 2}", "successThreshold: must be 1"},
      {"livenessProbe: {httpGet: {port: 1, scheme: FTP}}", "httpGet.scheme: must be one of HTTP, HTTPS, is \"FTP\""},
      {"livenessProbe: {httpGet: {port: 1, httpHeaders: [{name: \"a b\", value: c}]}}", "must be a header's name"},
      {"livenessProbe: {httpGet: {port: 1, httpHeaders: [{name: a, value: \"b\\nc\"}]}}", "value: must be one line"},
      {"readinessProbe: {grpc: {port: 1}, terminationGracePeriodSeconds: 5}", "cannot be set for a readiness probe"},
      {"startupProbe: {grpc: {port: 1}, terminationGracePeriodSeconds: 0}", "must be at least 1"},
      {"lifecycle: {preStop: {}}", "preStop: what to do is required: exec, httpGet, tcpSocket or sleep"},
      {"lifecycle: {preStop: {sleep: {seconds: 31}}}",
       "must be between 0 and the pod's terminationGracePeriodSeconds 30"},
  };
  for (const auto& [field, problem] : cases) EXPECT_THAT(complaint(begin + field + "}]}"), HasSubstr(problem)) << field;
  const std::string init =
      "metadata: {name: a}\nspec: {containers: [{name: a, image: b}], initContainers: [{name: i, image: b, ";
  EXPECT_THAT(complaint(init + "restartPolicy: Sometimes}]}"),
              HasSubstr("restartPolicy: must be Always, OnFailure or Never, is \"Sometimes\""));
  EXPECT_EQ(complaint(init + "restartPolicy: OnFailure}]}"), "");
  EXPECT_THAT(complaint(init + "lifecycle: {preStop: {exec: {command: [a]}}}}]}"),
              HasSubstr("lifecycle: may only be set with restartPolicy Always"));
  EXPECT_EQ(complaint(init + "restartPolicy: Always, startupProbe: {exec: {command: [a]}}}]}"), "");
}

TEST(PodValidation, names_what_is_missing_or_wrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"spec: {containers: [{name: a, image: b}]}", "metadata.name: a name is required"},
      {"metadata: {name: A}\nspec: {containers: [{name: a, image: b}]}", "metadata.name: must be at most 253"},
      {"metadata: {name: a}", "spec.containers: at least one container is required"},
      {"metadata: {name: a}\nspec: {containers: [{image: b}]}", "spec.containers[0].name: a name is required"},
      {"metadata: {name: a}\nspec: {containers: [{name: a}]}", "spec.containers[0].image: an image is required"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b}, {name: a, image: b}]}",
       "spec.containers[1].name: is used twice"},
      {"metadata: {name: a}\nspec: {containers: [{name: a_b, image: b}]}",
       "spec.containers[0].name: must be at most 63"},
      {"metadata: {name: a}\nspec: {restartPolicy: Sometimes, containers: [{name: a, image: b}]}",
       "spec.restartPolicy: must be one of Always, OnFailure, Never, is \"Sometimes\""},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, imagePullPolicy: x}]}",
       "spec.containers[0].imagePullPolicy: must be one of"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, env: [{name: \"A=B\"}]}]}",
       "env[0].name: must be printable ASCII"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, env: [{name: A, value: x, valueFrom: {fieldRef: "
       "{fieldPath: metadata.name}}}]}]}",
       "valueFrom: cannot stand beside a value"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, env: [{name: A, valueFrom: {fieldRef: {fieldPath: "
       "spec.x}}}]}]}",
       "fieldPath: must be metadata.name"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, ports: [{containerPort: 0}]}]}",
       "containerPort: must be between 1 and 65535"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, ports: [{name: h, containerPort: 1}, {name: h, "
       "containerPort: 2}]}]}",
       "ports[1].name: is used twice"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 9}, "
       "{containerPort: 2, hostPort: 9}]}]}",
       "ports[1].hostPort: is used twice: 9/TCP"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}",
       "volumeMounts[0].name: there is no volume \"v\""},
      {"metadata: {name: a}\nspec: {volumes: [{name: v}], containers: [{name: a, image: b, volumeMounts: [{name: v, "
       "mountPath: /v}, {name: v, mountPath: /v}]}]}",
       "volumeMounts[1].mountPath: is used twice"},
      {"metadata: {name: a}\nspec: {volumes: [{name: v, emptyDir: {}, hostPath: {path: /}}], containers: [{name: a, "
       "image: b}]}",
       "spec.volumes[0]: must have one source"},
      {"metadata: {name: a}\nspec: {volumes: [{name: v, hostPath: {path: /a/../b}}], containers: [{name: a, image: "
       "b}]}",
       "hostPath.path: must not contain \"..\""},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, resources: {limits: {memory: 1Mi}, requests: "
       "{memory: 2Mi}}}]}",
       "requests.memory: must be at most the limit 1Mi, is 2Mi"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, resources: {limits: {cpus: 1}}}]}",
       "limits.cpus: must be cpu, memory"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, resources: {limits: {memory: -1}}}]}",
       "limits.memory: must not be negative"},
      {"metadata: {name: a}\nspec: {containers: [{name: a, image: b, securityContext: {privileged: true, "
       "allowPrivilegeEscalation: false}}]}",
       "allowPrivilegeEscalation: cannot be false in a privileged container"},
      {"metadata: {name: a}\nspec: {dnsPolicy: None, containers: [{name: a, image: b}]}",
       "spec.dnsConfig.nameservers: at least one is required"},
      {"metadata: {name: a, labels: {\"a b\": c}}\nspec: {containers: [{name: a, image: b}]}",
       "the key must be at most 63"},
  };
  for (const auto& [yaml, wanted] : cases) EXPECT_THAT(complaint(yaml), HasSubstr(wanted)) << yaml;
}

TEST(PodAppArmorProfile, is_that_of_the_field_then_of_the_annotation_then_of_the_pod) {
  const std::string annotation = "metadata: {name: a, annotations: {container.apparmor.security.beta.kubernetes.io/";
  const auto asked = [](const std::string& yaml) {
    const core::Pod pod = read(yaml);
    core::AppArmorProfile profile;
    if (!find_apparmor_profile(pod, pod.spec().containers(0), profile)) return std::string("none");
    return profile.type() + " " + profile.localhost_profile();
  };
  const std::string spec =
      "}}\nspec: {securityContext: {appArmorProfile: {type: Unconfined}}, containers: [{name: c, image: i";
  const std::string field = ", securityContext: {appArmorProfile: {type: Localhost, localhostProfile: own}}";
  EXPECT_EQ(asked("metadata: {name: a}\nspec: {containers: [{name: c, image: i}]}"), "none");
  EXPECT_EQ(asked(annotation + "other: runtime/default" + spec + "}]}"), "Unconfined ");
  EXPECT_EQ(asked(annotation + "c: runtime/default" + spec + "}]}"), "RuntimeDefault ");
  EXPECT_EQ(asked(annotation + "c: localhost/tight" + spec + "}]}"), "Localhost tight");
  EXPECT_EQ(asked(annotation + "c: localhost/tight" + spec + field + "}]}"), "Localhost own");
  EXPECT_EQ(complaint(annotation + "c: localhost/tight" + spec + "}]}"), "");
  EXPECT_EQ(complaint(annotation + "c: localhost/own" + spec + field + "}]}"), "");
  EXPECT_THAT(complaint(annotation + "c: localhost/tight" + spec + field + "}]}"),
              HasSubstr("name different profiles"));
  EXPECT_THAT(complaint(annotation + "c: tight" + spec + "}]}"),
              HasSubstr("must be runtime/default, localhost/NAME or unconfined, is \"tight\""));
  EXPECT_THAT(complaint(annotation + "c: localhost/" + spec + "}]}"), HasSubstr("must be runtime/default"));
  EXPECT_THAT(complaint(annotation + "d: unconfined" + spec + "}]}"), HasSubstr("there is no container \"d\""));
}

TEST(PodQualityOfService, follows_requests_and_limits) {
  const auto quality = [](std::string_view resources) {
    return std::string(quality_of_service(read(
        "metadata: {name: a}\nspec: {containers: [{name: a, image: b, resources: " + std::string(resources) + "}]}")));
  };
  EXPECT_EQ(quality("{}"), "BestEffort");
  EXPECT_EQ(quality("{requests: {cpu: 0}}"), "BestEffort");
  EXPECT_EQ(quality("{requests: {cpu: 1}}"), "Burstable");
  EXPECT_EQ(quality("{limits: {cpu: 1}}"), "Burstable");
  EXPECT_EQ(quality("{limits: {cpu: 1, memory: 1Mi}}"), "Guaranteed");
  EXPECT_EQ(quality("{limits: {cpu: 1, memory: 1Mi}, requests: {cpu: 500m}}"), "Burstable");
}

}  // namespace
}  // namespace pintle::api
