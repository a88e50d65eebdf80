#include "sdk/testkit/plugin_image.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <gelf.h>
#include <link.h>
#include <openssl/sha.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>

#include "sdk/support/files/files.hpp"

namespace pintle::testkit {
namespace {

constexpr std::string_view entry_symbol = "pintle_plugin_entry";

struct ElfEnd {
  void operator()(Elf* elf) const { elf_end(elf); }
};

/// One open ELF file; what libelf refuses reads as absent.
class ElfFile {
 public:
  explicit ElfFile(const files::Descriptor& file) {
    elf_version(EV_CURRENT);
    elf_.reset(elf_begin(file.get(), ELF_C_READ, nullptr));
    readable_ = elf_ && elf_kind(elf_.get()) == ELF_K_ELF && gelf_getehdr(elf_.get(), &header_) != nullptr;
  }

  bool readable() const { return readable_; }
  const GElf_Ehdr& header() const { return header_; }

  std::vector<GElf_Phdr> segments() const {
    std::vector<GElf_Phdr> all;
    size_t count = 0;
    if (elf_getphdrnum(elf_.get(), &count) != 0) return all;
    for (size_t i = 0; i < count; ++i) {
      GElf_Phdr segment;
      if (gelf_getphdr(elf_.get(), static_cast<int>(i), &segment)) all.push_back(segment);
    }
    return all;
  }

  struct Section {
    Elf_Scn* handle;
    GElf_Shdr header;
    std::string name;
  };
  std::vector<Section> sections() const {
    std::vector<Section> all;
    size_t names = 0;
    if (elf_getshdrstrndx(elf_.get(), &names) != 0) return all;
    for (Elf_Scn* at = elf_nextscn(elf_.get(), nullptr); at; at = elf_nextscn(elf_.get(), at)) {
      GElf_Shdr header;
      if (!gelf_getshdr(at, &header)) continue;
      const char* name = elf_strptr(elf_.get(), names, header.sh_name);
      all.push_back({at, header, name ? name : ""});
    }
    return all;
  }
  std::optional<Section> section(std::string_view name) const {
    for (Section& one : sections()) {
      if (one.name == name) return std::move(one);
    }
    return std::nullopt;
  }
  static std::string bytes(const Section& section) {
    const Elf_Data* data = section.header.sh_type == SHT_NOBITS ? nullptr : elf_rawdata(section.handle, nullptr);
    return data && data->d_buf ? std::string(static_cast<const char*>(data->d_buf), data->d_size) : std::string();
  }

  struct Dynamic {
    uint64_t flags = 0, flags_1 = 0;
    std::vector<std::string> needed;
    bool text_relocations = false, bind_now = false;
  };
  Dynamic dynamic() const {
    Dynamic found;
    each_entry(SHT_DYNAMIC, [&](Elf_Data* data, const GElf_Shdr& table, int i) {
      GElf_Dyn entry;
      if (!gelf_getdyn(data, i, &entry)) return;
      if (entry.d_tag == DT_FLAGS) found.flags = entry.d_un.d_val;
      if (entry.d_tag == DT_FLAGS_1) found.flags_1 = entry.d_un.d_val;
      if (entry.d_tag == DT_TEXTREL) found.text_relocations = true;
      if (entry.d_tag == DT_BIND_NOW) found.bind_now = true;
      if (entry.d_tag == DT_NEEDED) {
        const char* name = elf_strptr(elf_.get(), table.sh_link, entry.d_un.d_val);
        if (name) found.needed.emplace_back(name);
      }
    });
    found.text_relocations |= (found.flags & DF_TEXTREL) != 0;
    found.bind_now |= (found.flags & DF_BIND_NOW) != 0 || (found.flags_1 & DF_1_NOW) != 0;
    return found;
  }

  struct Symbol {
    std::string name;
    bool is_object;
    uint64_t size;
  };
  std::vector<Symbol> exported() const {
    std::vector<Symbol> all;
    each_entry(SHT_DYNSYM, [&](Elf_Data* data, const GElf_Shdr& table, int i) {
      GElf_Sym symbol;
      if (!gelf_getsym(data, i, &symbol) || symbol.st_shndx == SHN_UNDEF || GELF_ST_BIND(symbol.st_info) == STB_LOCAL)
        return;
      const char* name = elf_strptr(elf_.get(), table.sh_link, symbol.st_name);
      all.push_back({name ? name : "?", GELF_ST_TYPE(symbol.st_info) == STT_OBJECT, symbol.st_size});
    });
    return all;
  }

