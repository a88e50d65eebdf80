#pragma once

/// What is wrong with an object, and where.
///
/// The codec and the validations of `sdk/api` find as much as they can and say it as a list, so that a person mends a
/// manifest once. A place is a JSON pointer (RFC 6901) into the object as it was written; who has the text turns it
/// into line and column:
///
///     api::Problems problems = api::decode(document.value(), pod);
///     if (!problems.empty())
///       return api::to_status(problems, [&](const api::Problem& problem) { return
///       document.where(problem.pointer).text(); });
///     // web.yaml:7:9: spec.containers[0].imge: unknown field; did you mean image?

#include <functional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::api {

struct Problem {
  std::string pointer;  ///< "/spec/containers/0/imge"
  std::string message;  ///< "unknown field; did you mean image?"
};
using Problems = std::vector<Problem>;

/// A pointer with one more token, escaped where it must be.
PINTLE_API_EXPORT std::string child(std::string_view pointer, std::string_view key);
PINTLE_API_EXPORT std::string child(std::string_view pointer, size_t index);

/// INVALID_ARGUMENT with all problems in one line ("; " between them, after eight "and N more"); ok if there are none.
/// `where` gives what stands before a problem's path ("web.yaml:7:9"), may be empty.
PINTLE_API_EXPORT Status to_status(const Problems& problems,
                                   const std::function<std::string(const Problem&)>& where = {});

}  // namespace pintle::api
