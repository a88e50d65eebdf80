#include "sdk/support/plugin_file/plugin_file.hpp"

#include <elf.h>
#include <openssl/sha.h>
#include <pintle/abi.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "sdk/support/files/files.hpp"

namespace pintle {
namespace {

constexpr uint64_t max_file = 1ull << 30;
constexpr uint64_t max_text = 1ull << 20;
constexpr int max_headers = 128;

#if defined(__x86_64__)
constexpr uint16_t machine = EM_X86_64;
constexpr uint32_t relative_relocation = R_X86_64_RELATIVE, symbol_relocation = R_X86_64_64;
#elif defined(__aarch64__)
constexpr uint16_t machine = EM_AARCH64;
constexpr uint32_t relative_relocation = R_AARCH64_RELATIVE, symbol_relocation = R_AARCH64_ABS64;
#endif

/// The fixed head of pintle_plugin, as far as it is read here.
struct EntryHead {
  uint32_t size;
  uint16_t abi_major, abi_minor;
  struct {
    uint64_t data, size;
  } id, version, manifest, config_schema;
};

class Elf {
 public:
  explicit Elf(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  /// What is wrong with the file; null: nothing so far.
  const char* open() {
    Elf64_Ehdr header{};
    if (bytes_.size() > max_file) return "larger than 1 GiB";
    if (!read(0, header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return "not an ELF file";
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_machine != machine)
      return "built for another machine";
    if (header.e_type != ET_DYN) return "not a shared object";
    if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 || header.e_phnum > max_headers)
      return "has no sound program headers";
    for (int i = 0; i < header.e_phnum; ++i) {
      Elf64_Phdr segment{};
      if (header.e_phoff > bytes_.size() || !read(header.e_phoff + static_cast<uint64_t>(i) * sizeof segment, segment))
        return "is cut off in its program headers";
      if (segment.p_offset > bytes_.size() || segment.p_filesz > bytes_.size() - segment.p_offset)
        return "is cut off in a segment";
      if (segment.p_type == PT_LOAD) loads_.push_back(segment);
      if (segment.p_type == PT_NOTE) notes_.push_back(segment);
      if (segment.p_type == PT_DYNAMIC) dynamic_ = segment;
    }
    for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= dynamic_.p_filesz; at += sizeof(Elf64_Dyn)) {
      Elf64_Dyn entry{};
      if (!read(dynamic_.p_offset + at, entry) || entry.d_tag == DT_NULL) break;
      switch (entry.d_tag) {
        case DT_SYMTAB:
          symbols_ = entry.d_un.d_ptr;
          break;
        case DT_STRTAB:
          strings_ = entry.d_un.d_ptr;
          break;
        case DT_STRSZ:
          strings_size_ = entry.d_un.d_val;
          break;
        case DT_GNU_HASH:
          hash_ = entry.d_un.d_ptr;
          break;
        case DT_RELA:
          relocations_ = entry.d_un.d_ptr;
          break;
        case DT_RELASZ:
          relocations_size_ = entry.d_un.d_val;
          break;
        case DT_NEEDED:
          if (needed_.size() < 256) needed_.push_back(entry.d_un.d_val);
          break;
        default:
          break;
      }
    }
    return symbols_ == 0 || strings_ == 0 ? "has no dynamic symbols" : nullptr;
  }

  std::optional<pintle_elf_note> note() const {
    for (const Elf64_Phdr& segment : notes_) {
      uint64_t at = 0;
      for (int guard = 0; guard < max_headers && at + 12 <= segment.p_filesz; ++guard) {
        uint32_t head[3];
        if (!read(segment.p_offset + at, head)) break;
        const uint64_t align = segment.p_align == 8 ? 8 : 4;
        const uint64_t description = (12 + uint64_t{head[0]} + align - 1) / align * align;
        const uint64_t next = (description + head[1] + align - 1) / align * align;
        pintle_elf_note note{};
        if (head[0] == sizeof note.name && head[1] == sizeof note - 20 && head[2] == PINTLE_NOTE_TYPE &&
            description == 20 && at + sizeof note <= segment.p_filesz && read(segment.p_offset + at, note) &&
            std::memcmp(note.name, PINTLE_NOTE_NAME, sizeof PINTLE_NOTE_NAME) == 0)
          return note;
        at += next;
      }
    }
    return std::nullopt;
  }

  /// The address of a defined dynamic symbol, by the GNU hash table.
  std::optional<uint64_t> symbol(std::string_view name) const {
    uint32_t head[4];  // buckets, first symbol, bloom words, bloom shift
    if (hash_ == 0 || !read_at(hash_, head) || head[0] == 0) return std::nullopt;
    uint32_t hash = 5381;
    for (char c : name) hash = hash * 33 + static_cast<uint8_t>(c);
    const uint64_t buckets = hash_ + 16 + uint64_t{head[2]} * 8;
    const uint64_t chains = buckets + uint64_t{head[0]} * 4;
    uint32_t index = 0;
    if (!read_at(buckets + uint64_t{hash % head[0]} * 4, index) || index < head[1]) return std::nullopt;
    for (int guard = 0; guard < 65536; ++guard, ++index) {
      uint32_t value = 0;
      Elf64_Sym symbol{};
      if (!read_at(chains + uint64_t{index - head[1]} * 4, value)) return std::nullopt;
      if ((value | 1) == (hash | 1) && read_at(symbols_ + uint64_t{index} * sizeof symbol, symbol) &&
          symbol.st_shndx != SHN_UNDEF && string(symbol.st_name) == name)
        return symbol.st_value;
      if (value & 1) break;
    }
    return std::nullopt;
  }

