#pragma once

/// The second half of a profile's way, private to this folder: from the merged document to the plan.

#include "kernel/profile/profile.hpp"

namespace pintle {

/// Fills `profile.plan` from `profile.merged`, which the schema of profiles has accepted, and adds to
/// `profile.problems`.
void make_plan(ResolvedProfile& profile, const ProfileSources& sources);

}  // namespace pintle
