// network-cni: the messages of PodNetwork to and from the CNI library.
//
// What is attached stands in the library's cache, in the instance's own folder: a list of plugins and a result for each pod. At the start what was
// begun and not finished is removed; what the engine does not know any more goes with its `Collect`.
//
// The folder of configurations is read for each new pod, so an add-on that lays its file down later, or replaces it, needs no restart.

#include <chrono>
#include <map>
#include <pintle/plugin.hpp>
#include <set>

#include "cni/library/network.hpp"
#include "pintle/network.pintle.hpp"
#include "plugins/network-cni/host_runner.hpp"
#include "sdk/support/netlink/links.hpp"
#include "sdk/support/netlink/namespaces.hpp"

namespace {

using namespace pintle;
using namespace std::chrono_literals;
using pintle::network_cni::HostRunner;
namespace api = pintle::network::v1;
namespace json = boost::json;

/// How long a network that is not ready waits for the next look.
constexpr auto kUntilNextLook = 2s;
constexpr auto kBetweenLooks = 30s;
constexpr auto kTurn = 5ms;

struct Config {
  std::string folder = "/etc/cni/net.d";
  std::vector<std::string> binaries = {"/opt/cni/bin", "/usr/lib/cni"};
  std::string network;
  std::chrono::seconds timeout{60};
};

/// The host has checked it against the schema.
Config read_config(std::string_view text) {
  const json::value value = json::parse(text);
  const json::object& object = value.as_object();
  Config config;
  if (const json::value* folder = object.if_contains("confDir")) config.folder = folder->as_string();
  if (const json::value* network = object.if_contains("network")) config.network = network->as_string();
  if (const json::value* seconds = object.if_contains("timeoutSeconds"))
    config.timeout = std::chrono::seconds(seconds->to_number<int64_t>());
  if (const json::value* folders = object.if_contains("binDirs")) {
    config.binaries.clear();
    for (const json::value& item : folders->as_array()) config.binaries.emplace_back(item.as_string());
  }
  return config;
}

/// What stands in CNI_ARGS must not look like another argument.
Status check_argument(const std::string& value) {
  if (value.find_first_of(";\n") == std::string::npos && value.find('\0') == std::string::npos) return Status::ok();
  return invalid_argument("name, namespace or uid of the pod: ';' and line ends are not allowed");
}

Result<cni::Target> target_of(const api::AttachRequest& request) {
  cni::Target target{.container = request.sandbox_id(), .name_space = request.network_namespace()};
  if (!request.interface_name().empty()) target.interface = request.interface_name();
  target.arguments = {{"IgnoreUnknown", "1"},
                      {"K8S_POD_NAMESPACE", request.pod_namespace()},
                      {"K8S_POD_NAME", request.pod_name()},
                      {"K8S_POD_INFRA_CONTAINER_ID", request.sandbox_id()},
                      {"K8S_POD_UID", request.pod_uid()}};
  for (const auto& [key, value] : target.arguments) {
    if (Status status = check_argument(value); !status) return status;
  }
  json::array ports;
  for (const auto& mapping : request.port_mappings()) {
    if (mapping.host_port() == 0) continue;
    const char* protocol = mapping.protocol() == runtime::v1::UDP    ? "udp"
                           : mapping.protocol() == runtime::v1::SCTP ? "sctp"
                                                                     : "tcp";
    json::object port{
        {"hostPort", mapping.host_port()}, {"containerPort", mapping.container_port()}, {"protocol", protocol}};
    if (!mapping.host_ip().empty()) port["hostIP"] = mapping.host_ip();
    ports.push_back(std::move(port));
  }
  if (!ports.empty()) target.capabilities["portMappings"] = std::move(ports);
  if (!request.annotations().empty()) {
    json::object annotations;
    for (const auto& [key, value] : request.annotations()) annotations[key] = value;
    target.capabilities["io.kubernetes.cri.pod-annotations"] = std::move(annotations);
  }
  return target;
}

/// Host ports that no plugin of the list makes are refused, not left out.
Status check_capabilities(const cni::NetworkList& list, const cni::Target& target) {
  if (!target.capabilities.contains("portMappings")) return Status::ok();
  for (const cni::PluginConfig& plugin : list.plugins) {
    if (plugin.capabilities.contains("portMappings")) return Status::ok();
  }
  return failed_precondition("the pod asks for host ports, which CNI network '" + list.name +
                             "' does not have; add the plugin portmap with capability portMappings to it");
}

api::Attachment message_of(const cni::CachedAttachment& attachment) {
  const cni::AddResult& result = *attachment.result;
  api::Attachment message;
  message.set_sandbox_id(attachment.target.container);
  message.set_interface_name(attachment.target.interface);
  message.set_network_namespace(attachment.target.name_space);
  std::optional<size_t> in_pod;
  for (size_t i = 0; i < result.interfaces.size(); ++i) {
    const cni::ResultInterface& interface = result.interfaces[i];
    if (interface.sandbox.empty()) message.set_host_interface(interface.name);
    if (interface.sandbox.empty() || interface.name != attachment.target.interface) continue;
    in_pod = i;
    message.set_hardware_address(netlink::to_string(interface.mac));
    message.set_mtu(interface.mtu);
  }
  for (const cni::ResultIp& ip : result.ips) {
    if (ip.interface && in_pod && *ip.interface != *in_pod) continue;
    api::Address* address = message.add_addresses();
    address->set_address(ip.address.to_string());
    if (ip.gateway) address->set_gateway(ip.gateway->to_string());
  }
  for (const cni::ResultRoute& wanted : result.routes) {
    api::Route* route = message.add_routes();
    route->set_destination(wanted.destination.to_string());
    if (wanted.gateway) route->set_gateway(wanted.gateway->to_string());
  }
  for (const std::string& server : result.dns.nameservers) message.mutable_dns()->add_servers(server);
  for (const std::string& domain : result.dns.search) message.mutable_dns()->add_searches(domain);
  for (const std::string& option : result.dns.options) message.mutable_dns()->add_options(option);
  return message;
}

/// CNI plugins leave loopback to the runtime.
Status bring_loopback_up(const std::string& path) {
  const Result<UniqueFd> name_space = netlink::open_namespace(path);
  if (!name_space) return name_space.status();
  return netlink::run_in_namespace(name_space->get(), [] {
    Result<netlink::Socket> socket = netlink::Socket::open(NETLINK_ROUTE);
    if (!socket) return socket.status();
    netlink::Batch batch;
    change_link(batch, 1, {.up = true});
    return socket->send(batch);
  });
}

class NetworkCni final : public Plugin, public api::PodNetwork {
 public:
  explicit NetworkCni(Host& host)
      : Plugin(host),
        config_(read_config(host.config_json())),
        runner_(host),
        retiring_(host.is_retiring()),
        attached_(host.gauge("pod_network_attached", "Sandboxes that are attached.")),
        attach_seconds_(host.histogram("pod_network_attach_seconds", "Time that attaching a sandbox took.",
                                       {0.005, 0.01, 0.05, 0.1, 0.25, 1, 5, 30})) {
    provide(*this);
  }

