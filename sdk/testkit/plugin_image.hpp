#pragma once

/// What a plugin's file says before any of its code runs: the first steps of `plugin_check.hpp`, on libelf.

#include <pintle/abi.h>

#include <string>
#include <vector>

#include "sdk/testkit/plugin_check.hpp"

namespace pintle::testkit {

struct PluginImage {
  std::string id;
  std::string manifest;       // the bytes of the section .pintle.manifest
  std::string config_schema;  // and of .pintle.schema
  uint16_t abi_major = 0, abi_minor = 0;
  std::vector<std::string> libraries;  // of ours that it is linked with, by soname
};

/// Adds the steps `file`, `note`, `symbols` and `linking`; stops after the first that makes the others pointless.
PluginImage read_plugin_image(const std::string& path, std::vector<CheckStep>& steps);

/// Where this program has its own libpintle_*.so from.
std::vector<std::string> own_library_folders();

}  // namespace pintle::testkit
