#pragma once

/// What a plugin's file says about itself, read from its bytes: none of its code runs, nothing is mapped executable.
///
/// A plugin carries an ELF note (`pintle_elf_note` of <pintle/abi.h>) and one data symbol, `pintle_plugin_entry`. Both are
/// found by following the ELF tables of a 64-bit little-endian shared object, every offset and count checked against the
/// file's size. The manifest and the config schema are texts that the entry points to; the pointers are resolved by the
/// file's own relocations, as the dynamic linker would. The note's hash must be that of these texts, so that a file whose
/// manifest was patched is refused here.
///
///     Result<PluginFile> file = read_plugin_file("/usr/lib/pintle/plugins/libpintle_network_bridge.so");
///     if (!file) return file.status();      // "…: has no note of a Pintle plugin; is it one?"
///     validate(config, file->config_schema);

#include <array>
#include <cstddef>
#include <cstdint>
#include <pintle/status.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pintle {

struct PluginFile {
  std::string id;
  std::string version;
  uint16_t abi_major = 0, abi_minor = 0;
  std::string manifest;                // JSON text
  std::string config_schema;           // JSON Schema text; empty: the plugin takes no config
  std::vector<std::string> libraries;  // DT_NEEDED, by soname
};

/// Parses a shared object of at most 1 GiB. Any thread. INVALID_ARGUMENT: it is not a plugin, or a damaged one;
/// FAILED_PRECONDITION: it speaks another ABI than this host. `name` is what messages call the file.
Result<PluginFile> read_plugin_file(std::span<const uint8_t> bytes, std::string_view name);

/// The same from a path. NOT_FOUND: there is no such file.
Result<PluginFile> read_plugin_file(const std::string& path);

}  // namespace pintle
