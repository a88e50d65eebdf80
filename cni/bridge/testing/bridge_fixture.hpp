#pragma once

/// A node for tests of the bridge: network namespaces for the node, its pods and an outside, and real traffic between them.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "cni/bridge/bridge_network.hpp"
#include "sdk/support/netlink/testing/namespaces.hpp"

namespace pintle::bridge::testing {

/// What a command of the system prints: another program's view of the machine.
inline std::string output_of(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "re");
  std::string output;
  std::array<char, 4096> buffer;
  while (const size_t size = fread(buffer.data(), 1, buffer.size(), pipe)) output.append(buffer.data(), size);
  pclose(pipe);
  return output;
}

class BridgeTest : public netlink::testing::NamespaceTest {
 protected:
  std::unique_ptr<BridgeNetwork> make(const std::string& config_text = "{}", const std::string& key = "net@1") {
    Result<Config> config = parse_config(config_text);
    EXPECT_TRUE(config) << config.status().to_string();
    const std::string state = folder() / ("state-" + key);
    std::filesystem::create_directories(state);
    auto network = BridgeNetwork::create(*config, key, {.state = state, .shared = folder() / "shared"},
                                         [this](const std::string& line) { notices_.push_back(line); });
    EXPECT_TRUE(network) << network.status().to_string();
    return network ? std::move(*network) : nullptr;
  }
  std::unique_ptr<BridgeNetwork> started(const std::string& config = "{}", const std::string& key = "net@1") {
    std::unique_ptr<BridgeNetwork> network = make(config, key);
    const Status status = network->start();
    EXPECT_TRUE(status) << status.to_string();
    return network;
  }
  Attachment attach(BridgeNetwork& network, const std::string& sandbox) {
    const std::string path = folder() / sandbox;
    if (!std::filesystem::exists(path)) make_namespace(sandbox);
    Result<Attachment> attachment = network.attach({.sandbox = sandbox, .interface = "eth0", .name_space = path});
    EXPECT_TRUE(attachment) << attachment.status().to_string();
    return attachment ? *attachment : Attachment{};
  }
  std::string path_of(const std::string& sandbox) const { return folder() / sandbox; }

  /// A namespace behind the node's link "up0", with addresses 192.0.2.2 and 2001:db8::2 and no route to pods: it can only
  /// answer to the node's own addresses, 192.0.2.1 and 2001:db8::1.
  void make_outside() {
    const std::string path = make_namespace("outside");
    EXPECT_EQ(output_of("ip link add up0 type veth peer name out0"), "");
    Result<UniqueFd> name_space = netlink::open_namespace(path);
    Result<netlink::Socket> socket = netlink::Socket::open(NETLINK_ROUTE);
    netlink::Batch batch;
    change_link(batch, "out0", {.name_space = name_space->get()});
    ASSERT_TRUE(socket->send(batch));
    EXPECT_EQ(
        output_of(
            "ip address add 192.0.2.1/24 dev up0; ip address add 2001:db8::1/64 dev up0 nodad; ip link set up0 up;"
            "ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2 dev up0"),
        "");
    in_namespace(path, [] {
      EXPECT_EQ(output_of("ip address add 192.0.2.2/24 dev out0; ip address add 2001:db8::2/64 dev out0 nodad; "
                          "ip link set lo up; ip link set out0 up"),
                "");
    });
  }

