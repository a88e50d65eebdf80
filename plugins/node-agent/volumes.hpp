#pragma once

/// The volumes of a pod on the node, as kubelet makes them.
///
///     pods/UID/volumes/NAME                  emptyDir: a folder, or a tmpfs (medium Memory) that goes with the pod
///     pods/UID/volumes/NAME                  downwardAPI, projected: files behind the link ..data, exchanged all at once
///     pods/UID/subpaths/CONTAINER/INDEX      a bind mount of a path inside of a volume
///     pods/UID/etc-hosts                     /etc/hosts of a pod with names of its own
///
/// A hostPath volume lies where it lies. Mounts outlive this process; those that are missing (after a reboot) are made again.
///
/// A subPath is what another container of the pod may replace by a symlink to anywhere. It is opened by openat2(2) with
/// RESOLVE_BENEATH, and what that descriptor means is bound to a place of our own, which the container then mounts: nothing is
/// looked up by name twice (CVE-2017-1002101, CVE-2021-25741).
///
/// All functions block and may run on any thread.

#include <map>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

#include "plugins/node-agent/manifests.hpp"

namespace k8s::io::api::core::v1 {
class Volume;
}

namespace pintle::agent {

/// One file of a volume that is made of the pod's own fields.
struct ProjectedFile {
  std::string content;
  uint32_t mode = 0644;
};

/// Makes one volume in `folder` (".../volumes/NAME"); gives its place on the node. FAILED_PRECONDITION: a hostPath is not what its
/// type says.
Result<std::string> make_volume(const core::Pod& pod, const core::Volume& volume, const std::string& folder);

/// The files of a downwardAPI volume, or of a projected one, by path.
std::map<std::string, ProjectedFile> projected_files(const core::Pod& pod, const core::Volume& volume);

/// Puts just these files into the folder. Readers see either all of the former or all of the new ones; nothing is written while
/// nothing differs.
Status write_projection(const std::string& folder, const std::map<std::string, ProjectedFile>& files);

/// Binds what `path` means inside of the volume at `volume` to `target`. What is missing is made as a folder. FAILED_PRECONDITION if
/// the path leads out of the volume.
Status pin_sub_path(const std::string& volume, const std::string& path, const std::string& target);

/// Gives everything in the volume to the group, to write or only to read it, as fsGroup asks for it.
Status give_to_group(const std::string& folder, int64_t group, bool writable);

/// Unmounts all that is mounted below the folder, the deepest first.
Status unmount_below(const std::string& folder);

/// Whether the volume cannot be written to, whatever the mount says.
bool is_read_only(const core::Volume& volume);

}  // namespace pintle::agent
