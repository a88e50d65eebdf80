// Probes, hooks, deadlines and last words, over a runtime without containers.

#include "plugins/node-agent/agent_fixture.hpp"

namespace pintle::agent::test {
namespace {

std::string probe(const std::string& kind, const std::string& command, const std::string& more = "") {
  return "    " + kind + "Probe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [" + command + "]}" + more +
         "}\n";
}

TEST_F(NodeAgent, ends_a_container_whose_liveness_probe_fails_and_starts_it_again) {
  start();
  runtime->exec_codes["alive"] = 0;
  drop("web.yaml", pod_text("web", "", probe("liveness", "alive", ", terminationGracePeriodSeconds: 3")));
  ASSERT_TRUE(until([&] { return runtime->did("exec web/web alive"); }));
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
  EXPECT_FALSE(runtime->did("stop web/web 3"));
  runtime->exec_codes["alive"] = 1;
  ASSERT_TRUE(until([&] { return runtime->did("start web/web 1"); }));
  EXPECT_TRUE(runtime->did("stop web/web 3")) << "by the probe's own grace period";
  bool told = false;
  const node::v1::Pod web = pod("web");
  for (const node::v1::PodEvent& event : web.events())
    told = told || (event.reason() == "Unhealthy" && event.message() == "web: Liveness probe failed: said alive");
  EXPECT_TRUE(told);
}

TEST_F(NodeAgent, is_ready_by_the_readiness_probe_and_only_after_the_startup_probe) {
  start();
  runtime->exec_codes = {{"up", 1}, {"ready", 1}};
  drop("web.yaml", pod_text("web", "",
                            "    startupProbe: {periodSeconds: 1, failureThreshold: 9, exec: {command: [up]}}\n" +
                                probe("readiness", "ready") + probe("liveness", "alive")));
  ASSERT_TRUE(until([&] { return runtime->did("exec web/web up"); }));
  EXPECT_EQ(status("web").at("containerStatuses").at(0).at("started"), false);
  let_pass(100ms);
  EXPECT_FALSE(runtime->did("exec web/web ready"));
  EXPECT_FALSE(runtime->did("exec web/web alive"));
  runtime->exec_codes["up"] = 0;
  ASSERT_TRUE(until([&] { return runtime->did("exec web/web ready") && runtime->did("exec web/web alive"); }));
  EXPECT_EQ(status("web").at("containerStatuses").at(0).at("started"), true);
  EXPECT_EQ(pod("web").ready_containers(), 0u);
  EXPECT_EQ(pod("web").phase(), "Running");
  runtime->exec_codes["ready"] = 0;
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
  runtime->exec_codes["ready"] = 1;
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 0; }));
  EXPECT_EQ(pod("web").restarts(), 0u);
}

TEST_F(NodeAgent, stops_at_once_while_a_probe_and_a_hook_are_under_way) {
  start();
  runtime->exec_takes["slow"] = 30s;
  drop("web.yaml", pod_text("web", "",
                            "    readinessProbe: {timeoutSeconds: 60, exec: {command: [slow]}}\n"
                            "    lifecycle: {preStop: {sleep: {seconds: 7}}}\n"));
  ASSERT_TRUE(until([&] { return runtime->did("exec web/web slow"); }));
  take_away("web.yaml");
  ASSERT_TRUE(until([&] { return pod("web").message() == "Terminating"; }));
  const auto begin = std::chrono::steady_clock::now();
  stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 3s);
  EXPECT_EQ(runtime->running("web").size(), 1u);
}

TEST_F(NodeAgent, stops_at_once_while_very_many_hooks_are_under_way) {
  start();
  runtime->exec_takes["slow"] = 30s;
  const std::string hook = "    lifecycle: {preStop: {exec: {command: [slow]}}}\n";
  constexpr int kMore = 80;
  std::string containers = hook;
  for (int i = 0; i < kMore; ++i) containers += "  - name: c" + std::to_string(i) + "\n    image: \"web:1\"\n" + hook;
  drop("many.yaml", pod_text("many", "", containers));
  ASSERT_TRUE(until([&] { return pod("many").ready_containers() == kMore + 1; }, 20s));
  take_away("many.yaml");
  ASSERT_TRUE(until([&] { return runtime->did("exec many/c" + std::to_string(kMore - 1) + " slow"); }));
  const auto begin = std::chrono::steady_clock::now();
  stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 4s);
}

