#include "cri/images/source.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <vector>

#include "cri/images/manifest.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::images {
namespace {

/// Writes what `produce` gives into a new file of the ingest folder. `produce` returns the bytes given, 0 at the end.
Result<Staged> stage_bytes(int ingest, const std::function<Result<std::string_view>()>& produce) {
  Staged staged;
  staged.file = "file-" + files::random_hex(16);
  auto file = files::open_at(ingest, staged.file, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (!file) return file.status();
  Hasher hasher;
  for (;;) {
    auto piece = produce();
    if (!piece) return piece.status();
    if (piece->empty()) break;
    hasher.update(*piece);
    staged.size += piece->size();
    if (Status status = files::write_all(file->get(), *piece); !status)
      return status.with_context("store an image file");
  }
  staged.digest = hasher.finish();
  return staged;
}

Result<Staged> stage_descriptor(int ingest, int from) {
  std::vector<char> buffer(256 * 1024);
  return stage_bytes(ingest, [&]() -> Result<std::string_view> {
    for (;;) {
      const ssize_t count = read(from, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return status_from_errno(errno, "read the image");
      return std::string_view(buffer.data(), static_cast<size_t>(count));
    }
  });
}

/// "./a//b" -> "a/b"; empty for names that lead out.
std::string tidy(std::string_view path, std::string base = {}) {
  std::vector<std::string> parts;
  const auto add = [&](std::string_view text) {
    while (!text.empty()) {
      const size_t end = text.find('/');
      const std::string_view part = text.substr(0, end);
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
      if (part.empty() || part == ".") continue;
      if (part == "..") {
        if (parts.empty()) return false;
        parts.pop_back();
      } else {
        parts.emplace_back(part);
      }
    }
    return true;
  };
  if (!add(base) || !add(path)) return {};
  std::string whole;
  for (const std::string& part : parts) whole += (whole.empty() ? "" : "/") + part;
  return whole;
}

class LayoutSource : public Source {
 public:
  LayoutSource(int folder, int ingest) : Source(ingest), folder_(folder) {}
  bool has(const std::string& name) const override { return open(name).is_ok(); }
  Result<Staged> stage(const std::string& name) override {
    auto file = open(name);
    if (!file && file.status().code() == Code::not_found) {
      return invalid_argument("it has no " + name + "; the image is incomplete, save it again");
    }
    if (!file) return file.status();
    return stage_descriptor(ingest_, file->get());
  }

 private:
  Result<files::Descriptor> open(const std::string& name) const {
    // Not blocking, because a layout may hold a FIFO instead of a file.
    auto file = files::open_resolved(folder_, name, O_RDONLY | O_NONBLOCK, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
    if (!file) return file;
    struct stat about {};
    if (fstat(file->get(), &about) != 0 || !S_ISREG(about.st_mode))
      return not_found(name + " of the layout is no file");
    return file;
  }
  int folder_;
};

class ArchiveSource : public Source {
 public:
  explicit ArchiveSource(int ingest) : Source(ingest) {}

  Status take(int archive, const SourceLimits& limits) {
    auto stream = PlainStream::open(archive, limits.expansion);
    if (!stream) return stream.status();
    TarReader reader(**stream);
    uint64_t entries = 0;
    for (;;) {
      auto more = reader.next();
      if (!more) return more.status();
      if (!*more) break;
      if (++entries > limits.entries)
        return resource_exhausted("it has more than " + std::to_string(limits.entries) + " entries");
      const char* path = archive_entry_pathname(reader.entry());
      const std::string name = path ? tidy(path) : "";
      if (name.empty()) continue;
      const char* hard_link = archive_entry_hardlink(reader.entry());
      const char* symlink = archive_entry_symlink(reader.entry());
      if (hard_link) {
        aliases_[name] = tidy(hard_link);
      } else if (symlink) {
        // Old `docker save` writes a layer that came before as "../ID/layer.tar".
        aliases_[name] = tidy(symlink, name.find('/') == std::string::npos ? "" : name.substr(0, name.rfind('/')));
      } else if (archive_entry_filetype(reader.entry()) == AE_IFREG) {
        auto staged = stage_bytes(ingest_, [&]() -> Result<std::string_view> {
          const void* data = nullptr;
          size_t size = 0;
          int64_t offset = 0;
          do {
            auto piece = reader.next_data(&data, &size, &offset);
            if (!piece) return piece.status();
            if (!*piece) return std::string_view();
          } while (size == 0);
          return std::string_view(static_cast<const char*>(data), size);
        });
        if (!staged) return staged.status();
        files_[name] = std::move(*staged);
      }
    }
    if (entries == 0) return invalid_argument("it is an empty archive");
    return {};
  }

  bool has(const std::string& name) const override { return find(name) != nullptr; }
  Result<Staged> stage(const std::string& name) override {
    const Staged* staged = find(name);
    if (!staged) return invalid_argument("it has no " + name + "; the image is incomplete, save it again");
    return *staged;
  }

 private:
  const Staged* find(std::string name) const {
    for (int hops = 0; hops < 8; ++hops) {
      if (const auto file = files_.find(name); file != files_.end()) return &file->second;
      const auto alias = aliases_.find(name);
      if (alias == aliases_.end()) return nullptr;
      name = alias->second;
    }
    return nullptr;
  }
  std::map<std::string, Staged> files_;
  std::map<std::string, std::string> aliases_;
};

}  // namespace

Result<std::string> Source::read(const std::string& name) {
  auto staged = stage(name);
  if (!staged) return staged.status();
  return files::read_file(ingest_, staged->file, kMaximalDocument);
}

std::unique_ptr<Source> open_layout(int folder, int ingest) { return std::make_unique<LayoutSource>(folder, ingest); }

Result<std::unique_ptr<Source>> open_archive(int archive, int ingest, const SourceLimits& limits) {
  auto source = std::make_unique<ArchiveSource>(ingest);
  files::Descriptor copy;
  if (lseek(archive, 0, SEEK_CUR) < 0) {
    auto staged = stage_descriptor(ingest, archive);
    if (!staged) return staged.status();
    auto opened = files::open_at(ingest, staged->file, O_RDONLY);
    if (!opened) return opened.status();
    copy = std::move(*opened);
    archive = copy.get();
  }
  if (Status status = source->take(archive, limits); !status) return status;
  return std::unique_ptr<Source>(std::move(source));
}

}  // namespace pintle::images
