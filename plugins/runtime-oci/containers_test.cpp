// Real containers: the plugin on a fake node, the real conmon and OCI runtime, an image made of the machine's busybox.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "pintle/image.pintle.hpp"
#include "pintle/runtime.pintle.hpp"
#include "plugins/runtime-oci/record.hpp"
#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/testkit/fake_node.hpp"

namespace pintle::runtime_oci {
namespace {

using namespace std::chrono_literals;
using namespace pintle::runtime::v1;
using testkit::FakeInstance;
using testkit::FakeNode;

std::string make_id() { return files::random_hex(64); }

std::string slurp(const std::string& path) {
  auto text = files::read_file(path, 64u << 20);
  return text ? *text : std::string();
}

/// The messages of a log in CRI's format.
std::vector<std::string> lines_of(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream log(path);
  for (std::string line; std::getline(log, line);) {
    size_t at = 0;
    for (int field = 0; field < 3 && at != std::string::npos; ++field) at = line.find(' ', at) + 1;
    lines.push_back(line.substr(at));
  }
  return lines;
}

/// What a whole test run has in common: its folder, its cgroup, the image.
struct Ground {
  std::string path;
  std::string cgroup;
  Ground() {
    char name[] = "/tmp/pintle-oci-test-XXXXXX";
    path = mkdtemp(name);
    cgroup = "/pintle-test-" + path.substr(path.size() - 6);
    std::filesystem::create_directories(path + "/logs");
  }
  ~Ground() {
    auto layout = cgroup::Layout::detect();
    (void)layout->kill(cgroup);
    EXPECT_TRUE(layout->remove(cgroup, 5000).is_ok()) << "a cgroup was left";
    EXPECT_EQ(slurp("/proc/self/mountinfo").find(path), std::string::npos) << "a mount was left";
    auto top = files::open_folder("/tmp");
    EXPECT_TRUE(files::remove_tree(top->get(), path.substr(5)).is_ok());
  }
};

/// The example image, made once for all tests.
struct Archive {
  std::string path = "/tmp/pintle-oci-test-" + files::random_hex(8) + ".tar";
  Archive() { EXPECT_EQ(system((std::string(SOURCE) + "/packaging/image/make_web_image.sh " + path).c_str()), 0); }
  ~Archive() { unlink(path.c_str()); }
};

class ContainersTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "containers need root";
    auto layout = cgroup::Layout::detect();
    ASSERT_TRUE(layout.is_ok());
    // crun refuses a hybrid host where a controller is on v2; such a host is repaired by mounting it as v1.
    if (layout->mode() == cgroup::Mode::hybrid && layout->of("hugetlb") && layout->of("hugetlb")->unified) {
      std::filesystem::create_directories("/sys/fs/cgroup/hugetlb");
      mount("cgroup", "/sys/fs/cgroup/hugetlb", "cgroup", 0, "hugetlb");
    }
    layout_ = std::move(*cgroup::Layout::detect());
    ground_ = std::make_unique<Ground>();
    static const Archive archive;
    archive_ = archive.path;
    begin();
  }
  void TearDown() override {
    if (!ground_) return;
    if (node_) {
      ListContainersResponse all = list();
      for (const auto& container : all.containers()) EXPECT_TRUE(remove(container.id()).is_ok());
    }
    // The deletion in the background is part of stopping.
    finish();
    ground_.reset();
  }
  /// Starts a fresh instance on what is on disk, as after a restart of the host.
  void begin(const std::string& key = "runtime-oci@1") {
    node_ = std::make_unique<FakeNode>();
    testkit::InstanceOptions options;
    options.name = "runtime-oci";
    options.key = key;
    options.config = std::string(R"({"runtime":")") + GetParam() + R"(","cgroupParent":")" + ground_->cgroup +
                     R"(","launcher":")" + LAUNCHER + R"("})";
    options.state_directory = ground_->path + "/state-" + key;
    options.run_directory = ground_->path + "/run-" + key;
    options.shared_directory = ground_->path + "/shared";
    for (const auto& folder : {options.state_directory, options.run_directory, options.shared_directory})
      std::filesystem::create_directories(folder);
    plugin_ = &node_->load(PLUGIN, options);
    client_ = &node_->client("test");
    const Status started = node_->start(*plugin_);
    ASSERT_TRUE(started.is_ok()) << started.message();
    runtime_ = node_->stub<RuntimeBackendStub>(*client_, *plugin_);
    images_ = node_->stub<image::v1::ImageBackendStub>(*client_, *plugin_);
  }
  /// Ends the instance without any warning to it, as a kill of the host does.
  void finish() {
    if (!node_) return;
    node_->destroy(*plugin_);
    EXPECT_TRUE(node_->violations().empty()) << node_->violations().front();
    node_.reset();
  }
  void restart() {
    finish();
    begin();
  }

  template <class Response, class Method, class Request>
  Result<Response> call(Method method, const Request& request, CallOptions options = {}) {
    const auto body = [](RuntimeBackendStub stub, Method chosen, Request asked,
                         CallOptions with) -> Task<Result<Response>> {
      auto pending = [&] { return (stub.*chosen)(asked, with); };
      co_return co_await pending();
    };
    auto result = node_->wait(body(runtime_, method, request, options), 60s);
    return result ? std::move(*result) : Result<Response>(deadline_exceeded("the call hangs"));
  }
  std::string load() {
    image::v1::LoadRequest request;
    request.set_path(archive_);
    const auto body = [](image::v1::ImageBackendStub stub,
                         image::v1::LoadRequest asked) -> Task<Result<image::v1::LoadResponse>> {
      co_return co_await stub.Load(asked);
    };
    auto result = node_->wait(body(images_, request), 60s);
    if (!result || !*result) {
      ADD_FAILURE() << (result ? result->status().message() : "the load hangs");
      return {};
    }
    return (*result)->images(0).image().id();
  }
  CreateContainerRequest request(const std::string& script) {
    CreateContainerRequest request;
    request.set_container_id(make_id());
    request.mutable_sandbox()->set_id(std::string(64, '5'));
    request.mutable_sandbox()->mutable_config()->set_hostname("pod");
    request.set_image_id(load());
    request.mutable_config()->mutable_metadata()->set_name("main");
    for (const std::string& part : {std::string("/bin/sh"), std::string("-c"), script})
      request.mutable_config()->add_command(part);
    request.set_log_path(log_of(request.container_id()));
    // As the node agent asks for it.
    auto& context = *request.mutable_config()->mutable_linux()->mutable_security_context();
    context.mutable_seccomp()->set_profile_type(::runtime::v1::SecurityProfile::RuntimeDefault);
    return request;
  }
  std::string log_of(const std::string& id) { return ground_->path + "/logs/" + id + ".log"; }
  Status create(const CreateContainerRequest& wanted) {
    return call<CreateContainerResponse>(&RuntimeBackendStub::CreateContainer, wanted).status();
  }
  Result<StartContainerResponse> start(const std::string& id) {
    StartContainerRequest asked;
    asked.set_container_id(id);
    return call<StartContainerResponse>(&RuntimeBackendStub::StartContainer, asked);
  }
  Status remove(const std::string& id) {
    RemoveContainerRequest asked;
    asked.set_container_id(id);
    return call<RemoveContainerResponse>(&RuntimeBackendStub::RemoveContainer, asked).status();
  }
  Status send_signal(const std::string& id, int number) {
    SignalContainerRequest asked;
    asked.set_container_id(id);
    asked.set_signal(number);
    return call<SignalContainerResponse>(&RuntimeBackendStub::SignalContainer, asked).status();
  }
  ListContainersResponse list(const std::string& id = {}) {
    ListContainersRequest asked;
    asked.set_container_id(id);
    auto response = call<ListContainersResponse>(&RuntimeBackendStub::ListContainers, asked);
    EXPECT_TRUE(response.is_ok()) << response.status().message();
    return response ? *response : ListContainersResponse();
  }
  Container about(const std::string& id) {
    ListContainersResponse response = list(id);
    return response.containers_size() ? response.containers(0) : Container();
  }
  /// Runs turns until the container has ended.
  Container wait_for_end(const std::string& id) {
    Container container;
    const auto until = std::chrono::steady_clock::now() + 20s;
    do {
      container = about(id);
      node_->run_until([] { return false; }, 5ms);
    } while (container.state() != CONTAINER_STATE_EXITED && std::chrono::steady_clock::now() < until);
    EXPECT_EQ(container.state(), CONTAINER_STATE_EXITED);
    return container;
  }
  /// Runs turns until what no turn tells of has happened: a line in a file, the end of a process.
  bool eventually(const std::function<bool()>& holds, std::chrono::milliseconds limit = 20s) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!holds()) {
      if (std::chrono::steady_clock::now() > until) return false;
      node_->run_until([] { return false; }, 5ms);
    }
    return true;
  }
  bool wait_for_lines(const std::string& id, size_t count) {
    return eventually([&] { return lines_of(log_of(id)).size() >= count; });
  }
  std::string run(const std::string& script) {
    const CreateContainerRequest wanted = request(script);
    const Status created = create(wanted);
    EXPECT_TRUE(created.is_ok()) << created.message();
    auto started = start(wanted.container_id());
    EXPECT_TRUE(started.is_ok()) << started.status().message();
    return wanted.container_id();
  }
  struct Executed {
    Status status;
    int code = -1;
    std::string output;
    std::string errors;
  };
  Executed exec(const std::string& id, const std::string& script, const std::string& input = {},
                std::chrono::nanoseconds timeout = 0ns) {
    ExecRequest asked;
    asked.set_container_id(id);
    for (const std::string& part : {std::string("/bin/sh"), std::string("-c"), script}) asked.add_command(part);
    auto* variable = asked.add_environment();
    variable->set_key("GREETING");
    variable->set_value("hello");
    int in[2], out[2], err[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC) + pipe2(out, O_CLOEXEC) + pipe2(err, O_CLOEXEC), 0);
    files::Descriptor feed(in[1]), read_out(out[0]), read_err(err[0]);
    Attachments attach;
    for (const int fd : {in[0], out[1], err[1]}) attach.descriptors.emplace_back(fd);
    EXPECT_TRUE(files::write_all(feed.get(), input).is_ok());
    feed.reset();
    CallOptions options;
    options.attach = &attach;
    options.timeout = timeout;
    Executed executed;
    std::thread out_reader([&] { executed.output = *files::read_all(read_out.get(), 1 << 20); });
    std::thread err_reader([&] { executed.errors = *files::read_all(read_err.get(), 1 << 20); });
    auto response = call<ExecResponse>(&RuntimeBackendStub::Exec, asked, options);
    attach.descriptors.clear();
    out_reader.join();
    err_reader.join();
    executed.status = response.status();
    if (response) executed.code = response->exit_code();
    return executed;
  }
  bool is_in_cgroup(int pid, const std::string& path) {
    auto pids = layout_.processes(path);
    return pids && std::find(pids->begin(), pids->end(), pid) != pids->end();
  }

  std::unique_ptr<Ground> ground_;
  cgroup::Layout layout_;
  std::string archive_;
  std::unique_ptr<FakeNode> node_;
  FakeInstance* plugin_ = nullptr;
  FakeInstance* client_ = nullptr;
  RuntimeBackendStub runtime_;
  image::v1::ImageBackendStub images_;
};