/// A host that has no patience left calls `stop` while `drain` still lets go.
TEST_F(NodeAgent, stops_while_it_is_still_draining) {
  start();
  runtime->ignores_cancel = true;
  runtime->exec_takes["slow"] = 2s;
  drop("web.yaml", pod_text("web", "", "    readinessProbe: {timeoutSeconds: 60, exec: {command: [slow]}}\n"));
  ASSERT_TRUE(until([&] { return runtime->did("exec web/web slow"); }));
  const uint64_t draining = node.begin(*agent, &pintle_plugin::drain),
                 stopping = node.begin(*agent, &pintle_plugin::stop);
  EXPECT_TRUE(node.end(*agent, stopping));
  EXPECT_TRUE(node.end(*agent, draining));
  node.destroy(*agent);
  agent = nullptr;
}

TEST_F(NodeAgent, runs_hooks_in_their_place) {
  start();
  runtime->exec_takes["begin"] = 50ms;
  runtime->exec_takes["end"] = 1100ms;
  drop("two.yaml",
       pod_text("two", "",
                "    lifecycle: {postStart: {exec: {command: [begin]}}, preStop: {exec: {command: [end]}}}\n"
                "  - {name: other, image: \"web:1\"}\n"));
  ASSERT_TRUE(until([&] { return runtime->did("exec two/web begin"); }));
  EXPECT_TRUE(status("two").at("containerStatuses").at(0).at("state").as_object().contains("waiting"));
  ASSERT_TRUE(until_running("other"));
  ASSERT_TRUE(until([&] { return pod("two").ready_containers() == 2; }));
  EXPECT_THAT(runtime->history, ElementsAre("run two", "start two/web 0", "exec two/web begin", "start two/other 0"));
  runtime->history.clear();
  take_away("two.yaml");
  ASSERT_TRUE(until([&] { return runtime->did("remove two"); }));
  EXPECT_THAT(runtime->history, ElementsAre("exec two/web end", "stop two/other 7", "stop two/web 6", "remove two"));
}

TEST_F(NodeAgent, ends_a_container_whose_post_start_hook_fails) {
  start();
  runtime->exec_codes["begin"] = 4;
  drop("web.yaml", pod_text("web", "", "    lifecycle: {postStart: {exec: {command: [begin]}}}\n"));
  ASSERT_TRUE(until([&] { return runtime->did("start web/web 1"); }));
  EXPECT_TRUE(runtime->did("stop web/web 7"));
  runtime->exec_codes["begin"] = 0;
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
}

TEST_F(NodeAgent, ends_a_pod_at_its_deadline_for_good) {
  start();
  drop("web.yaml", pod_text("web", "  activeDeadlineSeconds: 1\n"));
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(until([&] { return pod("web").phase() == "Failed"; }));
  EXPECT_EQ(status("web").at("reason"), "DeadlineExceeded");
  ASSERT_TRUE(until([&] { return runtime->running("web").empty(); }));
  stop();
  start("node-agent@2");
  ASSERT_TRUE(until([&] { return pod("web").phase() == "Failed"; }));
  EXPECT_EQ(status("web").at("reason"), "DeadlineExceeded");
  EXPECT_FALSE(runtime->did("start web/web 1"));
}

TEST_F(NodeAgent, tells_a_containers_last_words) {
  start();
  drop("web.yaml", pod_text("web", "  restartPolicy: Never\n",
                            "  - {name: log, image: \"web:1\", terminationMessagePolicy: FallbackToLogsOnError}\n"));
  ASSERT_TRUE(until_running("log"));
  const std::string web = runtime->running("web").at(0), log = runtime->running("log").at(0);
  std::string file;
  for (const cri::Mount& mount : runtime->container_configs.at(web).mounts())
    if (mount.container_path() == "/dev/termination-log") file = mount.host_path();
  ASSERT_FALSE(file.empty());
  std::ofstream(file) << "no more \xff oil";
  std::ofstream(path("logs/default_web_" + pod("web").uid() + "/log/0.log"))
      << "2026-01-01T00:00:00.0Z stdout P half \n2026-01-01T00:00:00.0Z stdout F line\n"
         "2026-01-01T00:00:00.0Z stderr F the end\n";
  runtime->exit(web, 2);
  runtime->exit(log, 3);
  ASSERT_TRUE(until([&] { return pod("web").phase() == "Failed"; }));
  const json::value ended = status("web").at("containerStatuses");
  EXPECT_EQ(ended.at(0).at("state").at("terminated").at("message"), "no more ? oil");
  EXPECT_EQ(ended.at(1).at("state").at("terminated").at("message"), "half line\nthe end\n");
}

}  // namespace
}  // namespace pintle::agent::test
