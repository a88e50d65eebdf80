// What other programs and settings do to the traffic of pods.

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <optional>
#include <set>
#include <sstream>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/doctor.hpp"
#include "sdk/support/document/schema.hpp"

namespace pintle::cli {

namespace json = boost::json;

namespace {

struct Network {
  int family = 0;
  unsigned char bytes[16] = {};
  unsigned prefix = 0;
};

std::optional<Network> parse_network(const std::string& text) {
  if (!document::format_problem("cidr", text).empty()) return std::nullopt;
  Network network;
  const size_t slash = text.find('/');
  network.family = text.find(':') == std::string::npos ? AF_INET : AF_INET6;
  inet_pton(network.family, text.substr(0, slash).c_str(), network.bytes);
  network.prefix = static_cast<unsigned>(std::stoul(text.substr(slash + 1)));
  return network;
}

bool contains(const Network& network, const sockaddr* address) {
  if (address->sa_family != network.family) return false;
  const void* raw = network.family == AF_INET
                        ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in*>(address)->sin_addr)
                        : &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  const auto* bytes = static_cast<const unsigned char*>(raw);
  for (unsigned bit = 0; bit < network.prefix; ++bit) {
    if (((bytes[bit / 8] ^ network.bytes[bit / 8]) >> (7 - bit % 8)) & 1) return false;
  }
  return true;
}

// What the running profile says of pods' networks: every network, and every other text, of the plugins' config.
struct PodNetworks {
  bool known = false;  // the daemon has told it
  std::set<std::string> networks, names;

