#pragma once

/// What the answer to a probe means. Pure functions over what a container sent: bytes of strangers.

#include <string>
#include <string_view>

namespace pintle::agent {

struct ProbeAnswer {
  enum class Kind {
    success,
    warning,  ///< success, with something to tell
    failure,
    error,  ///< the probe itself could not be made: it tells nothing about the container
  };
  Kind kind = Kind::error;
  std::string message;
};

/// kubelet's rule: 200 to 399 is success; a redirect that was not followed is one as well, with a warning.
ProbeAnswer judge_http(int status, std::string_view body);

/// Output is what the command wrote, to both streams.
ProbeAnswer judge_exec(int exit_code, std::string_view output);

/// The message that asks grpc.health.v1.Health/Check for a service, framed as gRPC frames it.
std::string grpc_health_request(std::string_view service);

/// The answer to it: the frame with a HealthCheckResponse, and gRPC's own status ("grpc-status", empty if there was none).
ProbeAnswer judge_grpc(int http_status, std::string_view body, std::string_view grpc_status,
                       std::string_view grpc_message);

/// Text that people may see: at most so many bytes, without control characters.
std::string presentable(std::string_view text, size_t most);

}  // namespace pintle::agent
