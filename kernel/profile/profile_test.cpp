#include "kernel/profile/profile.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace pintle {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Folders of profiles and plugins that go with the test. A plugin's "file" is a text that names its id.
class ProfileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/pintle-profile-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
    for (const char* folder : {"etc", "share", "plugins"}) std::filesystem::create_directory(root_ + "/" + folder);
    sources_ = {{root_ + "/etc", root_ + "/share"}, {root_ + "/plugins"}, [this](const std::string& path) {
                  return read_plugin(path);
                }};
    for (const char* plugin : {"network-bridge", "runtime-oci", "plain"})
      write("plugins/" + std::string(plugin) + ".so", plugin);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) { std::ofstream(root_ + "/" + path) << text; }

  // A profile of the shipped folder, or one in /etc.
  void profile(const std::string& name, const std::string& spec, const std::string& folder = "share") {
    write(folder + "/" + name + ".yaml",
          "apiVersion: pintle.io/v1\nkind: NodeProfile\nmetadata: {name: " + name + "}\nspec:\n" + spec);
  }

  Result<PluginFile> read_plugin(const std::string& path) {
    ++reads_;
    std::ifstream file(path);
    PluginFile plugin;
    if (!(file >> plugin.id)) return not_found(path + ": there is no such file");
    plugin.manifest =
        R"({"id": "any", "version": "1.0.0", "needs": [{"name": "runtime", "interface": "x.v1.Runtime"}]})";
    if (plugin.id != "plain") {
      plugin.config_schema = R"({"type": "object", "additionalProperties": false, "properties": {
        "podCIDR": {"type": "string", "format": "cidr"}, "ranges": {"type": "array", "items": {"type": "string"}},
        "mtu": {"type": "integer", "default": 1500}, "runtime": {"enum": ["crun", "runc"]}, "deep": {"type": "object"}}})";
    }
    return plugin;
  }

  ResolvedProfile resolved(const std::string& name) {
    auto result = resolve_profile(name, sources_);
    EXPECT_TRUE(result) << result.status().message();
    return result ? std::move(*result) : ResolvedProfile{"", {}, document::Document::of_value({}, ""), {}, {}, {}};
  }
  std::vector<std::string> problems(const std::string& name) {
    std::vector<std::string> list = resolved(name).problems;
    for (std::string& problem : list) {
      if (problem.starts_with(root_ + "/")) problem.erase(0, root_.size() + 1);
    }
    return list;
  }

  std::string root_;
  ProfileSources sources_;
  int reads_ = 0;
};

TEST_F(ProfileTest, GivesAPlanWithDefaultsAndPaths) {
  profile("a", R"(
  nodeName: edge-7
  plugins:
    network-bridge: {config: {podCIDR: 10.85.0.0/16}}
    lan: {plugin: network-bridge, enabled: false, isolation: process, required: false, logLevel: debug, grants: [x.v1.Y],
          allowUnsigned: true, bindings: {runtime: rt}}
    rt: {plugin: runtime-oci}
)");
  const ResolvedProfile profile = resolved("a");
  ASSERT_THAT(profile.problems, IsEmpty());
  EXPECT_EQ(profile.plan.profile, "a");
  EXPECT_EQ(profile.plan.node, "edge-7");
  ASSERT_EQ(profile.plan.instances.size(), 3u);
  const PlannedInstance expected{"lan",
                                 "network-bridge",
                                 root_ + "/plugins/network-bridge.so",
                                 R"({"mtu":1500})",
                                 Isolation::process,
                                 false,
                                 false,
                                 true,
                                 {"x.v1.Y"},
                                 {{"runtime", "rt"}},
                                 "debug"};
  EXPECT_EQ(profile.plan.instances[0], expected);
  EXPECT_EQ(profile.plan.instances[1].config, R"({"mtu":1500,"podCIDR":"10.85.0.0/16"})");
  EXPECT_EQ(profile.plan.instances[2].plugin, "runtime-oci");
  EXPECT_EQ(reads_, 2) << "each file is read once";
}

TEST_F(ProfileTest, LaysBasesOverEachOtherTheLaterOneWinning) {
  profile(
      "one",
      "  plugins: {network-bridge: {config: {podCIDR: 10.1.0.0/16, mtu: 1400, ranges: [a, b], deep: {x: 1, y: 2}}}}\n");
  profile("two", "  plugins: {network-bridge: {config: {podCIDR: 10.2.0.0/16}}, runtime-oci: {}}\n");
  profile("top", R"(
  extends: [one, two]
  plugins:
    network-bridge: {config: {mtu: null, ranges: [c], deep: {y: 3}}}
)");
  const ResolvedProfile profile = resolved("top");
  ASSERT_THAT(profile.problems, IsEmpty());
  EXPECT_EQ(profile.plan.instances.at(0).config,
            R"({"deep":{"x":1,"y":3},"mtu":1500,"podCIDR":"10.2.0.0/16","ranges":["c"]})");
  EXPECT_EQ(profile.plan.instances.size(), 2u);
  EXPECT_EQ(profile.plan.profile, "top");
  EXPECT_THAT(profile.bases, ElementsAre(root_ + "/share/one.yaml", root_ + "/share/two.yaml"));
}

