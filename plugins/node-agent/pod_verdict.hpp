#pragma once

/// Why the node itself ended a pod, or did not take it: "Evicted", "Terminated", "OutOfmemory", "NodeShutdown", ... The pod is Failed
/// with this reason, whatever its restart policy says.
///
/// A pod that was *ended* stays so until its manifest changes or goes away, or until the machine is booted anew: the verdict lies
/// beside the pod's record, with the id of the boot. One that was *refused* never began; it is asked about again when something of
/// what was in its way has changed.

#include <cstdint>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::agent {

struct PodVerdict {
  std::string reason, message;
  int64_t grace_seconds = 0;  ///< at most; of what runs of it
  bool is_refusal = false;
  bool frees_disk = false;         ///< its logs and containers go as well, not only its volumes
  bool keeps_volumes = false;      ///< it is to come back
  std::string disruption_message;  ///< of the condition DisruptionTarget; empty: no such condition
};

std::string to_record(const PodVerdict& verdict, std::string_view boot_id);
/// Nothing if it is of another boot. INVALID_ARGUMENT: it is no such record.
Result<std::optional<PodVerdict>> verdict_from_record(std::string_view record, std::string_view boot_id);

/// Of the machine's present run, from the kernel; blocks shortly.
std::string boot_id();

}  // namespace pintle::agent
