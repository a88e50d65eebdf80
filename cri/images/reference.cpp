#include "cri/images/reference.hpp"

namespace pintle::images {
namespace {

constexpr size_t kMaximalName = 255;
constexpr size_t kMaximalTag = 128;

bool is_lower_alphanumeric(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool is_alphanumeric(char c) { return is_lower_alphanumeric(c) || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

Status wrong(std::string_view text, const std::string& why) {
  return invalid_argument("image reference '" + std::string(text.substr(0, 300)) + "': " + why +
                          "; expected NAME[:TAG][@sha256:DIGEST], such as registry.local:5000/team/web:1.2");
}

/// Alphanumerics with one '.', one or two '_', or any number of '-' between them.
bool is_path_component(std::string_view part) {
  size_t i = 0;
  const auto alphanumerics = [&] {
    const size_t start = i;
    while (i < part.size() && is_lower_alphanumeric(part[i])) ++i;
    return i > start;
  };
  if (!alphanumerics()) return false;
  while (i < part.size()) {
    if (part[i] == '.') {
      ++i;
    } else if (part[i] == '_') {
      ++i;
      if (i < part.size() && part[i] == '_') ++i;
    } else if (part[i] == '-') {
      while (i < part.size() && part[i] == '-') ++i;
    } else {
      return false;
    }
    if (!alphanumerics()) return false;
  }
  return true;
}

bool is_domain(std::string_view domain) {
  std::string_view host = domain;
  if (domain.starts_with('[')) {
    const size_t end = domain.find(']');
    if (end == std::string_view::npos || end < 2) return false;
    for (char c : domain.substr(1, end - 1)) {
      if (!is_digit(c) && !(c >= 'a' && c <= 'f') && !(c >= 'A' && c <= 'F') && c != ':') return false;
    }
    host = domain.substr(end + 1);
    if (host.empty()) return true;
    if (host[0] != ':') return false;
  } else {
    const size_t colon = domain.find(':');
    std::string_view name = domain.substr(0, colon);
    while (true) {
      const size_t dot = name.find('.');
      const std::string_view label = name.substr(0, dot);
      if (label.empty() || label.front() == '-' || label.back() == '-') return false;
      for (char c : label) {
        if (!is_alphanumeric(c) && c != '-') return false;
      }
      if (dot == std::string_view::npos) break;
      name.remove_prefix(dot + 1);
    }
    if (colon == std::string_view::npos) return true;
    host = domain.substr(colon);
  }
  const std::string_view port = host.substr(1);
  if (port.empty() || port.size() > 5) return false;
  for (char c : port) {
    if (!is_digit(c)) return false;
  }
  return true;
}

bool is_tag(std::string_view tag) {
  if (tag.empty() || tag.size() > kMaximalTag || !(is_alphanumeric(tag[0]) || tag[0] == '_')) return false;
  for (char c : tag) {
    if (!is_alphanumeric(c) && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

}  // namespace

std::string Reference::to_string() const {
  std::string text = repository();
  if (!tag.empty()) text += ":" + tag;
  if (!digest.empty()) text += "@" + digest.to_string();
  return text;
}

Result<Reference> Reference::parse(std::string_view text) {
  Reference reference;
  std::string_view rest = text;
  if (rest.empty()) return wrong(text, "it is empty");
  if (is_sha256_hex(rest)) return wrong(text, "64 hexadecimal digits are an image id, not a name");

  if (const size_t at = rest.find('@'); at != std::string_view::npos) {
    auto digest = Digest::parse(rest.substr(at + 1));
    if (!digest) return wrong(text, "the digest after '@' is not \"sha256:\" and 64 hexadecimal digits");
    reference.digest = std::move(*digest);
    rest = rest.substr(0, at);
  }
  // A ':' after the last '/' begins a tag; one before it belongs to the domain's port.
  const size_t slash = rest.rfind('/');
  const size_t colon = rest.find(':', slash == std::string_view::npos ? 0 : slash);
  if (colon != std::string_view::npos) {
    reference.tag = std::string(rest.substr(colon + 1));
    if (!is_tag(reference.tag)) return wrong(text, "the tag after ':' has to be 1 to 128 of A-Z a-z 0-9 _ . -");
    rest = rest.substr(0, colon);
  } else if (reference.digest.empty()) {
    reference.tag = "latest";
  }

  const size_t first = rest.find('/');
  const std::string_view head = rest.substr(0, first);
  const bool has_domain =
      first != std::string_view::npos && (head.find_first_of(".:[") != std::string_view::npos || head == "localhost" ||
                                          head.find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ") != std::string_view::npos);
  if (has_domain) {
    reference.domain = std::string(head);
    reference.path = std::string(rest.substr(first + 1));
    if (!is_domain(head)) return wrong(text, "'" + reference.domain + "' is no host name");
    if (reference.domain == "index.docker.io") reference.domain = "docker.io";
  } else {
    reference.domain = "docker.io";
    reference.path = std::string(rest);
  }
  if (reference.domain == "docker.io" && reference.path.find('/') == std::string::npos) {
    reference.path = "library/" + reference.path;
  }

  if (reference.repository().size() > kMaximalName) return wrong(text, "the name is longer than 255 characters");
  std::string_view path = reference.path;
  while (true) {
    const size_t end = path.find('/');
    const std::string_view part = path.substr(0, end);
    if (!is_path_component(part)) {
      return wrong(text,
                   "'" + std::string(part) + "' has to be lowercase letters and digits with . _ or - between them");
    }
    if (end == std::string_view::npos) break;
    path.remove_prefix(end + 1);
  }
  return reference;
}

}  // namespace pintle::images
