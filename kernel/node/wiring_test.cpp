#include "kernel/node/wiring.hpp"

#include <gmock/gmock.h>

#include <deque>

namespace pintle::kernel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class WiringTest : public testing::Test {
 protected:
  PlannedInstance& add(const std::string& name, const std::string& manifest, bool is_signed = true) {
    Result<Manifest> parsed = parse_manifest(manifest, name);
    EXPECT_TRUE(parsed) << parsed.status().message();
    manifests_.push_back(*parsed);
    plans_.push_back({.name = name, .plugin = name});
    inputs_.push_back({&plans_.back(), &manifests_.back(), is_signed});
    return plans_.back();
  }
  static std::string manifest(const std::string& provides, const std::string& needs, const std::string& when = "start",
                              const std::string& wants = "one") {
    return R"({"id": "x", "version": "1.0.0", "provides": [)" +
           (provides.empty() ? "" : R"({"interface": ")" + provides + R"("})") + R"(], "needs": [)" +
           (needs.empty() ? ""
                          : R"({"name": "n", "interface": ")" + needs + R"(", "when": ")" + when + R"(", "wants": ")" +
                                wants + R"("})") +
           "]}";
  }
  std::deque<PlannedInstance> plans_;
  std::deque<Manifest> manifests_;
  std::vector<WiringInput> inputs_;
};

TEST_F(WiringTest, ProvidersStartBeforeThoseWhoNeedThem) {
  add("top", manifest("", "b"));
  add("middle", manifest("b", "a"));
  add("bottom", manifest("a", ""));
  const Result<Wiring> wiring = wire(inputs_);
  ASSERT_TRUE(wiring);
  EXPECT_THAT(wiring->order, ElementsAre("bottom", "middle", "top"));
  EXPECT_THAT(wiring->providers.at("top"), ElementsAre(ElementsAre("middle")));
  EXPECT_TRUE(wiring->problems.empty());
}

TEST_F(WiringTest, ACircleOfStartNeedsIsRefusedWithAllSidesNamed) {
  add("api", manifest("api", "authorization"));
  add("rbac", manifest("authorization", "api"));
  const Result<Wiring> wiring = wire(inputs_);
  ASSERT_FALSE(wiring);
  EXPECT_THAT(wiring.status().message(), HasSubstr("api needs rbac needs api"));
}

TEST_F(WiringTest, ALateNeedMakesNoCircle) {
  add("api", manifest("api", "authorization", "late"));
  add("rbac", manifest("authorization", "api"));
  EXPECT_TRUE(wire(inputs_));
}

TEST_F(WiringTest, SeveralProvidersForOneMustBeChosenByName) {
  PlannedInstance& cri = add("cri", manifest("", "runtime"));
  add("crun", manifest("runtime", ""));
  add("docker", manifest("runtime", ""));
  EXPECT_THAT(wire(inputs_)->problems.at("cri"), HasSubstr("crun, docker"));
  cri.bindings["n"] = "docker";
  EXPECT_THAT(wire(inputs_)->providers.at("cri"), ElementsAre(ElementsAre("docker")));
  cri.bindings["n"] = "nobody";
  EXPECT_THAT(wire(inputs_)->problems.at("cri"), HasSubstr("nobody"));
  cri.bindings = {{"m", "docker"}};
  EXPECT_THAT(wire(inputs_)->problems.at("cri"), HasSubstr("no need \"m\""));
}

TEST_F(WiringTest, ANeedForManyGetsAllAndANeedWithoutProviderIsAProblemOnlyAtStart) {
  add("scheduler", manifest("", "policy", "start", "many"));
  add("one", manifest("policy", ""));
  add("two", manifest("policy", ""));
  add("lonely", manifest("", "nothing"));
  add("patient", manifest("", "nothing", "late"));
  const Result<Wiring> wiring = wire(inputs_);
  EXPECT_THAT(wiring->providers.at("scheduler"), ElementsAre(ElementsAre("one", "two")));
  EXPECT_EQ(wiring->problems.size(), 1u);
  EXPECT_THAT(wiring->problems.at("lonely"), HasSubstr("no plugin of the profile answers"));
}

TEST_F(WiringTest, AnUnsignedPluginCallsOnlyWhatIsGranted) {
  PlannedInstance& gpu = add("gpu", manifest("", "runtime"), false);
  add("crun", manifest("runtime", ""));
  EXPECT_THAT(wire(inputs_)->problems.at("gpu"), HasSubstr("not granted"));
  EXPECT_THAT(wire(inputs_)->providers.at("gpu"), ElementsAre(ElementsAre()));
  gpu.grants = {"runtime"};
  EXPECT_THAT(wire(inputs_)->providers.at("gpu"), ElementsAre(ElementsAre("crun")));
}

TEST(ManifestTest, NamesTheMemberThatIsWrong) {
  const auto problem = [](const char* text) { return parse_manifest(text, "x.so").status().message(); };
  EXPECT_THAT(problem("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(problem(R"({"version": "1"})"), HasSubstr("manifest: id is missing"));
  EXPECT_THAT(problem(R"({"id": "x", "version": "1", "memoryLimit": "64 MB"})"), HasSubstr("memoryLimit"));
  EXPECT_THAT(problem(R"({"id": "x", "version": "1", "needs": [{"name": "n", "interface": "i", "when": "soon"}]})"),
              HasSubstr("manifest: needs[0].when must be"));
  EXPECT_THAT(
      problem(
          R"({"id": "x", "version": "1", "needs": [{"name": "n", "interface": "i"}, {"name": "n", "interface": "j"}]})"),
      HasSubstr("the name n twice"));
  EXPECT_EQ(*parse_bytes("64Mi"), 64u << 20);
  EXPECT_FALSE(parse_bytes("99999999999Gi"));
}

}  // namespace
}  // namespace pintle::kernel
