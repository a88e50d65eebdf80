#pragma once

/// What a plain (unquoted) scalar of YAML means, by the rules that the essay of document.hpp tells.

#include <boost/json.hpp>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace pintle::document {

/// INVALID_ARGUMENT: it means something that JSON cannot say (.inf, .nan). The message has no place in it.
Result<boost::json::value> plain_scalar(std::string_view text);

/// A scalar with one of YAML's own tags, "tag:yaml.org,2002:int". INVALID_ARGUMENT: another tag, or a text that does
/// not fit it.
Result<boost::json::value> tagged_scalar(std::string_view tag, std::string_view text);

}  // namespace pintle::document
