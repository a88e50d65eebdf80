#include "cri/images/stream.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <unistd.h>

#include <new>

namespace pintle::images {
namespace {

constexpr size_t kBlock = 128 * 1024;

std::string text_of(::archive* archive) {
  const char* text = archive_error_string(archive);
  return text ? text : "unknown damage";
}

la_ssize_t give_plain(::archive* archive, void* context, const void** data) {
  auto* stream = static_cast<PlainStream*>(context);
  const int64_t count = stream->next(data);
  if (count < 0) archive_set_error(archive, -1, "%s", stream->status().message().c_str());
  return count < 0 ? ARCHIVE_FATAL : static_cast<la_ssize_t>(count);
}

}  // namespace

Result<std::unique_ptr<PlainStream>> PlainStream::open(int fd, const ExpansionLimits& limits) {
  std::unique_ptr<PlainStream> stream(new PlainStream);
  struct stat about {};
  if (fstat(fd, &about) != 0 || lseek(fd, 0, SEEK_SET) != 0) return status_from_errno(errno, "read a layer");
  stream->fd_ = fd;
  stream->stored_ = static_cast<uint64_t>(about.st_size);
  stream->limits_ = limits;
  stream->empty_ = about.st_size == 0;
  if (stream->empty_) return stream;
  stream->archive_ = archive_read_new();
  if (!stream->archive_) throw std::bad_alloc();
  ::archive* archive = stream->archive_;
  archive_read_support_filter_gzip(archive);
  archive_read_support_filter_zstd(archive);
  archive_read_support_format_raw(archive);
  ::archive_entry* entry = nullptr;
  if (archive_read_open_fd(archive, fd, kBlock) != ARCHIVE_OK ||
      archive_read_next_header(archive, &entry) != ARCHIVE_OK) {
    return invalid_argument("damaged compression: " + text_of(archive));
  }
  return stream;
}

PlainStream::~PlainStream() {
  if (archive_) archive_read_free(archive_);
}

int64_t PlainStream::next(const void** data) {
  if (!status_) return -1;
  if (empty_) return 0;
  size_t size = 0;
  la_int64_t offset = 0;
  const int code = archive_read_data_block(archive_, data, &size, &offset);
  if (code == ARCHIVE_EOF) return 0;
  if (code != ARCHIVE_OK) {
    status_ = invalid_argument("damaged compression: " + text_of(archive_));
    return -1;
  }
  count_ += size;
  if (count_ > limits_.bytes) {
    status_ = resource_exhausted("it unpacks to more than " + std::to_string(limits_.bytes) + " bytes");
    return -1;
  }
  if (count_ > limits_.free_of_ratio && count_ / limits_.ratio > stored_) {
    status_ = resource_exhausted("it unpacks to more than " + std::to_string(limits_.ratio) + " times its size");
    return -1;
  }
  hasher_.update(*data, size);
  return static_cast<int64_t>(size);
}

Status PlainStream::drain() {
  const void* data = nullptr;
  while (next(&data) > 0) {
  }
  return status_;
}

TarReader::TarReader(PlainStream& stream) : stream_(stream), archive_(archive_read_new()) {
  if (!archive_) throw std::bad_alloc();
  archive_read_support_format_tar(archive_);
  // A tar of no blocks at all is what some tools write for an empty layer.
  archive_read_support_format_empty(archive_);
  archive_read_open(archive_, &stream_, nullptr, give_plain, nullptr);
}

TarReader::~TarReader() { archive_read_free(archive_); }

Status TarReader::failure() const {
  if (!stream_.status()) return stream_.status();
  return invalid_argument("damaged tar archive: " + text_of(archive_));
}

Result<bool> TarReader::next() {
  const int code = archive_read_next_header(archive_, &entry_);
  if (code == ARCHIVE_EOF) return false;
  // A warning is about a name that is not of this process's character set; the bytes are there all the same.
  if (code != ARCHIVE_OK && code != ARCHIVE_WARN) return failure();
  return true;
}

Result<bool> TarReader::next_data(const void** data, size_t* size, int64_t* offset) {
  la_int64_t position = 0;
  const int code = archive_read_data_block(archive_, data, size, &position);
  if (code == ARCHIVE_EOF) return false;
  if (code != ARCHIVE_OK && code != ARCHIVE_WARN) return failure();
  *offset = position;
  return true;
}

}  // namespace pintle::images
