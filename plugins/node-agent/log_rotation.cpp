#include "plugins/node-agent/log_rotation.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <map>
#include <optional>
#include <vector>

#include "cri/api.pintle.hpp"
#include "plugins/node-agent/pod_worker.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

constexpr std::chrono::seconds kQuickCall{10};
constexpr const char* kCompressed = ".gz";
constexpr const char* kUnfinished = ".tmp";

template <class Map>
std::string value_of(const Map& map, const char* key) {
  const auto found = map.find(key);
  return found == map.end() ? std::string() : found->second;
}

/// Of equal length, so that names sort by age: "20261120-143000-042".
std::string timestamp(std::chrono::system_clock::time_point when) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(when);
  const auto rest = std::chrono::duration_cast<std::chrono::milliseconds>(when.time_since_epoch()).count() % 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char date[32] = {}, text[48] = {};
  std::strftime(date, sizeof date, "%Y%m%d-%H%M%S", &parts);
  std::snprintf(text, sizeof text, "%s-%03d", date, static_cast<int>(rest));
  return text;
}

/// "0.log.20261120-143000-042" becomes "0.log.20261120-143000-042.gz".
Status compress(int folder, const std::string& name) {
  const std::string aside = name + kUnfinished;
  Result<files::Descriptor> from = files::open_at(folder, name, O_RDONLY | O_NOFOLLOW);
  if (!from) return from.status();
  struct stat info {};
  if (fstat(from->get(), &info) != 0) return status_from_errno(errno, "stat " + name);
  Result<files::Descriptor> to =
      files::open_at(folder, aside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, info.st_mode & 0777);
  if (!to) return to.status();
  const gzFile stream = gzdopen(to->get(), "wb");
  if (!stream) return resource_exhausted("compress " + name + ": no memory");
  to->release();
  Status status;
  std::array<char, 1 << 16> buffer{};
  for (ssize_t got = 0; status && (got = read(from->get(), buffer.data(), buffer.size())) != 0;) {
    if (got < 0)
      status = status_from_errno(errno, "read " + name);
    else if (gzwrite(stream, buffer.data(), static_cast<unsigned>(got)) != got)
      status = status_from_errno(errno, "write " + aside);
  }
  if (gzclose(stream) != Z_OK && status) status = status_from_errno(errno, "write " + aside);
  if (status && renameat(folder, aside.c_str(), folder, (name + kCompressed).c_str()) != 0)
    status = status_from_errno(errno, "rename " + aside);
  (void)unlinkat(folder, (status ? name : aside).c_str(), 0);
  return status;
}

/// One container whose log is to be opened anew.
struct Turn {
  std::string container, path;
  std::optional<Result<RotatedLog>> rotated;  ///< or there was none of that name
};

}  // namespace

Result<RotatedLog> rotate_log(const std::string& path, int most_files) {
  const size_t slash = path.rfind('/');
  const std::string name = path.substr(slash + 1);
  Result<files::Descriptor> folder = files::open_folder(path.substr(0, slash));
  if (!folder) return folder.status();
  Result<std::vector<std::string>> names = files::list_folder(folder->get());
  if (!names) return names.status();
  std::sort(names->begin(), names->end());  // by age, as the names are made
  std::vector<std::string> rotated;
  for (const std::string& other : *names) {
    if (!other.starts_with(name + ".")) continue;
    // The monitor is just about to give it the log's name.
    if (other == name + kUnfinished) continue;
    // Of an interruption: what it was made of is still there.
    if (other.ends_with(kUnfinished))
      (void)unlinkat(folder->get(), other.c_str(), 0);
    else
      rotated.push_back(other);
  }
  RotatedLog result;
  // Room for the current log and the one that it becomes.
  while (rotated.size() + 2 > static_cast<size_t>(std::max(most_files, 2))) {
    if (unlinkat(folder->get(), rotated.front().c_str(), 0) != 0 && errno != ENOENT)
      result.older = status_from_errno(errno, "remove " + rotated.front());
    rotated.erase(rotated.begin());
  }
  for (const std::string& other : rotated)
    if (!other.ends_with(kCompressed))
      if (Status compressed = compress(folder->get(), other); !compressed) result.older = std::move(compressed);
  auto when = std::chrono::system_clock::now();
  std::string next = name + "." + timestamp(when);
  // Never over one that is there.
  while (faccessat(folder->get(), next.c_str(), F_OK, 0) == 0 ||
         faccessat(folder->get(), (next + kCompressed).c_str(), F_OK, 0) == 0)
    next = name + "." + timestamp(when += std::chrono::milliseconds(1));
  if (renameat(folder->get(), name.c_str(), folder->get(), next.c_str()) != 0)
    return status_from_errno(errno, "rename " + path);
  result.path = path.substr(0, slash + 1) + next;
  return result;
}

