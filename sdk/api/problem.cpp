#include "sdk/api/problem.hpp"

#include "sdk/support/document/document.hpp"

namespace pintle::api {

namespace {

constexpr size_t kShownProblems = 8;

}  // namespace

std::string child(std::string_view pointer, std::string_view key) {
  std::string result(pointer);
  result += '/';
  result += document::pointer_token(key);
  return result;
}

std::string child(std::string_view pointer, size_t index) {
  std::string result(pointer);
  result += '/';
  result += std::to_string(index);
  return result;
}

Status to_status(const Problems& problems, const std::function<std::string(const Problem&)>& where) {
  if (problems.empty()) return Status::ok();
  std::string text;
  for (size_t i = 0; i < problems.size() && i < kShownProblems; ++i) {
    const Problem& problem = problems[i];
    if (i > 0) text += "; ";
    if (where)
      if (const std::string place = where(problem); !place.empty()) text += place + ": ";
    if (!problem.pointer.empty()) text += document::readable_path(problem.pointer) + ": ";
    text += problem.message;
  }
  if (problems.size() > kShownProblems) text += "; and " + std::to_string(problems.size() - kShownProblems) + " more";
  return invalid_argument(std::move(text));
}

}  // namespace pintle::api