  /// The pointer that will stand at `address` when the file is loaded at 0.
  uint64_t pointer(uint64_t address, uint64_t in_place) const {
    for (uint64_t at = 0; at + sizeof(Elf64_Rela) <= std::min(relocations_size_, max_file); at += sizeof(Elf64_Rela)) {
      Elf64_Rela relocation{};
      if (!read_at(relocations_ + at, relocation)) break;
      if (relocation.r_offset != address) continue;
      const uint32_t type = ELF64_R_TYPE(relocation.r_info);
      if (type == relative_relocation) return static_cast<uint64_t>(relocation.r_addend);
      Elf64_Sym symbol{};
      if (type == symbol_relocation && read_at(symbols_ + ELF64_R_SYM(relocation.r_info) * sizeof symbol, symbol))
        return symbol.st_value + static_cast<uint64_t>(relocation.r_addend);
      return 0;
    }
    return in_place;
  }

  std::optional<std::string> text(uint64_t field_address, uint64_t in_place, uint64_t size) const {
    if (size == 0) return std::string();
    if (size > max_text) return std::nullopt;
    const auto offset = offset_of(pointer(field_address, in_place), size);
    if (!offset) return std::nullopt;
    return std::string(reinterpret_cast<const char*>(bytes_.data() + *offset), size);
  }

  template <class T>
  bool read_at(uint64_t address, T& out) const {
    const auto offset = offset_of(address, sizeof(T));
    return offset && read(*offset, out);
  }

  std::vector<std::string> libraries() const {
    std::vector<std::string> out;
    for (uint64_t name : needed_) out.emplace_back(string(name));
    return out;
  }

 private:
  template <class T>
  bool read(uint64_t offset, T& out) const {
    if (offset > bytes_.size() || sizeof(T) > bytes_.size() - offset) return false;
    std::memcpy(&out, bytes_.data() + offset, sizeof(T));
    return true;
  }

  std::optional<uint64_t> offset_of(uint64_t address, uint64_t size) const {
    for (const Elf64_Phdr& load : loads_)
      if (address >= load.p_vaddr && address - load.p_vaddr <= load.p_filesz &&
          size <= load.p_filesz - (address - load.p_vaddr))
        return load.p_offset + (address - load.p_vaddr);
    return std::nullopt;
  }

  std::string_view string(uint64_t index) const {
    if (index >= strings_size_) return {};
    const uint64_t room = std::min<uint64_t>(strings_size_ - index, 4096);
    const auto offset = offset_of(strings_ + index, 1);
    if (!offset) return {};
    const char* begin = reinterpret_cast<const char*>(bytes_.data() + *offset);
    return {begin, strnlen(begin, std::min<uint64_t>(room, bytes_.size() - *offset))};
  }

  std::span<const uint8_t> bytes_;
  std::vector<Elf64_Phdr> loads_, notes_;
  Elf64_Phdr dynamic_{};
  std::vector<uint64_t> needed_;
  uint64_t symbols_ = 0, strings_ = 0, strings_size_ = 0, hash_ = 0, relocations_ = 0, relocations_size_ = 0;
};

}  // namespace

Result<PluginFile> read_plugin_file(std::span<const uint8_t> bytes, std::string_view name) {
  const auto refuse = [&](const std::string& why) { return invalid_argument(std::string(name) + ": " + why); };
  Elf elf(bytes);
  if (const char* wrong = elf.open(); wrong != nullptr) return refuse(wrong);
  const auto note = elf.note();
  if (!note) return refuse("has no note of a Pintle plugin; is it one?");
  const std::string note_id(note->id, strnlen(note->id, sizeof note->id));
  if (note->abi_major != PINTLE_ABI_MAJOR || note->abi_minor > PINTLE_ABI_MINOR ||
      (PINTLE_ABI_MAJOR == 0 && note->abi_minor != PINTLE_ABI_MINOR))
    return failed_precondition(std::string(name) + ": plugin " + note_id + " speaks ABI " +
                               std::to_string(note->abi_major) + "." + std::to_string(note->abi_minor) +
                               ", this host " + std::to_string(PINTLE_ABI_MAJOR) + "." +
                               std::to_string(PINTLE_ABI_MINOR) + "; install the build of the plugin for this release");
  const auto address = elf.symbol("pintle_plugin_entry");
  EntryHead entry{};
  if (!address || !elf.read_at(*address, entry)) return refuse("does not export pintle_plugin_entry");
  if (entry.size < sizeof(pintle_plugin)) return refuse("its entry is smaller than pintle_plugin of its ABI");
  const auto text_of = [&](const auto& field, size_t offset) {
    return elf.text(*address + offset, field.data, field.size);
  };
  const auto id = text_of(entry.id, offsetof(EntryHead, id));
  const auto version = text_of(entry.version, offsetof(EntryHead, version));
  const auto manifest = text_of(entry.manifest, offsetof(EntryHead, manifest));
  const auto schema = text_of(entry.config_schema, offsetof(EntryHead, config_schema));
  if (!id || !version || !manifest || !schema) return refuse("a text of its entry lies outside of the file");
  if (*id != note_id) return refuse("its entry is \"" + *id + "\", its note \"" + note_id + "\"");
  const std::string texts = *manifest + *schema;
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const uint8_t*>(texts.data()), texts.size(), digest);
  if (std::memcmp(digest, note->manifest_sha256, sizeof digest) != 0)
    return refuse("its manifest or config schema is not the one that its note was made for");
  return PluginFile{*id, *version, note->abi_major, note->abi_minor, *manifest, *schema, elf.libraries()};
}

Result<PluginFile> read_plugin_file(const std::string& path) {
  Result<std::string> bytes = files::read_file(path, max_file);
  if (!bytes) return bytes.status();
  return read_plugin_file({reinterpret_cast<const uint8_t*>(bytes->data()), bytes->size()}, path);
}

}  // namespace pintle
