#include <gtest/gtest.h>
#include <pintle/testkit/contract.hpp>

namespace {

using namespace pintle::testkit;

TEST(@CLASS@, StartsAndStops) {
  FakeNode node;
  FakeInstance& plugin = node.load(PLUGIN);
  EXPECT_TRUE(node.start(plugin));
  EXPECT_TRUE(node.stop(plugin));
  for (const std::string& violation : node.violations()) ADD_FAILURE() << violation;
}

TEST(@CLASS@, BreaksNoPromiseOfItsInterface) {
  FakeNode node;
  FakeInstance& plugin = node.load(PLUGIN);
  ASSERT_TRUE(node.start(plugin));
  FakeNodeTarget target(node, plugin);
  const ContractReport report = check_contract(target, plugin.provides());
  for (const ContractFinding& finding : report.broken) ADD_FAILURE() << finding.method << ": " << finding.what;
}

}  // namespace
