#pragma once

/// The configuration of an instance, from the JSON that config.schema.json describes.

#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cni/ipam/address_pool.hpp"

namespace pintle::bridge {

struct Config {
  std::string bridge = "pintle0";
  std::vector<cni::AddressRange> ranges;  ///< in the order of podCIDR
  uint32_t mtu = 0;                       ///< 0: that of the default route's interface
  bool masquerade = true;
  bool hairpin = false;

  bool has(int family) const;
};

/// Defaults for keys that are absent. INVALID_ARGUMENT names the key and what would be right, for what a schema cannot say: subnets
/// that are too small or overlap.
Result<Config> parse_config(std::string_view json);

}  // namespace pintle::bridge
