#include "kernel/loader/library.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/dll/shared_library.hpp>
#include <boost/json.hpp>
#include <cerrno>
#include <set>

namespace pintle::kernel {
namespace {

constexpr uint64_t max_file = 1ull << 30;

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }
std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

std::string hex_sha256(std::span<const uint8_t> bytes) {
  uint8_t digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr);
  std::string out;
  for (unsigned i = 0; i < size; ++i) {
    constexpr char digits[] = "0123456789abcdef";
    out += digits[digest[i] >> 4];
    out += digits[digest[i] & 15];
  }
  return out;
}

using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

Key private_key(const std::string& pem) {
  BIO* memory = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  Key key(PEM_read_bio_PrivateKey(memory, nullptr, nullptr, nullptr), EVP_PKEY_free);
  BIO_free(memory);
  return key;
}

/// Never unloaded: the handle is given up.
Result<boost::dll::shared_library*> open_library(const SealedFile& file) {
  auto library = std::make_unique<boost::dll::shared_library>();
  boost::dll::fs::error_code error;
  const auto mode = boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local;
  const std::string path = "/proc/self/fd/" + std::to_string(file.descriptor());
  dlerror();
  library->load(boost::dll::fs::path(path), mode, error);
  if (error) {
    // Boost keeps the code, not what the linker said.
    void* again = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    const char* why = again == nullptr ? dlerror() : "it could be opened only at the second try";
    return failed_precondition(file.path() + ": cannot be loaded: " + (why != nullptr ? why : error.message().c_str()));
  }
  return library.release();
}

/// The path by which this process has loaded a library of that soname; empty: it has not.
std::string loaded_from(const std::string& soname) {
  void* present = dlopen(soname.c_str(), RTLD_NOW | RTLD_NOLOAD);
  link_map* map = nullptr;
  return present != nullptr && dlinfo(present, RTLD_DI_LINKMAP, &map) == 0 ? map->l_name : std::string();
}

}  // namespace

// ---- Sealed files ------------------------------------------------------------------------------------------------------------

SealedFile::~SealedFile() { unmap(); }

void SealedFile::unmap() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
  data_ = nullptr;
  size_ = 0;
}

Status SealedFile::map() {
  struct stat info {};
  if (fstat(descriptor_.get(), &info) != 0) return status_from_errno(errno, path_);
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return invalid_argument(path_ + ": the file is empty");
  void* mapped = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_.get(), 0);
  if (mapped == MAP_FAILED) return status_from_errno(errno, path_);
  data_ = static_cast<const uint8_t*>(mapped);
  sha256_ = hex_sha256(bytes());
  return {};
}

Result<std::shared_ptr<SealedFile>> SealedFile::read(const std::string& path) {
  Result<files::Descriptor> source = files::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
  if (!source) return source.status();
  struct stat info {};
  if (fstat(source->get(), &info) != 0) return status_from_errno(errno, path);
  if (!S_ISREG(info.st_mode)) return invalid_argument(path + ": not a regular file");
  if (static_cast<uint64_t>(info.st_size) > max_file) return resource_exhausted(path + ": larger than 1 GiB");
  std::shared_ptr<SealedFile> out(new SealedFile);
  out->path_ = path;
  out->descriptor_.reset(memfd_create(base_name(path).substr(0, 200).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!out->descriptor_.valid()) return status_from_errno(errno, path + ": memfd_create");
  for (off_t left = info.st_size; left > 0;) {
    const ssize_t sent = sendfile(out->descriptor_.get(), source->get(), nullptr, static_cast<size_t>(left));
    if (sent < 0) return status_from_errno(errno, path);
    if (sent == 0) break;  // it became shorter: what is there is judged
    left -= sent;
  }
  if (Status sealed = files::seal(out->descriptor_.get()); !sealed) return sealed.with_context(path);
  if (Status mapped = out->map(); !mapped) return mapped;
  return out;
}

Result<std::shared_ptr<SealedFile>> SealedFile::adopt(files::Descriptor descriptor, const std::string& name) {
  if (!files::is_sealed(descriptor.get())) return permission_denied(name + ": the memory file is not sealed");
  std::shared_ptr<SealedFile> out(new SealedFile);
  out->path_ = name;
  out->descriptor_ = std::move(descriptor);
  if (Status mapped = out->map(); !mapped) return mapped;
  return out;
}

// ---- Trust -------------------------------------------------------------------------------------------------------------------

Result<std::string> sign(std::string_view data, const std::string& private_key_pem) {
  Key key = private_key(private_key_pem);
  DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::string signature(64, '\0');
  size_t size = signature.size();
  if (key == nullptr || EVP_PKEY_get_id(key.get()) != EVP_PKEY_ED25519)
    return invalid_argument("the signing key is not an Ed25519 private key in PEM");
  if (EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), reinterpret_cast<uint8_t*>(signature.data()), &size,
                     reinterpret_cast<const uint8_t*>(data.data()), data.size()) != 1)
    return internal_error("signing failed");
  return signature;
}

