#pragma once

/// Base64 (RFC 4648, section 4), as Go's encoder writes bytes in JSON.

#include <optional>
#include <string>
#include <string_view>

namespace pintle::api {

PINTLE_API_EXPORT std::string base64_encode(std::string_view bytes);
/// Line breaks are passed over; anything else outside of the alphabet, or wrong padding, is nothing.
PINTLE_API_EXPORT std::optional<std::string> base64_decode(std::string_view text);

}  // namespace pintle::api
