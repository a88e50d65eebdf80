#pragma once

/// Loads the profile that confines containers unless they ask otherwise (cri/oci/apparmor.hpp) into the kernel.

#include <pintle/host.hpp>
#include <pintle/task.hpp>

#include "plugins/runtime-oci/settings.hpp"

namespace pintle::runtime_oci {

/// By apparmor_parser, in place of one of that name that an earlier release may have loaded. Nothing to do where there is no AppArmor.
/// FAILED_PRECONDITION where the parser is missing, INTERNAL with its words where it refuses.
Task<Status> load_default_profile(Host& host, std::shared_ptr<const Node> node);
/// Loads it again if somebody has taken it away (aa-remove-unknown does, by design). A failure is for the spec's remarks: containers run.
Task<void> keep_default_profile(Host& host, std::shared_ptr<const Node> node);

}  // namespace pintle::runtime_oci
