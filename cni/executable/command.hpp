#pragma once

/// `pintle-cni`: the pod network of network-bridge as an executable of the CNI specification, without `pintled`.
///
/// A container engine (podman, containerd, CRI-O, cnitool) starts it once for each command. All it knows is on disk and on the machine:
///
///     DATA/cni/NAME/               of one network configuration: records of its attachments (cni/bridge/attachments.hpp)
///     DATA/cni/NAME/lock           held during a command
///     DATA/cni/NAME/unfinished     is there while a command changes something; a later one that finds it looks at everything anew
///     DATA/shared/network-bridge/  shared with the instances of the plugin: addresses, registrations, sysctls
///
/// So several networks, and the plugin in `pintled`, may use one bridge and one subnet; the last one that has no pods takes the
/// bridge and the rules away. Nobody watches between commands: rules that another program flushed come back with the next ADD or
/// DEL, or at once while a `pintled` with network-bridge runs.
///
///     {"cniVersion": "1.0.0", "name": "pods", "plugins": [
///       {"type": "pintle-cni", "bridge": "cni-pods", "podCIDR": ["10.89.0.0/16"], "capabilities": {"portMappings": true}}]}
///
/// Keys besides those of the specification: `bridge`, `podCIDR`, `mtu`, `masquerade`, `hairpin` as in the plugin's configuration, and
/// `dataDir` (/var/lib/pintle). Runtime capability: portMappings. It makes the pod's interface, so it stands first in a list.

#include <string>

namespace pintle::cni::executable {

/// What the environment and standard input say.
struct Invocation {
  std::string command, container, name_space, interface,
      arguments;  ///< CNI_COMMAND, _CONTAINERID, _NETNS, _IFNAME, _ARGS
  std::string input;
};

struct Answer {
  int exit_code = 0;
  std::string output;  ///< of standard output
};

/// Blocks; makes no process. Only failures of the machine's own are told on standard error.
Answer run(const Invocation& invocation);

}  // namespace pintle::cni::executable
