#include "plugins/node-agent/agent_fixture.hpp"

namespace pintle::agent::test {
namespace {

std::string with_init(const std::string& name, const std::string& init, const std::string& more = "") {
  return pod_text(name, more + "  initContainers:\n" + init);
}
const std::string kSetup = "  - {name: setup, image: \"web:1\"}\n";
const std::string kMigrate = "  - {name: migrate, image: \"web:1\"}\n";
const std::string kProxy = "  - {name: proxy, image: \"web:1\", restartPolicy: Always}\n";
const std::string kAgent = "  - {name: agent, image: \"web:1\", restartPolicy: Always}\n";

std::string condition(const json::value& status, const std::string& type) {
  for (const json::value& condition : status.at("conditions").as_array())
    if (condition.at("type").as_string() == type) return std::string(condition.at("status").as_string());
  return "";
}

TEST_F(NodeAgent, runs_init_containers_to_their_end_one_after_the_other) {
  start();
  drop("web.yaml", with_init("web", kSetup + kMigrate));
  ASSERT_TRUE(until_running("setup"));
  ASSERT_TRUE(until([&] { return pod("web").message() == "Init:0/2"; }));
  const json::value before = status("web");
  EXPECT_EQ(before.at("phase"), "Pending");
  EXPECT_EQ(condition(before, "Initialized"), "False");
  EXPECT_EQ(before.at("containerStatuses").at(0).at("state").at("waiting").at("reason"), "PodInitializing");
  EXPECT_TRUE(runtime->running("migrate").empty());
  runtime->exit(runtime->running("setup").at(0), 0);
  ASSERT_TRUE(until_running("migrate"));
  ASSERT_TRUE(until([&] { return pod("web").message() == "Init:1/2"; }));
  EXPECT_TRUE(runtime->running("web").empty());
  runtime->exit(runtime->running("migrate").at(0), 0);
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
  const json::value after = status("web");
  EXPECT_EQ(after.at("phase"), "Running");
  EXPECT_EQ(condition(after, "Initialized"), "True");
  EXPECT_EQ(after.at("initContainerStatuses").at(0).at("state").at("terminated").at("reason"), "Completed");
  EXPECT_EQ(after.at("initContainerStatuses").at(0).at("ready"), true);
  EXPECT_EQ(pod("web").message(), "");
  runtime->exit(runtime->running("web").at(0), 1);
  ASSERT_TRUE(until([&] { return runtime->did("start web/web 1"); }));
  EXPECT_FALSE(runtime->did("start web/setup 1")) << "a restart of the pod's container initializes nothing anew";
}

TEST_F(NodeAgent, restarts_a_failed_init_container_by_the_restart_policy) {
  start();
  drop("web.yaml", with_init("web", kSetup));
  ASSERT_TRUE(until_running("setup"));
  runtime->exit(runtime->running("setup").at(0), 1);
  ASSERT_TRUE(until([&] { return runtime->did("start web/setup 1"); }));
  runtime->exit(runtime->running("setup").at(0), 1);
  ASSERT_TRUE(until([&] { return pod("web").message().starts_with("Init:CrashLoopBackOff setup: CrashLoopBackOff"); }));
  EXPECT_EQ(pod("web").phase(), "Pending");
  ASSERT_TRUE(until([&] { return runtime->did("start web/setup 2"); }));
  runtime->exit(runtime->running("setup").at(0), 0);
  ASSERT_TRUE(until_running("web"));

  drop("never.yaml", with_init("never", kSetup + kMigrate, "  restartPolicy: Never\n"));
  ASSERT_TRUE(until_running("setup"));
  runtime->exit(runtime->running("setup").at(0), 7);
  ASSERT_TRUE(until([&] { return pod("never").phase() == "Failed"; }));
  EXPECT_EQ(pod("never").message(), "Init:Error");
  EXPECT_FALSE(runtime->did("start never/migrate 0"));
  EXPECT_FALSE(runtime->did("start never/web 0"));
}

TEST_F(NodeAgent, starts_sidecars_in_order_and_ends_them_last_in_reverse) {
  start();
  drop("web.yaml", with_init("web", kProxy + kAgent + kSetup, "  restartPolicy: Never\n"));
  ASSERT_TRUE(until_running("setup"));
  EXPECT_THAT(runtime->history, ElementsAre("run web", "start web/proxy 0", "start web/agent 0", "start web/setup 0"));
  runtime->exit(runtime->running("setup").at(0), 0);
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 3; }));
  EXPECT_EQ(pod("web").containers(), 3u);
  runtime->exit(runtime->running("proxy").at(0), 0);
  ASSERT_TRUE(until([&] { return runtime->did("start web/proxy 1"); })) << "whatever the pod's restart policy is";
  runtime->history.clear();
  runtime->exit(runtime->running("web").at(0), 0);
  ASSERT_TRUE(until([&] { return pod("web").phase() == "Succeeded"; }));
  EXPECT_THAT(runtime->history, ElementsAre("stop web/agent 7", "stop web/proxy 7"));

  drop("more.yaml", with_init("more", kProxy));
  ASSERT_TRUE(until_running("web"));
  runtime->history.clear();
  take_away("more.yaml");
  ASSERT_TRUE(until([&] { return runtime->did("remove more"); }));
  EXPECT_THAT(runtime->history, ElementsAre("stop more/web 7", "stop more/proxy 7", "remove more"));
}

TEST_F(NodeAgent, initializes_a_pod_anew_in_a_new_sandbox_and_not_after_its_own_restart) {
  start();
  drop("web.yaml", with_init("web", kSetup));
  ASSERT_TRUE(until_running("setup"));
  runtime->exit(runtime->running("setup").at(0), 0);
  ASSERT_TRUE(until_running("web"));
  stop();
  start("node-agent@2");
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
  EXPECT_FALSE(runtime->did("start web/setup 1"));
  runtime->lose(runtime->sandboxes.begin()->first);
  ASSERT_TRUE(until([&] { return runtime->did("start web/setup 1"); }));
  EXPECT_FALSE(runtime->did("start web/web 1"));
  ASSERT_TRUE(until_running("setup"));
  runtime->exit(runtime->running("setup").at(0), 0);
  ASSERT_TRUE(until([&] { return runtime->did("start web/web 1"); }));
}

TEST_F(NodeAgent, refuses_init_containers_that_can_do_nothing_right) {
  start();
  const auto refused = [&](const std::string& text) { return apply(text, true).status().message(); };
  EXPECT_THAT(refused(with_init("web", "  - {name: setup, image: \"web:1\", restartPolicy: Sometimes}\n")),
              HasSubstr("spec.initContainers[0].restartPolicy: must be Always, OnFailure or Never"));
  EXPECT_THAT(
      refused(with_init("web", "  - {name: setup, image: \"web:1\", readinessProbe: {tcpSocket: {port: 80}}}\n")),
      HasSubstr("spec.initContainers[0].readinessProbe: may only be set with restartPolicy Always"));
}

}  // namespace
}  // namespace pintle::agent::test
