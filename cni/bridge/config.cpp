#include "cni/bridge/config.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <boost/json.hpp>

#include "sdk/support/netlink/links.hpp"

namespace pintle::bridge {
namespace {

namespace json = boost::json;

constexpr std::string_view kDefaultSubnet = "10.85.0.0/16";
constexpr uint16_t kLastVlan = 4094;  // IEEE 802.1Q keeps 0 and 4095

Status wrong(std::string_view key, std::string_view why) {
  return invalid_argument("config of network-bridge, '" + std::string(key) + "': " + std::string(why));
}

Status add_range(Config& config, std::string_view text) {
  const Result<netlink::IpPrefix> prefix = netlink::IpPrefix::parse(text);
  if (!prefix) return wrong("podCIDR", prefix.status().message());
  const Result<cni::AddressRange> range = cni::AddressRange::of(*prefix);
  if (!range) return wrong("podCIDR", range.status().message());
  for (const cni::AddressRange& other : config.ranges) {
    if (!other.subnet.overlaps(range->subnet)) continue;
    return wrong("podCIDR",
                 other.subnet.to_string() + " and " + range->subnet.to_string() + " overlap; name each address once");
  }
  config.ranges.push_back(*range);
  return Status::ok();
}

Status read_subnets(Config& config, const json::value* value) {
  if (!value) return add_range(config, kDefaultSubnet);
  if (value->is_string()) return add_range(config, value->get_string());
  if (!value->is_array() || value->get_array().empty())
    return wrong("podCIDR", "a subnet or a list of subnets is expected");
  for (const json::value& item : value->get_array()) {
    if (!item.is_string()) return wrong("podCIDR", "each subnet is a text as \"10.85.0.0/16\"");
    if (Status status = add_range(config, item.get_string()); !status) return status;
  }
  return Status::ok();
}

Status read_switch(const json::object& object, std::string_view key, bool& value) {
  const json::value* found = object.if_contains(key);
  if (!found) return Status::ok();
  if (!found->is_bool()) return wrong(key, "true or false is expected");
  value = found->get_bool();
  return Status::ok();
}

}  // namespace

std::string gateway_interface_name(const std::string& bridge, uint16_t vlan) {
  return vlan == 0 ? bridge : bridge + "." + std::to_string(vlan);
}

bool Config::has(int family) const {
  return std::any_of(ranges.begin(), ranges.end(),
                     [family](const cni::AddressRange& range) { return range.subnet.address().family() == family; });
}

Result<Config> parse_config(std::string_view text) {
  boost::system::error_code error;
  const json::value document = json::parse(text, error);
  if (error || !document.is_object()) return invalid_argument("config of network-bridge: a JSON object is expected");
  const json::object& object = document.get_object();
  Config config;
  if (const json::value* bridge = object.if_contains("bridge")) {
    if (!bridge->is_string()) return wrong("bridge", "the name of an interface is expected");
    config.bridge = bridge->get_string();
  }
  if (Status status = netlink::check_link_name(config.bridge); !status) return wrong("bridge", status.message());
  if (Status status = read_subnets(config, object.if_contains("podCIDR")); !status) return status;
  if (const json::value* mtu = object.if_contains("mtu")) {
    config.mtu = mtu->to_number<uint32_t>(error);
    if (error || config.mtu > 65535) return wrong("mtu", "a number of bytes from 0 to 65535 is expected");
  }
  const uint32_t least = config.has(AF_INET6) ? 1280 : 68;
  if (config.mtu != 0 && config.mtu < least) {
    return wrong("mtu", std::to_string(config.mtu) + " is less than the " + std::to_string(least) + " that IP needs");
  }
  if (const json::value* vlan = object.if_contains("vlan")) {
    config.vlan = vlan->to_number<uint16_t>(error);
    if (error || config.vlan < 1 || config.vlan > kLastVlan)
      return wrong("vlan", "a number from 1 to 4094 is expected; leave it out for none");
    if (Status status = netlink::check_link_name(config.gateway_interface()); !status)
      return wrong("bridge", status.message() + "; so the pods' gateway in the VLAN is called");
  }
  if (Status status = read_switch(object, "masquerade", config.masquerade); !status) return status;
  if (Status status = read_switch(object, "hairpin", config.hairpin); !status) return status;
  return config;
}

}  // namespace pintle::bridge
