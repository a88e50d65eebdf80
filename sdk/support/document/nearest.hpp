#pragma once

/// The right name nearest to a wrong one, for "did you mean ...?".

#include <span>
#include <string>
#include <string_view>

namespace pintle::document {

/// The candidate that `wrong` was most probably meant to be; empty if none is near. Case, `-`, `_` and `.` hardly count
/// ("pod_cidr" is "podCIDR"); otherwise a typing mistake may be made for every three letters, a swap of neighbours
/// being one.
std::string nearest(std::string_view wrong, std::span<const std::string> candidates);

/// "; did you mean NAME?" if one is near, else "; known are A, B, C" with at most eight of them, else "".
std::string suggestion(std::string_view wrong, std::span<const std::string> candidates);

}  // namespace pintle::document
