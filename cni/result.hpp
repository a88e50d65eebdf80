#pragma once

/// What a network plugin answers when it has attached a sandbox: the success result of ADD in the CNI specification 1.0
/// (https://www.cni.dev/docs/spec/#add-success), as values and as JSON.
///
/// Network plugins of ours work in this vocabulary; the same value becomes a Protobuf message between plugins, the
/// record of an attachment on disk, and what `pintle-cni` prints.

#include <boost/json/fwd.hpp>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/support/netlink/ip.hpp"
#include "sdk/support/netlink/links.hpp"

namespace pintle::cni {

struct ResultInterface {
  std::string name;
  netlink::HardwareAddress mac{};
  uint32_t mtu = 0;     ///< spec 1.1; 0: not said
  std::string sandbox;  ///< path of the network namespace; empty for an interface of the node
  bool operator==(const ResultInterface&) const = default;
};

struct ResultIp {
  netlink::IpPrefix address;  ///< with the prefix length of its subnet
  std::optional<netlink::IpAddress> gateway;
  std::optional<size_t> interface;  ///< index into `interfaces`
  bool operator==(const ResultIp&) const = default;
};

struct ResultRoute {
  netlink::IpPrefix destination;
  std::optional<netlink::IpAddress> gateway;
  bool operator==(const ResultRoute&) const = default;
};

struct ResultDns {
  std::vector<std::string> nameservers;
  std::string domain;
  std::vector<std::string> search;
  std::vector<std::string> options;
  bool operator==(const ResultDns&) const = default;
};

struct AddResult {
  std::vector<ResultInterface> interfaces;
  std::vector<ResultIp> ips;
  std::vector<ResultRoute> routes;
  ResultDns dns;
  bool operator==(const AddResult&) const = default;
};

/// As a version of the specification writes it (protocol.hpp, kVersions); empty lists and texts are left out.
boost::json::object to_json(const AddResult& result, std::string_view version = "1.0.0");
/// Unknown keys are ignored, as the specification asks. INVALID_ARGUMENT names the key that is wrong.
Result<AddResult> parse_add_result(const boost::json::value& json);

}  // namespace pintle::cni
