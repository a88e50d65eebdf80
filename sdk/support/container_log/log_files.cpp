#include "sdk/support/container_log/log_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace pintle::container_log {

namespace {

constexpr std::string_view kCompressed = ".gz";
constexpr int kTries = 20;          // a rotation in between is rare, two are the exception
constexpr size_t kHeadBytes = 512;  // more than a time, which no two files begin with

/// "20261120-143000", "20261120-143000-042".
bool is_stamp(std::string_view text) {
  const size_t third = 15;
  if (text.size() < third) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_dash = i == 8 || i == third;
    if (is_dash ? text[i] != '-' : (text[i] < '0' || text[i] > '9')) return false;
  }
  return true;
}

std::shared_ptr<void> open_gzip(int descriptor) {
  const int own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return nullptr;
  lseek(own, 0, SEEK_SET);
  const gzFile stream = gzdopen(own, "rb");
  if (!stream) {
    close(own);
    return nullptr;
  }
  return {stream, [](void* of) { gzclose_r(static_cast<gzFile>(of)); }};
}

}  // namespace

/// A name of the log.
struct LogFiles::Kept {
  std::string name;
  std::string stamp;  ///< empty: the current one
  std::string after;  ///< the stamp of the one before
  bool compressed = false;

  bool operator==(const Kept&) const = default;
};

/// From the oldest to the current one. Of a file that is there both ways the one that is not compressed counts: it is complete.
Result<std::vector<LogFiles::Kept>> LogFiles::list() const {
  const size_t slash = path_.rfind('/');
  const std::string name = path_.substr(slash + 1);
  Result<files::Descriptor> folder = files::open_folder(slash == std::string::npos ? "." : path_.substr(0, slash + 1));
  if (!folder) return folder.status();
  Result<std::vector<std::string>> names = files::list_folder(folder->get());
  if (!names) return names.status();
  std::vector<Kept> kept;
  bool has_current = false;
  for (const std::string& other : *names) {
    if (other == name) has_current = true;
    if (other.size() <= name.size() + 1 || !other.starts_with(name) || other[name.size()] != '.') continue;
    std::string stamp = other.substr(name.size() + 1);
    const bool compressed = stamp.ends_with(kCompressed);
    if (compressed) stamp.resize(stamp.size() - kCompressed.size());
    if (is_stamp(stamp)) kept.push_back({other, std::move(stamp), "", compressed});
  }
  std::sort(kept.begin(), kept.end(), [](const Kept& a, const Kept& b) {
    return a.stamp != b.stamp ? a.stamp < b.stamp : a.compressed < b.compressed;
  });
  const auto same = [](const Kept& a, const Kept& b) { return a.stamp == b.stamp; };
  kept.erase(std::unique(kept.begin(), kept.end(), same), kept.end());
  if (has_current) kept.push_back({name, "", "", false});
  for (size_t i = 1; i < kept.size(); ++i) kept[i].after = kept[i - 1].stamp;
  return kept;
}

Result<LogFiles::Source> LogFiles::open_file(const Kept& kept) const {
  const size_t slash = path_.rfind('/');
  const std::string path = (slash == std::string::npos ? "" : path_.substr(0, slash + 1)) + kept.name;
  Result<files::Descriptor> file = files::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
  if (!file) return file.status();
  struct stat info {};
  if (fstat(file->get(), &info) != 0) return status_from_errno(errno, "stat " + path);
  Source source{std::move(*file), kept.compressed, info.st_dev, info.st_ino, "", kept.after, nullptr, 0};
  learn_head(source);
  return source;
}

void LogFiles::learn_head(Source& source) {
  std::array<char, kHeadBytes> head;
  ssize_t got = 0;
  if (source.compressed) {
    const std::shared_ptr<void> gzip = open_gzip(source.file.get());
    got = gzip ? gzread(static_cast<gzFile>(gzip.get()), head.data(), head.size()) : 0;
    lseek(source.file.get(), 0, SEEK_SET);
  } else {
    got = pread(source.file.get(), head.data(), head.size(), 0);
  }
  source.head.assign(head.data(), static_cast<size_t>(std::max<ssize_t>(got, 0)));
}

Result<size_t> LogFiles::read_block(Source& source, char* block, size_t size) {
  if (source.compressed) {
    if (!source.gzip) source.gzip = open_gzip(source.file.get());
    const int got =
        source.gzip ? gzread(static_cast<gzFile>(source.gzip.get()), block, static_cast<unsigned>(size)) : 0;
    return static_cast<size_t>(std::max(got, 0));
  }
  for (;;) {
    const ssize_t got = ::read(source.file.get(), block, size);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) return status_from_errno(errno, "read a log");
  }
}

/// Leaves the source at its beginning.
uint64_t LogFiles::count_lines(Source& source) {
  std::array<char, 65536> block;
  uint64_t lines = 0;
  bool ends_open = false;
  lseek(source.file.get(), 0, SEEK_SET);
  for (;;) {
    const Result<size_t> got = read_block(source, block.data(), block.size());
    if (!got || *got == 0) break;
    lines += static_cast<uint64_t>(std::count(block.data(), block.data() + *got, '\n'));
    ends_open = block[*got - 1] != '\n';
  }
  source.gzip.reset();
  lseek(source.file.get(), 0, SEEK_SET);
  return lines + (ends_open ? 1 : 0);
}