  bool has_family(int family) const {
    return std::any_of(networks.begin(), networks.end(),
                       [&](const std::string& network) { return parse_network(network)->family == family; });
  }
};

void collect(const json::value& value, PodNetworks& pods) {
  if (const json::object* object = value.if_object()) {
    for (const auto& one : *object) collect(one.value(), pods);
  } else if (const json::array* array = value.if_array()) {
    for (const json::value& element : *array) collect(element, pods);
  } else if (const json::string* text = value.if_string()) {
    const std::string word(text->data(), text->size());
    (parse_network(word) ? pods.networks : pods.names).insert(word);
  }
}

PodNetworks pod_networks(const Host& host) {
  PodNetworks pods;
  if (host.context() == nullptr) return pods;
  Result<json::value> profile = host.context()->admin().json("GET", "/v1/profile", "", std::chrono::seconds(5));
  if (!profile) return pods;
  pods.known = true;
  for (const json::value& instance : list_member(*profile, "instances")) collect(member(instance, "config"), pods);
  return pods;
}

// Base chains of the hook "forward" that drop by default, as "ip filter FORWARD".
std::vector<std::string> dropping_chains(const json::value& ruleset) {
  std::vector<std::string> chains;
  for (const json::value& entry : list_member(ruleset, "nftables")) {
    const json::value& chain = member(entry, "chain");
    if (text_member(chain, "hook") == "forward" && text_member(chain, "policy") == "drop") {
      chains.push_back(text_member(chain, "family") + " " + text_member(chain, "table") + " " +
                       text_member(chain, "name"));
    }
  }
  return chains;
}

std::vector<Finding> firewall_findings(const Host& host) {
  std::vector<Finding> findings;
  if (!host.can_try()) return findings;
  std::vector<std::string> dropping;
  const ProgramResult nft = run_program({"nft", "-j", "list", "chains"});
  if (nft.exit == 0) {
    boost::system::error_code error;
    dropping = dropping_chains(json::parse(nft.output, error));
  }
  for (const char* program : {"iptables-legacy", "ip6tables-legacy"}) {
    if (run_program({program, "-S", "FORWARD"}).output.starts_with("-P FORWARD DROP"))
      dropping.push_back(std::string(program) + " FORWARD");
  }
  if (dropping.empty()) {
    findings.push_back({"forward-policy", Health::ok, "no firewall drops forwarded packets by default", "", ""});
  } else {
    std::string list;
    for (const std::string& chain : dropping) list += (list.empty() ? "" : ", ") + chain;
    const bool docker = host.exists("/run/docker.sock") || host.exists("/sys/class/net/docker0");
    findings.push_back(
        {"forward-policy", Health::warn, "dropped by default: " + list + (docker ? " (Docker sets this)" : ""),
         "packets of pods pass every chain of the hook, whatever another one accepts",
         "nft insert rule " + (dropping[0].find("legacy") == std::string::npos ? dropping[0] : "ip filter FORWARD") +
             " iifname \"pintle*\" accept, and the same with oifname (or: iptables -I FORWARD -i pintle+ -j ACCEPT, -o "
             "pintle+)"});
  }
  if (host.exists("/run/firewalld") || host.exists("/var/run/firewalld.pid")) {
    findings.push_back({"firewalld", Health::warn, "runs",
                        "it rejects forwarded packets of interfaces that are in no zone of it",
                        "firewall-cmd --permanent --zone=trusted --add-interface=pintle0 && firewall-cmd --reload"});
  }
  if (host.read("/etc/ufw/ufw.conf").value_or("").find("ENABLED=yes") != std::string::npos) {
    findings.push_back({"ufw", Health::warn, "is enabled", "its forward policy is to drop",
                        "ufw route allow in on pintle0 && ufw route allow out on pintle0"});
  }
  return findings;
}

Finding bridge_nf_finding(const Host& host) {
  const std::optional<std::string> value = host.read("/proc/sys/net/bridge/bridge-nf-call-iptables");
  if (!value || *value == "0") {
    return {"bridge-nf", Health::ok,
            value ? "bridged packets do not pass the firewall's IP chains" : "br_netfilter is not loaded", "", ""};
  }
  return {"bridge-nf", Health::warn, "net.bridge.bridge-nf-call-iptables is 1",
          "packets between pods of this node pass the host's IP firewall too, where a policy may drop them",
          "nothing, unless pods cannot reach each other; then: sysctl -w net.bridge.bridge-nf-call-iptables=0"};
}

std::vector<Finding> neighbour_findings(const Host& host) {
  std::vector<Finding> findings;
  std::string configs;
  for (const std::string& name : host.list("/etc/cni/net.d")) configs += (configs.empty() ? "" : ", ") + name;
  if (!configs.empty()) {
    findings.push_back({"cni", Health::warn, "/etc/cni/net.d has " + configs,
                        "another container engine configures networks on this host",
                        "nothing, unless its networks overlap with Pintle's"});
  }
  std::string links;
  for (const std::string& name : host.list("/sys/class/net")) {
    for (const char* prefix : {"cni", "flannel", "cali", "cilium", "weave", "kube-", "antrea"}) {
      if (name.starts_with(prefix)) links += (links.empty() ? "" : ", ") + name;
    }
  }
  if (!links.empty()) {
    findings.push_back({"pod-networks", Health::warn, "links of another pod network: " + links,
                        "it may have routes and rules for the same addresses",
                        "remove it, or give Pintle's network another podCIDR"});
  }
  return findings;
}

// Networks of the running profile against the addresses that other links have.
std::vector<Finding> overlap_findings(const PodNetworks& pods) {
  std::vector<Finding> findings;
  ifaddrs* addresses = nullptr;
  if (pods.networks.empty() || getifaddrs(&addresses) != 0) return findings;
  std::set<std::string> overlaps;
  for (const ifaddrs* one = addresses; one != nullptr; one = one->ifa_next) {
    // A link that the config names is the network plugin's own bridge.
    if (one->ifa_addr == nullptr || pods.names.contains(one->ifa_name)) continue;
    for (const std::string& network : pods.networks) {
      if (contains(*parse_network(network), one->ifa_addr))
        overlaps.insert(std::string(one->ifa_name) + " has an address in " + network);
    }
  }
  freeifaddrs(addresses);
  for (const std::string& overlap : overlaps) {
    findings.push_back({"overlap", Health::fail, overlap,
                        "packets for pods would leave by that link, or the other way round",
                        "give the network plugin another network in the profile (config of network-bridge)"});
  }
  if (overlaps.empty())
    findings.push_back({"overlap", Health::ok, "no other link has an address of the pods' networks", "", ""});
  return findings;
}

// A running network plugin turns forwarding on, so it only matters while one runs with networks of that family.
Finding forward_finding(const Host& host, const PodNetworks& pods, const std::string& name, const std::string& key,
                        bool needed) {
  const std::string value = host.read("/proc/sys/" + key).value_or("absent");
  std::string dotted = key;
  std::replace(dotted.begin(), dotted.end(), '/', '.');
  if (value == "1") return {name, Health::ok, dotted + " is 1", "", ""};
  if (!pods.known)
    return {name, Health::ok, dotted + " is " + value + "; network-bridge turns it on when it runs", "", ""};
  if (!needed) return {name, Health::ok, dotted + " is " + value + "; no pod network of that family", "", ""};
  return {
      name, Health::warn, dotted + " is " + value + ", though pods have networks of that family",
      "pods cannot reach anything beyond the node",
      "sysctl -w " + dotted +
          "=1, and find what turns it off (grep -r forward /etc/sysctl.d); or: pintle plugin restart network-bridge"};
}

Finding resolver_finding(const Host& host) {
  std::istringstream lines(host.read("/etc/resolv.conf").value_or(""));
  size_t servers = 0, local = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string keyword, server;
    if (!(words >> keyword >> server) || keyword != "nameserver") continue;
    ++servers;
    if (server.starts_with("127.") || server == "::1") ++local;
  }
  if (servers == 0)
    return {"dns", Health::warn, "/etc/resolv.conf names no server", "pods get the node's name servers",
            "name one in /etc/resolv.conf"};
  if (local == servers) {
    return {"dns", Health::warn, "all name servers of /etc/resolv.conf are on loopback addresses",
            "a pod with a network of its own cannot reach them",
            host.exists("/run/systemd/resolve/resolv.conf")
                ? "link /etc/resolv.conf to /run/systemd/resolve/resolv.conf"
                : "name one that can be reached from outside"};
  }
  return {"dns", Health::ok, std::to_string(servers) + " name servers", "", ""};
}

}  // namespace

std::vector<Finding> check_network(const Host& host) {
  const PodNetworks pods = pod_networks(host);
  std::vector<Finding> findings = {
      forward_finding(host, pods, "ip-forward", "net/ipv4/ip_forward", pods.has_family(AF_INET)),
      forward_finding(host, pods, "ip6-forward", "net/ipv6/conf/all/forwarding", pods.has_family(AF_INET6)),
      bridge_nf_finding(host)};
  for (const auto& group : {firewall_findings(host), neighbour_findings(host), overlap_findings(pods)}) {
    findings.insert(findings.end(), group.begin(), group.end());
  }
  findings.push_back(resolver_finding(host));
  return findings;
}

}  // namespace pintle::cli