  Task<Status> start() override {
    std::vector<std::string> damaged;
    Result<std::vector<cni::CachedAttachment>> cached = network({}).cached(damaged);
    if (!cached) co_return cached.status();
    for (const std::string& file : damaged) host().error("a record was set aside", {{"file", file}});
    for (cni::CachedAttachment& attachment : *cached) {
      std::string sandbox = attachment.target.container;
      attachments_.insert_or_assign(std::move(sandbox), std::move(attachment));
    }
    Task<void> removing = remove_unfinished();
    co_await std::move(removing);
    count();
    Task<void> looking = look();
    co_await std::move(looking);
    host().detach(keep_looking());
    if (retiring_) finish_retiring();
    co_return Status::ok();
  }

  Task<Status> retire() override {
    retiring_ = true;
    finish_retiring();
    co_return Status::ok();
  }

  Task<Status> stop() override {
    stopped_ = true;
    co_return Status::ok();
  }

  Task<Result<api::DescribeResponse>> Describe(Call&, const api::DescribeRequest&) override {
    api::DescribeResponse response;
    response.set_ready(health_.is_ok());
    response.set_message(health_.message());
    response.set_name(std::string(host().name()));
    co_return response;
  }

  Task<Result<api::AttachResponse>> Attach(Call&, const api::AttachRequest& request) override {
    if (retiring_) {
      co_return failed_precondition("instance " + std::string(host().key()) +
                                    " retires and takes no new pods; ask its successor");
    }
    Result<cni::Target> target = target_of(request);
    if (!target) co_return target.status();
    const std::string sandbox = target->container;
    Task<void> entering = enter(sandbox);
    co_await std::move(entering);
    Task<Result<api::AttachResponse>> attaching = attach(std::move(*target));
    Result<api::AttachResponse> response = co_await std::move(attaching);
    busy_.erase(sandbox);
    count();
    co_return response;
  }

