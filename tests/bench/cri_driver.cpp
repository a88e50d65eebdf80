// cri_driver SOCKET IMAGE LOG-FOLDER MEASUREMENT ROUNDS   one measurement of a container runtime through its CRI socket.
//
// The same program drives each runtime that is compared, so what it costs itself is the same for all. It prints one JSON object:
// milliseconds of each round, or of each of the parallel requests. Measurements:
//
//   sandbox    RunPodSandbox; the sandbox is stopped and removed again without being measured
//   start      CreateContainer until the first line of the process is in its log, in a sandbox that is there
//   remove     StopContainer of a process that ends on TERM, and RemoveContainer
//   parallel   ROUNDS times 10 RunPodSandbox at once
//   pods       ROUNDS pods at once (RunPodSandbox, CreateContainer, StartContainer); also CPU seconds of the whole machine
//
// Everything that it makes carries the label "pintle-bench", and is removed in the end.

#include <fcntl.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cri/api.pb.h"

namespace {

namespace cri = runtime::v1;
using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begun) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begun).count();
}

/// CPU seconds that this machine has spent on anything but being idle.
double machine_cpu_seconds() {
  std::ifstream file("/proc/stat");
  std::string name;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, interrupts = 0, soft = 0;
  file >> name >> user >> nice >> system >> idle >> wait >> interrupts >> soft;
  return (user + nice + system + interrupts + soft) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

class Runtime {
 public:
  Runtime(const std::string& socket, std::string image, std::string logs)
      : stub_(grpc::CreateChannel("unix://" + socket, grpc::InsecureChannelCredentials())),
        image_(std::move(image)),
        logs_(std::move(logs)) {}

  cri::PodSandboxConfig pod(const std::string& name) const {
    cri::PodSandboxConfig config;
    config.mutable_metadata()->set_name(name);
    config.mutable_metadata()->set_namespace_("bench");
    config.mutable_metadata()->set_uid("uid-" + name);
    config.set_log_directory(logs_ + "/" + name);
    (*config.mutable_labels())["pintle-bench"] = "true";
    config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(cri::CONTAINER);
    return config;
  }
  std::string run_sandbox(const cri::PodSandboxConfig& config) {
    mkdir(config.log_directory().c_str(), 0755);
    cri::RunPodSandboxRequest request;
    *request.mutable_config() = config;
    return call<cri::RunPodSandboxResponse>("RunPodSandbox", request).pod_sandbox_id();
  }
  std::string create(const std::string& sandbox, const cri::PodSandboxConfig& config, unsigned attempt) {
    cri::CreateContainerRequest request;
    request.set_pod_sandbox_id(sandbox);
    *request.mutable_sandbox_config() = config;
    cri::ContainerConfig& container = *request.mutable_config();
    container.mutable_metadata()->set_name("main");
    container.mutable_metadata()->set_attempt(attempt);
    container.mutable_image()->set_image(image_);
    container.add_command("/bin/workload");
    container.add_args("ticks");
    container.add_args("100000000");
    container.set_log_path("main-" + std::to_string(attempt) + ".log");
    container.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(64 << 20);
    container.mutable_linux()->mutable_resources()->set_cpu_shares(102);
    return call<cri::CreateContainerResponse>("CreateContainer", request).container_id();
  }
  void start(const std::string& id) {
    cri::StartContainerRequest request;
    request.set_container_id(id);
    call<cri::StartContainerResponse>("StartContainer", request);
  }
  /// Until the file holds its first line.
  static void wait_for_line(const std::string& path) {
    for (const auto begun = Clock::now(); milliseconds_since(begun) < 30000;) {
      struct stat about {};
      if (stat(path.c_str(), &about) == 0 && about.st_size > 0) return;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    throw std::runtime_error("no line appears in " + path);
  }
  void stop_and_remove(const std::string& id) {
    cri::StopContainerRequest stop;
    stop.set_container_id(id);
    stop.set_timeout(10);
    call<cri::StopContainerResponse>("StopContainer", stop);
    cri::RemoveContainerRequest remove;
    remove.set_container_id(id);
    call<cri::RemoveContainerResponse>("RemoveContainer", remove);
  }
  void remove_sandbox(const std::string& id) {
    cri::StopPodSandboxRequest stop;
    stop.set_pod_sandbox_id(id);
    call<cri::StopPodSandboxResponse>("StopPodSandbox", stop);
    cri::RemovePodSandboxRequest remove;
    remove.set_pod_sandbox_id(id);
    call<cri::RemovePodSandboxResponse>("RemovePodSandbox", remove);
  }
  void remove_all() {
    cri::ListPodSandboxRequest request;
    (*request.mutable_filter()->mutable_label_selector())["pintle-bench"] = "true";
    const auto found = call<cri::ListPodSandboxResponse>("ListPodSandbox", request);
    for (const auto& sandbox : found.items()) remove_sandbox(sandbox.id());
  }

 private:
  template <class Response>
  Response call(const std::string& method, const google::protobuf::MessageLite& request) {
    const std::string bytes = request.SerializeAsString();
    const grpc::Slice slice(bytes);
    grpc::ByteBuffer sent(&slice, 1), received;
    grpc::ClientContext context;
    std::promise<grpc::Status> ended;
    stub_.UnaryCall(&context, "/runtime.v1.RuntimeService/" + method, grpc::StubOptions(), &sent, &received,
                    [&ended](grpc::Status status) { ended.set_value(std::move(status)); });
    const grpc::Status status = ended.get_future().get();
    if (!status.ok()) throw std::runtime_error(method + ": " + status.error_message());
    std::vector<grpc::Slice> slices;
    (void)received.Dump(&slices);
    std::string answer;
    for (const grpc::Slice& part : slices) answer.append(reinterpret_cast<const char*>(part.begin()), part.size());
    Response response;
    if (!response.ParseFromString(answer)) throw std::runtime_error(method + ": its answer is no message");
    return response;
  }

  grpc::GenericStub stub_;
  const std::string image_, logs_;
};

/// Runs `work(index)` on as many threads, which begin together; the milliseconds each took.
std::vector<double> at_once(size_t count, const std::function<void(size_t)>& work) {
  std::vector<double> took(count);
  std::mutex lock;
  std::string problem;
  std::promise<void> go;
  const std::shared_future<void> gone = go.get_future().share();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      gone.wait();
      const auto begun = Clock::now();
      try {
        work(i);
      } catch (const std::exception& error) {
        const std::lock_guard guard(lock);
        problem = error.what();
      }
      took[i] = milliseconds_since(begun);
    });
  go.set_value();
  for (std::thread& thread : threads) thread.join();
  if (!problem.empty()) throw std::runtime_error(problem);
  return took;
}

