// The gRPC front end between a real gRPC client and implementations of the test's own.

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <coroutine>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "cri/coordination.hpp"
#include "cri/grpc_server.hpp"
#include "cri/schema.hpp"
#include "sdk/testkit/fake_node.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

/// Answers what the tests ask; `Status` waits until it is told or cancelled.
class Service final : public api::RuntimeService {
 public:
  Task<Result<api::VersionResponse>> Version(Call& call, const api::VersionRequest& request) override {
    caller = call.caller();
    has_deadline = call.remaining().has_value();
    api::VersionResponse response;
    response.set_version(request.version());
    co_return response;
  }
  Task<Result<api::ListContainersResponse>> ListContainers(Call&, const api::ListContainersRequest&) override {
    co_return not_found("nothing \"here\"\nindeed");
  }
  Task<Result<api::StatusResponse>> Status(Call& call, const api::StatusRequest&) override {
    ++waiting;
    while (!call.is_cancelled() && !go_on) {
      Task<bool> told = told_.wait(10ms);
      (void)co_await std::move(told);
    }
    --waiting;
    cancelled_seen = call.is_cancelled();
    co_return api::StatusResponse();
  }
  Task<pintle::Status> GetContainerEvents(Call& call, const api::GetEventsRequest&,
                                          StreamWriter<api::ContainerEventResponse>& writer) override {
    for (int index = 0; index < 500 && !call.is_cancelled(); ++index) {
      api::ContainerEventResponse event;
      event.set_created_at(index);
      auto writing = writer.write(event);
      if (pintle::Status written = co_await writing; !written) co_return written;
    }
    co_return pintle::Status::ok();
  }
  /// Ends with all its likes as soon as one of them is cancelled, at once and in that call's own turn.
  Task<Result<api::ContainerStatusResponse>> ContainerStatus(Call& call, const api::ContainerStatusRequest&) override {
    call.on_cancel([this] {
      const auto others = std::exchange(together_, {});
      for (const std::coroutine_handle<> handle : others) handle.resume();
      if (!others.empty() && when_together) when_together();
    });
    ++waiting;
    Join join{together_};
    co_await join;
    --waiting;
    co_return api::ContainerStatusResponse();
  }
  explicit Service(Host& host) : told_(host) {}

  std::string caller;
  bool has_deadline = false;
  std::atomic<int> waiting{0};
  std::atomic<bool> cancelled_seen{false};
  bool go_on = false;
  std::function<void()> when_together;  ///< after `ContainerStatus` has ended them

 private:
  struct Join {
    std::vector<std::coroutine_handle<>>& waiting;
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> handle) { waiting.push_back(handle); }
    void await_resume() const {}
  };
  Notification told_;
  std::vector<std::coroutine_handle<>> together_;
};

