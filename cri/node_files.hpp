#pragma once

/// The texts that a pod finds in /etc: hosts and resolv.conf. What a client gives is checked first: a line feed in a
/// search domain would be a line of its own (CVE-2022-0811 was of this kind).

#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cri/api.pb.h"

namespace pintle::cri {

/// INVALID_ARGUMENT for servers that are no addresses, for words that are no single words, and for too many of them
/// (resolv.conf(5); Kubernetes allows 3 servers, 32 search domains of 2,048 characters together).
Status check_dns(const ::runtime::v1::DNSConfig& dns);

/// resolv.conf for a pod that brings its own DNS settings.
std::string resolv_conf_text(const ::runtime::v1::DNSConfig& dns);

/// The node's resolv.conf as a pod can use it: where the node asks a local stub (127.0.0.53 of systemd-resolved), the
/// real servers behind it. Blocks. Empty if the node has none.
std::string node_resolv_conf();

/// /etc/hosts with the pod's own name on its addresses (without prefix lengths).
std::string hosts_text(std::string_view hostname, const std::vector<std::string>& addresses);

}  // namespace pintle::cri
