// The formats of `format`.

#include <arpa/inet.h>

#include <array>
#include <charconv>

#include "sdk/support/document/schema.hpp"

namespace pintle::document {
namespace {

using Address = std::array<unsigned char, 16>;

// The family (AF_INET or AF_INET6), or 0.
int parse_address(std::string_view text, Address& address) {
  const std::string terminated(text);
  if (terminated.find('\0') != std::string::npos) return 0;
  if (inet_pton(AF_INET, terminated.c_str(), address.data()) == 1) return AF_INET;
  if (inet_pton(AF_INET6, terminated.c_str(), address.data()) == 1) return AF_INET6;
  return 0;
}

std::string ip_problem(std::string_view text) {
  Address address{};
  return parse_address(text, address) != 0 ? "" : "is no IP address; write it as 192.0.2.7 or 2001:db8::7";
}

std::string family_problem(std::string_view text, int family) {
  Address address{};
  if (parse_address(text, address) == family) return {};
  return family == AF_INET ? "is no IPv4 address; write it as 192.0.2.7"
                           : "is no IPv6 address; write it as 2001:db8::7";
}

std::string cidr_problem(std::string_view text) {
  const std::string usage = "is no CIDR; write it as 10.85.0.0/16 or fd00:85::/64";
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return usage;
  Address address{};
  const int family = parse_address(text.substr(0, slash), address);
  const std::string_view digits = text.substr(slash + 1);
  unsigned bits = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bits);
  const unsigned most = family == AF_INET ? 32 : 128;
  if (family == 0 || digits.empty() || error != std::errc() || end != digits.data() + digits.size() || bits > most ||
      (digits.size() > 1 && digits[0] == '0')) {
    return usage;
  }
  Address network = address;
  for (unsigned bit = bits; bit < most; ++bit) network[bit / 8] &= static_cast<unsigned char>(~(0x80u >> (bit % 8)));
  if (network == address) return {};
  char buffer[INET6_ADDRSTRLEN];
  inet_ntop(family, network.data(), buffer, sizeof buffer);
  return "has bits beyond its prefix; the network is " + std::string(buffer) + "/" + std::string(digits);
}

size_t skip_decimal(std::string_view text, size_t at) {
  const auto is_digit = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '9'; };
  size_t i = at;
  bool any = false;
  while (is_digit(i)) ++i, any = true;
  if (i < text.size() && text[i] == '.') {
    ++i;
    while (is_digit(i)) ++i, any = true;
  }
  return any ? i : at;
}

std::string duration_problem(std::string_view text) {
  const std::string usage = "is no duration; write it as 250ms, 30s or 1h30m";
  if (text == "0") return {};
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  if (text.empty()) return usage;
  while (!text.empty()) {
    const size_t number = skip_decimal(text, 0);
    if (number == 0) return usage;
    text.remove_prefix(number);
    size_t unit = 0;
    for (std::string_view known : {"ns", "us", "\xc2\xb5s", "\xce\xbcs", "ms", "s", "m", "h"}) {
      if (text.starts_with(known)) unit = std::max(unit, known.size());
    }
    if (unit == 0) return usage;
    text.remove_prefix(unit);
  }
  return {};
}

std::string quantity_problem(std::string_view text) {
  const std::string usage = "is no quantity; write it as 500m, 2, 64Mi or 1e3";
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  const size_t number = skip_decimal(text, 0);
  if (number == 0) return usage;
  const std::string_view suffix = text.substr(number);
  for (std::string_view known : {"", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}) {
    if (suffix == known) return {};
  }
  if (suffix[0] != 'e' && suffix[0] != 'E') return usage;
  std::string_view exponent = suffix.substr(1);
  if (exponent.starts_with('-') || exponent.starts_with('+')) exponent.remove_prefix(1);
  return exponent.empty() || exponent.find_first_not_of("0123456789") != std::string_view::npos ? usage : "";
}

std::string path_problem(std::string_view text) {
  if (!text.starts_with('/')) return "is no absolute path; it must begin with /";
  return text.find('\0') == std::string_view::npos ? "" : "is no path: it has a zero byte";
}

}  // namespace

std::string format_problem(std::string_view format, std::string_view text) {
  if (format == "ip") return ip_problem(text);
  if (format == "ipv4") return family_problem(text, AF_INET);
  if (format == "ipv6") return family_problem(text, AF_INET6);
  if (format == "cidr") return cidr_problem(text);
  if (format == "duration") return duration_problem(text);
  if (format == "quantity") return quantity_problem(text);
  if (format == "path") return path_problem(text);
  return {};
}

}  // namespace pintle::document
