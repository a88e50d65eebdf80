#include "sdk/support/plugin_file/manifest.hpp"
#include "sdk/support/plugin_file/plugin_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const pintle::Result<pintle::PluginFile> file = pintle::read_plugin_file({data, size}, "input");
  if (file) static_cast<void>(pintle::plugin::parse_manifest(file->manifest, "input").is_ok());
  static_cast<void>(pintle::plugin::parse_manifest({reinterpret_cast<const char*>(data), size}, "input").is_ok());
  return 0;
}
