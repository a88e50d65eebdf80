#pragma once

/// What probes and hooks do with a running container: run a command in it, ask it over HTTP or gRPC, connect to it.

#include <chrono>
#include <pintle/task.hpp>
#include <string>

#include "plugins/node-agent/manifests.hpp"
#include "plugins/node-agent/probe_answers.hpp"
#include "plugins/node-agent/web_client.hpp"

namespace runtime::v1 {
class RuntimeServiceStub;
}

namespace k8s::io::api::core::v1 {
class Container;
class LifecycleHandler;
class ProbeHandler;
}  // namespace k8s::io::api::core::v1

namespace pintle::agent {

/// Whom an action is for. The spec must outlive the action.
struct ActionTarget {
  std::string container_id;
  std::string address;  ///< of the pod; the node's, if they share a network
  const core::Container* spec = nullptr;
};

/// One probe: DEADLINE of the probe's timeout included. `call_id` (may be null) receives the id of a call that may be cancelled;
/// it must outlive the action, as must the handler.
Task<ProbeAnswer> run_probe(WebClient& web, const ::runtime::v1::RuntimeServiceStub& runtime,
                            const ActionTarget& target, const core::ProbeHandler& handler,
                            std::chrono::nanoseconds timeout, uint64_t* call_id);

/// One hook besides `sleep`: success, or a failure that says why. Any answer over HTTP is a success.
Task<ProbeAnswer> run_hook(WebClient& web, const ::runtime::v1::RuntimeServiceStub& runtime, const ActionTarget& target,
                           const core::LifecycleHandler& handler, std::chrono::nanoseconds timeout, uint64_t* call_id);

}  // namespace pintle::agent
