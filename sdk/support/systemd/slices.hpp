#pragma once

/// The names of slices: where systemd has the cgroups of pods, and what they are called there.
///
/// A slice is a systemd unit that holds others (systemd.slice(5)). Its name tells its place: `a-b.slice` lies in `a.slice`, so that the
/// cgroup of `a-b.slice` is `/a.slice/a-b.slice`. Three ways to speak of one cgroup:
///
///     neutral   /kubepods/burstable/pod12-34       what a person writes; the path itself with the cgroupfs driver
///     path      /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_34.slice
///     name      kubepods-burstable-pod12_34.slice  the last part: the unit
///
/// From neutral names kubelet makes paths in the same way, '-' becoming '_' because it tells levels apart.

#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::systemd {

/// What a slice that was made for a pod says of itself; others are not ours to end.
inline constexpr char kPodDescription[] = "Pod of Pintle";

/// Whether a cgroup's path or name ends as a slice's does.
bool is_slice(std::string_view path);

/// The path for a neutral name: "/kubepods/pod1-2" to "/kubepods.slice/kubepods-pod1_2.slice". Empty parts count for nothing.
std::string slice_path(std::string_view neutral);

/// The path for a slice's name, or for a path that ends in it: "a-b.slice" to "/a.slice/a-b.slice". INVALID_ARGUMENT for what is no
/// slice's name, for the root slice, and for a path whose parts do not agree with its last one.
Result<std::string> expand_slice(std::string_view path_or_name);

/// The unit of a cgroup's path: its last part.
std::string unit_of(std::string_view path);

}  // namespace pintle::systemd
