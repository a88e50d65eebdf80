#include "sdk/support/systemd/slices.hpp"

#include <algorithm>
#include <cctype>

namespace pintle::systemd {
namespace {

constexpr std::string_view kSuffix = ".slice";
constexpr size_t kLongestName = 255;  // systemd.unit(5)

bool is_unit_character(unsigned char c) {
  return std::isalnum(c) || std::string_view(":-_.\\@").find(static_cast<char>(c)) != std::string_view::npos;
}

}  // namespace

bool is_slice(std::string_view path) { return path.ends_with(kSuffix) && path.size() > kSuffix.size(); }

std::string slice_path(std::string_view neutral) {
  std::string path, name;
  while (!neutral.empty()) {
    const std::string_view part = neutral.substr(0, neutral.find('/'));
    neutral.remove_prefix(std::min(part.size() + 1, neutral.size()));
    if (part.empty()) continue;
    if (!name.empty()) name += '-';
    std::replace_copy(part.begin(), part.end(), std::back_inserter(name), '-', '_');
    path += "/" + name + std::string(kSuffix);
  }
  return path;
}

Result<std::string> expand_slice(std::string_view path_or_name) {
  const std::string shown = "slice '" + std::string(path_or_name.substr(0, 300)) + "'";
  while (path_or_name.size() > 1 && path_or_name.ends_with('/')) path_or_name.remove_suffix(1);
  const std::string_view unit = path_or_name.substr(path_or_name.rfind('/') + 1);
  const std::string_view name = unit.substr(0, unit.size() - std::min(unit.size(), kSuffix.size()));
  if (!is_slice(unit)) return invalid_argument(shown + " does not end in .slice; such as kubepods-burstable.slice");
  if (name == "-") return invalid_argument(shown + " is the root of all; name one below it");
  if (unit.size() > kLongestName || !std::all_of(name.begin(), name.end(), is_unit_character) ||
      name.starts_with('-') || name.ends_with('-') || name.find("--") != std::string_view::npos) {
    return invalid_argument(shown + " is no name of a systemd slice; such as kubepods-burstable.slice");
  }
  std::string path;
  for (size_t end = name.find('-');; end = name.find('-', end + 1)) {
    path += "/" + std::string(name.substr(0, end)) + std::string(kSuffix);
    if (end == std::string_view::npos) break;
  }
  if (path_or_name.find('/') != std::string_view::npos && path_or_name != path &&
      "/" + std::string(path_or_name) != path)
    return invalid_argument(shown + " lies elsewhere: by its name it is " + path);
  return path;
}

std::string unit_of(std::string_view path) { return std::string(path.substr(path.rfind('/') + 1)); }

}  // namespace pintle::systemd
