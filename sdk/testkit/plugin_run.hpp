#pragma once

/// The steps of `plugin_check.hpp` in which the plugin's code runs, in a child process whose end is only a finding.

#include <chrono>
#include <string>
#include <vector>

#include "sdk/testkit/plugin_image.hpp"

namespace pintle::testkit {

struct PluginRun {
  std::string path;
  PluginImage image;
  std::string version;  // the manifest's
  std::string config;   // JSON; empty: the plugin needs a config that was not given
  struct Provided {
    std::string interface_name;
    std::vector<std::string> features;
  };
  std::vector<Provided> provides;
  std::vector<std::string> start_needs;  // "name (interface)"
  std::chrono::milliseconds patience{};
};

/// Adds the steps from `entry` on.
void run_plugin(const PluginRun& run, std::vector<CheckStep>& steps);

}  // namespace pintle::testkit
