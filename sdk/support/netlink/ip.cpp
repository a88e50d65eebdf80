#include "sdk/support/netlink/ip.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstring>

namespace pintle::netlink {

IpAddress::IpAddress(std::span<const uint8_t> bytes) : size_(static_cast<uint8_t>(bytes.size())) {
  assert(bytes.size() == 4 || bytes.size() == 16);
  std::copy(bytes.begin(), bytes.end(), bytes_.begin());
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
  const std::string terminated(text);
  IpAddress address;
  if (terminated.size() == text.size() && inet_pton(AF_INET, terminated.c_str(), address.bytes_.data()) == 1) {
    return address;
  }
  address.size_ = 16;
  if (inet_pton(AF_INET6, terminated.c_str(), address.bytes_.data()) == 1) return address;
  return invalid_argument("'" + terminated + "' is not an IP address");
}

int IpAddress::family() const { return is_v4() ? AF_INET : AF_INET6; }

std::string IpAddress::to_string() const {
  char text[INET6_ADDRSTRLEN];
  inet_ntop(family(), bytes_.data(), text, sizeof text);
  return text;
}

std::optional<IpAddress> IpAddress::plus(uint64_t count) const {
  IpAddress next = *this;
  for (int i = size_ - 1; i >= 0 && count > 0; --i) {
    const uint64_t sum = next.bytes_[static_cast<size_t>(i)] + (count & 0xff);
    next.bytes_[static_cast<size_t>(i)] = static_cast<uint8_t>(sum);
    count = (count >> 8) + (sum >> 8);
  }
  if (count > 0) return std::nullopt;
  return next;
}

std::optional<IpAddress> IpAddress::previous() const {
  IpAddress before = *this;
  for (int i = size_ - 1; i >= 0; --i) {
    if (before.bytes_[static_cast<size_t>(i)]-- != 0) return before;
  }
  return std::nullopt;
}

uint32_t IpAddress::low_bits() const {
  uint32_t value = 0;
  for (const uint8_t byte : bytes().last(4)) value = value << 8 | byte;
  return value;
}

IpAddress IpAddress::masked(unsigned prefix_length, bool ones) const {
  IpAddress result = *this;
  for (unsigned i = 0; i < size_; ++i) {
    const unsigned kept = prefix_length > i * 8 ? std::min(8u, prefix_length - i * 8) : 0;
    const auto mask = static_cast<uint8_t>(0xff00u >> kept);
    result.bytes_[i] = static_cast<uint8_t>((result.bytes_[i] & mask) | (ones ? ~mask : 0));
  }
  return result;
}

bool IpAddress::is_multicast_or_unspecified() const {
  if (std::all_of(bytes().begin(), bytes().end(), [](uint8_t byte) { return byte == 0; })) return true;
  return is_v4() ? bytes_[0] >= 224 : bytes_[0] == 0xff;
}

Result<IpPrefix> IpPrefix::parse(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return invalid_argument("'" + std::string(text) + "' has no prefix length; write ADDRESS/LENGTH, as 10.85.0.0/16");
  }
  Result<IpAddress> address = IpAddress::parse(text.substr(0, slash));
  if (!address) return address.status();
  const std::string_view digits = text.substr(slash + 1);
  unsigned length = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
  if (error != std::errc() || end != digits.data() + digits.size() || length > address->bits()) {
    return invalid_argument("'" + std::string(text) + "': the prefix length is a number from 0 to " +
                            std::to_string(address->bits()));
  }
  return IpPrefix(*address, length);
}

bool IpPrefix::contains(const IpAddress& address) const {
  return address.family() == address_.family() && address.masked(length_) == first();
}

bool IpPrefix::overlaps(const IpPrefix& other) const { return contains(other.first()) || other.contains(first()); }

std::string IpPrefix::to_string() const { return address_.to_string() + "/" + std::to_string(length_); }

}  // namespace pintle::netlink
