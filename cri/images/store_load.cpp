// Loading: from what a layout or an archive tells to images of the store.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "cri/images/reference.hpp"
#include "cri/images/store.hpp"

namespace pintle::images {
namespace {

using files::Durability;
using files::Lock;

constexpr char kLayoutIndex[] = "index.json";
constexpr char kSavedIndex[] = "manifest.json";
constexpr int kMaximalNesting = 4;

std::string blob_name(const Digest& digest) { return "blobs/sha256/" + digest.hex(); }

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

/// The names that an entry of index.json brings. A bare tag ("latest", as umoci writes it) is no name of an image.
std::vector<std::string> names_of(const Descriptor& descriptor) {
  for (const char* key : {"io.containerd.image.name", "org.opencontainers.image.ref.name"}) {
    const auto found = descriptor.annotations.find(key);
    if (found != descriptor.annotations.end() && found->second.find_first_of("/:") != std::string::npos)
      return {found->second};
  }
  return {};
}

/// Blobs that were verified while they came and lie under their digests.
class PulledSource : public Source {
 public:
  PulledSource(int partial, const Manifest& manifest) : Source(partial) {
    sizes_[blob_name(manifest.config.digest)] = &manifest.config;
    for (const Descriptor& layer : manifest.layers) sizes_[blob_name(layer.digest)] = &layer;
  }
  bool has(const std::string& name) const override { return sizes_.count(name) != 0; }
  Result<Staged> stage(const std::string& name) override {
    const auto found = sizes_.find(name);
    if (found == sizes_.end()) return invalid_argument("it has no " + name);
    const Descriptor& descriptor = *found->second;
    struct stat about {};
    if (fstatat(ingest_, descriptor.digest.hex().c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0 ||
        static_cast<uint64_t>(about.st_size) != descriptor.size) {
      return Status(Code::aborted, "blob " + descriptor.digest.to_string() + " was removed meanwhile");
    }
    return Staged{descriptor.digest.hex(), descriptor.digest, descriptor.size};
  }

 private:
  std::map<std::string, const Descriptor*> sizes_;
};

}  // namespace

/// An image that the source offers.
struct Store::Candidate {
  std::string manifest_text;
  Digest manifest_digest;
  Manifest manifest;
  std::string config_name;               ///< in the source
  std::vector<std::string> layer_names;  ///< in the source
  std::vector<std::string> references;   ///< whole ones
  std::string pulled;                    ///< as of Pulled
  bool pinned = true;
};

Result<std::vector<std::shared_ptr<const Image>>> Store::load(const std::string& path, const std::string& reference) {
  const std::string where = "load image from " + path;
  if (!path.starts_with('/')) return invalid_argument(where + ": the path has to be absolute");
  auto file = files::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
  if (!file) return file.status().with_context(where);
  struct stat about {};
  if (fstat(file->get(), &about) != 0) return status_from_errno(errno, where);
  if (S_ISREG(about.st_mode)) {
    auto images = load(file->get(), reference);
    return images ? std::move(images) : images.status().with_context(where);
  }
  if (!S_ISDIR(about.st_mode)) return invalid_argument(where + ": it is neither a file nor a folder");
  const std::string name = files::random_hex(16);
  auto ingest = files::make_folder_at(ingest_.get(), name);
  if (!ingest) return ingest.status().with_context(where);
  auto lock = Lock::acquire(ingest_.get(), name, Lock::Kind::exclusive);
  auto source = open_layout(file->get(), ingest->get());
  auto images = lock ? load_from(*source, ingest->get(), reference)
                     : Result<std::vector<std::shared_ptr<const Image>>>(lock.status());
  (void)files::remove_tree(ingest_.get(), name);
  return images ? std::move(images) : images.status().with_context(where);
}

Result<std::vector<std::shared_ptr<const Image>>> Store::load(int archive, const std::string& reference) {
  using Images = Result<std::vector<std::shared_ptr<const Image>>>;
  const std::string name = files::random_hex(16);
  auto ingest = files::make_folder_at(ingest_.get(), name);
  if (!ingest) return ingest.status();
  auto lock = Lock::acquire(ingest_.get(), name, Lock::Kind::exclusive);
  Images images = lock.status().is_ok() ? Images(std::vector<std::shared_ptr<const Image>>()) : Images(lock.status());
  if (images) {
    auto source = open_archive(archive, ingest->get(), options_.source);
    images =
        source ? load_from(**source, ingest->get(), reference) : Images(source.status().with_context("image archive"));
  }
  (void)files::remove_tree(ingest_.get(), name);
  return images;
}

Result<std::vector<std::shared_ptr<const Image>>> Store::load_from(Source& source, int ingest,
                                                                   const std::string& reference) {
  auto candidates = candidates_of(source, ingest, reference);
  if (!candidates) return candidates.status();
  return commit_all(source, ingest, *candidates);
}

Result<std::vector<std::shared_ptr<const Image>>> Store::commit_all(Source& source, int ingest,
                                                                    std::vector<Candidate>& candidates) {
  auto lock = Lock::acquire(root_.get(), "store.lock", Lock::Kind::exclusive);
  if (!lock) return lock.status();
  auto records = read_records();
  if (!records) return records.status();
  const Records before = *records;
  std::vector<std::shared_ptr<const Image>> images;
  Status status;
  for (Candidate& candidate : candidates) {
    auto image = commit(source, ingest, candidate, *records);
    status = image.status();
    if (!status) break;
    images.push_back(std::move(*image));
  }
  if (status && syncfs(root_.get()) != 0) status = status_from_errno(errno, "sync the image store");
  if (status) status = write_records(*records);
  if (!status) {
    if (Status swept = sweep(before); !swept)
      return Status(status.code(), status.message() + " (and then: " + swept.message() + ")");
    return status;
  }
  return images;
}

Result<std::shared_ptr<const Image>> Store::add(const Pulled& pulled) {
  PulledSource source(partial_.get(), pulled.manifest);
  std::vector<Candidate> candidates(1);
  Candidate& candidate = candidates.front();
  candidate.manifest_text = pulled.manifest_text;
  candidate.manifest_digest = pulled.manifest_digest;
  candidate.manifest = pulled.manifest;
  candidate.config_name = blob_name(pulled.manifest.config.digest);
  for (const Descriptor& layer : pulled.manifest.layers) candidate.layer_names.push_back(blob_name(layer.digest));
  candidate.references = {pulled.reference};
  candidate.pulled = pulled.pulled;
  candidate.pinned = false;
  auto images = commit_all(source, partial_.get(), candidates);
  if (!images) return images.status();
  return std::move(images->front());
}

bool Store::is_whole(const Digest& id) {
  auto records = read_records();
  if (!records) return false;
  const auto found = records->find(id);
  return found != records->end() && is_whole(found->second);
}

Result<std::vector<Store::Candidate>> Store::candidates_of(Source& source, int ingest, const std::string& reference) {
  std::string given;
  if (!reference.empty()) {
    auto parsed = Reference::parse(reference);
    if (!parsed) return parsed.status();
    given = parsed->to_string();
  }
  auto candidates = source.has(kLayoutIndex) ? layout_candidates(source)
                    : source.has(kSavedIndex)
                        ? saved_candidates(source, ingest)
                        : Result<std::vector<Candidate>>(invalid_argument(
                              "it holds no image: neither index.json (OCI layout) nor manifest.json (docker save)"));
  if (!candidates) return candidates;
  if (candidates->empty()) return invalid_argument("it holds no image for linux/" + options_.architecture);
  if (!given.empty()) {
    std::vector<Candidate*> nameless;
    for (Candidate& candidate : *candidates) {
      if (candidate.references.empty()) nameless.push_back(&candidate);
    }
    if (nameless.empty() && candidates->size() == 1) nameless.push_back(&candidates->front());
    if (nameless.size() != 1) {
      return invalid_argument("it holds " + std::to_string(candidates->size()) + " images, so that '" + reference +
                              "' cannot name one of them");
    }
    if (std::find(nameless[0]->references.begin(), nameless[0]->references.end(), given) ==
        nameless[0]->references.end()) {
      nameless[0]->references.push_back(given);
    }
  }
  for (const Candidate& candidate : *candidates) {
    if (candidate.references.empty()) {
      return invalid_argument("image " + candidate.manifest.config.digest.to_string() +
                              " has no name in it; give one, such as pintle.local/web:1");
    }
  }
  return candidates;
}

Result<std::vector<Store::Candidate>> Store::layout_candidates(Source& source) {
  auto text = source.read(kLayoutIndex);
  if (!text) return text.status();
  std::vector<Candidate> candidates;
  if (Status status = add_from_index(source, *text, {}, 0, candidates); !status) return status;
  // One manifest under several names is several entries of the index, but one image.
  std::vector<Candidate> merged;
  for (Candidate& candidate : candidates) {
    const auto same = std::find_if(merged.begin(), merged.end(), [&](const Candidate& other) {
      return other.manifest_digest == candidate.manifest_digest;
    });
    if (same == merged.end()) {
      merged.push_back(std::move(candidate));
    } else {
      same->references.insert(same->references.end(), candidate.references.begin(), candidate.references.end());
    }
  }
  if (!source.has(kSavedIndex)) return merged;
  auto saved_text = source.read(kSavedIndex);
  auto saved = saved_text ? parse_saved_images(*saved_text) : Result<std::vector<SavedImage>>(saved_text.status());
  if (!saved) return merged;  // the layout alone is whole
  for (Candidate& candidate : merged) {
    if (!candidate.references.empty()) continue;
    for (const SavedImage& image : *saved) {
      if (image.config.find(candidate.manifest.config.digest.hex()) == std::string::npos) continue;
      for (const std::string& tag : image.tags) {
        auto reference = Reference::parse(tag);
        if (!reference) return reference.status();
        candidate.references.push_back(reference->to_string());
      }
    }
  }
  return merged;
}

Status Store::add_from_index(Source& source, std::string_view text, std::vector<std::string> names, int depth,
                             std::vector<Candidate>& candidates) {
  if (depth > kMaximalNesting) return invalid_argument("image indexes are nested too deep");
  auto index = Index::parse(text);
  if (!index) return index.status();
  bool found = false;
  std::string offered;
  for (const Descriptor& descriptor : index->manifests) {
    const bool told = !descriptor.architecture.empty() || !descriptor.operating_system.empty();
    if (told) offered += (offered.empty() ? "" : ", ") + descriptor.operating_system + "/" + descriptor.architecture;
    if (told && (descriptor.operating_system != "linux" || descriptor.architecture != options_.architecture)) continue;
    if (!is_index_media_type(descriptor.media_type) && !is_manifest_media_type(descriptor.media_type)) continue;
    if (depth > 0 && found) break;  // an index inside is one image for several platforms: the first that fits
    auto document = source.read(blob_name(descriptor.digest));
    if (!document) return document.status();
    if (digest_of(*document) != descriptor.digest) {
      return invalid_argument("blob " + descriptor.digest.to_string() +
                              " has another content; the image is damaged, save it again");
    }
    std::vector<std::string> own = depth == 0 ? names_of(descriptor) : names;
    found = true;
    if (is_index_media_type(descriptor.media_type)) {
      if (Status status = add_from_index(source, *document, std::move(own), depth + 1, candidates); !status)
        return status;
      continue;
    }
    Candidate candidate;
    auto manifest = Manifest::parse(*document);
    if (!manifest) return manifest.status();
    candidate.manifest = std::move(*manifest);
    candidate.manifest_digest = descriptor.digest;
    candidate.manifest_text = std::move(*document);
    candidate.config_name = blob_name(candidate.manifest.config.digest);
    for (const Descriptor& layer : candidate.manifest.layers) candidate.layer_names.push_back(blob_name(layer.digest));
    for (const std::string& name : own) {
      auto reference = Reference::parse(name);
      if (!reference) return reference.status();
      candidate.references.push_back(reference->to_string());
    }
    candidates.push_back(std::move(candidate));
  }
  if (!found) {
    return invalid_argument("it holds no image for linux/" + options_.architecture +
                            (offered.empty() ? "" : ", only for " + offered));
  }
  return {};
}

Result<std::vector<Store::Candidate>> Store::saved_candidates(Source& source, int ingest) {
  auto text = source.read(kSavedIndex);
  if (!text) return text.status();
  auto saved = parse_saved_images(*text);
  if (!saved) return saved.status();
  std::vector<Candidate> candidates;
  for (const SavedImage& image : *saved) {
    Candidate candidate;
    auto config = source.stage(image.config);
    if (!config) return config.status();
    candidate.config_name = image.config;
    candidate.manifest.config = {"application/vnd.oci.image.config.v1+json", config->digest, config->size, {}, {}, {}};
    for (const std::string& name : image.layers) {
      auto layer = source.stage(name);
      if (!layer) return layer.status();
      unsigned char magic[4] = {};
      auto file = files::open_at(ingest, layer->file, O_RDONLY);
      if (!file) return file.status();
      const ssize_t count = pread(file->get(), magic, sizeof magic, 0);
      std::string type = "application/vnd.oci.image.layer.v1.tar";
      if (count >= 2 && magic[0] == 0x1f && magic[1] == 0x8b) type += "+gzip";
      if (count == 4 && magic[0] == 0x28 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd) type += "+zstd";
      candidate.manifest.layers.push_back({type, layer->digest, layer->size, {}, {}, {}});
      candidate.layer_names.push_back(name);
    }
    candidate.manifest_text = candidate.manifest.to_json();
    candidate.manifest_digest = digest_of(candidate.manifest_text);
    for (const std::string& tag : image.tags) {
      auto reference = Reference::parse(tag);
      if (!reference) return reference.status();
      candidate.references.push_back(reference->to_string());
    }
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

Status Store::check_platform(const Config& config) const {
  if (!config.operating_system.empty() && config.operating_system != "linux") {
    return invalid_argument("the image is for " + config.operating_system + ", but this node is linux");
  }
  if (!config.architecture.empty() && config.architecture != options_.architecture) {
    return invalid_argument("the image is for " + config.architecture + ", but this node is " + options_.architecture);
  }
  return {};
}

bool Store::has_blob(const Digest& digest, uint64_t size) const {
  struct stat about {};
  return fstatat(blobs_.get(), digest.hex().c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(about.st_mode) &&
         static_cast<uint64_t>(about.st_size) == size;
}

Status Store::keep_blob(int ingest, const Staged& staged) {
  if (has_blob(staged.digest, staged.size)) return {};
  // Two layers of one image may be the same file: a link keeps the staged one for the second.
  const std::string aside = "." + staged.digest.hex();
  unlinkat(blobs_.get(), aside.c_str(), 0);
  if (linkat(ingest, staged.file.c_str(), blobs_.get(), aside.c_str(), 0) != 0 ||
      renameat(blobs_.get(), aside.c_str(), blobs_.get(), staged.digest.hex().c_str()) != 0) {
    return status_from_errno(errno, "store the blob " + staged.digest.to_string());
  }
  return {};
}

Result<std::shared_ptr<const Image>> Store::commit(Source& source, int ingest, Candidate& candidate, Records& records) {
  const Manifest& manifest = candidate.manifest;
  const Digest id = manifest.config.digest;
  const auto add_references = [&](Record& record) {
    for (const std::string& reference : candidate.references) {
      for (auto& [other_id, other] : records)
        if (std::erase(other.references, reference) > 0 && other.references.empty() && other_id != id)
          other.pinned = false;  // what nobody can name any more is not kept for ever
      record.references.push_back(reference);
    }
    record.pinned = record.pinned || candidate.pinned;
    std::sort(record.references.begin(), record.references.end());
    const std::string repository = candidate.pulled.substr(0, candidate.pulled.find('@') + 1);
    if (repository.empty()) return;
    std::erase_if(record.pulled, [&](const std::string& other) { return other.starts_with(repository); });
    if (candidate.pulled != repository + record.manifest.to_string()) record.pulled.push_back(candidate.pulled);
  };
  // The same content may come under another manifest (compressed otherwise): the one that is whole stays.
  if (const auto known = records.find(id); known != records.end()) {
    if (is_whole(known->second)) {
      add_references(known->second);
      return image_of(known->second);
    }
    known->second.manifest = candidate.manifest_digest;
  }
  const auto take = [&](const Descriptor& descriptor, const std::string& name) -> Status {
    if (has_blob(descriptor.digest, descriptor.size)) return {};
    auto staged = source.stage(name);
    if (!staged) return staged.status();
    if (staged->digest != descriptor.digest || staged->size != descriptor.size) {
      return invalid_argument("blob " + descriptor.digest.to_string() + " of " + std::to_string(descriptor.size) +
                              " bytes is " + staged->digest.to_string() + " of " + std::to_string(staged->size) +
                              " bytes; the image is truncated or damaged, save it again");
    }
    return keep_blob(ingest, *staged);
  };
  if (manifest.config.size > kMaximalDocument) return invalid_argument("the image config is too large");
  if (Status status = take(manifest.config, candidate.config_name); !status) return status;
  auto config_text = files::read_file(blobs_.get(), manifest.config.digest.hex(), kMaximalDocument);
  if (!config_text) return config_text.status();
  auto config = Config::parse(*config_text);
  if (!config) return config.status();
  if (Status status = check_platform(*config); !status) return status;
  if (config->diff_ids.size() != manifest.layers.size()) {
    return invalid_argument("the image config tells " + std::to_string(config->diff_ids.size()) +
                            " layers, the manifest " + std::to_string(manifest.layers.size()));
  }
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    if (Status status = take(manifest.layers[i], candidate.layer_names[i]); !status) return status;
  }
  if (!has_blob(candidate.manifest_digest, candidate.manifest_text.size())) {
    if (Status status = files::write_file(blobs_.get(), candidate.manifest_digest.hex(), candidate.manifest_text,
                                          Durability::cached);
        !status) {
      return status;
    }
  }

  Record& record = records.try_emplace(id, Record{id, candidate.manifest_digest, {}, now(), {}, false}).first->second;
  add_references(record);
  auto image = image_of(record);
  if (!image) return image;
  if (Status status = unpack_all(**image); !status) return status;
  return image;
}

bool Store::is_whole(const Record& record) {
  auto text = files::read_file(blobs_.get(), record.manifest.hex(), kMaximalDocument);
  auto manifest = text ? Manifest::parse(*text) : Result<Manifest>(text.status());
  auto image = image_of(record);
  if (!manifest || !image) return false;
  for (const Descriptor& layer : manifest->layers) {
    if (!has_blob(layer.digest, layer.size)) return false;
  }
  for (const Digest& chain_id : (*image)->chain) {
    if (!snapshots_->has(chain_id)) return false;
  }
  return has_blob(manifest->config.digest, manifest->config.size);
}

Status Store::unpack_all(const Image& image) {
  for (size_t i = 0; i < image.chain.size(); ++i) {
    if (snapshots_->has(image.chain[i])) continue;
    auto layer = files::open_at(blobs_.get(), image.layers[i].hex(), O_RDONLY);
    if (!layer) return layer.status();
    const std::vector<Digest> below(image.chain.begin(), image.chain.begin() + static_cast<ptrdiff_t>(i));
    if (Status status =
            snapshots_->unpack(image.chain[i], below, layer->get(), image.config.diff_ids[i], options_.unpack);
        !status) {
      return status.with_context("layer " + std::to_string(i + 1) + " of " + std::to_string(image.chain.size()));
    }
  }
  return {};
}

}  // namespace pintle::images
