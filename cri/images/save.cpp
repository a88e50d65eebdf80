#include "cri/images/save.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <memory>
#include <new>
#include <vector>

#include "cri/images/reference.hpp"

namespace pintle::images {
namespace {

namespace json = boost::json;

constexpr size_t kPiece = 128 * 1024;

class Writer {
 public:
  explicit Writer(int file) : archive_(archive_write_new()) {
    if (!archive_) throw std::bad_alloc();
    archive_write_set_format_pax_restricted(archive_);
    archive_write_set_bytes_in_last_block(archive_, 1);
    archive_write_open_fd(archive_, file);
  }
  ~Writer() { archive_write_free(archive_); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  Status folder(const std::string& name) { return begin(name, AE_IFDIR, 0755, 0); }
  Status document(const std::string& name, std::string_view content) {
    Status status = begin(name, AE_IFREG, 0644, content.size());
    return status ? data(content) : status;
  }
  Status file(const std::string& name, int from, uint64_t size) {
    if (Status status = begin(name, AE_IFREG, 0644, size); !status) return status;
    std::vector<char> buffer(kPiece);
    for (uint64_t done = 0; done < size;) {
      const ssize_t count = pread(from, buffer.data(), buffer.size(), static_cast<off_t>(done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return status_from_errno(count < 0 ? errno : EIO, "read " + name);
      if (Status status = data({buffer.data(), static_cast<size_t>(count)}); !status) return status;
      done += static_cast<uint64_t>(count);
    }
    return {};
  }
  Result<uint64_t> close() {
    if (archive_write_close(archive_) != ARCHIVE_OK) return failure();
    return static_cast<uint64_t>(archive_filter_bytes(archive_, -1));
  }

 private:
  Status failure() const {
    const int number = archive_errno(archive_);
    return number > 0 ? status_from_errno(number, "write the archive")
                      : internal_error("the archive cannot be written");
  }
  Status begin(const std::string& name, unsigned type, mode_t mode, uint64_t size) {
    const std::unique_ptr<::archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                                archive_entry_free);
    if (!entry) throw std::bad_alloc();
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_filetype(entry.get(), type);
    archive_entry_set_perm(entry.get(), mode);
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(size));
    archive_entry_set_mtime(entry.get(), 0, 0);
    return archive_write_header(archive_, entry.get()) == ARCHIVE_OK ? Status::ok() : failure();
  }
  Status data(std::string_view piece) {
    while (!piece.empty()) {
      const la_ssize_t count = archive_write_data(archive_, piece.data(), piece.size());
      if (count <= 0) return failure();
      piece.remove_prefix(static_cast<size_t>(count));
    }
    return {};
  }
  ::archive* archive_;
};

}  // namespace

Result<uint64_t> save(Store& store, std::string_view name, int file) {
  auto image = store.find(name);
  if (!image) return image.status();
  if (!*image) return not_found("image '" + std::string(name) + "' is not in the store");
  const Image& one = **image;

  std::vector<Digest> digests = {one.manifest, one.id};
  for (const Digest& layer : one.layers) {
    if (std::find(digests.begin(), digests.end(), layer) == digests.end()) digests.push_back(layer);
  }
  // All are open before the first byte is written: what is removed from here on is still whole.
  std::vector<files::Descriptor> blobs;
  std::vector<uint64_t> sizes;
  for (const Digest& digest : digests) {
    auto blob = store.open_blob(digest);
    struct stat about {};
    if (!blob || fstat(blob->get(), &about) != 0) {
      return failed_precondition("image '" + std::string(name) + "' cannot be saved, the store has lost its blob " +
                                 digest.to_string() + "; pull or load it again");
    }
    blobs.push_back(std::move(*blob));
    sizes.push_back(static_cast<uint64_t>(about.st_size));
  }
  auto manifest_text = files::read_all(blobs[0].get(), kMaximalDocument);
  if (!manifest_text) return manifest_text.status();
  json::error_code error;
  const json::value manifest = json::parse(*manifest_text, error);
  const json::value* type = error || !manifest.is_object() ? nullptr : manifest.get_object().if_contains("mediaType");
  const std::string media_type =
      type && type->is_string() ? std::string(type->get_string()) : "application/vnd.oci.image.manifest.v1+json";

  const auto blob_name = [](const Digest& digest) { return "blobs/sha256/" + digest.hex(); };
  json::array entries, layers;
  for (const std::string& reference : one.references) {
    entries.push_back(json::object{
        {"mediaType", media_type},
        {"digest", one.manifest.to_string()},
        {"size", sizes[0]},
        {"annotations", {{"io.containerd.image.name", reference}, {"org.opencontainers.image.ref.name", reference}}}});
  }
  for (const Digest& layer : one.layers) layers.push_back(json::value(blob_name(layer)));
  const std::string index = json::serialize(json::object{{"schemaVersion", 2},
                                                         {"mediaType", "application/vnd.oci.image.index.v1+json"},
                                                         {"manifests", std::move(entries)}});
  const std::string saved = json::serialize(json::array{json::object{
      {"Config", blob_name(one.id)}, {"RepoTags", json::value_from(one.tags())}, {"Layers", std::move(layers)}}});

  Writer writer(file);
  if (Status status = writer.document("oci-layout", R"({"imageLayoutVersion":"1.0.0"})"); !status) return status;
  for (const char* folder : {"blobs", "blobs/sha256"}) {
    if (Status status = writer.folder(folder); !status) return status;
  }
  for (size_t i = 0; i < digests.size(); ++i) {
    if (Status status = writer.file(blob_name(digests[i]), blobs[i].get(), sizes[i]); !status) return status;
  }
  if (Status status = writer.document("index.json", index); !status) return status;
  if (Status status = writer.document("manifest.json", saved); !status) return status;
  return writer.close();
}

}  // namespace pintle::images
