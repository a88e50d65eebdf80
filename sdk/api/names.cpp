#include "sdk/api/names.hpp"

#include <arpa/inet.h>

#include <algorithm>

namespace pintle::api {

namespace {

constexpr size_t kLongestLabel = 63;
constexpr size_t kLongestSubdomain = 253;
constexpr size_t kLongestPortName = 15;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_lower_or_digit(char c) { return is_lower(c) || is_digit(c); }
bool is_letter_or_digit(char c) { return is_lower_or_digit(c) || (c >= 'A' && c <= 'Z'); }

bool is_label(std::string_view text) {
  return !text.empty() && is_lower_or_digit(text.front()) && is_lower_or_digit(text.back()) &&
         std::all_of(text.begin(), text.end(), [](char c) { return is_lower_or_digit(c) || c == '-'; });
}

bool is_name_part(std::string_view text) {
  return !text.empty() && text.size() <= kLongestLabel && is_letter_or_digit(text.front()) &&
         is_letter_or_digit(text.back()) && std::all_of(text.begin(), text.end(), [](char c) {
           return is_letter_or_digit(c) || c == '-' || c == '_' || c == '.';
         });
}

std::string quoted(std::string_view text) {
  constexpr size_t shown = 80;
  std::string result = "\"";
  for (const char c : text.substr(0, shown)) result += c >= 0x20 && c != 0x7f ? c : '?';
  return result + (text.size() > shown ? "...\"" : "\"");
}

}  // namespace

std::string label_problem(std::string_view text) {
  if (text.size() <= kLongestLabel && is_label(text)) return {};
  return "must be at most 63 of a-z, 0-9 and \"-\", with a letter or digit at both ends (my-name, 123-abc), is " +
         quoted(text);
}

std::string subdomain_problem(std::string_view text) {
  bool right = !text.empty() && text.size() <= kLongestSubdomain;
  for (size_t begin = 0; right && begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    right = is_label(text.substr(begin, end - begin));
    begin = end + 1;
  }
  if (right) return {};
  return "must be at most 253 of a-z, 0-9, \"-\" and \".\", with a letter or digit at both ends of each part (my-name, "
         "example.com), is " +
         quoted(text);
}

std::string qualified_name_problem(std::string_view text) {
  const size_t slash = text.find('/');
  const std::string_view name = slash == std::string_view::npos ? text : text.substr(slash + 1);
  const bool right =
      is_name_part(name) && (slash == std::string_view::npos || subdomain_problem(text.substr(0, slash)).empty());
  if (right) return {};
  return "the key must be at most 63 of A-Z, a-z, 0-9, \"-\", \"_\" and \".\", with a letter or digit at both ends, "
         "and may stand behind a "
         "domain and \"/\" (app, example.com/app), is " +
         quoted(text);
}

std::string label_value_problem(std::string_view text) {
  if (text.empty() || is_name_part(text)) return {};
  return "must be empty or at most 63 of A-Z, a-z, 0-9, \"-\", \"_\" and \".\", with a letter or digit at both ends, "
         "is " +
         quoted(text);
}

std::string port_name_problem(std::string_view text) {
  if (text.size() <= kLongestPortName && is_label(text) && std::any_of(text.begin(), text.end(), is_lower) &&
      text.find("--") == std::string_view::npos)
    return {};
  return "must be at most 15 of a-z, 0-9 and single \"-\", with a letter in it and a letter or digit at both ends "
         "(http, web-8080), is " +
         quoted(text);
}

std::string variable_name_problem(std::string_view text) {
  if (!text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e && c != '='; }))
    return {};
  return text.empty() ? "a name is required" : "must be printable ASCII without \"=\", is " + quoted(text);
}

std::string address_problem(std::string_view text) {
  const std::string address(text);
  unsigned char bytes[sizeof(in6_addr)];
  if (inet_pton(AF_INET, address.c_str(), bytes) == 1 || inet_pton(AF_INET6, address.c_str(), bytes) == 1) return {};
  return "must be an IPv4 or IPv6 address (10.0.0.1, fd00::1), is " + quoted(text);
}

}  // namespace pintle::api
