#include <boost/crc.hpp>
#include <cinttypes>
#include <cstdio>

#include "cni/ipam/address_pool.hpp"

namespace pintle::cni {
namespace {

using netlink::IpAddress;
using netlink::IpPrefix;

constexpr std::string_view kTitle = "pintle-addresses 1";

std::string checksum(std::string_view text) {
  boost::crc_32_type crc;
  crc.process_bytes(text.data(), text.size());
  char digits[9];
  std::snprintf(digits, sizeof digits, "%08" PRIx32, static_cast<uint32_t>(crc.checksum()));
  return digits;
}

/// Cuts the text behind the next separator; the whole rest if there is none.
std::string_view take(std::string_view& text, char separator) {
  const size_t end = text.find(separator);
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return part;
}

/// The value of a line "NAME VALUE", which must come next.
Result<std::string_view> take_line(std::string_view& text, std::string_view name) {
  const std::string_view line = take(text, '\n');
  if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ' ') {
    return data_loss("the line '" + std::string(name) + "' is missing");
  }
  return line.substr(name.size() + 1);
}

}  // namespace

std::string write_range_file(const RangeFile& file) {
  std::string text(kTitle);
  text += "\nrange " + file.subnet.to_string() + "\nboot " + file.boot + "\nlast " + file.last.to_string() + "\n";
  for (const auto& [address, owner] : file.held) {
    text += address.to_string() + " " + owner.holder + " " + owner.sandbox + " " + owner.interface + "\n";
  }
  text += "end " + checksum(text) + "\n";
  return text;
}

Result<RangeFile> read_range_file(std::string_view text) {
  const size_t end = text.rfind("end ");
  if (end == std::string_view::npos || text.substr(end) != "end " + checksum(text.substr(0, end)) + "\n") {
    return data_loss("the checksum at the end is missing or wrong");
  }
  text = text.substr(0, end);
  if (take(text, '\n') != kTitle) return data_loss("it does not begin with '" + std::string(kTitle) + "'");
  RangeFile file;
  const Result<std::string_view> range = take_line(text, "range");
  if (!range) return range.status();
  const Result<IpPrefix> subnet = IpPrefix::parse(*range);
  if (!subnet) return data_loss(subnet.status().message());
  file.subnet = *subnet;
  const Result<std::string_view> boot = take_line(text, "boot");
  if (!boot) return boot.status();
  file.boot = *boot;
  const Result<std::string_view> last = take_line(text, "last");
  if (!last) return last.status();
  const Result<IpAddress> last_address = IpAddress::parse(*last);
  if (!last_address) return data_loss(last_address.status().message());
  file.last = *last_address;
  while (!text.empty()) {
    std::string_view line = take(text, '\n');
    const Result<IpAddress> address = IpAddress::parse(take(line, ' '));
    if (!address) return data_loss(address.status().message());
    AddressOwner owner{
        .holder = std::string(take(line, ' ')), .sandbox = std::string(take(line, ' ')), .interface = ""};
    owner.interface = line;
    if (owner.interface.empty() || !file.subnet.contains(*address) || !file.held.emplace(*address, owner).second) {
      return data_loss("the line of " + address->to_string() + " makes no sense");
    }
  }
  return file;
}

}  // namespace pintle::cni
