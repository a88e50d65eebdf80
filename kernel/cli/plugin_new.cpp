// pintle plugin new: a folder to start a plugin from.

#include <CLI/CLI.hpp>
#include <boost/json.hpp>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/plugin_sdk.hpp"
#include "sdk/testkit/contract.hpp"
#include "sdk/testkit/plugin_template.hpp"

namespace pintle::cli {

namespace {

int write(Context& context, const testkit::NewPlugin& options) {
  testkit::NewPlugin wanted = options;
  if (wanted.folder.empty()) wanted.folder = wanted.name;
  Result<std::vector<std::string>> written = testkit::write_plugin(wanted);
  if (!written) return context.fail(written.status());
  if (context.printed({{"folder", wanted.folder}, {"files", boost::json::array(written->begin(), written->end())}}))
    return exit_ok;
  for (const std::string& file : *written) context.out << file << "\n";
  context.note("build it:  cmake -S " + wanted.folder + " -B " + wanted.folder + "/build && cmake --build " +
               wanted.folder + "/build");
  context.note("check it:  pintle plugin check " + wanted.folder + "/build/" + wanted.name + ".so");
  return exit_ok;
}

}  // namespace

void add_plugin_new(CLI::App& group, Context& context) {
  command<testkit::NewPlugin>(
      group, context, "new", "Write the folder of a new plugin, ready to build",
      [](CLI::App& sub, testkit::NewPlugin& options) {
        std::string known;
        for (const InterfaceInfo* info : testkit::known_interfaces()) {
          known += (known.empty() ? "" : ", ") + std::string(info->name.substr(info->name.rfind('.') + 1));
        }
        sub.add_option("name", options.name, "The plugin's id: a-z, 0-9 and '-'")->required()->type_name("NAME");
        sub.add_option("--interface", options.interface_name, "What it provides: " + known)
            ->required()
            ->type_name("INTERFACE");
        sub.add_option("--language", options.language, "c++ or c")->type_name("LANGUAGE")->capture_default_str();
        sub.add_option("--output", options.folder, "Where to write it (default: ./NAME)")->type_name("DIR");
        sub.add_option("--template", options.template_folder, "Another template than the installed one")
            ->type_name("DIR");
      },
      write);
}

}  // namespace pintle::cli
