// node-agent: the plugin. See agent.hpp for what it does.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <pintle/moment.hpp>
#include <pintle/plugin.hpp>

#include "pintle/node.pintle.hpp"
#include "plugins/node-agent/agent.hpp"
#include "plugins/node-agent/node_api.hpp"
#include "plugins/node-agent/node_stats.hpp"
#include "plugins/node-agent/pod_resources.hpp"
#include "sdk/api/quantity.hpp"

namespace {

using namespace pintle;
namespace cri = ::runtime::v1;
namespace json = boost::json;

/// The address that the node would send from to the world; no packet is sent for it. Empty if there is no route.
std::string address_of_default_route() {
  const auto ask = [](int family, const sockaddr* to, socklen_t size) -> std::string {
    const UniqueFd socket(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage own{};
    socklen_t own_size = sizeof(own);
    if (socket.get() < 0 || connect(socket.get(), to, size) != 0 ||
        getsockname(socket.get(), reinterpret_cast<sockaddr*>(&own), &own_size) != 0)
      return {};
    char text[INET6_ADDRSTRLEN] = {};
    const void* address = family == AF_INET
                              ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in&>(own).sin_addr)
                              : static_cast<const void*>(&reinterpret_cast<const sockaddr_in6&>(own).sin6_addr);
    return inet_ntop(family, address, text, sizeof(text)) ? text : "";
  };
  // Addresses of the documentation's ranges (RFC 5737, RFC 3849): only the routing table is asked.
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_port = htons(9);
  inet_pton(AF_INET, "192.0.2.1", &four.sin_addr);
  if (const std::string address = ask(AF_INET, reinterpret_cast<const sockaddr*>(&four), sizeof(four));
      !address.empty())
    return address;
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(9);
  inet_pton(AF_INET6, "2001:db8::1", &six.sin6_addr);
  return ask(AF_INET6, reinterpret_cast<const sockaddr*>(&six), sizeof(six));
}

std::chrono::nanoseconds seconds_of(const json::value& value) {
  return std::chrono::nanoseconds(static_cast<int64_t>(value.to_number<double>() * 1e9));
}

/// What is kept for the node itself, and when it runs short.
void read_node_settings(const json::value& config, agent::AgentSettings& settings) {
  const json::object& object = config.as_object();
  Result<agent::EvictionSettings> eviction = agent::read_eviction_settings(config);
  if (!eviction) throw PluginError(eviction.status());
  Result<agent::ShutdownSettings> shutdown = agent::read_shutdown_settings(config);
  if (!shutdown) throw PluginError(shutdown.status());
  settings.shutdown = std::move(*shutdown);
  Result<agent::CollectionSettings> collection = agent::read_collection_settings(config);
  if (!collection) throw PluginError(collection.status());
  settings.collection = *collection;
  if (const json::value* kept = object.if_contains("maximumDeadContainersPerContainer"))
    settings.dead_kept = kept->to_number<int64_t>();
  if (const json::value* age = object.if_contains("minimumContainerTTLDuration")) {
    const Result<std::chrono::nanoseconds> parsed = agent::parse_duration(std::string(age->as_string()));
    if (!parsed) throw PluginError(parsed.status().with_context("minimumContainerTTLDuration"));
    settings.dead_for = *parsed;
  }
  const json::value* most_pods = object.if_contains("maxPods");
  const int64_t pods = most_pods ? most_pods->to_number<int64_t>() : 110;
  Result<agent::NodeResources> resources =
      agent::read_node_resources(config, agent::node_amounts(settings.state_folder, pods), *eviction);
  if (!resources) throw PluginError(resources.status());
  settings.resources = std::move(*resources);
  for (const auto& [name, amount] : settings.resources.capacity)
    if (agent::huge_page_size(name) > 0 && amount > 0) settings.node.huge_pages[name] = amount;
  settings.pressure.eviction = std::move(*eviction);
  settings.pressure.nodefs = settings.state_folder;
  if (const json::value* period = object.if_contains("housekeepingSeconds"))
    settings.pressure.housekeeping = seconds_of(*period);
  agent::CgroupSettings& cgroups = settings.node.cgroups;
  if (!settings.resources.limits_pods || cgroups.root.empty()) return;
  cgroups.all_memory = settings.resources.for_pods("memory");
  cgroups.all_cpu_milli = settings.resources.for_pods("cpu");
  if (settings.resources.reserved.contains("pid")) cgroups.all_processes = settings.resources.for_pods("pid");
  settings.pressure.pods_cgroup = cgroups.root;
  settings.pressure.pods_memory = cgroups.all_memory;
}

agent::AgentSettings settings_of(const Host& host) {
  const json::value config = json::parse(std::string(host.config_json()));
  agent::AgentSettings settings;
  settings.manifests = std::string(config.at("manifests").get_string());
  settings.reread = seconds_of(config.at("rereadSeconds"));
  settings.state_folder = std::string(host.shared_directory());
  settings.node.log_folder = std::string(config.at("logs").get_string());
  settings.node.address = std::string(config.at("nodeAddress").get_string());
  if (settings.node.address.empty()) settings.node.address = address_of_default_route();
  if (settings.node.address.empty()) settings.node.address = "127.0.0.1";
  for (const json::value& server : config.at("clusterDNS").get_array())
    settings.node.cluster_dns.emplace_back(server.get_string());
  settings.node.cluster_domain = std::string(config.at("clusterDomain").get_string());
  settings.node.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  if (Result<std::string> own = files::read_file("/etc/resolv.conf"); own)
    settings.node.resolver = agent::parse_resolver(*own);
  // A stub of systemd-resolved listens on the node's loopback, where no pod reaches it.
  const auto& servers = settings.node.resolver.servers;
  if (servers.size() == 1 && servers.front() == "127.0.0.53")
    if (Result<std::string> behind = files::read_file("/run/systemd/resolve/resolv.conf"); behind)
      settings.node.resolver = agent::parse_resolver(*behind);
  settings.node.seccomp_folder = std::string(config.at("seccompProfiles").get_string());
  if (const json::value* credentials = config.get_object().if_contains("imageCredentials"))
    settings.node.image_credentials = std::string(credentials->get_string());
  settings.node.cgroups.root = std::string(config.at("cgroupRoot").get_string());
  settings.node.cgroups.pids_limit = config.at("podPidsLimit").to_number<int64_t>();
  if (const json::value* users = config.get_object().if_contains("userNamespaces")) {
    settings.ids.base = users->at("base").to_number<uint32_t>();
    settings.ids.ids_per_pod = users->at("idsPerPod").to_number<uint32_t>();
  }
  if (settings.ids.base % 65536 != 0 || settings.ids.ids_per_pod % 65536 != 0)
    throw PluginError(invalid_argument("userNamespaces: base and idsPerPod have to be multiples of 65536"));
  read_node_settings(config, settings);
  const json::value& logs = config.at("containerLogs");
  if (Result<api::Quantity> size = api::Quantity::parse(std::string(logs.at("maxSize").get_string())); size)
    settings.container_logs.longest_bytes = size->units();
  settings.container_logs.most_files = logs.at("maxFiles").to_number<int>();
  settings.container_logs.interval = seconds_of(logs.at("everySeconds"));
  if (const json::value* url = config.get_object().if_contains("manifestURL")) {
    settings.url.url = std::string(url->at("url").get_string());
    settings.url.period = seconds_of(url->at("periodSeconds"));
    settings.url.authority = std::string(url->at("authority").get_string());
    for (const auto& [name, value] : url->at("headers").get_object())
      settings.url.headers.emplace_back(std::string(name), std::string(value.get_string()));
  }
  const json::value& backoff = config.at("restartBackoff");
  settings.backoff = {seconds_of(backoff.at("initialSeconds")), seconds_of(backoff.at("maximumSeconds")),
                      seconds_of(backoff.at("resetSeconds"))};
  return settings;
}

/// Absent where nothing filled in the schema's defaults: no API then.
agent::NodeApiSettings api_settings_of(const Host& host, const agent::AgentSettings& node) {
  agent::NodeApiSettings settings;
  const json::value config = json::parse(std::string(host.config_json()));
  const json::value* api = config.get_object().if_contains("nodeApi");
  if (!api) return settings;
  const auto text = [&](const char* name) { return std::string(api->at(name).get_string()); };
  settings.enabled = api->at("enabled").get_bool();
  settings.address = text("address");
  settings.port = api->at("port").to_number<int>();
  settings.health_port = api->at("healthPort").to_number<int>();
  settings.accepts_manifests = api->at("acceptManifests").get_bool();
  settings.groups.clear();
  for (const json::value& group : api->at("groups").get_array()) settings.groups.emplace_back(group.get_string());
  agent::CredentialSettings& credentials = settings.credentials;
  credentials.certificate = text("certificate");
  credentials.key = text("key");
  credentials.client_authority = text("clientAuthority");
  credentials.folder = std::string(host.shared_directory()) + "/pki";
  credentials.admin_folder = text("adminFolder");
  credentials.node = std::string(host.node());
  credentials.life = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::duration<double, std::ratio<3600>>(api->at("certificateHours").to_number<double>()));
  credentials.addresses = {node.node.address};
  in6_addr ignored{};
  const auto is_address = [&](const std::string& name) {
    return inet_pton(AF_INET, name.c_str(), &ignored) == 1 || inet_pton(AF_INET6, name.c_str(), &ignored) == 1;
  };
  if (settings.address != "0.0.0.0" && settings.address != "::") credentials.addresses.push_back(settings.address);
  for (const json::value& name : api->at("names").get_array()) {
    const std::string one(name.get_string());
    (is_address(one) ? credentials.addresses : credentials.dns_names).push_back(one);
  }
  return settings;
}

