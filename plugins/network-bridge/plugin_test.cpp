// The plugin as the host sees it: loaded from its file, in messages.
#include "cni/bridge/testing/bridge_fixture.hpp"
#include "pintle/network.pintle.hpp"
#include "sdk/testkit/contract.hpp"
#include "sdk/testkit/fake_node.hpp"

namespace pintle::bridge {
namespace {

using namespace pintle::network::v1;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::output_of;
using testkit::FakeInstance;
using testkit::FakeNode;

constexpr const char* kPlugin = PLUGINS "/network-bridge.so";

class PluginTest : public testing::BridgeTest {
 protected:
  void SetUp() override {
    BridgeTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) node_ = std::make_unique<FakeNode>();
  }
  void TearDown() override {
    if (node_) {
      EXPECT_THAT(node_->violations(), IsEmpty());
    }
    node_.reset();
    BridgeTest::TearDown();
  }
  testkit::InstanceOptions options(const std::string& key, const std::string& config) {
    for (const char* name : {"state", "run"}) std::filesystem::create_directories(folder() / (name + key));
    return {.name = key.substr(0, key.find('@')),
            .config = config,
            .key = key,
            .state_directory = folder() / ("state" + key),
            .run_directory = folder() / ("run" + key),
            .shared_directory = folder() / "shared"};
  }
  FakeInstance& load(const std::string& key = "net@1", const std::string& config = "{}", bool retiring = false) {
    testkit::InstanceOptions chosen = options(key, config);
    chosen.retiring = retiring;
    FakeInstance& instance = node_->load(kPlugin, chosen);
    const Status status = node_->start(instance);
    EXPECT_TRUE(status) << status.to_string();
    return instance;
  }
  /// Awaits one method of the instance.
  template <class Request, class Response>
  Result<Response> ask(FakeInstance& instance, const Request& request,
                       UnaryCall<Response> (PodNetworkStub::*method)(const Request&, CallOptions) const) {
    const PodNetworkStub stub = node_->stub<PodNetworkStub>(client(), instance);
    const auto body = [](PodNetworkStub called, Request sent, decltype(method) chosen) -> Task<Result<Response>> {
      UnaryCall<Response> pending = (called.*chosen)(sent, {});
      co_return co_await pending;
    };
    std::optional<Result<Response>> answer = node_->wait(body(stub, request, method));
    return answer ? *answer : Result<Response>(deadline_exceeded("no answer"));
  }
  FakeInstance& client() {
    if (!client_) client_ = &node_->client();
    return *client_;
  }
  Result<AttachResponse> attach_pod(FakeInstance& instance, const std::string& sandbox) {
    if (!std::filesystem::exists(path_of(sandbox))) make_namespace(sandbox);
    network::v1::AttachRequest request;
    request.set_sandbox_id(sandbox);
    request.set_network_namespace(path_of(sandbox));
    return ask(instance, request, &PodNetworkStub::Attach);
  }
  Status detach_pod(FakeInstance& instance, const std::string& sandbox) {
    DetachRequest request;
    request.set_sandbox_id(sandbox);
    return ask(instance, request, &PodNetworkStub::Detach).status();
  }
  Status check_pod(FakeInstance& instance, const std::string& sandbox) {
    CheckRequest request;
    request.set_sandbox_id(sandbox);
    return ask(instance, request, &PodNetworkStub::Check).status();
  }