TEST_P(ContainersTest, RunsLogsAndTellsTheExitCode) {
  const CreateContainerRequest wanted = request("echo out; echo err >&2; exit 7");
  const std::string id = wanted.container_id();
  const Status created = create(wanted);
  ASSERT_TRUE(created.is_ok()) << created.message();
  Container container = about(id);
  EXPECT_EQ(container.state(), CONTAINER_STATE_CREATED);
  EXPECT_GT(container.created_at(), 0);
  EXPECT_GT(container.monitor_pid(), 0);
  EXPECT_TRUE(is_in_cgroup(container.monitor_pid(), ground_->cgroup + "/monitors"));
  EXPECT_FALSE(is_in_cgroup(container.monitor_pid(), ground_->cgroup + "/" + id));
  EXPECT_EQ(create(wanted).code(), Code::already_exists);
  auto started = start(id);
  ASSERT_TRUE(started.is_ok()) << started.status().message();
  EXPECT_GT(started->pid(), 0);
  container = wait_for_end(id);
  EXPECT_EQ(container.exit_code(), 7);
  EXPECT_GE(container.finished_at(), container.started_at());
  EXPECT_FALSE(container.out_of_memory());
  EXPECT_EQ(start(id).status().code(), Code::failed_precondition);
  std::vector<std::string> lines = lines_of(log_of(id));
  std::sort(lines.begin(), lines.end());
  EXPECT_EQ(lines, (std::vector<std::string>{"err", "out"}));
  EXPECT_NE(slurp(log_of(id)).find(" stderr F err"), std::string::npos);
  EXPECT_TRUE(send_signal(id, SIGTERM).is_ok()) << "stopping what has ended succeeds";
  ASSERT_TRUE(remove(id).is_ok());
  EXPECT_EQ(list().containers_size(), 0);
  EXPECT_TRUE(remove(id).is_ok()) << "removing what is gone succeeds";
  EXPECT_FALSE(layout_.exists(ground_->cgroup + "/" + id));
}