TEST_F(ProfileTest, ReadsABaseThatTwoOthersShareOnce) {
  profile("base", "  plugins: {plain: {}}\n");
  profile("left", "  extends: [base]\n");
  profile("right", "  extends: [base]\n");
  profile("top", "  extends: [left, right]\n");
  EXPECT_EQ(resolved("top").bases.size(), 3u);
  EXPECT_EQ(resolved("top").plan.instances.size(), 1u);
}

TEST_F(ProfileTest, DropsTheConfigOfAnInstanceThatGetsAnotherPlugin) {
  profile("base", "  plugins: {net: {plugin: network-bridge, config: {podCIDR: 10.1.0.0/16}, logLevel: debug}}\n");
  profile("top", "  extends: [base]\n  plugins: {net: {plugin: plain}}\n");
  const ResolvedProfile profile = resolved("top");
  ASSERT_THAT(profile.problems, IsEmpty());
  EXPECT_EQ(profile.plan.instances.at(0).config, "{}");
  EXPECT_EQ(profile.plan.instances.at(0).log_level, "");
}

TEST_F(ProfileTest, NamesAllStepsOfACircle) {
  profile("a", "  extends: [b]\n");
  profile("b", "  extends: [c]\n");
  profile("c", "  extends: [b]\n");
  const auto result = resolve_profile("a", sources_);
  EXPECT_EQ(result.status().code(), Code::invalid_argument);
  const std::string share = root_ + "/share/";
  EXPECT_EQ(result.status().message(), share + "c.yaml:5:13: profiles extend each other in a circle: " + share +
                                           "b.yaml -> " + share + "c.yaml -> " + share + "b.yaml");
  profile("self", "  extends: [self]\n");
  EXPECT_THAT(resolve_profile("self", sources_).status().message(), HasSubstr("self.yaml -> " + share + "self.yaml"));
}

TEST_F(ProfileTest, PrefersTheAdministratorsFileToTheShippedOne) {
  profile("a", "  plugins: {plain: {}}\n");
  profile("a", "  plugins: {}\n", "etc");
  EXPECT_THAT(resolved("a").plan.instances, IsEmpty());
  EXPECT_EQ(resolved(root_ + "/share/a.yaml").plan.instances.size(), 1u);
}

TEST_F(ProfileTest, SuggestsTheNearestProfileAndPlugin) {
  profile("standalone", "  plugins: {netwrk-bridge: {}}\n");
  EXPECT_EQ(resolve_profile("standalon", sources_).status().message(),
            "there is no profile \"standalon\" in " + root_ + "/etc or " + root_ + "/share; did you mean standalone?");
  EXPECT_THAT(
      problems("standalone"),
      ElementsAre(
          "share/standalone.yaml:5:13: spec.plugins.netwrk-bridge: there is no plugin \"netwrk-bridge\"; did you mean "
          "network-bridge?"));
}

TEST_F(ProfileTest, ReportsEveryWrongKeyWithItsPlace) {
  profile("a", "  plugins:\n    plain: {enable: true}\n    runtime-oci: {isolation: proces}\n  extend: [b]\n");
  EXPECT_THAT(
      problems("a"),
      ElementsAre("share/a.yaml:6:13: spec.plugins.plain.enable: unknown key; did you mean enabled?",
                  "share/a.yaml:7:30: spec.plugins.runtime-oci.isolation: must be one of automatic, in-process or "
                  "process, is \"proces\"; did you mean process?",
                  "share/a.yaml:8:3: spec.extend: unknown key; did you mean extends?"));
  write("share/b.yaml", "apiVersion: pintle.io/v2\nkind: NodeProfile\nmetadata: {name: b}\nspec: {}\n");
  EXPECT_THAT(problems("b"),
              ElementsAre("share/b.yaml:1:13: apiVersion: must be \"pintle.io/v1\", is \"pintle.io/v2\""));
}

TEST_F(ProfileTest, RefusesAnInstanceThatIsNull) {
  profile("a", "  plugins:\n    plain:\n");
  EXPECT_THAT(problems("a"), ElementsAre("share/a.yaml:6:11: spec.plugins.plain: must be a mapping, is null"));
}

TEST_F(ProfileTest, ReportsWrongConfigInTheFileThatWroteIt) {
  profile("base", "  plugins: {network-bridge: {config: {podcidr: 10.1.0.0/16}}}\n");
  profile("top", "  extends: [base]\n  plugins: {network-bridge: {config: {mtu: big}}}\n");
  EXPECT_THAT(
      problems("top"),
      ElementsAre(
          "share/base.yaml:5:39: spec.plugins.network-bridge.config.podcidr: unknown key; did you mean podCIDR?",
          "share/top.yaml:6:44: spec.plugins.network-bridge.config.mtu: must be an integer, is \"big\""));
  EXPECT_THAT(plan_of_profile("top", sources_).status().message(),
              HasSubstr("(and 1 more; pintle profile validate lists all)"));
}

