#pragma once

/// Tars and image archives for tests, written by libarchive, which refuses no name however hostile it is.

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "cri/images/digest.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::images {

enum class Compression { none, gzip, zstd };

class Tar {
 public:
  explicit Tar(Compression compression = Compression::none) : archive_(archive_write_new()) {
    archive_write_set_format_pax(archive_);
    if (compression == Compression::gzip) archive_write_add_filter_gzip(archive_);
    if (compression == Compression::zstd) archive_write_add_filter_zstd(archive_);
    archive_write_set_bytes_in_last_block(archive_, 1);
    archive_write_open(archive_, &bytes_, nullptr, write, nullptr);
  }
  ~Tar() {
    if (archive_) archive_write_free(archive_);
  }
  Tar(const Tar&) = delete;
  Tar& operator=(const Tar&) = delete;

  Tar& file(const std::string& path, const std::string& content, mode_t mode = 0644, int uid = 0, int gid = 0) {
    return add(
        path, AE_IFREG, mode,
        [&](archive_entry* e) {
          archive_entry_set_uid(e, uid);
          archive_entry_set_gid(e, gid);
        },
        content);
  }
  Tar& folder(const std::string& path, mode_t mode = 0755) {
    return add(path, AE_IFDIR, mode, [](archive_entry*) {});
  }
  Tar& symlink(const std::string& path, const std::string& target) {
    return add(path, AE_IFLNK, 0777, [&](archive_entry* e) { archive_entry_set_symlink(e, target.c_str()); });
  }
  Tar& hard_link(const std::string& path, const std::string& target) {
    return add(path, AE_IFREG, 0644, [&](archive_entry* e) { archive_entry_set_hardlink(e, target.c_str()); });
  }
  Tar& device(const std::string& path, int major, int minor) {
    return add(path, AE_IFCHR, 0600, [&](archive_entry* e) {
      archive_entry_set_rdevmajor(e, major);
      archive_entry_set_rdevminor(e, minor);
    });
  }
  Tar& file_with_attribute(const std::string& path, const std::string& name, const std::string& value) {
    return add(path, AE_IFREG, 0755,
               [&](archive_entry* e) { archive_entry_xattr_add_entry(e, name.c_str(), value.data(), value.size()); });
  }
  std::string finish() {
    archive_write_close(archive_);
    archive_write_free(archive_);
    archive_ = nullptr;
    return std::move(bytes_);
  }

 private:
  static la_ssize_t write(::archive*, void* context, const void* data, size_t size) {
    static_cast<std::string*>(context)->append(static_cast<const char*>(data), size);
    return static_cast<la_ssize_t>(size);
  }
  template <class Set>
  Tar& add(const std::string& path, unsigned type, mode_t mode, Set set, const std::string& content = {}) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, path.c_str());
    archive_entry_set_filetype(entry, type);
    archive_entry_set_perm(entry, mode);
    archive_entry_set_mtime(entry, 1'700'000'000, 0);
    archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    set(entry);
    EXPECT_GE(archive_write_header(archive_, entry), ARCHIVE_WARN) << archive_error_string(archive_);
    if (!content.empty()) archive_write_data(archive_, content.data(), content.size());
    archive_entry_free(entry);
    return *this;
  }
  ::archive* archive_;
  std::string bytes_;
};

/// A folder of its own under /tmp that goes with the test.
class Scratch {
 public:
  Scratch() {
    char name[] = "/tmp/pintle-images-test-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    path_ = name;
  }
  ~Scratch() {
    auto top = files::open_folder("/tmp");
    EXPECT_TRUE(files::remove_tree(top->get(), path_.substr(5)).is_ok());
  }
  const std::string& path() const { return path_; }
  std::string write(const std::string& name, const std::string& bytes) const {
    const std::string path = path_ + "/" + name;
    EXPECT_TRUE(files::make_folders(path.substr(0, path.rfind('/'))).is_ok());
    files::Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    EXPECT_TRUE(files::write_all(file.get(), bytes).is_ok());
    return path;
  }
  bool exists(const std::string& name) const {
    struct stat about {};
    return lstat((path_ + "/" + name).c_str(), &about) == 0;
  }
  std::string read(const std::string& name) const {
    auto text = files::read_file(path_ + "/" + name, 64u << 20);
    return text ? *text : "error: " + text.status().message();
  }

 private:
  std::string path_;
};

/// The files of an OCI layout with one image of these layers.
struct ImageParts {
  struct Layer {
    std::string stored;
    Digest diff_id;
  };
  std::vector<std::pair<std::string, std::string>> files;
  std::string config;
  Digest id;
  Digest manifest;
};

inline ImageParts make_image(const std::vector<std::pair<std::string, std::string>>& layers_plain_and_stored,
                             const std::string& ref_name, boost::json::object config_values = {},
                             const std::string& architecture = "amd64") {
  namespace json = boost::json;
  ImageParts image;
  json::array diff_ids, layers;
  const auto blob = [&](const std::string& bytes) {
    const Digest digest = digest_of(bytes);
    image.files.emplace_back("blobs/sha256/" + digest.hex(), bytes);
    return digest;
  };
  for (const auto& [plain, stored] : layers_plain_and_stored) {
    diff_ids.push_back(json::string(digest_of(plain).to_string()));
    layers.push_back(json::object{{"mediaType", "application/vnd.oci.image.layer.v1.tar"},
                                  {"digest", blob(stored).to_string()},
                                  {"size", stored.size()}});
  }
  image.config = json::serialize(json::object{{"architecture", architecture},
                                              {"os", "linux"},
                                              {"created", "2024-01-02T03:04:05Z"},
                                              {"config", std::move(config_values)},
                                              {"rootfs", {{"type", "layers"}, {"diff_ids", std::move(diff_ids)}}}});
  image.id = blob(image.config);
  const std::string manifest = json::serialize(json::object{{"schemaVersion", 2},
                                                            {"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                                                            {"config",
                                                             {{"mediaType", "application/vnd.oci.image.config.v1+json"},
                                                              {"digest", image.id.to_string()},
                                                              {"size", image.config.size()}}},
                                                            {"layers", std::move(layers)}});
  image.manifest = blob(manifest);
  json::object entry{{"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                     {"digest", image.manifest.to_string()},
                     {"size", manifest.size()}};
  if (!ref_name.empty()) entry["annotations"] = json::object{{"org.opencontainers.image.ref.name", ref_name}};
  image.files.emplace_back("index.json",
                           json::serialize(json::object{{"schemaVersion", 2}, {"manifests", json::array{entry}}}));
  image.files.emplace_back("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
  return image;
}

inline std::string to_tar(const ImageParts& image, Compression compression = Compression::none) {
  Tar tar(compression);
  for (const auto& [name, bytes] : image.files) tar.file(name, bytes);
  return tar.finish();
}

}  // namespace pintle::images
