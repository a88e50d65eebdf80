#include "sdk/api/pod.hpp"

#include <array>

#include "k8s/core/v1/pod.pb.h"
#include "sdk/api/quantity.hpp"

namespace pintle::api {

namespace core = k8s::io::api::core::v1;

namespace {

constexpr int64_t kDefaultGraceSeconds = 30;
constexpr int32_t kDefaultFileMode = 0644;
constexpr int64_t kDefaultTokenSeconds = 3600;

template <class Message, class Value>
void set_default(Message* message, bool (Message::*has)() const, void (Message::*set)(Value), Value value) {
  if (!(message->*has)()) (message->*set)(value);
}

/// An empty text is as good as none where Go has no pointer.
void set_default_text(std::string* text, std::string_view value) {
  if (text->empty()) *text = value;
}

void set_probe_defaults(core::Probe& probe) {
  if (probe.timeout_seconds() == 0) probe.set_timeout_seconds(1);
  if (probe.period_seconds() == 0) probe.set_period_seconds(10);
  if (probe.success_threshold() == 0) probe.set_success_threshold(1);
  if (probe.failure_threshold() == 0) probe.set_failure_threshold(3);
  if (!probe.has_handler()) return;
  core::ProbeHandler& handler = *probe.mutable_handler();
  if (handler.has_http_get()) {
    set_default_text(handler.mutable_http_get()->mutable_path(), "/");
    set_default_text(handler.mutable_http_get()->mutable_scheme(), "HTTP");
  }
  if (handler.has_grpc() && !handler.grpc().has_service()) handler.mutable_grpc()->set_service("");
}

void set_handler_defaults(core::LifecycleHandler& handler) {
  if (!handler.has_http_get()) return;
  set_default_text(handler.mutable_http_get()->mutable_path(), "/");
  set_default_text(handler.mutable_http_get()->mutable_scheme(), "HTTP");
}

void set_container_defaults(core::Container& container, bool host_network) {
  set_default_text(container.mutable_termination_message_path(), "/dev/termination-log");
  set_default_text(container.mutable_termination_message_policy(), "File");
  set_default_text(container.mutable_image_pull_policy(),
                   is_latest_image(container.image()) ? "Always" : "IfNotPresent");
  for (core::ContainerPort& port : *container.mutable_ports()) {
    set_default_text(port.mutable_protocol(), "TCP");
    if (host_network && port.host_port() == 0) port.set_host_port(port.container_port());
  }
  for (core::EnvVar& variable : *container.mutable_env())
    if (variable.has_value_from() && variable.value_from().has_field_ref())
      set_default_text(variable.mutable_value_from()->mutable_field_ref()->mutable_api_version(), "v1");
  if (container.has_liveness_probe()) set_probe_defaults(*container.mutable_liveness_probe());
  if (container.has_readiness_probe()) set_probe_defaults(*container.mutable_readiness_probe());
  if (container.has_startup_probe()) set_probe_defaults(*container.mutable_startup_probe());
  if (container.has_lifecycle()) {
    if (container.lifecycle().has_post_start())
      set_handler_defaults(*container.mutable_lifecycle()->mutable_post_start());
    if (container.lifecycle().has_pre_stop()) set_handler_defaults(*container.mutable_lifecycle()->mutable_pre_stop());
  }
  if (container.resources().limits_size() > 0) {
    auto& requests = *container.mutable_resources()->mutable_requests();
    for (const auto& [name, limit] : container.resources().limits())
      if (!requests.contains(name)) requests[name] = limit;
  }
}

/// A pod that is limited as a whole and does not say what it needs needs what its containers do, or else all of it.
void set_pod_resource_defaults(core::PodSpec& spec) {
  if (!spec.has_resources()) return;
  auto& requests = *spec.mutable_resources()->mutable_requests();
  for (const auto& [name, limit] : spec.resources().limits()) {
    if (requests.contains(name)) continue;
    Quantity together;
    bool any = false;
    for (const core::Container& container : spec.containers()) {
      const auto own = container.resources().requests().find(name);
      if (own == container.resources().requests().end()) continue;
      together += Quantity::of(own->second);
      any = true;
    }
    requests[name] = limit;
    // Requests of huge pages are their limits.
    if (any && !name.starts_with("hugepages-")) requests[name].set_string(together.text());
  }
}

void set_volume_defaults(core::Volume& volume) {
  core::VolumeSource& source = *volume.mutable_volume_source();
  if (source.ByteSizeLong() == 0) source.mutable_empty_dir();
  if (source.has_host_path() && !source.host_path().has_type()) source.mutable_host_path()->set_type("");
  if (source.has_secret())
    set_default(source.mutable_secret(), &core::SecretVolumeSource::has_default_mode,
                &core::SecretVolumeSource::set_default_mode, kDefaultFileMode);
  if (source.has_config_map())
    set_default(source.mutable_config_map(), &core::ConfigMapVolumeSource::has_default_mode,
                &core::ConfigMapVolumeSource::set_default_mode, kDefaultFileMode);
  if (source.has_downward_api())
    set_default(source.mutable_downward_api(), &core::DownwardAPIVolumeSource::has_default_mode,
                &core::DownwardAPIVolumeSource::set_default_mode, kDefaultFileMode);
  if (source.has_projected()) {
    set_default(source.mutable_projected(), &core::ProjectedVolumeSource::has_default_mode,
                &core::ProjectedVolumeSource::set_default_mode, kDefaultFileMode);
    for (core::VolumeProjection& projection : *source.mutable_projected()->mutable_sources())
      if (projection.has_service_account_token())
        set_default(projection.mutable_service_account_token(),
                    &core::ServiceAccountTokenProjection::has_expiration_seconds,
                    &core::ServiceAccountTokenProjection::set_expiration_seconds, kDefaultTokenSeconds);
  }
}

}  // namespace

bool is_latest_image(std::string_view reference) {
  if (reference.find('@') != std::string_view::npos) return false;
  const size_t slash = reference.rfind('/');
  const std::string_view name = slash == std::string_view::npos ? reference : reference.substr(slash + 1);
  const size_t colon = name.find(':');
  return colon == std::string_view::npos || name.substr(colon + 1) == "latest";
}

void set_pod_defaults(core::Pod& pod) {
  core::PodSpec& spec = *pod.mutable_spec();
  set_default_text(spec.mutable_restart_policy(), "Always");
  set_default_text(spec.mutable_dns_policy(), "ClusterFirst");
  set_default_text(spec.mutable_scheduler_name(), "default-scheduler");
  set_default(&spec, &core::PodSpec::has_termination_grace_period_seconds,
              &core::PodSpec::set_termination_grace_period_seconds, kDefaultGraceSeconds);
  set_default(&spec, &core::PodSpec::has_enable_service_links, &core::PodSpec::set_enable_service_links, true);
  spec.mutable_security_context();
  for (core::Volume& volume : *spec.mutable_volumes()) set_volume_defaults(volume);
  for (core::Container& container : *spec.mutable_init_containers())
    set_container_defaults(container, spec.host_network());
  for (core::Container& container : *spec.mutable_containers()) set_container_defaults(container, spec.host_network());
  set_pod_resource_defaults(spec);
}

std::string_view quality_of_service(const core::Pod& pod) {
  bool any = false, guaranteed = true;
  const auto weigh = [&](const core::ResourceRequirements& resources) {
    for (const char* name : {"cpu", "memory"}) {
      const auto& limits = resources.limits();
      const auto& requests = resources.requests();
      const auto limit = limits.find(name);
      const auto request = requests.find(name);
      const Quantity limited = limit == limits.end() ? Quantity() : Quantity::of(limit->second);
      const Quantity requested = request == requests.end() ? Quantity() : Quantity::of(request->second);
      if (!limited.is_zero() || !requested.is_zero()) any = true;
      if (limited.is_zero() || !(limited == requested)) guaranteed = false;
    }
  };
  // What the pod as a whole asks for counts alone where it is given.
  weigh(pod.spec().resources());
  if (!any) {
    guaranteed = true;
    for (const core::Container& container : pod.spec().init_containers()) weigh(container.resources());
    for (const core::Container& container : pod.spec().containers()) weigh(container.resources());
  }
  if (!any) return "BestEffort";
  return guaranteed ? "Guaranteed" : "Burstable";
}

}  // namespace pintle::api
