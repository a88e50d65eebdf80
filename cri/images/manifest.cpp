#include "cri/images/manifest.hpp"

#include <sys/utsname.h>

#include <boost/json.hpp>
#include <ctime>
#include <limits>

namespace pintle::images {
namespace {

namespace json = boost::json;

constexpr size_t kMaximalLayers = 500;  // what overlayfs stacks
constexpr size_t kMaximalManifests = 1000;

Result<json::object> parse_object(std::string_view text, std::string_view what) {
  if (text.size() > kMaximalDocument) {
    return invalid_argument(std::string(what) + " is larger than " + std::to_string(kMaximalDocument) + " bytes");
  }
  json::error_code error;
  json::parse_options options;
  options.max_depth = 32;
  json::value value = json::parse(text, error, {}, options);
  if (error) return invalid_argument(std::string(what) + " is no JSON: " + error.message());
  if (!value.is_object()) return invalid_argument(std::string(what) + " is no JSON object");
  return std::move(value.as_object());
}

/// "" where the key is missing or no string: the reader decides whether it is needed.
std::string text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

std::vector<std::string> texts_of(const json::object& object, std::string_view key) {
  std::vector<std::string> texts;
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_array()) return texts;
  for (const json::value& item : value->get_array()) {
    if (item.is_string()) texts.emplace_back(item.get_string());
  }
  return texts;
}

std::map<std::string, std::string> map_of(const json::object& object, std::string_view key) {
  std::map<std::string, std::string> map;
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_object()) return map;
  for (const auto& item : value->get_object()) {
    if (item.value().is_string()) map.emplace(item.key(), item.value().get_string());
  }
  return map;
}

Result<Descriptor> descriptor_of(const json::value& value, std::string_view what) {
  if (!value.is_object()) return invalid_argument(std::string(what) + " is no descriptor");
  const json::object& object = value.get_object();
  Descriptor descriptor;
  descriptor.media_type = text_of(object, "mediaType");
  auto digest = Digest::parse(text_of(object, "digest"));
  if (!digest) return digest.status().with_context(what);
  descriptor.digest = std::move(*digest);
  const json::value* size = object.if_contains("size");
  if (!size || !size->is_int64() || size->get_int64() < 0) {
    return invalid_argument(std::string(what) + ": 'size' has to be a number of bytes");
  }
  descriptor.size = static_cast<uint64_t>(size->get_int64());
  if (const json::value* platform = object.if_contains("platform"); platform && platform->is_object()) {
    descriptor.operating_system = text_of(platform->get_object(), "os");
    descriptor.architecture = text_of(platform->get_object(), "architecture");
  }
  descriptor.annotations = map_of(object, "annotations");
  return descriptor;
}

json::object to_object(const Descriptor& descriptor) {
  return {{"mediaType", descriptor.media_type}, {"digest", descriptor.digest.to_string()}, {"size", descriptor.size}};
}

}  // namespace

bool is_index_media_type(std::string_view media_type) {
  return media_type == "application/vnd.oci.image.index.v1+json" ||
         media_type == "application/vnd.docker.distribution.manifest.list.v2+json";
}

bool is_manifest_media_type(std::string_view media_type) {
  return media_type.empty() || media_type == "application/vnd.oci.image.manifest.v1+json" ||
         media_type == "application/vnd.docker.distribution.manifest.v2+json";
}

Result<Index> Index::parse(std::string_view text) {
  auto object = parse_object(text, "the image index");
  if (!object) return object.status();
  const json::value* manifests = object->if_contains("manifests");
  if (!manifests || !manifests->is_array()) return invalid_argument("the image index has no list 'manifests'");
  if (manifests->get_array().size() > kMaximalManifests)
    return invalid_argument("the image index names too many manifests");
  Index index;
  for (const json::value& value : manifests->get_array()) {
    auto descriptor =
        descriptor_of(value, "manifests[" + std::to_string(index.manifests.size()) + "] of the image index");
    if (!descriptor) return descriptor.status();
    index.manifests.push_back(std::move(*descriptor));
  }
  return index;
}

Result<Manifest> Manifest::parse(std::string_view text) {
  auto object = parse_object(text, "the image manifest");
  if (!object) return object.status();
  if (const json::value* version = object->if_contains("schemaVersion");
      version && (!version->is_int64() || version->get_int64() != 2)) {
    return invalid_argument("the image manifest is not of schema version 2; save the image again with a newer tool");
  }
  Manifest manifest;
  const json::value* config = object->if_contains("config");
  if (!config) return invalid_argument("the image manifest has no 'config'");
  auto descriptor = descriptor_of(*config, "the image manifest's config");
  if (!descriptor) return descriptor.status();
  manifest.config = std::move(*descriptor);
  const json::value* layers = object->if_contains("layers");
  if (!layers || !layers->is_array()) return invalid_argument("the image manifest has no list 'layers'");
  if (layers->get_array().size() > kMaximalLayers) return invalid_argument("the image has more than 500 layers");
  for (const json::value& value : layers->get_array()) {
    const std::string what = "layers[" + std::to_string(manifest.layers.size()) + "] of the image manifest";
    auto layer = descriptor_of(value, what);
    if (!layer) return layer.status();
    const std::string& type = layer->media_type;
    if (type.find("tar") == std::string::npos || type.find("encrypted") != std::string::npos) {
      return invalid_argument(what + ": media type '" + type +
                              "' is no layer that can be unpacked here (tar, plain or with gzip or zstd)");
    }
    manifest.layers.push_back(std::move(*layer));
  }
  return manifest;
}

