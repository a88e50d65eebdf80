#include "cni/bridge/host_ports.hpp"

#include <boost/json.hpp>
#include <thread>

#include "cni/bridge/testing/bridge_fixture.hpp"

namespace pintle::bridge {
namespace {

using ::testing::HasSubstr;
using testing::output_of;

const std::string kPassesLoopback = "net/ipv4/conf/pintle0/route_localnet";
constexpr const char* kDualStack = R"({"podCIDR": ["10.85.0.0/16", "fd00:85::/64"]})";

HostPort port(uint8_t protocol, uint16_t host_port, uint16_t pod_port, const char* host_ip = nullptr) {
  HostPort result{.protocol = protocol, .host_ip = {}, .host_port = host_port, .pod_port = pod_port};
  if (host_ip) result.host_ip = *netlink::IpAddress::parse(host_ip);
  return result;
}

class HostPortsTest : public testing::BridgeTest {
 protected:
  Result<Attachment> try_attach(BridgeNetwork& network, const std::string& sandbox, std::vector<HostPort> ports) {
    const std::string path = path_of(sandbox);
    if (!std::filesystem::exists(path)) make_namespace(sandbox);
    return network.attach({.sandbox = sandbox, .interface = "eth0", .name_space = path, .ports = std::move(ports)});
  }
  Attachment attach(BridgeNetwork& network, const std::string& sandbox, std::vector<HostPort> ports) {
    Result<Attachment> attachment = try_attach(network, sandbox, std::move(ports));
    EXPECT_TRUE(attachment) << attachment.status().to_string();
    return attachment ? *attachment : Attachment{};
  }

  /// A socket in a namespace ("" is the node).
  UniqueFd socket_in(const std::string& where, bool ipv6, int type, int protocol) {
    UniqueFd fd;
    const auto open = [&] { fd = UniqueFd(socket(ipv6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, protocol)); };
    where.empty() ? open() : in_namespace(path_of(where), open);
    const timeval patience{.tv_sec = 2, .tv_usec = 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return fd;
  }
  static socklen_t fill(sockaddr_storage& storage, const std::string& address, uint16_t number) {
    storage = {};
    if (address.find(':') != std::string::npos) {
      auto* in6 = reinterpret_cast<sockaddr_in6*>(&storage);
      in6->sin6_family = AF_INET6;
      in6->sin6_port = htons(number);
      inet_pton(AF_INET6, address.c_str(), &in6->sin6_addr);
      return sizeof *in6;
    }
    auto* in4 = reinterpret_cast<sockaddr_in*>(&storage);
    in4->sin_family = AF_INET;
    in4->sin_port = htons(number);
    inet_pton(AF_INET, address.c_str(), &in4->sin_addr);
    return sizeof *in4;
  }
  static std::string text_of(const sockaddr_storage& storage) {
    char text[INET6_ADDRSTRLEN];
    const void* bytes = storage.ss_family == AF_INET6
                            ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr)
                            : static_cast<const void*>(&reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr);
    return inet_ntop(storage.ss_family, bytes, text, sizeof text);
  }
  UniqueFd server(const std::string& where, bool ipv6, int type, int protocol, uint16_t number) {
    UniqueFd fd = socket_in(where, ipv6, type, protocol);
    if (!fd) return fd;
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_storage any;
    const socklen_t size = fill(any, ipv6 ? "::" : "0.0.0.0", number);
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&any), size), 0) << strerror(errno);
    if (type == SOCK_STREAM) {
      EXPECT_EQ(listen(fd.get(), 4), 0);
    }
    return fd;
  }
  /// Connects and says something; the client's address as the server sees it, when the answer has come back. Or what failed.
  std::string stream(const std::string& from, const std::string& to, uint16_t pod_port, const std::string& address,
                     uint16_t host_port, int protocol = IPPROTO_TCP) {
    const bool ipv6 = address.find(':') != std::string::npos;
    const UniqueFd listener = server(to, ipv6, SOCK_STREAM, protocol, pod_port);
    const UniqueFd client = socket_in(from, ipv6, SOCK_STREAM, protocol);
    sockaddr_storage target, peer;
    const socklen_t size = fill(target, address, host_port);
    if (::connect(client.get(), reinterpret_cast<sockaddr*>(&target), size) != 0) return strerror(errno);
    socklen_t peer_size = sizeof peer;
    const UniqueFd accepted(accept4(listener.get(), reinterpret_cast<sockaddr*>(&peer), &peer_size, SOCK_CLOEXEC));
    if (!accepted) return strerror(errno);
    char byte = 'x';
    EXPECT_EQ(send(accepted.get(), &byte, 1, MSG_NOSIGNAL), 1);
    return recv(client.get(), &byte, 1, 0) == 1 ? text_of(peer) : "no answer";
  }
  /// One datagram there and back; the client's address as the server sees it, or what failed.
  static std::string datagram(const UniqueFd& client, const UniqueFd& listener, const std::string& address,
                              uint16_t number) {
    sockaddr_storage target, peer;
    const socklen_t size = fill(target, address, number);
    char byte = 'x';
    if (sendto(client.get(), &byte, 1, 0, reinterpret_cast<sockaddr*>(&target), size) != 1) return strerror(errno);
    socklen_t peer_size = sizeof peer;
    const timeval short_patience{.tv_sec = 0, .tv_usec = 300000};
    setsockopt(listener.get(), SOL_SOCKET, SO_RCVTIMEO, &short_patience, sizeof short_patience);
    if (recvfrom(listener.get(), &byte, 1, 0, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 1)
      return strerror(errno);
    EXPECT_EQ(sendto(listener.get(), &byte, 1, 0, reinterpret_cast<sockaddr*>(&peer), peer_size), 1);
    return recv(client.get(), &byte, 1, 0) == 1 ? text_of(peer) : "no answer";
  }
};

