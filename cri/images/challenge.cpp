#include "cri/images/challenge.hpp"

namespace pintle::images {
namespace {

constexpr size_t kMaximalChallenges = 16;
constexpr size_t kMaximalParameters = 32;

bool is_token_character(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c != 0 && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}
  bool at_end() const { return text_.empty(); }
  bool skip(char c) {
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  void skip_blanks() {
    while (skip(' ') || skip('\t')) {
    }
  }
  void skip_separators() {
    for (;;) {
      skip_blanks();
      if (!skip(',')) return;
    }
  }
  void skip_one_or_quoted() {
    if (text_.starts_with('"')) {
      (void)value();
    } else if (!text_.empty()) {
      text_.remove_prefix(1);
    }
  }
  std::string token(bool lower) {
    std::string token;
    while (!text_.empty() && is_token_character(text_.front())) {
      const char c = text_.front();
      token += lower && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
      text_.remove_prefix(1);
    }
    return token;
  }
  std::string value() {
    if (!skip('"')) return token(false);
    std::string value;
    while (!text_.empty() && text_.front() != '"') {
      if (text_.front() == '\\' && text_.size() > 1) text_.remove_prefix(1);
      value += text_.front();
      text_.remove_prefix(1);
    }
    skip('"');
    return value;
  }

 private:
  std::string_view text_;
};

}  // namespace

std::string Challenge::parameter(const std::string& name) const {
  const auto found = parameters.find(name);
  return found == parameters.end() ? "" : found->second;
}

std::vector<Challenge> parse_challenges(std::string_view header) {
  std::vector<Challenge> challenges;
  Reader reader(header);
  for (;;) {
    reader.skip_separators();
    if (reader.at_end()) return challenges;
    std::string word = reader.token(true);
    if (word.empty()) {
      reader.skip_one_or_quoted();
      continue;
    }
    reader.skip_blanks();
    // "name=value" belongs to the challenge before; a word alone begins another one.
    if (reader.skip('=')) {
      reader.skip_blanks();
      std::string value = reader.value();
      if (!challenges.empty() && challenges.back().parameters.size() < kMaximalParameters)
        challenges.back().parameters.emplace(std::move(word), std::move(value));
      continue;
    }
    if (challenges.size() == kMaximalChallenges) return challenges;
    challenges.push_back({std::move(word), {}});
  }
}

}  // namespace pintle::images
