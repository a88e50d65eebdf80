#pragma once

/// The folder of manifests: which pods it wants, at any moment and whatever happens to its files.
///
/// Files named *.yaml, *.yml and *.json count; names with a leading dot do not (editors' and our own files aside), nor does
/// anything else, so half-written temporary files are never read. Reading compares stat data first and opens what differs.
///
/// A file that is broken keeps the pods that it brought last: only a file that is gone, or that is right and has them no more,
/// ends pods. If two files have a pod of the same name, the first file by name wins and the other one's is reported.
///
///     ManifestFolder folder("/etc/pintle/manifests", "node1");
///     FolderReading reading = ManifestFolder::read(folder.request());   // blocks; on another thread
///     folder.merge(std::move(reading));
///     for (auto& [key, pod] : folder.wanted().pods) ...

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <pintle/status.hpp>
#include <set>
#include <string>
#include <vector>

#include "plugins/node-agent/manifests.hpp"

namespace pintle::agent {

/// What tells whether a file has changed.
struct FileStamp {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t modified = 0, changed = 0;  ///< nanoseconds since 1970
  bool operator==(const FileStamp&) const = default;
};

struct ReadRequest {
  std::string path;
  std::string node;
  std::map<std::string, FileStamp> known;
  std::optional<std::set<std::string>> only;  ///< names of files; none: the whole folder
  /// Of `only`, those that were merely created: they are being written, unless they are links.
  std::set<std::string> created;
  bool patient = false;  ///< leave out what was written within the last second: its writer may not be done
};

struct FileReading {
  std::string name;
  FileStamp stamp;
  Status status;
  std::vector<std::shared_ptr<const WantedPod>> pods;
  std::vector<std::shared_ptr<const PullSecret>> secrets;
};

struct FolderReading {
  Status status;                   ///< of the folder; if it is not ok, nothing else counts
  std::vector<FileReading> files;  ///< that are new or differ
  std::set<std::string> gone;
  bool unsettled = false;  ///< something was left out: look again in a second
};

struct Duplicate {
  std::string key;
  std::string path;    ///< of the file whose pod is passed over
  std::string winner;  ///< of the file that has the name
};

struct Wanted {
  std::map<std::string, std::shared_ptr<const WantedPod>> pods;  ///< by "namespace/name"
  std::vector<Duplicate> duplicates;
  PullSecrets secrets;
};

class ManifestFolder {
 public:
  struct File {
    FileStamp stamp;
    Status status;
    std::vector<std::shared_ptr<const WantedPod>> pods;      ///< the last good ones
    std::vector<std::shared_ptr<const PullSecret>> secrets;  ///< likewise
    size_t documents() const { return pods.size() + secrets.size(); }
  };

  ManifestFolder(std::string path, std::string node) : path_(std::move(path)), node_(std::move(node)) {}

  static bool is_manifest_name(std::string_view name);
  /// Blocks. May run on any thread.
  static FolderReading read(const ReadRequest& request);

  const std::string& path() const { return path_; }
  ReadRequest request() const;
  /// Takes what was read. False if nothing differs.
  bool merge(FolderReading reading);
  /// Pods that this file brought before this process began; they count until it has been read well.
  void remember(const std::string& path, std::vector<std::shared_ptr<const WantedPod>> pods);

  Wanted wanted() const;
  /// By name in the folder.
  const std::map<std::string, File>& files() const { return files_; }
  std::string path_of(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
  std::string node_;
  std::map<std::string, File> files_;
  std::map<std::string, std::vector<std::shared_ptr<const WantedPod>>> remembered_;
};

}  // namespace pintle::agent
