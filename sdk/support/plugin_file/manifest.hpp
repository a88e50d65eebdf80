#pragma once

/// A plugin's manifest (`manifest.schema.json` of the SDK): who it is, what it provides and needs, and what it may do.

#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::plugin {

enum class When : uint8_t { start, late, optional };

struct Provided {
  std::string interface;
  uint32_t revision = 1;
  std::vector<std::string> features;
  uint64_t feature_bits = 0;  // by the order of the interface's schema; "featureBits" of the manifest
};

struct Need {
  std::string name;
  std::string interface;
  uint32_t revision = 1;
  When when = When::start;
  bool many = false;
};

struct Manifest {
  std::string id, version, summary, maturity, posture;
  std::vector<Provided> provides;
  std::vector<Need> needs;
  std::vector<std::string> capabilities;  // "CAP_NET_ADMIN"
  uint64_t memory_limit = 0;              // bytes, of an isolated instance; 0: the host's default
};

/// INVALID_ARGUMENT names the member that is wrong. `name` is what messages call the text.
Result<Manifest> parse_manifest(std::string_view json, std::string_view name);

/// "64Mi", "1Gi", "500k", "1000": bytes, as Kubernetes writes quantities.
Result<uint64_t> parse_bytes(std::string_view quantity);

const char* when_name(When when);

}  // namespace pintle::plugin
