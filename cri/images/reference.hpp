#pragma once

/// Image references as people write them, made whole.
///
///     web                         -> docker.io/library/web:latest
///     team/web:1.2                -> docker.io/team/web:1.2
///     registry.local:5000/web     -> registry.local:5000/web:latest
///     web@sha256:<64 digits>      -> docker.io/library/web@sha256:...
///
/// The grammar is that of the distribution project (reference.Regexp): a domain is told from a path by a '.', a ':' or
/// by being "localhost"; path components are lowercase letters and digits with single '.', one or two '_' or any '-'
/// between them; a tag is at most 128 word characters, '.' and '-'; the whole name is at most 255 characters.

#include <pintle/status.hpp>
#include <string>
#include <string_view>

#include "cri/images/digest.hpp"

namespace pintle::images {

struct Reference {
  std::string domain;  ///< "docker.io"
  std::string path;    ///< "library/web"
  std::string tag;     ///< "latest"; empty if there is a digest and no tag
  Digest digest;       ///< empty if none was given

  /// "docker.io/library/web"
  std::string repository() const { return domain + "/" + path; }
  /// The canonical text; parsing it gives the same reference again.
  std::string to_string() const;

  /// INVALID_ARGUMENT says which part is wrong.
  static Result<Reference> parse(std::string_view text);
  friend bool operator==(const Reference&, const Reference&) = default;
};

}  // namespace pintle::images