  Task<Result<api::DetachResponse>> Detach(Call&, const api::DetachRequest& request) override {
    const std::string sandbox = request.sandbox_id();
    Task<Status> detaching = detach(sandbox);
    const Status status = co_await std::move(detaching);
    finish_retiring();
    if (!status) co_return status;
    co_return api::DetachResponse();
  }

  Task<Result<api::CheckResponse>> Check(Call&, const api::CheckRequest& request) override {
    const auto found = attachments_.find(request.sandbox_id());
    if (found == attachments_.end()) co_return not_found("sandbox " + request.sandbox_id() + " is not attached");
    cni::Network network = this->network(found->second.list);
    Task<Status> checking = network.check(found->second);
    const Status status = co_await std::move(checking);
    if (!status) co_return status;
    co_return api::CheckResponse();
  }

  Task<Result<api::ListResponse>> List(Call&, const api::ListRequest&) override {
    api::ListResponse response;
    for (const auto& [sandbox, attachment] : attachments_) {
      if (attachment.result) *response.add_attachments() = message_of(attachment);
    }
    co_return response;
  }

  Task<Result<api::CollectResponse>> Collect(Call&, const api::CollectRequest& request) override {
    const std::set<std::string> known(request.sandbox_ids().begin(), request.sandbox_ids().end());
    std::vector<std::string> gone;
    for (const auto& [sandbox, attachment] : attachments_) {
      if (!known.contains(sandbox)) gone.push_back(sandbox);
    }
    api::CollectResponse response;
    Status first;
    for (const std::string& sandbox : gone) {
      Task<Status> detaching = detach(sandbox);
      const Status status = co_await std::move(detaching);
      if (status) response.add_detached(sandbox);
      if (first) first = status;
    }
    Task<Status> collecting = collect_garbage();
    const Status collected = co_await std::move(collecting);
    if (!collected) host().warn("CNI plugins could not collect garbage", {{"why", collected.message()}});
    finish_retiring();
    if (!first) co_return first;
    co_return response;
  }

 private:
  cni::Network network(cni::NetworkList list) {
    return cni::Network(std::move(list),
                        {.binaries = config_.binaries,
                         .cache = std::string(host().state_directory()) + "/attachments",
                         .timeout = config_.timeout},
                        runner_);
  }

  Task<Result<cni::NetworkList>> load() {
    const auto work = [folder = config_.folder, name = config_.network] {
      return cni::load_network_list(folder, name);
    };
    Task<Result<cni::LoadedList>> working = host().blocking(work);
    Result<cni::LoadedList> loaded = co_await std::move(working);
    if (!loaded) co_return loaded.status();
    if (loaded->passed_over != passed_over_) {
      for (const std::string& file : loaded->passed_over)
        host().error("a CNI configuration was passed over", {{"why", file}});
      passed_over_ = loaded->passed_over;
    }
    co_return std::move(loaded->list);
  }

  /// One thing at a time for each sandbox: a call whose deadline passed may still be at work.
  Task<void> enter(std::string sandbox) {
    while (busy_.contains(sandbox)) co_await host().sleep(kTurn);
    busy_.insert(sandbox);
  }

