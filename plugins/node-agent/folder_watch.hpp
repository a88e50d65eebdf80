#pragma once

/// Being told at once when files of a folder change (inotify).

#include <functional>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <set>
#include <string>

namespace pintle::agent {

struct FolderChange {
  std::set<std::string> complete;  ///< names that were written and closed, renamed or removed
  std::set<std::string> created;   ///< names that appeared; their writers may not be done
  bool lost = false;               ///< the folder itself went, or there were too many changes: look at everything
};

/// Watches until it is destroyed. All on the lane.
class FolderWatch {
 public:
  FolderWatch(Host& host, std::function<void(FolderChange)> changed) : host_(host), changed_(std::move(changed)) {}
  FolderWatch(const FolderWatch&) = delete;
  ~FolderWatch() { stop(); }

  /// Begins, or begins anew if the folder was replaced by another one.
  Status watch(const std::string& path);
  void stop();

 private:
  void read();

  Host& host_;
  std::function<void(FolderChange)> changed_;
  UniqueFd inotify_;
  Watch ready_;
  uint64_t device_ = 0, inode_ = 0;
};

}  // namespace pintle::agent
