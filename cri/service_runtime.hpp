#pragma once

/// `runtime.v1.RuntimeService`: each method of CRI turned into what the engine does. Requests are looked up and checked
/// here, answers are put together here; nothing is decided here that outlives the call.
///
/// Errors are those that clients act on: NOT_FOUND where a thing is asked about, nothing at all where it is to be
/// stopped or removed and is gone (CRI: these are idempotent), DEADLINE_EXCEEDED for a command that took too long.

#include "cri/engine.hpp"
#include "cri/gate.hpp"
#include "cri/pod_usage.hpp"

namespace pintle::cri {

class RuntimeServer final : public Gated<api::RuntimeService> {
 public:
  RuntimeServer(Engine& engine, Gate& gate);

  Task<Result<api::VersionResponse>> Version(Call& call, const api::VersionRequest& request) override;
  Task<Result<api::StatusResponse>> Status(Call& call, const api::StatusRequest& request) override;
  Task<Result<api::RuntimeConfigResponse>> RuntimeConfig(Call& call, const api::RuntimeConfigRequest& request) override;
  Task<Result<api::UpdateRuntimeConfigResponse>> UpdateRuntimeConfig(
      Call& call, const api::UpdateRuntimeConfigRequest& request) override;

  Task<Result<api::RunPodSandboxResponse>> RunPodSandbox(Call& call, const api::RunPodSandboxRequest& request) override;
  Task<Result<api::StopPodSandboxResponse>> StopPodSandbox(Call& call,
                                                           const api::StopPodSandboxRequest& request) override;
  Task<Result<api::RemovePodSandboxResponse>> RemovePodSandbox(Call& call,
                                                               const api::RemovePodSandboxRequest& request) override;
  Task<Result<api::PodSandboxStatusResponse>> PodSandboxStatus(Call& call,
                                                               const api::PodSandboxStatusRequest& request) override;
  Task<Result<api::ListPodSandboxResponse>> ListPodSandbox(Call& call,
                                                           const api::ListPodSandboxRequest& request) override;
  Task<Result<api::PodSandboxStatsResponse>> PodSandboxStats(Call& call,
                                                             const api::PodSandboxStatsRequest& request) override;
  Task<Result<api::ListPodSandboxStatsResponse>> ListPodSandboxStats(
      Call& call, const api::ListPodSandboxStatsRequest& request) override;

  Task<Result<api::CreateContainerResponse>> CreateContainer(Call& call,
                                                             const api::CreateContainerRequest& request) override;
  Task<Result<api::StartContainerResponse>> StartContainer(Call& call,
                                                           const api::StartContainerRequest& request) override;
  Task<Result<api::StopContainerResponse>> StopContainer(Call& call, const api::StopContainerRequest& request) override;
  Task<Result<api::RemoveContainerResponse>> RemoveContainer(Call& call,
                                                             const api::RemoveContainerRequest& request) override;
  Task<Result<api::ListContainersResponse>> ListContainers(Call& call,
                                                           const api::ListContainersRequest& request) override;
  Task<Result<api::ContainerStatusResponse>> ContainerStatus(Call& call,
                                                             const api::ContainerStatusRequest& request) override;
  Task<Result<api::UpdateContainerResourcesResponse>> UpdateContainerResources(
      Call& call, const api::UpdateContainerResourcesRequest& request) override;
  Task<Result<api::ReopenContainerLogResponse>> ReopenContainerLog(
      Call& call, const api::ReopenContainerLogRequest& request) override;
  Task<Result<api::ContainerStatsResponse>> ContainerStats(Call& call,
                                                           const api::ContainerStatsRequest& request) override;
  Task<Result<api::ListContainerStatsResponse>> ListContainerStats(
      Call& call, const api::ListContainerStatsRequest& request) override;
  Task<Result<api::ExecSyncResponse>> ExecSync(Call& call, const api::ExecSyncRequest& request) override;
  Task<Result<api::ExecResponse>> Exec(Call& call, const api::ExecRequest& request) override;
  Task<Result<api::AttachResponse>> Attach(Call& call, const api::AttachRequest& request) override;
  Task<Result<api::PortForwardResponse>> PortForward(Call& call, const api::PortForwardRequest& request) override;
  Task<pintle::Status> GetContainerEvents(Call& call, const api::GetEventsRequest& request,
                                          StreamWriter<api::ContainerEventResponse>& writer) override;

 private:
  /// What a method's run took and whether it failed, for the metrics.
  class Measured;
  PodToMeasure to_measure(const Sandbox& sandbox) const;
  static api::PodSandboxStats pod_stats(const Sandbox& sandbox, const PodUsage& usage,
                                        std::vector<api::ContainerStats> containers);

  Engine& engine_;
  std::map<std::string, Metric> durations_, failures_;
};

/// The caller's name that the gRPC front end gives; such callers take answers of CRI's usual 16 MiB.
inline constexpr std::string_view kSocketCaller = "socket:cri";

}  // namespace pintle::cri