TEST_F(ProfileTest, RefusesConfigForAPluginThatTakesNone) {
  profile("a", "  plugins: {plain: {config: {x: 1}}}\n");
  EXPECT_THAT(problems("a"),
              ElementsAre("share/a.yaml:5:21: spec.plugins.plain.config: the plugin plain takes no config"));
}

TEST_F(ProfileTest, ChecksPathsAndWhatLiesThere) {
  profile("a", "  plugins:\n    x: {plugin: acme, path: " + root_ + "/plugins/plain.so}\n    y: {path: /nowhere.so}\n");
  const auto list = problems("a");
  ASSERT_EQ(list.size(), 2u);
  EXPECT_THAT(list[0],
              HasSubstr("plain.so is the plugin \"plain\", not \"acme\"; write plugin: plain or another path"));
  EXPECT_EQ(list[1], "share/a.yaml:7:15: spec.plugins.y.path: /nowhere.so: there is no such file");
}

TEST_F(ProfileTest, ChecksBindings) {
  profile("a", "  plugins: {plain: {bindings: {runtme: runtime-oci, runtime: runtime}}, runtime-oci: {}}\n");
  EXPECT_THAT(problems("a"), ElementsAre("share/a.yaml:5:32: spec.plugins.plain.bindings.runtme: the plugin plain has "
                                         "no need \"runtme\"; did you mean runtime?",
                                         "share/a.yaml:5:62: spec.plugins.plain.bindings.runtime: there is no instance "
                                         "\"runtime\" in the profile; known "
                                         "are plain, runtime-oci"));
}

TEST_F(ProfileTest, FindsAPluginWhoseFileHasAnotherName) {
  write("plugins/libacme.so", "acme");
  profile("a", "  plugins: {acme: {}}\n");
  EXPECT_EQ(resolved("a").plan.instances.at(0).path, root_ + "/plugins/libacme.so");
  EXPECT_THAT(list_plugins(sources_), ElementsAre("acme", "network-bridge", "plain", "runtime-oci"));
}

TEST_F(ProfileTest, DoesNotRunAProfileThatAwaitsSomething) {
  profile("a", "  awaits: [the API server, a store]\n  plugins: {plain: {}}\n");
  EXPECT_THAT(problems("a"), IsEmpty());
  const Status status = plan_of_profile("a", sources_).status();
  EXPECT_EQ(status.code(), Code::failed_precondition);
  EXPECT_EQ(status.message(), "the profile a cannot run yet: it awaits the API server; a store");
}

TEST_F(ProfileTest, WantsTheFilesNameInTheProfile) {
  write("share/a.yaml", "apiVersion: pintle.io/v1\nkind: NodeProfile\nmetadata: {name: b}\nspec: {}\n");
  EXPECT_THAT(problems("a"),
              ElementsAre("share/a.yaml:3:18: metadata.name: must be a, as the file's name is, is \"b\""));
  EXPECT_THAT(problems(root_ + "/share/a.yaml"), IsEmpty()) << "a path may have any name";
  EXPECT_THAT(resolve_profile("a.yaml", sources_).status().message(), HasSubstr("a.yaml"))
      << "a file of the working directory";
  EXPECT_EQ(resolve_profile("a.yaml", sources_).status().code(), Code::not_found);
}

TEST_F(ProfileTest, ListsProfilesAndWhatIsWrongWithThem) {
  profile("good", "  extends: [broken]\n");
  write("share/broken.yaml", "kind: [\n");
  write("share/README.md", "not a profile");
  const auto list = list_profiles(sources_);
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].name, "broken");
  EXPECT_THAT(list[0].problem, HasSubstr("broken.yaml:2:1: "));
  EXPECT_THAT(list[1].extends, ElementsAre("broken"));
}

TEST(DiffPlans, NamesWhatDiffersAndNothingElse) {
  NodePlan from, to;
  from.instances = {{.name = "gone", .plugin = "p"},
                    {.name = "net", .plugin = "bridge", .config = R"({"a":1,"b":{"c":[1],"d":2}})"},
                    {.name = "same", .plugin = "p", .config = "{}"}};
  to.instances = {
      {.name = "same", .plugin = "p", .config = "{}"},
      {.name = "net", .plugin = "bridge", .config = R"({"b":{"c":[1,2],"d":2},"e":true})", .log_level = "debug"},
      {.name = "fresh", .plugin = "p"}};
  using Kind = PlanChange::Kind;
  EXPECT_THAT(diff_plans(from, to),
              ElementsAre(PlanChange{"fresh", "p", Kind::added, {}}, PlanChange{"gone", "p", Kind::removed, {}},
                          PlanChange{"net",
                                     "bridge",
                                     Kind::changed,
                                     {{"config.a", "1", ""},
                                      {"config.b.c", "[1]", "[1,2]"},
                                      {"config.e", "", "true"},
                                      {"logLevel", "\"\"", "\"debug\""}}}));
  EXPECT_THAT(diff_plans(from, from), IsEmpty());
}

}  // namespace
}  // namespace pintle
