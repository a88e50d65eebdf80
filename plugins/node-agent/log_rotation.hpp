#pragma once

/// Logs of containers that grow too long, as kubelet treats them:
///
///     web/0.log                              what the container writes now
///     web/0.log.20261120-143000-042          what it wrote before
///     web/0.log.20261120-120000-713.gz       older ones, compressed
///
/// A log that is longer than `longest_bytes` is renamed and the runtime told to open it anew (CRI's ReopenContainerLog); `most_files`
/// counts all of one container, the current one included. No line is lost: until it is told, the runtime goes on writing into the
/// renamed file. If it refuses, the file gets its name back. Where nobody knows whether it was told (no answer in time, an agent that was
/// killed in between), the next look finds no log under its name, and tells it again.

#include <chrono>
#include <cstdint>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <string>

#include "plugins/node-agent/wakeup.hpp"

namespace pintle::agent {

struct WorkerContext;

struct LogSettings {
  int64_t longest_bytes = 10 << 20;  ///< 0: logs are not rotated
  int most_files = 5;                ///< at least 2
  std::chrono::nanoseconds interval = std::chrono::seconds(10);
};

struct RotatedLog {
  std::string path;  ///< what it is called now
  Status older;      ///< of those before it: one that cannot be compressed or removed stays as it is, as on a full disk
};

/// Renames the log at `path`, compresses those before it and removes the oldest. Blocks.
Result<RotatedLog> rotate_log(const std::string& path, int most_files);
/// Takes the rename back, for when nobody writes anew. Blocks.
Status undo_rotation(const std::string& path, const std::string& rotated);

class LogRotation {
 public:
  /// `context` has to outlive it.
  LogRotation(Host& host, WorkerContext& context, LogSettings settings)
      : host_(host), context_(context), settings_(settings), wakeup_(host) {}
  /// Looks at the logs of this agent's containers until the agent stops.
  Task<void> run();
  void stop() { wakeup_.notify(); }

 private:
  Task<void> look();

  Host& host_;
  WorkerContext& context_;
  LogSettings settings_;
  Wakeup wakeup_;
};

}  // namespace pintle::agent
