#include "cri/images/pull.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <thread>

namespace pintle::images {
namespace {

using namespace std::chrono_literals;

constexpr int kMaximalNesting = 4;
constexpr uint64_t kFlushEvery = 8u << 20;
constexpr size_t kReadBuffer = 128 * 1024;

}  // namespace

/// A blob that is being fetched: its file, locked, with the hash of what it holds.
class Pull::Partial {
 public:
  Partial(int folder, std::string name, files::Descriptor file)
      : folder_(folder), name_(std::move(name)), file_(std::move(file)), hasher_(std::in_place) {}

  uint64_t size() const { return size_; }

  /// Hashes what is there from an earlier pull.
  Status take_up(const std::atomic<bool>& cancelled) {
    std::vector<char> buffer(kReadBuffer);
    for (;;) {
      const ssize_t count = pread(file_.get(), buffer.data(), buffer.size(), static_cast<off_t>(size_));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return status_from_errno(errno, "read the partial blob " + name_);
      if (count == 0) return {};
      if (cancelled) return pintle::cancelled("the pull was cancelled");
      hasher_->update(buffer.data(), static_cast<size_t>(count));
      size_ += static_cast<uint64_t>(count);
    }
  }

  Status append(std::string_view piece) {
    hasher_->update(piece);
    while (!piece.empty()) {
      const ssize_t count = pwrite(file_.get(), piece.data(), piece.size(), static_cast<off_t>(size_));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return status_from_errno(errno, "store the blob " + name_);
      size_ += static_cast<uint64_t>(count);
      piece.remove_prefix(static_cast<size_t>(count));
    }
    // The disk begins early, so that the sync at the end is short and stalls nobody.
    if (size_ - flushed_ >= kFlushEvery) {
      (void)sync_file_range(file_.get(), static_cast<off_t>(flushed_), static_cast<off_t>(size_ - flushed_),
                            SYNC_FILE_RANGE_WRITE);
      flushed_ = size_;
    }
    return {};
  }

  Status begin_anew() {
    if (ftruncate(file_.get(), 0) != 0) return status_from_errno(errno, "begin the blob " + name_ + " anew");
    size_ = flushed_ = 0;
    hasher_.emplace();
    return {};
  }

  /// Once all is there; another look needs `begin_anew`.
  Digest digest() { return hasher_->finish(); }

  void remove() { unlinkat(folder_, name_.c_str(), 0); }