std::string Manifest::to_json() const {
  json::array layer_values;
  for (const Descriptor& layer : layers) layer_values.push_back(to_object(layer));
  return json::serialize(json::object{{"schemaVersion", 2},
                                      {"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                                      {"config", to_object(config)},
                                      {"layers", std::move(layer_values)}});
}

Result<Config> Config::parse(std::string_view text) {
  auto object = parse_object(text, "the image config");
  if (!object) return object.status();
  Config config;
  config.architecture = text_of(*object, "architecture");
  config.operating_system = text_of(*object, "os");
  config.created_at = parse_time(text_of(*object, "created"));
  if (const json::value* inner = object->if_contains("config"); inner && inner->is_object()) {
    const json::object& values = inner->get_object();
    config.entrypoint = texts_of(values, "Entrypoint");
    config.command = texts_of(values, "Cmd");
    config.environment = texts_of(values, "Env");
    config.working_directory = text_of(values, "WorkingDir");
    config.user = text_of(values, "User");
    config.stop_signal = text_of(values, "StopSignal");
    config.labels = map_of(values, "Labels");
  }
  const json::value* rootfs = object->if_contains("rootfs");
  if (!rootfs || !rootfs->is_object()) return invalid_argument("the image config has no 'rootfs'");
  for (const std::string& id : texts_of(rootfs->get_object(), "diff_ids")) {
    auto digest = Digest::parse(id);
    if (!digest) return digest.status().with_context("rootfs.diff_ids of the image config");
    config.diff_ids.push_back(std::move(*digest));
  }
  return config;
}

Result<std::vector<SavedImage>> parse_saved_images(std::string_view text) {
  if (text.size() > kMaximalDocument) return invalid_argument("manifest.json is too large");
  json::error_code error;
  json::parse_options options;
  options.max_depth = 32;
  json::value value = json::parse(text, error, {}, options);
  if (error) return invalid_argument("manifest.json is no JSON: " + error.message());
  if (!value.is_array()) return invalid_argument("manifest.json is no list of images");
  std::vector<SavedImage> images;
  for (const json::value& item : value.get_array()) {
    if (!item.is_object()) return invalid_argument("manifest.json: an image is no object");
    SavedImage image;
    image.config = text_of(item.get_object(), "Config");
    image.tags = texts_of(item.get_object(), "RepoTags");
    image.layers = texts_of(item.get_object(), "Layers");
    if (image.config.empty()) return invalid_argument("manifest.json: an image has no 'Config'");
    if (image.layers.size() > kMaximalLayers) return invalid_argument("the image has more than 500 layers");
    images.push_back(std::move(image));
    if (images.size() > kMaximalManifests) return invalid_argument("manifest.json names too many images");
  }
  return images;
}

std::string native_architecture() {
  utsname names{};
  uname(&names);
  const std::string_view machine = names.machine;
  if (machine == "x86_64") return "amd64";
  if (machine == "aarch64") return "arm64";
  if (machine.starts_with("armv")) return "arm";
  if (machine == "i686" || machine == "i386") return "386";
  return std::string(machine);  // ppc64le, s390x, riscv64 and loong64 are named alike
}

int64_t parse_time(std::string_view text) {
  std::tm parts{};
  const std::string copy(text.substr(0, 64));
  const char* rest = strptime(copy.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
  if (!rest) return 0;
  int64_t nanoseconds = 0;
  if (*rest == '.') {
    int64_t unit = 100'000'000;
    for (++rest; *rest >= '0' && *rest <= '9'; ++rest, unit /= 10) nanoseconds += (*rest - '0') * unit;
  }
  int64_t offset = 0;
  if (*rest == '+' || *rest == '-') {
    int hours = 0, minutes = 0;
    if (std::sscanf(rest + 1, "%2d:%2d", &hours, &minutes) != 2) return 0;
    offset = (hours * 3600 + minutes * 60) * (*rest == '-' ? -1 : 1);
  } else if (*rest != 'Z' && *rest != 'z') {
    return 0;
  }
  const int64_t seconds = timegm(&parts) - offset;
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max() / 1'000'000'000 - 1;
  if (seconds <= 0 || seconds > kLargest) return 0;
  return seconds * 1'000'000'000 + nanoseconds;
}

}  // namespace pintle::images
