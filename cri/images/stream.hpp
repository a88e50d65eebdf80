#pragma once

/// Compressed bytes made plain: a file that is plain, gzip or zstd (told by its first bytes), read as a stream that
/// counts and hashes what it gives. Decompression is libarchive's; what it cannot read is INVALID_ARGUMENT.

#include <cstdint>
#include <memory>
#include <pintle/status.hpp>
#include <string>

#include "cri/images/digest.hpp"

struct archive;
struct archive_entry;

namespace pintle::images {

/// What may come out of what went in; beyond it the input is taken for a bomb.
struct ExpansionLimits {
  uint64_t bytes = 64ull << 30;
  uint64_t ratio = 200;                   ///< plain bytes for each stored byte
  uint64_t free_of_ratio = 256ull << 20;  ///< the ratio does not matter below
};

class PlainStream {
 public:
  /// Reads `fd` from its beginning; it stays the caller's and has to live as long.
  static Result<std::unique_ptr<PlainStream>> open(int fd, const ExpansionLimits& limits);
  ~PlainStream();
  PlainStream(const PlainStream&) = delete;
  PlainStream& operator=(const PlainStream&) = delete;

  /// The next bytes, valid until the next call; 0 at the end, -1 after an error (see `status`).
  int64_t next(const void** data);
  /// Reads what is left, so that the digest covers the whole.
  Status drain();
  const Status& status() const { return status_; }
  uint64_t count() const { return count_; }
  /// Of all plain bytes; once, after the end.
  Digest digest() { return hasher_.finish(); }

 private:
  PlainStream() = default;
  ::archive* archive_ = nullptr;
  int fd_ = -1;
  bool empty_ = false;
  uint64_t stored_ = 0;
  uint64_t count_ = 0;
  ExpansionLimits limits_;
  Hasher hasher_;
  Status status_;
};

/// A tar reader over a PlainStream. Entries are walked with libarchive's functions.
class TarReader {
 public:
  explicit TarReader(PlainStream& stream);
  ~TarReader();
  TarReader(const TarReader&) = delete;
  TarReader& operator=(const TarReader&) = delete;

  /// False at the end. INVALID_ARGUMENT for a damaged archive.
  Result<bool> next();
  /// The current entry (struct archive_entry).
  ::archive_entry* entry() const { return entry_; }
  /// The next bytes of the current entry's content; false at its end. A hole is reported by `offset` moving on.
  Result<bool> next_data(const void** data, size_t* size, int64_t* offset);

 private:
  Status failure() const;
  PlainStream& stream_;
  ::archive* archive_ = nullptr;
  ::archive_entry* entry_ = nullptr;
};

}  // namespace pintle::images
