#include "plugins/node-agent/container_order.hpp"

#include "plugins/node-agent/pod_worker_common.hpp"

namespace pintle::agent {

namespace {

bool is_in_sandbox(const PodRun& run, const PodRun::Container& container) {
  if (container.statuses.empty() || run.sandbox_id.empty()) return false;
  const auto found = run.sandbox_of.find(container.statuses.front().id());
  return found != run.sandbox_of.end() && found->second == run.sandbox_id;
}

bool has_exited(const PodRun::Container& container) {
  return !container.statuses.empty() && container.statuses.front().state() == cri::CONTAINER_EXITED;
}

}  // namespace

bool lets_next_begin(const PodRun& run, size_t index) {
  const PodRun::Container& container = run.containers[index];
  if (!is_in_sandbox(run, container)) return false;
  if (container.kind == ContainerKind::sidecar) return is_started(container);
  return has_exited(container) && container.statuses.front().exit_code() == 0;
}

bool wants_to_run(const PodRun& run, size_t index) {
  const PodRun::Container& container = run.containers[index];
  if (!has_exited(container) || container.must_restart || container.kind == ContainerKind::sidecar) return true;
  const int32_t code = container.statuses.front().exit_code();
  const core::PodSpec& spec = run.wanted->pod->spec();
  if (container.kind == ContainerKind::regular) return shall_restart(spec, *container.spec, code);
  if (code != 0) return shall_restart(spec, *container.spec, code);
  return !is_in_sandbox(run, container);
}

ContainerOrder order_of(const PodRun& run) {
  ContainerOrder order;
  for (size_t i = 0; i < run.containers.size(); ++i) {
    const PodRun::Container& container = run.containers[i];
    if (container.kind == ContainerKind::regular) {
      order.initialized = order.initialized || is_in_sandbox(run, container);
      order.has_work = order.has_work || wants_to_run(run, i);
      continue;
    }
    if (is_in_sandbox(run, container)) order.behind = i;
    if (container.kind == ContainerKind::init && has_exited(container) && !wants_to_run(run, i) &&
        container.statuses.front().exit_code() != 0)
      order.failed = true;
  }
  if (order.initialized) order.failed = false;
  return order;
}

}  // namespace pintle::agent
