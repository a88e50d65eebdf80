#include "cni/executable/command.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <iostream>
#include <optional>

#include "cni/bridge/bridge_network.hpp"
#include "cni/protocol.hpp"

namespace pintle::cni::executable {
namespace {

namespace json = boost::json;
using bridge::BridgeNetwork;
using bridge::HostPort;

constexpr std::string_view kDataDirectory = "/var/lib/pintle";
constexpr std::array<std::string_view, 6> kBridgeKeys = {"bridge", "podCIDR", "mtu", "masquerade", "hairpin", "vlan"};
constexpr std::array<std::string_view, 14> kOtherKeys = {
    "cniVersion", "cniVersions", "name",    "type",         "args",      "capabilities", "runtimeConfig",
    "prevResult", "dns",         "dataDir", "disableCheck", "disableGC", "ipam",         "loadOnlyInlinedPlugins"};

/// What went wrong, with the specification's code; nothing if all is well.
using Failure = std::optional<Error>;
Failure failure(ErrorCode code, std::string message) {
  return Error{.code = code, .message = std::move(message), .details = {}};
}
Failure unless_ok(const Status& status, ErrorCode code) { return status ? Failure() : failure(code, status.message()); }
Failure failure_of(const Status& status) { return status ? Failure() : Failure(error_of(status)); }

struct Network {
  std::string name, version;
  std::string state, shared;
  bridge::Config config;
  std::vector<HostPort> ports;
  ResultDns dns;
  std::vector<netlink::IpPrefix> previous;                 // addresses of prevResult
  std::vector<std::pair<std::string, std::string>> valid;  // for GC: container and interface
};

// ---- Reading what is asked ----------------------------------------------------------------------------------------------------

/// An absent text is empty.
Failure read_text(const json::object& object, std::string_view key, std::string& text) {
  const json::value* value = object.if_contains(key);
  if (!value) return {};
  if (!value->is_string()) return failure(ErrorCode::invalid_config, "'" + std::string(key) + "': a text is expected");
  text = value->get_string();
  return {};
}

/// The objects of a list, each by a reader of its own; an absent list is empty.
template <class Reader>
Failure read_objects(const json::value* value, const std::string& what, const Reader& reader) {
  if (!value || value->is_null()) return {};
  if (!value->is_array()) return failure(ErrorCode::invalid_config, what + ": a list is expected");
  for (const json::value& item : value->get_array()) {
    if (!item.is_object()) return failure(ErrorCode::invalid_config, what + ": a list of objects is expected");
    if (Failure failed = reader(item.get_object())) return failed;
  }
  return {};
}

Failure read_port(const json::object& object, std::string_view key, uint16_t& port) {
  const json::value* value = object.if_contains(key);
  boost::system::error_code error;
  if (value) port = value->to_number<uint16_t>(error);
  if (value && !error) return {};
  return failure(ErrorCode::invalid_config,
                 "portMappings, '" + std::string(key) + "': a number from 0 to 65535 is expected");
}

/// containerd writes "HostPort" where the specification has "hostPort", which plugins in Go do not tell apart.
json::object with_small_initials(const json::object& object) {
  json::object result;
  for (const auto& [key, value] : object) {
    std::string name(key);
    if (name == "HostIP" || name == "HostPort" || name == "ContainerPort" || name == "Protocol") {
      name[0] = static_cast<char>(name[0] - 'A' + 'a');
    }
    result.insert_or_assign(name, value);
  }
  return result;
}

Failure read_port_mapping(const json::object& mapping, std::vector<HostPort>& ports) {
  const json::object object = with_small_initials(mapping);
  HostPort port;
  std::string protocol, host_ip;
  if (Failure failed = read_port(object, "hostPort", port.host_port)) return failed;
  if (Failure failed = read_port(object, "containerPort", port.pod_port)) return failed;
  if (Failure failed = read_text(object, "protocol", protocol)) return failed;
  if (Failure failed = read_text(object, "hostIP", host_ip)) return failed;
  const Result<uint8_t> number = bridge::parse_protocol(protocol.empty() ? "tcp" : protocol);
  if (!number) return failure(ErrorCode::invalid_config, "portMappings, " + number.status().message());
  port.protocol = *number;
  if (!host_ip.empty()) {
    const Result<netlink::IpAddress> address = netlink::IpAddress::parse(host_ip);
    if (!address) return failure(ErrorCode::invalid_config, "portMappings, 'hostIP': " + address.status().message());
    port.host_ip = *address;
  }
  if (port.host_port != 0) ports.push_back(port);
  return {};
}

Failure read_runtime_config(const json::object& object, Network& network) {
  const json::value* value = object.if_contains("runtimeConfig");
  if (!value || value->is_null()) return {};
  if (!value->is_object()) return failure(ErrorCode::invalid_config, "runtimeConfig: an object is expected");
  for (const auto& [key, item] : value->get_object()) {
    if (key != "portMappings") {
      return failure(ErrorCode::unsupported_field,
                     "runtimeConfig: '" + std::string(key) + "' is not supported; take it out of 'capabilities'");
    }
    const auto read = [&](const json::object& mapping) { return read_port_mapping(mapping, network.ports); };
    if (Failure failed = read_objects(&item, "portMappings", read)) return failed;
  }
  return {};
}

Failure read_valid_attachments(const json::object& object, Network& network) {
  constexpr const char* kKey = "cni.dev/valid-attachments";
  return read_objects(object.if_contains(kKey), kKey, [&](const json::object& item) {
    std::string container, interface;
    if (Failure failed = read_text(item, "containerID", container)) return failed;
    if (Failure failed = read_text(item, "ifname", interface)) return failed;
    network.valid.emplace_back(std::move(container), std::move(interface));
    return Failure();
  });
}

Failure read_previous(const json::object& object, bool is_add, Network& network) {
  const json::value* value = object.if_contains("prevResult");
  if (!value || value->is_null()) return {};
  if (is_add) {
    return failure(ErrorCode::invalid_config,
                   "pintle-cni makes the pod's interface: it is to be the first plugin of the list");
  }
  const Result<AddResult> previous = parse_add_result(*value);
  if (!previous) return failure(ErrorCode::undecodable, "prevResult: " + previous.status().message());
  for (const ResultIp& ip : previous->ips) network.previous.push_back(ip.address);
  return {};
}

/// The part of the configuration that network-bridge has as well, without the rest.
Failure read_bridge_config(const json::object& object, Network& network) {
  json::object config;
  for (const auto& [key, value] : object) {
    if (std::ranges::find(kBridgeKeys, std::string_view(key)) != kBridgeKeys.end()) {
      config.insert_or_assign(key, value);
    } else if (std::ranges::find(kOtherKeys, std::string_view(key)) == kOtherKeys.end() &&
               !key.starts_with("cni.dev/")) {
      return failure(ErrorCode::unsupported_field,
                     "unknown key '" + std::string(key) +
                         "'; pintle-cni has bridge, podCIDR, mtu, masquerade, hairpin, vlan and dataDir");
    }
  }
  const json::value* ipam = object.if_contains("ipam");
  if (ipam && !(ipam->is_object() && ipam->get_object().empty())) {
    return failure(ErrorCode::unsupported_field,
                   "'ipam' is not supported: pintle-cni gives addresses of podCIDR itself");
  }
  const Result<bridge::Config> parsed = bridge::parse_config(json::serialize(config));
  if (!parsed) return failure(ErrorCode::invalid_config, parsed.status().message());
  network.config = *parsed;
  return {};
}

Failure read_folders(const json::object& object, Network& network) {
  std::string data;
  if (Failure failed = read_text(object, "dataDir", data)) return failed;
  if (data.empty()) data = kDataDirectory;
  if (data.front() != '/')
    return failure(ErrorCode::invalid_config, "dataDir '" + data + "': an absolute path is expected");
  network.state = data + "/cni/" + network.name;
  network.shared = data + "/shared/network-bridge";
  return {};
}

Failure read_network(const json::object& object, bool is_add, Network& network) {
  if (Failure failed = read_text(object, "cniVersion", network.version)) return failed;
  if (!is_version(network.version)) {
    return failure(ErrorCode::incompatible_version,
                   "cniVersion '" + network.version.substr(0, 40) + "': 0.3.1, 0.4.0, 1.0.0 or 1.1.0 is expected");
  }
  if (Failure failed = read_text(object, "name", network.name)) return failed;
  if (Failure failed = unless_ok(check_name("name of the network", network.name), ErrorCode::invalid_config))
    return failed;
  if (Failure failed = read_bridge_config(object, network)) return failed;
  if (Failure failed = read_folders(object, network)) return failed;
  if (Failure failed = read_runtime_config(object, network)) return failed;
  if (Failure failed = read_valid_attachments(object, network)) return failed;
  if (Failure failed = read_previous(object, is_add, network)) return failed;
  const json::value* dns = object.if_contains("dns");
  if (!dns) return {};
  const Result<AddResult> parsed = parse_add_result(json::object{{"dns", *dns}});
  if (!parsed) return failure(ErrorCode::invalid_config, parsed.status().message());
  network.dns = parsed->dns;
  return {};
}

/// Arguments that we do not know are an error unless the engine says that they may be ignored.
Failure check_arguments(const std::string& text) {
  const auto arguments = parse_arguments(text);
  if (!arguments) return failure(ErrorCode::invalid_environment, arguments.status().message());
  std::string unknown;
  for (const auto& [key, value] : *arguments) {
    const bool is_true =
        value == "1" || value == "true" || value == "TRUE" || value == "True" || value == "t" || value == "T";
    if (key == "IgnoreUnknown" && is_true) return {};
    if (key != "IgnoreUnknown" && !key.starts_with("K8S_POD_") && unknown.empty()) unknown = key;
  }
  if (unknown.empty()) return {};
  return failure(ErrorCode::invalid_environment,
                 "CNI_ARGS: unknown argument '" + unknown + "'; add IgnoreUnknown=1 to have it ignored");
}

Failure check_pod(const Invocation& invocation, bool needs_name_space) {
  const std::pair<const char*, bool> missing[] = {{"CNI_CONTAINERID", invocation.container.empty()},
                                                  {"CNI_IFNAME", invocation.interface.empty()},
                                                  {"CNI_NETNS", needs_name_space && invocation.name_space.empty()}};
  for (const auto& [name, is_missing] : missing) {
    if (is_missing) return failure(ErrorCode::invalid_environment, std::string(name) + " is not set");
  }
  Status status = check_name("CNI_CONTAINERID", invocation.container);
  if (status) status = netlink::check_link_name(invocation.interface).with_context("CNI_IFNAME");
  if (!status) return failure(ErrorCode::invalid_environment, status.message());
  return check_arguments(invocation.arguments);
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

/// An engine shows standard error of plugins to nobody but the curious.
void tell(const std::string& line) { std::cerr << "pintle-cni: " << line << "\n"; }

Result<std::unique_ptr<BridgeNetwork>> open_network(const Network& network) {
  return BridgeNetwork::create(network.config, "cni-" + network.name,
                               {.state = network.state, .shared = network.shared}, tell);
}

/// Runs what changes something: alone, after what an earlier command left half done, and leaving the node as it was when nothing is
/// attached any more.
template <class Action>
Failure change(const Network& network, const Action& action) {
  if (Failure failed = unless_ok(files::make_folders(network.state), ErrorCode::io_failure)) return failed;
  const Result<files::Descriptor> folder = files::open_folder(network.state);
  if (!folder) return failure(ErrorCode::io_failure, folder.status().message());
  const Result<files::Lock> lock = files::Lock::acquire(folder->get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return failure(ErrorCode::io_failure, lock.status().message());
  Unfinished unfinished(network.state);
  const Result<std::unique_ptr<BridgeNetwork>> opened = open_network(network);
  if (!opened) return failure_of(opened.status());
  BridgeNetwork& bridge = **opened;
  Status status = unfinished.was_there() ? failed_precondition("an earlier command was killed") : bridge.resume();
  bool is_refused = false;
  if (!status) {
    status = bridge.start();
    // A configuration that this node cannot have leaves nothing to be finished.
    is_refused = !status && !unfinished.was_there();
  }
  if (status) status = action(bridge);
  bridge.reap();
  const Status stopped = bridge.stop();
  if (status) status = stopped;
  if (status || (is_refused && stopped)) unfinished.done();
  return failure_of(status);
}

Failure add(const Network& network, const Invocation& invocation, std::string& output) {
  AddResult result;
  Failure failed = change(network, [&](BridgeNetwork& bridge) {
    Result<bridge::Attachment> attachment = bridge.attach({.sandbox = invocation.container,
                                                           .interface = invocation.interface,
                                                           .name_space = invocation.name_space,
                                                           .ports = network.ports});
    if (attachment) result = attachment->result();
    return attachment.status();
  });
  if (failed) return failed;
  result.dns = network.dns;
  output = json::serialize(to_json(result, network.version)) + "\n";
  return {};
}

/// Then DEL and GC have nothing to do, and do not touch the machine.
bool is_empty(const Network& network) {
  return access((network.state + "/unfinished").c_str(), F_OK) != 0 &&
         bridge::Records::peek(bridge::records_folder(network.state)).empty();
}

Failure remove(const Network& network, const Invocation& invocation) {
  if (is_empty(network)) return {};
  return change(network,
                [&](BridgeNetwork& bridge) { return bridge.detach(invocation.container, invocation.interface); });
}

Failure collect(const Network& network) {
  if (is_empty(network)) return {};
  return change(network, [&](BridgeNetwork& bridge) {
    Status result;
    for (const bridge::Attachment& attachment : bridge.list()) {
      const std::pair named(attachment.sandbox, attachment.interface);
      if (std::ranges::find(network.valid, named) != network.valid.end()) continue;
      Status status = bridge.detach(attachment.sandbox, attachment.interface);
      if (result) result = std::move(status);
    }
    return result;
  });
}

Failure inspect(const Network& network, const Invocation& invocation) {
  const Result<std::unique_ptr<BridgeNetwork>> bridge = open_network(network);
  Status status = bridge ? (*bridge)->look() : bridge.status();
  if (status) status = (*bridge)->check(invocation.container, invocation.name_space);
  if (!status) return failure_of(status);
  for (const bridge::Attachment& attachment : (*bridge)->list()) {
    if (attachment.sandbox != invocation.container || attachment.interface != invocation.interface) continue;
    for (const ResultIp& ip : attachment.ips) {
      if (std::ranges::find(network.previous, ip.address) != network.previous.end()) continue;
      return failure(ErrorCode::plugin_specific, "address " + ip.address.to_string() + " is not in prevResult");
    }
  }
  return {};
}

Failure ask_status(const Network& network) {
  const Result<std::unique_ptr<BridgeNetwork>> bridge = open_network(network);
  Status status = bridge ? (*bridge)->look() : bridge.status();
  if (status) status = (*bridge)->check_abilities();
  return unless_ok(status, ErrorCode::not_available);
}

std::string versions(const std::string& version) {
  json::array supported;
  for (const std::string_view each : kVersions) supported.emplace_back(each);
  return json::serialize(json::object{{"cniVersion", version}, {"supportedVersions", std::move(supported)}}) + "\n";
}

struct Command {
  std::string_view name;
  std::string_view since;  ///< version of the specification
  bool is_about_pod;
  bool needs_name_space;
};
constexpr std::array<Command, 5> kCommands = {{{"ADD", "0.3.1", true, true},
                                               {"DEL", "0.3.1", true, false},
                                               {"CHECK", "0.4.0", true, true},
                                               {"GC", "1.1.0", false, false},
                                               {"STATUS", "1.1.0", false, false}}};

/// `version`: of the configuration as soon as it is known; an error is written in it.
Failure obey(const Invocation& invocation, std::string& version, std::string& output) {
  if (invocation.command.empty()) {
    return failure(ErrorCode::invalid_environment,
                   "CNI_COMMAND is not set: pintle-cni is started by container engines; see its documentation");
  }
  const Result<json::object> object = parse_object("network configuration on standard input", invocation.input);
  const json::value* said = object ? object->if_contains("cniVersion") : nullptr;
  if (said && said->is_string() && is_version(said->get_string())) version = said->get_string();
  if (invocation.command == "VERSION") {
    output = versions(version);
    return {};
  }
  if (!object) return failure(ErrorCode::undecodable, object.status().message());
  const auto command = std::ranges::find(kCommands, invocation.command, &Command::name);
  if (command == kCommands.end()) {
    return failure(ErrorCode::invalid_environment, "CNI_COMMAND '" + invocation.command.substr(0, 40) +
                                                       "': ADD, DEL, CHECK, GC, STATUS or VERSION is expected");
  }
  Network network;
  if (Failure failed = read_network(*object, command->name == "ADD", network)) return failed;
  if (!is_at_least(version, command->since)) {
    return failure(ErrorCode::incompatible_version, invocation.command + " exists since version " +
                                                        std::string(command->since) + " of the specification");
  }
  if (command->is_about_pod) {
    if (Failure failed = check_pod(invocation, command->needs_name_space)) return failed;
  }
  if (command->name == "ADD") return add(network, invocation, output);
  if (command->name == "DEL") return remove(network, invocation);
  if (command->name == "CHECK") return inspect(network, invocation);
  if (command->name == "GC") return collect(network);
  return ask_status(network);
}

}  // namespace

Answer run(const Invocation& invocation) {
  std::string version(kNewestVersion);
  Answer answer;
  if (const Failure failed = obey(invocation, version, answer.output)) {
    answer = {.exit_code = 1, .output = json::serialize(to_json(*failed, version)) + "\n"};
  }
  return answer;
}

}  // namespace pintle::cni::executable
