#include "sdk/support/proc/interfaces.hpp"

#include <sstream>

namespace pintle::proc {

std::vector<InterfaceCounters> parse_interfaces(std::string_view net_dev) {
  std::vector<InterfaceCounters> interfaces;
  std::istringstream lines{std::string(net_dev)};
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;  // the two lines of the table's head
    const size_t begin = line.find_first_not_of(' ');
    InterfaceCounters one;
    one.name = line.substr(begin, colon - begin);
    std::istringstream numbers(line.substr(colon + 1));
    uint64_t ignored = 0;
    numbers >> one.received_bytes >> one.received_packets >> one.received_errors;
    // drop fifo frame compressed multicast
    for (int i = 0; i < 5; ++i) numbers >> ignored;
    numbers >> one.sent_bytes >> one.sent_packets >> one.sent_errors;
    if (numbers && one.name != "lo") interfaces.push_back(std::move(one));
  }
  return interfaces;
}

}  // namespace pintle::proc
