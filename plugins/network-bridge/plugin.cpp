// network-bridge as a plugin: the messages of PodNetwork to and from `BridgeNetwork`, and when it has to look at the machine.
//
// Calls of the kernel go to a blocking thread: each takes a millisecond as a rule, but the kernel's network lock (RTNL) is one for the
// whole machine, and whoever deletes a namespace elsewhere may hold it for 50 ms and more. The lane stays free to answer.

#include <netinet/in.h>
#include <poll.h>

#include <array>
#include <chrono>
#include <pintle/plugin.hpp>

#include "cni/bridge/bridge_network.hpp"
#include "pintle/network.pintle.hpp"

namespace {

using namespace pintle;
using namespace pintle::bridge;
using namespace std::chrono_literals;
namespace api = pintle::network::v1;

/// Changes come in bursts (a flushed table is a message for each rule): they are looked at together.
constexpr auto kBurst = 2ms;
/// How often a program that fights us about a rule is answered.
constexpr auto kBetweenLooks = 20ms;
constexpr auto kRetry = 1s;
/// By then the engine has removed the namespace of a detached pod, and the kernel its link with it.
constexpr auto kUntilReaping = 500ms;

api::Attachment message_of(const Attachment& attachment) {
  api::Attachment message;
  message.set_sandbox_id(attachment.sandbox);
  message.set_interface_name(attachment.interface);
  message.set_hardware_address(netlink::to_string(attachment.hardware_address));
  message.set_mtu(attachment.mtu);
  message.set_host_interface(attachment.host_interface);
  message.set_network_namespace(attachment.name_space);
  for (const cni::ResultIp& ip : attachment.ips) {
    api::Address* address = message.add_addresses();
    address->set_address(ip.address.to_string());
    if (ip.gateway) address->set_gateway(ip.gateway->to_string());
  }
  for (const cni::ResultRoute& wanted : attachment.routes) {
    api::Route* route = message.add_routes();
    route->set_destination(wanted.destination.to_string());
    if (wanted.gateway) route->set_gateway(wanted.gateway->to_string());
  }
  return message;
}

/// Mappings without a host port say nothing to a network.
Result<std::vector<HostPort>> ports_of(const api::AttachRequest& request) {
  constexpr std::array<uint8_t, 3> protocols = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP};  // by CRI's numbers
  std::vector<HostPort> ports;
  for (const auto& mapping : request.port_mappings()) {
    if (mapping.host_port() == 0) continue;
    const auto protocol = static_cast<size_t>(mapping.protocol());
    const bool is_bad = protocol >= protocols.size() || mapping.host_port() < 0 || mapping.host_port() > 65535 ||
                        mapping.container_port() < 1 || mapping.container_port() > 65535;
    if (is_bad) {
      return invalid_argument("host port " + std::to_string(mapping.host_port()) +
                              ": ports are 1 to 65535 of TCP, UDP or SCTP");
    }
    HostPort port{.protocol = protocols[protocol],
                  .host_ip = {},
                  .host_port = static_cast<uint16_t>(mapping.host_port()),
                  .pod_port = static_cast<uint16_t>(mapping.container_port())};
    if (!mapping.host_ip().empty()) {
      const Result<netlink::IpAddress> address = netlink::IpAddress::parse(mapping.host_ip());
      if (!address) return address.status().with_context("hostIP of host port " + std::to_string(mapping.host_port()));
      port.host_ip = *address;
    }
    ports.push_back(port);
  }
  return ports;
}

class NetworkBridge final : public Plugin, public api::PodNetwork {
 public:
  explicit NetworkBridge(Host& host)
      : Plugin(host),
        retiring_(host.is_retiring()),
        attached_(host.gauge("pod_network_attached", "Sandboxes that are attached.")),
        attach_seconds_(host.histogram("pod_network_attach_seconds", "Time that attaching a sandbox took.",
                                       {0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1})),
        repairs_(host.counter("pod_network_repairs_total", "What was put right on the machine without being asked.")) {
    Result<Config> config = parse_config(host.config_json());
    if (!config) throw PluginError(config.status());
    config_ = *config;
    provide(*this);
  }

