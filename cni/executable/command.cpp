#include "cni/executable/command.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <iostream>

#include "cni/bridge/bridge_network.hpp"
#include "cni/protocol.hpp"

namespace pintle::cni::executable {
namespace {

namespace json = boost::json;
using bridge::BridgeNetwork;
using bridge::HostPort;

constexpr std::string_view kDataDirectory = "/var/lib/pintle";
constexpr std::array<std::string_view, 5> kBridgeKeys = {"bridge", "podCIDR", "mtu", "masquerade", "hairpin"};
constexpr std::array<std::string_view, 14> kOtherKeys = {
    "cniVersion", "cniVersions", "name",    "type",         "args",      "capabilities", "runtimeConfig",
    "prevResult", "dns",         "dataDir", "disableCheck", "disableGC", "ipam",         "loadOnlyInlinedPlugins"};

/// A failure with the specification's code.
struct Failure {
  Error error;
};
Failure failure(ErrorCode code, std::string message) {
  return {{.code = code, .message = std::move(message), .details = {}}};
}

struct Network {
  std::string name, version;
  std::string state, shared;
  bridge::Config config;
  std::vector<HostPort> ports;
  ResultDns dns;
  std::vector<netlink::IpPrefix> previous;                 // addresses of prevResult
  std::vector<std::pair<std::string, std::string>> valid;  // for GC
};

// ---- Reading what is asked ----------------------------------------------------------------------------------------------------

std::string text_under(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (!value) return {};
  if (!value->is_string()) throw failure(ErrorCode::invalid_config, "'" + std::string(key) + "': a text is expected");
  return std::string(value->get_string());
}

void check(const Status& status, ErrorCode code) {
  if (!status) throw failure(code, status.message());
}

uint16_t port_under(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  boost::system::error_code error;
  const auto number = value ? value->to_number<uint16_t>(error) : uint16_t{0};
  if (!value || error)
    throw failure(ErrorCode::invalid_config, "portMappings: '" + std::string(key) + "' is to be a port");
  return number;
}

std::vector<HostPort> port_mappings(const json::value& value) {
  if (value.is_null()) return {};
  if (!value.is_array()) throw failure(ErrorCode::invalid_config, "portMappings: a list is expected");
  std::vector<HostPort> ports;
  for (const json::value& item : value.get_array()) {
    if (!item.is_object()) throw failure(ErrorCode::invalid_config, "portMappings: a list of objects is expected");
    const json::object& object = item.get_object();
    HostPort port{.protocol = 0,
                  .host_ip = {},
                  .host_port = port_under(object, "hostPort"),
                  .pod_port = port_under(object, "containerPort")};
    const std::string protocol = text_under(object, "protocol");
    const Result<uint8_t> number = bridge::parse_protocol(protocol.empty() ? "tcp" : protocol);
    check(number.status(), ErrorCode::invalid_config);
    port.protocol = *number;
    if (const std::string host_ip = text_under(object, "hostIP"); !host_ip.empty()) {
      const Result<netlink::IpAddress> address = netlink::IpAddress::parse(host_ip);
      check(address.status().with_context("portMappings, hostIP"), ErrorCode::invalid_config);
      port.host_ip = *address;
    }
    if (port.host_port != 0) ports.push_back(port);
  }
  return ports;
}

void read_runtime_config(const json::object& object, Network& network) {
  const json::value* value = object.if_contains("runtimeConfig");
  if (!value || value->is_null()) return;
  if (!value->is_object()) throw failure(ErrorCode::invalid_config, "runtimeConfig: an object is expected");
  for (const auto& [key, item] : value->get_object()) {
    if (key != "portMappings") {
      throw failure(ErrorCode::unsupported_field,
                    "runtimeConfig: '" + std::string(key) + "' is not supported; take it out of 'capabilities'");
    }
    network.ports = port_mappings(item);
  }
}

void read_valid_attachments(const json::object& object, Network& network) {
  const json::value* value = object.if_contains("cni.dev/valid-attachments");
  if (!value || value->is_null()) return;
  if (!value->is_array()) throw failure(ErrorCode::invalid_config, "cni.dev/valid-attachments: a list is expected");
  for (const json::value& item : value->get_array()) {
    if (!item.is_object())
      throw failure(ErrorCode::invalid_config, "cni.dev/valid-attachments: a list of objects is expected");
    network.valid.emplace_back(text_under(item.get_object(), "containerID"), text_under(item.get_object(), "ifname"));
  }
}

void read_previous(const json::object& object, bool is_add, Network& network) {
  const json::value* value = object.if_contains("prevResult");
  if (!value || value->is_null()) return;
  if (is_add) {
    throw failure(ErrorCode::invalid_config,
                  "pintle-cni makes the pod's interface: it is to be the first plugin of the list");
  }
  const Result<AddResult> previous = parse_add_result(*value);
  check(previous.status().with_context("prevResult"), ErrorCode::undecodable);
  for (const ResultIp& ip : previous->ips) network.previous.push_back(ip.address);
}

/// The part of the configuration that network-bridge has as well, without the rest.
bridge::Config read_bridge_config(const json::object& object) {
  json::object config;
  for (const auto& [key, value] : object) {
    if (std::ranges::find(kBridgeKeys, std::string_view(key)) != kBridgeKeys.end()) {
      config.insert_or_assign(key, value);
    } else if (std::ranges::find(kOtherKeys, std::string_view(key)) == kOtherKeys.end() &&
               !key.starts_with("cni.dev/")) {
      throw failure(ErrorCode::unsupported_field,
                    "unknown key '" + std::string(key) +
                        "'; pintle-cni has bridge, podCIDR, mtu, masquerade, hairpin and dataDir");
    }
  }
  const json::value* ipam = object.if_contains("ipam");
  if (ipam && !(ipam->is_object() && ipam->get_object().empty())) {
    throw failure(ErrorCode::unsupported_field,
                  "'ipam' is not supported: pintle-cni gives addresses of podCIDR itself");
  }
  const Result<bridge::Config> parsed = bridge::parse_config(json::serialize(config));
  check(parsed.status(), ErrorCode::invalid_config);
  return *parsed;
}

Network read_network(const json::object& object, const Invocation& invocation) {
  Network network;
  network.version = text_under(object, "cniVersion");
  if (!is_version(network.version)) {
    throw failure(ErrorCode::incompatible_version,
                  "cniVersion '" + network.version.substr(0, 40) + "': 0.3.1, 0.4.0, 1.0.0 or 1.1.0 is expected");
  }
  network.name = text_under(object, "name");
  check(check_name("name of the network", network.name), ErrorCode::invalid_config);
  network.config = read_bridge_config(object);
  std::string data = text_under(object, "dataDir");
  if (data.empty()) data = kDataDirectory;
  if (data.front() != '/')
    throw failure(ErrorCode::invalid_config, "dataDir '" + data + "': an absolute path is expected");
  network.state = data + "/cni/" + network.name;
  network.shared = data + "/shared/network-bridge";
  read_runtime_config(object, network);
  read_valid_attachments(object, network);
  read_previous(object, invocation.command == "ADD", network);
  if (const json::value* dns = object.if_contains("dns")) {
    const Result<AddResult> parsed = parse_add_result(json::object{{"dns", *dns}});
    check(parsed.status(), ErrorCode::invalid_config);
    network.dns = parsed->dns;
  }
  return network;
}

/// Arguments that we do not know are an error unless the engine says that they may be ignored.
void check_arguments(const std::string& text) {
  const auto arguments = parse_arguments(text);
  check(arguments.status(), ErrorCode::invalid_environment);
  std::string unknown;
  for (const auto& [key, value] : *arguments) {
    const bool is_true =
        value == "1" || value == "true" || value == "TRUE" || value == "True" || value == "t" || value == "T";
    if (key == "IgnoreUnknown" && is_true) return;
    if (key != "IgnoreUnknown" && !key.starts_with("K8S_POD_") && unknown.empty()) unknown = key;
  }
  if (!unknown.empty()) {
    throw failure(ErrorCode::invalid_environment,
                  "CNI_ARGS: unknown argument '" + unknown + "'; add IgnoreUnknown=1 to have it ignored");
  }
}

void need(std::string_view name, const std::string& value) {
  if (value.empty()) throw failure(ErrorCode::invalid_environment, std::string(name) + " is not set");
}

// ---- Doing it -----------------------------------------------------------------------------------------------------------------

/// Tells a later command that this one was killed.
class Unfinished {
 public:
  explicit Unfinished(const std::string& state) : path_(state + "/unfinished") {
    was_there_ = access(path_.c_str(), F_OK) == 0;
    const int fd = open(path_.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
  }
  bool was_there() const { return was_there_; }
  void done() { unlink(path_.c_str()); }

 private:
  std::string path_;
  bool was_there_;
};

/// Only failures that the command goes on after: an engine shows standard error of plugins to nobody but the curious.
void tell(const std::string& line) { std::cerr << "pintle-cni: " << line << "\n"; }

std::unique_ptr<BridgeNetwork> open_network(const Network& network) {
  auto opened = BridgeNetwork::create(network.config, "cni-" + network.name,
                                      {.state = network.state, .shared = network.shared}, tell);
  if (!opened) throw Failure{error_of(opened.status())};
  return std::move(*opened);
}

/// Runs what changes something: alone, after what an earlier command left half done, and leaving the node as it was when nothing is
/// attached any more.
template <class Action>
void change(const Network& network, const Action& action) {
  check(files::make_folders(network.state), ErrorCode::io_failure);
  const Result<files::Descriptor> folder = files::open_folder(network.state);
  check(folder.status(), ErrorCode::io_failure);
  const Result<files::Lock> lock = files::Lock::acquire(folder->get(), "lock", files::Lock::Kind::exclusive);
  check(lock.status(), ErrorCode::io_failure);
  Unfinished unfinished(network.state);
  const std::unique_ptr<BridgeNetwork> bridge = open_network(network);
  Status status = unfinished.was_there() ? failed_precondition("") : bridge->resume();
  if (!status) status = bridge->start();
  if (status) status = action(*bridge);
  bridge->reap();
  const Status stopped = bridge->stop();
  if (status) status = stopped;
  if (!status) throw Failure{error_of(status)};
  unfinished.done();
}

std::string add(const Network& network, const Invocation& invocation) {
  std::optional<bridge::Attachment> attached;
  change(network, [&](BridgeNetwork& bridge) {
    Result<bridge::Attachment> attachment = bridge.attach({.sandbox = invocation.container,
                                                           .interface = invocation.interface,
                                                           .name_space = invocation.name_space,
                                                           .ports = network.ports});
    if (attachment) attached = std::move(*attachment);
    return attachment.status();
  });
  AddResult result = attached->result();
  result.dns = network.dns;
  return json::serialize(to_json(result, network.version)) + "\n";
}

/// Then DEL and GC have nothing to do, and do not touch the machine.
bool is_empty(const Network& network) {
  return access((network.state + "/unfinished").c_str(), F_OK) != 0 &&
         bridge::Records::peek(bridge::records_folder(network.state)).empty();
}

void remove(const Network& network, const Invocation& invocation) {
  if (is_empty(network)) return;
  change(network, [&](BridgeNetwork& bridge) { return bridge.detach(invocation.container, invocation.interface); });
}

void collect(const Network& network) {
  if (is_empty(network)) return;
  change(network, [&](BridgeNetwork& bridge) {
    Status result;
    for (const bridge::Attachment& attachment : bridge.list()) {
      const std::pair named(attachment.sandbox, attachment.interface);
      if (std::ranges::find(network.valid, named) != network.valid.end()) continue;
      const Status status = bridge.detach(attachment.sandbox, attachment.interface);
      if (result) result = status;
    }
    return result;
  });
}

void inspect(const Network& network, const Invocation& invocation) {
  const std::unique_ptr<BridgeNetwork> bridge = open_network(network);
  Status status = bridge->look();
  if (status) status = bridge->check(invocation.container, invocation.name_space);
  if (!status) throw Failure{error_of(status)};
  for (const bridge::Attachment& attachment : bridge->list()) {
    if (attachment.sandbox != invocation.container || attachment.interface != invocation.interface) continue;
    for (const ResultIp& ip : attachment.ips) {
      if (std::ranges::find(network.previous, ip.address) != network.previous.end()) continue;
      throw failure(ErrorCode::plugin_specific, "address " + ip.address.to_string() + " is not in prevResult");
    }
  }
}

void ask_status(const Network& network) {
  const std::unique_ptr<BridgeNetwork> bridge = open_network(network);
  if (const Status status = bridge->look(); !status) throw failure(ErrorCode::not_available, status.message());
}

std::string versions(const json::object& object) {
  const json::value* version = object.if_contains("cniVersion");
  const bool known = version && version->is_string() && is_version(version->get_string());
  json::array supported;
  for (const std::string_view each : kVersions) supported.emplace_back(each);
  return json::serialize(
             json::object{{"cniVersion", known ? std::string(version->get_string()) : std::string(kNewestVersion)},
                          {"supportedVersions", std::move(supported)}}) +
         "\n";
}

std::string obey(const Invocation& invocation, std::string& version) {
  if (invocation.command.empty()) {
    throw failure(ErrorCode::invalid_environment,
                  "CNI_COMMAND is not set: pintle-cni is started by container engines; see its documentation");
  }
  const Result<json::object> object = parse_object("network configuration on standard input", invocation.input);
  if (invocation.command == "VERSION") return versions(object ? *object : json::object());
  check(object.status(), ErrorCode::undecodable);
  if (const json::value* said = object->if_contains("cniVersion");
      said && said->is_string() && is_version(said->get_string())) {
    version = said->get_string();
  }
  const Network network = read_network(*object, invocation);
  const bool is_about_pod = invocation.command == "ADD" || invocation.command == "DEL" || invocation.command == "CHECK";
  if (is_about_pod) {
    need("CNI_CONTAINERID", invocation.container);
    need("CNI_IFNAME", invocation.interface);
    check(check_name("CNI_CONTAINERID", invocation.container), ErrorCode::invalid_environment);
    check(netlink::check_link_name(invocation.interface).with_context("CNI_IFNAME"), ErrorCode::invalid_environment);
    check_arguments(invocation.arguments);
  }
  const auto since = [&](std::string_view first) {
    if (is_at_least(version, first)) return;
    throw failure(ErrorCode::incompatible_version,
                  invocation.command + " exists since version " + std::string(first) + " of the specification");
  };
  if (invocation.command == "ADD") {
    need("CNI_NETNS", invocation.name_space);
    return add(network, invocation);
  }
  if (invocation.command == "DEL") {
    remove(network, invocation);
  } else if (invocation.command == "CHECK") {
    since("0.4.0");
    need("CNI_NETNS", invocation.name_space);
    inspect(network, invocation);
  } else if (invocation.command == "GC") {
    since("1.1.0");
    collect(network);
  } else if (invocation.command == "STATUS") {
    since("1.1.0");
    ask_status(network);
  } else {
    throw failure(ErrorCode::invalid_environment, "CNI_COMMAND '" + invocation.command.substr(0, 40) +
                                                      "': ADD, DEL, CHECK, GC, STATUS or VERSION is expected");
  }
  return {};
}

}  // namespace

Answer run(const Invocation& invocation) {
  std::string version(kNewestVersion);
  try {
    return {.exit_code = 0, .output = obey(invocation, version)};
  } catch (const Failure& failed) {
    return {.exit_code = 1, .output = json::serialize(to_json(failed.error, version)) + "\n"};
  }
}

}  // namespace pintle::cni::executable