 private:
  int folder_;
  std::string name_;
  files::Descriptor file_;
  std::optional<Hasher> hasher_;
  uint64_t size_ = 0;
  uint64_t flushed_ = 0;
};

Pull::Pull(Store& store, const RegistriesSettings& settings, Reference reference, Credentials credentials)
    : store_(store), settings_(settings), reference_(std::move(reference)), credentials_(std::move(credentials)) {}

PullProgress Pull::progress() const {
  const std::lock_guard guard(mutex_);
  return progress_;
}

void Pull::set_phase(PullProgress::Phase phase) {
  const std::lock_guard guard(mutex_);
  progress_.phase = phase;
}

void Pull::set_done(size_t index, uint64_t done) {
  const std::lock_guard guard(mutex_);
  progress_.blobs[index].done = done;
}

Result<std::shared_ptr<const Image>> Pull::run() {
  const RegistrySettings* registry = settings_.find(reference_.domain);
  std::string mirrors;
  for (const Mirror& mirror : registry ? registry->mirrors : std::vector<Mirror>()) {
    repository_.emplace(settings_, reference_, Credentials(), cancelled_, &mirror);
    auto image = run_once();
    if (image || cancelled_ || image.status().code() == Code::resource_exhausted) return image;
    mirrors += "; " + image.status().message();
    const std::lock_guard guard(mutex_);
    progress_ = {};
  }
  repository_.emplace(settings_, reference_, credentials_, cancelled_);
  auto image = run_once();
  if (!image && !mirrors.empty())
    return Status(image.status().code(), image.status().message() + " (and before" + mirrors.substr(1) + ")");
  return image;
}

Result<std::shared_ptr<const Image>> Pull::run_once() {
  Connection connection(settings_.transfer, cancelled_);
  auto pulled = resolve(connection);
  if (!pulled) return pulled.status();
  for (int tries = 0;; ++tries) {
    std::vector<std::unique_ptr<Partial>> partials;
    set_phase(PullProgress::Phase::fetching);
    if (!store_.is_whole(pulled->manifest.config.digest)) {
      Status status = fetch_all(*pulled, partials);
      // What is incomplete is continued by the next pull; what is wrong, or too much for the disk, is not kept.
      if (status.code() == Code::data_loss || status.code() == Code::invalid_argument ||
          status.code() == Code::resource_exhausted) {
        for (const auto& partial : partials) partial->remove();
      }
      if (!status) return status;
    }
    if (cancelled_) return cancelled("the pull of " + pulled->reference + " was cancelled");
    set_phase(PullProgress::Phase::unpacking);
    auto image = store_.add(*pulled);
    // Another one removed what the store had: it is fetched like the rest.
    if (!image && image.status().code() == Code::aborted && tries < 2) continue;
    for (const auto& partial : partials) partial->remove();
    if (!image) return image.status().with_context(pulled->reference);
    return image;
  }
}

Result<Pulled> Pull::resolve(Connection& connection) {
  const std::string what = reference_.to_string();
  std::string wanted = reference_.digest.empty() ? reference_.tag : reference_.digest.to_string();
  std::string pulled;
  for (int depth = 0; depth < kMaximalNesting; ++depth) {
    auto document = repository_->manifest(connection, wanted);
    if (!document) return document.status();
    if (pulled.empty()) pulled = reference_.repository() + "@" + document->digest.to_string();
    if (is_index(*document)) {
      auto index = Index::parse(document->bytes);
      if (!index) return index.status().with_context(what);
      auto chosen = choose_manifest(*index, native_architecture());
      if (!chosen) return chosen.status().with_context(what);
      wanted = chosen->digest.to_string();
      continue;
    }
    auto manifest = Manifest::parse(document->bytes);
    if (!manifest) return manifest.status().with_context(what);
    if (manifest->config.size > kMaximalDocument) return invalid_argument(what + ": the image config is too large");
    const std::lock_guard guard(mutex_);
    progress_.blobs.push_back({manifest->config.digest.to_string(), manifest->config.size, 0, false});
    for (const Descriptor& layer : manifest->layers)
      progress_.blobs.push_back({layer.digest.to_string(), layer.size, 0, false});
    return Pulled{what, std::move(document->bytes), document->digest, std::move(*manifest), pulled};
  }
  return invalid_argument(what + ": image indexes are nested too deep");
}

Status Pull::fetch_all(const Pulled& pulled, std::vector<std::unique_ptr<Partial>>& partials) {
  // By digest: two layers may be the same blob. Index 0 is the config, which is small and says whether the image fits.
  std::map<Digest, size_t> seen;
  std::vector<std::pair<const Descriptor*, size_t>> wanted;
  const auto want = [&](const Descriptor& descriptor, size_t index) {
    if (store_.has_blob(descriptor.digest, descriptor.size) || !seen.emplace(descriptor.digest, index).second) {
      const std::lock_guard guard(mutex_);
      progress_.blobs[index].is_here = true;
      progress_.blobs[index].done = descriptor.size;
    } else {
      wanted.emplace_back(&descriptor, index);
    }
  };
  want(pulled.manifest.config, 0);
  for (size_t i = 0; i < pulled.manifest.layers.size(); ++i) want(pulled.manifest.layers[i], i + 1);

  std::atomic<size_t> next{0};
  std::mutex mutex;  // of first and partials
  Status first;
  given_up_ = false;
  if (cancelled_) given_up_ = true;
  const auto work = [&] {
    Connection connection(settings_.transfer, given_up_);
    for (size_t item = next++; item < wanted.size() && !given_up_ && !cancelled_; item = next++) {
      std::unique_ptr<Partial> partial;
      const Status status = fetch(connection, *wanted[item].first, wanted[item].second, partial);
      const std::lock_guard guard(mutex);
      if (partial) partials.push_back(std::move(partial));
      if (status) continue;
      if (first) first = status;
      given_up_ = true;
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 0; i < std::min<size_t>(settings_.parallel, wanted.size()); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (cancelled_) return cancelled("the pull of " + pulled.reference + " was cancelled");
  return first;
}

Result<std::unique_ptr<Pull::Partial>> Pull::take_partial(const Descriptor& descriptor) {
  const std::string& name = descriptor.digest.hex();
  while (!given_up_ && !cancelled_) {
    auto file = files::open_at(store_.partial(), name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (!file) return file.status();
    if (flock(file->get(), LOCK_EX | LOCK_NB) != 0) {
      // Another pull fetches it; when that is done, the store has it.
      std::this_thread::sleep_for(50ms);
      continue;
    }
    struct stat mine {
    }, named{};
    if (fstat(file->get(), &mine) != 0 || fstatat(store_.partial(), name.c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0 ||
        mine.st_ino != named.st_ino) {
      continue;  // it took its place meanwhile
    }
    return std::make_unique<Partial>(store_.partial(), name, std::move(*file));
  }
  return cancelled("the pull was cancelled");
}

Status Pull::fetch(Connection& connection, const Descriptor& descriptor, size_t index, std::unique_ptr<Partial>& kept) {
  auto taken = take_partial(descriptor);
  if (!taken) return taken.status();
  kept = std::move(*taken);
  Partial& partial = *kept;
  if (store_.has_blob(descriptor.digest, descriptor.size)) {
    partial.remove();
    set_done(index, descriptor.size);
    return {};
  }
  if (Status status = partial.take_up(given_up_); !status) return status;
  const bool is_continued = partial.size() > 0;
  if (partial.size() > descriptor.size) {
    if (Status status = partial.begin_anew(); !status) return status;
  }
  for (int tries = 0;; ++tries) {
    Status status = transfer(connection, descriptor, index, partial);
    if (!status && partial.size() == 0) partial.remove();
    if (!status) return status;
    const Digest digest = partial.digest();
    if (digest == descriptor.digest) break;
    if (!is_continued || tries > 0) {
      return data_loss(repository_->name() + ": blob " + descriptor.digest.to_string() + " came with the digest " +
                       digest.to_string() + "; the registry's copy is damaged or forged");
    }
    // What an earlier pull left may have lost bytes with the power.
    if (status = partial.begin_anew(); !status) return status;
  }
  return {};
}

Status Pull::transfer(Connection& connection, const Descriptor& descriptor, size_t index, Partial& partial) {
  Retries retries(given_up_);
  uint64_t best = partial.size();
  int ends_short = 0;
  set_done(index, partial.size());
  while (partial.size() < descriptor.size) {
    Status local;  // of this side
    bool is_too_long = false, is_elsewhere = false;
    bool can_retry = false;
    std::chrono::seconds wait{0};
    const auto start = [&](long, uint64_t begin) {
      if (begin == partial.size()) return true;
      is_elsewhere = begin != 0;
      if (!is_elsewhere) local = partial.begin_anew();
      return !is_elsewhere && local;
    };
    const auto take = [&](std::string_view piece) {
      is_too_long = partial.size() + piece.size() > descriptor.size;
      if (is_too_long) return false;
      local = partial.append(piece);
      set_done(index, partial.size());
      return local.is_ok();
    };
    auto response = repository_->blob(connection, descriptor.digest, partial.size(), start, take, &can_retry, &wait);
    if (!local) return local;
    const std::string what = repository_->name() + ": blob " + descriptor.digest.to_string();
    const std::string sizes = std::to_string(partial.size()) + " of " + std::to_string(descriptor.size) + " bytes";
    if (is_too_long) {
      if (Status status = partial.begin_anew(); !status) return status;
      return data_loss(what + " is longer than the " + std::to_string(descriptor.size) +
                       " bytes that its manifest tells");
    }
    Status status = response.status();
    if (response && (response->status == 416 || is_elsewhere)) {
      // Nothing lies beyond what is here, though some should.
      if (++ends_short > 1) return data_loss(what + " is truncated in the registry: " + sizes);
      if (status = partial.begin_anew(); !status) return status;
      best = 0;
      continue;
    }
    if (response && partial.size() < descriptor.size) {
      // A whole answer that is too short is what the registry has.
      if (!response->header("content-length").empty() && ++ends_short > 1)
        return data_loss(what + " is truncated in the registry: " + sizes);
      status = unavailable(what + " ended after " + sizes);
      can_retry = true;
    }
    if (partial.size() == descriptor.size) break;
    if (partial.size() > best) {
      best = partial.size();
      retries.reset();
    }
    if (!can_retry) return status;
    if (!retries.again(wait)) {
      if (given_up_ || cancelled_) return cancelled("the pull was cancelled");
      return Status(status.code(), status.message() + "; trying again did not help, the next pull goes on at " + sizes);
    }
    const std::lock_guard guard(mutex_);
    ++progress_.cuts;
  }
  return {};
}

}  // namespace pintle::images
