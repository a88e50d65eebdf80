#pragma once

/// In which order the containers of a pod begin, and when all of them have done their work.
///
/// Init containers run one after the other, each to its end with code 0, before the others begin together. A sidecar is an init
/// container with restartPolicy Always (KEP-753): the next one begins as soon as the sidecar has started (its startup probe, if
/// it has one, has succeeded), and the sidecar runs on beside everything that follows. It is restarted whenever it ends, does not
/// count for whether the pod has done its work, and ends after the others, the last one first.
///
///     setup (init) --0--> proxy (sidecar) --started--> migrate (init) --0--> web, worker (regular)
///
/// A pod that gets another sandbox begins anew with its first init container: only what runs or ran in the present sandbox counts.
/// Pure functions of what is known of a run.

#include <cstddef>

namespace pintle::agent {

struct PodRun;

struct ContainerOrder {
  bool initialized =
      false;              ///< a regular container was made in this sandbox: plain init containers do not count any more
  size_t behind = 0;      ///< init containers before this index have had their turn in this sandbox
  bool failed = false;    ///< an init container failed and may not be restarted
  bool has_work = false;  ///< a regular container shall run, now or later
};

ContainerOrder order_of(const PodRun& run);

/// Whether the init container at this index lets the next one begin.
bool lets_next_begin(const PodRun& run, size_t index);

/// Whether the container at this index must still be made or started, if its turn has come.
bool wants_to_run(const PodRun& run, size_t index);

}  // namespace pintle::agent
