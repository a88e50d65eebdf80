#include "plugins/node-agent/folder_watch.hpp"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace pintle::agent {

Status FolderWatch::watch(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    const Status status = status_from_errno(errno, "watch " + path);
    stop();
    return status;
  }
  if (inotify_.get() >= 0 && device_ == info.st_dev && inode_ == info.st_ino) return Status::ok();
  stop();
  inotify_ = UniqueFd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (inotify_.get() < 0) return status_from_errno(errno, "inotify_init1");
  constexpr uint32_t events =
      IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
  if (inotify_add_watch(inotify_.get(), path.c_str(), events) < 0) {
    const Status status = status_from_errno(errno, "watch " + path);
    stop();
    return status;
  }
  Result<Watch> ready = host_.watch(inotify_.get(), POLLIN, [this](uint32_t) { read(); });
  if (!ready) {
    stop();
    return ready.status();
  }
  ready_ = std::move(*ready);
  device_ = info.st_dev;
  inode_ = info.st_ino;
  return Status::ok();
}

void FolderWatch::stop() {
  ready_ = Watch();
  inotify_ = UniqueFd();
  device_ = inode_ = 0;
}

void FolderWatch::read() {
  FolderChange change;
  alignas(inotify_event) std::array<char, 16 << 10> buffer;
  for (;;) {
    const ssize_t size = ::read(inotify_.get(), buffer.data(), buffer.size());
    if (size <= 0) break;
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      if (event->mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED)) change.lost = true;
      if (event->len == 0) continue;
      if (event->mask & IN_CREATE)
        change.created.insert(event->name);
      else
        change.complete.insert(event->name);
    }
  }
  for (const std::string& name : change.complete) change.created.erase(name);
  if (change.lost) device_ = inode_ = 0;
  if (change.lost || !change.complete.empty() || !change.created.empty()) changed_(std::move(change));
}

}  // namespace pintle::agent
