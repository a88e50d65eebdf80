#pragma once

/// What a node shall be: the instances of plugins that one node runs, all references resolved.
///
/// The profile library (`kernel/profile/`) makes a plan from profiles, the node (`kernel/node/`) converges to it. A plan is a
/// value: two plans are compared instance by instance, and only what differs is touched. Order means nothing; the node orders
/// instances by what they need of each other.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pintle {

enum class Isolation : uint8_t {
  automatic,   // in process if the plugin is one that Pintle signed, in a process of its own if not
  in_process,  // inside pintled
  process,     // alone in a pintle-plugin-host child
};

/// One instance of a plugin.
struct PlannedInstance {
  std::string name;    // the profile's key, "lan"; unique in the plan
  std::string plugin;  // the plugin's id, "network-macvlan"
  std::string path;    // absolute path of its shared object
  std::string config;  // JSON object, valid by the plugin's schema, defaults filled in, keys in a stable order
  Isolation isolation = Isolation::automatic;
  bool enabled = true;                          // false: it is listed as skipped, and not started
  bool required = true;                         // false: the node is ready without it
  bool allow_unsigned = false;                  // load it although no signed manifest lists its file
  std::vector<std::string> grants;              // interfaces that it may call if it is unsigned
  std::map<std::string, std::string> bindings;  // need -> name of the instance that shall answer it
  std::string log_level;                        // "trace" ... "error"; empty: the daemon's

  bool operator==(const PlannedInstance&) const = default;
};

struct NodePlan {
  std::string profile;  // the profile's name, for people
  std::string node;     // the node's name; empty: the host's name
  std::vector<PlannedInstance> instances;

  bool operator==(const NodePlan&) const = default;
};

}  // namespace pintle
