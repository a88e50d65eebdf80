#include "kernel/loader/manifest.hpp"
#include "kernel/loader/plugin_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const pintle::Result<pintle::PluginFile> file = pintle::read_plugin_file({data, size}, "input");
  if (file) static_cast<void>(pintle::kernel::parse_manifest(file->manifest, "input").is_ok());
  static_cast<void>(pintle::kernel::parse_manifest({reinterpret_cast<const char*>(data), size}, "input").is_ok());
  return 0;
}
