#include "plugins/node-agent/pod_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "k8s/core/v1/pod.pb.h"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

constexpr const char* kRecord = "pod.json";

Status remove_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  Result<files::Descriptor> parent = files::open_folder(path.substr(0, slash));
  if (!parent) return parent.status().code() == Code::not_found ? Status::ok() : parent.status();
  return files::remove_tree(parent->get(), path.substr(slash + 1));
}

Status check_host_path(const core::HostPathVolumeSource& source, const std::string& volume) {
  const std::string& path = source.path();
  const std::string& type = source.type();
  const auto wrong = [&](const std::string& what) {
    return failed_precondition("volume \"" + volume + "\": hostPath " + path + " " + what);
  };
  if (type.empty()) return Status::ok();
  struct stat info {};
  const bool exists = stat(path.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) return status_from_errno(errno, "volume \"" + volume + "\": hostPath " + path);
  if (!exists && type == "DirectoryOrCreate")
    return files::make_folders(path, 0755).with_context("volume \"" + volume + "\"");
  if (!exists && type == "FileOrCreate") {
    Result<files::Descriptor> file = files::open_at(AT_FDCWD, path, O_CREAT | O_EXCL | O_WRONLY, 0644);
    return file ? Status::ok() : file.status().with_context("volume \"" + volume + "\"");
  }
  if (!exists) return wrong("does not exist, but its type is " + type);
  if (type.starts_with("Directory") && !S_ISDIR(info.st_mode)) return wrong("is no directory");
  if (type.starts_with("File") && !S_ISREG(info.st_mode)) return wrong("is no regular file");
  if (type == "Socket" && !S_ISSOCK(info.st_mode)) return wrong("is no socket");
  if (type == "CharDevice" && !S_ISCHR(info.st_mode)) return wrong("is no character device");
  if (type == "BlockDevice" && !S_ISBLK(info.st_mode)) return wrong("is no block device");
  return Status::ok();
}

}  // namespace

std::vector<std::string> PodFiles::uids() const {
  Result<files::Descriptor> pods = files::open_folder(folder_ + "/pods");
  if (!pods) return {};
  Result<std::vector<std::string>> names = files::list_folder(pods->get());
  return names ? *names : std::vector<std::string>();
}

std::vector<std::shared_ptr<const WantedPod>> PodFiles::load(std::vector<std::string>& problems) const {
  std::vector<std::shared_ptr<const WantedPod>> pods;
  for (const std::string& uid : uids()) {
    const std::string path = pod_folder(uid) + "/" + kRecord;
    Result<std::string> text = files::read_file(path);
    if (!text) {
      if (text.status().code() != Code::not_found) problems.push_back(text.status().message());
      continue;
    }
    Result<WantedPod> pod = from_record(*text);
    if (!pod || pod->uid != uid) {
      problems.push_back(path + ": " + (pod ? "names another uid" : pod.status().message()));
      continue;
    }
    pods.push_back(std::make_shared<WantedPod>(std::move(*pod)));
  }
  return pods;
}

Status PodFiles::save(const WantedPod& pod) const {
  const std::string path = pod_folder(pod.uid);
  if (Status made = files::make_folders(path, 0700); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(path);
  if (!folder) return folder.status();
  return files::write_file(folder->get(), kRecord, to_record(pod), files::Durability::cached);
}

Result<std::map<std::string, std::string>> PodFiles::prepare(const WantedPod& pod,
                                                             const std::string& log_folder) const {
  for (const core::Container& container : pod.pod->spec().containers())
    if (Status made = files::make_folders(log_folder + "/" + container.name(), 0755); !made) return made;
  std::map<std::string, std::string> places;
  for (const core::Volume& volume : pod.pod->spec().volumes()) {
    if (volume.volume_source().has_host_path()) {
      const core::HostPathVolumeSource& source = volume.volume_source().host_path();
      if (Status right = check_host_path(source, volume.name()); !right) return right;
      places[volume.name()] = source.path();
      continue;
    }
    const std::string place = pod_folder(pod.uid) + "/volumes/" + volume.name();
    if (Status made = files::make_folders(place, 0700); !made) return made;
    // Any user of the pod may write there, as in Kubernetes; umask must not take it away.
    if (chmod(place.c_str(), 0777) != 0) return status_from_errno(errno, "chmod " + place);
    places[volume.name()] = place;
  }
  return places;
}

Status PodFiles::remove(const std::string& uid, const std::string& log_folder) const {
  Status logs = log_folder.empty() ? Status::ok() : remove_path(log_folder);
  Status state = remove_path(pod_folder(uid));
  return logs ? state : logs;
}

}  // namespace pintle::agent
