// What a registry may answer: manifests, indexes, configs, tokens and errors. Nothing of it crashes, a chosen manifest is one of the
// index, and what is told of an error is one line.
#include <algorithm>
#include <cstdlib>

#include "cri/images/registry.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle::images;
  if (size == 0) return 0;
  static const char* const kTypes[] = {"", "application/vnd.oci.image.index.v1+json",
                                       "application/vnd.docker.distribution.manifest.v2+json", "text/html"};
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  Repository::Document document{text, kTypes[data[0] % 4], {}};
  if (is_index(document)) {
    if (auto index = Index::parse(text)) {
      auto chosen = choose_manifest(*index, "amd64");
      const auto is_chosen = [&](const Descriptor& one) { return chosen && one.digest == chosen->digest; };
      if (chosen && std::none_of(index->manifests.begin(), index->manifests.end(), is_chosen)) std::abort();
    }
  }
  if (auto manifest = Manifest::parse(text)) {
    auto again = Manifest::parse(manifest->to_json());
    if (!again || again->layers.size() != manifest->layers.size()) std::abort();
  }
  (void)Config::parse(text);
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (auto token = parse_token(text); token && std::any_of(token->begin(), token->end(), is_control)) std::abort();
  Response response;
  response.body = text;
  response.headers["content-type"] = document.media_type;
  const std::string told = explain_answer(response);
  if (told.size() > 200 || std::any_of(told.begin(), told.end(), is_control)) std::abort();
  return 0;
}
