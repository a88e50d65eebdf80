#pragma once

/// The image store: a content-addressed folder that several instances of a runtime plugin share.
///
///     <store>/
///       images.json              which images there are and their references; replaced whole and synced
///       images.json.copy         the same once more: whichever is damaged, the other serves
///       blobs/sha256/<digest>    manifests, configs, layers as they came (compressed or not)
///       snapshots/<chain id>/fs  layers unpacked, ready to be stacked by overlayfs (snapshots.hpp)
///       leases/<container>       who uses which image; a small file for each container
///       ingest/<random>/         a load under way, locked by its maker
///       partial/<digest>         a blob that is being pulled, locked by its puller; what was cut is continued here
///       damaged/                 what was found broken, kept for a person to look at
///       trash/                   what was removed and waits for deletion in the background
///
/// Vocabulary. An *image* is named by its *id*, the digest of its config. A *reference*
/// ("docker.io/library/web:latest") points to one image; when another image takes it over, the old one stays without it
/// until it is removed. A *lease* keeps an image, its blobs and snapshots while a container uses it. A *pinned* image is not
/// to be removed because nobody uses it: what was loaded may not be had again, other than what was pulled. The store tells
/// it; who collects images heeds it. An image that loses its last reference to another one loses its pin.
///
/// Life of an image. load: files are staged and hashed in an ingest folder; under the store's lock blobs take their
/// names, layers are unpacked, all is synced, and last images.json is replaced: acknowledged means durable, and a load
/// that fails or is cut off leaves nothing that a later open does not sweep. remove: images.json first, then what no
/// other image needs moves to the trash by rename, which costs nothing; `empty_trash` deletes it later.
///
/// Locks (flock(2), so they hold between processes and end with them). `store.lock`: whoever changes images.json, blobs
/// or snapshots. `leases.lock`: taken shared to add a lease, exclusively to remove an image, so that none is removed
/// while a container is being made from it, and no container waits for a long load.
///
///     auto store = Store::open("/var/lib/pintle/images", {});
///     auto loaded = (*store)->load("/tmp/web.tar", "");
///     auto root = (*store)->lease("sha256:...", container_id, "runtime-oci@1");
///     mount_overlay({root->lower, upper, work}, target);
///
/// All functions may be called from any thread, block, and survive a full disk (RESOURCE_EXHAUSTED, nothing half done).

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cri/images/digest.hpp"
#include "cri/images/manifest.hpp"
#include "cri/images/snapshots.hpp"
#include "cri/images/source.hpp"
#include "cri/images/unpack.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::images {

struct Image {
  Digest id;
  Digest manifest;
  std::vector<std::string> references;  ///< whole ones, sorted
  std::vector<std::string>
      pulled;         ///< "docker.io/library/web@sha256:...": what registries called it, where that is not `manifest`
  uint64_t size = 0;  ///< of manifest, config and layers as stored
  std::vector<Digest> layers;  ///< digests of the layers' blobs, base first
  std::vector<Digest> chain;   ///< chain ids, base first
  Config config;
  int64_t loaded_at = 0;  ///< nanoseconds since 1970
  bool pinned = false;    ///< it stays when nobody uses it

  std::vector<std::string> tags() const;  ///< references with a tag
  /// "docker.io/library/web@sha256:..." for each repository: of the index or manifest that was pulled by this name.
  std::vector<std::string> digests() const;
};

/// A leased image, ready to be mounted.
struct Root {
  std::shared_ptr<const Image> image;
  std::vector<std::string> lower;  ///< folders for overlayfs, the uppermost first
};

struct Lease {
  std::string user;   ///< a container's id
  std::string owner;  ///< the instance that made it
  Digest image;
};

/// What a pull has brought: a manifest, while its blobs lie in the store or, whole and verified, in `Store::partial`.
struct Pulled {
  std::string reference;  ///< a whole one
  std::string manifest_text;
  Digest manifest_digest;
  Manifest manifest;
  std::string
      pulled;  ///< repository and digest of the document that the reference names, an index or the manifest itself
};

struct StoreOptions {
  UnpackLimits unpack;
  SourceLimits source;
  std::string architecture = native_architecture();
};

class Store {
 public:
  /// Makes the folders, sweeps what a crash left, and sets damaged things aside; what was found is told by `warnings`.
  static Result<std::unique_ptr<Store>> open(const std::string& path, StoreOptions options);

  /// Sentences about what `open` found and did; empty if all was well.
  const std::vector<std::string>& warnings() const { return warnings_; }
  const std::string& path() const { return path_; }

