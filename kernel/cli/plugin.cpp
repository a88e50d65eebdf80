// pintle plugin: the plugins of this node.

#include <CLI/CLI.hpp>
#include <boost/json.hpp>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/plugin_sdk.hpp"
#include "kernel/cli/plugins.hpp"

namespace pintle::cli {

namespace json = boost::json;

namespace {

struct PluginOptions {
  std::string name;
  std::vector<std::string> names;
  std::string level;
};

std::string interface_list(const json::value& plugin) {
  std::string list;
  for (const json::value& provided : list_member(plugin, "provides"))
    list += (list.empty() ? "" : " ") + text_member(provided, "interface");
  return list;
}

std::string texts_of(const json::value& object, std::string_view key) {
  std::string list;
  for (const json::value& element : list_member(object, key)) {
    if (element.is_string())
      list += (list.empty() ? "" : ", ") + std::string(element.get_string().data(), element.get_string().size());
  }
  return list;
}

std::string path_of(const std::string& name) { return "/v1/plugins/" + percent_encoded(name); }

int list(Context& context, const NoOptions&) {
  Result<json::value> answer = context.admin().json("GET", "/v1/plugins");
  if (!answer) return context.fail(answer.status());
  if (context.printed(*answer)) return exit_ok;
  Table table({{"NAME"},
               {"PLUGIN"},
               {"VERSION"},
               {"STATE"},
               {"ISOLATION"},
               {"MATURITY", true},
               {"TRUST", true},
               {"PATH", true},
               {"PROVIDES"}});
  for (const json::value& plugin : list_member(*answer, "plugins")) {
    const std::string state = text_member(plugin, "state");
    table.add({plugin_name_cell(plugin),
               text_member(plugin, "plugin"),
               text_member(plugin, "version"),
               {state, state_color(state)},
               text_member(plugin, "isolation"),
               text_member(plugin, "maturity"),
               text_member(plugin, "trust"),
               text_member(plugin, "path"),
               interface_list(plugin)});
  }
  table.print(context.out, context.format == Format::wide, context.color);
  return exit_ok;
}

void show(Context& context, const json::value& plugin) {
  const auto line = [&](const std::string& heading, const std::string& text, Color color = Color::none) {
    if (!text.empty())
      context.out << heading << std::string(14 - heading.size(), ' ') << colored(one_line(text), color, context.color)
                  << "\n";
  };
  const std::string state = text_member(plugin, "state"), since = age(text_member(plugin, "since"));
  line("Name", text_member(plugin, "name"));
  line("Key", text_member(plugin, "key"));
  line("Plugin", text_member(plugin, "plugin") + " " + text_member(plugin, "version") + " (" +
                     text_member(plugin, "maturity") + ")");
  line("Summary", text_member(plugin, "summary"));
  line("State",
       state + (since.empty() ? "" : " since " + since) + (flag_member(plugin, "ready", true) ? "" : ", not ready"),
       state_color(state));
  line("Problem", plugin_problem(plugin), Color::red);
  line("Restarts", std::to_string(integer_member(plugin, "restarts")));
  const int64_t pid = integer_member(plugin, "pid");
  const std::string isolation = text_member(plugin, "isolation");
  const std::string memory = isolation == "process" ? process_memory(pid) : "";
  line("Isolation",
       isolation + (pid == 0 ? "" : " (pid " + std::to_string(pid) + (memory.empty() ? "" : ", " + memory) + ")"));
  line("File", text_member(plugin, "path") + " (" + text_member(plugin, "trust") + ")");
  line("Log level", text_member(plugin, "log_level"));
  line("Required", flag_member(plugin, "required", true) ? "yes" : "no");

  Table provides({{"INTERFACE"}, {"REVISION", false, true}, {"FEATURES"}});
  for (const json::value& provided : list_member(plugin, "provides")) {
    provides.add({text_member(provided, "interface"), std::to_string(integer_member(provided, "revision")),
                  texts_of(provided, "features")});
  }
  Table needs({{"NEED"}, {"INTERFACE"}, {"WHEN"}, {"WANTS"}, {"BOUND TO"}});
  for (const json::value& need : list_member(plugin, "needs")) {
    needs.add({text_member(need, "name"), text_member(need, "interface"), text_member(need, "when"),
               text_member(need, "wants"), texts_of(need, "bound")});
  }
  Table conditions({{"CONDITION"}, {"STATUS"}, {"REASON"}, {"MESSAGE"}});
  for (const json::value& condition : list_member(plugin, "conditions")) {
    const bool is_true = flag_member(condition, "status");
    conditions.add({text_member(condition, "type"),
                    {is_true ? "true" : "false", is_true ? Color::green : Color::red},
                    text_member(condition, "reason"),
                    text_member(condition, "message")});
  }
  const std::pair<const char*, const Table*> tables[] = {
      {"Provides", &provides}, {"Needs", &needs}, {"Conditions", &conditions}};
  for (const auto& [heading, table] : tables) {
    if (table->empty()) continue;
    context.out << heading << ":\n";
    table->print(context.out, true, context.color, 2);
  }
  if (const json::value& config = member(plugin, "config"); config.is_object() && !config.get_object().empty()) {
    context.out << "Config:\n";
    const std::string text = document::write_yaml(config);
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      context.out << "  " << text.substr(at, end - at) << "\n";
      at = end + 1;
    }
  }
}

int inspect(Context& context, const PluginOptions& options) {
  Result<json::value> answer = context.admin().json("GET", path_of(options.name));
  if (!answer) return context.fail(answer.status());
  if (!context.printed(*answer)) show(context, *answer);
  return exit_ok;
}

// start, stop and restart differ in a word only. All are tried, the first failure is the exit code.
int change(Context& context, const PluginOptions& options, const std::string& verb) {
  int exit = exit_ok;
  for (const std::string& name : options.names) {
    Result<json::value> answer = context.admin().json("POST", path_of(name) + "/" + verb);
    if (!answer) {
      const int failed = context.fail(answer.status());
      if (exit == exit_ok) exit = failed;
      continue;
    }
    if (context.printed(*answer)) continue;
    if (flag_member(*answer, "reexec")) {
      context.out << name << ": a new build; pintled is replacing itself to load it\n";
      continue;
    }
    const std::string state = text_member(*answer, "state"), problem = plugin_problem(*answer);
    context.out << name << ": " << colored(state, state_color(state), context.color)
                << (problem.empty() ? "" : ": " + one_line(problem)) << "\n";
    if (exit == exit_ok && (state == "failed" || state == "quarantined")) exit = exit_unavailable;
  }
  return exit;
}

int start(Context& context, const PluginOptions& options) { return change(context, options, "start"); }
int stop(Context& context, const PluginOptions& options) { return change(context, options, "stop"); }
int restart(Context& context, const PluginOptions& options) { return change(context, options, "restart"); }

int set_log_level(Context& context, const PluginOptions& options) {
  const json::value body = {{"level", options.level}};
  Result<json::value> answer = context.admin().json("PUT", path_of(options.name) + "/log-level", json::serialize(body));
  if (!answer) return context.fail(answer.status());
  if (!context.printed(*answer)) context.out << options.name << ": logs from " << options.level << " on\n";
  return exit_ok;
}

void declare_one(CLI::App& sub, PluginOptions& options) {
  sub.add_option("name", options.name, "An instance's name, or its key NAME@GENERATION")
      ->required()
      ->type_name("PLUGIN");
}
void declare_many(CLI::App& sub, PluginOptions& options) {
  sub.add_option("name", options.names, "Instances by name")->required()->type_name("PLUGIN");
}

}  // namespace

void add_plugin(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("plugin", "List, inspect, start, stop and restart plugins; write and check one");
  group->require_subcommand(1);
  command<NoOptions>(*group, context, "ls", "List the plugins of this node", declare_none, list);
  command<PluginOptions>(*group, context, "inspect", "All about one plugin, with its config", declare_one, inspect);
  command<PluginOptions>(*group, context, "start", "Start stopped, failed or quarantined plugins", declare_many, start);
  command<PluginOptions>(*group, context, "stop", "Drain and stop plugins until they are started again", declare_many,
                         stop);
  command<PluginOptions>(*group, context, "restart", "Stop and start plugins, with the files as they lie on disk now",
                         declare_many, restart);
  command<PluginOptions>(
      *group, context, "log-level", "Change what a plugin logs (pintled: the daemon itself)",
      [](CLI::App& sub, PluginOptions& options) {
        declare_one(sub, options);
        sub.add_option("level", options.level, "trace, debug, info, warn or error")
            ->required()
            ->type_name("LEVEL")
            ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}).description(""));
      },
      set_log_level);
  add_plugin_new(*group, context);
  add_plugin_check(*group, context);
}

}  // namespace pintle::cli