  Task<Status> start() override {
    const auto begin = [config = config_, key = std::string(host().key()),
                        directories = Directories{.state = std::string(host().state_directory()),
                                                  .shared = std::string(host().shared_directory())},
                        notice = notice()]() -> Result<std::shared_ptr<BridgeNetwork>> {
      Result<std::unique_ptr<BridgeNetwork>> network = BridgeNetwork::create(config, key, directories, notice);
      if (!network) return network.status();
      if (Status started = (*network)->start(); !started) return started;
      return std::shared_ptr<BridgeNetwork>(std::move(*network));
    };
    Task<Result<std::shared_ptr<BridgeNetwork>>> beginning = host().blocking(begin);
    Result<std::shared_ptr<BridgeNetwork>> network = co_await std::move(beginning);
    if (!network) {
      host().condition("NetworkReady", false, "StartFailed", network.status().message());
      co_return network.status();
    }
    network_ = *network;
    attached_.set(static_cast<double>(network_->size()));
    report(Status::ok());
    listen();
    reap_later();
    if (retiring_) co_return co_await release_if_empty();
    co_return Status::ok();
  }

  Task<Status> retire() override {
    retiring_ = true;
    return release_if_empty();
  }

  Task<Status> stop() override {
    stopped_ = true;
    watches_.clear();
    if (!network_) co_return Status::ok();
    const auto end = [network = network_] {
      network->reap();
      return network->stop();
    };
    Task<Status> ending = host().blocking(end);
    co_return co_await std::move(ending);
  }

  Task<Result<api::DescribeResponse>> Describe(Call&, const api::DescribeRequest&) override {
    api::DescribeResponse response;
    response.set_ready(network_ && health_);
    response.set_message(network_ ? health_.message() : "not started");
    response.set_name(std::string(host().name()));
    for (const cni::AddressRange& range : config_.ranges) response.add_pod_cidrs(range.subnet.to_string());
    co_return response;
  }

