// `plugin check` against finished plugins, and against one that has every flaw in turn.

#include "sdk/testkit/plugin_check.hpp"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "sdk/support/document/document.hpp"
#include "sdk/support/document/schema.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::testkit {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

std::string plugin_file(const std::string& name) { return std::string(PLUGINS "/") + name + ".so"; }
std::string victim_file(const std::string& name) { return std::string(VICTIMS "/") + name + ".so"; }

class PluginCheck : public testing::Test {
 protected:
  PluginCheck() {
    std::string pattern = (fs::temp_directory_path() / "plugin-check-test-XXXXXX").string();
    folder = mkdtemp(pattern.data());
  }
  ~PluginCheck() override { fs::remove_all(folder); }

  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder / name, std::ios::binary) << text;
    return (folder / name).string();
  }
  /// The victim, with the flaw.
  PluginReport check_victim(const std::string& flaw) {
    PluginCheckOptions options;
    options.config_file = write("config.json", "{\"how\": \"" + flaw + "\"}");
    options.patience = std::chrono::milliseconds(2000);
    return check_plugin(victim_file("victim"), options);
  }
  static const CheckStep& step(const PluginReport& report, const std::string& name) {
    static const CheckStep none{"", Outcome::skipped, "there is no such step", {}};
    const CheckStep* found = &none;
    for (const CheckStep& one : report.steps) {
      if (one.name == name) found = &one;  // the last: what ended the child follows what it reported
    }
    return *found;
  }

  fs::path folder;
};

const char* const echo_contract = "contract of pintle.example.v1.Echo";

class FinishedPlugin : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Examples, FinishedPlugin, testing::Values("echo-c", "echo-cpp"));

TEST_P(FinishedPlugin, IsGreenInEveryStep) {
  const PluginReport report = check_plugin(plugin_file(GetParam()));
  EXPECT_EQ(report.verdict, Verdict::green);
  EXPECT_EQ(report.id, GetParam());
  std::vector<std::string> names;
  for (const CheckStep& one : report.steps) {
    names.push_back(one.name);
    EXPECT_EQ(one.outcome, Outcome::passed) << one.name << ": " << one.summary;
    EXPECT_THAT(one.findings, ElementsAre()) << one.name;
  }
  EXPECT_THAT(names, ElementsAre("file", "note", "symbols", "linking", "manifest", "config", "entry", "create", "start",
                                 echo_contract, "stop", "conduct"));
}

// ---- What is no plugin -----------------------------------------------------------------------------------------------------

TEST_F(PluginCheck, ToldApartFromAPluginIsEverythingElse) {
  EXPECT_EQ(check_plugin((folder / "absent.so").string()).verdict, Verdict::not_found);
  EXPECT_EQ(check_plugin(folder.string()).verdict, Verdict::not_a_plugin);
  EXPECT_EQ(check_plugin(write("empty.so", "")).verdict, Verdict::not_a_plugin);
  EXPECT_EQ(check_plugin(write("text.so", "no library at all")).verdict, Verdict::not_a_plugin);
  EXPECT_EQ(check_plugin("/proc/self/exe").verdict, Verdict::not_a_plugin);
}

TEST_F(PluginCheck, NeverTakesATruncatedPluginForAGreenOne) {
  const Result<std::string> whole = files::read_file(plugin_file("echo-c"));
  ASSERT_TRUE(whole);
  for (size_t parts = 1; parts < 16; ++parts) {
    const PluginReport report = check_plugin(write("truncated.so", whole->substr(0, whole->size() * parts / 16)));
    EXPECT_TRUE(report.verdict == Verdict::not_a_plugin || report.verdict == Verdict::broken)
        << verdict_name(report.verdict);
  }
}

TEST_F(PluginCheck, SeesAManifestThatWasChangedAfterTheBuild) {
  std::string bytes = *files::read_file(plugin_file("echo-c"));
  const size_t at = bytes.find("touches nothing");
  ASSERT_NE(at, std::string::npos);
  bytes[at] = 'T';
  const PluginReport report = check_plugin(write("patched.so", bytes));
  EXPECT_EQ(report.verdict, Verdict::broken);
  EXPECT_THAT(step(report, "note").findings, ElementsAre(HasSubstr("changed after the build")));
  EXPECT_EQ(step(report, "entry").outcome, Outcome::skipped) << "what a node would refuse is not run";
}

