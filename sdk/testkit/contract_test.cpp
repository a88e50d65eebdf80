// The contract suites against the two finished examples, and against one that breaks each promise in turn.

#include "sdk/testkit/contract.hpp"

#include <gmock/gmock.h>

#include "pintle/example.pintle.hpp"

namespace pintle::testkit {
namespace {

using example::v1::CountRequest;
using example::v1::ListenRequest;
using example::v1::Saying;

class Finished : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Examples, Finished, testing::Values("echo-cpp", "echo-c"));

TEST_P(Finished, IsGreen) {
  FakeNode node;
  FakeInstance& plugin = node.load(std::string(PLUGINS "/") + GetParam() + ".so");
  ASSERT_TRUE(node.start(plugin));
  FakeNodeTarget target(node, plugin);
  const ContractReport report = check_contract(target, plugin.provides());
  for (const ContractFinding& finding : report.broken) ADD_FAILURE() << finding.method << ": " << finding.what;
  for (const ContractFinding& finding : report.unimplemented) ADD_FAILURE() << finding.method << ": " << finding.what;
  EXPECT_GT(report.passed, 20u);
  EXPECT_THAT(node.violations(), testing::IsEmpty());
}

class Unfinished : public Plugin, public example::v1::Echo {
 public:
  explicit Unfinished(Host& host) : Plugin(host) { provide(*this); }
};

TEST(ContractSuite, NamesTheMethodsThatAreUnimplemented) {
  FakeNode node;
  FakeInstance& plugin = node.add<Unfinished>("unfinished", {"pintle.example.v1.Echo"});
  FakeNodeTarget target(node, plugin);
  const ContractReport report = check_contract(target, plugin.provides());
  std::vector<std::string> methods;
  for (const ContractFinding& finding : report.unimplemented) methods.push_back(finding.method);
  EXPECT_THAT(methods, testing::ElementsAre("Say", "Count", "Listen", "Publish", "Misbehave"));
  EXPECT_FALSE(report.is_green());
}

class Broken : public Plugin, public example::v1::Echo {
 public:
  explicit Broken(Host& host) : Plugin(host) { provide(*this); }
  Task<Result<Saying>> Say(Call&, const Saying& request) override {
    Saying answer = request;
    answer.set_number(request.number() + 1);
    co_return answer;
  }
  Task<Status> Listen(Call&, const ListenRequest&, StreamWriter<Saying>&) override {
    for (;;) co_await host().sleep(std::chrono::milliseconds(5));  // never notices that its caller has gone
  }
  Task<Status> Count(Call&, const CountRequest&, StreamWriter<Saying>&) override { throw std::runtime_error("broken"); }
};

TEST(ContractSuite, SeesWhatIsBroken) {
  FakeNode node;
  FakeInstance& plugin = node.add<Broken>("broken", {"pintle.example.v1.Echo"});
  FakeNodeTarget target(node, plugin);
  const ContractReport report = check_contract(target, plugin.provides());
  std::vector<std::string> found;
  for (const ContractFinding& finding : report.broken) found.push_back(finding.method + ": " + finding.what);
  EXPECT_THAT(found, testing::IsSupersetOf({testing::StartsWith("Say: the message comes back unchanged"),
                                            testing::StartsWith("Listen: a stream whose caller cancels ends"),
                                            testing::StartsWith("Count: an empty request is no internal error")}));
}

}  // namespace
}  // namespace pintle::testkit
