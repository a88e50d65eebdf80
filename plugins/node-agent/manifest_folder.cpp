#include "plugins/node-agent/manifest_folder.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <chrono>
#include <utility>

#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

constexpr size_t kLargestManifest = 4u << 20;
constexpr int64_t kSettledNanos = 1'000'000'000;

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

FileStamp stamp_of(const struct stat& info) {
  return {info.st_dev, info.st_ino, static_cast<uint64_t>(info.st_size), nanoseconds(info.st_mtim),
          nanoseconds(info.st_ctim)};
}

/// Reads one file of the folder into the reading.
void read_file(int folder, const std::string& name, const ReadRequest& request, FolderReading& reading) {
  const auto known = request.known.find(name);
  struct stat info {};
  if (fstatat(folder, name.c_str(), &info, 0) != 0) {
    // A link to nowhere is as good as no file.
    if (errno == ENOENT || errno == ELOOP || errno == ENOTDIR) {
      if (known != request.known.end()) reading.gone.insert(name);
      return;
    }
    reading.files.push_back({name, {}, status_from_errno(errno, "read " + request.path + "/" + name), {}, {}});
    return;
  }
  FileStamp stamp = stamp_of(info);
  if (known != request.known.end() && known->second == stamp) return;
  // A time to come says nothing: its writer's clock, or a person, set it.
  const int64_t age = now() - stamp.modified;
  if (request.patient && age >= 0 && age < kSettledNanos) {
    reading.unsettled = true;
    return;
  }
  FileReading file{name, stamp, {}, {}, {}};
  const std::string path = request.path + "/" + name;
  if (!S_ISREG(info.st_mode)) {
    file.status = invalid_argument(path + ": is no regular file");
    reading.files.push_back(std::move(file));
    return;
  }
  Result<std::string> text = files::read_file(folder, name, kLargestManifest);
  if (!text) {
    file.status = text.status().with_context(path);
  } else {
    Result<Manifest> pods = read_manifest(*text, {path, path, request.node});
    if (pods) {
      file.secrets = std::move(pods->secrets);
      for (WantedPod& pod : pods->pods) file.pods.push_back(std::make_shared<WantedPod>(std::move(pod)));
    } else {
      file.status = pods.status();
    }
  }
  reading.files.push_back(std::move(file));
}

/// Whether a file that was just created is complete already: a symlink, or another name of a file that exists.
bool is_link(int folder, const std::string& name) {
  struct stat info {};
  return fstatat(folder, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && (S_ISLNK(info.st_mode) || info.st_nlink > 1);
}

}  // namespace

bool ManifestFolder::is_manifest_name(std::string_view name) {
  return !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json"));
}

ReadRequest ManifestFolder::request() const {
  ReadRequest request;
  request.path = path_;
  request.node = node_;
  for (const auto& [name, file] : files_) request.known.emplace(name, file.stamp);
  return request;
}

FolderReading ManifestFolder::read(const ReadRequest& request) {
  FolderReading reading;
  Result<files::Descriptor> folder = files::open_folder(request.path);
  if (!folder) {
    reading.status = folder.status();
    return reading;
  }
  if (request.only) {
    for (const std::string& name : *request.only)
      if (is_manifest_name(name) && (!request.created.contains(name) || is_link(folder->get(), name)))
        read_file(folder->get(), name, request, reading);
    return reading;
  }
  Result<std::vector<std::string>> names = files::list_folder(folder->get());
  if (!names) {
    reading.status = names.status();
    return reading;
  }
  std::set<std::string> present;
  for (const std::string& name : *names)
    if (is_manifest_name(name)) present.insert(name);
  for (const std::string& name : present) read_file(folder->get(), name, request, reading);
  for (const auto& [name, stamp] : request.known)
    if (!present.contains(name)) reading.gone.insert(name);
  return reading;
}

bool ManifestFolder::merge(FolderReading reading) {
  if (!reading.status) return false;
  for (const std::string& name : reading.gone) {
    files_.erase(name);
    remembered_.erase(path_of(name));
  }
  for (FileReading& read : reading.files) {
    File& file = files_[read.name];
    file.stamp = read.stamp;
    file.status = std::move(read.status);
    if (file.status) {
      file.pods = std::move(read.pods);
      file.secrets = std::move(read.secrets);
      remembered_.erase(path_of(read.name));
    } else if (const auto before = remembered_.find(path_of(read.name)); before != remembered_.end()) {
      file.pods = std::move(before->second);
      remembered_.erase(before);
    }
  }
  return !reading.gone.empty() || !reading.files.empty();
}

void ManifestFolder::remember(const std::string& path, std::vector<std::shared_ptr<const WantedPod>> pods) {
  remembered_[path] = std::move(pods);
}

Wanted ManifestFolder::wanted() const {
  Wanted wanted;
  for (const auto& [name, file] : files_)
    for (const std::shared_ptr<const WantedPod>& pod : file.pods) {
      const auto [winner, is_new] = wanted.pods.emplace(pod->key(), pod);
      if (!is_new) wanted.duplicates.push_back({pod->key(), pod->path, winner->second->path});
    }
  for (const auto& [name, file] : files_)
    for (const std::shared_ptr<const PullSecret>& secret : file.secrets) wanted.secrets.emplace(secret->key(), secret);
  return wanted;
}

}  // namespace pintle::agent
