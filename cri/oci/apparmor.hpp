#pragma once

/// AppArmor: which profile a container's processes are confined by, and the one that they are confined by unless asked otherwise.
///
///     asked for            where AppArmor is on                            elsewhere
///     nothing              the default profile                             none
///     RuntimeDefault       the default profile                             none, with a remark
///     Localhost NAME       that one; refused unless it is loaded           refused
///     Unconfined           none                                            none
///
/// A privileged container has none, whatever it asks for. Profiles are the kernel's: one is *loaded* by apparmor_parser(8), from text, and is
/// then known by its name until the next boot. The default profile is loaded by whoever runs containers (runtime-oci); where that was not
/// possible, as without apparmor_parser, containers run without, with a remark.
///
/// Sources: apparmor.d(5), Documentation/admin-guide/LSM/apparmor.rst of the kernel, KEP-24, CRI's api.proto.

#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace runtime::v1 {
class LinuxContainerSecurityContext;
}  // namespace runtime::v1

namespace pintle::oci {

struct HostFacts;

inline constexpr std::string_view kDefaultApparmorProfile = "pintle-default";

/// The text of the default profile, for apparmor_parser. Containers keep files, network, and the capabilities that they were given; what
/// is denied is mounting, tracing and signalling others, and the kernel's files by which one acts on the whole node.
std::string_view default_apparmor_profile();

/// Whether the kernel knows it. Reads a file of the kernel's.
bool is_apparmor_profile_loaded(const HostFacts& host, std::string_view name);

/// The profile to run in, empty for none. INVALID_ARGUMENT for what is no profile's name, FAILED_PRECONDITION for one that is not loaded.
Result<std::string> apparmor_profile_of(const ::runtime::v1::LinuxContainerSecurityContext& context,
                                        const HostFacts& host, std::vector<std::string>& remarks);

}  // namespace pintle::oci
