#pragma once

/// Listening sockets that outlive instances and, over `execve`, the daemon's own image.
///
/// A socket belongs to the host and is named by its owner and a name. Asking again for the same name and address gives
/// another duplicate of the same socket, so nobody who connects meanwhile is refused. At a re-exec the descriptors stay open and
/// the new image is told which is which.

#include <map>
#include <mutex>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "sdk/support/files/files.hpp"

namespace pintle::kernel {

class Listeners {
 public:
  /// `address`: "unix:/path" (mode 0600, folder made with 0700) or "tcp:IP:PORT" ("tcp:[::1]:80"). Another address than
  /// before ends the former socket. ALREADY_EXISTS: somebody else listens there. A duplicate, the caller's.
  Result<int> listen(const std::string& owner, const std::string& name, const std::string& address);
  Status end(const std::string& owner, const std::string& name);
  /// Ends all sockets of an owner.
  void end_all(const std::string& owner);

  struct Socket {
    std::string owner, name, address;
    int descriptor;
  };
  std::vector<Socket> list();
  /// A socket from a former image or from systemd; the descriptor becomes ours.
  void adopt(Socket socket);

 private:
  struct Entry {
    std::string address;
    files::Descriptor socket;
  };
  static void unlink_path(const Entry& entry);
  std::mutex lock_;
  std::map<std::pair<std::string, std::string>, Entry> sockets_;
};

}  // namespace pintle::kernel
