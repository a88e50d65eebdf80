#include "kernel/cli/cli.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernel/cli/completion.hpp"
#include "kernel/cli/doctor.hpp"
#include "kernel/cli/pods.hpp"

namespace pintle::cli {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using Words = std::vector<std::string>;

// Commands in this process, with folders of their own and no daemon.
class CliTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/pintle-cli-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
    std::filesystem::create_directory(root_ + "/profiles");
    std::filesystem::create_directory(root_ + "/plugins");
    std::ofstream(root_ + "/plugins/bridge.so") << "bridge";
    profile("base", "  plugins: {bridge: {config: {mtu: 1400}}}\n");
    profile("edge", "  extends: [base]\n  plugins: {bridge: {config: {mtu: 1300}}, lan: {plugin: bridge}}\n");
    profile("wrong", "  plugins: {bridge: {config: {mut: 1400}}}\n");
    profile("later", "  awaits: [a moon]\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void profile(const std::string& name, const std::string& spec) {
    std::ofstream(root_ + "/profiles/" + name + ".yaml")
        << "apiVersion: pintle.io/v1\nkind: NodeProfile\nmetadata: {name: " << name << "}\nspec:\n"
        << spec;
  }

  int run(const Words& arguments) {
    out_.str("");
    error_.str("");
    Context context(out_, error_);
    prepare(context);
    return cli::run(context, arguments);
  }
  void prepare(Context& context) {
    context.socket = root_ + "/pintled.sock";
    context.profiles.profile_folders = {root_ + "/profiles"};
    context.profiles.plugin_folders = {root_ + "/plugins"};
    context.profiles.read_plugin = [](const std::string& path) -> Result<PluginFile> {
      PluginFile file;
      if (!(std::ifstream(path) >> file.id)) return not_found(path + ": there is no such file");
      file.config_schema =
          R"({"type": "object", "additionalProperties": false, "properties": {"mtu": {"type": "integer", "default": 1500}}})";
      return file;
    };
  }
  Words completed(const Words& words) {
    Context context(out_, error_);
    prepare(context);
    const auto app = make_app(context);
    Words found;
    for (const Candidate& candidate : complete(*app, context, words)) found.push_back(candidate.word);
    return found;
  }
  std::string out() const { return out_.str(); }
  std::string error() const { return error_.str(); }

  std::string root_;
  std::ostringstream out_, error_;
};

TEST_F(CliTest, GivesTwoForWrongUsageAndSaysWhatWasMeant) {
  EXPECT_EQ(run({"stauts"}), exit_invalid);
  EXPECT_THAT(error(), HasSubstr("did you mean status?"));
  EXPECT_EQ(run({"plugin", "lst"}), exit_invalid);
  EXPECT_THAT(error(), AllOf(HasSubstr("did you mean ls?"), HasSubstr("see: pintle plugin --help")));
  EXPECT_EQ(run({"pod", "ls", "--ouput", "json"}), exit_invalid);
  EXPECT_THAT(error(), HasSubstr("did you mean --output?"));
  EXPECT_EQ(run({"pod", "ls", "-o", "xml"}), exit_invalid);
  EXPECT_EQ(run({}), exit_invalid);
  EXPECT_THAT(out(), IsEmpty());
}

TEST_F(CliTest, GivesFourAndTheNextStepWhenNobodyAnswers) {
  for (const Words& command :
       {Words{"status"}, {"plugin", "ls"}, {"pod", "ls"}, {"image", "ls"}, {"logs"}, {"profile", "show"}}) {
    EXPECT_EQ(run(command), exit_unreachable) << command[0];
    EXPECT_THAT(error(), AllOf(HasSubstr("cannot reach pintled at " + root_ + "/pintled.sock: it is not running"),
                               HasSubstr("start it with: ")));
  }
  EXPECT_EQ(run({"pod", "exec", "web", "--", "true"}), exit_exec_failed);
}

