#pragma once

/// Files on descriptors: what every part that keeps state on disk does alike.
///
/// Names are resolved from a folder's descriptor, so that a folder that is renamed or mounted over meanwhile cannot
/// lead a write elsewhere. What is written is complete or absent: bytes go to a name aside (".NAME.new-XXXX"), are
/// synced where the caller asks for it, and take their name by rename(2). Nothing here follows a symlink in the last
/// component of a name that it writes or removes.
///
///     auto folder = files::open_folder("/var/lib/pintle/x");
///     if (!folder) return folder.status();
///     if (auto s = files::write_file(folder->get(), "state.json", text, files::Durability::synced); !s) return s;
///
/// All functions may be called from any thread and may block. Messages name the path as it was given.

#include <sys/types.h>

#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pintle::files {

/// An owned file descriptor; closed when it goes.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Descriptor() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  /// Gives the descriptor to the caller, who closes it.
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

/// openat(2), always close-on-exec. `path` may be absolute.
Result<Descriptor> open_at(int folder, const std::string& path, int flags, mode_t mode = 0);
/// A folder, for the functions below (O_PATH is not set: it can be listed and synced).
Result<Descriptor> open_folder(const std::string& path);
/// openat2(2) with RESOLVE_* bits in `resolve`; close-on-exec.
Result<Descriptor> open_resolved(int folder, const std::string& path, uint64_t flags, uint64_t resolve,
                                 mode_t mode = 0);
/// Makes the folder and all above it that are missing, with `mode`.
Status make_folders(const std::string& path, mode_t mode = 0700);
/// Makes one folder below `folder` unless it exists, and opens it.
Result<Descriptor> make_folder_at(int folder, const std::string& name, mode_t mode = 0700);

/// The rest of the file, at most `limit` bytes; RESOURCE_EXHAUSTED beyond.
Result<std::string> read_all(int fd, size_t limit);
Result<std::string> read_file(int folder, const std::string& path, size_t limit = 16u << 20);
Result<std::string> read_file(const std::string& path, size_t limit = 16u << 20);
Status write_all(int fd, std::string_view bytes);

enum class Durability {
  cached,  ///< complete after a crash of the program; power loss may undo it
  synced,  ///< file and folder are synced: acknowledged means durable
};
/// Replaces the file `name` (no slash) of `folder` by one with these bytes.
Status write_file(int folder, const std::string& name, std::string_view bytes, Durability durability,
                  mode_t mode = 0600);

/// Names in the folder but "." and "..", in no order.
Result<std::vector<std::string>> list_folder(int folder);
/// Removes a file or a whole tree, never through a symlink and never across a mount. A missing name is success. Goes on
/// after an error and reports the first.
Status remove_tree(int folder, const std::string& name);
/// Bytes and inodes that a tree occupies (hard links counted once). Tolerates what vanishes meanwhile.
struct Usage {
  uint64_t bytes = 0;
  uint64_t inodes = 0;
};
Usage measure_tree(int folder, const std::string& name);

/// An advisory lock (flock(2)) on a file or folder, held until it goes. Two descriptors of one process exclude each
/// other too.
class Lock {
 public:
  enum class Kind { shared, exclusive };
  Lock() = default;
  /// Waits for the lock. The file is created where it is missing.
  static Result<Lock> acquire(int folder, const std::string& name, Kind kind);
  /// UNAVAILABLE if somebody else holds it.
  static Result<Lock> try_acquire(int folder, const std::string& name, Kind kind);
  bool held() const { return descriptor_.valid(); }
  int descriptor() const { return descriptor_.get(); }

 private:
  static Result<Lock> take(int folder, const std::string& name, int operation);
  explicit Lock(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}
  Descriptor descriptor_;
};

/// Lets nobody change a memory file any more (memfd_create(2) with MFD_ALLOW_SEALING; F_ADD_SEALS of fcntl(2)): neither its bytes nor its
/// size nor its seals. The kernel refuses while it has one of the pages in hand (reclaim, compaction); that is waited for, 2 s at most.
Status seal(int memory_file);
/// Whether a descriptor, of whomever, is of a file that was sealed so.
bool is_sealed(int memory_file);

/// `count` random lowercase hexadecimal digits, for names that nobody else has.
std::string random_hex(size_t count);

}  // namespace pintle::files
