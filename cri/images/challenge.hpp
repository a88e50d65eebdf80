#pragma once

/// What a server asks for before it answers: the header WWW-Authenticate (RFC 9110, section 11.6.1), of which registries
/// use two schemes, Basic (RFC 7617) and Bearer with `realm`, `service` and `scope` (distribution's token specification).
///
///     Bearer realm="https://auth.example/token",service="registry.example",scope="repository:team/web:pull"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::images {

struct Challenge {
  std::string scheme;                             ///< in lowercase
  std::map<std::string, std::string> parameters;  ///< names in lowercase

  /// Empty where it was not given.
  std::string parameter(const std::string& name) const;
};

/// All challenges of one header line, which may hold several. Foreign input: what is no challenge is left out.
std::vector<Challenge> parse_challenges(std::string_view header);

}  // namespace pintle::images
