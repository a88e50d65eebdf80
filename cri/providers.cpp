#include "cri/providers.hpp"

#include <algorithm>

namespace pintle::cri {
namespace {

std::string_view provider_of(std::string_view key) { return key.substr(0, key.rfind('@')); }

}  // namespace

const Binding* Providers::find(const std::vector<Binding>& bindings, std::string_view key) {
  for (const Binding& binding : bindings) {
    if (binding.key == key) return &binding;
  }
  for (const Binding& binding : bindings) {
    if (binding.provider == provider_of(key)) return &binding;
  }
  return nullptr;
}

const Binding* Providers::prefer(const std::vector<Binding>& bindings, std::string_view provider) {
  const Binding* first = nullptr;
  for (const Binding& binding : bindings) {
    if (binding.retiring) continue;
    if (!first) first = &binding;
    if (!provider.empty() && binding.provider == provider) return &binding;
  }
  return first;
}

Result<Providers::Choice> Providers::choose_runtime(const std::string& handler) const {
  if (handler.empty()) {
    if (const Binding* binding = prefer(runtimes_, preferences_.runtime)) return Choice{*binding, ""};
    return unavailable("no runtime backend is running: look at `pintle status`");
  }
  std::string known;
  for (const Binding& binding : runtimes_) {
    if (binding.retiring) continue;
    if (binding.provider == handler) return Choice{binding, ""};
    const auto& handlers = description(binding.key).handlers();
    if (std::find(handlers.begin(), handlers.end(), handler) != handlers.end()) return Choice{binding, handler};
    known += (known.empty() ? "" : ", ") + binding.provider;
    for (const std::string& other : handlers) known += ", " + other;
  }
  return not_found("runtime handler \"" + handler +
                   "\" is not known here; there are: " + (known.empty() ? "none" : known));
}

Result<Binding> Providers::choose_network() const {
  if (const Binding* binding = prefer(networks_, preferences_.network)) return *binding;
  return unavailable("no pod network is running: look at `pintle status`, or give the pod the node's network");
}

Result<RuntimeStub> Providers::runtime(std::string_view key) const {
  if (const Binding* binding = find(runtimes_, key)) return RuntimeStub(host_, *binding);
  return unavailable("runtime backend " + std::string(key) + " is not running: look at `pintle status`");
}

Result<NetworkStub> Providers::network(std::string_view key) const {
  if (const Binding* binding = find(networks_, key)) return NetworkStub(host_, *binding);
  return unavailable("pod network " + std::string(key) + " is not running: look at `pintle status`");
}

Result<ImageStub> Providers::images_for(std::string_view runtime_key) const {
  if (const Binding* binding = find(images_, runtime_key)) return ImageStub(host_, *binding);
  if (const Binding* binding = prefer(images_, "")) return ImageStub(host_, *binding);
  return unavailable("no image store is running: look at `pintle status`");
}

std::vector<ImageStub> Providers::all_images() const {
  std::vector<ImageStub> stubs;
  const Binding* first = prefer(images_, preferences_.runtime);
  if (first) stubs.emplace_back(host_, *first);
  for (const Binding& binding : images_) {
    // Generations of one provider share one store.
    const bool seen = std::any_of(stubs.begin(), stubs.end(),
                                  [&](const ImageStub& stub) { return stub.binding().provider == binding.provider; });
    if (!seen) stubs.emplace_back(host_, binding);
  }
  return stubs;
}

const runtime_api::DescribeResponse& Providers::description(std::string_view key) const {
  static const runtime_api::DescribeResponse none;
  const auto found = descriptions_.find(key);
  return found == descriptions_.end() ? none : found->second;
}

void Providers::set_description(const std::string& key, runtime_api::DescribeResponse description) {
  descriptions_[key] = std::move(description);
}

}  // namespace pintle::cri