TEST_F(HostPortsTest, LeadIntoThePodFromTheOutsideTheNodeAndPods) {
  make_outside();
  auto network = started(kDualStack);
  const std::string before = machine();
  const Attachment a = attach(*network, "a", {port(IPPROTO_TCP, 8080, 80)}), b = attach(*network, "b", {});
  EXPECT_EQ(stream("outside", "a", 80, "192.0.2.1", 8080), "192.0.2.2") << "the pod sees the client's own address";
  EXPECT_EQ(stream("outside", "a", 80, "2001:db8::1", 8080), "2001:db8::2");
  EXPECT_EQ(stream("", "a", 80, "192.0.2.1", 8080), "192.0.2.1") << "the node itself";
  EXPECT_EQ(stream("", "a", 80, "2001:db8::1", 8080), "2001:db8::1");
  EXPECT_EQ(stream("b", "a", 80, "192.0.2.1", 8080), "10.85.0.1") << "another pod";
  EXPECT_EQ(stream("b", "a", 80, "fd00:85::1", 8080), "fd00:85::1");
  EXPECT_EQ(stream("a", "a", 80, "192.0.2.1", 8080), "10.85.0.1") << "itself";
  EXPECT_EQ(stream("b", "a", 80, ip_of(a), 80), ip_of(b)) << "without the port nothing is translated";
  EXPECT_TRUE(network->check("a", path_of("a")));
  ASSERT_TRUE(network->detach("a"));
  EXPECT_EQ(stream("outside", "", 9, "192.0.2.1", 8080), "Connection refused");
  ASSERT_TRUE(network->detach("b"));
  network->reap();
  EXPECT_EQ(machine(), before);
}

