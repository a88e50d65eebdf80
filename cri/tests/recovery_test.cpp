// The engine after a crash, on broken or full disks, and while instances change.

#include "cri/tests/engine_fixture.hpp"

namespace pintle::cri::testing_engine {
namespace {

// ---- Restarts -----------------------------------------------------------------------------------------------------

TEST_F(EngineTest, ARestartAdoptsWhatRunsAndWhatHappenedMeanwhile) {
  const std::string id = run_pod();
  const std::string running = create(id, "running"), ended = create(id, "ended"), waiting = create(id, "waiting");
  ASSERT_TRUE(start(running));
  ASSERT_TRUE(start(ended));
  const api::PodSandboxStatus before = pod_status(id);
  crash();
  runtime->exit(ended, 9);
  boot();
  const api::PodSandboxStatus after = pod_status(id);
  EXPECT_EQ(after.SerializeAsString(), before.SerializeAsString());
  EXPECT_EQ(status(running).state(), api::CONTAINER_RUNNING);
  EXPECT_EQ(status(running).started_at(), 1'000'000'789);
  EXPECT_EQ(status(ended).state(), api::CONTAINER_EXITED);
  EXPECT_EQ(status(ended).exit_code(), 9);
  EXPECT_EQ(status(ended).finished_at(), 2'000'000'123);
  EXPECT_EQ(status(waiting).state(), api::CONTAINER_CREATED);
  EXPECT_EQ(ask(&Runtime::RunPodSandbox, pod("web")).status().code(), Code::already_exists) << "names are kept too";
  EXPECT_TRUE(remove_pod(id));
  expect_nothing_is_left();
}

TEST_F(EngineTest, WhatNoRecordKnowsIsRemoved) {
  const std::string id = run_pod();
  const std::string kept = create(id);
  crash();
  const std::string orphan(64, 'c'), stray(64, 'd');
  runtime->containers[orphan].set_id(orphan);
  network->attachments[stray].set_sandbox_id(stray);
  NamespaceRequest request;
  request.folder = folder + "/run/sandboxes/" + stray;
  ASSERT_TRUE(make_namespaces(request));
  boot();
  EXPECT_FALSE(runtime->containers.contains(orphan));
  EXPECT_TRUE(runtime->containers.contains(kept));
  EXPECT_FALSE(network->attachments.contains(stray));
  EXPECT_TRUE(network->attachments.contains(id));
  EXPECT_FALSE(fs::exists(request.folder));
  EXPECT_EQ(pod_status(id).state(), api::SANDBOX_READY);
}

TEST_F(EngineTest, ACrashWhileASandboxIsMadeIsUndone) {
  network->hold_attach.active = true;
  const auto run = [](Runtime service, api::RunPodSandboxRequest request) -> Task<void> {
    auto call = service.RunPodSandbox(request);
    (void)co_await call;
  };
  client->host().detach(run(stub, pod("web")));
  ASSERT_TRUE(node->run_until([&] { return network->hold_attach.waiting() == 1; }));
  EXPECT_EQ(records("sandboxes").size(), 1u) << "the record is there before the network is asked";
  EXPECT_EQ(pins().size(), 1u);
  crash();
  network->hold_attach.release();  // it attaches, and nobody hears of it
  boot();
  ASSERT_TRUE(node->run_until([&] { return records("sandboxes").empty(); }));
  expect_nothing_is_left();
}

TEST_F(EngineTest, ACrashWhileAContainerIsMadeIsUndone) {
  const std::string id = run_pod();
  runtime->hold_create.active = true;
  const auto run = [](Runtime service, api::CreateContainerRequest request) -> Task<void> {
    auto call = service.CreateContainer(request);
    (void)co_await call;
  };
  client->host().detach(run(stub, container(id, "main")));
  ASSERT_TRUE(node->run_until([&] { return runtime->hold_create.waiting() == 1; }));
  EXPECT_EQ(records("containers").size(), 1u);
  crash();
  runtime->hold_create.release();
  boot();
  ASSERT_TRUE(node->run_until([&] { return records("containers").empty() && runtime->containers.empty(); }));
  // The name is free a moment after its record is gone: each request gives the removal time to end.
  const auto patience = std::chrono::steady_clock::now() + 10s;
  Result<api::CreateContainerResponse> made = already_exists("not tried");
  while (made.status().code() == Code::already_exists && std::chrono::steady_clock::now() < patience)
    made = ask(&Runtime::CreateContainer, container(id, "main"));
  EXPECT_TRUE(made) << made.status().to_string();
}

TEST_F(EngineTest, ACrashWhileAPodIsRemovedIsFinished) {
  const std::string id = run_pod();
  create(id);
  runtime->hold_remove.active = true;
  const auto run = [](Runtime service, std::string sandbox) -> Task<void> {
    api::RemovePodSandboxRequest request;
    request.set_pod_sandbox_id(sandbox);
    auto call = service.RemovePodSandbox(request);
    (void)co_await call;
  };
  client->host().detach(run(stub, id));
  ASSERT_TRUE(node->run_until([&] { return runtime->hold_remove.waiting() == 1; }));
  crash();
  runtime->hold_remove.release();
  boot();
  ASSERT_TRUE(node->run_until([&] { return records("sandboxes").empty() && records("containers").empty(); }));
  expect_nothing_is_left();
}

TEST_F(EngineTest, ATruncatedRecordIsSetAsideAndItsLeftoversRemoved) {
  const std::string id = run_pod("broken");
  create(id);
  const std::string whole = run_pod("whole");
  crash();
  fs::resize_file(folder + "/shared/cri/records/sandboxes/" + id, 20);
  boot();
  ASSERT_TRUE(node->run_until(
      [&] { return network->attachments.size() == 1 && runtime->containers.empty() && pins().size() == 1; }));
  EXPECT_TRUE(fs::exists(folder + "/shared/cri/records/sandboxes/damaged/" + id));
  EXPECT_EQ(pods(), 1);
  EXPECT_EQ(pod_status(whole).state(), api::SANDBOX_READY);
  ASSERT_TRUE(node->run_until([&] { return !runtime->sandboxes.contains(id); }));
}

TEST_F(EngineTest, LostNamespacesMakeThePodNotReadyAndItCanStillBeRemoved) {
  const std::string id = run_pod();
  const std::string main = create(id);
  ASSERT_TRUE(start(main));
  crash();
  for (const fs::path& pin : pins()) ASSERT_TRUE(release_namespaces(pin));
  boot();
  EXPECT_EQ(pod_status(id).state(), api::SANDBOX_NOTREADY);
  EXPECT_EQ(status(main).state(), api::CONTAINER_EXITED);
  EXPECT_TRUE(remove_pod(id));
  expect_nothing_is_left();
}

TEST_F(EngineTest, AContainerThatItsBackendLostHasExited) {
  const std::string main = create(run_pod());
  ASSERT_TRUE(start(main));
  crash();
  runtime->containers.clear();
  boot();
  EXPECT_EQ(status(main).state(), api::CONTAINER_EXITED);
  EXPECT_EQ(status(main).exit_code(), 255);
  EXPECT_TRUE(remove(main));
}

TEST_F(EngineTest, AFullDiskIsResourceExhaustedAndNothingIsHalfMade) {
  crash();
  const std::string disk = folder + "/shared";
  ASSERT_EQ(::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=256k"), 0);
  boot();
  const std::string id = run_pod("first");
  std::string filling(512 << 10, 'x');
  std::ofstream(disk + "/filling") << filling;
  const Status full = ask(&Runtime::RunPodSandbox, pod("second")).status();
  EXPECT_EQ(full.code(), Code::resource_exhausted) << full.to_string();
  EXPECT_EQ(pins().size(), 1u);
  EXPECT_EQ(network->attachments.size(), 1u);
  fs::remove(disk + "/filling");
  EXPECT_EQ(run_pod("second").size(), 64u);
  EXPECT_EQ(pod_status(id).state(), api::SANDBOX_READY);
  node->destroy(*engine);
  ::umount2(disk.c_str(), MNT_DETACH);
}

TEST_F(EngineTest, NewPodsGoToTheNewGenerationAndOldOnesStay) {
  const std::string old_pod = run_pod("old");
  const std::string old_container = create(old_pod);
  testkit::InstanceOptions options = without_sandbox_container();
  options.key = "runtime@2";
  FakeInstance& next = node->add<FakeRuntime>("runtime", {"pintle.runtime.v1.RuntimeBackend"}, {}, options);
  FakeRuntime* const newer = FakeRuntime::newest;
  ASSERT_TRUE(node->start(next));
  node->bind(*engine, "runtime", {&next, runtime_instance});
  const std::string new_pod = run_pod("new");
  EXPECT_TRUE(newer->sandboxes.contains(new_pod));
  EXPECT_FALSE(newer->sandboxes.contains(old_pod));
  ASSERT_TRUE(start(old_container));
  EXPECT_EQ(runtime->containers.at(old_container).state(), runtime_api::CONTAINER_STATE_RUNNING);
  runtime->exit(old_container, 0);
  EXPECT_TRUE(node->run_until([&] { return status(old_container).state() == api::CONTAINER_EXITED; }));
  EXPECT_TRUE(remove_pod(old_pod));
  EXPECT_TRUE(runtime->containers.empty());
}

TEST_F(EngineTest, AnotherGenerationOfTheEngineTakesOverWithoutAnError) {
  const std::string id = run_pod();
  FakeInstance* const former = engine;
  boot();  // the former one runs still
  std::optional<bool> ready;
  const auto look = [](Runtime service, std::string sandbox, std::optional<bool>& into) -> Task<void> {
    api::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(sandbox);
    auto call = service.PodSandboxStatus(request);
    Result<api::PodSandboxStatusResponse> answer = co_await call;
    into = answer && answer->status().state() == api::SANDBOX_READY;
  };
  client->host().detach(look(stub, id, ready));
  EXPECT_FALSE(node->run_until([&] { return ready.has_value(); }, 100ms)) << "it waits for the owner to let go";
  ASSERT_TRUE(node->retire(*former));
  EXPECT_TRUE(former->said_retired());
  ASSERT_TRUE(node->run_until([&] { return ready.has_value(); }));
  EXPECT_TRUE(*ready);
  ASSERT_TRUE(node->stop(*former));
  node->destroy(*former);
  EXPECT_TRUE(remove_pod(id));
}

TEST_F(EngineTest, StatusAndStatisticsTellOfTheBackends) {
  Result<api::StatusResponse> answer = ask(&Runtime::Status, api::StatusRequest());
  ASSERT_TRUE(answer);
  ASSERT_EQ(answer->status().conditions_size(), 2);
  EXPECT_TRUE(answer->status().conditions(0).status());
  EXPECT_TRUE(answer->status().conditions(1).status());
  EXPECT_EQ(ask(&Runtime::RuntimeConfig, api::RuntimeConfigRequest())->linux().cgroup_driver(), api::CGROUPFS);
  const std::string id = run_pod();
  const std::string main = create(id);
  ASSERT_TRUE(start(main));
  api::PodSandboxStatsRequest request;
  request.set_pod_sandbox_id(id);
  Result<api::PodSandboxStatsResponse> stats = ask(&Runtime::PodSandboxStats, request);
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->stats().linux().memory().working_set_bytes().value(), 4096u);
  EXPECT_EQ(stats->stats().linux().containers(0).attributes().metadata().name(), "main");
}

}  // namespace
}  // namespace pintle::cri::testing_engine
