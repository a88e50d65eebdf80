// Against real servers: gRPC's own health service, and sockets that say nothing.

#include "plugins/node-agent/web_client.hpp"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/container_actions.hpp"
#include "sdk/testkit/fake_node.hpp"

namespace pintle::agent {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;
using Kind = ProbeAnswer::Kind;

/// A TCP socket on loopback that listens and never answers.
class Silence {
 public:
  Silence() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(socket_.get(), 8), 0);
    EXPECT_EQ(getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  int port() const { return port_; }
  void close() { socket_.reset(); }

 private:
  UniqueFd socket_;
  int port_ = 0;
};

class WebClientTest : public testing::Test {
 protected:
  ProbeAnswer probe(const core::ProbeHandler& handler, std::chrono::nanoseconds timeout = 5s) {
    const ::runtime::v1::RuntimeServiceStub runtime;
    auto answer = node.wait(run_probe(client, runtime, {"container1", "127.0.0.1", &spec}, handler, timeout, nullptr));
    return answer ? *answer : ProbeAnswer{Kind::error, "hangs"};
  }
  testkit::FakeNode node;
  core::Container spec;
  WebClient client{node.client().host()};
};

TEST_F(WebClientTest, asks_the_health_service_of_a_real_grpc_server) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  int port = 0;
  grpc::CallbackGenericService others;  // a server without any service does not start
  builder.RegisterCallbackGenericService(&others);
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  core::ProbeHandler handler;
  handler.mutable_grpc()->set_port(port);
  handler.mutable_grpc()->set_service("");
  EXPECT_EQ(probe(handler).kind, Kind::success) << probe(handler).message;
  server->GetHealthCheckService()->SetServingStatus("db", false);
  handler.mutable_grpc()->set_service("db");
  ProbeAnswer answer = probe(handler);
  EXPECT_EQ(answer.kind, Kind::failure);
  EXPECT_THAT(answer.message, HasSubstr("NOT_SERVING"));
  server->GetHealthCheckService()->SetServingStatus("db", true);
  EXPECT_EQ(probe(handler).kind, Kind::success);
  handler.mutable_grpc()->set_service("missing");
  answer = probe(handler);
  EXPECT_EQ(answer.kind, Kind::failure);
  EXPECT_THAT(answer.message, StartsWith("service unknown to the server"));
  server->Shutdown(std::chrono::system_clock::now());
}

TEST_F(WebClientTest, says_so_when_there_is_no_health_service) {
  grpc::EnableDefaultHealthCheckService(false);
  grpc::ServerBuilder builder;
  int port = 0;
  grpc::CallbackGenericService others;  // a server without any service does not start
  builder.RegisterCallbackGenericService(&others);
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  core::ProbeHandler handler;
  handler.mutable_grpc()->set_port(port);
  EXPECT_THAT(probe(handler).message, HasSubstr("does not implement the grpc health protocol"));
  server->Shutdown(std::chrono::system_clock::now());
}

TEST_F(WebClientTest, connects_and_gives_up_at_the_timeout) {
  Silence silence;
  core::ProbeHandler tcp;
  tcp.mutable_tcp_socket()->mutable_port()->set_int_val(silence.port());
  EXPECT_EQ(probe(tcp).kind, Kind::success);
  core::ProbeHandler http;
  http.mutable_http_get()->mutable_port()->set_int_val(silence.port());
  const auto begun = std::chrono::steady_clock::now();
  const ProbeAnswer late = probe(http, 200ms);
  EXPECT_EQ(late.kind, Kind::failure);
  EXPECT_THAT(late.message, HasSubstr("no answer within"));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 4s);
  silence.close();
  EXPECT_EQ(probe(tcp).kind, Kind::failure);
  EXPECT_THAT(probe(tcp).message, StartsWith("dial tcp 127.0.0.1:"));
}

TEST_F(WebClientTest, finds_a_port_by_its_name) {
  Silence silence;
  core::ProbeHandler tcp;
  tcp.mutable_tcp_socket()->mutable_port()->set_type(1);
  tcp.mutable_tcp_socket()->mutable_port()->set_str_val("web");
  EXPECT_EQ(probe(tcp).kind, Kind::error);
  EXPECT_THAT(probe(tcp).message, HasSubstr("no port named \"web\""));
  core::ContainerPort& port = *spec.add_ports();
  port.set_name("web");
  port.set_container_port(silence.port());
  EXPECT_EQ(probe(tcp).kind, Kind::success);
}

TEST_F(WebClientTest, gives_everything_up_when_it_is_closed) {
  Silence silence;
  std::optional<Result<WebAnswer>> answer;
  const auto ask = [](WebClient& web, WebRequest request, std::optional<Result<WebAnswer>>& into) -> Task<void> {
    Task<Result<WebAnswer>> fetching = web.fetch(std::move(request));
    into.emplace(co_await std::move(fetching));
  };
  WebRequest request;
  request.url = "http://127.0.0.1:" + std::to_string(silence.port());
  request.timeout = 60s;
  node.client("asking").host().detach(ask(client, request, answer));
  EXPECT_FALSE(node.run_until([&] { return answer.has_value(); }, 50ms));
  client.close();
  ASSERT_TRUE(node.run_until([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->status().code(), Code::cancelled);
}

TEST(ProbeAnswers, follow_kubelets_rules) {
  EXPECT_EQ(judge_http(200, "ok").kind, Kind::success);
  EXPECT_EQ(judge_http(302, "").kind, Kind::warning);
  EXPECT_EQ(judge_http(399, "").kind, Kind::warning);
  EXPECT_EQ(judge_http(400, "").message, "HTTP probe failed with statuscode: 400");
  EXPECT_EQ(judge_http(199, "").kind, Kind::failure);
  EXPECT_EQ(judge_exec(0, "").kind, Kind::success);
  EXPECT_EQ(judge_exec(1, "no\tgood\n").message, "no good");
  const std::string serving("\0\0\0\0\2\x08\1", 7);
  EXPECT_EQ(judge_grpc(200, serving, "0", "").kind, Kind::success);
  EXPECT_EQ(judge_grpc(200, serving, "", "").kind, Kind::failure) << "cut off before the status";
  EXPECT_EQ(judge_grpc(200, serving.substr(0, 6), "0", "").kind, Kind::failure);
  EXPECT_EQ(judge_grpc(200, std::string(5, '\0'), "0", "").kind, Kind::failure) << "UNKNOWN is not SERVING";
  EXPECT_EQ(judge_grpc(404, "", "", "").kind, Kind::failure);
}

}  // namespace
}  // namespace pintle::agent