/// All before this file is older than its first record.
bool LogFiles::begins_too_old(const Source& source, const From& from) {
  LogRecord record;
  return from.is_too_old && parse_log_line(std::string_view(source.head).substr(0, source.head.find('\n')), record) &&
         from.is_too_old(record.time);
}

/// ABORTED: files were renamed meanwhile.
Result<std::deque<LogFiles::Source>> LogFiles::open_all(const From& from) const {
  const Status moved(Code::aborted, "the log " + path_ + " is being rotated");
  const Result<std::vector<Kept>> kept = list();
  if (!kept) return kept.status();
  if (kept->empty()) return not_found(path_ + ": there is no such log");
  std::deque<Source> sources;
  std::optional<uint64_t> lines = from.tail_lines;
  for (auto one = kept->rbegin(); one != kept->rend(); ++one) {
    Result<Source> opened = open_file(*one);
    if (!opened) return opened.status().code() == Code::not_found ? moved : opened.status();
    Source& source = sources.emplace_front(std::move(*opened));
    if (lines) {
      const int64_t offset = source.compressed ? 0 : tail_offset(source.file.get(), *lines);
      const uint64_t held = offset > 0 ? *lines : count_lines(source);
      if (source.compressed && held > *lines) source.skip_lines = held - *lines;
      lseek(source.file.get(), offset, SEEK_SET);
      *lines -= std::min(held, *lines);
      if (*lines == 0) break;
    }
    if (begins_too_old(source, from)) break;
  }
  // What was renamed in between would be read twice, or not at all.
  const Result<std::vector<Kept>> after = list();
  if (!after) return after.status();
  if (*after != *kept || (kept->back().stamp.empty() && !is_current(sources.back()))) return moved;
  return sources;
}

Status LogFiles::open(const From& from) {
  Status status;
  for (int i = 0; i < kTries; ++i) {
    Result<std::deque<Source>> opened = open_all(from);
    if (opened) {
      sources_ = std::move(*opened);
      return Status::ok();
    }
    status = opened.status();
    if (status.code() != Code::aborted) break;
  }
  return status;
}

bool LogFiles::is_current(const Source& source) const {
  struct stat named {};
  return stat(path_.c_str(), &named) == 0 && named.st_ino == source.inode && named.st_dev == source.device;
}

/// Opens what has come after the last file. True: there is something.
Result<bool> LogFiles::find_successors() {
  const Source& last = sources_.back();
  if (is_current(last)) return false;
  for (int i = 1; i <= kTries; ++i) {
    const Result<std::vector<Kept>> kept = list();
    if (!kept && kept.status().code() == Code::not_found) return false;  // it went with its folder
    if (!kept) return kept.status();
    struct stat info {};
    const bool has_name = fstat(last.file.get(), &info) == 0 && info.st_nlink > 0;
    // From the newest back to the last one that was read. If that is gone, what is left came after it.
    std::deque<Source> found;
    bool met = false;
    Status opening;
    for (auto one = kept->rbegin(); one != kept->rend() && !met; ++one) {
      if (!one->stamp.empty() && one->stamp <= last.after) break;
      Result<Source> opened = open_file(*one);
      if (!opened) {
        opening = opened.status();
        break;
      }
      met = (opened->inode == last.inode && opened->device == last.device) ||
            (!has_name && opened->compressed && !last.head.empty() && opened->head.starts_with(last.head));
      if (!met) found.push_front(std::move(*opened));
    }
    if (!opening && opening.code() != Code::not_found) return opening;
    const Result<std::vector<Kept>> after = list();
    if (!after) continue;
    const bool stood_still =
        opening && *after == *kept && (found.empty() || !kept->back().stamp.empty() || is_current(found.back()));
    // Renamed to what is no name of a log: then what came after is known by its stamp alone.
    if (!stood_still || (has_name && !met && i < kTries)) continue;
    for (Source& source : found) sources_.push_back(std::move(source));
    return !found.empty();
  }
  return false;  // asked again with the next reading
}

Result<bool> LogFiles::read(const std::function<void(std::string_view)>& line) {
  std::array<char, 65536> block;
  while (!sources_.empty()) {
    Source& source = sources_.front();
    const Result<size_t> got = read_block(source, block.data(), block.size());
    if (!got) return got.status();
    if (*got > 0) {
      std::string_view piece(block.data(), *got);
      for (; source.skip_lines > 0 && !piece.empty(); --source.skip_lines) {
        const size_t end = piece.find('\n');
        if (end == std::string_view::npos) {
          piece = {};
          break;
        }
        piece.remove_prefix(end + 1);
      }
      if (source.head.size() < kHeadBytes && !source.compressed) learn_head(source);
      cutter_.add(piece, line);
      return true;
    }
    if (sources_.size() == 1) {
      const Result<bool> more = find_successors();
      if (!more) return more.status();
      if (!*more) return false;
      continue;  // once more to its end: it is complete now
    }
    sources_.pop_front();
    // A line that was cut off is not the beginning of the next file's first.
    if (const std::string rest = cutter_.finish(); !rest.empty()) line(rest);
  }
  return false;
}

}  // namespace pintle::container_log
