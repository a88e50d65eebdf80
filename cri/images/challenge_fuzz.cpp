// Whatever a registry asks for: words without control over the sizes of what is kept, and what is written again reads alike.
#include <cstdlib>

#include "cri/images/challenge.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pintle::images;
  const auto challenges = parse_challenges({reinterpret_cast<const char*>(data), size});
  std::string text;
  for (const Challenge& challenge : challenges) {
    if (challenge.scheme.empty()) std::abort();
    text += (text.empty() ? "" : ", ") + challenge.scheme;
    bool is_first = true;
    for (const auto& [name, value] : challenge.parameters) {
      text += (is_first ? " " : ", ") + name + "=\"";
      is_first = false;
      for (char c : value) text += c == '"' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
      text += '"';
    }
  }
  const auto again = parse_challenges(text);
  if (again.size() != challenges.size()) std::abort();
  for (size_t i = 0; i < again.size(); ++i) {
    if (again[i].scheme != challenges[i].scheme || again[i].parameters != challenges[i].parameters) std::abort();
  }
  return 0;
}