Status undo_rotation(const std::string& path, const std::string& rotated) {
  if (renameat2(AT_FDCWD, rotated.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) != 0)
    return status_from_errno(errno, "give " + rotated + " its name back");
  return Status::ok();
}

Task<void> LogRotation::run() {
  while (!context_.stopping) {
    auto waiting = wakeup_.wait(WallClock::now() + std::chrono::duration_cast<WallClock::duration>(settings_.interval));
    co_await waiting;
    if (context_.stopping || settings_.longest_bytes <= 0) co_return;
    Task<void> looking = look();
    co_await std::move(looking);
  }
}

Task<void> LogRotation::look() {
  cri::ListContainersRequest request;
  request.mutable_filter()->mutable_state()->set_state(cri::CONTAINER_RUNNING);
  CallOptions options;
  options.timeout = kQuickCall;
  auto listing = context_.runtime->ListContainers(request, options);
  Result<cri::ListContainersResponse> listed = co_await listing;
  if (!listed) co_return;
  std::map<std::string, std::string> logs;  // by container
  for (const cri::Container& container : listed->containers()) {
    if (value_of(container.annotations(), annotation::kSource) != annotation::kSourceValue) continue;
    const auto& labels = container.labels();
    logs[container.id()] = context_.node.log_folder + "/" + value_of(labels, label::kPodNamespace) + "_" +
                           value_of(labels, label::kPodName) + "_" + value_of(labels, label::kPodUid) + "/" +
                           value_of(labels, label::kContainerName) + "/" +
                           value_of(container.annotations(), annotation::kRestartCount) + ".log";
  }
  auto rotate = [logs = std::move(logs), settings = settings_] {
    std::vector<Turn> turns;
    for (const auto& [id, path] : logs) {
      struct stat info {};
      if (lstat(path.c_str(), &info) != 0) {
        if (errno == ENOENT) turns.push_back({id, path, {}});
        continue;
      }
      if (!S_ISREG(info.st_mode) || info.st_size <= settings.longest_bytes) continue;
      turns.push_back({id, path, rotate_log(path, settings.most_files)});
    }
    return turns;
  };
  auto rotating = host_.blocking(std::move(rotate));
  const std::vector<Turn> turns = co_await std::move(rotating);
  for (const Turn& turn : turns) {
    if (turn.rotated) {
      const Status problem = *turn.rotated ? (*turn.rotated)->older : turn.rotated->status();
      if (!problem) host_.warn("a log could not be rotated", {{"log", turn.path}, {"problem", problem.message()}});
      if (!*turn.rotated) continue;
    }
    cri::ReopenContainerLogRequest reopen;
    reopen.set_container_id(turn.container);
    CallOptions patience;
    patience.timeout = kQuickCall;
    auto reopening = context_.runtime->ReopenContainerLog(reopen, patience);
    const Result<cri::ReopenContainerLogResponse> reopened = co_await reopening;
    const Code code = reopened.status().code();
    const bool may_yet_be = code == Code::deadline_exceeded || code == Code::unavailable;
    if (reopened || may_yet_be || !turn.rotated) continue;
    // A container that has ended meanwhile keeps its log under the name that everybody knows.
    auto undo = [path = turn.path, renamed = (*turn.rotated)->path] { return undo_rotation(path, renamed); };
    auto undoing = host_.blocking(std::move(undo));
    (void)co_await std::move(undoing);
  }
}

}  // namespace pintle::agent