  /// Loads an archive or a layout folder, whose images are pinned. `reference` names the image where the archive brings no name; it is then
  /// needed, and an archive of several images cannot be named by it.
  Result<std::vector<std::shared_ptr<const Image>>> load(const std::string& path, const std::string& reference);
  /// The archive is read from a descriptor, which may be a pipe and stays the caller's.
  Result<std::vector<std::shared_ptr<const Image>>> load(int archive, const std::string& reference);

  /// The folder of blobs that are being pulled; stays the store's.
  int partial() const { return partial_.get(); }
  bool has_blob(const Digest& digest, uint64_t size) const;
  /// A blob's file to be read, also after it was removed. NOT_FOUND if it is not there.
  Result<files::Descriptor> open_blob(const Digest& digest) const;
  /// The image is there with all its blobs and unpacked layers.
  bool is_whole(const Digest& id);
  /// Makes an image of what was pulled; the caller holds the partial blobs' locks and removes them afterwards. ABORTED: a
  /// blob is in neither place (any more).
  Result<std::shared_ptr<const Image>> add(const Pulled& pulled);

  Result<std::vector<std::shared_ptr<const Image>>> list();
  /// By reference, id, or an unambiguous prefix of at least 3 digits of the id. Null if there is none; INVALID_ARGUMENT
  /// for an ambiguous prefix.
  Result<std::shared_ptr<const Image>> find(std::string_view name);
  /// Removes a reference, and the image with its last one; by id (or its prefix) the image with all. The removed
  /// images' ids; none if the name is unknown. FAILED_PRECONDITION while a container uses the image.
  Result<std::vector<Digest>> remove(std::string_view name);

  /// Pins the image, or takes the pin away; durable. Null if there is none of that name.
  Result<std::shared_ptr<const Image>> set_pinned(std::string_view name, bool pinned);

  /// Keeps the image for `user` until `release`, and unpacks what is missing. NOT_FOUND if the image is not there.
  Result<Root> lease(std::string_view name, const std::string& user, const std::string& owner);
  Status release(const std::string& user);
  Result<std::vector<Lease>> leases() const;

  /// Of blobs and snapshots, as measured when they were made.
  files::Usage usage() const;
  /// Deletes what was removed; may take long.
  Status empty_trash();

 private:
  struct Record {
    Digest id;
    Digest manifest;
    std::vector<std::string> references;
    int64_t loaded_at = 0;
    std::vector<std::string> pulled;  ///< at most one of each repository
    bool pinned = false;
  };
  using Records = std::map<Digest, Record>;
  struct Candidate;

  Store(std::string path, StoreOptions options) : path_(std::move(path)), options_(std::move(options)) {}
  Status prepare();
  Status recover();
  Result<Records> read_records();
  static Result<Records> parse_records(std::string_view json);
  Status write_records(const Records& records);
  Result<std::shared_ptr<const Image>> image_of(const Record& record);
  Result<std::vector<std::shared_ptr<const Image>>> load_from(Source& source, int ingest, const std::string& reference);
  Result<std::vector<std::shared_ptr<const Image>>> commit_all(Source& source, int ingest,
                                                               std::vector<Candidate>& candidates);
  Result<std::vector<Candidate>> candidates_of(Source& source, int ingest, const std::string& reference);
  Result<std::vector<Candidate>> layout_candidates(Source& source);
  Status add_from_index(Source& source, std::string_view json, std::vector<std::string> names, int depth,
                        std::vector<Candidate>& candidates);
  Result<std::vector<Candidate>> saved_candidates(Source& source, int ingest);
  Status check_platform(const Config& config) const;
  Result<std::shared_ptr<const Image>> commit(Source& source, int ingest, Candidate& candidate, Records& records);
  Status keep_blob(int ingest, const Staged& staged);
  Status set_aside(int folder, const std::string& name, const std::string& why);
  Status unpack_all(const Image& image);
  bool is_whole(const Record& record);
  Result<bool> is_leased(const Digest& image, std::string* user) const;
  Status sweep(const Records& records);
  Result<Record*> find_record(Records& records, std::string_view name, bool* by_reference);

  std::string path_;
  StoreOptions options_;
  std::vector<std::string> warnings_;
  files::Descriptor root_, blobs_, leases_, ingest_, partial_, trash_, damaged_;
  std::optional<Snapshots> snapshots_;

  std::mutex mutex_;                                       // of what follows
  std::map<Digest, std::shared_ptr<const Image>> parsed_;  // by id; dropped when the record differs
};

}  // namespace pintle::images