class GrpcTest : public testing::Test {
 protected:
  void SetUp() override {
    path = node.directory() + "/cri.sock";
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(socket.get(), 128), 0);
    ASSERT_TRUE(server->listen(std::move(socket)));
  }
  void TearDown() override {
    service.go_on = true;
    if (server) stop(10s);
  }
  void stop(std::chrono::nanoseconds patience) {
    const auto end = [](GrpcServer& ending, std::chrono::nanoseconds limit) -> Task<bool> {
      Task<void> stopping = ending.stop(limit);
      co_await std::move(stopping);
      co_return true;
    };
    ASSERT_TRUE(node.wait(end(*server, patience), 20s));
    server.reset();
  }

  std::shared_ptr<grpc::Channel> channel(const std::string& authority = "") const {
    grpc::ChannelArguments arguments;
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);
    if (!authority.empty()) arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, authority);
    return grpc::CreateCustomChannel("unix:" + path, grpc::InsecureChannelCredentials(), arguments);
  }
  struct Answer {
    grpc::Status status;
    std::string bytes;
  };
  static Answer call_on(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                        const std::string& request, grpc::ClientContext& context) {
    grpc::GenericStub stub(channel);
    grpc::CompletionQueue queue;
    const grpc::Slice slice(request);
    const grpc::ByteBuffer bytes(&slice, 1);
    auto call = stub.PrepareUnaryCall(&context, "/runtime.v1.RuntimeService/" + method, bytes, &queue);
    call->StartCall();
    Answer answer;
    grpc::ByteBuffer response;
    call->Finish(&response, &answer.status, nullptr);
    void* tag = nullptr;
    bool good = false;
    queue.Next(&tag, &good);
    grpc::Slice whole;
    if (answer.status.ok() && response.DumpToSingleSlice(&whole).ok()) answer.bytes.assign(whole.begin(), whole.end());
    return answer;
  }
  /// Runs a client on a thread of its own while the lane works here.
  template <class F>
  void with_lane(F client) {
    std::atomic<bool> done{false};
    std::thread thread([&] {
      client();
      done = true;
      instance.host().post([] {});  // wakes the lane to look
    });
    node.run_until([&] { return done.load(); }, 20s);
    thread.join();
  }

  testkit::FakeNode node;
  testkit::FakeInstance& instance = node.client();
  Service service{instance.host()};
  std::unique_ptr<GrpcServer> server =
      std::make_unique<GrpcServer>(instance.host(), "socket:cri", std::vector<Implementation*>{&service});
  std::string path;
};

TEST_F(GrpcTest, AMethodIsServedUnderAnyAuthority) {
  api::VersionRequest request;
  request.set_version("v1");
  with_lane([&] {
    for (const std::string authority : {"", "localhost", "/run/pintle/cri.sock", "%2Frun%2Fpintle%2Fcri.sock"}) {
      grpc::ClientContext context;
      const Answer answer = call_on(channel(authority), "Version", request.SerializeAsString(), context);
      EXPECT_TRUE(answer.status.ok()) << authority << ": " << answer.status.error_message();
      api::VersionResponse response;
      EXPECT_TRUE(response.ParseFromString(answer.bytes));
      EXPECT_EQ(response.version(), "v1");
    }
  });
  EXPECT_EQ(service.caller, "socket:cri");
  EXPECT_FALSE(service.has_deadline);
}

TEST_F(GrpcTest, ErrorsKeepTheirCodeAndText) {
  with_lane([&] {
    grpc::ClientContext context;
    const Answer answer = call_on(channel(), "ListContainers", "", context);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(answer.status.error_message(), "nothing \"here\"\nindeed");
  });
}

