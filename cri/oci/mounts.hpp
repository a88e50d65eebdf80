#pragma once

/// The mounts and devices of a container's spec.

#include <boost/json/array.hpp>
#include <string>
#include <string_view>

#include "cri/oci/spec.hpp"

namespace pintle::oci {

struct Mounts {
  boost::json::array documents;
  std::string root_propagation;  ///< "rshared", "rslave", or empty for the runtime's default
};

/// The mounts of every container (/proc, /dev, /sys, ...), the pod's files, and those that the container asks for, parents
/// before what lies in them. A mount that is asked for takes the place of a default one at the same path.
/// Binds with mapped ids have `uidMappings` and `gidMappings`, as the runtime spec names them from 1.1 on; whoever starts the
/// container makes them for OCI runtimes that are older.
Result<Mounts> make_mounts(const SpecRequest& request, bool privileged);

struct Devices {
  boost::json::array documents;
  std::vector<cgroup::DeviceRule> rules;
};

/// The mapping in the spec's form.
boost::json::array id_mappings(const PodUsers& users);

/// The devices to make, and those that may be used.
Result<Devices> make_devices(const ::runtime::v1::ContainerConfig& config, bool privileged);

/// The propagation of the mount that `path` lies in, from the text of mountinfo: "shared", "slave", "private".
std::string propagation_of(std::string_view mountinfo, std::string_view path);

}  // namespace pintle::oci
