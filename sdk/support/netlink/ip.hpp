#pragma once

/// Addresses and prefixes of IPv4 and IPv6 as the network code counts with them: parsed once, compared and stepped as
/// numbers.
///
///     Result<IpPrefix> prefix = IpPrefix::parse("10.85.0.0/16");
///     std::optional<IpAddress> gateway = prefix->address().plus(1);       // 10.85.0.1
///     prefix->contains(*gateway);                                        // true

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <pintle/status.hpp>
#include <span>
#include <string>
#include <string_view>

namespace pintle::netlink {

/// One IPv4 or IPv6 address; bytes in network order, so that comparing bytes compares addresses. IPv4 sorts before
/// IPv6.
class IpAddress {
 public:
  IpAddress() = default;
  /// Four or sixteen bytes; anything else is a broken invariant.
  explicit IpAddress(std::span<const uint8_t> bytes);
  /// The textual forms of inet_pton(3): no zone, no prefix length. INVALID_ARGUMENT names the text.
  static Result<IpAddress> parse(std::string_view text);

  bool is_v4() const { return size_ == 4; }
  bool is_v6() const { return size_ == 16; }
  /// AF_INET or AF_INET6.
  int family() const;
  unsigned bits() const { return size_ * 8u; }
  std::span<const uint8_t> bytes() const { return {bytes_.data(), size_}; }
  /// Canonical text (RFC 5952 for IPv6).
  std::string to_string() const;

  /// The address `count` further on; nothing past the last one of the family.
  std::optional<IpAddress> plus(uint64_t count) const;
  /// The address before; nothing before the first one.
  std::optional<IpAddress> previous() const;
  /// The last 32 bits as a number: what tells the hosts of a small subnet apart.
  uint32_t low_bits() const;
  /// This address with all bits behind the first `prefix_length` set to zero or one.
  IpAddress masked(unsigned prefix_length, bool ones = false) const;
  bool is_multicast_or_unspecified() const;

  auto operator<=>(const IpAddress&) const = default;

 private:
  uint8_t size_ = 4;
  std::array<uint8_t, 16> bytes_{};
};

/// An address with a prefix length. `parse` keeps the host bits, as an interface address has them; `network()` clears
/// them.
class IpPrefix {
 public:
  IpPrefix() = default;
  IpPrefix(IpAddress address, unsigned length) : address_(address), length_(static_cast<uint8_t>(length)) {}
  /// "ADDRESS/LENGTH". INVALID_ARGUMENT names the text and what is wrong with it.
  static Result<IpPrefix> parse(std::string_view text);

  const IpAddress& address() const { return address_; }
  unsigned length() const { return length_; }
  IpPrefix network() const { return {address_.masked(length_), length_}; }
  IpAddress first() const { return address_.masked(length_); }
  IpAddress last() const { return address_.masked(length_, true); }
  bool contains(const IpAddress& address) const;
  bool overlaps(const IpPrefix& other) const;
  std::string to_string() const;

  auto operator<=>(const IpPrefix&) const = default;

 private:
  IpAddress address_;
  uint8_t length_ = 0;
};

}  // namespace pintle::netlink