TEST_F(CliTest, HelpsWithEveryCommand) {
  EXPECT_EQ(run({"--help"}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("Exit codes: 0 done"));
  Context context(out_, error_);
  const auto app = make_app(context);
  for (const CLI::App* group : app->get_subcommands([](const CLI::App*) { return true; })) {
    EXPECT_FALSE(group->get_description().empty()) << group->get_name();
    for (const CLI::App* leaf : group->get_subcommands([](const CLI::App*) { return true; })) {
      EXPECT_EQ(run({group->get_name(), leaf->get_name(), "--help"}), exit_ok);
      EXPECT_THAT(out(), StartsWith(leaf->get_description())) << leaf->get_name();
    }
  }
}

TEST(ExitCodes, TellKindsOfErrorsApart) {
  EXPECT_EQ(exit_code_of(Code::ok), 0);
  EXPECT_EQ(exit_code_of(Code::internal), 1);
  EXPECT_EQ(exit_code_of(Code::invalid_argument), 2);
  EXPECT_EQ(exit_code_of(Code::not_found), 3);
  EXPECT_EQ(exit_code_of(Code::unavailable), 5);
  EXPECT_EQ(exit_code_of(Code::failed_precondition), 6);
  EXPECT_EQ(exit_code_of(Code::permission_denied), 7);
  EXPECT_EQ(exit_code_of(Code::deadline_exceeded), 8);
}

TEST_F(CliTest, ListsProfiles) {
  EXPECT_EQ(run({"profile", "ls"}), exit_ok);
  EXPECT_THAT(out(), AllOf(HasSubstr("edge   base     yes"), HasSubstr("later  -        not yet  awaits a moon")));
  EXPECT_EQ(run({"profile", "ls", "-o", "json"}), exit_ok);
  EXPECT_EQ(boost::json::parse(out()).at("profiles").as_array().size(), 4u);
}

TEST_F(CliTest, ValidatesProfilesWithoutADaemon) {
  EXPECT_EQ(run({"profile", "validate", "base", "edge"}), exit_ok);
  EXPECT_EQ(out(), "base: valid, 1 plugins\nedge: valid, 2 plugins\n");
  EXPECT_EQ(run({"profile", "validate", "base", "wrong"}), exit_invalid);
  EXPECT_EQ(error(), "pintle: " + root_ +
                         "/profiles/wrong.yaml:5:31: spec.plugins.bridge.config.mut: unknown key; did you mean mtu?\n");
  EXPECT_EQ(run({"profile", "validate", "bsae"}), exit_not_found);
  EXPECT_THAT(error(), HasSubstr("did you mean base?"));
  EXPECT_EQ(run({"profile", "validate", "later"}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("cannot run yet, it awaits a moon"));
  EXPECT_EQ(run({"profile", "validate", "wrong", "-o", "json"}), exit_invalid);
  EXPECT_EQ(boost::json::parse(out()).at("profiles").at(0).at("valid").as_bool(), false);
}

TEST_F(CliTest, ShowsAndComparesProfiles) {
  EXPECT_EQ(run({"profile", "show", "edge"}), exit_ok);
  EXPECT_THAT(out(), AllOf(HasSubstr("# over " + root_ + "/profiles/base.yaml"), HasSubstr("mtu: 1300"),
                           Not(HasSubstr("extends"))));
  EXPECT_EQ(run({"profile", "show", "edge", "--plan", "-o", "json"}), exit_ok);
  EXPECT_EQ(boost::json::parse(out()).at("instances").at(1).at("config").at("mtu").as_int64(), 1500)
      << "defaults are filled in";
  EXPECT_EQ(run({"profile", "diff", "base", "edge"}), exit_ok);
  EXPECT_EQ(out(), "~ bridge\n    config.mtu: 1400 -> 1300\n+ lan (bridge)\n");
  EXPECT_EQ(run({"profile", "diff", "edge", "edge"}), exit_ok);
  EXPECT_EQ(out(), "no difference\n");
}

TEST_F(CliTest, NamesPodsWithOrWithoutNamespace) {
  EXPECT_EQ(parse_pod_name("web", "")->text(), "web");
  EXPECT_EQ(parse_pod_name("web", "prod")->text(), "prod/web");
  EXPECT_EQ(parse_pod_name("kube/web", "prod")->text(), "kube/web");
  for (const char* wrong : {"", "/web", "a/", "a/b/c"}) EXPECT_FALSE(parse_pod_name(wrong, "")) << wrong;
}

TEST_F(CliTest, CompletesEveryCommandOfTheApplication) {
  Context context(out_, error_);
  const auto app = make_app(context);
  Words groups;
  for (const CLI::App* group : app->get_subcommands([](const CLI::App*) { return true; })) {
    groups.push_back(group->get_name());
    Words leaves;
    for (const CLI::App* leaf : group->get_subcommands([](const CLI::App*) { return true; })) {
      leaves.push_back(leaf->get_name());
      EXPECT_THAT(completed({group->get_name(), leaf->get_name(), "--he"}), ElementsAre("--help"));
    }
    if (!leaves.empty()) {
      EXPECT_EQ(completed({group->get_name(), ""}), leaves);
    }
  }
  EXPECT_EQ(completed({""}), groups);
  EXPECT_THAT(completed({"pl"}), ElementsAre("plugin"));
}

TEST_F(CliTest, CompletesOptionsAndTheirValues) {
  EXPECT_THAT(completed({"pod", "logs", "--"}),
              AllOf(Contains("--follow"), Contains("--container"), Contains("--output")));
  EXPECT_THAT(completed({"pod", "ls", "-o", ""}), ElementsAre("table", "wide", "json", "yaml"));
  EXPECT_THAT(completed({"pod", "ls", "--output=j"}), ElementsAre("--output=json"));
  EXPECT_THAT(completed({"logs", "--level", "w"}), ElementsAre("warn"));
  EXPECT_THAT(completed({"pod", "apply", "-f", ""}), ElementsAre(":files"));
  EXPECT_THAT(completed({"completion", ""}), ElementsAre("bash", "zsh", "fish"));
}

TEST_F(CliTest, CompletesNamesThatExist) {
  EXPECT_THAT(completed({"profile", "show", ""}), ElementsAre("base", "edge", "later", "wrong"));
  EXPECT_THAT(completed({"profile", "diff", "base", "e"}), ElementsAre("edge"));
  EXPECT_THAT(completed({"profile", "show", "base", ""}), IsEmpty()) << "it takes one";
  EXPECT_THAT(completed({"plugin", "stop", ""}), IsEmpty()) << "nobody answers, and nothing is said";
  EXPECT_EQ(error(), "");
}

TEST_F(CliTest, BashCompletesThroughItsScript) {
  ASSERT_EQ(run({"completion", "bash"}), exit_ok);
  std::ofstream(root_ + "/pintle") << "#!/bin/sh\nprintf '%s\\n' \"$@\" >" << root_
                                   << "/asked\nprintf 'repo:one\\tfirst\\nrepo:two\\n'\n";
  std::filesystem::permissions(root_ + "/pintle", std::filesystem::perms::all);
  std::ofstream(root_ + "/completion") << out();
  std::ofstream(root_ + "/try")
      << "PATH=" << root_ << ":$PATH; source " << root_ << "/completion\n"
      << "COMP_LINE='pintle image rm repo:'; COMP_POINT=${#COMP_LINE}; _pintle; printf '%s,' \"${COMPREPLY[@]}\"\n";
  EXPECT_EQ(run_program({"bash", root_ + "/try"}).output, "one,two,")
      << "bash replaces what stands behind the colon only";
  std::ifstream asked(root_ + "/asked");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(asked), {}), "__complete\nimage\nrm\nrepo:\n");
}

