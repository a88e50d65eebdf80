#pragma once

#include <pintle/host.hpp>

#include "cni/library/network.hpp"

namespace pintle::network_cni {

/// Starts CNI plugins as children of the host. Lane only.
class HostRunner final : public cni::Runner {
 public:
  explicit HostRunner(Host& host) : host_(host) {}
  Task<Result<cni::Outcome>> run(cni::Run request) override;

 private:
  Host& host_;
};

}  // namespace pintle::network_cni
