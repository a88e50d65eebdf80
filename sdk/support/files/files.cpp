#include "sdk/support/files/files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <set>
#include <thread>

namespace pintle::files {
namespace {

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

Status failure(std::string_view what, const std::string& path) {
  const int error = errno;
  return status_from_errno(error, std::string(what) + " " + path);
}

struct Entry {
  std::string name;
  unsigned char type;
};

/// Reads the folder through a descriptor of its own, so that the caller's position is not moved.
Result<std::vector<Entry>> entries_of(int folder) {
  const int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return failure("list", "a folder");
  DIR* dir = fdopendir(copy);
  if (!dir) {
    close(copy);
    return failure("list", "a folder");
  }
  std::vector<Entry> entries;
  for (errno = 0; dirent* entry = readdir(dir); errno = 0) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") entries.push_back({std::string(name), entry->d_type});
  }
  const int error = errno;
  closedir(dir);
  if (error) return status_from_errno(error, "list a folder");
  return entries;
}

constexpr int kMaximalDepth = 4096;

void remove_into(int folder, const std::string& name, int depth, dev_t device, Status& first) {
  if (unlinkat(folder, name.c_str(), 0) == 0 || errno == ENOENT) return;
  if (errno != EISDIR && errno != EPERM) {
    if (first) first = failure("remove", name);
    return;
  }
  Descriptor child(openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat about {};
  if (!child.valid() || fstat(child.get(), &about) != 0) {
    if (errno != ENOENT && first) first = failure("remove", name);
    return;
  }
  if (about.st_dev != device || depth > kMaximalDepth) {
    if (first) first = failed_precondition("remove " + name + ": something is mounted there; unmount it first");
    return;
  }
  if (auto entries = entries_of(child.get())) {
    for (const Entry& entry : *entries) remove_into(child.get(), entry.name, depth + 1, device, first);
  }
  if (unlinkat(folder, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT && first) first = failure("remove", name);
}

void measure_into(int folder, const std::string& name, int depth, std::set<std::pair<dev_t, ino_t>>& linked,
                  Usage& usage) {
  struct stat about {};
  if (fstatat(folder, name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (about.st_nlink > 1 && !S_ISDIR(about.st_mode) && !linked.insert({about.st_dev, about.st_ino}).second) return;
  usage.bytes += static_cast<uint64_t>(about.st_blocks) * 512;
  ++usage.inodes;
  if (!S_ISDIR(about.st_mode) || depth > kMaximalDepth) return;
  Descriptor child(openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!child.valid()) return;
  if (auto entries = entries_of(child.get())) {
    for (const Entry& entry : *entries) measure_into(child.get(), entry.name, depth + 1, linked, usage);
  }
}

}  // namespace

void Descriptor::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

Result<Descriptor> open_at(int folder, const std::string& path, int flags, mode_t mode) {
  const int fd = openat(folder, path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return failure("open", path);
  return Descriptor(fd);
}

Result<Descriptor> open_folder(const std::string& path) { return open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY); }

Result<Descriptor> open_resolved(int folder, const std::string& path, uint64_t flags, uint64_t resolve, mode_t mode) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.mode = mode;
  how.resolve = resolve;
  int fd;
  // EAGAIN: a rename or mount went on elsewhere while ".." was resolved (openat2(2)); a few retries are expected.
  int attempts = 0;
  do {
    fd = static_cast<int>(syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how));
  } while (fd < 0 && (errno == EINTR || errno == EAGAIN) && ++attempts < 128);
  if (fd < 0) return failure("open", path);
  return Descriptor(fd);
}

Status make_folders(const std::string& path, mode_t mode) {
  if (path.empty()) return invalid_argument("make folders: the path is empty");
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (mkdir(part.c_str(), mode) != 0 && errno != EEXIST) return failure("make folder", part);
    if (end == std::string::npos) return {};
  }
}

Result<Descriptor> make_folder_at(int folder, const std::string& name, mode_t mode) {
  if (mkdirat(folder, name.c_str(), mode) != 0 && errno != EEXIST) return failure("make folder", name);
  return open_at(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

Result<std::string> read_all(int fd, size_t limit) {
  std::string text;
  char piece[16384];
  for (;;) {
    const ssize_t count = read(fd, piece, sizeof piece);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failure("read", "a file");
    if (count == 0) return text;
    if (text.size() + static_cast<size_t>(count) > limit) {
      return resource_exhausted("the file is larger than " + std::to_string(limit) + " bytes");
    }
    text.append(piece, static_cast<size_t>(count));
  }
}

Result<std::string> read_file(int folder, const std::string& path, size_t limit) {
  auto file = open_at(folder, path, O_RDONLY);
  if (!file) return file.status();
  auto text = read_all(file->get(), limit);
  if (!text) return text.status().with_context(path);
  return text;
}

Result<std::string> read_file(const std::string& path, size_t limit) { return read_file(AT_FDCWD, path, limit); }

Status write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failure("write", "a file");
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return {};
}

Status write_file(int folder, const std::string& name, std::string_view bytes, Durability durability, mode_t mode) {
  const std::string aside = "." + name + ".new-" + random_hex(8);
  auto file = open_at(folder, aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  if (!file) return file.status();
  Status status = write_all(file->get(), bytes).with_context(name);
  if (status && durability == Durability::synced && fdatasync(file->get()) != 0) status = failure("sync", name);
  if (status && renameat(folder, aside.c_str(), folder, name.c_str()) != 0) status = failure("replace", name);
  if (!status) {
    unlinkat(folder, aside.c_str(), 0);
    return status;
  }
  if (durability == Durability::synced && fsync(folder) != 0) return failure("sync the folder of", name);
  return {};
}

Result<std::vector<std::string>> list_folder(int folder) {
  auto entries = entries_of(folder);
  if (!entries) return entries.status();
  std::vector<std::string> names;
  names.reserve(entries->size());
  for (Entry& entry : *entries) names.push_back(std::move(entry.name));
  return names;
}

Status remove_tree(int folder, const std::string& name) {
  struct stat about {};
  if (fstatat(folder, name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? Status() : failure("remove", name);
  }
  Status first;
  remove_into(folder, name, 0, about.st_dev, first);
  return first;
}

Usage measure_tree(int folder, const std::string& name) {
  Usage usage;
  std::set<std::pair<dev_t, ino_t>> linked;
  measure_into(folder, name, 0, linked, usage);
  return usage;
}

Result<Lock> Lock::acquire(int folder, const std::string& name, Kind kind) {
  return take(folder, name, kind == Kind::shared ? LOCK_SH : LOCK_EX);
}

Result<Lock> Lock::try_acquire(int folder, const std::string& name, Kind kind) {
  return take(folder, name, (kind == Kind::shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
}

Result<Lock> Lock::take(int folder, const std::string& name, int operation) {
  int fd = openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) fd = openat(folder, name.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return failure("open lock", name);
  Descriptor file(fd);
  while (flock(file.get(), operation) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return unavailable("lock " + name + ": somebody else holds it");
    return failure("lock", name);
  }
  return Lock(std::move(file));
}

Status seal(int memory_file) {
  constexpr int kMostAttempts = 20;  // of up to 80 ms that the kernel itself waits
  for (int attempt = 1; fcntl(memory_file, F_ADD_SEALS, kSeals) != 0; ++attempt) {
    if (errno != EBUSY || attempt == kMostAttempts) return status_from_errno(errno, "seal");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return {};
}

bool is_sealed(int memory_file) {
  const int seals = fcntl(memory_file, F_GET_SEALS);
  return seals >= 0 && (seals & kSeals) == kSeals;
}

std::string random_hex(size_t count) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(count, '0');
  std::string bytes(count, '\0');
  size_t filled = 0;
  while (filled < count) {
    const ssize_t got = getrandom(bytes.data() + filled, count - filled, 0);
    if (got > 0) filled += static_cast<size_t>(got);
  }
  for (size_t i = 0; i < count; ++i) text[i] = kDigits[static_cast<unsigned char>(bytes[i]) & 15];
  return text;
}

}  // namespace pintle::files
