#include "plugins/node-agent/agent_fixture.hpp"

namespace pintle::agent::test {
namespace {

TEST_F(NodeAgent, runs_a_pod_that_is_dropped_into_its_folder) {
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
  const node::v1::Pod web = pod("web");
  EXPECT_EQ(web.phase(), "Running");
  EXPECT_EQ(web.reference().namespace_(), "default");
  EXPECT_EQ(web.source(), "file:" + path("manifests/web.yaml"));
  EXPECT_THAT(web.addresses(), ElementsAre("10.85.0.1"));
  EXPECT_EQ(web.message(), "");
  const json::value object = json::parse(web.json());
  EXPECT_EQ(object.at("kind"), "Pod");
  EXPECT_EQ(object.at("metadata").at("uid"), json::string(web.uid()));
  EXPECT_EQ(object.at("status").at("podIP"), "10.85.0.1");
  EXPECT_EQ(object.at("status").at("hostIP"), "192.0.2.7");
  EXPECT_EQ(object.at("status").at("qosClass"), "BestEffort");
  EXPECT_TRUE(object.at("status").at("containerStatuses").at(0).at("state").as_object().contains("running"));
  EXPECT_TRUE(std::filesystem::is_directory(path("logs/default_web_" + web.uid() + "/web")));
}

TEST_F(NodeAgent, starts_a_pod_within_milliseconds_of_its_manifest) {
  start();
  const auto begin = std::chrono::steady_clock::now();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
  RecordProperty("microseconds", static_cast<int>(took.count()));
  EXPECT_LT(took, 1s);
}

TEST_F(NodeAgent, starts_the_containers_of_a_pod_in_their_order_with_their_environment) {
  start();
  drop("two.yaml",
       pod_text("two", "",
                "    command: [\"/bin/web\", \"--at=$(WHERE)\", \"$$(NOT)\"]\n    workingDir: /srv\n    env:\n"
                "    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n"
                "    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n"
                "    - {name: WHERE, value: \"$(NAME)@$(IP)\"}\n  - {name: sidecar, image: \"sidecar:1\"}\n"));
  ASSERT_TRUE(until_running("sidecar"));
  EXPECT_THAT(runtime->history, ElementsAre("run two", "start two/web 0", "start two/sidecar 0"));
  const cri::ContainerConfig& config = runtime->container_configs.at(runtime->running("web").at(0));
  EXPECT_THAT(config.command(), ElementsAre("/bin/web", "--at=two@10.85.0.1", "$(NOT)"));
  EXPECT_EQ(config.working_dir(), "/srv");
  EXPECT_EQ(config.log_path(), "web/0.log");
  EXPECT_EQ(config.labels().at("io.kubernetes.container.name"), "web");
}

TEST_F(NodeAgent, restarts_a_container_at_once_and_then_with_growing_back_off) {
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  runtime->exit(runtime->running("web").at(0), 1);
  ASSERT_TRUE(until_running("web"));
  EXPECT_TRUE(runtime->did("start web/web 1"));
  const auto second = std::chrono::steady_clock::now();
  runtime->exit(runtime->running("web").at(0), 1);
  ASSERT_TRUE(until([&] { return pod("web").message().find("CrashLoopBackOff") != std::string::npos; }));
  EXPECT_EQ(status("web").at("containerStatuses").at(0).at("state").at("waiting").at("reason"), "CrashLoopBackOff");
  EXPECT_EQ(status("web").at("containerStatuses").at(0).at("lastState").at("terminated").at("exitCode"), 1);
  EXPECT_EQ(status("web").at("phase"), "Running");
  ASSERT_TRUE(until_running("web"));
  EXPECT_GE(std::chrono::steady_clock::now() - second, 50ms);
  const auto third = std::chrono::steady_clock::now();
  runtime->exit(runtime->running("web").at(0), 1);
  ASSERT_TRUE(until([&] { return runtime->did("start web/web 3"); }));
  EXPECT_GE(std::chrono::steady_clock::now() - third, 100ms);
  ASSERT_TRUE(until([&] { return pod("web").restarts() == 3; }));
  // Only the newest and the one before it are kept.
  EXPECT_TRUE(until([&] { return runtime->containers.size() == 2; }));
}

TEST_F(NodeAgent, leaves_an_ended_container_by_its_restart_policy) {
  start();
  drop("once.yaml", pod_text("once", "  restartPolicy: Never\n"));
  ASSERT_TRUE(until_running("web"));
  runtime->exit(runtime->running("web").at(0), 0);
  ASSERT_TRUE(until([&] { return pod("once").phase() == "Succeeded"; }));
  EXPECT_TRUE(until([&] { return runtime->sandboxes.begin()->second.state() == cri::SANDBOX_NOTREADY; }));
  take_away("once.yaml");
  ASSERT_TRUE(until([&] { return runtime->sandboxes.empty(); }));

  drop("fails.yaml", pod_text("fails", "  restartPolicy: Never\n"));
  ASSERT_TRUE(until_running("web"));
  runtime->exit(runtime->running("web").at(0), 3);
  ASSERT_TRUE(until([&] { return pod("fails").phase() == "Failed"; }));
  EXPECT_EQ(status("fails").at("containerStatuses").at(0).at("state").at("terminated").at("reason"), "Error");

  drop("job.yaml", pod_text("job", "  restartPolicy: OnFailure\n"));
  ASSERT_TRUE(until_running("web"));
  runtime->exit(runtime->running("web").at(0), 1);
  ASSERT_TRUE(until([&] { return runtime->did("start job/web 1"); }));
  runtime->exit(runtime->running("web").at(0), 0);
  ASSERT_TRUE(until([&] { return pod("job").phase() == "Succeeded"; }));
}

TEST_F(NodeAgent, replaces_a_pod_whose_manifest_was_edited_after_its_grace_period) {
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  const std::string uid = pod("web").uid();
  drop("web.yaml", "# a comment changes nothing\n" + pod_text("web"));
  let_pass(100ms);
  EXPECT_EQ(pod("web").uid(), uid);
  drop("web.yaml", pod_text("web", "", "    env: [{name: A, value: b}]\n"));
  ASSERT_TRUE(until([&] { return runtime->history.size() == 6; }));
  EXPECT_THAT(runtime->history,
              ElementsAre("run web", "start web/web 0", "stop web/web 7", "remove web", "run web", "start web/web 0"));
  EXPECT_NE(pod("web").uid(), uid);
  EXPECT_FALSE(std::filesystem::exists(path("logs/default_web_" + uid)));
}

TEST_F(NodeAgent, ends_a_pod_whose_manifest_is_removed_with_all_that_it_had) {
  start();
  drop("web.yaml",
       pod_text("web", "  volumes: [{name: data}]\n", "    volumeMounts: [{name: data, mountPath: /data}]\n"));
  ASSERT_TRUE(until_running("web"));
  const std::string uid = pod("web").uid();
  const std::string volume = runtime->container_configs.begin()->second.mounts(0).host_path();
  EXPECT_EQ(volume, path("shared/pods/" + uid + "/volumes/data"));
  struct stat info {};
  ASSERT_EQ(stat(volume.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0777u);
  take_away("web.yaml");
  ASSERT_TRUE(until([&] { return list().pods_size() == 0; }));
  EXPECT_TRUE(runtime->sandboxes.empty());
  EXPECT_TRUE(runtime->containers.empty());
  EXPECT_TRUE(std::filesystem::is_empty(path("shared/pods")));
  EXPECT_TRUE(std::filesystem::is_empty(path("logs")));
}

TEST_F(NodeAgent, stops_again_what_could_not_be_stopped_also_beside_what_was_gone_already) {
  start();
  drop("web.yaml", pod_text("web", "", "  - {name: other, image: \"sidecar:1\"}\n"));
  ASSERT_TRUE(until_running("other"));
  runtime->refuses_stop_of = {{"web/web", not_found("no such container")},
                              {"web/other", deadline_exceeded("it did not end")}};
  take_away("web.yaml");
  ASSERT_TRUE(until([&] { return list().pods_size() == 0; }));
  EXPECT_EQ(std::ranges::count(runtime->history, "stop web/other 7"), 2);
  EXPECT_EQ(runtime->history.back(), "remove web");
}

TEST_F(NodeAgent, keeps_a_pod_running_while_its_file_is_broken_and_says_where) {
  start();
  drop("web.yaml", pod_text("web"));
  drop("other.yaml", pod_text("other"));
  ASSERT_TRUE(until_running("web", 2));
  drop("web.yaml",
       "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: web\n    imge: web:1\n");
  ASSERT_TRUE(until(
      [&] { return !agent->conditions().empty() && agent->conditions().back().find("imge") != std::string::npos; }));
  EXPECT_THAT(agent->conditions().back(),
              HasSubstr("web.yaml:7:5: spec.containers[0].imge: unknown field; did you mean image"));
  EXPECT_EQ(runtime->running("web").size(), 2u);
  EXPECT_THAT(pod("web").events(pod("web").events_size() - 1).message(), HasSubstr("imge"));
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until([&] {
    return agent->conditions().back().find("AllRead") != std::string::npos ||
           agent->conditions().back().find("imge") == std::string::npos;
  }));
  EXPECT_FALSE(runtime->did("remove web"));
}

TEST_F(NodeAgent, shows_a_file_that_never_had_a_pod) {
  start();
  drop("bad.yaml", "kind: Deployment\napiVersion: apps/v1\n");
  ASSERT_TRUE(until([&] { return list().pods_size() == 1; }));
  EXPECT_EQ(list().pods(0).phase(), "Failed");
  EXPECT_THAT(list().pods(0).message(),
              HasSubstr("bad.yaml:1:1: kind: apps/v1 Deployment cannot be run from a manifest: only v1 Pod can"));
}

TEST_F(NodeAgent, refuses_what_it_cannot_do_yet) {
  start();
  drop("claim.yaml", pod_text("claim", "  runtimeClassName: other\n"));
  ASSERT_TRUE(until([&] { return list().pods_size() == 1; }));
  EXPECT_THAT(list().pods(0).message(), HasSubstr("spec.runtimeClassName: runtime classes are not supported yet"));
  EXPECT_TRUE(runtime->sandboxes.empty());
}

TEST_F(NodeAgent, reads_only_manifests_and_no_half_written_files) {
  start();
  for (const char* name : {".web.yaml", "web.yaml~", "web.yaml.swp", "#web.yaml#", "4913"}) drop(name, pod_text("web"));
  {
    std::ofstream slow(path("manifests/slow.yaml"));
    slow << "apiVersion: v1\nkind: Pod\n" << std::flush;
    let_pass(150ms);
    EXPECT_EQ(list().pods_size(), 0);
    slow << "metadata: {name: slow}\nspec: {containers: [{name: web, image: \"web:1\"}]}\n";
  }
  ASSERT_TRUE(until_running("web"));
  EXPECT_EQ(list().pods_size(), 1);
}

TEST_F(NodeAgent, lets_the_first_of_two_files_have_a_name) {
  start();
  drop("a.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  drop("b.yaml", pod_text("web", "", "    env: [{name: A, value: b}]\n"));
  ASSERT_TRUE(until(
      [&] { return agent->conditions().back().find("b.yaml: the pod default/web is also in") != std::string::npos; }));
  EXPECT_EQ(runtime->history.size(), 2u);
  take_away("a.yaml");
  ASSERT_TRUE(until([&] { return runtime->history.size() == 6; }));
  EXPECT_EQ(pod("web").source(), "file:" + path("manifests/b.yaml"));
}

TEST_F(NodeAgent, adopts_what_runs_after_a_restart) {
  start();
  drop("web.yaml", pod_text("web"));
  drop("broken-later.yaml", pod_text("kept"));
  drop("gone-later.yaml", pod_text("gone"));
  ASSERT_TRUE(until_running("web", 3));
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
  const std::string uid = pod("web").uid(), sandbox = pod("web").sandbox_id();
  const int64_t created = pod("web").created_at();
  stop();
  EXPECT_EQ(runtime->running("web").size(), 3u) << "stopping the agent must stop no pod";
  runtime->history.clear();
  drop("broken-later.yaml", "kind: [");
  take_away("gone-later.yaml");
  cri::PodSandboxStatus& foreign = runtime->sandboxes["foreign"];
  foreign.set_id("foreign");
  (*foreign.mutable_labels())["io.kubernetes.pod.uid"] = "0123";
  cri::PodSandboxStatus& orphan = runtime->sandboxes["orphan"];
  orphan.set_id("orphan");
  orphan.mutable_metadata()->set_name("orphan");
  (*orphan.mutable_labels())["io.kubernetes.pod.uid"] = "4567";
  (*orphan.mutable_labels())["io.kubernetes.pod.name"] = "orphan";
  (*orphan.mutable_labels())["io.kubernetes.pod.namespace"] = "default";
  (*orphan.mutable_annotations())["pintle.io/source"] = "node-agent";

  start("node-agent@2");
  ASSERT_TRUE(until([&] { return runtime->did("remove gone") && runtime->did("remove orphan"); }));
  let_pass(100ms);
  EXPECT_THAT(runtime->history, testing::UnorderedElementsAre("stop gone/web 7", "remove gone", "remove orphan"));
  EXPECT_TRUE(runtime->sandboxes.contains("foreign"));
  EXPECT_EQ(pod("web").uid(), uid);
  EXPECT_EQ(pod("web").sandbox_id(), sandbox);
  EXPECT_EQ(pod("web").created_at(), created);
  EXPECT_EQ(pod("web").phase(), "Running");
  EXPECT_EQ(pod("kept").phase(), "Running");
}

TEST_F(NodeAgent, makes_a_lost_sandbox_anew) {
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
  runtime->lose(pod("web").sandbox_id());
  ASSERT_TRUE(until([&] { return runtime->did("start web/web 1"); }));
  ASSERT_TRUE(until([&] { return runtime->sandboxes.size() == 1; }));
  EXPECT_EQ(runtime->sandboxes.begin()->second.metadata().attempt(), 1u);
  EXPECT_TRUE(until([&] { return pod("web").restarts() == 1; }));
}

TEST_F(NodeAgent, notices_changes_without_container_events) {
  runtime->tells_events = false;
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  let_pass(50ms);
  runtime->exit(runtime->running("web").at(0), 1);
  ASSERT_TRUE(until([&] { return runtime->did("start web/web 1"); }));
}

TEST_F(NodeAgent, asks_nothing_of_the_runtime_while_nothing_changes) {
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  let_pass(200ms);
  const int before = runtime->list_calls;
  let_pass(1500ms);
  EXPECT_EQ(runtime->list_calls, before);
}

TEST_F(NodeAgent, says_how_to_load_an_image_that_is_missing_and_goes_on_when_it_is_there) {
  start();
  drop("web.yaml", pod_text("web", "", "    imagePullPolicy: Never\n"));
  runtime->images.clear();
  ASSERT_TRUE(until([&] { return pod("web").message().find("ErrImageNeverPull") != std::string::npos; }));
  EXPECT_THAT(pod("web").message(), HasSubstr("pintle image load"));
  EXPECT_EQ(pod("web").phase(), "Pending");
  drop("pull.yaml", pod_text("pull"));
  ASSERT_TRUE(until([&] { return pod("pull").message().find("ErrImagePull") != std::string::npos; }));
  runtime->images = {"web:1"};
  drop("pull.yaml", pod_text("pull", "  hostname: other\n"));
  ASSERT_TRUE(until([&] { return runtime->did("start pull/web 0"); }));
}

TEST_F(NodeAgent, uses_the_local_image_where_none_can_be_pulled) {
  start();
  drop("web.yaml", pod_text("web", "", "    imagePullPolicy: Always\n"));
  ASSERT_TRUE(until_running("web"));
}

TEST_F(NodeAgent, tries_again_what_the_runtime_refused) {
  runtime->refuses_sandboxes = true;
  runtime->refuses_start_of = "web";
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until([&] { return pod("web").message().find("no network") != std::string::npos; }));
  runtime->refuses_sandboxes = false;
  ASSERT_TRUE(until(
      [&] { return pod("web").message().find("web: RunContainerError: exec: no such file") != std::string::npos; }));
  runtime->refuses_start_of.clear();
  ASSERT_TRUE(until_running("web"));
}

TEST_F(NodeAgent, goes_on_when_the_runtime_is_back) {
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(until([&] { return pod("web").ready_containers() == 1; }));
  runtime->refuses_lists = true;
  runtime->exit(runtime->running("web").at(0), 1);
  ASSERT_TRUE(until([&] { return pod("web").message().find("the runtime is away") != std::string::npos; }));
  runtime->refuses_lists = false;
  ASSERT_TRUE(until([&] { return runtime->did("start web/web 1"); }));
  EXPECT_TRUE(until([&] { return pod("web").message().empty(); }));
}

TEST_F(NodeAgent, forbids_root_where_the_manifest_does) {
  start();
  drop("web.yaml", pod_text("web", "  securityContext: {runAsNonRoot: true}\n"));
  ASSERT_TRUE(until([&] {
    return pod("web").message().find("CreateContainerConfigError: runAsNonRoot forbids root") != std::string::npos;
  }));
  drop("web.yaml", pod_text("web", "  securityContext: {runAsNonRoot: true, runAsUser: 1000}\n"));
  ASSERT_TRUE(until_running("web"));
}

TEST_F(NodeAgent, applies_pods_durably_and_says_what_changed) {
  start();
  Result<ApplyPodsResponse> dry = apply(pod_text("web"), true);
  ASSERT_TRUE(dry) << dry.status().message();
  EXPECT_EQ(dry->pods(0).change(), "created");
  EXPECT_TRUE(std::filesystem::is_empty(path("manifests")));
  Result<ApplyPodsResponse> created = apply(pod_text("web") + "---\n" + pod_text("two"));
  ASSERT_TRUE(created) << created.status().message();
  EXPECT_EQ(created->pods_size(), 2);
  EXPECT_EQ(created->pods(0).change(), "created");
  EXPECT_TRUE(std::filesystem::exists(path("manifests/default_web.yaml")));
  ASSERT_TRUE(until_running("web", 2));
  EXPECT_EQ(apply(pod_text("web"))->pods(0).change(), "unchanged");
  EXPECT_EQ(apply(pod_text("web", "  hostname: other\n"))->pods(0).change(), "configured");
  ASSERT_TRUE(until([&] { return runtime->did("remove web"); }));
  Result<ApplyPodsResponse> wrong = apply(pod_text("web") + "---\n" + pod_text("Bad"));
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.status().code(), Code::invalid_argument);
  EXPECT_THAT(wrong.status().message(), HasSubstr("my.yaml:"));
  EXPECT_THAT(wrong.status().message(), HasSubstr("metadata.name: must be at most 253"));
}

TEST_F(NodeAgent, applies_into_the_file_that_has_the_pod) {
  start();
  drop("mine.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  ASSERT_EQ(apply(pod_text("web", "  hostname: other\n"))->pods(0).change(), "configured");
  EXPECT_FALSE(std::filesystem::exists(path("manifests/default_web.yaml")));
  drop("both.yaml", pod_text("one") + "---\n" + pod_text("two"));
  ASSERT_TRUE(until([&] { return runtime->did("run two"); }));
  Result<ApplyPodsResponse> refused = apply(pod_text("one", "  hostname: other\n"));
  EXPECT_EQ(refused.status().code(), Code::failed_precondition);
  EXPECT_THAT(refused.status().message(), HasSubstr("both.yaml together with others"));
  EXPECT_EQ(remove("one").code(), Code::failed_precondition);
  drop("default_new.yaml", pod_text("old"));
  ASSERT_TRUE(until([&] { return runtime->did("run old"); }));
  EXPECT_THAT(apply(pod_text("new")).status().message(),
              HasSubstr("default_new.yaml is there and holds something else"));
}

TEST_F(NodeAgent, removes_a_pod_with_the_grace_period_that_was_asked_for) {
  start();
  ASSERT_TRUE(apply(pod_text("web")));
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(remove("web", 2));
  EXPECT_TRUE(std::filesystem::is_empty(path("manifests")));
  ASSERT_TRUE(until([&] { return list().pods_size() == 0; }));
  EXPECT_TRUE(runtime->did("stop web/web 2"));
  EXPECT_EQ(remove("web").code(), Code::not_found);
}

TEST_F(NodeAgent, shortens_an_end_that_is_under_way) {
  runtime->stop_takes = 10s;
  start();
  ASSERT_TRUE(apply(pod_text("web")));
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(remove("web"));
  ASSERT_TRUE(until([&] { return runtime->did("stop web/web 7"); }));
  EXPECT_EQ(pod("web").message(), "Terminating");
  runtime->stop_takes = 0s;
  ASSERT_TRUE(remove("web", 0));
  ASSERT_TRUE(until([&] { return runtime->did("stop web/web 0"); }));
}

TEST_F(NodeAgent, stops_at_once_while_a_container_takes_its_time_to_end) {
  runtime->stop_takes = 30s;
  start();
  ASSERT_TRUE(apply(pod_text("web")));
  ASSERT_TRUE(until_running("web"));
  ASSERT_TRUE(remove("web"));
  ASSERT_TRUE(until([&] { return runtime->did("stop web/web 7"); }));
  const auto begin = std::chrono::steady_clock::now();
  stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 3s);
  runtime->stop_takes = 0s;
  start("node-agent@2");
  ASSERT_TRUE(until([&] { return runtime->sandboxes.empty(); }));
}

TEST_F(NodeAgent, hands_its_pods_to_its_next_instance) {
  start();
  drop("web.yaml", pod_text("web"));
  ASSERT_TRUE(until_running("web"));
  FakeInstance* former = agent;
  start("node-agent@2");
  drop("more.yaml", pod_text("more"));
  ASSERT_TRUE(until([&] { return runtime->did("run more"); })) << "the former instance acts until it retires";
  ASSERT_TRUE(until_running("web", 2));
  ASSERT_TRUE(node.retire(*former));
  EXPECT_TRUE(former->said_retired());
  ASSERT_TRUE(until([&] { return list().pods_size() == 2; }));
  drop("last.yaml", pod_text("last"));
  ASSERT_TRUE(until_running("web", 3));
  EXPECT_EQ(runtime->sandboxes.size(), 3u);
  EXPECT_TRUE(node.stop(*former));
  node.destroy(*former);
}

TEST_F(NodeAgent, finds_by_re_reading_what_it_was_not_told) {
  reread = 0.2;
  start();
  const std::string real = path("real.yaml");
  std::ofstream(real) << pod_text("web");
  std::filesystem::create_symlink(real, path("manifests/web.yaml"));
  ASSERT_TRUE(until_running("web"));
  std::ofstream(real) << pod_text("web", "  hostname: other\n");
  std::filesystem::last_write_time(real, std::filesystem::file_time_type::clock::now() + 1h);
  ASSERT_TRUE(until([&] { return runtime->did("remove web"); })) << "a time to come makes no difference";
  std::filesystem::rename(path("manifests"), path("manifests-away"));
  let_pass(600ms);
  EXPECT_EQ(runtime->running("web").size(), 1u) << "a folder that went away ends no pod";
  std::filesystem::create_directory(path("manifests"));
  ASSERT_TRUE(until([&] { return runtime->sandboxes.empty(); })) << "an empty folder does";
  drop("back.yaml", pod_text("back"));
  ASSERT_TRUE(until([&] { return runtime->did("run back"); }));
}

}  // namespace
}  // namespace pintle::agent::test
