#include "cri/records.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/crc.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "cri/files.hpp"

namespace pintle::cri {
namespace {

// The last digit is the format's version: a later release reads this one and the one before.
constexpr std::string_view kMagic = "PINTREC1";
constexpr size_t kHeaderSize = kMagic.size() + 4 + 4;
// Far above any pod's config; a larger file is not one of ours.
constexpr size_t kMaxRecord = 8u << 20;

uint32_t checksum(std::string_view bytes) {
  boost::crc_32_type crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return crc.checksum();
}

void append_number(std::string& out, uint32_t number) {
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>((number >> shift) & 0xff));
}

uint32_t read_number(std::string_view bytes) {
  uint32_t number = 0;
  for (int index = 3; index >= 0; --index)
    number = (number << 8) | static_cast<uint8_t>(bytes[static_cast<size_t>(index)]);
  return number;
}

Result<std::string> read_file_at(int directory, const char* name) {
  UniqueFd file(::openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return status_from_errno(errno, std::string("open ") + name);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return status_from_errno(errno, std::string("stat ") + name);
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) > kMaxRecord + kHeaderSize) {
    return data_loss("not a record: no regular file of a possible size");
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return status_from_errno(errno, std::string("read ") + name);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

/// The names in a folder, without "." and "..".
Result<std::vector<std::string>> list_names(int directory) {
  const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return status_from_errno(errno, "open record folder");
  std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(copy));
  if (!stream) {
    const int error = errno;
    ::close(copy);
    return status_from_errno(error, "read record folder");
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  return names;
}

}  // namespace

bool is_id(std::string_view text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::string make_id() {
  std::array<uint8_t, 32> random;
  size_t done = 0;
  while (done < random.size()) {
    const ssize_t got = ::getrandom(random.data() + done, random.size() - done, 0);
    if (got < 0 && errno != EINTR) throw std::runtime_error(std::string("getrandom: ") + std::strerror(errno));
    if (got > 0) done += static_cast<size_t>(got);
  }
  constexpr char digits[] = "0123456789abcdef";
  std::string id;
  id.reserve(64);
  for (const uint8_t byte : random) {
    id.push_back(digits[byte >> 4]);
    id.push_back(digits[byte & 15]);
  }
  return id;
}

std::string frame_record(std::string_view payload) {
  std::string file(kMagic);
  file.reserve(kHeaderSize + payload.size());
  append_number(file, static_cast<uint32_t>(payload.size()));
  append_number(file, checksum(payload));
  file.append(payload);
  return file;
}

Result<std::string> unframe_record(std::string_view file) {
  if (file.size() < kHeaderSize)
    return data_loss("truncated: " + std::to_string(file.size()) + " bytes, less than a header");
  if (file.substr(0, kMagic.size()) != kMagic) return data_loss("no record of a version that this release reads");
  const uint32_t length = read_number(file.substr(kMagic.size(), 4));
  const std::string_view payload = file.substr(kHeaderSize);
  if (payload.size() != length) {
    return data_loss("truncated: " + std::to_string(payload.size()) + " of " + std::to_string(length) + " bytes");
  }
  if (checksum(payload) != read_number(file.substr(kMagic.size() + 4, 4)))
    return data_loss("the checksum does not match");
  return std::string(payload);
}

RecordStore::RecordStore(std::string folder, UniqueFd directory)
    : folder_(std::move(folder)), directory_(std::move(directory)) {}

Result<RecordStore> RecordStore::open(std::string folder) {
  for (const char* part : {"", "/trash", "/damaged"}) {
    if (Status made = make_folder(folder + part); !made) return made;
  }
  UniqueFd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return status_from_errno(errno, "open record folder " + folder);
  Result<std::vector<std::string>> names = list_names(directory.get());
  if (!names) return names.status();
  for (const std::string& name : *names) {
    if (name.starts_with(".new-")) ::unlinkat(directory.get(), name.c_str(), 0);
  }
  RecordStore store(std::move(folder), std::move(directory));
  store.empty_trash();
  return store;
}

Result<RecordStore::Contents> RecordStore::load() const {
  Result<std::vector<std::string>> names = list_names(directory_.get());
  if (!names) return names.status().with_context(folder_);
  Contents contents;
  for (const std::string& name : *names) {
    if (!is_id(name)) continue;
    Result<std::string> file = read_file_at(directory_.get(), name.c_str());
    Result<std::string> payload = file ? unframe_record(*file) : Result<std::string>(file.status());
    if (payload) {
      contents.records.push_back({name, std::move(*payload)});
      continue;
    }
    if (payload.status().code() != Code::data_loss) return payload.status().with_context(folder_);
    const std::string aside = "damaged/" + name;
    ::renameat(directory_.get(), name.c_str(), directory_.get(), aside.c_str());
    contents.damaged.push_back({name, payload.status().message()});
  }
  return contents;
}

Status RecordStore::write(std::string_view id, std::string_view payload, Durability durability) const {
  const std::string name(id);
  const std::string aside = ".new-" + name;
  const auto fail = [&](int error, const char* what) {
    ::unlinkat(directory_.get(), aside.c_str(), 0);
    return status_from_errno(error, std::string(what) + " record " + folder_ + "/" + name);
  };
  UniqueFd file(::openat(directory_.get(), aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return fail(errno, "create");
  const std::string bytes = frame_record(payload);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put = ::write(file.get(), bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail(errno, "write");
    done += static_cast<size_t>(put);
  }
  if (durability == Durability::power && ::fdatasync(file.get()) != 0) return fail(errno, "sync");
  if (::renameat(directory_.get(), aside.c_str(), directory_.get(), name.c_str()) != 0) return fail(errno, "rename");
  if (durability == Durability::power && ::fsync(directory_.get()) != 0) {
    return status_from_errno(errno, "sync folder " + folder_);
  }
  return Status::ok();
}

Status RecordStore::remove(std::string_view id) const {
  const std::string name(id);
  const std::string trash = "trash/" + name;
  if (::renameat(directory_.get(), name.c_str(), directory_.get(), trash.c_str()) != 0) {
    if (errno == ENOENT) return Status::ok();
    // A full disk can refuse a new name in another folder, but not the removal of this one.
    if (::unlinkat(directory_.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
      return status_from_errno(errno, "remove record " + folder_ + "/" + name);
    }
  }
  if (::fsync(directory_.get()) != 0) return status_from_errno(errno, "sync folder " + folder_);
  return Status::ok();
}

void RecordStore::empty_trash() const {
  UniqueFd trash(::openat(directory_.get(), "trash", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!trash) return;
  Result<std::vector<std::string>> names = list_names(trash.get());
  if (!names) return;
  for (const std::string& name : *names) ::unlinkat(trash.get(), name.c_str(), 0);
}

}  // namespace pintle::cri