class NodeAgentPlugin final : public Plugin, public node::v1::NodeAgent {
 public:
  explicit NodeAgentPlugin(Host& host) : NodeAgentPlugin(host, settings_of(host)) {}

  Task<Status> start() override { return agent_.start(); }
  Task<Status> drain() override { return let_go(); }
  Task<Status> stop() override { return let_go(); }
  Task<Status> retire() override {
    Task<Status> going = let_go();
    (void)co_await std::move(going);
    // The pods belong to whichever instance acts; none is this one's own.
    host().retired();
    co_return Status::ok();
  }
  void bindings_changed(std::string_view) override {
    agent_.bind(need<cri::RuntimeServiceStub>("runtime"), need<cri::ImageServiceStub>("images"));
  }

  Task<Result<node::v1::ListPodsResponse>> ListPods(Call&, const node::v1::ListPodsRequest& request) override {
    co_return agent_.list(request.only());
  }
  Task<Result<node::v1::DescribeNodeResponse>> DescribeNode(Call&, const node::v1::DescribeNodeRequest&) override {
    co_return agent_.describe_node();
  }
  Task<Result<node::v1::ApplyPodsResponse>> ApplyPods(Call&, const node::v1::ApplyPodsRequest& request) override {
    return agent_.apply(request);
  }
  Task<Result<node::v1::RemovePodResponse>> RemovePod(Call&, const node::v1::RemovePodRequest& request) override {
    return agent_.remove(request);
  }

