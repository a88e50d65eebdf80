#pragma once

/// Loading: what is checked is what runs.
///
/// A file is read once into a sealed memory file. Hash, note and manifest are taken from there, and the dynamic linker gets
/// the same descriptor (`/proc/self/fd/N`), so a file that is changed or swapped meanwhile changes nothing. Libraries of
/// ours that a plugin is linked with (`libpintle_*.so*`) are verified and loaded first in the same way; the linker then finds
/// them by their soname.
///
/// Trust comes from `plugins.manifest` beside the shipped plugins: JSON, each file's SHA-256, signed with Ed25519
/// (`plugins.manifest.sig`, 64 bytes); the public key is compiled in. A library that it does not list is *unsigned*: refused
/// unless the plan allows it. A library that it lists with another hash is refused always.
///
///     {"files": {"network-bridge.so": "ab12…", "libpintle_schema.so.0": "…"}}
///
/// Loaded code is never unloaded. A process loads one build of a plugin: another build of the same id is ALREADY_EXISTS.

#include <pintle/abi.h>

#include <map>
#include <memory>
#include <mutex>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "sdk/support/files/files.hpp"
#include "sdk/support/plugin_file/manifest.hpp"
#include "sdk/support/plugin_file/plugin_file.hpp"

namespace pintle::kernel {

using namespace plugin;

/// A file's bytes in a sealed memory file, mapped until `unmap`: pages that were looked at would count as our memory.
class SealedFile {
 public:
  /// Reads `path` (a regular file of at most 1 GiB, symlinks followed). NOT_FOUND and the like name the path.
  static Result<std::shared_ptr<SealedFile>> read(const std::string& path);
  /// Takes a descriptor that somebody else has sealed. PERMISSION_DENIED: it can still be changed.
  static Result<std::shared_ptr<SealedFile>> adopt(files::Descriptor descriptor, const std::string& name);
  ~SealedFile();
  SealedFile(const SealedFile&) = delete;
  SealedFile& operator=(const SealedFile&) = delete;

  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  void unmap();
  int descriptor() const { return descriptor_.get(); }
  const std::string& path() const { return path_; }
  const std::string& sha256() const { return sha256_; }  // 64 hexadecimal digits

 private:
  SealedFile() = default;
  Status map();
  files::Descriptor descriptor_;
  std::string path_, sha256_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

/// A plugin's file that was verified, with the libraries of ours that it needs, in the order of loading.
struct VerifiedPlugin {
  std::shared_ptr<SealedFile> file;
  std::vector<std::shared_ptr<SealedFile>> libraries;
  PluginFile contents;
  Manifest manifest;
  bool is_signed = false;
};

class Loader {
 public:
  /// `plugin_directory` holds the shipped plugins and the signed manifest; its parent the shipped libraries.
  /// `public_key` is 32 bytes; empty: nothing is trusted.
  Loader(std::string plugin_directory, std::string public_key);

  /// Reads and checks, runs nothing. PERMISSION_DENIED: unsigned and not allowed, or changed since it was signed.
  Result<VerifiedPlugin> verify(const std::string& path, bool allow_unsigned);
  /// The entry of the loaded plugin: the same for the same bytes. ALREADY_EXISTS: this process runs another build.
  Result<const pintle_plugin*> load(const VerifiedPlugin& plugin);
  /// The SHA-256 of the build of plugin `id` that this process runs; empty: none.
  std::string loaded_build(const std::string& id);
  /// Why no shipped plugin can be trusted at present; ok if they can.
  Status trust() const {
    std::lock_guard lock(trust_lock_);
    return trust_;
  }

 private:
  Status read_trust();
  /// 1: listed with this hash, 0: not listed, or an error.
  Result<bool> is_listed(const SealedFile& file);
  std::shared_ptr<SealedFile> shared(std::shared_ptr<SealedFile> file);

  const std::string plugin_directory_, public_key_;
  mutable std::mutex trust_lock_;  // of the two below
  Status trust_;
  std::map<std::string, std::string> listed_;  // file name -> sha256

  std::mutex lock_;
  struct Loaded {
    std::string sha256;
    const pintle_plugin* entry;
  };
  std::map<std::string, Loaded> loaded_;                          // by plugin id
  std::map<std::string, std::shared_ptr<SealedFile>> libraries_;  // loaded ones, by hash
  std::map<std::string, std::weak_ptr<SealedFile>> known_;        // verified ones, by hash
};

/// `data` signed by Ed25519 with `private_key` (PEM); 64 bytes.
Result<std::string> sign(std::string_view data, const std::string& private_key_pem);
/// The 32 bytes of the public half of a private key (PEM).
Result<std::string> public_half(const std::string& private_key_pem);
bool is_signed_by(std::string_view data, std::string_view signature, std::string_view public_key);

}  // namespace pintle::kernel
