#pragma once

/// `pintle plugin new`: the folder that a vendor starts from.
///
/// The files lie in `sdk/template` (installed to /usr/share/pintle/template): those of `all`, then those of the language. Words like
/// @NAME@ are replaced in them; `gitignore` becomes `.gitignore`. The interface's methods come from its schema: in C++ an override
/// each, in C a case each, all answering UNIMPLEMENTED until they are written.
///
///     auto files = write_plugin({.name = "acme-runtime", .interface_name = "RuntimeBackend", .folder = "acme-runtime"});

#include <pintle/status.hpp>
#include <string>
#include <vector>

namespace pintle::testkit {

struct NewPlugin {
  std::string name;
  std::string interface_name;    ///< its full name, or the last part of it
  std::string language = "c++";  ///< or "c"
  std::string folder;            ///< made unless it exists; must hold nothing
  std::string template_folder;   ///< empty: the installed one
};

/// Writes the files, all or none, and gives their paths. INVALID_ARGUMENT: name, language or interface, with the nearest right one;
/// ALREADY_EXISTS: the folder holds something. Blocks.
Result<std::vector<std::string>> write_plugin(const NewPlugin& wanted);

}  // namespace pintle::testkit