  Task<Result<node::v1::GetUsageResponse>> GetUsage(Call&, const node::v1::GetUsageRequest& request) override {
    const bool only_cpu_and_memory = request.only_cpu_and_memory();
    Task<Result<agent::NodeStats>> gathering = stats_.gather(only_cpu_and_memory);
    const Result<agent::NodeStats> stats = co_await std::move(gathering);
    if (!stats) co_return stats.status();
    node::v1::GetUsageResponse response;
    response.set_json(agent::summary_json(*stats, only_cpu_and_memory));
    co_return response;
  }

 private:
  NodeAgentPlugin(Host& host, agent::AgentSettings settings)
      : Plugin(host),
        agent_(host, settings),
        stats_(host, agent_.context()),
        api_(host, agent_, stats_, api_settings_of(host, settings)),
        gone_(host) {
    provide(*this);
    agent_.on_begin([this] { api_.begin(); });
  }

  /// Once: a host that has no patience left stops what still drains.
  Task<Status> let_go() {
    if (!std::exchange(is_letting_go_, true)) {
      Task<void> stopping = api_.stop();
      co_await std::move(stopping);
      Task<void> quiescing = agent_.quiesce();
      co_await std::move(quiescing);
      gone_.set();
    }
    auto waiting = gone_.wait();
    co_await waiting;
    co_return Status::ok();
  }

  agent::Agent agent_;
  agent::StatsGatherer stats_;
  agent::NodeApi api_;
  bool is_letting_go_ = false;
  Moment gone_;
};

}  // namespace

PINTLE_PLUGIN(NodeAgentPlugin);