TEST_P(ContainersTest, IsConfinedByDefault) {
  const std::string id =
      run("id -u; cat /proc/self/status | grep -E '^(CapEff|NoNewPrivs|Seccomp):' | tr -d ' \\t'; mount -t tmpfs x "
          "/mnt 2>&1; cat /proc/kcore | wc -c; "
          "echo 1 > /proc/sys/kernel/printk; hostname -s >/dev/null; ls /dev | tr '\\n' ' '; echo; mknod /tmp/sda b 8 "
          "0; cat /tmp/sda; echo end");
  wait_for_end(id);
  const std::string log = slurp(log_of(id));
  const std::vector<std::string> lines = lines_of(log_of(id));
  EXPECT_TRUE(std::find(lines.begin(), lines.end(), "1000") != lines.end()) << "the image's user\n" << log;
  EXPECT_NE(log.find("CapEff:0000000000000000"), std::string::npos) << log;
  EXPECT_NE(log.find("Seccomp:2"), std::string::npos) << log;
  EXPECT_NE(log.find("ermission denied"), std::string::npos) << log;
  EXPECT_EQ(log.find("sda "), std::string::npos) << log;
  // Not the last line of the log: what went to the standard error may be read after it.
  EXPECT_TRUE(std::find(lines.begin(), lines.end(), "end") != lines.end()) << log;
}