TEST_F(CliTest, ReportsItsVersionWithoutADaemon) {
  EXPECT_EQ(run({"version"}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("pintled  not reachable"));
}

// ---- doctor ---------------------------------------------------------------------------------------------------------------

class DoctorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/pintle-host-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void file(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text << "\n";
  }
  Finding finding(Check check, const std::string& name) {
    for (Finding& one : check(Host(root_))) {
      if (one.name == name) return one;
    }
    return {name, Health::ok, "not found", "", ""};
  }
  std::string root_;
};

TEST_F(DoctorTest, SeesTheHybridHierarchyThatCrunRefuses) {
  file("/proc/self/mountinfo",
       "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n31 25 0:27 / /sys/fs/cgroup/cpu rw shared:1 - "
       "cgroup cgroup rw,cpu,cpuacct\n"
       "32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n33 25 0:29 / /sys/fs/cgroup/rest rw - cgroup "
       "cgroup rw,pids,freezer,devices");
  file("/sys/fs/cgroup/unified/cgroup.controllers", "hugetlb");
  EXPECT_EQ(finding(check_cgroups, "hybrid").health, Health::warn);
  EXPECT_THAT(finding(check_cgroups, "hybrid").mend, HasSubstr("mount -t cgroup -o hugetlb"));
  EXPECT_EQ(finding(check_cgroups, "controllers").health, Health::ok);
  file("/sys/fs/cgroup/unified/cgroup.controllers", "");
  EXPECT_EQ(finding(check_cgroups, "hybrid").what, "not found");
}