  std::unique_ptr<FakeNode> node_;
  FakeInstance* client_ = nullptr;
};

TEST_F(PluginTest, FulfilsTheContractOfPodNetworks) {
  FakeInstance& instance = load();
  testkit::FakeNodeTarget target(*node_, instance);
  const testkit::ContractReport report = testkit::check_contract(target, instance.provides());
  EXPECT_GT(report.passed, 0u);
  for (const auto& finding : report.broken) ADD_FAILURE() << finding.method << ": " << finding.what;
  for (const auto& finding : report.unimplemented) ADD_FAILURE() << finding.method << " is missing";
}

TEST_F(PluginTest, AttachesListsChecksAndDetachesInMessages) {
  FakeInstance& instance = load("net@1", R"({"podCIDR": ["10.85.0.0/16", "fd00:85::/64"], "mtu": 1400})");
  Result<DescribeResponse> described = ask(instance, DescribeRequest(), &PodNetworkStub::Describe);
  ASSERT_TRUE(described);
  EXPECT_TRUE(described->ready()) << described->message();
  EXPECT_EQ(described->name(), "net");
  EXPECT_EQ(described->pod_cidrs_size(), 2);

  Result<AttachResponse> attached = attach_pod(instance, "a");
  ASSERT_TRUE(attached) << attached.status().to_string();
  const auto& attachment = attached->attachment();
  EXPECT_EQ(attachment.interface_name(), "eth0");
  EXPECT_EQ(attachment.mtu(), 1400u);
  ASSERT_EQ(attachment.addresses_size(), 2);
  EXPECT_EQ(attachment.addresses(0).address(), "10.85.0.2/16");
  EXPECT_EQ(attachment.addresses(0).gateway(), "10.85.0.1");
  EXPECT_EQ(attachment.addresses(1).address(), "fd00:85::2/64");
  ASSERT_EQ(attachment.routes_size(), 2);
  EXPECT_EQ(attachment.routes(0).destination(), "0.0.0.0/0");
  in_namespace(path_of("a"), [&] {
    EXPECT_THAT(output_of("ip link show eth0"), HasSubstr(attachment.hardware_address()));
    EXPECT_THAT(output_of("ip address show eth0"), HasSubstr("inet 10.85.0.2/16"));
  });
  EXPECT_TRUE(check_pod(instance, "a"));
  Result<ListResponse> list = ask(instance, ListRequest(), &PodNetworkStub::List);
  ASSERT_TRUE(list);
  ASSERT_EQ(list->attachments_size(), 1);
  EXPECT_EQ(list->attachments(0).SerializeAsString(), attachment.SerializeAsString());
  CollectRequest keep;
  keep.add_sandbox_ids("a");
  EXPECT_EQ(ask(instance, keep, &PodNetworkStub::Collect)->detached_size(), 0);
  EXPECT_TRUE(detach_pod(instance, "a"));
  EXPECT_EQ(check_pod(instance, "a").code(), Code::not_found);
  ASSERT_TRUE(node_->stop(instance));
}

TEST_F(PluginTest, OpensHostPortsAndRefusesWhatIsTaken) {
  FakeInstance& instance = load();
  const auto attach = [&](const std::string& sandbox, int host_port, const std::string& host_ip) {
    if (!std::filesystem::exists(path_of(sandbox))) make_namespace(sandbox);
    network::v1::AttachRequest request;
    request.set_sandbox_id(sandbox);
    request.set_network_namespace(path_of(sandbox));
    auto* mapping = request.add_port_mappings();
    mapping->set_container_port(80);
    mapping->set_host_port(host_port);
    mapping->set_host_ip(host_ip);
    mapping->set_protocol(runtime::v1::UDP);
    return ask(instance, request, &PodNetworkStub::Attach).status();
  };
  EXPECT_TRUE(attach("a", 0, "")) << "a port without a host port asks for nothing";
  EXPECT_EQ(output_of("nft list map inet pintle-network-bridge any4 | grep -c elements"), "0\n");
  EXPECT_TRUE(attach("b", 8080, "0.0.0.0"));
  EXPECT_THAT(output_of("nft list map inet pintle-network-bridge any4"), HasSubstr("udp . 8080 : 10.85.0.3 . 80"));
  EXPECT_THAT(attach("c", 8080, "").message(), HasSubstr("host port 8080/udp: sandbox b has it"));
  EXPECT_THAT(attach("c", 70000, "").message(), HasSubstr("ports are 1 to 65535"));
  EXPECT_THAT(attach("c", 81, "somewhere").message(), HasSubstr("hostIP of host port 81"));
}

TEST_F(PluginTest, RulesThatAnotherProgramFlushedComeBackByThemselves) {
  FakeInstance& instance = load();
  ASSERT_TRUE(attach_pod(instance, "a"));
  const std::string before = machine();
  for (int round = 0; round < 3; ++round) {
    output_of("nft flush ruleset; ip link del pintle0");
    EXPECT_TRUE(node_->run_until([&] { return check_pod(instance, "a").is_ok(); }))
        << check_pod(instance, "a").message();
    EXPECT_EQ(machine(), before);
  }
}

TEST_F(PluginTest, ALinkWhoseNamespaceStaysIsDeletedAfterDetaching) {
  FakeInstance& instance = load();
  ASSERT_TRUE(attach_pod(instance, "a"));
  ASSERT_TRUE(detach_pod(instance, "a"));
  EXPECT_TRUE(node_->run_until([] { return pod_links().empty(); }));
}

TEST_F(PluginTest, AConfigThatIsWrongIsRefusedBeforeAnythingIsTouched) {
  const std::string before = machine();
  Result<FakeInstance*> refused =
      node_->try_load(kPlugin, options("net@1", R"({"podCIDR": ["10.0.0.0/8", "10.85.0.0/16"]})"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.status().code(), Code::invalid_argument);
  EXPECT_THAT(refused.status().message(), HasSubstr("overlap"));
  EXPECT_EQ(machine(), before);
}

TEST_F(PluginTest, AVlanThatTheKernelCannotHaveIsSaidInTheCondition) {
  const std::string before = machine();
  Result<FakeInstance*> instance = node_->try_load(kPlugin, options("net@1", R"({"vlan": 100})"));
  ASSERT_TRUE(instance) << instance.status().to_string();
  const Status started = node_->start(**instance);
  if (started) GTEST_SKIP() << "this kernel has VLANs";
  EXPECT_THAT(started.message(), HasSubstr("asks for VLAN 100: this kernel"));
  EXPECT_THAT((*instance)->conditions(), ::testing::Contains(HasSubstr("NetworkReady=False StartFailed")));
  EXPECT_EQ(machine(), before);
}

TEST_F(PluginTest, ARetiringInstanceServesItsPodsAndEndsWithTheLast) {
  const std::string before = machine();
  FakeInstance& old = load("net@1", R"({"podCIDR": "10.85.0.0/16"})");
  ASSERT_TRUE(attach_pod(old, "a"));
  FakeInstance& next = load("net@2", R"({"podCIDR": "10.85.0.0/16", "hairpin": true})");
  ASSERT_TRUE(node_->retire(old));
  EXPECT_FALSE(old.said_retired());
  ASSERT_TRUE(attach_pod(next, "b"));
  make_namespace("c");
  EXPECT_EQ(attach_pod(old, "c").status().code(), Code::failed_precondition);
  EXPECT_TRUE(check_pod(old, "a"));
  EXPECT_EQ(connect(path_of("a"), path_of("b"), "10.85.0.3"), "10.85.0.2");

  // Also over a restart.
  node_->destroy(old);
  FakeInstance& again = load("net@1", R"({"podCIDR": "10.85.0.0/16"})", true);
  EXPECT_FALSE(again.said_retired());
  EXPECT_TRUE(check_pod(again, "a"));
  EXPECT_TRUE(detach_pod(again, "a"));
  EXPECT_TRUE(node_->run_until([&] { return again.said_retired(); }));
  EXPECT_EQ(connect("", path_of("b"), "10.85.0.3"), "10.85.0.1") << "the bridge is still in use";

  EXPECT_TRUE(detach_pod(next, "b"));
  ASSERT_TRUE(node_->stop(next));
  EXPECT_EQ(machine(), before);
}

TEST_F(PluginTest, AnInstanceThatOwnsNothingRetiresAtOnce) {
  const std::string before = machine();
  FakeInstance& instance = load();
  ASSERT_TRUE(node_->retire(instance));
  EXPECT_TRUE(node_->run_until([&] { return instance.said_retired(); }));
  EXPECT_EQ(machine(), before);
}

}  // namespace
}  // namespace pintle::bridge