TEST_P(ContainersTest, RootCannotOpenTheDisksOfTheNode) {
  CreateContainerRequest wanted = request(
      "mknod /tmp/disk b 254 0; mknod /tmp/mem c 1 1; cat /tmp/disk >/dev/null; cat /tmp/mem > /dev/null; echo x > "
      "/dev/null && echo null works; unshare -m true; echo unshared $?");
  wanted.mutable_config()->mutable_linux()->mutable_security_context()->mutable_run_as_user()->set_value(0);
  ASSERT_TRUE(create(wanted).is_ok());
  ASSERT_TRUE(start(wanted.container_id()).is_ok());
  wait_for_end(wanted.container_id());
  const std::string log = slurp(log_of(wanted.container_id()));
  EXPECT_NE(log.find("can't open '/tmp/disk': Operation not permitted"), std::string::npos) << log;
  EXPECT_NE(log.find("can't open '/tmp/mem': Operation not permitted"), std::string::npos) << log;
  EXPECT_NE(log.find("null works"), std::string::npos) << log;
  EXPECT_EQ(log.find("unshared 0"), std::string::npos) << log;
}

TEST_P(ContainersTest, ExecRunsInTheContainerWithItsOwnStreams) {
  const std::string id = run("echo ready; exec sleep 1000");
  ASSERT_TRUE(wait_for_lines(id, 1));
  const Executed executed = exec(id, "read line; echo $GREETING $line; echo oops >&2; id -u; exit 3", "you\n");
  ASSERT_TRUE(executed.status.is_ok()) << executed.status.message();
  EXPECT_EQ(executed.code, 3) << executed.errors;
  EXPECT_EQ(executed.output, "hello you\n1000\n");
  EXPECT_EQ(executed.errors, "oops\n");
  EXPECT_EQ(exec(make_id(), "true").status.code(), Code::not_found);
  EXPECT_EQ(lines_of(log_of(id)).size(), 1u) << "what a command writes is not the container's log";
}

TEST_P(ContainersTest, ACommandThatIsGivenUpIsKilled) {
  const std::string id = run("echo ready; exec sleep 1000");
  ASSERT_TRUE(wait_for_lines(id, 1));
  const size_t before = layout_.processes(ground_->cgroup + "/" + id)->size();
  const Executed executed = exec(id, "exec sleep 999", "", 1s);
  EXPECT_EQ(executed.status.code(), Code::deadline_exceeded);
  EXPECT_TRUE(eventually([&] { return layout_.processes(ground_->cgroup + "/" + id)->size() == before; }, 5s));
  // A zombie is in its cgroup no more, but among the container's processes.
  EXPECT_EQ(exec(id, "cat /proc/[0-9]*/status | grep -c '^State:.Z'").output, "0\n");
}

TEST_P(ContainersTest, AContainerWithoutALogRuns) {
  CreateContainerRequest wanted = request("head -c 300000 /dev/zero; exit 6");
  wanted.clear_log_path();
  const Status created = create(wanted);
  ASSERT_TRUE(created.is_ok()) << created.message();
  ASSERT_TRUE(start(wanted.container_id()).is_ok());
  EXPECT_EQ(wait_for_end(wanted.container_id()).exit_code(), 6);
}

TEST_P(ContainersTest, MountsAndAReadOnlyRootAreAsAsked) {
  std::filesystem::create_directories(ground_->path + "/data");
  std::ofstream(ground_->path + "/data/file") << "from the node\n";
  std::ofstream(ground_->path + "/hosts") << "127.0.0.1 localhost\n";
  CreateContainerRequest wanted = request(
      "cat /data/file; echo x 2>/dev/null > /data/file || echo kept; echo y 2>/dev/null > /here || echo closed; cat "
      "/etc/hosts; touch /more/x && echo open");
  auto* data = wanted.mutable_config()->add_mounts();
  data->set_host_path(ground_->path + "/data");
  data->set_container_path("/data");
  data->set_readonly(true);
  auto* more = wanted.mutable_config()->add_mounts();
  more->set_host_path(ground_->path + "/data");
  more->set_container_path("/more");
  wanted.mutable_sandbox()->set_hosts(ground_->path + "/hosts");
  auto& context = *wanted.mutable_config()->mutable_linux()->mutable_security_context();
  context.set_readonly_rootfs(true);
  context.mutable_run_as_user()->set_value(0);
  const Status created = create(wanted);
  ASSERT_TRUE(created.is_ok()) << created.message();
  ASSERT_TRUE(start(wanted.container_id()).is_ok());
  wait_for_end(wanted.container_id());
  EXPECT_EQ(lines_of(log_of(wanted.container_id())),
            (std::vector<std::string>{"from the node", "kept", "closed", "127.0.0.1 localhost", "open"}));
}