TEST_F(HostPortsTest, AnswerOnTheNodesLoopback) {
  auto network = started(kDualStack);
  const std::string before = machine();
  attach(*network, "a", {port(IPPROTO_TCP, 8080, 80), port(IPPROTO_UDP, 53, 1053)});
  EXPECT_EQ(stream("", "a", 80, "127.0.0.1", 8080), "10.85.0.1") << "the pod can answer the gateway alone";
  const UniqueFd listener = server("a", false, SOCK_DGRAM, 0, 1053), client = socket_in("", false, SOCK_DGRAM, 0);
  EXPECT_EQ(datagram(client, listener, "127.0.0.1", 53), "10.85.0.1");
  EXPECT_EQ(stream("", "", 8080, "127.0.0.53", 8080), "127.0.0.1") << "other loopback addresses stay";
  EXPECT_EQ(stream("", "", 8080, "::1", 8080), "::1") << "IPv6 has no way";
  EXPECT_TRUE(network->check("a", path_of("a")));
  ASSERT_EQ(output_of("echo 0 > /proc/sys/" + kPassesLoopback), "");
  EXPECT_THAT(network->check("a", path_of("a")).message(), HasSubstr("route_localnet is not 1"));
  ASSERT_TRUE(network->detach("a"));
  network->reap();
  EXPECT_EQ(stream("", "", 8080, "127.0.0.1", 8080), "127.0.0.1");
  EXPECT_EQ(machine(), before);
}

TEST_F(HostPortsTest, OfALoopbackAddressAreTheNodesAlone) {
  make_outside();
  auto network = started();
  attach(*network, "a", {port(IPPROTO_TCP, 8080, 80, "127.0.0.7")});
  EXPECT_EQ(stream("", "a", 80, "127.0.0.7", 8080), "10.85.0.1");
  EXPECT_EQ(stream("", "a", 80, "127.0.0.1", 8080), "Connection refused");
  EXPECT_EQ(stream("", "a", 80, "192.0.2.1", 8080), "Connection refused");
  EXPECT_EQ(stream("outside", "a", 80, "192.0.2.1", 8080), "Connection refused");
}

TEST_F(HostPortsTest, OnLoopbackDoNotOpenItToPods) {
  auto network = started();
  attach(*network, "a", {port(IPPROTO_TCP, 8080, 80)});
  const Attachment b = attach(*network, "b", {});
  ASSERT_EQ(*netlink::read_sysctl(kPassesLoopback), "1");
  in_namespace(path_of("b"), [] {
    EXPECT_EQ(
        output_of("ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local;"
                  "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip route add 127.0.0.0/8 via 10.85.0.1"),
        "");
  });
  const UniqueFd listener = server("", false, SOCK_DGRAM, 0, 9000), client = socket_in("b", false, SOCK_DGRAM, 0);
  ASSERT_EQ(output_of("nft flush chain inet pintle-network-bridge loopback"), "");
  ASSERT_EQ(datagram(client, listener, "127.0.0.1", 9000), ip_of(b)) << "it gets there without our rules";
  wait_for_change(*network);
  ASSERT_TRUE(network->follow_changes());
  EXPECT_EQ(datagram(client, listener, "127.0.0.1", 9000), "Resource temporarily unavailable")
      << "it does not get there";
  ASSERT_TRUE(network->detach("a"));
  EXPECT_EQ(*netlink::read_sysctl(kPassesLoopback), "0") << "nobody needs it any more";
}

TEST_F(HostPortsTest, OfTheThreeProtocolsAreApart) {
  make_outside();
  auto network = started();
  attach(*network, "a", {port(IPPROTO_TCP, 53, 1053), port(IPPROTO_UDP, 53, 1054)});
  EXPECT_EQ(stream("outside", "a", 1053, "192.0.2.1", 53), "192.0.2.2");
  const UniqueFd listener = server("a", false, SOCK_DGRAM, 0, 1054),
                 client = socket_in("outside", false, SOCK_DGRAM, 0);
  EXPECT_EQ(datagram(client, listener, "192.0.2.1", 53), "192.0.2.2");
}

