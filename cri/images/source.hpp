#pragma once

/// What an image is loaded from: an OCI layout folder, or an archive of such a folder or of `docker save`. Both look
/// alike to the store: named files that can be *staged*, that is copied into an ingest folder of the store's file
/// system while they are hashed, from where they take their place among the blobs by rename.

#include <map>
#include <memory>
#include <pintle/status.hpp>
#include <string>

#include "cri/images/digest.hpp"
#include "cri/images/stream.hpp"

namespace pintle::images {

struct Staged {
  std::string file;  ///< name in the ingest folder
  Digest digest;
  uint64_t size = 0;
};

class Source {
 public:
  virtual ~Source() = default;
  /// "blobs/sha256/...", "index.json"
  virtual bool has(const std::string& name) const = 0;
  /// INVALID_ARGUMENT if there is no such file.
  virtual Result<Staged> stage(const std::string& name) = 0;
  /// A document, at most kMaximalDocument.
  Result<std::string> read(const std::string& name);

 protected:
  explicit Source(int ingest) : ingest_(ingest) {}
  int ingest_;
};

struct SourceLimits {
  ExpansionLimits expansion;
  uint64_t entries = 100'000;
};

/// `folder` and `ingest` are descriptors of folders that stay the caller's and outlive the source.
std::unique_ptr<Source> open_layout(int folder, int ingest);

/// Stages every file of the archive, which may be compressed and may be a pipe. INVALID_ARGUMENT for what is no
/// archive.
Result<std::unique_ptr<Source>> open_archive(int archive, int ingest, const SourceLimits& limits);

}  // namespace pintle::images
