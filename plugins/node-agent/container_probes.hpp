#pragma once

/// The probes of one running container, each by its own timer.
///
///     startup:    unknown --success--> started; then the two others begin
///                    |  failureThreshold failures in a row --> the container is to be ended
///     liveness:   failureThreshold failures in a row --> the container is to be ended
///     readiness:  ready after successThreshold successes in a row, unready after failureThreshold failures
///
/// A probe is made `initialDelaySeconds` after the container's start, and then every `periodSeconds`. One that could not be made
/// at all (the runtime is away) is tried three times and then counts for nothing. Without a startup probe a container has started
/// as soon as it runs; without a readiness probe it is ready when it has started. Who ends the container looks at `failed`.
/// All on the plugin's lane.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <pintle/host.hpp>
#include <string>
#include <string_view>

#include "plugins/node-agent/container_actions.hpp"

namespace pintle::agent {

enum class ProbeKind { startup, liveness, readiness };

std::string_view name_of(ProbeKind kind);  ///< "Startup", "Liveness", "Readiness"

struct ProbeSurroundings {
  Host& host;
  WebClient& web;
  const ::runtime::v1::RuntimeServiceStub& runtime;
  std::function<void(Task<void>)> start;  ///< runs a task beside the others
  std::function<void()> changed;          ///< a result has changed
  std::function<void(std::string_view reason, const std::string& message)> warn;
  /// How one probe went, as kubelet counts: "successful", "failed" or "unknown".
  std::function<void(ProbeKind kind, std::string_view result)> count;
};

class ContainerProbes {
 public:
  /// Begins at once. `keeps` holds what the target's spec belongs to. `was_ready`: it was, when a former agent looked; so it counts
  /// until a probe says otherwise.
  ContainerProbes(ProbeSurroundings surroundings, ActionTarget target, std::shared_ptr<const void> keeps,
                  std::chrono::system_clock::time_point started_at, bool was_ready = false);
  ~ContainerProbes();
  ContainerProbes(const ContainerProbes&) = delete;

  static bool has_any(const core::Container& spec);
  const std::string& container_id() const;
  bool is_started() const;
  bool is_ready() const;
  /// The probe because of which the container is to be ended.
  std::optional<ProbeKind> failed() const;
  /// The container is being ended: only readiness is still looked at.
  void end();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace pintle::agent
