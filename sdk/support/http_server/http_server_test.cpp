// Against curl and raw sockets.

#include "sdk/support/http_server/http_server.hpp"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>

#include "sdk/support/certificates/certificates.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/http_server/request_parser.hpp"
#include "sdk/testkit/fake_node.hpp"

namespace pintle::http {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
namespace certificates = pintle::certificates;

std::string run(const std::string& command) {
  std::string output;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  char buffer[4096];
  while (const size_t count = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, count);
  pclose(pipe);
  return output;
}

/// A client that does only what it is told.
class Raw {
 public:
  explicit Raw(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  void say(const std::string& text) {
    EXPECT_EQ(send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL), ssize_t(text.size()));
  }
  void leave() { socket_.reset(); }
  /// All that has come by now; `ended` tells whether the server has closed.
  std::string hear() {
    char buffer[65536];
    ssize_t count = 0;
    while ((count = recv(socket_.get(), buffer, sizeof(buffer), MSG_DONTWAIT)) > 0)
      heard_.append(buffer, size_t(count));
    if (count == 0 || (count < 0 && errno != EAGAIN)) ended_ = true;
    return heard_;
  }
  bool ended() {
    hear();
    return ended_;
  }

 private:
  UniqueFd socket_;
  std::string heard_;
  bool ended_ = false;
};

class HttpServerTest : public testing::Test {
 protected:
  HttpServerTest() {
    signal(SIGPIPE, SIG_IGN);  // as in pintled
    std::filesystem::create_directories(folder);
  }
  ~HttpServerTest() override {
    if (server) node.wait(ended(*server));
    std::filesystem::remove_all(folder);
  }
  /// What happens outside wakes no lane: the node looks again and again.
  bool until(const std::function<bool()>& predicate) {
    const auto limit = std::chrono::steady_clock::now() + 20s;
    while (std::chrono::steady_clock::now() < limit)
      if (node.run_until(predicate, 10ms)) return true;
    return false;
  }
  static Task<bool> ended(Server& server) {
    Task<void> stopping = server.stop();
    co_await std::move(stopping);
    co_return true;
  }

