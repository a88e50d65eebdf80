#pragma once

/// Hooks that the node's administrator has installed for containers, as Podman and CRI-O read them (oci-hooks(5), version 1.0.0):
/// files *.json in a few folders, in the order of their names; a file in a later folder takes the place of one of the same name in
/// an earlier folder. A hook runs for a container when all that its `when` names is true of it, and it names something.
///
///     {"version": "1.0.0", "hook": {"path": "/usr/bin/x", "args": ["x"]}, "when": {"annotations": {"^com\\.example$": ".*"}},
///      "stages": ["createContainer"]}
///
/// The OCI runtime runs them: prestart, createRuntime, createContainer and startContainer. A hook of the stages poststart and poststop
/// is refused: this backend starts and removes containers without the OCI runtime, which would pass it over.

#include <boost/json/object.hpp>
#include <map>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::oci {

/// What a hook's conditions are about.
struct HookFacts {
  std::map<std::string, std::string> annotations;
  std::string command;  ///< the process's first argument
  bool has_bind_mounts = false;
};

/// `hooks` of the OCI runtime spec: stage -> hooks. Folders that do not exist are empty. FAILED_PRECONDITION names the file that is
/// wrong: a container must not run without a hook that somebody relies on. Blocks.
Result<boost::json::object> read_hooks(const std::vector<std::string>& folders, const HookFacts& facts);

/// One file's hook, added to the stages of `hooks` if it is meant for this container. INVALID_ARGUMENT says what is wrong.
Status add_hook(std::string_view text, const HookFacts& facts, boost::json::object& hooks);

}  // namespace pintle::oci