TEST_F(GrpcTest, WhatIsNoMethodOrNoMessageIsRefused) {
  with_lane([&] {
    grpc::ClientContext context;
    EXPECT_EQ(call_on(channel(), "Nothing", "", context).status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    grpc::ClientContext other;
    const Answer unimplemented_here = call_on(channel(), "Exec", "", other);
    EXPECT_EQ(unimplemented_here.status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    grpc::ClientContext broken;
    EXPECT_EQ(call_on(channel(), "Version", "\xff\xff\xff", broken).status.error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  });
}

TEST_F(GrpcTest, TheDeadlineReachesTheHandlerAndEndsIt) {
  with_lane([&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 200ms);
    EXPECT_EQ(call_on(channel(), "Status", "", context).status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  });
  EXPECT_TRUE(node.run_until([&] { return service.cancelled_seen.load() && service.waiting == 0; }));
  EXPECT_TRUE(node.run_until([&] { return server->calls_under_way() == 0; }));
  with_lane([&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 10s);
    EXPECT_TRUE(call_on(channel(), "Version", "", context).status.ok());
  });
  EXPECT_TRUE(service.has_deadline);
}

TEST_F(GrpcTest, AClientThatGoesAwayCancels) {
  with_lane([&] {
    grpc::ClientContext context;
    std::thread canceller([&] {
      while (service.waiting == 0) std::this_thread::sleep_for(1ms);
      context.TryCancel();
    });
    EXPECT_EQ(call_on(channel(), "Status", "", context).status.error_code(), grpc::StatusCode::CANCELLED);
    canceller.join();
  });
  EXPECT_TRUE(node.run_until([&] { return service.cancelled_seen.load(); }));
}

TEST_F(GrpcTest, AStreamOfAnyLengthArrivesWholeAndInOrder) {
  with_lane([&] {
    grpc::GenericStub stub(channel());
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    void* tag = nullptr;
    bool good = false;
    auto stream = stub.PrepareCall(&context, "/runtime.v1.RuntimeService/GetContainerEvents", &queue);
    const auto next = [&] {
      queue.Next(&tag, &good);
      return good;
    };
    stream->StartCall(nullptr);
    next();
    const grpc::Slice nothing("");
    stream->WriteLast(grpc::ByteBuffer(&nothing, 1), grpc::WriteOptions(), nullptr);
    next();
    int count = 0;
    for (;;) {
      grpc::ByteBuffer message;
      stream->Read(&message, nullptr);
      if (!next()) break;
      grpc::Slice whole;
      EXPECT_TRUE(message.DumpToSingleSlice(&whole).ok());
      api::ContainerEventResponse event;
      EXPECT_TRUE(event.ParseFromArray(whole.begin(), static_cast<int>(whole.size())));
      EXPECT_EQ(event.created_at(), count++);
    }
    grpc::Status status;
    stream->Finish(&status, nullptr);
    next();
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(count, 500);
  });
}

TEST_F(GrpcTest, ManyCallsAtOnceAreAllAnswered) {
  with_lane([&] {
    std::vector<std::thread> clients;
    std::atomic<int> answered{0};
    for (int client = 0; client < 8; ++client) {
      clients.emplace_back([&] {
        const auto own = channel();
        for (int index = 0; index < 200; ++index) {
          grpc::ClientContext context;
          if (call_on(own, "Version", "", context).status.ok()) ++answered;
        }
      });
    }
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(answered, 1600);
  });
}

TEST_F(GrpcTest, AnEndWithCallsUnderWayCancelsThemAndTellsTheirClients) {
  std::atomic<bool> done{false};
  grpc::Status status;
  std::thread client([&] {
    grpc::ClientContext context;
    status = call_on(channel(), "Status", "", context).status;
    done = true;
  });
  ASSERT_TRUE(node.run_until([&] { return service.waiting == 1; }));
  stop(20ms);
  ASSERT_TRUE(node.run_until([&] { return done.load() && service.waiting == 0; }));
  client.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcTest, AnEndReachesCallsOfWhichOneTakesTheOthersWithIt) {
  constexpr int kCalls = 8;
  std::atomic<int> done{0};
  std::vector<grpc::Status> ends(kCalls);
  std::vector<std::thread> clients;
  for (int index = 0; index < kCalls; ++index) {
    clients.emplace_back([&, index] {
      grpc::ClientContext context;
      ends[index] = call_on(channel(), "ContainerStatus", "", context).status;
      ++done;
    });
  }
  EXPECT_TRUE(node.run_until([&] { return service.waiting == kCalls; }));
  // Nothing of the others is left when the first one's turn goes on.
  service.when_together = [&] {
    const auto patience = std::chrono::steady_clock::now() + 10s;
    while (done < kCalls && std::chrono::steady_clock::now() < patience) std::this_thread::yield();
    EXPECT_EQ(done, kCalls);
  };
  stop(20ms);
  EXPECT_TRUE(node.run_until([&] { return done == kCalls && service.waiting == 0; }));
  for (std::thread& client : clients) client.join();
  // The first is told that the service ends; what the others' handlers answered before their own turn came is theirs.
  EXPECT_EQ(std::ranges::count(ends, grpc::StatusCode::UNAVAILABLE, &grpc::Status::error_code), 1);
  EXPECT_EQ(std::ranges::count(ends, grpc::StatusCode::OK, &grpc::Status::error_code), kCalls - 1);
}

TEST_F(GrpcTest, AnEndWithoutAnyConnectionNeedsNothing) { stop(1s); }

}  // namespace
}  // namespace pintle::cri