  void serve(Handler handler, ServerSettings settings = {}) {
    server = std::make_unique<Server>(node.client().host(), settings, std::move(handler));
    if (settings.tls) {
      using certificates::Use;
      certificates::Request request{.common_name = "test",
                                    .organizations = {},
                                    .use = Use::server,
                                    .dns_names = {"localhost"},
                                    .addresses = {"127.0.0.1"}};
      certificates::Request admin{.common_name = "admin",
                                  .organizations = {"system:masters"},
                                  .use = Use::client,
                                  .dns_names = {},
                                  .addresses = {}};
      const auto authority = certificates::keep_authority(folder, "ca", "test authority")->pair;
      const auto pair = certificates::keep_issued(folder, "server", authority, request)->pair;
      ASSERT_TRUE(certificates::keep_issued(folder, "admin", authority, admin));
      const auto other = certificates::make_authority("other");
      ASSERT_TRUE(certificates::keep_issued(folder, "stranger", *other, admin));
      ASSERT_TRUE(server->set_certificate({pair.certificate, pair.key, authority.certificate}));
    }
    UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    ASSERT_EQ(bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    ASSERT_EQ(listen(socket.get(), 64), 0);
    getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    ASSERT_TRUE(server->listen(std::move(socket)));
  }
  std::string curl(const std::string& arguments) {
    auto running =
        std::async(std::launch::async, [command = "curl -sS --max-time 20 " + arguments] { return run(command); });
    EXPECT_TRUE(until([&] { return running.wait_for(0s) == std::future_status::ready; }));
    return running.get();
  }
  std::string url(const std::string& target = "/") const {
    return "'http://127.0.0.1:" + std::to_string(port) + target + "'";
  }
  std::string secure(const std::string& target = "/") const {
    return "--cacert " + folder + "/ca.crt 'https://127.0.0.1:" + std::to_string(port) + target + "'";
  }
  std::string as(const std::string& who) const {
    return "--cert " + folder + "/" + who + ".crt --key " + folder + "/" + who + ".key ";
  }
  static Task<void> echo(Exchange& exchange) {
    const Request& request = exchange.request();
    std::string text = request.method;
    for (const std::string& segment : request.segments) text += "|" + segment;
    for (const auto& [name, value] : request.query) text += " " + name + "=" + value;
    text += request.client ? " by " + request.client->common_name + "/" + request.client->organizations.front()
                           : " by nobody";
    text += request.certificate_problem.empty() ? "" : ": " + request.certificate_problem;
    Task<Result<std::string>> reading = exchange.body(100000);
    Result<std::string> body = co_await std::move(reading);
    Answer answer{
        .body = text + (body ? " [" + std::to_string(body->size()) + "]" : " " + body.status().message()) + "\n",
        .headers = {}};
    if (!body) answer.status = 413;
    Task<Status> answering = exchange.answer(std::move(answer));
    (void)co_await std::move(answering);
  }

  const std::string folder = testing::TempDir() + "/http-" + files::random_hex(8);
  testkit::FakeNode node;
  std::unique_ptr<Server> server;
  int port = 0;
};

TEST_F(HttpServerTest, TellsHandlersMethodPathAndQueryDecoded) {
  serve(echo);
  EXPECT_EQ(curl(url("/logs/a%20b/?tail=5&x=%2F%2b+y&follow")), "GET|logs|a b| tail=5 x=/+ y follow= by nobody [0]\n");
}

TEST_F(HttpServerTest, KnowsClientsByTheirCertificates) {
  serve(echo, {.tls = true, .limits = {}});
  EXPECT_EQ(curl(as("admin") + secure()), "GET| by admin/system:masters [0]\n");
  EXPECT_EQ(curl(as("admin") + "--tls-max 1.2 " + secure()), "GET| by admin/system:masters [0]\n");
  EXPECT_EQ(curl(secure()), "GET| by nobody [0]\n");
  EXPECT_THAT(curl(as("stranger") + secure()), StartsWith("GET| by nobody: unable to get local issuer certificate"));
  EXPECT_THAT(curl(as("server") + secure()), StartsWith("GET| by nobody: unsuitable certificate purpose"));
}

TEST_F(HttpServerTest, TellsWhoeverForgetsTls) {
  serve(echo, {.tls = true, .limits = {}});
  EXPECT_EQ(curl(url()), "Client sent an HTTP request to an HTTPS server.\n");
  Raw noise(port);
  noise.say(std::string("\x16\x03\x01\x02\x00", 5) + std::string(600, 'x'));
  EXPECT_TRUE(until([&] { return noise.ended(); }));
}

TEST_F(HttpServerTest, NewConnectionsSeeTheNewCertificate) {
  serve(echo, {.tls = true, .limits = {}});
  const auto authority = *certificates::load(folder, "ca");
  const auto renewed = certificates::issue(
      authority, {.common_name = "renewed", .organizations = {}, .dns_names = {}, .addresses = {"127.0.0.1"}});
  ASSERT_TRUE(server->set_certificate({renewed->certificate, renewed->key, authority.certificate}));
  EXPECT_THAT(curl("-v " + secure()), HasSubstr("CN=renewed"));
  EXPECT_FALSE(server->set_certificate({renewed->certificate, authority.key, authority.certificate}))
      << "a foreign key";
  EXPECT_THAT(curl("-v " + secure()), HasSubstr("CN=renewed"));
}

TEST_F(HttpServerTest, KeepsTheConnectionForTheNextRequest) {
  serve(echo);
  EXPECT_EQ(curl("-w '%{num_connects} ' " + url("/a") + " " + url("/b")),
            "GET|a by nobody [0]\n1 GET|b by nobody [0]\n0 ");
  Raw both(port);
  both.say(
      "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /3 "
      "HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(until([&] { return both.ended(); }));
  EXPECT_THAT(both.hear(), HasSubstr("GET|1 by nobody [0]"));
  EXPECT_THAT(both.hear(), HasSubstr("POST|2 by nobody [3]"));
  EXPECT_THAT(both.hear(), HasSubstr("GET|3 by nobody [0]"));
}

TEST_F(HttpServerTest, ReadsBodiesWholeAndRefusesLongOnes) {
  serve(echo, {.tls = true, .limits = {}});
  std::ofstream(folder + "/body") << std::string(99999, 'x');
  std::ofstream(folder + "/long") << std::string(3000000, 'x');
  const std::string post = as("admin") + "-X POST --data-binary @" + folder;
  EXPECT_EQ(curl(post + "/body " + secure()), "POST| by admin/system:masters [99999]\n");
  EXPECT_EQ(curl(post + "/body -H 'Transfer-Encoding: chunked' " + secure()),
            "POST| by admin/system:masters [99999]\n");
  EXPECT_EQ(curl(post + "/body -H 'Expect: 100-continue' --expect100-timeout 15 " + secure()),
            "POST| by admin/system:masters [99999]\n");
  EXPECT_THAT(curl(post + "/long -H Expect: -w ' %{http_code}' " + secure()),
              HasSubstr("the body has 3000000 bytes, more than 100000\n 413"));
  EXPECT_THAT(curl(post + "/long -H 'Transfer-Encoding: chunked' -w ' %{http_code}' " + secure()),
              HasSubstr("the body is longer than 100000 bytes\n 413"));
}

TEST_F(HttpServerTest, RefusesWhatIsNoRequest) {
  serve(echo, {.tls = false, .limits = {.head_bytes = 2000}});
  const std::vector<std::pair<std::string, std::string>> table = {
      {"\r\nnonsense\r\n\r\n", "HTTP/1.1 400 "},
      {"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "},
      {"GET nothing HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400 "},
      {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400 "},
      {"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400 "},
      {"GET /%2 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400 "},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
       "HTTP/1.1 400 "},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", "HTTP/1.1 400 "},
      {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", "HTTP/1.1 400 "},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(3000, 'a') + "\r\n\r\n", "HTTP/1.1 431 "},
      {"GET /" + std::string(3000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 431 "},
  };
  for (const auto& [request, expected] : table) {
    Raw client(port);
    client.say(request);
    EXPECT_TRUE(until([&] { return client.ended(); })) << request;
    EXPECT_THAT(client.hear(), StartsWith(expected)) << request;
    EXPECT_THAT(client.hear(), HasSubstr("Connection: close"));
  }
}

TEST_F(HttpServerTest, CutsOffWhoeverIsTooSlow) {
  serve(echo, {.tls = false, .limits = {.head = 150ms, .body = 150ms, .idle = 400ms}});
  Raw silent(port), slow(port), slow_body(port);
  slow.say("GET / HTT");
  slow_body.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc");
  EXPECT_TRUE(until([&] { return slow.ended() && slow_body.ended(); }));
  EXPECT_THAT(slow.hear(), StartsWith("HTTP/1.1 408 "));
  EXPECT_THAT(slow_body.hear(), HasSubstr("the body did not come in time"));
  EXPECT_TRUE(until([&] { return silent.ended(); }));
  EXPECT_EQ(silent.hear(), "");
  EXPECT_TRUE(until([&] { return server->connections() == 0; }));
}

TEST_F(HttpServerTest, CutsOffHandshakesThatDoNotEnd) {
  serve(echo, {.tls = true, .limits = {.handshake = 150ms}});
  Raw silent(port);
  EXPECT_TRUE(until([&] { return silent.ended(); }));
}

TEST_F(HttpServerTest, TheLongestIdleMakesRoom) {
  serve(echo, {.tls = false, .limits = {.connections = 3}});
  std::vector<std::unique_ptr<Raw>> clients;
  const auto greet = [&](size_t of) {
    clients[of]->say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_TRUE(until([&] { return clients[of]->hear().ends_with("[0]\n"); })) << of;
  };
  for (size_t i = 0; i < 2; ++i) {
    clients.push_back(std::make_unique<Raw>(port));
    greet(i);
  }
  EXPECT_FALSE(clients[0]->ended());
  clients.push_back(std::make_unique<Raw>(port));
  EXPECT_TRUE(until([&] { return clients[0]->ended(); }));
  EXPECT_FALSE(clients[1]->ended());
  greet(2);
}

TEST_F(HttpServerTest, AStreamWaitsForItsReader) {
  static size_t written;
  static Status end;
  static bool over;
  written = 0, over = false, end = Status::ok();
  const auto flood = [](Exchange& exchange) -> Task<void> {
    Task<Status> beginning = exchange.begin({.body = "begin\n", .headers = {}});
    end = co_await std::move(beginning);
    while (end && written < 200u << 20) {
      Task<Status> writing = exchange.write(std::string(1 << 20, 'x'));
      end = co_await std::move(writing);
      if (end) written += 1 << 20;
    }
    over = true;
  };
  serve(flood, {.tls = false, .limits = {.stall = 500ms}});
  EXPECT_EQ(curl(url() + " | wc -c"), std::to_string(6 + (200u << 20)) + "\n");
  EXPECT_TRUE(until([&] { return over; }));
  written = 0, over = false;
  Raw lazy(port);
  lazy.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(until([&] { return over; }));
  EXPECT_EQ(end.code(), Code::cancelled);
  EXPECT_LT(written, 32u << 20);
}

TEST_F(HttpServerTest, AHandlerLearnsThatItsClientIsGone) {
  static bool gone, over;
  gone = over = false;
  static Host* host;
  host = &node.client("waiting").host();
  const auto follow = [](Exchange& exchange) -> Task<void> {
    Task<Status> beginning = exchange.begin({.body = "first\n", .headers = {}});
    (void)co_await std::move(beginning);
    exchange.on_gone([] { gone = true; });
    while (!exchange.is_gone()) {
      auto sleeping = host->sleep(5ms);
      co_await sleeping;
    }
    over = true;
  };
  serve(follow);
  Raw client(port);
  client.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(until([&] { return client.hear().find("first") != std::string::npos; }));
  EXPECT_FALSE(gone);
  client.leave();
  EXPECT_TRUE(until([&] { return over; }));
  EXPECT_TRUE(gone);

  gone = over = false;
  Raw other(port);
  other.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(until([&] { return other.hear().find("first") != std::string::npos; }));
  EXPECT_TRUE(node.wait(ended(*server)).has_value());
  EXPECT_TRUE(gone && over && other.ended());
  EXPECT_THAT(other.hear(), testing::Not(testing::EndsWith("0\r\n\r\n")))
      << "a stream that was cut must not look whole";
}

TEST_F(HttpServerTest, AnExceptionEndsOneRequestOnly) {
  const auto thrower = [](Exchange& exchange) -> Task<void> {
    if (exchange.request().path == "/bad") throw std::runtime_error("broken");
    Task<void> echoing = echo(exchange);
    co_await std::move(echoing);
  };
  serve(thrower);
  EXPECT_THAT(curl("-w ' %{http_code}' " + url("/bad")), HasSubstr(" 500"));
  EXPECT_EQ(curl(url("/good")), "GET|good by nobody [0]\n");
}

TEST(RequestParserTest, TakesARequestByteByByte) {
  const std::string text =
      "PUT /a?b=c HTTP/1.1\r\nHost: h\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET";
  RequestParser parser(1000);
  std::string input;
  size_t used = 0;
  for (const char c : text) {
    if (parser.is_done()) break;
    input += c;
    ++used;
    Result<size_t> taken = parser.feed(input);
    ASSERT_TRUE(taken) << taken.status().message();
    input.erase(0, *taken);
    if (!parser.has_head() || !parser.has_body()) continue;
    ASSERT_TRUE(parser.want_body(10));
  }
  EXPECT_EQ(used, text.size() - 3);
  const Result<Request> request = parser.take_request();
  ASSERT_TRUE(request);
  EXPECT_EQ(request->method, "PUT");
  EXPECT_THAT(request->segments, ElementsAre("a"));
  EXPECT_EQ(*request->header("x-y"), "z");
  EXPECT_EQ(parser.take_body(), "abc");
}

}  // namespace
}  // namespace pintle::http
