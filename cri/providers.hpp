#pragma once

/// Who answers: the runtime backends, image stores and pod networks that the engine is bound to at the moment.
///
/// A sandbox stays with the instances that made it, named by their keys ("runtime-oci@1"); new sandboxes go to
/// instances that are not retiring. A *runtime handler* names a backend's instance ("runtime-docker") or one of the
/// handlers that a backend says it has; the empty handler is the default backend's own default.
///
/// Lane only.

#include <map>
#include <pintle/call.hpp>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cri/schema.hpp"

namespace pintle::cri {

using RuntimeStub = runtime_api::RuntimeBackendStub;
using ImageStub = image_api::ImageBackendStub;
using NetworkStub = network_api::PodNetworkStub;

class Providers {
 public:
  /// Which instances new sandboxes prefer; empty: the first.
  struct Preferences {
    std::string runtime;
    std::string network;
  };
  Providers(Host& host, Preferences preferences) : host_(host), preferences_(std::move(preferences)) {}

  void set_runtimes(std::vector<Binding> bindings) { runtimes_ = std::move(bindings); }
  void set_images(std::vector<Binding> bindings) { images_ = std::move(bindings); }
  void set_networks(std::vector<Binding> bindings) { networks_ = std::move(bindings); }
  const std::vector<Binding>& runtimes() const { return runtimes_; }
  const std::vector<Binding>& images() const { return images_; }
  const std::vector<Binding>& networks() const { return networks_; }

  struct Choice {
    Binding binding;
    std::string handler;  ///< what the backend is told
  };
  /// The backend for a new sandbox. NOT_FOUND names the handlers there are; UNAVAILABLE: no backend at all.
  Result<Choice> choose_runtime(const std::string& handler) const;
  Result<Binding> choose_network() const;

  /// The instance with this key, retiring or not. Where that is gone, another generation of the same provider: it
  /// shares the plugin's folder and can at least take down what its predecessor left.
  Result<RuntimeStub> runtime(std::string_view key) const;
  Result<NetworkStub> network(std::string_view key) const;
  /// The image store that serves this runtime: the one of the same plugin instance, else the first.
  Result<ImageStub> images_for(std::string_view runtime_key) const;
  /// All image stores, the default one first.
  std::vector<ImageStub> all_images() const;

  /// What a backend said of itself last; empty before it has answered.
  const runtime_api::DescribeResponse& description(std::string_view key) const;
  void set_description(const std::string& key, runtime_api::DescribeResponse description);

 private:
  static const Binding* find(const std::vector<Binding>& bindings, std::string_view key);
  static const Binding* prefer(const std::vector<Binding>& bindings, std::string_view provider);

  Host& host_;
  Preferences preferences_;
  std::vector<Binding> runtimes_, images_, networks_;
  std::map<std::string, runtime_api::DescribeResponse, std::less<>> descriptions_;
};

}  // namespace pintle::cri