  /// Whether a relocation asks for a fixed offset from the thread pointer, which is what initial-exec code does.
  bool has_initial_exec_tls() const {
    bool found = (dynamic().flags & DF_STATIC_TLS) != 0;
    each_entry(SHT_RELA, [&](Elf_Data* data, const GElf_Shdr&, int i) {
      GElf_Rela relocation;
      if (!gelf_getrela(data, i, &relocation)) return;
      const uint64_t type = GELF_R_TYPE(relocation.r_info);
      if (header_.e_machine == EM_X86_64) found |= type == R_X86_64_TPOFF64 || type == R_X86_64_TPOFF32;
      if (header_.e_machine == EM_AARCH64) found |= type == R_AARCH64_TLS_TPREL;
    });
    return found;
  }

 private:
  template <class Function>
  void each_entry(uint32_t section_type, Function function) const {
    for (const Section& section : sections()) {
      if (section.header.sh_type != section_type || section.header.sh_entsize == 0) continue;
      Elf_Data* data = elf_getdata(section.handle, nullptr);
      if (!data) continue;
      const auto count =
          static_cast<int>(std::min<uint64_t>(section.header.sh_size / section.header.sh_entsize, 1u << 24));
      for (int i = 0; i < count; ++i) function(data, section.header, i);
    }
  }

