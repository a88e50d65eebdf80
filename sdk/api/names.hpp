#pragma once

/// The alphabets of Kubernetes' names. Each function gives what is wrong, in words that follow the field's path, or "".

#include <string>
#include <string_view>

namespace pintle::api {

/// RFC 1123 label: at most 63 of a-z, 0-9 and "-", which neither opens nor closes it.
PINTLE_API_EXPORT std::string label_problem(std::string_view text);
/// RFC 1123 subdomain: labels with dots between, at most 253 in all.
PINTLE_API_EXPORT std::string subdomain_problem(std::string_view text);
/// The key of a label or annotation: an optional subdomain and "/", then at most 63 of A-Z, a-z, 0-9, "-", "_", ".",
/// letters or digits at both ends.
PINTLE_API_EXPORT std::string qualified_name_problem(std::string_view text);
/// A label's value: empty, or as the name part of its key.
PINTLE_API_EXPORT std::string label_value_problem(std::string_view text);
/// A port's name (RFC 6335): at most 15 of a-z, 0-9 and "-", a letter among them, no "-" at the ends or twice in a row.
PINTLE_API_EXPORT std::string port_name_problem(std::string_view text);
/// An environment variable's name: printable ASCII without "=".
PINTLE_API_EXPORT std::string variable_name_problem(std::string_view text);
/// An IPv4 or IPv6 address.
PINTLE_API_EXPORT std::string address_problem(std::string_view text);

}  // namespace pintle::api