TEST_F(DoctorTest, SeesMissingControllers) {
  file("/proc/self/mountinfo", "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
  file("/sys/fs/cgroup/cgroup.controllers", "cpu pids");
  EXPECT_EQ(finding(check_cgroups, "controllers").what, "missing: memory");
  file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids");
  EXPECT_EQ(finding(check_cgroups, "controllers").health, Health::ok);
  EXPECT_THAT(finding(check_cgroups, "cgroup-driver").what, HasSubstr("cgroupfs"));
  file("/run/systemd/system/x", "");
  EXPECT_EQ(finding(check_cgroups, "cgroup-driver").health, Health::fail);
  EXPECT_THAT(finding(check_cgroups, "cgroup-driver").mend, HasSubstr("systemctl start dbus.socket"));
  file("/run/dbus/system_bus_socket", "");
  EXPECT_EQ(finding(check_cgroups, "cgroup-driver").health, Health::ok);
  file("/sys/fs/cgroup/kubepods/x", "");
  EXPECT_EQ(finding(check_cgroups, "cgroup-driver").health, Health::warn);
  EXPECT_THAT(finding(check_cgroups, "cgroup-driver").what, HasSubstr("/kubepods was made past systemd"));
  file("/proc/self/mountinfo", "25 1 0:25 / / rw - ext4 /dev/sda rw");
  EXPECT_EQ(finding(check_cgroups, "hierarchy").health, Health::fail);
}

TEST_F(DoctorTest, SeesSettingsInTheWay) {
  file("/proc/sys/net/ipv4/ip_forward", "0");
  file("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
  file("/etc/cni/net.d/10-flannel.conflist", "{}");
  file("/etc/resolv.conf", "nameserver 127.0.0.53");
  EXPECT_THAT(finding(check_network, "ip-forward").what, HasSubstr("is 0; network-bridge turns it on"));
  EXPECT_EQ(finding(check_network, "bridge-nf").health, Health::warn);
  EXPECT_THAT(finding(check_network, "cni").what, HasSubstr("10-flannel.conflist"));
  EXPECT_EQ(finding(check_network, "dns").health, Health::warn);
  file("/proc/sys/net/ipv4/ip_forward", "1");
  file("/etc/resolv.conf", "nameserver 127.0.0.53\nnameserver 192.0.2.1");
  EXPECT_EQ(finding(check_network, "ip-forward").what, "net.ipv4.ip_forward is 1");
  EXPECT_EQ(finding(check_network, "dns").health, Health::ok);
}

TEST(DoctorOnThisHost, SeesAFirewallThatDropsForwardedPackets) {
  if (geteuid() != 0 || find_program("nft").empty()) GTEST_SKIP() << "needs root and nft";
  const auto policy = [](const char* chain) {
    // In a network namespace of its own, which ends with the child.
    return try_in_child([chain] {
      if (unshare(CLONE_NEWNET) != 0) return errno;
      if (run_program({"nft", "add", "table", "ip", "filter"}).exit != 0 ||
          run_program({"nft", "add", "chain", "ip", "filter", "FORWARD", chain}).exit != 0)
        return EIO;
      for (const Finding& finding : check_network(Host(""))) {
        if (finding.name != "forward-policy") continue;
        const bool named = finding.what.find("ip filter FORWARD") != std::string::npos;
        return finding.health == Health::ok ? 1 : finding.health == Health::warn && named ? 2 : 3;
      }
      return 0;
    });
  };
  EXPECT_EQ(policy("{ type filter hook forward priority 0; policy accept; }"), 1);
  EXPECT_EQ(policy("{ type filter hook forward priority 0; policy drop; }"), 2);
}

TEST_F(DoctorTest, SeesOldKernelsAndSmallLimits) {
  file("/proc/sys/kernel/osrelease", "4.19.0-1-amd64");
  EXPECT_EQ(finding(check_kernel, "kernel").health, Health::fail);
  file("/proc/sys/kernel/osrelease", "6.1.0-18-amd64");
  EXPECT_EQ(finding(check_kernel, "kernel").health, Health::ok);
  file("/proc/sys/fs/inotify/max_user_instances", "16");
  EXPECT_THAT(finding(check_system, "inotify").mend, HasSubstr("sysctl -w fs.inotify.max_user_instances=128"));
}

TEST(DoctorOnThisHost, TriesWhatItSaysAndLeavesNothingBehind) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  // In namespaces of its own, where nobody else mounts or makes links meanwhile.
  const int result = try_in_child([] {
    if (unshare(CLONE_NEWNS | CLONE_NEWNET) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      return errno;
    const Host host("");
    const auto links = host.list("/proc/sys/net/ipv4/conf");
    const auto mounts = host.read("/proc/self/mountinfo");
    for (const Finding& finding : check_kernel(host)) {
      if (finding.health != Health::ok) std::cerr << finding.name << ": " << finding.what << "\n";
      if (finding.health != Health::ok) return 1;
    }
    return host.list("/proc/sys/net/ipv4/conf") == links && host.read("/proc/self/mountinfo") == mounts ? 0 : 2;
  });
  EXPECT_EQ(result, 0);
}

TEST(TryInChild, ToldApartAnswersDeathsAndHangs) {
  EXPECT_EQ(try_in_child([] { return EPERM; }), EPERM);
  EXPECT_EQ(try_in_child([]() -> int { abort(); }), EINTR);
}

TEST(RunProgram, GivesOutputAndExitCode) {
  EXPECT_EQ(run_program({"sh", "-c", "echo out; exit 7"}).output, "out\n");
  EXPECT_EQ(run_program({"sh", "-c", "exit 7"}).exit, 7);
  EXPECT_EQ(run_program({"there-is-no-such-program"}).exit, -1);
}

TEST(ParseVersion, FindsTheFirstNumber) {
  EXPECT_THAT(parse_version("crun version 1.8.1"), ElementsAre(1, 8, 1));
  EXPECT_THAT(parse_version("6.1.0-18-amd64"), ElementsAre(6, 1, 0));
  EXPECT_THAT(parse_version("none"), IsEmpty());
}

}  // namespace
}  // namespace pintle::cli
