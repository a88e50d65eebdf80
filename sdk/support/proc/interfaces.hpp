#pragma once

/// What network interfaces have carried, from the text of /proc/PID/net/dev (proc(5)): those of the network namespace of that process.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::proc {

/// Since the interface was made.
struct InterfaceCounters {
  std::string name;
  uint64_t received_bytes = 0, received_packets = 0, received_errors = 0;
  uint64_t sent_bytes = 0, sent_packets = 0, sent_errors = 0;
};

/// In the order of the text, without the loopback. A line that is not understood is left out. Pure; any thread.
std::vector<InterfaceCounters> parse_interfaces(std::string_view net_dev);

}  // namespace pintle::proc
