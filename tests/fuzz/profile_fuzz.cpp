// No profile may crash its reader; one without problems must give the same plan when its merged form is read again.

#include <cstdint>
#include <cstdlib>

#include "kernel/profile/profile.hpp"

namespace {

pintle::Result<pintle::PluginFile> any_plugin(const std::string&) {
  pintle::PluginFile file;
  file.id = "bridge";
  file.manifest = R"({"id": "any", "version": "1.0.0", "needs": [{"name": "runtime", "interface": "x.v1.Runtime"}]})";
  file.config_schema = R"({"type": "object", "additionalProperties": false, "properties": {
    "cidr": {"type": "string", "format": "cidr"}, "mtu": {"type": "integer", "default": 1500}}})";
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const pintle::ProfileSources sources{{}, {}, any_plugin};
  auto profile = pintle::resolve_profile_text(text, "fuzz", sources);
  if (!profile || !profile->problems.empty()) return 0;
  auto again = pintle::resolve_profile_text(pintle::document::write_yaml(profile->merged.value()), "again", sources);
  if (!again || !again->problems.empty() || !pintle::diff_plans(profile->plan, again->plan).empty()) std::abort();
  return 0;
}