TEST_F(HostPortsTest, SctpIsServed) {
  make_outside();
  if (!socket_in("", false, SOCK_STREAM, IPPROTO_SCTP)) GTEST_SKIP() << "this kernel has no SCTP: " << strerror(errno);
  auto network = started();
  attach(*network, "a", {port(IPPROTO_SCTP, 53, 1055)});
  EXPECT_EQ(stream("outside", "a", 1055, "192.0.2.1", 53, IPPROTO_SCTP), "192.0.2.2");
}

TEST_F(HostPortsTest, OfOneAddressAreServedThereOnly) {
  make_outside();
  ASSERT_EQ(output_of("ip address add 192.0.2.9/24 dev up0"), "");
  auto network = started(kDualStack);
  attach(*network, "a", {port(IPPROTO_TCP, 8080, 80, "192.0.2.9")});
  attach(*network, "b", {port(IPPROTO_TCP, 8080, 81, "192.0.2.1"), port(IPPROTO_TCP, 8081, 82, "::")});
  EXPECT_EQ(stream("outside", "a", 80, "192.0.2.9", 8080), "192.0.2.2");
  EXPECT_EQ(stream("outside", "b", 81, "192.0.2.1", 8080), "192.0.2.2");
  EXPECT_EQ(stream("outside", "a", 80, "2001:db8::1", 8080), "Connection refused");
  EXPECT_EQ(stream("outside", "b", 82, "2001:db8::1", 8081), "2001:db8::2");
  EXPECT_EQ(stream("outside", "b", 82, "192.0.2.1", 8081), "Connection refused") << ":: is all of IPv6 only";
}

TEST_F(HostPortsTest, AUdpClientThatGoesOnReachesTheNextPod) {
  make_outside();
  auto network = started();
  const UniqueFd client = socket_in("outside", false, SOCK_DGRAM, 0);
  attach(*network, "a", {port(IPPROTO_UDP, 5353, 53)});
  const UniqueFd first = server("a", false, SOCK_DGRAM, 0, 53);
  ASSERT_EQ(datagram(client, first, "192.0.2.1", 5353), "192.0.2.2");
  ASSERT_TRUE(network->detach("a"));
  EXPECT_THAT(output_of("conntrack -L -p udp"), HasSubstr(" 0 flow entries"))
      << "no connection leads to an address that the next pod may get";
  // Now the kernel learns that nobody serves this connection, which must not keep the next pod from it.
  const UniqueFd node = server("", false, SOCK_DGRAM, 0, 5353);
  ASSERT_EQ(datagram(client, node, "192.0.2.1", 5353), "192.0.2.2");
  attach(*network, "b", {port(IPPROTO_UDP, 5353, 53)});
  const UniqueFd second = server("b", false, SOCK_DGRAM, 0, 53);
  EXPECT_EQ(datagram(client, second, "192.0.2.1", 5353), "192.0.2.2");
}

TEST_F(HostPortsTest, OfAnotherPodAreRefusedAndNothingIsLeft) {
  auto one = started(kDualStack), two = started(R"({"podCIDR": "10.86.0.0/16", "bridge": "lan0"})", "lan@1");
  attach(*one, "a", {port(IPPROTO_TCP, 8080, 80)});
  const std::string before = machine();
  for (BridgeNetwork* network : {one.get(), two.get()}) {
    const Status status = try_attach(*network, "b", {port(IPPROTO_TCP, 8080, 81, "192.0.2.1")}).status();
    EXPECT_EQ(status.code(), Code::already_exists);
    EXPECT_THAT(status.message(), HasSubstr("host port 192.0.2.1:8080/tcp: sandbox a has it"));
    EXPECT_EQ(machine(), before);
    EXPECT_EQ(network->size(), network == one.get() ? 1u : 0u);
  }
  ASSERT_TRUE(one->detach("a"));
  EXPECT_TRUE(try_attach(*two, "b", {port(IPPROTO_TCP, 8080, 81)}));
}

