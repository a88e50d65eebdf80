#pragma once

/// Network configurations as administrators and network add-ons lay them down in /etc/cni/net.d.
///
/// A *list* ("conflist") names the plugins that make one network, in order. A single configuration is taken as a list of one. Of the
/// files of a folder, *.conflist, *.conf and *.json, the first in the order of names that can be read counts, or the one whose list
/// has the wanted name.
///
/// Source: https://www.cni.dev/docs/spec/, section 1; `loadOnlyInlinedPlugins` of 1.1 is not supported.

#include <boost/json.hpp>
#include <pintle/status.hpp>
#include <set>
#include <string>
#include <vector>

namespace pintle::cni {

struct PluginConfig {
  std::string type;                    ///< name of the executable
  std::set<std::string> capabilities;  ///< that it wants to be told of
  boost::json::object object;          ///< all of it
};

struct NetworkList {
  std::string name;
  std::string version;
  bool disable_check = false;
  bool disable_gc = false;
  std::vector<PluginConfig> plugins;
};

/// INVALID_ARGUMENT says what is wrong; UNIMPLEMENTED for versions that are not spoken. Of `cniVersions` the newest that is known
/// counts.
Result<NetworkList> parse_network_list(std::string_view text);
/// The list as it was parsed, for the cache.
boost::json::object to_json(const NetworkList& list);

struct LoadedList {
  NetworkList list;
  std::string path;
  std::vector<std::string> passed_over;  ///< files before it that could not be read: "PATH: why"
};
/// `name`: of the wanted list; empty: the first. NOT_FOUND names the folder, and what was passed over.
Result<LoadedList> load_network_list(const std::string& folder, const std::string& name);

}  // namespace pintle::cni