Result<std::string> public_half(const std::string& private_key_pem) {
  Key key = private_key(private_key_pem);
  std::string out(32, '\0');
  size_t size = out.size();
  if (key == nullptr || EVP_PKEY_get_raw_public_key(key.get(), reinterpret_cast<uint8_t*>(out.data()), &size) != 1 ||
      size != 32)
    return invalid_argument("the signing key is not an Ed25519 private key in PEM");
  return out;
}

bool is_signed_by(std::string_view data, std::string_view signature, std::string_view public_key) {
  if (signature.size() != 64 || public_key.size() != 32) return false;
  Key key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, reinterpret_cast<const uint8_t*>(public_key.data()),
                                      public_key.size()),
          EVP_PKEY_free);
  DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  return key != nullptr && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), reinterpret_cast<const uint8_t*>(signature.data()), signature.size(),
                          reinterpret_cast<const uint8_t*>(data.data()), data.size()) == 1;
}

Loader::Loader(std::string plugin_directory, std::string public_key)
    : plugin_directory_(std::move(plugin_directory)), public_key_(std::move(public_key)) {
  trust_ = read_trust();
}

Status Loader::read_trust() {
  const std::string path = plugin_directory_ + "/plugins.manifest";
  Result<std::string> text = files::read_file(path);
  if (!text) return text.status();
  Result<std::string> signature = files::read_file(path + ".sig");
  if (!signature) return signature.status();
  if (!is_signed_by(*text, *signature, public_key_))
    return permission_denied(path + ": its signature is not of this release's key; reinstall the plugins' package");
  boost::json::error_code error;
  const boost::json::value parsed = boost::json::parse(*text, error);
  const boost::json::value* listed = !error && parsed.is_object() ? parsed.get_object().if_contains("files") : nullptr;
  if (listed == nullptr || !listed->is_object()) return data_loss(path + ": not a list of files");
  listed_.clear();
  for (const auto& [name, hash] : listed->get_object())
    if (hash.is_string()) listed_[std::string(name)] = std::string(hash.get_string());
  return {};
}

Result<bool> Loader::is_listed(const SealedFile& file) {
  std::lock_guard lock(trust_lock_);
  auto found = listed_.find(base_name(file.path()));
  if (found != listed_.end() && found->second == file.sha256()) return true;
  // A package that was installed meanwhile brought its files and their list.
  trust_ = read_trust();
  found = listed_.find(base_name(file.path()));
  if (found == listed_.end()) return false;
  if (found->second == file.sha256()) return true;
  // A vendor's file may happen to have a shipped one's name; a shipped file that was changed must not pass for that.
  const std::string folder = folder_of(file.path());
  if (folder == plugin_directory_ || folder == folder_of(plugin_directory_))
    return permission_denied(file.path() +
                             ": its bytes are not those that were signed; reinstall the package it came from");
  return false;
}