  Task<Result<api::AttachResponse>> Attach(Call&, const api::AttachRequest& request) override {
    if (!network_) co_return not_started();
    if (retiring_) {
      co_return failed_precondition("instance " + std::string(host().key()) +
                                    " retires and takes no new pods; ask its successor");
    }
    const Result<std::vector<HostPort>> ports = ports_of(request);
    if (!ports) co_return ports.status();
    AttachRequest wanted{.sandbox = request.sandbox_id(),
                         .interface = "eth0",
                         .name_space = request.network_namespace(),
                         .ports = *ports};
    if (!request.interface_name().empty()) wanted.interface = request.interface_name();
    const auto start = std::chrono::steady_clock::now();
    const auto work = [network = network_, wanted] { return network->attach(wanted); };
    Task<Result<Attachment>> working = host().blocking(work);
    Result<Attachment> attachment = co_await std::move(working);
    if (!attachment) co_return attachment.status();
    attach_seconds_.observe(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    attached_.set(static_cast<double>(network_->size()));
    api::AttachResponse response;
    *response.mutable_attachment() = message_of(*attachment);
    co_return response;
  }

  Task<Result<api::DetachResponse>> Detach(Call&, const api::DetachRequest& request) override {
    if (!network_) co_return not_started();
    const auto work = [network = network_, sandbox = request.sandbox_id()] { return network->detach(sandbox); };
    Task<Status> working = host().blocking(work);
    const Status status = co_await std::move(working);
    after_detaching();
    if (!status) co_return status;
    co_return api::DetachResponse();
  }

  Task<Result<api::CheckResponse>> Check(Call&, const api::CheckRequest& request) override {
    if (!network_) co_return not_started();
    const auto work = [network = network_, sandbox = request.sandbox_id(), name_space = request.network_namespace()] {
      return network->check(sandbox, name_space);
    };
    Task<Status> working = host().blocking(work);
    const Status status = co_await std::move(working);
    if (!status) co_return status;
    co_return api::CheckResponse();
  }

  Task<Result<api::ListResponse>> List(Call&, const api::ListRequest&) override {
    if (!network_) co_return not_started();
    const auto work = [network = network_] { return network->list(); };
    Task<std::vector<Attachment>> working = host().blocking(work);
    const std::vector<Attachment> attachments = co_await std::move(working);
    api::ListResponse response;
    for (const Attachment& attachment : attachments) *response.add_attachments() = message_of(attachment);
    co_return response;
  }

  Task<Result<api::CollectResponse>> Collect(Call&, const api::CollectRequest& request) override {
    if (!network_) co_return not_started();
    const std::set<std::string> sandboxes(request.sandbox_ids().begin(), request.sandbox_ids().end());
    const auto work = [network = network_, sandboxes] { return network->collect(sandboxes); };
    Task<Result<std::vector<std::string>>> working = host().blocking(work);
    const Result<std::vector<std::string>> detached = co_await std::move(working);
    after_detaching();
    if (!detached) co_return detached.status();
    api::CollectResponse response;
    for (const std::string& sandbox : *detached) response.add_detached(sandbox);
    co_return response;
  }

 private:
  static Status not_started() { return unavailable("the network has not been started"); }

  BridgeNetwork::Notice notice() {
    return [&host = host(), repairs = repairs_](const std::string& line) {
      repairs.add();
      host.info(line);
    };
  }

  void report(const Status& status) {
    health_ = status;
    const std::string message = status ? "pods are attached to " + config_.bridge : status.message();
    host().condition("NetworkReady", status.is_ok(), status ? "Attaching" : "ConvergeFailed", message);
  }

  /// Waits for changes of the machine. The watches end with the first one and are made anew when it has been looked at: they are
  /// level-triggered, and the blocking thread reads what there is.
  void listen() {
    for (const int descriptor : network_->change_descriptors()) {
      Result<Watch> watch = host().watch(descriptor, POLLIN, [this](uint32_t) {
        watches_.clear();
        host().detach(follow());
      });
      if (watch) {
        watches_.push_back(std::move(*watch));
      } else {
        host().error("changes of the machine are not noticed", {{"why", watch.status().message()}});
      }
    }
  }

  Task<void> follow() {
    co_await host().sleep(kBurst);
    const auto look = [network = network_] { return network->follow_changes(); };
    Task<Status> looking = host().blocking(look);
    Status status = co_await std::move(looking);
    while (!status && !stopped_) {
      host().error("the pod network could not be put right", {{"why", status.message()}});
      report(status);
      co_await host().sleep(kRetry);
      const auto converge = [network = network_] { return network->converge(); };
      Task<Status> converging = host().blocking(converge);
      status = co_await std::move(converging);
    }
    if (!health_) report(status);
    co_await host().sleep(kBetweenLooks);
    if (!stopped_) listen();
  }

  void after_detaching() {
    attached_.set(static_cast<double>(network_->size()));
    reap_later();
    if (retiring_) host().detach(finish_retiring());
  }

  void reap_later() {
    if (reaping_ || !network_->has_detached_links()) return;
    reaping_ = true;
    host().detach(reap());
  }

  Task<void> reap() {
    while (network_->has_detached_links()) {
      co_await host().sleep(kUntilReaping);
      const auto work = [network = network_] { return network->reap(); };
      Task<size_t> working = host().blocking(work);
      co_await std::move(working);
    }
    reaping_ = false;
  }

  Task<void> finish_retiring() {
    Task<Status> releasing = release_if_empty();
    const Status status = co_await std::move(releasing);
    if (!status) host().error("a part of the network could not be taken back", {{"why", status.message()}});
  }

  Task<Status> release_if_empty() {
    if (!network_ || network_->size() != 0 || retired_) co_return Status::ok();
    retired_ = true;
    Task<Status> stopping = stop();
    const Status status = co_await std::move(stopping);
    host().retired();
    co_return status;
  }

  Config config_;
  bool retiring_;
  bool retired_ = false;
  bool stopped_ = false;
  bool reaping_ = false;
  Status health_;
  Metric attached_;
  Metric attach_seconds_;
  Metric repairs_;
  std::shared_ptr<BridgeNetwork> network_;
  std::vector<Watch> watches_;
};

}  // namespace

PINTLE_PLUGIN(NetworkBridge);
