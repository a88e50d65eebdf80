#pragma once

/// What a container says of its end: it writes into a file that is mounted where the pod's terminationMessagePath says, and the
/// agent reads it once the container has ended. With FallbackToLogsOnError the end of its log counts if it wrote nothing.
///
///     <state>/pods/UID/containers/NAME/ATTEMPT.message
///
/// All functions block and may run on any thread.

#include <cstddef>
#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::agent {

inline constexpr size_t kMostTerminationMessages = 12 << 10;  ///< bytes, of all containers of a pod

std::string termination_message_path(const std::string& state_folder, const std::string& uid,
                                     const std::string& container, uint32_t attempt);

/// Makes the file, empty and writable for any user of the container; gives its path back.
Result<std::string> make_termination_message(const std::string& path);

struct TerminationMessage {
  std::string path;
  std::string log;                         ///< falls back to this; empty: it does not
  size_t most = kMostTerminationMessages;  ///< bytes
};

/// Empty if there is none, or it cannot be read.
std::string read_termination_message(const TerminationMessage& wanted);

/// The last lines (80 at most, 2,048 bytes) of a log in CRI's format, without what the runtime wrote before each.
std::string end_of_log(std::string_view log);

}  // namespace pintle::agent
