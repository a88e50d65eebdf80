#include "sdk/support/document/nearest.hpp"

#include <algorithm>
#include <vector>

namespace pintle::document {
namespace {

std::string folded(std::string_view name) {
  std::string plain;
  for (char c : name) {
    if (c == '-' || c == '_' || c == '.') continue;
    plain.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 0x20) : c);
  }
  return plain;
}

// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace

std::string nearest(std::string_view wrong, std::span<const std::string> candidates) {
  constexpr size_t longest = 128;  // names, not novels: the distance is quadratic
  if (wrong.empty() || wrong.size() > longest) return {};
  const std::string plain = folded(wrong);
  const std::string* best = nullptr;
  size_t best_distance = std::max<size_t>(1, plain.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > longest) continue;
    const std::string other = folded(candidate);
    const size_t mistakes = distance(plain, other);
    if (mistakes < best_distance && mistakes < other.size()) {
      best = &candidate;
      best_distance = mistakes;
    }
  }
  return best == nullptr ? std::string() : *best;
}

std::string suggestion(std::string_view wrong, std::span<const std::string> candidates) {
  if (const std::string right = nearest(wrong, candidates); !right.empty()) return "; did you mean " + right + "?";
  constexpr size_t most = 8;
  std::string list;
  for (size_t i = 0; i < std::min(most, candidates.size()); ++i) list += (i == 0 ? "" : ", ") + candidates[i];
  if (list.empty()) return {};
  return "; known are " + list + (candidates.size() > most ? ", ..." : "");
}

}  // namespace pintle::document
