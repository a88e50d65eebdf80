#pragma once

/// Who answers whose needs, and in which order instances start. A pure function of a plan and the manifests.
///
/// A need is answered by the instances whose plugins provide its interface: one that the profile names under `bindings`, else
/// the only one there is; a need that wants many gets all. Needs of `start` order the start; a cycle of them is refused.

#include <map>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "kernel/profile/plan.hpp"
#include "sdk/support/plugin_file/manifest.hpp"

namespace pintle::kernel {

using namespace plugin;

struct WiringInput {
  const PlannedInstance* plan;
  const Manifest* manifest;
  bool is_signed;
};

struct Wiring {
  /// For each instance and each need of its manifest: the instances that shall answer it.
  std::map<std::string, std::vector<std::vector<std::string>>> providers;
  /// Providers before those who need them to start.
  std::vector<std::string> order;
  /// What is wrong with single instances, in one line each.
  std::map<std::string, std::string> problems;
};

/// INVALID_ARGUMENT: needs of `start` go in a circle, all of which is named.
Result<Wiring> wire(const std::vector<WiringInput>& instances);

}  // namespace pintle::kernel
