#pragma once

/// What both sides of the CNI protocol say: versions, errors, and the few rules about names.
///
/// A runtime (our library, podman, containerd) starts a plugin (pintle-cni, or somebody else's) with CNI_COMMAND and more in the environment
/// and a network configuration on standard input. The plugin prints a result, or an error object and ends with another code
/// than 0.
///
/// Source: https://www.cni.dev/docs/spec/ (1.1.0).

#include <array>
#include <boost/json/fwd.hpp>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pintle::cni {

/// Oldest first. Results of all of them are read and written.
inline constexpr std::array<std::string_view, 4> kVersions = {"0.3.1", "0.4.0", "1.0.0", "1.1.0"};
inline constexpr std::string_view kNewestVersion = kVersions.back();
bool is_version(std::string_view text);
/// Both among `kVersions`.
bool is_at_least(std::string_view version, std::string_view other);

/// "Error" of the specification: well-known codes.
enum class ErrorCode : uint32_t {
  incompatible_version = 1,
  unsupported_field = 2,
  unknown_container = 3,
  invalid_environment = 4,
  io_failure = 5,
  undecodable = 6,
  invalid_config = 7,
  try_again_later = 11,
  not_available = 50,
  limited_connectivity = 51,
  plugin_specific = 100,
};
struct Error {
  ErrorCode code = ErrorCode::plugin_specific;
  std::string message;
  std::string details;
};
boost::json::object to_json(const Error& error, std::string_view version);
/// The error that a status says, for a runtime's eyes.
Error error_of(const Status& status);
/// What a plugin complains about, as a status with its words. Tolerates anything.
Status status_of_error(const boost::json::value& error);

/// Names of networks and ids of containers: letters, digits, '_', '.', '-', the first a letter or digit. `what` is for the message.
Status check_name(std::string_view what, std::string_view name);
/// "K=V;K2=V2". INVALID_ARGUMENT for a part without '='.
Result<std::vector<std::pair<std::string, std::string>>> parse_arguments(std::string_view text);

/// An object of at most a mebibyte and 32 levels; INVALID_ARGUMENT says what is wrong and where. `what` begins the message.
Result<boost::json::object> parse_object(std::string_view what, std::string_view text);

}  // namespace pintle::cni