TEST_P(ContainersTest, APrivilegedContainerMayDoWhatTheNodeMay) {
  CreateContainerRequest wanted = request(
      "mkdir -p /mnt && mount -t tmpfs x /mnt && echo mounted; test -e /dev/loop-control -o -b /dev/vda -o -c "
      "/dev/kmsg && echo devices; "
      "grep -q '^Seccomp:.0' /proc/self/status && echo unfiltered");
  auto& context = *wanted.mutable_config()->mutable_linux()->mutable_security_context();
  context.set_privileged(true);
  context.mutable_run_as_user()->set_value(0);
  const Status created = create(wanted);
  ASSERT_TRUE(created.is_ok()) << created.message();
  ASSERT_TRUE(start(wanted.container_id()).is_ok());
  wait_for_end(wanted.container_id());
  EXPECT_EQ(lines_of(log_of(wanted.container_id())), (std::vector<std::string>{"mounted", "devices", "unfiltered"}))
      << slurp(log_of(wanted.container_id()));
  EXPECT_EQ(slurp("/proc/self/mountinfo").find("tmpfs x "), std::string::npos) << "its mounts are its own";
}

TEST_P(ContainersTest, ATerminalIsOneStream) {
  CreateContainerRequest wanted = request("test -t 0 && test -t 1 && echo terminal; exec sleep 1000");
  wanted.mutable_config()->set_tty(true);
  wanted.mutable_config()->set_stdin(true);
  const Status created = create(wanted);
  ASSERT_TRUE(created.is_ok()) << created.message();
  ASSERT_TRUE(start(wanted.container_id()).is_ok());
  ASSERT_TRUE(wait_for_lines(wanted.container_id(), 1));
  EXPECT_EQ(lines_of(log_of(wanted.container_id()))[0].substr(0, 8), "terminal");

  files::Descriptor master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_EQ(grantpt(master.get()) + unlockpt(master.get()), 0);
  Attachments attach;
  attach.descriptors.emplace_back(open(ptsname(master.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
  ExecRequest asked;
  asked.set_container_id(wanted.container_id());
  asked.set_tty(true);
  for (const char* part : {"/bin/sh", "-c", "test -t 0 && echo tty; exit 5"}) asked.add_command(part);
  CallOptions options;
  options.attach = &attach;
  auto response = call<ExecResponse>(&RuntimeBackendStub::Exec, asked, options);
  ASSERT_TRUE(response.is_ok()) << response.status().message();
  EXPECT_EQ(response->exit_code(), 5);
  char text[200] = {};
  EXPECT_GT(read(master.get(), text, sizeof text - 1), 0);
  EXPECT_NE(std::string(text).find("tty"), std::string::npos) << text;
}

TEST_P(ContainersTest, WhatCannotRunIsRefusedAndLeavesNothing) {
  const std::string image = load();
  CreateContainerRequest wanted = request("true");
  wanted.mutable_config()->clear_command();
  wanted.mutable_config()->add_command("/no/such/program");
  Status status = create(wanted);
  EXPECT_EQ(status.code(), Code::invalid_argument) << status.message();
  EXPECT_NE(status.message().find("/no/such/program"), std::string::npos) << status.message();
  wanted.set_image_id("sha256:" + std::string(64, '0'));
  EXPECT_EQ(create(wanted).code(), Code::not_found);
  wanted.set_image_id(image);
  wanted.mutable_config()->mutable_linux()->mutable_security_context()->set_run_as_username("nosuchuser");
  EXPECT_EQ(create(wanted).code(), Code::invalid_argument);
  wanted.set_container_id("short");
  EXPECT_EQ(create(wanted).code(), Code::invalid_argument);
  EXPECT_EQ(list().containers_size(), 0);
  EXPECT_EQ(slurp("/proc/self/mountinfo").find(ground_->path), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(ground_->path + "/state-runtime-oci@1/containers"));
  EXPECT_TRUE(std::filesystem::is_empty(ground_->path + "/shared/images/leases"));
  EXPECT_TRUE(eventually([&] {
    auto stray = layout_.processes(ground_->cgroup);
    return !stray || stray->empty();
  }));
}

TEST_P(ContainersTest, MemoryThatRunsOutIsTold) {
  if (!layout_.of("memory")) GTEST_SKIP() << "no memory controller";
  CreateContainerRequest wanted = request("tail /dev/zero");
  wanted.mutable_config()->mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(24 << 20);
  wanted.mutable_config()->mutable_linux()->mutable_resources()->set_memory_swap_limit_in_bytes(24 << 20);
  ASSERT_TRUE(create(wanted).is_ok());
  ASSERT_TRUE(start(wanted.container_id()).is_ok());
  const Container container = wait_for_end(wanted.container_id());
  EXPECT_TRUE(container.out_of_memory());
  EXPECT_EQ(container.exit_code(), 137);
}

TEST_P(ContainersTest, ResourcesAreUpdatedAndStatisticsRead) {
  if (!layout_.of("memory")) GTEST_SKIP() << "no memory controller";
  const std::string id = run("echo ready; exec sleep 1000");
  ASSERT_TRUE(wait_for_lines(id, 1));
  UpdateResourcesRequest asked;
  asked.set_container_id(id);
  asked.mutable_resources()->set_memory_limit_in_bytes(48 << 20);
  const auto updated = call<UpdateResourcesResponse>(&RuntimeBackendStub::UpdateResources, asked);
  ASSERT_TRUE(updated.is_ok()) << updated.status().message();
  EXPECT_EQ(layout_.stats(ground_->cgroup + "/" + id)->memory_limit, 48u << 20);
  StatsRequest stats_asked;
  stats_asked.set_container_id(id);
  auto stats = call<StatsResponse>(&RuntimeBackendStub::Stats, stats_asked);
  ASSERT_TRUE(stats.is_ok());
  ASSERT_EQ(stats->containers_size(), 1);
  EXPECT_EQ(stats->containers(0).attributes().metadata().name(), "main");
  EXPECT_GT(stats->containers(0).memory().usage_bytes().value(), 0u);
  EXPECT_GT(stats->containers(0).cpu().usage_core_nano_seconds().value(), 0u);
}

TEST_P(ContainersTest, TheLogIsOpenedAgainAfterRotation) {
  const std::string id = run("echo before; trap 'echo after' USR1; while :; do sleep 0.02; done");
  ASSERT_TRUE(wait_for_lines(id, 1));
  std::filesystem::rename(log_of(id), log_of(id) + ".1");
  ReopenLogRequest asked;
  asked.set_container_id(id);
  const auto reopened = call<ReopenLogResponse>(&RuntimeBackendStub::ReopenLog, asked);
  ASSERT_TRUE(reopened.is_ok()) << reopened.status().message();
  EXPECT_TRUE(std::filesystem::exists(log_of(id)));
  ASSERT_TRUE(send_signal(id, SIGUSR1).is_ok());
  EXPECT_TRUE(wait_for_lines(id, 1));
  EXPECT_EQ(lines_of(log_of(id)), std::vector<std::string>{"after"});
}

TEST_P(ContainersTest, ChangesAreTold) {
  std::vector<ContainerState> states;
  const auto listen = [](RuntimeBackendStub stub, std::vector<ContainerState>* into) -> Task<Status> {
    EventsRequest asked;
    std::function<void(const Event&, Attachments&)> note = [into](const Event& event, Attachments&) {
      into->push_back(event.container().state());
    };
    co_return co_await stub.Events(asked, note);
  };
  client_->host().detach(
      [](Task<Status> task) -> Task<void> { (void)co_await std::move(task); }(listen(runtime_, &states)));
  run("exit 0");
  EXPECT_TRUE(eventually([&] { return states.size() >= 3; }, 10s));
  EXPECT_EQ(states,
            (std::vector<ContainerState>{CONTAINER_STATE_CREATED, CONTAINER_STATE_RUNNING, CONTAINER_STATE_EXITED}));
}

TEST_P(ContainersTest, ContainersOutliveTheInstanceAndAreTakenOver) {
  const std::string id = run("i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done");
  const std::string ended = run("exit 9");
  ASSERT_TRUE(wait_for_lines(id, 5));
  // Exit codes that nobody has seen yet go with the run folder.
  EXPECT_EQ(wait_for_end(ended).exit_code(), 9);
  const Container before = about(id);
  finish();
  std::filesystem::remove_all(ground_->path + "/run-runtime-oci@1");
  begin();
  const Container after = about(id);
  EXPECT_EQ(after.state(), CONTAINER_STATE_RUNNING);
  EXPECT_EQ(after.pid(), before.pid());
  EXPECT_EQ(after.monitor_pid(), before.monitor_pid());
  EXPECT_EQ(after.started_at(), before.started_at());
  EXPECT_EQ(wait_for_end(ended).exit_code(), 9);
  const Executed executed = exec(id, "echo again");
  EXPECT_EQ(executed.output, "again\n") << executed.errors;
  ASSERT_TRUE(send_signal(id, SIGKILL).is_ok());
  EXPECT_EQ(wait_for_end(id).exit_code(), 137);
  const std::vector<std::string> lines = lines_of(log_of(id));
  for (size_t i = 0; i < lines.size(); ++i) ASSERT_EQ(lines[i], std::to_string(i)) << "a line was lost or doubled";
}

TEST_P(ContainersTest, AnEndWhileNobodyWatchedIsFound) {
  const std::string id = run("sleep 0.3; echo bye; exit 4");
  finish();
  std::this_thread::sleep_for(800ms);
  begin();
  const Container container = about(id);
  EXPECT_EQ(container.state(), CONTAINER_STATE_EXITED);
  EXPECT_EQ(container.exit_code(), 4);
  EXPECT_EQ(lines_of(log_of(id)), std::vector<std::string>{"bye"});
}

TEST_P(ContainersTest, AnEndedContainerGivesItsCgroupAndMountsBack) {
  const auto is_mounted = [this](const std::string& id) {
    auto mounts = files::read_file("/proc/self/mountinfo", 4u << 20);
    return !mounts ||
           mounts->find(ground_->path + "/state-runtime-oci@1/containers/" + id + "/rootfs") != std::string::npos;
  };
  const std::string watched = run("exec sleep 1000"), unwatched = run("exec sleep 1000");
  ASSERT_TRUE(layout_.exists(ground_->cgroup + "/" + watched) && is_mounted(watched));
  ASSERT_TRUE(send_signal(watched, SIGKILL).is_ok());
  EXPECT_TRUE(eventually([&] { return !layout_.exists(ground_->cgroup + "/" + watched) && !is_mounted(watched); }));
  EXPECT_EQ(about(watched).exit_code(), 137);
  const int pid = about(unwatched).pid();
  finish();
  ::kill(pid, SIGKILL);
  begin();
  EXPECT_TRUE(eventually([&] { return !layout_.exists(ground_->cgroup + "/" + unwatched) && !is_mounted(unwatched); }));
}

TEST_P(ContainersTest, AMonitorThatIsKilledIsNoticed) {
  const std::string id = run("exec sleep 1000");
  const Container before = about(id);
  ::kill(before.monitor_pid(), SIGKILL);
  ASSERT_TRUE(eventually([&] { return !about(id).message().empty(); }, 5s));
  EXPECT_EQ(about(id).state(), CONTAINER_STATE_RUNNING);
  EXPECT_EQ(about(id).monitor_pid(), 0);
  ASSERT_TRUE(send_signal(id, SIGKILL).is_ok());
  EXPECT_EQ(wait_for_end(id).exit_code(), 137);
}

TEST_P(ContainersTest, ADamagedRecordCostsItsContainerOnly) {
  const std::string damaged = run("exec sleep 1000"), sound = run("exec sleep 1000");
  const int pid = about(damaged).pid();
  finish();
  std::filesystem::resize_file(ground_->path + "/state-runtime-oci@1/containers/" + damaged + "/state.json", 30);
  begin();
  EXPECT_EQ(list().containers_size(), 1);
  EXPECT_EQ(about(sound).state(), CONTAINER_STATE_RUNNING);
  EXPECT_TRUE(eventually([&] { return !start_time_of(pid).is_ok(); }, 5s));
  EXPECT_FALSE(layout_.exists(ground_->cgroup + "/" + damaged));
  EXPECT_TRUE(std::filesystem::exists(ground_->path + "/state-runtime-oci@1/damaged-" + damaged + ".json"));
}

TEST_P(ContainersTest, ARetiringInstanceServesWhatItOwnsAndThenRetires) {
  const std::string id = run("exec sleep 1000");
  ASSERT_TRUE(node_->retire(*plugin_).is_ok());
  CreateContainerRequest of_a_new_pod = request("true");
  of_a_new_pod.mutable_sandbox()->set_id(std::string(64, 'f'));
  EXPECT_EQ(create(of_a_new_pod).code(), Code::unavailable);
  const CreateContainerRequest of_its_own_pod = request("true");
  EXPECT_TRUE(create(of_its_own_pod).is_ok());
  EXPECT_TRUE(remove(of_its_own_pod.container_id()).is_ok());
  EXPECT_EQ(exec(id, "echo still").output, "still\n");
  EXPECT_FALSE(plugin_->said_retired());
  ASSERT_TRUE(remove(id).is_ok());
  EXPECT_TRUE(eventually([&] { return plugin_->said_retired(); }, 5s));
}

TEST_P(ContainersTest, APodSharesItsCgroup) {
  CreateContainerRequest wanted = request("exec sleep 1000");
  CreateSandboxRequest sandbox;
  *sandbox.mutable_sandbox() = wanted.sandbox();
  sandbox.mutable_sandbox()->set_cgroup_parent(ground_->cgroup + "/pod1");
  ASSERT_TRUE(call<CreateSandboxResponse>(&RuntimeBackendStub::CreateSandbox, sandbox).is_ok());
  wanted.mutable_sandbox()->set_cgroup_parent(ground_->cgroup + "/pod1");
  ASSERT_TRUE(create(wanted).is_ok());
  auto started = start(wanted.container_id());
  ASSERT_TRUE(started.is_ok());
  EXPECT_TRUE(is_in_cgroup(started->pid(), ground_->cgroup + "/pod1/" + wanted.container_id()));
  ASSERT_TRUE(remove(wanted.container_id()).is_ok());
  RemoveSandboxRequest gone;
  gone.set_cgroup_parent(ground_->cgroup + "/pod1");
  EXPECT_TRUE(call<RemoveSandboxResponse>(&RuntimeBackendStub::RemoveSandbox, gone).is_ok());
  EXPECT_FALSE(layout_.exists(ground_->cgroup + "/pod1"));
}

TEST_P(ContainersTest, HalfMadeContainersAreRemovedAtTheNextStart) {
  load();
  // Ends the instance at moments all over the creation and removal, with no chance to clean up.
  for (int step = 0; step < 12; ++step) {
    const CreateContainerRequest wanted = request("exec sleep 1000");
    const auto body = [](RuntimeBackendStub stub, CreateContainerRequest asked, bool* done) -> Task<void> {
      (void)co_await stub.CreateContainer(asked);
      *done = true;
    };
    bool done = false;
    client_->host().detach(body(runtime_, wanted, &done));
    node_->run_until([&] { return done; }, std::chrono::milliseconds(step * 4));
    restart();
    const ListContainersResponse all = list();
    for (const auto& container : all.containers()) {
      EXPECT_EQ(container.state(), CONTAINER_STATE_CREATED);
      EXPECT_TRUE(remove(container.id()).is_ok());
    }
    EXPECT_TRUE(eventually(
        [&] {
          auto now_there = layout_.processes(ground_->cgroup);
          return !now_there || now_there->empty();
        },
        5s))
        << step;
    EXPECT_FALSE(layout_.exists(ground_->cgroup + "/" + wanted.container_id())) << step;
    EXPECT_TRUE(std::filesystem::is_empty(ground_->path + "/state-runtime-oci@1/containers")) << step;
    EXPECT_TRUE(std::filesystem::is_empty(ground_->path + "/shared/images/leases")) << step;
  }
}

TEST_P(ContainersTest, AKilledOwnerLosesNothingAndLeaksNothing) {
  const std::string lasting = run("i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done");
  ASSERT_TRUE(wait_for_lines(lasting, 3));
  const Container before = about(lasting);
  const std::string containers = ground_->path + "/state-runtime-oci@1/containers";
  for (int round = 0; round < 12; ++round) {
    finish();
    const pid_t owner = fork();
    if (owner == 0) {
      // Makes and removes containers until it is killed, at whatever it is doing then. What it leaves goes with the ground.
      setenv("TMPDIR", ground_->path.c_str(), 1);
      begin();
      for (;;) {
        const CreateContainerRequest wanted = request("exec sleep 1000");
        if (create(wanted).is_ok()) (void)start(wanted.container_id());
        (void)remove(wanted.container_id());
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(60 + 37 * round));
    ::kill(owner, SIGKILL);
    ASSERT_EQ(waitpid(owner, nullptr, 0), owner);
    begin();
    const Container after = about(lasting);
    ASSERT_EQ(after.state(), CONTAINER_STATE_RUNNING) << after.message();
    EXPECT_EQ(after.pid(), before.pid());
    EXPECT_EQ(after.monitor_pid(), before.monitor_pid());
    EXPECT_EQ(after.started_at(), before.started_at());
    const ListContainersResponse found = list();
    for (const auto& container : found.containers()) {
      if (container.id() == lasting) continue;
      EXPECT_TRUE(remove(container.id()).is_ok());
    }
    std::set<std::string> left;
    for (const auto& entry : std::filesystem::directory_iterator(containers)) left.insert(entry.path().filename());
    EXPECT_EQ(left, std::set<std::string>{lasting}) << round;
    EXPECT_TRUE(eventually([&] { return layout_.processes(ground_->cgroup + "/monitors")->size() == 1; }))
        << "a monitor is left";
  }
  ASSERT_TRUE(send_signal(lasting, SIGKILL).is_ok());
  EXPECT_EQ(wait_for_end(lasting).exit_code(), 137);
  const std::vector<std::string> lines = lines_of(log_of(lasting));
  for (size_t i = 0; i < lines.size(); ++i) ASSERT_EQ(lines[i], std::to_string(i)) << "a line was lost or doubled";
}

INSTANTIATE_TEST_SUITE_P(Runtimes, ContainersTest, ::testing::Values("crun", "runc"),
                         [](const auto& runtime) { return std::string(runtime.param); });

}  // namespace
}  // namespace pintle::runtime_oci
