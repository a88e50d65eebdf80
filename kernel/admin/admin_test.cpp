#include "kernel/admin/admin.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

namespace pintle::kernel {
namespace {

/// Connects and hangs up, over and over, until it goes.
class Client {
 public:
  Client(const std::string& path, std::atomic<int>& made) {
    address_.sun_family = AF_UNIX;
    std::strncpy(address_.sun_path, path.c_str(), sizeof address_.sun_path - 1);
    thread_ = std::thread([this, &made] {
      while (!over_) {
        const files::Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) == 0) ++made;
      }
    });
  }
  ~Client() {
    over_ = true;
    thread_.join();
  }

 private:
  sockaddr_un address_{};
  std::atomic<bool> over_{false};
  std::thread thread_;
};

TEST(AdminServerTest, MayGoAtAnyMomentWhileClientsConnect) {
  char folder[] = "/tmp/pintle-admin-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/pintled.sock";
  {
    Logs logs(LogFormat::text);
    NodeOptions options;
    options.state_directory = options.run_directory = options.plugin_directory = folder;
    Node node(options, logs);
    node.engine().start();
    ASSERT_TRUE(node.listeners().listen("pintled", "keeps-the-socket", "unix:" + path));
    std::atomic<int> made{0};
    std::optional<Client> one, another;
    one.emplace(path, made);
    another.emplace(path, made);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
    for (int round = 0; round < 3000 && std::chrono::steady_clock::now() < end; ++round) {
      Result<int> socket = node.listeners().listen("pintled", "keeps-the-socket", "unix:" + path);
      ASSERT_TRUE(socket) << socket.status().message();
      const AdminServer server(node, {}, *socket);
      for (const int before = made; made == before;) std::this_thread::yield();
    }
    // One goes on accepting until the clients have gone, or they might wait for room in the queue for ever.
    const AdminServer last(node, {}, *node.listeners().listen("pintled", "keeps-the-socket", "unix:" + path));
    one.reset();
    another.reset();
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace pintle::kernel
