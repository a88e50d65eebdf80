#pragma once

/// JSON Schema for what people write: is the value right, and if not, what would be?
///
///     Result<Schema> schema = Schema::parse(text, "network-bridge's config schema");
///     for (const Problem& problem : schema->check(profile, "/spec/plugins/lan/config")) print(problem.text());
///     // edge.yaml:9:14: spec.plugins.lan.config.podcidr: unknown key; did you mean podCIDR?
///     config = schema->with_defaults(config);
///
/// A schema is read in full before it is used: a keyword or format that is not listed here is an error of the schema
/// itself, never passed over, because a limit that is not enforced is worse than none.
///
/// | keyword | of | remark |
/// | --- | --- | --- |
/// | `type` | all | one or a list of: object, array, string, integer, number, boolean, null. `5.0` is no integer |
/// | `enum`, `const` | all | |
/// | `properties`, `required`, `additionalProperties` | object | the last a boolean or a schema |
/// | `items`, `minItems`, `maxItems` | array | one schema for all elements |
/// | `minimum`, `maximum` | numbers | inclusive |
/// | `minLength`, `maxLength` | string | in characters |
/// | `pattern` | string | RE2 syntax, which has no look-around and no back-references, and takes linear time; anchor it
/// yourself | | `format` | string | below | | `oneOf`, `anyOf` | all | exactly one, at least one of several schemas |
/// | `default` | all | filled in by `with_defaults` where the key is absent and the mapping around it is there |
/// | `description`, `title`, `examples`, `$schema`, `$id`, `$comment`, `deprecated` | all | for people; `description`
/// is quoted where a key lacks |
///
/// Formats: `ip` (IPv4 or IPv6 address), `ipv4`, `ipv6`, `cidr` (a network: no bits beyond its prefix), `duration` (as
/// Go writes it: "1h30m", "250ms"), `quantity` (as Kubernetes writes it: "500m", "64Mi", "1e3"), `path` (absolute).
///
/// A Schema is immutable; any thread may use it.

#include <boost/json.hpp>
#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/support/document/document.hpp"

namespace pintle::document {

struct Problem {
  Location where;
  std::string path;     // "spec.plugins.lan.config.podcidr"
  std::string message;  // "unknown key; did you mean podCIDR?"

  /// "edge.yaml:9:14: spec.plugins.lan.config.podcidr: unknown key; did you mean podCIDR?"
  std::string text() const;
};

class Schema {
 public:
  /// INVALID_ARGUMENT: the schema is not one, or uses what is not supported; `name` is what the message calls it.
  static Result<Schema> compile(const boost::json::value& schema, std::string_view name);
  static Result<Schema> parse(std::string_view json_text, std::string_view name);

  /// What is wrong with the node at `pointer`, in the order of the text, at most 100 problems. An absent node is
  /// checked as an empty mapping.
  std::vector<Problem> check(const Document& document, std::string_view pointer = "") const;

  /// The value with the defaults of absent keys filled in. The value must be right by `check`.
  boost::json::value with_defaults(boost::json::value value) const;

  struct Rule;

 private:
  explicit Schema(std::shared_ptr<const Rule> root) : root_(std::move(root)) {}
  std::shared_ptr<const Rule> root_;
};

/// Whether a text is right by one of the formats above; if not, what is wrong: "is no CIDR; write it as 10.85.0.0/16".
/// An unknown format's answer is empty.
std::string format_problem(std::string_view format, std::string_view text);

}  // namespace pintle::document