  /// Opens a TCP connection from one namespace to an address of another; returns the client's address as the server
  /// sees it, or what failed. `listen_on`: the server's own address, where it is not the one that is connected to.
  std::string connect(const std::string& from, const std::string& to, const std::string& address,
                      const std::string& listen_on = "") {
    const bool ipv6 = address.find(':') != std::string::npos;
    sockaddr_storage target{};
    socklen_t size = 0;
    if (ipv6) {
      auto* in6 = reinterpret_cast<sockaddr_in6*>(&target);
      in6->sin6_family = AF_INET6;
      in6->sin6_port = htons(8080);
      inet_pton(AF_INET6, address.c_str(), &in6->sin6_addr);
      size = sizeof *in6;
    } else {
      auto* in4 = reinterpret_cast<sockaddr_in*>(&target);
      in4->sin_family = AF_INET;
      in4->sin_port = htons(8080);
      inet_pton(AF_INET, address.c_str(), &in4->sin_addr);
      size = sizeof *in4;
    }
    sockaddr_storage own = target;
    if (!listen_on.empty()) {
      void* bytes = ipv6 ? static_cast<void*>(&reinterpret_cast<sockaddr_in6*>(&own)->sin6_addr)
                         : static_cast<void*>(&reinterpret_cast<sockaddr_in*>(&own)->sin_addr);
      inet_pton(ipv6 ? AF_INET6 : AF_INET, listen_on.c_str(), bytes);
    }
    const timeval patience{.tv_sec = 1, .tv_usec = 0};
    UniqueFd server, client;
    const auto listen_here = [&] {
      server = UniqueFd(socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const int on = 1;
      setsockopt(server.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      setsockopt(server.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
      EXPECT_EQ(bind(server.get(), reinterpret_cast<sockaddr*>(&own), size), 0) << strerror(errno);
      EXPECT_EQ(listen(server.get(), 1), 0);
    };
    const auto open_client = [&] {
      client = UniqueFd(socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    };
    to.empty() ? listen_here() : in_namespace(to, listen_here);
    from.empty() ? open_client() : in_namespace(from, open_client);
    if (::connect(client.get(), reinterpret_cast<sockaddr*>(&target), size) != 0) return strerror(errno);
    sockaddr_storage peer{};
    socklen_t peer_size = sizeof peer;
    const UniqueFd accepted(accept4(server.get(), reinterpret_cast<sockaddr*>(&peer), &peer_size, SOCK_CLOEXEC));
    if (!accepted) return strerror(errno);
    char text[INET6_ADDRSTRLEN];
    const void* bytes = ipv6 ? static_cast<const void*>(&reinterpret_cast<sockaddr_in6*>(&peer)->sin6_addr)
                             : static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(&peer)->sin_addr);
    inet_ntop(ipv6 ? AF_INET6 : AF_INET, bytes, text, sizeof text);
    return text;
  }

  static std::string ip_of(const Attachment& attachment, size_t index = 0) {
    return attachment.ips.at(index).address.address().to_string();
  }

  /// Links, addresses, routes, rules and forwarding of the node, in words that can be compared. Without what the kernel adds in
  /// its own time: link-local addresses and their routes, and whether a bridge has a carrier.
  static std::string machine() {
    return output_of(
        "{ ip -br link | cut -d@ -f1 | awk '{print \"link\", $1}'; ip -o address | awk '{print $2, $4}'; ip route; ip "
        "-6 route;"
        "  grep -H . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/forwarding "
        "/proc/sys/net/ipv6/conf/*/forwarding"
        "    /proc/sys/net/ipv4/conf/all/accept_redirects /proc/sys/net/ipv6/conf/*/accept_ra; }"
        " | grep -v fe80:: | sed 's/ linkdown//' | sort; nft -s list ruleset");
  }
  static std::vector<std::string> pod_links() {
    std::vector<std::string> names;
    Result<netlink::Socket> socket = netlink::Socket::open(NETLINK_ROUTE);
    const Result<std::vector<netlink::Link>> links = netlink::list_links(*socket);
    for (const netlink::Link& link : *links) {
      if (is_host_interface_name(link.name)) names.push_back(link.name);
    }
    return names;
  }
  /// Waits until the kernel says that something has changed.
  static void wait_for_change(BridgeNetwork& network) {
    std::vector<pollfd> ready;
    for (const int descriptor : network.change_descriptors()) ready.push_back({.fd = descriptor, .events = POLLIN});
    ASSERT_GT(poll(ready.data(), ready.size(), 5000), 0);
  }

  std::vector<std::string> notices_;
};

}  // namespace pintle::bridge::testing