TEST_F(PluginCheck, NamesEveryFlawOfLinking) {
  const PluginReport report = check_plugin(victim_file("victim-linking"));
  EXPECT_EQ(report.verdict, Verdict::broken);
  EXPECT_THAT(step(report, "symbols").findings, ElementsAre(StartsWith("leaked_symbol is exported")));
  const CheckStep& linking = step(report, "linking");
  EXPECT_THAT(linking.findings, Contains(HasSubstr("initial-exec")));
  EXPECT_THAT(linking.findings, Contains(HasSubstr("-z,now")));
  EXPECT_THAT(linking.findings, Contains(HasSubstr("executable stack")));
  EXPECT_THAT(linking.findings, Contains(HasSubstr("nobody_has_this_symbol")));
}

// ---- Manifest and config ---------------------------------------------------------------------------------------------------

TEST_F(PluginCheck, NamesTheMistakesOfAManifest) {
  const PluginReport report = check_plugin(victim_file("victim-wrong"));
  EXPECT_EQ(report.verdict, Verdict::broken);
  const CheckStep& manifest = step(report, "manifest");
  EXPECT_THAT(manifest.findings, Contains(AllOf(StartsWith("manifest.json:5:"), HasSubstr("maturity"))));
  EXPECT_THAT(manifest.findings, Contains(HasSubstr("manifest.json:7:3: provide: unknown key")));
  EXPECT_THAT(manifest.findings, Contains(HasSubstr("did you mean shout?")));
  EXPECT_THAT(manifest.findings, Contains(HasSubstr("has the revision 1 in this SDK, not 2")));
  EXPECT_THAT(step(report, "config").summary, HasSubstr("must be at most 5, is 6"));
}

TEST_F(PluginCheck, SaysWhichConfigItNeeds) {
  const PluginReport report = check_plugin(victim_file("victim"));
  EXPECT_EQ(report.verdict, Verdict::incomplete);
  EXPECT_THAT(step(report, "config").findings, ElementsAre(HasSubstr("how")));
  EXPECT_EQ(step(report, "create").outcome, Outcome::skipped);
  EXPECT_EQ(step(report, echo_contract).outcome, Outcome::skipped);
}

TEST_F(PluginCheck, SaysWhereAConfigIsWrong) {
  PluginCheckOptions options;
  options.config_file = write("config.yaml", "hwo: none\n");
  const PluginReport report = check_plugin(victim_file("victim"), options);
  EXPECT_EQ(report.verdict, Verdict::broken);
  EXPECT_THAT(step(report, "config").findings,
              Contains(AllOf(HasSubstr("config.yaml:1:1"), HasSubstr("did you mean how?"))));
}

TEST_F(PluginCheck, SkipsTheContractOfAPluginWhoseNeedNobodyAnswers) {
  const PluginReport report = check_plugin(victim_file("victim-needy"));
  EXPECT_EQ(report.verdict, Verdict::incomplete);
  EXPECT_EQ(step(report, "create").outcome, Outcome::passed);
  EXPECT_EQ(step(report, "start").outcome, Outcome::skipped);
  EXPECT_THAT(step(report, "start").summary, HasSubstr("network (pintle.network.v1.PodNetwork)"));
  EXPECT_EQ(step(report, echo_contract).outcome, Outcome::skipped);
  EXPECT_EQ(step(report, "stop").outcome, Outcome::passed);
}

// ---- What runs -------------------------------------------------------------------------------------------------------------

TEST_F(PluginCheck, NamesTheMethodsThatAreUnimplemented) {
  const PluginReport report = check_plugin(victim_file("victim-needless"));
  EXPECT_THAT(step(report, echo_contract).findings,
              AllOf(Contains("Count is unimplemented"), Contains("Listen is unimplemented"),
                    Contains("Publish is unimplemented"), Not(Contains("Say is unimplemented"))));
}

TEST_F(PluginCheck, AsksForNoMethodOfAFeatureThatThePluginDoesNotHave) {
  const PluginReport report = check_plugin(victim_file("victim-image"));
  const CheckStep& contract = step(report, "contract of pintle.image.v1.ImageBackend");
  EXPECT_THAT(contract.findings, Contains("Load is unimplemented"));
  EXPECT_THAT(contract.findings, Not(Contains("Pull is unimplemented")));
  EXPECT_THAT(contract.summary, HasSubstr("left out by its features: Pull"));
}

