// Values to YAML.

#include <array>
#include <charconv>
#include <cstdio>

#include "sdk/support/document/document.hpp"
#include "sdk/support/document/scalar.hpp"

namespace pintle::document {
namespace {

namespace json = boost::json;

// A JSON text, with escapes for the characters that JSON allows and YAML refuses: U+007F to U+009F, U+FFFE, U+FFFF.
std::string quoted(std::string_view text) {
  const std::string plain = json::serialize(json::value(json::string_view(text.data(), text.size())));
  std::string escaped;
  const auto byte = [&](size_t at) { return at < plain.size() ? static_cast<unsigned char>(plain[at]) : 0u; };
  for (size_t i = 0; i < plain.size(); ++i) {
    char escape[8] = "";
    if (byte(i) == 0x7f) {
      std::snprintf(escape, sizeof escape, "\\u007f");
    } else if (byte(i) == 0xc2 && byte(i + 1) < 0xa0) {
      std::snprintf(escape, sizeof escape, "\\u00%02x", byte(++i));
    } else if (byte(i) == 0xef && byte(i + 1) == 0xbf && byte(i + 2) >= 0xbe) {
      std::snprintf(escape, sizeof escape, "\\uff%s", byte(i + 2) == 0xbe ? "fe" : "ff");
      i += 2;
    } else if (byte(i) == 0xef && byte(i + 1) == 0xbb && byte(i + 2) == 0xbf) {
      std::snprintf(escape, sizeof escape, "\\ufeff");
      i += 2;
    }
    if (escape[0] == '\0') {
      escaped.push_back(plain[i]);
    } else {
      escaped += escape;
    }
  }
  return escaped;
}

std::string number_text(double number) {
  std::array<char, 32> shortest;
  const auto [end, error] = std::to_chars(shortest.begin(), shortest.end(), number);
  std::string text(shortest.begin(), end);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

bool is_safe_plain(std::string_view text) {
  constexpr std::string_view indicators = "-?:,[]{}#&*!|>'\"%@` ";
  if (text.empty() || indicators.find(text[0]) != std::string_view::npos || text.back() == ' ' || text.back() == ':')
    return false;
  if (text.find(": ") != std::string_view::npos || text.find(" #") != std::string_view::npos || text.starts_with("..."))
    return false;
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) return false;
  }
  const Result<json::value> meaning = plain_scalar(text);
  return meaning && meaning->is_string();
}

std::string scalar_text(const json::value& value) {
  if (!value.is_string()) return value.is_double() ? number_text(value.get_double()) : json::serialize(value);
  const std::string_view text(value.get_string().data(), value.get_string().size());
  return is_safe_plain(text) ? std::string(text) : quoted(text);
}

// Keys are read as they are written, whatever they look like; only null is none, and << merges.
std::string key_text(json::string_view key) {
  const std::string_view text(key.data(), key.size());
  const bool is_plain = is_safe_plain(text) && text.find(' ') == std::string_view::npos && text != "<<";
  return is_plain ? std::string(text) : quoted(text);
}

void write(const json::value& value, size_t indent, bool in_sequence, std::string& out) {
  const std::string margin(indent, ' ');
  bool first = true;
  const auto begin_line = [&] {
    if (!first || !in_sequence) out += margin;
    first = false;
  };
  const auto write_child = [&](const json::value& child, bool is_element) {
    const json::object* object = child.if_object();
    const json::array* array = child.if_array();
    if ((object == nullptr || object->empty()) && (array == nullptr || array->empty())) {
      out += object != nullptr ? " {}" : array != nullptr ? " []" : " " + scalar_text(child);
      out += "\n";
    } else if (is_element) {
      out += " ";
      write(child, indent + 2, true, out);
    } else {
      out += "\n";
      write(child, array != nullptr ? indent : indent + 2, false, out);
    }
  };
  if (const json::object* object = value.if_object(); object != nullptr && !object->empty()) {
    for (const auto& member : *object) {
      begin_line();
      out += key_text(member.key()) + ":";
      write_child(member.value(), false);
    }
  } else if (const json::array* array = value.if_array(); array != nullptr && !array->empty()) {
    for (const json::value& element : *array) {
      begin_line();
      out += "-";
      write_child(element, true);
    }
  } else {
    out += margin + (value.is_object() ? "{}" : value.is_array() ? "[]" : scalar_text(value)) + "\n";
  }
}

}  // namespace

std::string write_yaml(const json::value& value) {
  std::string out;
  write(value, 0, false, out);
  return out;
}

}  // namespace pintle::document