  Task<Result<api::AttachResponse>> attach(cni::Target target) {
    api::AttachResponse response;
    const auto known = attachments_.find(target.container);
    if (known != attachments_.end() && known->second.result && known->second.target.name_space == target.name_space) {
      *response.mutable_attachment() = message_of(known->second);
      co_return response;
    }
    Task<Result<cni::NetworkList>> loading = load();
    Result<cni::NetworkList> list = co_await std::move(loading);
    if (!list) co_return list.status();
    if (Status status = check_capabilities(*list, target); !status) co_return status;
    const auto loopback = [path = target.name_space] { return bring_loopback_up(path); };
    Task<Status> bringing = host().blocking(loopback);
    const Status up = co_await std::move(bringing);
    if (!up) co_return up;
    const auto begun = std::chrono::steady_clock::now();
    cni::Network network = this->network(std::move(*list));
    const std::string sandbox = target.container;
    Task<Result<cni::CachedAttachment>> adding = network.add(std::move(target));
    Result<cni::CachedAttachment> attachment = co_await std::move(adding);
    if (!attachment) {
      keep_undone(network, sandbox);
      co_return attachment.status();
    }
    attach_seconds_.observe(std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
    *response.mutable_attachment() = message_of(*attachment);
    attachments_.insert_or_assign(sandbox, std::move(*attachment));
    if (response.attachment().addresses().empty()) {
      host().warn("a CNI network gave a pod no address", {{"sandbox", response.attachment().sandbox_id()}});
    }
    co_return response;
  }

  /// What could not be undone is tried again when the engine detaches or collects the sandbox.
  void keep_undone(const cni::Network& network, const std::string& sandbox) {
    std::vector<std::string> damaged;
    Result<std::vector<cni::CachedAttachment>> cached = network.cached(damaged);
    if (!cached) return;
    for (cni::CachedAttachment& attachment : *cached) {
      if (attachment.target.container == sandbox) attachments_.insert_or_assign(sandbox, std::move(attachment));
    }
  }

  Task<Status> detach(std::string sandbox) {
    Task<void> entering = enter(sandbox);
    co_await std::move(entering);
    Status status;
    if (const auto found = attachments_.find(sandbox); found != attachments_.end()) {
      cni::Network network = this->network(found->second.list);
      Task<Status> removing = network.remove(found->second);
      status = co_await std::move(removing);
      if (status) attachments_.erase(sandbox);
    }
    busy_.erase(sandbox);
    count();
    co_return status;
  }

  /// What a kill left half done: the engine asks for the whole anew.
  Task<void> remove_unfinished() {
    std::vector<std::string> unfinished;
    for (const auto& [sandbox, attachment] : attachments_) {
      if (!attachment.result) unfinished.push_back(sandbox);
    }
    for (const std::string& sandbox : unfinished) {
      Task<Status> detaching = detach(sandbox);
      const Status status = co_await std::move(detaching);
      if (!status)
        host().error("a half-made attachment could not be removed", {{"sandbox", sandbox}, {"why", status.message()}});
    }
  }

  Task<Status> collect_garbage() {
    Task<Result<cni::NetworkList>> loading = load();
    Result<cni::NetworkList> list = co_await std::move(loading);
    if (!list) co_return Status::ok();  // the condition says so
    std::vector<cni::CachedAttachment> valid;
    for (const auto& [sandbox, attachment] : attachments_) valid.push_back(attachment);
    cni::Network network = this->network(std::move(*list));
    Task<Status> collecting = network.collect(std::move(valid));
    co_return co_await std::move(collecting);
  }

  Task<void> look() {
    Task<Result<cni::NetworkList>> loading = load();
    Result<cni::NetworkList> list = co_await std::move(loading);
    std::string name;
    if (list) {
      name = list->name;
      cni::Network network = this->network(std::move(*list));
      Task<Status> asking = network.status();
      health_ = co_await std::move(asking);
    } else {
      health_ = list.status();
    }
    const std::string message = health_ ? "pods are attached to CNI network " + name : health_.message();
    if (message == told_) co_return;
    told_ = message;
    host().condition("NetworkReady", health_.is_ok(), health_ ? "Attaching" : "NotReady", message);
  }

  Task<void> keep_looking() {
    while (!stopped_) {
      co_await host().sleep(health_ ? std::chrono::nanoseconds(kBetweenLooks)
                                    : std::chrono::nanoseconds(kUntilNextLook));
      if (stopped_) break;
      Task<void> looking = look();
      co_await std::move(looking);
    }
  }

  void count() { attached_.set(static_cast<double>(attachments_.size())); }

  void finish_retiring() {
    if (!retiring_ || retired_ || !attachments_.empty()) return;
    retired_ = true;
    host().retired();
  }

  const Config config_;
  HostRunner runner_;
  bool retiring_;
  bool retired_ = false;
  bool stopped_ = false;
  Status health_;
  std::string told_;
  std::vector<std::string> passed_over_;
  std::map<std::string, cni::CachedAttachment> attachments_;  // by sandbox
  std::set<std::string> busy_;
  Metric attached_;
  Metric attach_seconds_;
};

}  // namespace

PINTLE_PLUGIN(NetworkCni);
