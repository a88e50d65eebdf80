#pragma once

/// One file for each sandbox and each container: what the engine must still know after its process has gone.
///
/// A record is opaque bytes under an id, framed by a magic word with the format's version, a length and a CRC-32. It is
/// written aside and renamed, so a reader sees the former or the new record, never half of one. Two strengths of
/// writing:
///
///   - `Durability::process`: the record survives the death of every process (it is in the kernel's cache). Enough for
///   "something
///     is about to be made": what is made besides it (namespaces, mounts, processes) does not survive a power cut
///     either.
///   - `Durability::power`: file and folder are synced. What a client was told must be of this kind.
///
/// Layout of a store's folder:
///
///     <id>            the record
///     .<id>.new-*     being written; removed by `open`
///     trash/<id>      removed, not yet unlinked (unlinking blocks of a file can take a millisecond)
///     damaged/<id>    set aside by `load` because magic, length or checksum were wrong
///
/// All functions block and may be called from any thread; two writes of the same id must not overlap.

#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/support/files/files.hpp"

namespace pintle::cri {

using files::Durability;

class RecordStore {
 public:
  struct Record {
    std::string id;
    std::string payload;
  };
  struct Damaged {
    std::string id;
    std::string why;  ///< one line
  };
  struct Contents {
    std::vector<Record> records;
    std::vector<Damaged> damaged;  ///< now in `damaged/`; whatever they stood for has to be removed
  };

  /// Makes the folder (0700) if need be and removes what an interrupted write left.
  static Result<RecordStore> open(std::string folder);

  /// Reads all records; sets damaged ones aside. A file whose name is no id is left alone and not reported.
  Result<Contents> load() const;

  /// Writes or replaces. RESOURCE_EXHAUSTED: the disk is full; the former record is untouched.
  Status write(std::string_view id, std::string_view payload, Durability durability) const;

  /// Removes durably; ok if there is none. The blocks are freed by `empty_trash`.
  Status remove(std::string_view id) const;

  /// Unlinks what was removed. Best called from the background.
  void empty_trash() const;

  const std::string& folder() const { return folder_; }

 private:
  RecordStore(std::string folder, files::Descriptor directory);

  std::string folder_;
  files::Descriptor directory_;
};

/// Whether the text is an id as the engine makes them: 64 lower-case hexadecimal digits.
bool is_id(std::string_view text);

/// A new id from the kernel's random numbers.
std::string make_id();

/// The framing alone, for the fuzz target and the tests.
std::string frame_record(std::string_view payload);
Result<std::string> unframe_record(std::string_view file);

}  // namespace pintle::cri
