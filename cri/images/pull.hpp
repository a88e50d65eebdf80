#pragma once

/// One pull: from a reference to an image of the store.
///
/// The manifest is asked for (of an index the one for this platform), then the blobs that the store does not have come in
/// parallel, each into `partial/<digest>` of the store, hashed while it is written. A transfer that is cut goes on by
/// Range from where it was, at once, in the next pull, or after a restart of the daemon; a server that knows no ranges
/// begins anew. When all are whole and have their digests, the store makes an image of them. What turns out wrong is
/// removed at once; what is only incomplete stays for the next try (Store::open removes it after three days).
///
/// Memory does not depend on sizes: one buffer for each transfer, and documents of at most kMaximalDocument.
///
///     Pull pull(*store, settings, *Reference::parse("web:1"), credentials);
///     auto image = pull.run();          // blocks; on another thread: pull.progress(), pull.cancel()

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "cri/images/registry.hpp"
#include "cri/images/store.hpp"

namespace pintle::images {

struct PullProgress {
  enum class Phase { resolving, fetching, unpacking };
  struct Blob {
    std::string digest;
    uint64_t size = 0;
    uint64_t done = 0;     ///< of these bytes
    bool is_here = false;  ///< nothing was to be fetched
    friend bool operator==(const Blob&, const Blob&) = default;
  };
  Phase phase = Phase::resolving;
  std::vector<Blob> blobs;  ///< config and layers, base first; empty while the manifest is not known
  uint64_t cuts = 0;        ///< how often a transfer was taken up again
  friend bool operator==(const PullProgress&, const PullProgress&) = default;
};

class Pull {
 public:
  /// `store` and `settings` outlive it.
  Pull(Store& store, const RegistriesSettings& settings, Reference reference, Credentials credentials);

  /// Once. Messages name the registry, the repository and what would help.
  Result<std::shared_ptr<const Image>> run();
  /// `run` ends soon with CANCELLED, unless it is unpacking already. [any thread]
  void cancel() {
    cancelled_ = true;
    given_up_ = true;
  }
  /// [any thread]
  PullProgress progress() const;

 private:
  class Partial;
  Result<std::shared_ptr<const Image>> run_once();
  Result<Pulled> resolve(Connection& connection);
  Status fetch_all(const Pulled& pulled, std::vector<std::unique_ptr<Partial>>& partials);
  Status fetch(Connection& connection, const Descriptor& descriptor, size_t index, std::unique_ptr<Partial>& kept);
  Result<std::unique_ptr<Partial>> take_partial(const Descriptor& descriptor);
  Status transfer(Connection& connection, const Descriptor& descriptor, size_t index, Partial& partial);
  void set_phase(PullProgress::Phase phase);
  void set_done(size_t index, uint64_t done);

  Store& store_;
  const RegistriesSettings& settings_;
  const Reference reference_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> given_up_{false};  // by one blob, for all
  const Credentials credentials_;
  std::optional<Repository> repository_;  // of a mirror or of the registry itself, one after the other
  mutable std::mutex mutex_;              // of what follows
  PullProgress progress_;
};

}  // namespace pintle::images
