#pragma once

/// Containers of pods with users of their own: what they see of the node's files, and where.
///
/// Neither crun 1.8 nor runc 1.1 maps the ids of mounts, and both enter the user namespace before they look for the root, so that
/// the closed folders above it are in their way. Both are taken off them here:
///
///     <container>/           0710, of the pod's root group; the launcher shows it to the OCI runtime at `shown_folder()`
///       layers               the image's layers with mapped ids, while the root is being mounted upon them
///       rootfs               the overlay; what the container writes belongs to its users, in `upper`
///       mounts/N             each bind mount of the spec, with mapped ids where CRI asks for it
///
/// All functions block and may run on any thread.

#include <boost/json/object.hpp>
#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "sdk/support/files/files.hpp"

namespace pintle::runtime::v1 {
class Sandbox;
}

namespace pintle::runtime_oci {

inline constexpr const char* kShownLayers = "layers";

struct MappedUsers {
  uint32_t first = 0;  ///< id 0 of the pod, on the node
  uint32_t count = 0;  ///< 0: the pod has the node's users
  files::Descriptor user_namespace;

  /// Opens the pod's user namespace, if it has one.
  static Result<MappedUsers> of(const runtime::v1::Sandbox& sandbox);
  bool are_mapped() const { return count != 0; }
  uint32_t on_node(uint32_t id) const { return count == 0 ? id : id < count ? first + id : first + 65534; }
};

/// A folder of every host, which the OCI runtime of such a container sees replaced by the container's.
std::string shown_folder();

/// The layers as the pod's users see them, to be stacked while `<container>/layers` is mounted. As they are if nothing is mapped.
Result<std::vector<std::string>> show_layers(const MappedUsers& users, std::vector<std::string> layers,
                                             const std::string& container);

/// Makes the spec's bind mounts at `<container>/mounts/N`, and has the spec name these.
Status show_binds(const MappedUsers& users, boost::json::object& spec, const std::string& container);

/// Whether the OCI runtime was shown the container's folder.
bool is_shown(const std::string& container);

/// Lets root of the pod reach its cgroup, which it sees as it is on cgroup v1.
Status open_cgroups(const std::vector<std::string>& folders);

/// Unmounts all of that. Ok if there is nothing.
Status hide(const std::string& container);

}  // namespace pintle::runtime_oci