TEST_F(PluginCheck, TakesACrashForAFinding) {
  const PluginReport start = check_victim("crash-in-start");
  EXPECT_EQ(start.verdict, Verdict::broken);
  EXPECT_THAT(step(start, "start").summary, HasSubstr("SIGABRT"));
  const PluginReport call = check_victim("crash-in-call");
  EXPECT_EQ(call.verdict, Verdict::broken);
  EXPECT_THAT(step(call, echo_contract).summary, AllOf(HasSubstr("in Say"), HasSubstr("SIGSEGV")));
}

TEST_F(PluginCheck, TakesAHangForAFinding) {
  const PluginReport report = check_victim("hang");
  EXPECT_EQ(report.verdict, Verdict::broken);
  EXPECT_THAT(step(report, echo_contract).summary, StartsWith("it hangs in Say"));
}

TEST_F(PluginCheck, TakesTheEndOfTheProcessForAFinding) {
  const PluginReport report = check_victim("exit");
  EXPECT_EQ(report.verdict, Verdict::broken);
  EXPECT_THAT(step(report, echo_contract).summary, AllOf(HasSubstr("in Say"), HasSubstr("never calls exit")));
}

TEST_F(PluginCheck, SaysWhyAnInstanceIsRefused) {
  const PluginReport report = check_victim("refuse");
  EXPECT_EQ(report.verdict, Verdict::broken);
  EXPECT_THAT(step(report, "create").summary, HasSubstr("the machine is not to its liking"));
}

TEST_F(PluginCheck, SeesAPromiseThatIsBroken) {
  EXPECT_THAT(step(check_victim("twice"), "conduct").findings, Contains(HasSubstr("completed one call twice")));
}

TEST_F(PluginCheck, SeesWhatWasDoneToTheProcess) {
  EXPECT_THAT(step(check_victim("umask signal folder"), "conduct").findings,
              ElementsAre(HasSubstr("SIGUSR1"), HasSubstr("umask"), HasSubstr("working directory")));
}

TEST_F(PluginCheck, LeavesNothingBehind) {
  if (geteuid() != 0) GTEST_SKIP() << "only root's children have process namespaces of their own";
  // Every copy of the descriptor that the check's processes inherit must be gone, or the read below does not end.
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const auto folders = [] {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(fs::temp_directory_path())) {
      count += entry.path().filename().string().starts_with("pintle-check-");
    }
    return count;
  };
  const size_t before = folders();
  check_victim("child");
  check_victim("child crash-in-call");
  check_victim("child hang");
  close(ends[1]);
  char byte;
  EXPECT_EQ(read(ends[0], &byte, 1), 0);
  close(ends[0]);
  EXPECT_EQ(folders(), before);
}

// ---- The manifests of the tree ---------------------------------------------------------------------------------------------

TEST(ManifestSchema, TakesEveryManifestOfTheTree) {
  Result<document::Schema> schema = document::Schema::parse(manifest_schema(), "manifest.schema.json");
  ASSERT_TRUE(schema) << schema.status().message();
  size_t count = 0;
  for (const char* part : {"plugins", "cri", "proxy", "controlplane", "sdk/examples", "tests"}) {
    const fs::path top = fs::path(SOURCES) / part;
    if (!fs::exists(top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(top)) {
      if (entry.path().filename() != "manifest.json") continue;
      ++count;
      Result<document::Document> manifest = document::read_document_file(entry.path().string());
      ASSERT_TRUE(manifest) << manifest.status().message();
      for (const document::Problem& problem : schema->check(*manifest)) ADD_FAILURE() << problem.text();
      const fs::path config = entry.path().parent_path() / "config.schema.json";
      if (!fs::exists(config)) continue;
      const Result<document::Schema> compiled =
          document::Schema::parse(*files::read_file(config.string()), config.string());
      EXPECT_TRUE(compiled) << compiled.status().message();
    }
  }
  EXPECT_GE(count, 2u);
}

}  // namespace
}  // namespace pintle::testkit
