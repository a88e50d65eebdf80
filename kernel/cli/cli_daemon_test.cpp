// The commands against a real pintled of this build, with the example plugins.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <thread>

#include "kernel/cli/cli.hpp"

namespace pintle::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Words = std::vector<std::string>;

class DaemonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/pintle-daemon-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
    for (const char* folder : {"config/profiles", "shipped", "state", "run"})
      std::filesystem::create_directories(root_ + "/" + folder);
    profile("first",
            "    echo-cpp: {allowUnsigned: true, isolation: in-process}\n    echo-c: {allowUnsigned: true, isolation: "
            "process}\n");
    profile("second",
            "    echo-cpp: {allowUnsigned: true, isolation: in-process, logLevel: debug}\n    twin: {plugin: echo-c, "
            "allowUnsigned: true}\n");
    profile("wrong", "    echo-cpp: {config: {loud: true}}\n");
    start();
  }

  void TearDown() override {
    if (daemon_ > 0) kill(daemon_, SIGTERM);
    if (daemon_ > 0) waitpid(daemon_, nullptr, 0);
    if (HasFailure()) std::cerr << std::ifstream(root_ + "/log").rdbuf();
    std::filesystem::remove_all(root_);
  }

  void profile(const std::string& name, const std::string& plugins) {
    std::ofstream(root_ + "/config/profiles/" + name + ".yaml")
        << "apiVersion: pintle.io/v1\nkind: NodeProfile\nmetadata: {name: " << name << "}\nspec:\n  plugins:\n"
        << plugins;
  }

  void start() {
    Words words = {PINTLED,
                   "--profile",
                   "first",
                   "--state-dir",
                   root_ + "/state",
                   "--run-dir",
                   root_ + "/run",
                   "--config-dir",
                   root_ + "/config",
                   "--profile-dir",
                   root_ + "/shipped",
                   "--plugin-dir",
                   PLUGINS,
                   "--plugin-host",
                   PLUGIN_HOST,
                   "--node-name",
                   "edge-7"};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, (root_ + "/log").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    ASSERT_EQ(posix_spawn(&daemon_, PINTLED, &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (run({"status"}) != exit_ok) {
      ASSERT_EQ(waitpid(daemon_, nullptr, WNOHANG), 0) << "pintled has ended";
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "pintled is not ready: " << out() << error();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  int run(const Words& arguments) {
    out_.str("");
    error_.str("");
    Context context(out_, error_);
    context.socket = root_ + "/run/pintled.sock";
    context.profiles.profile_folders = {root_ + "/config/profiles"};
    context.profiles.plugin_folders = {PLUGINS};
    return cli::run(context, arguments);
  }
  boost::json::value json(Words arguments) {
    arguments.insert(arguments.end(), {"-o", "json"});
    run(arguments);
    return boost::json::parse(out());
  }
  std::string out() const { return out_.str(); }
  std::string error() const { return error_.str(); }
  bool out_matches(const std::string& expression) const { return std::regex_search(out(), std::regex(expression)); }

  std::string root_;
  pid_t daemon_ = 0;
  std::ostringstream out_, error_;
};

TEST_F(DaemonTest, StatusShowsTheNodeAndSaysWhatIsNotReady) {
  EXPECT_EQ(run({"status"}), exit_ok);
  EXPECT_THAT(out(), AllOf(HasSubstr("Node     edge-7\nProfile  first\n"), HasSubstr("pid " + std::to_string(daemon_)),
                           HasSubstr("Ready    yes")));
  EXPECT_TRUE(out_matches("echo-c +running +[0-9]+s +0 +process +[0-9.]+[KM]i")) << out();
  EXPECT_TRUE(out_matches("echo-cpp +running +[0-9]+s +0 +in-process +-")) << out();

  EXPECT_EQ(run({"plugin", "stop", "echo-c"}), exit_ok);
  EXPECT_EQ(out(), "echo-c: stopped\n");
  EXPECT_EQ(run({"status"}), exit_unavailable);
  EXPECT_THAT(out(), HasSubstr("no: 1 of 2 required plugins is not ready"));
  EXPECT_EQ(json({"status"}).at("ready").as_bool(), false);
  EXPECT_EQ(run({"plugin", "start", "echo-c"}), exit_ok);
  EXPECT_EQ(run({"status"}), exit_ok);
}

TEST_F(DaemonTest, PluginsAreListedInspectedAndRestarted) {
  EXPECT_EQ(run({"plugin", "ls"}), exit_ok);
  EXPECT_TRUE(out_matches("echo-c +echo-c +[0-9.]+ +running +process +pintle.example.v1.Echo")) << out();
  EXPECT_EQ(run({"plugin", "inspect", "echo-cpp"}), exit_ok);
  EXPECT_THAT(out(), AllOf(HasSubstr("Key           echo-cpp@1"), HasSubstr("pintle.example.v1.Echo")));
  EXPECT_EQ(run({"plugin", "inspect", "echo-cp"}), exit_not_found);
  EXPECT_THAT(error(), HasSubstr("did you mean"));

  const int64_t before = json({"plugin", "inspect", "echo-c"}).at("pid").as_int64();
  EXPECT_EQ(run({"plugin", "restart", "echo-c", "nobody"}), exit_not_found) << "the others are tried all the same";
  EXPECT_THAT(out(), HasSubstr("echo-c: running"));
  EXPECT_NE(json({"plugin", "inspect", "echo-c"}).at("pid").as_int64(), before);
}

TEST_F(DaemonTest, AProfileIsComparedTriedAndApplied) {
  EXPECT_EQ(run({"profile", "diff", "second"}), exit_ok);
  EXPECT_EQ(out(), "- echo-c\n~ echo-cpp\n    logLevel: \"\" -> \"debug\"\n+ twin (echo-c)\n");
  EXPECT_EQ(run({"profile", "apply", "second", "--dry-run"}), exit_ok);
  EXPECT_EQ(json({"status"}).at("profile").as_string(), "first");
  EXPECT_EQ(run({"profile", "apply", "second"}), exit_ok);
  EXPECT_THAT(out(), AllOf(HasSubstr("echo-c: removed"), HasSubstr("echo-cpp: updated"), HasSubstr("twin: added")));
  EXPECT_EQ(json({"status"}).at("profile").as_string(), "second");
  EXPECT_EQ(run({"profile", "apply", "second"}), exit_ok);
  EXPECT_EQ(out(), "nothing to change\n");
  EXPECT_EQ(run({"profile", "diff", "second"}), exit_ok);
  EXPECT_EQ(out(), "no difference\n");
}

TEST_F(DaemonTest, ABrokenProfileLeavesTheNodeAsItIs) {
  const boost::json::value before = json({"plugin", "ls"});
  EXPECT_EQ(run({"profile", "apply", "wrong"}), exit_invalid);
  EXPECT_THAT(error(),
              AllOf(HasSubstr("wrong.yaml:6:25: spec.plugins.echo-cpp.config.loud: unknown key; none is known here")));
  EXPECT_EQ(run({"profile", "apply", "frist"}), exit_not_found);
  EXPECT_THAT(error(), HasSubstr("did you mean first?"));
  EXPECT_EQ(run({"profile", "apply", "./nowhere.yaml"}), exit_not_found);
  EXPECT_EQ(json({"plugin", "ls"}), before);
}

TEST_F(DaemonTest, LogsAreFilteredAndFollowed) {
  EXPECT_EQ(run({"logs", "pintled", "--tail", "2"}), exit_ok);
  const std::string two = out();
  EXPECT_EQ(std::count(two.begin(), two.end(), '\n'), 2) << two;
  EXPECT_EQ(run({"logs", "--level", "error"}), exit_ok);
  EXPECT_THAT(out(), Not(HasSubstr(" info ")));
  EXPECT_EQ(run({"plugin", "log-level", "echo-c", "debug"}), exit_ok);
  EXPECT_EQ(run({"plugin", "log-level", "echo-c", "loud"}), exit_invalid);

  // Following ends when the reader goes: here, when the daemon does.
  std::thread killer([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    kill(daemon_, SIGTERM);
  });
  run({"logs", "-f"});
  killer.join();
  EXPECT_THAT(out(), HasSubstr("is running"));
  EXPECT_EQ(waitpid(daemon_, nullptr, 0), daemon_);
  daemon_ = 0;
  EXPECT_EQ(run({"status"}), exit_unreachable);
}

TEST_F(DaemonTest, CommandsOfAbsentInterfacesSayWhoIsMissing) {
  EXPECT_EQ(run({"pod", "ls"}), exit_unavailable);
  EXPECT_THAT(error(), HasSubstr("pintle.node.v1.NodeAgent"));
  EXPECT_EQ(run({"image", "ls"}), exit_unavailable);
}

}  // namespace
}  // namespace pintle::cli
