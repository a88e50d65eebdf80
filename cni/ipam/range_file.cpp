#include <boost/crc.hpp>
#include <cinttypes>
#include <cstdio>

#include "cni/ipam/address_pool.hpp"

namespace pintle::cni {
namespace {

using netlink::IpAddress;
using netlink::IpPrefix;

constexpr std::string_view kTitle = "pintle-addresses-1";
constexpr size_t kChecksumDigits = 8;

std::string checksum(std::string_view text) {
  boost::crc_32_type crc;
  crc.process_bytes(text.data(), text.size());
  char digits[kChecksumDigits + 1];
  std::snprintf(digits, sizeof digits, "%08" PRIx32, static_cast<uint32_t>(crc.checksum()));
  return digits;
}

std::string sealed(const std::string& words) { return words + " " + checksum(words) + "\n"; }

/// Cuts the next word off.
std::string_view take(std::string_view& text) {
  const size_t end = text.find(' ');
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return word;
}

/// The words of the next whole line, without their checksum; nothing when no line ends.
Result<std::string_view> take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::string_view();
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  if (line.size() <= kChecksumDigits + 1) return data_loss("a line is too short");
  const std::string_view words = line.substr(0, line.size() - kChecksumDigits - 1);
  if (line.substr(words.size()) != " " + checksum(words)) return data_loss("the checksum of a line is wrong");
  return words;
}

Status apply(std::string_view words, RangeFile& file) {
  const std::string_view sign = take(words);
  const Result<IpAddress> address = IpAddress::parse(take(words));
  if (!address) return data_loss(address.status().message());
  if (sign == "=" && words.empty()) {
    file.last = *address;
    return Status::ok();
  }
  const auto held = file.held.find(*address);
  if (sign == "-" && words.empty() && held != file.held.end()) {
    file.held.erase(held);
    return Status::ok();
  }
  AddressOwner owner{.holder = std::string(take(words)), .sandbox = std::string(take(words)), .interface = ""};
  owner.interface = words;
  const bool is_good =
      sign == "+" && held == file.held.end() && file.subnet.contains(*address) && !owner.interface.empty();
  if (!is_good) return data_loss("the line of " + address->to_string() + " makes no sense");
  file.held.emplace(*address, std::move(owner));
  file.last = *address;
  return Status::ok();
}

}  // namespace

std::string first_line(const IpPrefix& subnet, std::string_view boot) {
  return sealed(std::string(kTitle) + " " + subnet.to_string() + " " + std::string(boot));
}

std::string last_line(const IpAddress& address) { return sealed("= " + address.to_string()); }

std::string allocation_line(const IpAddress& address, const AddressOwner& owner) {
  return sealed("+ " + address.to_string() + " " + owner.holder + " " + owner.sandbox + " " + owner.interface);
}

std::string release_line(const IpAddress& address) { return sealed("- " + address.to_string()); }

Result<size_t> apply_lines(std::string_view text, RangeFile& file) {
  const size_t size = text.size();
  while (true) {
    const Result<std::string_view> words = take_line(text);
    if (!words) return words.status();
    if (words->empty()) return size - text.size();
    if (Status status = apply(*words, file); !status) return status;
    ++file.lines;
  }
}

Result<RangeFile> read_range_file(std::string_view text, size_t& used) {
  const size_t size = text.size();
  const Result<std::string_view> first = take_line(text);
  if (!first) return first.status();
  std::string_view words = *first;
  if (take(words) != kTitle) return data_loss("it does not begin with '" + std::string(kTitle) + "'");
  RangeFile file;
  const Result<IpPrefix> subnet = IpPrefix::parse(take(words));
  if (!subnet) return data_loss(subnet.status().message());
  file.subnet = *subnet;
  file.boot = words;
  const size_t start = size - text.size();
  const Result<size_t> applied = apply_lines(text, file);
  if (!applied) return applied.status();
  used = start + *applied;
  return file;
}

}  // namespace pintle::cni
