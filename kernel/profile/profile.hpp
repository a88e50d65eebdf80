#pragma once

/// Profiles: what an administrator writes, made into a plan for one node.
///
/// A profile is a YAML (or JSON) text:
///
///     apiVersion: pintle.io/v1
///     kind: NodeProfile
///     metadata: {name: edge-node}
///     spec:
///       extends: [standalone]              # bases, by name or absolute path
///       nodeName: edge-7                   # absent: the host's name
///       plugins:
///         network-bridge: {config: {podCIDR: 10.85.0.0/16}}
///         lan:                             # a key names an instance,
///           plugin: network-macvlan        # `plugin` the plugin's id where it differs from the name
///           config: {parent: eth1}         # by the plugin's own JSON Schema
///           enabled: true                  # false: listed as skipped, not started
///           required: true                 # false: the node is ready without it
///           isolation: automatic           # in-process, process; automatic: process unless Pintle signed it
///           path: /opt/acme/lan.so         # absent: ID.so in the plugin folders
///           allowUnsigned: false           # true: load it although no signed manifest lists it
///           grants: [pintle.runtime.v1.RuntimeBackend]   # interfaces that an unsigned plugin may call
///           bindings: {runtime: runtime-oci}             # need -> instance, where several could answer it
///           logLevel: info                 # trace, debug, info, warn, error
///       awaits: []                         # what Pintle does not have yet and the profile is for; such a profile is
///       not run
///
/// A name is looked for as NAME.yaml, NAME.yml or NAME.json in /etc/pintle/profiles, then in
/// /usr/share/pintle/profiles; what contains a slash is a file's path. The first that is found counts, so a file in
/// /etc stands in for a shipped one of its name.
///
/// Merging. The bases are laid over each other in the order of `extends`, each with its own bases below it, and the
/// profile over all: the later one wins. Mappings merge, lists and everything else are replaced; a null within `config`
/// takes the base's key away, so that the plugin's default holds again. An instance that gets another `plugin` starts
/// from nothing. A profile that extends itself over any number of steps is refused with all steps named.
///
/// Then every plugin's file is looked up and read (not run), its config is checked by its own schema, defaults are
/// filled in, and references between instances are checked. Everything wrong is reported with file, line, column and
/// the nearest right name; a plan exists only if nothing is wrong. Nothing of this touches the node.
///
/// Functions block on files and may run on any thread.

#include <functional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/profile/plan.hpp"
#include "sdk/support/document/document.hpp"
#include "sdk/support/plugin_file/plugin_file.hpp"

namespace pintle {

/// Where profiles and plugins are looked for, first come first served, and how a plugin's file is read:
/// `read_plugin_file` of sdk/support/plugin_file, or a test's own.
struct ProfileSources {
  std::vector<std::string> profile_folders = {"/etc/pintle/profiles", "/usr/share/pintle/profiles"};
  std::vector<std::string> plugin_folders = {"/usr/lib/pintle/plugins"};
  std::function<Result<PluginFile>(const std::string& path)> read_plugin;
};

/// Whether a profile is meant by its file's path, not by name: "./edge.yaml", "edge.yaml", "/srv/edge".
bool is_profile_path(const std::string& name_or_path);

struct ResolvedProfile {
  std::string path;                   // of its file; empty if it was a text
  std::vector<std::string> bases;     // files that it extends, in the order in which they were laid down
  document::Document merged;          // with the place of every value
  NodePlan plan;                      // complete only without problems
  std::vector<std::string> problems;  // "file:line:column: path: what is wrong and what would be right"
  std::vector<std::string> awaits;    // not empty: right, but not to be run
};

/// Reads, merges and checks a profile by name or path, or a text of which `name` is what messages call it. An error
/// only if there is nothing to check: NOT_FOUND with the nearest name, INVALID_ARGUMENT for what is no YAML or no
/// profile, or bases in a circle.
Result<ResolvedProfile> resolve_profile(const std::string& name_or_path, const ProfileSources& sources);
Result<ResolvedProfile> resolve_profile_text(std::string_view text, const std::string& name,
                                             const ProfileSources& sources);

/// The plan of a profile that is right and can be run. INVALID_ARGUMENT: the first problem, and how many more;
/// FAILED_PRECONDITION: it awaits something.
Result<NodePlan> plan_of_profile(const std::string& name_or_path, const ProfileSources& sources);
Result<NodePlan> runnable_plan(const ResolvedProfile& profile);

struct ProfileListing {
  std::string name;
  std::string path;
  std::vector<std::string> extends;
  std::string description;  // metadata.description
  std::vector<std::string> awaits;
  std::string problem;  // why it cannot be read; empty: it can
};

/// All profiles of the folders by name; one that stands behind another of its name is left out.
std::vector<ProfileListing> list_profiles(const ProfileSources& sources);

/// Ids of all plugins in the folders, sorted.
std::vector<std::string> list_plugins(const ProfileSources& sources);

/// One difference of two plans.
struct PlanChange {
  enum class Kind { added, removed, changed };
  struct Field {
    std::string path;  // "config.podCIDR", "isolation"
    std::string from;  // JSON; empty: absent
    std::string to;
    bool operator==(const Field&) const = default;
  };
  std::string instance;
  std::string plugin;
  Kind kind = Kind::changed;
  std::vector<Field> fields;  // of a changed instance
  bool operator==(const PlanChange&) const = default;
};

/// What applying `to` where `from` is in force changes, by instance name.
std::vector<PlanChange> diff_plans(const NodePlan& from, const NodePlan& to);

}  // namespace pintle
