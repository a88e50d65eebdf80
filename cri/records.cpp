#include "cri/records.hpp"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/crc.hpp>
#include <cerrno>
#include <cstring>
#include <stdexcept>

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

RecordStore::RecordStore(std::string folder, files::Descriptor directory)
    : folder_(std::move(folder)), directory_(std::move(directory)) {}

Result<RecordStore> RecordStore::open(std::string folder) {
  for (const char* part : {"", "/trash", "/damaged"}) {
    if (Status made = files::make_folders(folder + part); !made) return made;
  }
  Result<files::Descriptor> directory = files::open_folder(folder);
  if (!directory) return directory.status();
  Result<std::vector<std::string>> names = files::list_folder(directory->get());
  if (!names) return names.status().with_context(folder);
  for (const std::string& name : *names) {
    if (name.starts_with(".")) ::unlinkat(directory->get(), name.c_str(), 0);
  }
  RecordStore store(std::move(folder), std::move(*directory));
  store.empty_trash();
  return store;
}

Result<RecordStore::Contents> RecordStore::load() const {
  Result<std::vector<std::string>> names = files::list_folder(directory_.get());
  if (!names) return names.status().with_context(folder_);
  Contents contents;
  for (const std::string& name : *names) {
    if (!is_id(name)) continue;
    const Result<std::string> file = files::read_file(directory_.get(), name, kMaxRecord);
    Result<std::string> payload = file ? unframe_record(*file) : Result<std::string>(file.status());
    if (payload) {
      contents.records.push_back({name, std::move(*payload)});
      continue;
    }
    const std::string aside = "damaged/" + name;
    ::renameat(directory_.get(), name.c_str(), directory_.get(), aside.c_str());
    contents.damaged.push_back({name, payload.status().message()});
  }
  return contents;
}

Status RecordStore::write(std::string_view id, std::string_view payload, Durability durability) const {
  return files::write_file(directory_.get(), std::string(id), frame_record(payload), durability)
      .with_context("record in " + folder_);
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
  const Result<files::Descriptor> trash = files::open_at(directory_.get(), "trash", O_RDONLY | O_DIRECTORY);
  if (!trash) return;
  const Result<std::vector<std::string>> names = files::list_folder(trash->get());
  if (!names) return;
  for (const std::string& name : *names) ::unlinkat(trash->get(), name.c_str(), 0);
}

}  // namespace pintle::cri
