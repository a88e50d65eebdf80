#include "kernel/node/listeners.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace pintle::kernel {
namespace {

constexpr int backlog = 1024;

/// The process that listened at the other end has ended. A child that it was starting when it was killed may hold the socket for a
/// moment longer, until it executes.
bool is_orphaned(int connection) {
  ucred listener{};
  socklen_t size = sizeof listener;
  if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &listener, &size) != 0 || listener.pid <= 0) return false;
  files::Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, listener.pid, 0)));
  if (!process.valid()) return errno == ESRCH;
  pollfd ended{process.get(), POLLIN, 0};
  return poll(&ended, 1, 0) == 1;
}

Result<files::Descriptor> listen_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path[0] != '/' || path.size() >= sizeof address.sun_path)
    return invalid_argument("unix:" + path + ": an absolute path of at most 107 bytes is wanted");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (Status made = files::make_folders(path.substr(0, std::max<size_t>(path.rfind('/'), 1)), 0700); !made) return made;
  files::Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return status_from_errno(errno, "socket");
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) return already_exists("unix:" + path + ": there is a file that is not a socket");
    files::Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const bool connected = connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    if (connected ? !is_orphaned(probe.get()) : errno == EAGAIN)
      return already_exists("unix:" + path + ": another process listens there; stop it, or configure another path");
    unlink(path.c_str());
  }
  fchmod(socket.get(),
         0600);  // the file gets the mode that the socket has when it is bound: no moment with another one
  if (bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return status_from_errno(errno, "unix:" + path);
  chmod(path.c_str(), 0600);
  if (::listen(socket.get(), backlog) != 0) return status_from_errno(errno, "unix:" + path);
  return socket;
}

Result<files::Descriptor> listen_tcp(const std::string& text) {
  const size_t colon = text.rfind(':');
  uint16_t port = 0;
  std::string host = colon == std::string::npos ? "" : text.substr(0, colon);
  const char* end = text.data() + text.size();
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  const bool sound = colon != std::string::npos && std::from_chars(text.data() + colon + 1, end, port).ptr == end &&
                     colon + 1 < text.size();
  v4.sin_family = AF_INET;
  v4.sin_port = htons(port);
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  const bool is_v4 = sound && inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1;
  if (!is_v4 && !(sound && inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1))
    return invalid_argument("tcp:" + text + ": write tcp:IP:PORT, IPv6 in brackets");
  files::Descriptor socket(::socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return status_from_errno(errno, "socket");
  const int on = 1;
  setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!is_v4) setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  const auto* address = is_v4 ? reinterpret_cast<sockaddr*>(&v4) : reinterpret_cast<sockaddr*>(&v6);
  if (bind(socket.get(), address, is_v4 ? sizeof v4 : sizeof v6) != 0 || ::listen(socket.get(), backlog) != 0)
    return status_from_errno(errno, "tcp:" + text);
  return socket;
}

}  // namespace

void Listeners::unlink_path(const Entry& entry) {
  if (entry.address.rfind("unix:", 0) == 0) unlink(entry.address.c_str() + 5);
}

Result<int> Listeners::listen(const std::string& owner, const std::string& name, const std::string& address) {
  std::lock_guard lock(lock_);
  const auto key = std::pair(owner, name);
  auto found = sockets_.find(key);
  if (found != sockets_.end() && found->second.address == address && address.rfind("unix:", 0) == 0 &&
      access(address.c_str() + 5, F_OK) != 0) {
    sockets_.erase(found);  // the run folder was emptied: nobody can reach the old socket any more
    found = sockets_.end();
  }
  if (found == sockets_.end() || found->second.address != address) {
    Result<files::Descriptor> socket =
        address.rfind("unix:", 0) == 0 ? listen_unix(address.substr(5))
        : address.rfind("tcp:", 0) == 0
            ? listen_tcp(address.substr(4))
            : Result<files::Descriptor>(invalid_argument("\"" + address + "\": write unix:/path or tcp:IP:PORT"));
    if (!socket) return socket.status();
    if (found != sockets_.end()) {
      unlink_path(found->second);
      sockets_.erase(found);
    }
    found = sockets_.emplace(key, Entry{address, std::move(*socket)}).first;
  }
  const int copy = fcntl(found->second.socket.get(), F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return status_from_errno(errno, "listen " + address);
  return copy;
}

Status Listeners::end(const std::string& owner, const std::string& name) {
  std::lock_guard lock(lock_);
  auto found = sockets_.find({owner, name});
  if (found == sockets_.end()) return not_found("no listening socket \"" + name + "\" of " + owner);
  unlink_path(found->second);
  sockets_.erase(found);
  return {};
}

void Listeners::end_all(const std::string& owner) {
  std::lock_guard lock(lock_);
  for (auto it = sockets_.begin(); it != sockets_.end();) {
    if (it->first.first != owner) {
      ++it;
      continue;
    }
    unlink_path(it->second);
    it = sockets_.erase(it);
  }
}

std::vector<Listeners::Socket> Listeners::list() {
  std::lock_guard lock(lock_);
  std::vector<Socket> out;
  for (const auto& [key, entry] : sockets_) out.push_back({key.first, key.second, entry.address, entry.socket.get()});
  return out;
}

void Listeners::adopt(Socket socket) {
  fcntl(socket.descriptor, F_SETFD, FD_CLOEXEC);
  std::lock_guard lock(lock_);
  sockets_[{socket.owner, socket.name}] = Entry{socket.address, files::Descriptor(socket.descriptor)};
}

}  // namespace pintle::kernel
