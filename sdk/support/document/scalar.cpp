#include "sdk/support/document/scalar.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>

namespace pintle::document {
namespace {

namespace json = boost::json;

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  for (std::string_view word : words) {
    if (text == word) return true;
  }
  return false;
}

std::optional<json::value> word(std::string_view text) {
  if (is_one_of(text, {"", "~", "null", "Null", "NULL"})) return json::value(nullptr);
  if (is_one_of(text, {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"}))
    return json::value(true);
  if (is_one_of(text, {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"}))
    return json::value(false);
  return std::nullopt;
}

std::string without_underscores(std::string_view text) {
  std::string plain;
  for (char c : text) {
    if (c != '_') plain.push_back(c);
  }
  return plain;
}

std::optional<json::value> integer(std::string_view text) {
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  int base = 10;
  if (text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == 'x') {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == 'b') {
    base = 2;
    text.remove_prefix(2);
  } else if (text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == 'o') {
    base = 8;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
    text.remove_prefix(1);
  }
  uint64_t magnitude = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), magnitude, base);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  constexpr uint64_t signed_limit = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (negative) {
    if (magnitude > signed_limit + 1) return std::nullopt;
    return json::value(static_cast<int64_t>(0 - magnitude));
  }
  if (magnitude > signed_limit) return json::value(magnitude);
  return json::value(static_cast<int64_t>(magnitude));
}

// [-+]? (. digits | digits (. digits?)?) ([eE] [-+]? digits)?
bool looks_like_float(std::string_view text) {
  size_t at = 0;
  const auto digits = [&] {
    const size_t start = at;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9') ++at;
    return at > start;
  };
  if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
  const bool whole = digits();
  if (at < text.size() && text[at] == '.') {
    ++at;
    if (!digits() && !whole) return false;
  } else if (!whole) {
    return false;
  }
  if (at < text.size() && (text[at] | 0x20) == 'e') {
    ++at;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    if (!digits()) return false;
  }
  return at == text.size();
}

Result<json::value> floating(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool tiny = text.find("e-") != std::string_view::npos || text.find("E-") != std::string_view::npos;
  if (error == std::errc::result_out_of_range && tiny) return json::value(0.0);
  if (error != std::errc() || !std::isfinite(number)) {
    return invalid_argument("the number " + std::string(text) + " is too large; quote it if it is a text");
  }
  return json::value(number);
}

bool is_date(std::string_view text) {
  return text.size() > 4 && text[4] == '-' &&
         text.substr(0, 4).find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace

Result<json::value> plain_scalar(std::string_view text) {
  if (auto meaning = word(text)) return *meaning;
  std::string_view magnitude = text;
  if (magnitude.starts_with('+') || magnitude.starts_with('-')) magnitude.remove_prefix(1);
  if (is_one_of(magnitude, {".inf", ".Inf", ".INF"}) || is_one_of(text, {".nan", ".NaN", ".NAN"})) {
    return invalid_argument(std::string(text) + " is a number that JSON does not have; quote it if it is a text");
  }
  const char first = text[0];
  if (first == '+' || first == '-' || first == '.' || (first >= '0' && first <= '9')) {
    if (!is_date(text)) {
      const std::string plain = without_underscores(text);
      if (auto number = integer(plain)) return *number;
      if (looks_like_float(plain)) return floating(plain);
    }
  }
  return json::value(json::string_view(text.data(), text.size()));
}

Result<json::value> tagged_scalar(std::string_view tag, std::string_view text) {
  constexpr std::string_view own = "tag:yaml.org,2002:";
  const auto as_text = [&] { return json::value(json::string_view(text.data(), text.size())); };
  if (tag == "!" || tag == "tag:yaml.org,2002:str") return as_text();
  const std::string_view kind = tag.starts_with(own) ? tag.substr(own.size()) : std::string_view();
  if (!is_one_of(kind, {"bool", "int", "float", "null"})) {
    return invalid_argument("the tag " + std::string(tag) +
                            " is not known; known are !!str, !!bool, !!int, !!float and !!null");
  }
  Result<json::value> meaning = plain_scalar(text);
  if (!meaning) return meaning;
  const json::value& value = *meaning;
  const bool is_integer = value.is_int64() || value.is_uint64();
  if ((kind == "bool" && value.is_bool()) || (kind == "null" && value.is_null()) || (kind == "int" && is_integer))
    return meaning;
  if (kind == "float" && value.is_double()) return meaning;
  if (kind == "float" && is_integer) return json::value(value.to_number<double>());
  return invalid_argument("\"" + std::string(text.substr(0, 40)) + "\" is no " + std::string(kind));
}

}  // namespace pintle::document
