#include "cri/images/store.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <ctime>
#include <set>

#include "cri/images/reference.hpp"

namespace pintle::images {
namespace {

namespace json = boost::json;
using files::Durability;
using files::Lock;

constexpr char kRecords[] = "images.json";
constexpr char kCopy[] = "images.json.copy";
constexpr char kStoreLock[] = "store.lock";
constexpr char kLeasesLock[] = "leases.lock";
constexpr size_t kShortestPrefix = 3;
constexpr time_t kPartialDays = 3;  // nobody has asked for the image again

bool is_hex(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

struct LeaseFile {
  Lease lease;
  std::vector<Digest> chain;
};

Result<LeaseFile> parse_lease(const std::string& user, std::string_view text) {
  json::error_code error;
  const json::value value = json::parse(text, error);
  const auto broken = [&] { return data_loss("the lease of " + user + " is unreadable"); };
  if (error || !value.is_object()) return broken();
  const json::object& object = value.get_object();
  const json::value* image = object.if_contains("image");
  const json::value* owner = object.if_contains("owner");
  const json::value* chain = object.if_contains("chain");
  if (!image || !image->is_string() || !owner || !owner->is_string() || !chain || !chain->is_array()) return broken();
  auto id = Digest::parse(std::string(image->get_string()));
  if (!id) return broken();
  LeaseFile file{{user, std::string(owner->get_string()), *id}, {}};
  for (const json::value& item : chain->get_array()) {
    auto digest = item.is_string() ? Digest::parse(std::string(item.get_string())) : Result<Digest>(broken());
    if (!digest) return broken();
    file.chain.push_back(std::move(*digest));
  }
  return file;
}

Result<std::vector<LeaseFile>> read_leases(int folder) {
  auto names = files::list_folder(folder);
  if (!names) return names.status();
  std::vector<LeaseFile> all;
  for (const std::string& name : *names) {
    if (name.starts_with('.')) continue;
    auto text = files::read_file(folder, name);
    if (!text) continue;  // released meanwhile
    if (auto lease = parse_lease(name, *text)) all.push_back(std::move(*lease));
  }
  return all;
}

}  // namespace

std::vector<std::string> Image::tags() const {
  std::vector<std::string> tags;
  for (const std::string& reference : references) {
    if (reference.find('@') == std::string::npos) tags.push_back(reference);
  }
  return tags;
}

std::vector<std::string> Image::digests() const {
  std::set<std::string> all;
  for (const std::string& text : references) {
    auto reference = Reference::parse(text);
    if (!reference) continue;
    const std::string repository = reference->repository() + "@";
    const auto named =
        std::find_if(pulled.begin(), pulled.end(), [&](const std::string& one) { return one.starts_with(repository); });
    all.insert(named != pulled.end() ? *named : repository + manifest.to_string());
  }
  return {all.begin(), all.end()};
}

Result<std::unique_ptr<Store>> Store::open(const std::string& path, StoreOptions options) {
  std::unique_ptr<Store> store(new Store(path, std::move(options)));
  if (Status status = store->prepare(); !status) return status.with_context("open the image store " + path);
  // While another instance holds the lock, what it has under way is no leftover; it did this when it began.
  if (auto lock = Lock::try_acquire(store->root_.get(), kStoreLock, Lock::Kind::exclusive)) {
    if (Status status = store->recover(); !status) return status.with_context("open the image store " + path);
  }
  return store;
}

Status Store::prepare() {
  if (Status status = files::make_folders(path_ + "/blobs/sha256"); !status) return status;
  for (const char* name : {"leases", "ingest", "partial", "trash", "damaged", "empty"}) {
    if (Status status = files::make_folders(path_ + "/" + name); !status) return status;
  }
  const std::pair<files::Descriptor*, std::string> folders[] = {{&root_, path_},
                                                                {&blobs_, path_ + "/blobs/sha256"},
                                                                {&leases_, path_ + "/leases"},
                                                                {&ingest_, path_ + "/ingest"},
                                                                {&partial_, path_ + "/partial"},
                                                                {&trash_, path_ + "/trash"},
                                                                {&damaged_, path_ + "/damaged"}};
  for (const auto& [descriptor, folder] : folders) {
    auto opened = files::open_folder(folder);
    if (!opened) return opened.status();
    *descriptor = std::move(*opened);
  }
  auto snapshots = Snapshots::open(path_ + "/snapshots", trash_.get());
  if (!snapshots) return snapshots.status();
  snapshots_.emplace(std::move(*snapshots));
  return {};
}

// ---- Records
// -----------------------------------------------------------------------------------------------------------------

Result<Store::Records> Store::parse_records(std::string_view text) {
  json::error_code error;
  const json::value value = json::parse(text, error);
  const auto broken = [](const char* what) { return data_loss(std::string("images.json is damaged: ") + what); };
  if (error || !value.is_object()) return broken("it is no JSON object");
  const json::value* version = value.get_object().if_contains("version");
  if (!version || !version->is_int64() || version->get_int64() != 1) return broken("its version is unknown");
  const json::value* images = value.get_object().if_contains("images");
  if (!images || !images->is_array()) return broken("it has no list of images");
  Records records;
  for (const json::value& item : images->get_array()) {
    if (!item.is_object()) return broken("an image is no object");
    const json::object& object = item.get_object();
    const auto digest_at = [&](const char* key) -> Result<Digest> {
      const json::value* found = object.if_contains(key);
      if (!found || !found->is_string()) return broken("a digest is missing");
      return Digest::parse(std::string(found->get_string()));
    };
    auto id = digest_at("id"), manifest = digest_at("manifest");
    if (!id || !manifest) return broken("a digest is missing");
    Record record{*id, *manifest, {}, 0, {}, false};
    const auto texts_at = [&](const char* key, std::vector<std::string>& into) {
      const json::value* found = object.if_contains(key);
      if (!found || !found->is_array()) return;
      for (const json::value& one : found->get_array()) {
        if (one.is_string()) into.emplace_back(one.get_string());
      }
    };
    texts_at("references", record.references);
    texts_at("pulled", record.pulled);
    if (const json::value* time = object.if_contains("loadedAt"); time && time->is_int64())
      record.loaded_at = time->get_int64();
    if (const json::value* pinned = object.if_contains("pinned"); pinned && pinned->is_bool())
      record.pinned = pinned->get_bool();
    records[*id] = std::move(record);
  }
  return records;
}

Result<Store::Records> Store::read_records() {
  auto text = files::read_file(root_.get(), kRecords);
  if (!text)
    return text.status().code() == Code::not_found ? Result<Records>(Records()) : Result<Records>(text.status());
  return parse_records(*text);
}

Status Store::write_records(const Records& records) {
  json::array images;
  for (const auto& [id, record] : records) {
    json::object image{{"id", id.to_string()},
                       {"manifest", record.manifest.to_string()},
                       {"references", json::value_from(record.references)},
                       {"loadedAt", record.loaded_at}};
    if (!record.pulled.empty()) image["pulled"] = json::value_from(record.pulled);
    if (record.pinned) image["pinned"] = true;
    images.push_back(std::move(image));
  }
  const std::string text = json::serialize(json::object{{"version", 1}, {"images", std::move(images)}}) + "\n";
  if (Status status = files::write_file(root_.get(), kRecords, text, Durability::synced); !status) return status;
  // The records are kept already: a copy that could not be written is written at the next chance.
  (void)files::write_file(root_.get(), kCopy, text, Durability::synced);
  return {};
}

Result<std::shared_ptr<const Image>> Store::image_of(const Record& record) {
  {
    std::lock_guard guard(mutex_);
    const auto known = parsed_.find(record.id);
    if (known != parsed_.end() && known->second->manifest == record.manifest &&
        known->second->references == record.references && known->second->pulled == record.pulled &&
        known->second->pinned == record.pinned) {
      return known->second;
    }
  }
  auto image = std::make_shared<Image>();
  auto manifest_text = files::read_file(blobs_.get(), record.manifest.hex(), kMaximalDocument);
  if (!manifest_text) return manifest_text.status();
  if (digest_of(*manifest_text) != record.manifest)
    return data_loss("the manifest " + record.manifest.to_string() + " is damaged");
  auto manifest = Manifest::parse(*manifest_text);
  if (!manifest) return manifest.status();
  auto config_text = files::read_file(blobs_.get(), record.id.hex(), kMaximalDocument);
  if (!config_text) return config_text.status();
  if (digest_of(*config_text) != record.id) return data_loss("the config " + record.id.to_string() + " is damaged");
  auto config = Config::parse(*config_text);
  if (!config) return config.status();
  image->id = record.id;
  image->manifest = record.manifest;
  image->references = record.references;
  image->pulled = record.pulled;
  image->loaded_at = record.loaded_at;
  image->pinned = record.pinned;
  image->size = manifest_text->size() + config_text->size();
  for (const Descriptor& layer : manifest->layers) {
    image->layers.push_back(layer.digest);
    image->size += layer.size;
  }
  image->chain = chain_ids(config->diff_ids);
  image->config = std::move(*config);
  std::lock_guard guard(mutex_);
  return parsed_[record.id] = std::move(image);
}

Result<std::vector<std::shared_ptr<const Image>>> Store::list() {
  auto records = read_records();
  if (!records) return records.status();
  std::vector<std::shared_ptr<const Image>> images;
  for (const auto& [id, record] : *records) {
    auto image = image_of(record);
    if (!image) return image.status();
    images.push_back(std::move(*image));
  }
  return images;
}

Result<Store::Record*> Store::find_record(Records& records, std::string_view name, bool* by_reference) {
  *by_reference = false;
  std::string_view digits = name;
  const bool is_digest = name.starts_with("sha256:");
  if (is_digest) digits.remove_prefix(7);
  if (!is_digest) {
    if (auto reference = Reference::parse(name)) {
      const std::string whole = reference->to_string();
      for (auto& [id, record] : records) {
        for (const std::string& known : record.references) {
          if (known == whole) {
            *by_reference = true;
            return &record;
          }
          // A name with a digest means the manifest, or the index that it came by, whatever the tag is now.
          if (reference->digest.empty()) continue;
          const std::string named = reference->repository() + "@" + reference->digest.to_string();
          if (record.manifest != reference->digest &&
              std::find(record.pulled.begin(), record.pulled.end(), named) == record.pulled.end())
            continue;
          auto other = Reference::parse(known);
          if (other && other->repository() == reference->repository()) return &record;
        }
      }
    } else if (!is_hex(digits)) {
      return reference.status();
    }
  }
  if (!is_hex(digits) || digits.size() < kShortestPrefix || digits.size() > 64) return nullptr;
  Record* found = nullptr;
  for (auto& [id, record] : records) {
    if (!id.hex().starts_with(digits)) continue;
    if (found) return invalid_argument("image id '" + std::string(name) + "' is ambiguous; give more digits");
    found = &record;
  }
  return found;
}

Result<std::shared_ptr<const Image>> Store::find(std::string_view name) {
  auto records = read_records();
  if (!records) return records.status();
  bool by_reference = false;
  auto record = find_record(*records, name, &by_reference);
  if (!record) return record.status();
  if (!*record) return std::shared_ptr<const Image>();
  return image_of(**record);
}

// ---- Leases and removal
// --------------------------------------------------------------------------------------------------------

Result<Root> Store::lease(std::string_view name, const std::string& user, const std::string& owner) {
  if (user.empty() || user.find('/') != std::string::npos || user.starts_with('.')) {
    return invalid_argument("'" + user + "' cannot hold an image: no name of a file");
  }
  std::shared_ptr<const Image> image;
  {
    auto lock = Lock::acquire(root_.get(), kLeasesLock, Lock::Kind::shared);
    if (!lock) return lock.status();
    auto found = find(name);
    if (!found) return found.status();
    if (!*found)
      return not_found("image '" + std::string(name) + "' is not in the store; load it with 'pintle image load'");
    image = std::move(*found);
    json::array chain;
    for (const Digest& id : image->chain) chain.push_back(json::string(id.to_string()));
    const json::object lease{{"image", image->id.to_string()}, {"owner", owner}, {"chain", std::move(chain)}};
    // Cached: after a power loss no container runs, and instances lease again what they adopt.
    if (Status status = files::write_file(leases_.get(), user, json::serialize(lease), Durability::cached); !status)
      return status;
  }
  Status status;
  for (const Digest& id : image->chain) {
    if (snapshots_->has(id)) continue;
    auto lock = Lock::acquire(root_.get(), kStoreLock, Lock::Kind::exclusive);
    status = lock ? unpack_all(*image) : lock.status();
    break;
  }
  if (!status) {
    (void)release(user);
    return status;
  }
  Root root{image, {}};
  for (auto id = image->chain.rbegin(); id != image->chain.rend(); ++id) root.lower.push_back(snapshots_->folder(*id));
  if (root.lower.empty()) root.lower.push_back(path_ + "/empty");
  return root;
}

Status Store::release(const std::string& user) {
  if (unlinkat(leases_.get(), user.c_str(), 0) != 0 && errno != ENOENT) {
    return status_from_errno(errno, "release the image of " + user);
  }
  return {};
}

Result<std::vector<Lease>> Store::leases() const {
  auto all = read_leases(leases_.get());
  if (!all) return all.status();
  std::vector<Lease> leases;
  for (LeaseFile& file : *all) leases.push_back(std::move(file.lease));
  return leases;
}

Result<bool> Store::is_leased(const Digest& image, std::string* user) const {
  auto all = leases();
  if (!all) return all.status();
  for (const Lease& lease : *all) {
    if (lease.image != image) continue;
    *user = lease.user;
    return true;
  }
  return false;
}

Result<std::shared_ptr<const Image>> Store::set_pinned(std::string_view name, bool pinned) {
  auto lock = Lock::acquire(root_.get(), kStoreLock, Lock::Kind::exclusive);
  if (!lock) return lock.status();
  auto records = read_records();
  if (!records) return records.status();
  bool by_reference = false;
  auto found = find_record(*records, name, &by_reference);
  if (!found) return found.status();
  if (!*found) return std::shared_ptr<const Image>();
  Record& record = **found;
  if (std::exchange(record.pinned, pinned) != pinned)
    if (Status status = write_records(*records); !status) return status;
  return image_of(record);
}

Result<std::vector<Digest>> Store::remove(std::string_view name) {
  auto store_lock = Lock::acquire(root_.get(), kStoreLock, Lock::Kind::exclusive);
  if (!store_lock) return store_lock.status();
  auto leases_lock = Lock::acquire(root_.get(), kLeasesLock, Lock::Kind::exclusive);
  if (!leases_lock) return leases_lock.status();
  auto records = read_records();
  if (!records) return records.status();
  bool by_reference = false;
  auto found = find_record(*records, name, &by_reference);
  if (!found) return found.status();
  if (!*found) return std::vector<Digest>();
  Record& record = **found;
  if (by_reference && record.references.size() > 1) {
    std::erase(record.references, Reference::parse(name)->to_string());
    if (Status status = write_records(*records); !status) return status;
    return std::vector<Digest>();
  }
  std::string user;
  auto leased = is_leased(record.id, &user);
  if (!leased) return leased.status();
  if (*leased) {
    return failed_precondition("image " + record.id.to_string() + " is used by container " + user +
                               "; remove the container first");
  }
  const Digest id = record.id;
  auto image = image_of(record);
  records->erase(id);
  if (Status status = write_records(*records); !status) return status;
  {
    std::lock_guard guard(mutex_);
    parsed_.erase(id);
  }
  if (!image) {
    // What it held cannot be told from a damaged manifest; the sweep finds it.
    if (Status status = sweep(*records); !status) return status;
    return std::vector<Digest>{id};
  }

  std::set<Digest> blobs((*image)->layers.begin(), (*image)->layers.end());
  blobs.insert((*image)->manifest);
  blobs.insert(id);
  std::set<Digest> chain((*image)->chain.begin(), (*image)->chain.end());
  for (const auto& [other_id, other] : *records) {
    auto kept = image_of(other);
    if (!kept) continue;
    for (const Digest& digest : (*kept)->layers) blobs.erase(digest);
    for (const Digest& digest : (*kept)->chain) chain.erase(digest);
    blobs.erase((*kept)->manifest);
    blobs.erase(other_id);
  }
  auto kept_by_lease = read_leases(leases_.get());
  if (!kept_by_lease) return kept_by_lease.status();
  for (const LeaseFile& lease : *kept_by_lease) {
    for (const Digest& digest : lease.chain) chain.erase(digest);
  }
  Status first;
  for (const Digest& digest : chain) {
    if (Status status = snapshots_->discard(digest); !status && first) first = status;
  }
  for (const Digest& digest : blobs) {
    if (renameat(blobs_.get(), digest.hex().c_str(), trash_.get(),
                 (digest.hex() + "-" + files::random_hex(8)).c_str()) != 0 &&
        errno != ENOENT && first) {
      first = status_from_errno(errno, "discard the blob " + digest.to_string());
    }
  }
  if (!first) return first;
  return std::vector<Digest>{id};
}

Result<files::Descriptor> Store::open_blob(const Digest& digest) const {
  return files::open_at(blobs_.get(), digest.hex(), O_RDONLY | O_NOFOLLOW);
}

files::Usage Store::usage() const {
  files::Usage sum;
  const auto add = [&](files::Usage usage) {
    sum.bytes += usage.bytes;
    sum.inodes += usage.inodes;
  };
  if (auto ids = snapshots_->list()) {
    for (const Digest& id : *ids) add(snapshots_->usage(id));
  }
  for (const int folder : {blobs_.get(), partial_.get()}) {
    auto names = files::list_folder(folder);
    if (!names) continue;
    for (const std::string& name : *names) {
      struct stat about {};
      if (fstatat(folder, name.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0)
        add({static_cast<uint64_t>(about.st_blocks) * 512, 1});
    }
  }
  return sum;
}

Status Store::empty_trash() {
  auto names = files::list_folder(trash_.get());
  if (!names) return names.status();
  Status first;
  for (const std::string& name : *names) {
    if (Status status = files::remove_tree(trash_.get(), name); !status && first) first = status;
  }
  return first;
}

// ---- Recovery
// ------------------------------------------------------------------------------------------------------------------

Status Store::set_aside(int folder, const std::string& name, const std::string& why) {
  if (renameat(folder, name.c_str(), damaged_.get(), (name + "-" + files::random_hex(8)).c_str()) != 0 &&
      errno != ENOENT) {
    return status_from_errno(errno, "set aside " + name);
  }
  warnings_.push_back("image store " + path_ + ": " + why + "; it was moved to " + path_ + "/damaged");
  return {};
}

Status Store::recover() {
  if (auto names = files::list_folder(ingest_.get())) {
    for (const std::string& name : *names) {
      auto unused = Lock::try_acquire(ingest_.get(), name, Lock::Kind::exclusive);
      if (!unused) continue;
      if (Status status = files::remove_tree(ingest_.get(), name); !status) return status;
    }
  }
  if (auto names = files::list_folder(partial_.get())) {
    for (const std::string& name : *names) {
      struct stat about {};
      if (fstatat(partial_.get(), name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0 ||
          time(nullptr) - about.st_mtime < kPartialDays * 24 * 3600) {
        continue;
      }
      if (auto unused = Lock::try_acquire(partial_.get(), name, Lock::Kind::exclusive))
        unlinkat(partial_.get(), name.c_str(), 0);
    }
  }
  if (Status status = snapshots_->clean(); !status) return status;
  if (auto names = files::list_folder(leases_.get())) {
    for (const std::string& name : *names) {
      auto text = files::read_file(leases_.get(), name);
      if (name.starts_with('.') || (text && !parse_lease(name, *text))) {
        if (Status status = set_aside(leases_.get(), name, "the lease " + name + " is damaged"); !status) return status;
      }
    }
  }

  auto newest = files::read_file(root_.get(), kRecords), copy = files::read_file(root_.get(), kCopy);
  if (!newest && newest.status().code() != Code::not_found) return newest.status();
  Result<Records> records = newest ? parse_records(*newest) : Result<Records>(data_loss("images.json is missing"));
  bool changed = !copy || (newest && *copy != *newest);
  if (!newest && !copy) {
    records = Records();  // a new store
    changed = false;
  } else if (!records) {
    if (Status status = set_aside(root_.get(), kRecords, records.status().message()); !status) return status;
    records = copy ? parse_records(*copy) : Result<Records>(Records());
    if (!records) records = Records();
    warnings_.push_back("image store " + path_ + ": its copy was taken with " + std::to_string(records->size()) +
                        " images");
    changed = true;
  }
  for (auto item = records->begin(); item != records->end();) {
    const Record& record = item->second;
    auto image = image_of(record);
    std::string lost = image ? "" : image.status().message();
    if (image) {
      bool unpacked = true;
      for (const Digest& id : (*image)->chain) unpacked = unpacked && snapshots_->has(id);
      auto text = files::read_file(blobs_.get(), record.manifest.hex(), kMaximalDocument);
      auto manifest = text ? Manifest::parse(*text) : Result<Manifest>(text.status());
      if (!manifest) return manifest.status();
      for (const Descriptor& layer : manifest->layers) {
        if (has_blob(layer.digest, layer.size)) continue;
        if (Status status = set_aside(blobs_.get(), layer.digest.hex(),
                                      "the blob " + layer.digest.to_string() + " is truncated or missing");
            !status) {
          return status;
        }
        // An image that is unpacked still runs; only saving it needs its blobs.
        if (!unpacked) lost = "a layer that is not unpacked is damaged";
      }
    } else {
      for (const Digest& digest : {record.manifest, record.id}) {
        auto text = files::read_file(blobs_.get(), digest.hex(), kMaximalDocument);
        if (text && digest_of(*text) == digest) continue;
        if (Status status = set_aside(blobs_.get(), digest.hex(), "the blob " + digest.to_string() + " is damaged");
            !status)
          return status;
      }
    }
    if (lost.empty()) {
      ++item;
      continue;
    }
    warnings_.push_back("image store " + path_ + ": image " + record.id.to_string() + " is lost (" + lost +
                        "); load it again");
    {
      std::lock_guard guard(mutex_);
      parsed_.erase(record.id);
    }
    item = records->erase(item);
    changed = true;
  }
  if (changed) {
    Status status = write_records(*records);
    // Whoever only lacks the copy goes on with a full disk.
    if (!status && status.code() != Code::resource_exhausted) return status;
  }
  return sweep(*records);
}

Status Store::sweep(const Records& records) {
  std::set<std::string> blobs, chain;
  for (const auto& [id, record] : records) {
    auto image = image_of(record);
    if (!image) return image.status();
    blobs.insert(id.hex());
    blobs.insert(record.manifest.hex());
    for (const Digest& digest : (*image)->layers) blobs.insert(digest.hex());
    for (const Digest& digest : (*image)->chain) chain.insert(digest.hex());
  }
  auto held = read_leases(leases_.get());
  if (!held) return held.status();
  for (const LeaseFile& lease : *held) {
    for (const Digest& digest : lease.chain) chain.insert(digest.hex());
  }
  auto names = files::list_folder(blobs_.get());
  if (!names) return names.status();
  Status first;
  for (const std::string& name : *names) {
    if (blobs.count(name)) continue;
    if (renameat(blobs_.get(), name.c_str(), trash_.get(), (name + "-" + files::random_hex(8)).c_str()) != 0 && first) {
      first = status_from_errno(errno, "discard the blob " + name);
    }
  }
  auto ids = snapshots_->list();
  if (!ids) return ids.status();
  for (const Digest& id : *ids) {
    if (chain.count(id.hex())) continue;
    if (Status status = snapshots_->discard(id); !status && first) first = status;
  }
  return first;
}

}  // namespace pintle::images