  std::unique_ptr<Elf, ElfEnd> elf_;
  GElf_Ehdr header_{};
  bool readable_ = false;
};

std::string abi_text(uint32_t major, uint32_t minor) { return std::to_string(major) + "." + std::to_string(minor); }

GElf_Ehdr own_header() {
  GElf_Ehdr header{};
  Result<files::Descriptor> self = files::open_at(AT_FDCWD, "/proc/self/exe", O_RDONLY);
  if (self) header = ElfFile(*self).header();
  return header;
}

CheckStep check_file(const ElfFile& elf, off_t size) {
  CheckStep step{"file", Outcome::failed, "", {}};
  const GElf_Ehdr& header = elf.header();
  const GElf_Ehdr own = own_header();
  if (!elf.readable()) {
    step.summary = "it is no ELF file; a plugin is a shared object, built by pintle_plugin()";
  } else if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != own.e_ident[EI_DATA]) {
    step.summary = "it is no 64-bit ELF file of this machine's byte order";
  } else if (header.e_machine != own.e_machine) {
    step.summary = "it is built for another processor (ELF machine " + std::to_string(header.e_machine) +
                   "; this one is " + std::to_string(own.e_machine) + ")";
  } else if (header.e_type != ET_DYN) {
    step.summary =
        "it is no shared object, but of ELF type " + std::to_string(header.e_type) + "; build it by pintle_plugin()";
  } else {
    step.outcome = Outcome::passed;
    step.summary = "a 64-bit shared object for this processor, " + std::to_string((size + 1023) / 1024) + " KiB";
  }
  return step;
}

CheckStep check_note(const ElfFile& elf, PluginImage& image) {
  CheckStep step{"note", Outcome::failed, "", {}};
  const auto section = elf.section(".note.pintle");
  if (!section) {
    step.summary = "it has no section .note.pintle, so it is no plugin; pintle_plugin() of CMake makes one";
    return step;
  }
  const std::string bytes = ElfFile::bytes(*section);
  pintle_elf_note note{};
  if (bytes.size() < sizeof note) {
    step.summary =
        "its note has " + std::to_string(bytes.size()) + " bytes; a plugin's has " + std::to_string(sizeof note);
    return step;
  }
  std::memcpy(&note, bytes.data(), sizeof note);
  if (note.type != PINTLE_NOTE_TYPE || std::memcmp(note.name, PINTLE_NOTE_NAME "\0", sizeof note.name) != 0 ||
      note.name_size != sizeof note.name || note.descriptor_size < sizeof note - 20 ||
      note.id[sizeof note.id - 1] != 0) {
    step.summary = "its note is not one of Pintle; let pintle_plugin() make it";
    return step;
  }
  image.id = note.id;
  image.abi_major = note.abi_major;
  image.abi_minor = note.abi_minor;
  const auto manifest = elf.section(".pintle.manifest"), schema = elf.section(".pintle.schema");
  if (!manifest || !schema) {
    step.findings.push_back(std::string("the section ") + (manifest ? ".pintle.schema" : ".pintle.manifest") +
                            " is missing");
  } else {
    image.manifest = ElfFile::bytes(*manifest);
    image.config_schema = ElfFile::bytes(*schema);
    const std::string texts = image.manifest + image.config_schema;
    uint8_t hash[SHA256_DIGEST_LENGTH];
    SHA256(reinterpret_cast<const uint8_t*>(texts.data()), texts.size(), hash);
    if (std::memcmp(hash, note.manifest_sha256, sizeof hash) != 0) {
      step.findings.emplace_back(
          "its hash is not that of the manifest and the config schema: they were changed after the build");
    }
  }
  // While the ABI is a draft (major 0), a minor number may differ in everything.
  const bool speaks = note.abi_major == PINTLE_ABI_MAJOR &&
                      (PINTLE_ABI_MAJOR == 0 ? note.abi_minor == PINTLE_ABI_MINOR : note.abi_minor <= PINTLE_ABI_MINOR);
  if (!speaks) {
    step.findings.push_back("it speaks ABI " + abi_text(note.abi_major, note.abi_minor) + ", this SDK " +
                            abi_text(PINTLE_ABI_MAJOR, PINTLE_ABI_MINOR) + "; build it again");
  }
  step.outcome = step.findings.empty() ? Outcome::passed : Outcome::failed;
  step.summary = image.id + ", ABI " + abi_text(note.abi_major, note.abi_minor);
  return step;
}

CheckStep check_symbols(const ElfFile& elf) {
  CheckStep step{"symbols", Outcome::passed, "", {}};
  const std::vector<ElfFile::Symbol> exported = elf.exported();
  const auto entry =
      std::find_if(exported.begin(), exported.end(), [](const auto& symbol) { return symbol.name == entry_symbol; });
  if (entry == exported.end()) {
    step.findings.push_back(std::string(entry_symbol) + " is not exported");
  } else if (!entry->is_object) {
    step.findings.push_back(std::string(entry_symbol) + " is no data symbol");
  }
  constexpr size_t most_named = 10;
  size_t others = 0;
  for (const ElfFile::Symbol& symbol : exported) {
    if (symbol.name == entry_symbol) continue;
    if (++others <= most_named) step.findings.push_back(symbol.name + " is exported; hide all symbols but the entry");
  }
  if (others > most_named) step.findings.push_back("and " + std::to_string(others - most_named) + " more");
  step.outcome = step.findings.empty() ? Outcome::passed : Outcome::failed;
  step.summary = std::to_string(exported.size()) + " exported";
  return step;
}

/// The dynamic linker of this program.
std::string own_linker() {
  std::string found;
  dl_iterate_phdr(
      [](dl_phdr_info* program, size_t, void* into) {
        for (int i = 0; i < program->dlpi_phnum; ++i) {
          if (program->dlpi_phdr[i].p_type != PT_INTERP) continue;
          *static_cast<std::string*>(into) =
              reinterpret_cast<const char*>(program->dlpi_addr + program->dlpi_phdr[i].p_vaddr);
        }
        return 1;  // the first is the program itself
      },
      &found);
  return found;
}

/// Lets the dynamic linker resolve all symbols without running the file, and gives what it complains of.
std::vector<std::string> unresolved(const std::string& path) {
  const std::string linker = own_linker();
  if (linker.empty()) return {};
  std::string library_path = "LD_LIBRARY_PATH=";
  for (const std::string& folder : own_library_folders()) library_path += folder + ":";
  std::string trace = "LD_TRACE_LOADED_OBJECTS=1", warn = "LD_WARN=yes", now = "LD_BIND_NOW=yes", file = path,
              program = linker;
  char* const arguments[] = {program.data(), file.data(), nullptr};
  char* const environment[] = {trace.data(), warn.data(), now.data(), library_path.data(), nullptr};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  const files::Descriptor reading(ends[0]);
  files::Descriptor writing(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, writing.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, writing.get(), STDERR_FILENO);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, linker.c_str(), &actions, nullptr, arguments, environment);
  posix_spawn_file_actions_destroy(&actions);
  writing.reset();
  if (error != 0) return {"the dynamic linker " + linker + " does not start: " + std::strerror(error)};
  const Result<std::string> said = files::read_all(reading.get(), 4u << 20);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  std::vector<std::string> complaints;
  std::istringstream lines(said ? *said : "");
  for (std::string line; std::getline(lines, line);) {
    const size_t text = line.find_first_not_of(" \t");
    if (text == std::string::npos) continue;
    line.erase(0, text);
    if (const size_t missing = line.find(" => not found"); missing != std::string::npos) {
      complaints.push_back("it needs the library " + line.substr(0, missing) + ", which is not found");
    } else if (line.find("undefined symbol") != std::string::npos || line.find("not defined") != std::string::npos) {
      std::replace(line.begin(), line.end(), '\t', ' ');
      complaints.push_back(line);
    }
  }
  if (complaints.empty() && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
    complaints.emplace_back("the dynamic linker refuses it: " + (said ? *said : said.status().message()));
  }
  return complaints;
}

