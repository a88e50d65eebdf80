#include "plugins/node-agent/posted_manifests.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

/// Neither a namespace nor a name has an underscore.
std::string file_of(const WantedPod& pod) { return pod.namespace_name + "_" + pod.name + ".json"; }

Status remove_file(int folder, const std::string& name) {
  if (unlinkat(folder, name.c_str(), 0) != 0 && errno != ENOENT) return status_from_errno(errno, "remove " + name);
  return fsync(folder) == 0 ? Status::ok() : status_from_errno(errno, "sync the folder of " + name);
}

struct Change {
  std::string file, record;
  std::string former;  ///< the record that it replaces; empty: none
};

/// All of them, or none: what was written before one failed is taken back.
Status write_all(const std::string& path, const std::vector<Change>& changes) {
  if (Status made = files::make_folders(path, 0700); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(path);
  if (!folder) return folder.status();
  for (size_t i = 0; i < changes.size(); ++i) {
    Status written = files::write_file(folder->get(), changes[i].file, changes[i].record, files::Durability::synced);
    if (written) continue;
    for (size_t k = 0; k <= i; ++k) {
      const Change& change = changes[k];
      const Status back = change.former.empty()
                              ? remove_file(folder->get(), change.file)
                              : files::write_file(folder->get(), change.file, change.former, files::Durability::synced);
      if (!back) written = {written.code(), written.message() + "; and taking it back: " + back.message()};
    }
    return written.with_context(path);
  }
  return Status::ok();
}

}  // namespace

PostedManifests::PostedManifests(Host& host, std::string state_folder)
    : host_(host), folder_(std::move(state_folder) + "/posted") {}

Task<void> PostedManifests::load(Pods accepted) {
  struct Loaded {
    Pods pods;
    std::vector<std::string> problems, damaged;
  };
  auto read_all = [path = folder_] {
    Loaded loaded;
    Result<files::Descriptor> folder = files::open_folder(path);
    if (!folder) {
      if (folder.status().code() != Code::not_found) loaded.problems.push_back(folder.status().message());
      return loaded;
    }
    Result<std::vector<std::string>> names = files::list_folder(folder->get());
    if (!names) loaded.problems.push_back(names.status().message());
    for (const std::string& name : names ? *names : std::vector<std::string>()) {
      if (name.starts_with('.') || !name.ends_with(".json")) continue;
      Result<std::string> text = files::read_file(folder->get(), name);
      Result<WantedPod> pod = text ? from_record(*text) : Result<WantedPod>(text.status());
      if (pod)
        loaded.pods.push_back(std::make_shared<const WantedPod>(std::move(*pod)));
      else
        loaded.damaged.push_back(name);
      if (!pod) loaded.problems.push_back(path + "/" + name + ": " + pod.status().message());
    }
    return loaded;
  };
  auto reading = host_.blocking(std::move(read_all));
  const Loaded loaded = co_await std::move(reading);
  for (const std::string& problem : loaded.problems)
    host_.error("the record of a pod that was handed in is damaged", {{"problem", problem}});
  pods_.clear();
  for (const std::shared_ptr<const WantedPod>& pod : loaded.pods) pods_[pod->key()] = pod;
  for (std::shared_ptr<const WantedPod>& pod : accepted)
    if (std::find(loaded.damaged.begin(), loaded.damaged.end(), file_of(*pod)) != loaded.damaged.end())
      pods_.emplace(pod->key(), std::move(pod));
}

Result<std::vector<WantedPod>> PostedManifests::read(const std::string& text) const {
  if (is_empty_list(text, "body")) return std::vector<WantedPod>();
  Result<Manifest> manifest =
      read_manifest(unfold_list(text, "body"), {"body", kPostedPath, std::string(host_.node())});
  if (!manifest) return manifest.status();
  if (!manifest->secrets.empty())
    return invalid_argument("body: Secrets cannot be posted: use `pintle pod apply`, or the folder of manifests");
  return std::move(manifest->pods);
}

struct PostedManifests::Turn {
  PostedManifests& of;
  bool await_ready() const { return !of.is_writing_; }
  void await_suspend(std::coroutine_handle<> handle) { of.waiting_.push_back(handle); }
  void await_resume() const { of.is_writing_ = true; }
  /// The next one's, if any waits.
  void end() {
    of.is_writing_ = !of.waiting_.empty();
    if (of.waiting_.empty()) return;
    const std::coroutine_handle<> next = of.waiting_.front();
    of.waiting_.pop_front();
    of.host_.post([next] { next.resume(); });
  }
};

PostedManifests::Turn PostedManifests::turn() { return Turn{*this}; }

Task<Status> PostedManifests::keep(Pods pods) {
  Turn mine = turn();
  co_await mine;
  Task<Status> writing = write(std::move(pods));
  Status written = co_await std::move(writing);
  mine.end();
  co_return written;
}

Task<Status> PostedManifests::forget(std::string key) {
  Turn mine = turn();
  co_await mine;
  Task<Status> erasing = erase(std::move(key));
  Status erased = co_await std::move(erasing);
  mine.end();
  co_return erased;
}

Task<Status> PostedManifests::write(Pods pods) {
  std::vector<Change> changes;
  for (const std::shared_ptr<const WantedPod>& pod : pods) {
    const auto former = pods_.find(pod->key());
    if (former != pods_.end() && former->second->uid == pod->uid) continue;
    changes.push_back({file_of(*pod), to_record(*pod), former == pods_.end() ? "" : to_record(*former->second)});
  }
  if (changes.empty()) co_return Status::ok();
  auto work = [path = folder_, changes = std::move(changes)] { return write_all(path, changes); };
  auto writing = host_.blocking(std::move(work));
  if (Status written = co_await std::move(writing); !written) co_return written.with_context("keep the pods");
  for (const std::shared_ptr<const WantedPod>& pod : pods) {
    std::shared_ptr<const WantedPod>& kept = pods_[pod->key()];
    if (!kept || kept->uid != pod->uid) kept = pod;
  }
  co_return Status::ok();
}

Task<Status> PostedManifests::erase(std::string key) {
  const auto found = pods_.find(key);
  if (found == pods_.end()) co_return Status::ok();
  auto remove = [path = folder_, name = file_of(*found->second)]() -> Status {
    Result<files::Descriptor> folder = files::open_folder(path);
    if (!folder) return folder.status();
    return remove_file(folder->get(), name);
  };
  auto removing = host_.blocking(std::move(remove));
  if (Status removed = co_await std::move(removing); !removed) co_return removed.with_context("forget the pod");
  pods_.erase(key);
  co_return Status::ok();
}

}  // namespace pintle::agent