TEST_F(HostPortsTest, ThatCannotBeServedAreRefused) {
  auto network = started();
  const auto refusal = [&](std::vector<HostPort> ports) {
    return try_attach(*network, "a", std::move(ports)).status().message();
  };
  EXPECT_THAT(refusal({port(IPPROTO_TCP, 80, 80, "::1")}), HasSubstr("IPv6's loopback cannot be served"));
  EXPECT_THAT(refusal({port(IPPROTO_TCP, 80, 80, "2001:db8::1")}), HasSubstr("no address of that family"));
  EXPECT_THAT(refusal({port(IPPROTO_TCP, 80, 80), port(IPPROTO_TCP, 80, 81)}), HasSubstr("names it twice"));
  EXPECT_THAT(refusal({port(IPPROTO_TCP, 80, 0)}), HasSubstr("ports are 1 to 65535"));
  EXPECT_EQ(network->size(), 0u);
}

TEST_F(HostPortsTest, ThatAnotherProgramFlushedComeBack) {
  auto one = started(kDualStack), two = started(R"({"podCIDR": "10.86.0.0/16", "bridge": "lan0"})", "lan@1");
  attach(*one, "a", {port(IPPROTO_TCP, 8080, 80), port(IPPROTO_UDP, 53, 53)});
  attach(*two, "b", {port(IPPROTO_TCP, 8081, 80)});
  const std::string before = machine();
  for (const char* harm : {"nft flush ruleset", "nft flush map inet pintle-network-bridge any4",
                           "nft delete element inet pintle-network-bridge any6 '{ udp . 53 }'"}) {
    ASSERT_EQ(output_of(harm), "");
    wait_for_change(*two);
    ASSERT_TRUE(two->follow_changes());
    EXPECT_EQ(machine(), before) << harm;
  }
}

TEST_F(HostPortsTest, OfAnInstanceThatWasKilledAreKeptAndGoWithThePod) {
  make_outside();
  auto network = started();
  attach(*network, "a", {port(IPPROTO_TCP, 8080, 80)});
  network.reset();
  ASSERT_EQ(output_of("nft flush ruleset"), "");
  network = started();
  EXPECT_EQ(stream("outside", "a", 80, "192.0.2.1", 8080), "192.0.2.2");
  ASSERT_TRUE(network->collect({}));
  EXPECT_EQ(stream("outside", "", 9, "192.0.2.1", 8080), "Connection refused");
}

TEST_F(HostPortsTest, AQuietNodeIsNotDisturbedByItsOwnPods) {
  auto network = started();
  ASSERT_TRUE(network->follow_changes());
  attach(*network, "a", {port(IPPROTO_TCP, 8080, 80)});
  notices_.clear();
  ASSERT_TRUE(network->follow_changes());
  EXPECT_THAT(notices_, ::testing::IsEmpty());
}

TEST(HostPort, SurvivesAsARecord) {
  const std::vector<HostPort> ports = {port(IPPROTO_TCP, 80, 8080), port(IPPROTO_SCTP, 65535, 1, "2001:db8::1")};
  const Result<std::vector<HostPort>> back = parse_host_ports(to_json(ports));
  ASSERT_TRUE(back) << back.status().to_string();
  EXPECT_EQ(*back, ports);
  for (const char* broken : {"{}", "[1]", R"([{"protocol": "icmp", "hostPort": 1, "podPort": 1}])",
                             R"([{"protocol": "tcp", "hostPort": 70000, "podPort": 1}])",
                             R"([{"protocol": "tcp", "hostPort": 7, "podPort": 1, "hostIP": "x"}])"}) {
    EXPECT_EQ(parse_host_ports(boost::json::parse(broken)).status().code(), Code::data_loss) << broken;
  }
}

}  // namespace
}  // namespace pintle::bridge