Result<VerifiedPlugin> Loader::verify(const std::string& path, bool allow_unsigned) {
  VerifiedPlugin out;
  Result<std::shared_ptr<SealedFile>> file = SealedFile::read(path);
  if (!file) return file.status();
  out.file = *file;
  Result<bool> listed = is_listed(*out.file);
  if (!listed) return listed.status();
  out.is_signed = *listed;
  if (!out.is_signed && !allow_unsigned)
    return permission_denied(path + ": not signed by this release" +
                             (trust().is_ok() ? std::string() : " (" + trust().message() + ")") +
                             "; write allowUnsigned: true into the profile to trust it");
  Result<PluginFile> contents = read_plugin_file(out.file->bytes(), path);
  if (!contents) return contents.status();
  out.file = shared(std::move(out.file));
  out.contents = std::move(*contents);
  Result<Manifest> manifest = parse_manifest(out.contents.manifest, path);
  if (!manifest) return manifest.status();
  out.manifest = std::move(*manifest);
  if (out.manifest.id != out.contents.id)
    return invalid_argument(path + ": the manifest is of " + out.manifest.id + ", the file of " + out.contents.id);
  for (const std::string& library : out.contents.libraries) {
    if (library.rfind("libpintle_", 0) != 0 || library.find('/') != std::string::npos) continue;
    Status last;
    for (const std::string& folder : {folder_of(plugin_directory_), plugin_directory_, folder_of(path)}) {
      Result<std::shared_ptr<SealedFile>> found = [&]() -> Result<std::shared_ptr<SealedFile>> {
        if (access((folder + "/" + library).c_str(), F_OK) != 0)
          return not_found(path + ": needs " + library + ", which is not installed");
        return SealedFile::read(folder + "/" + library);
      }();
      last = found.status();
      if (!found) continue;
      Result<bool> known = is_listed(**found);
      if (!known) return known.status();
      if (!*known && !allow_unsigned)
        return permission_denied((*found)->path() + ": not signed by this release, but " + path + " needs it");
      out.libraries.push_back(shared(std::move(*found)));
      break;
    }
    if (!last.is_ok()) return last;
  }
  return out;
}

/// The file of these bytes that somebody holds already, if there is one: most plugins need the same library.
std::shared_ptr<SealedFile> Loader::shared(std::shared_ptr<SealedFile> file) {
  file->unmap();
  std::lock_guard lock(lock_);
  std::weak_ptr<SealedFile>& known = known_[file->sha256()];
  if (std::shared_ptr<SealedFile> held = known.lock()) return held;
  known = file;
  return file;
}

Result<const pintle_plugin*> Loader::load(const VerifiedPlugin& plugin) {
  std::lock_guard lock(lock_);
  const std::string& id = plugin.contents.id;
  if (auto found = loaded_.find(id); found != loaded_.end()) {
    if (found->second.sha256 == plugin.file->sha256()) return found->second.entry;
    return already_exists(plugin.file->path() + ": this process already runs another build of " + id);
  }
  for (const auto& library : plugin.libraries) {
    if (libraries_.count(library->sha256()) != 0) continue;
    // A second copy would register its messages twice, which ends the process. What the process itself is linked with is here
    // already and serves as well; what came in with an earlier plugin is another build.
    if (const std::string present = loaded_from(base_name(library->path())); present.starts_with("/proc/self/fd/")) {
      return already_exists(library->path() + ": this process already runs another build of it");
    } else if (!present.empty()) {
      continue;
    }
    if (auto opened = open_library(*library); !opened) return opened.status();
    libraries_.emplace(library->sha256(), library);
  }
  auto opened = open_library(*plugin.file);
  if (!opened) return opened.status();
  if (!(*opened)->has("pintle_plugin_entry"))
    return failed_precondition(plugin.file->path() + ": does not export pintle_plugin_entry");
  const pintle_plugin* entry = &(*opened)->get<const pintle_plugin>("pintle_plugin_entry");
  const auto covers = [&](auto function) { return function != nullptr; };
  if (entry->size < sizeof(pintle_plugin) || !covers(entry->create) || !covers(entry->start) || !covers(entry->drain) ||
      !covers(entry->retire) || !covers(entry->stop) || !covers(entry->destroy) || !covers(entry->handle) ||
      !covers(entry->cancelled) || !covers(entry->stream_message) || !covers(entry->stream_credit) ||
      !covers(entry->bindings))
    return failed_precondition(plugin.file->path() + ": a function of its entry is missing");
  loaded_.emplace(id, Loaded{plugin.file->sha256(), entry});
  libraries_.emplace(plugin.file->sha256(),
                     plugin.file);  // its descriptor's number names it to the linker: kept for ever
  return entry;
}

std::string Loader::loaded_build(const std::string& id) {
  std::lock_guard lock(lock_);
  auto found = loaded_.find(id);
  return found == loaded_.end() ? std::string() : found->second.sha256;
}

}  // namespace pintle::kernel
