#pragma once

/// The configuration of an instance, from the JSON that config.schema.json describes.

#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cni/ipam/address_pool.hpp"

namespace pintle::bridge {

/// The bridge itself, or its sub-interface in the VLAN ("pintle0.100").
std::string gateway_interface_name(const std::string& bridge, uint16_t vlan);

struct Config {
  std::string bridge = "pintle0";
  std::vector<cni::AddressRange> ranges;  ///< in the order of podCIDR
  uint32_t mtu = 0;                       ///< 0: that of the default route's interface
  bool masquerade = true;
  bool hairpin = false;
  uint16_t vlan = 0;  ///< of the bridge, in which the pods are; 0: none

  bool has(int family) const;
  /// The interface that has the gateways' addresses.
  std::string gateway_interface() const { return gateway_interface_name(bridge, vlan); }
};

/// Defaults for keys that are absent. INVALID_ARGUMENT names the key and what would be right, for what a schema cannot say: subnets
/// that are too small or overlap.
Result<Config> parse_config(std::string_view json);

}  // namespace pintle::bridge