CheckStep check_linking(const ElfFile& elf, const std::string& path) {
  CheckStep step{"linking", Outcome::passed, "", {}};
  const ElfFile::Dynamic dynamic = elf.dynamic();
  if (elf.has_initial_exec_tls()) {
    step.findings.emplace_back(
        "it has thread-local data of the initial-exec model, for which a loaded plugin has no room; compile with "
        "-ftls-model=global-dynamic");
  }
  if (!dynamic.bind_now) step.findings.emplace_back("symbols are bound lazily; link with -Wl,-z,now");
  if (dynamic.text_relocations) step.findings.emplace_back("its code is relocated at load time; compile with -fPIC");
  bool relro = false, stack = false;
  for (const GElf_Phdr& segment : elf.segments()) {
    relro |= segment.p_type == PT_GNU_RELRO;
    if (segment.p_type == PT_GNU_STACK) {
      stack = true;
      if (segment.p_flags & PF_X)
        step.findings.emplace_back("it wants an executable stack; link with -Wl,-z,noexecstack");
    }
    if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) && (segment.p_flags & PF_W)) {
      step.findings.emplace_back("it has a segment that is writable and executable");
    }
  }
  if (!relro) step.findings.emplace_back("its tables stay writable; link with -Wl,-z,relro");
  if (!stack) step.findings.emplace_back("it does not say what its stack is like; link with -Wl,-z,noexecstack");
  for (std::string& complaint : unresolved(path)) step.findings.push_back(std::move(complaint));
  step.outcome = step.findings.empty() ? Outcome::passed : Outcome::failed;
  step.summary = "thread-local storage, binding, relocations, stack, libraries";
  return step;
}

}  // namespace

std::vector<std::string> own_library_folders() {
  std::vector<std::string> folders;
  for (const link_map* library = static_cast<link_map*>(dlopen(nullptr, RTLD_NOW)); library;
       library = library->l_next) {
    const std::string_view name = library->l_name;
    if (name.find("/libpintle_") == std::string_view::npos) continue;
    const std::string folder(name.substr(0, name.rfind('/')));
    if (std::find(folders.begin(), folders.end(), folder) == folders.end()) folders.push_back(folder);
  }
  return folders;
}

PluginImage read_plugin_image(const std::string& path, std::vector<CheckStep>& steps) {
  PluginImage image;
  Result<files::Descriptor> file = files::open_at(AT_FDCWD, path, O_RDONLY);
  struct stat facts {};
  if (!file || fstat(file->get(), &facts) != 0 || !S_ISREG(facts.st_mode)) {
    steps.push_back({"file", Outcome::failed, file ? path + " is not a regular file" : file.status().message(), {}});
    return image;
  }
  const ElfFile elf(*file);
  steps.push_back(check_file(elf, facts.st_size));
  if (steps.back().outcome != Outcome::passed) return image;
  steps.push_back(check_note(elf, image));
  if (image.id.empty()) return image;
  for (std::string& library : elf.dynamic().needed) {
    if (library.starts_with("libpintle_")) image.libraries.push_back(std::move(library));
  }
  steps.push_back(check_symbols(elf));
  steps.push_back(check_linking(elf, path));
  return image;
}

}  // namespace pintle::testkit
