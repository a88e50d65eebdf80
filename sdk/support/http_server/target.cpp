#include "sdk/support/http_server/request.hpp"

namespace pintle::http {

namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// False: a percent sign without two hexadecimal digits, or a zero byte.
bool decode(std::string_view text, bool plus_is_space, std::string& decoded) {
  decoded.clear();
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      const int high = i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
      const int low = high < 0 ? -1 : hex_value(text[i + 2]);
      if (low < 0) return false;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    } else if (c == '+' && plus_is_space) {
      c = ' ';
    }
    if (c == '\0') return false;
    decoded += c;
  }
  return true;
}

const std::string* find(const std::vector<std::pair<std::string, std::string>>& pairs, std::string_view name) {
  for (const auto& [key, value] : pairs)
    if (key == name) return &value;
  return nullptr;
}

}  // namespace

Result<Target> parse_target(std::string_view text) {
  const auto broken = [] {
    return invalid_argument("the request's target is broken: write /path?name=value with percent codes");
  };
  if (const size_t scheme = text.find("://"); !text.starts_with('/') && scheme != std::string_view::npos) {
    const size_t slash = text.find('/', scheme + 3);
    text = slash == std::string_view::npos ? std::string_view("/") : text.substr(slash);
  }
  if (!text.starts_with('/')) return broken();
  text = text.substr(0, text.find('#'));
  const size_t mark = text.find('?');
  std::string_view path = text.substr(0, mark);
  std::string_view query = mark == std::string_view::npos ? std::string_view() : text.substr(mark + 1);
  Target target;
  target.path = path;
  path.remove_prefix(1);
  while (true) {
    const size_t slash = path.find('/');
    if (!decode(path.substr(0, slash), false, target.segments.emplace_back())) return broken();
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view part = query.substr(0, end);
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
    if (part.empty()) continue;
    const size_t equals = part.find('=');
    auto& [name, value] = target.query.emplace_back();
    if (!decode(part.substr(0, equals), true, name)) return broken();
    if (equals != std::string_view::npos && !decode(part.substr(equals + 1), true, value)) return broken();
  }
  return target;
}

const std::string* Request::parameter(std::string_view name) const { return find(query, name); }
const std::string* Request::header(std::string_view name) const { return find(headers, name); }

}  // namespace pintle::http
