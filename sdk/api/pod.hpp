#pragma once

/// What Kubernetes says about core/v1 Pods besides their encoding: defaults, validation, quality of service.
///
/// The order is the API server's: decode, `set_pod_defaults`, `validate_pod`. A pod that passed can be run or stored as
/// it is; validation assumes defaults. Rules are those of Kubernetes v1.34 for new pods, as far as a pod that is bound
/// to a node is concerned; what only a scheduler reads (affinity, tolerations, spread) is taken as it is.
///
/// All functions may be called from any thread.

#include <string_view>

#include "sdk/api/problem.hpp"

namespace k8s::io::api::core::v1 {
class AppArmorProfile;
class Container;
class Pod;
class ResourceRequirements;
}  // namespace k8s::io::api::core::v1

namespace pintle::api {

/// Fills in what a manifest may leave out: restartPolicy Always, terminationGracePeriodSeconds 30, dnsPolicy
/// ClusterFirst, imagePullPolicy by the image's tag, protocol TCP, requests from limits, probes' and volumes' defaults.
PINTLE_API_EXPORT void set_pod_defaults(k8s::io::api::core::v1::Pod& pod);

PINTLE_API_EXPORT Problems validate_pod(const k8s::io::api::core::v1::Pod& pod);

/// "Guaranteed" (every container has limits for cpu and memory, and requests equal to them), "BestEffort" (none has
/// any), else "Burstable".
PINTLE_API_EXPORT std::string_view quality_of_service(const k8s::io::api::core::v1::Pod& pod);

/// The AppArmor profile that a container asks for: by its own field, by the pod's annotation
/// container.apparmor.security.beta.kubernetes.io/NAME, or by the pod's field, in this order. False if by none.
PINTLE_API_EXPORT bool find_apparmor_profile(const k8s::io::api::core::v1::Pod& pod,
                                             const k8s::io::api::core::v1::Container& container,
                                             k8s::io::api::core::v1::AppArmorProfile& profile);

/// Whether an image reference means "latest": no tag and no digest, or this very tag.
PINTLE_API_EXPORT bool is_latest_image(std::string_view reference);

}  // namespace pintle::api