void print(const std::vector<double>& took, double total = 0, double cpu = 0) {
  std::printf("{\"milliseconds\": [");
  for (size_t i = 0; i < took.size(); ++i) std::printf("%s%.3f", i == 0 ? "" : ", ", took[i]);
  std::printf("], \"total\": %.3f, \"cpu_seconds\": %.3f}\n", total, cpu);
}

void measure(Runtime& runtime, const std::string& logs, const std::string& what, size_t rounds) {
  const std::string prefix = what + "-" + std::to_string(getpid()) + "-";
  std::vector<double> took;
  if (what == "sandbox") {
    for (size_t i = 0; i < rounds; ++i) {
      const auto config = runtime.pod(prefix + std::to_string(i));
      const auto begun = Clock::now();
      const std::string id = runtime.run_sandbox(config);
      took.push_back(milliseconds_since(begun));
      runtime.remove_sandbox(id);
    }
    print(took);
  } else if (what == "start" || what == "remove") {
    const auto config = runtime.pod(prefix + "pod");
    const std::string sandbox = runtime.run_sandbox(config);
    for (unsigned i = 0; i < rounds; ++i) {
      auto begun = Clock::now();
      const std::string id = runtime.create(sandbox, config, i);
      runtime.start(id);
      Runtime::wait_for_line(logs + "/" + config.metadata().name() + "/main-" + std::to_string(i) + ".log");
      if (what == "start") took.push_back(milliseconds_since(begun));
      begun = Clock::now();
      runtime.stop_and_remove(id);
      if (what == "remove") took.push_back(milliseconds_since(begun));
    }
    print(took);
  } else if (what == "parallel") {
    for (size_t round = 0; round < rounds; ++round) {
      const auto name = [&](size_t i) { return prefix + std::to_string(round) + "-" + std::to_string(i); };
      for (double one : at_once(10, [&](size_t i) { runtime.run_sandbox(runtime.pod(name(i))); })) took.push_back(one);
      runtime.remove_all();
    }
    print(took);
  } else if (what == "pods") {
    const double cpu = machine_cpu_seconds();
    const auto begun = Clock::now();
    took = at_once(rounds, [&](size_t i) {
      const auto config = runtime.pod(prefix + std::to_string(i));
      const std::string sandbox = runtime.run_sandbox(config);
      runtime.start(runtime.create(sandbox, config, 0));
    });
    const double total = milliseconds_since(begun);
    print(took, total, machine_cpu_seconds() - cpu);
  } else {
    throw std::runtime_error("no measurement is called " + what);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 6) {
    std::fprintf(stderr, "usage: cri_driver SOCKET IMAGE LOG-FOLDER sandbox|start|remove|parallel|pods ROUNDS\n");
    return 2;
  }
  try {
    Runtime runtime(arguments[1], arguments[2], arguments[3]);
    measure(runtime, arguments[3], arguments[4], std::strtoul(arguments[5], nullptr, 10));
    runtime.remove_all();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cri_driver: %s\n", error.what());
    return 1;
  }
}
