// pintle status: the node on one screen.

#include <CLI/App.hpp>
#include <boost/json.hpp>
#include <fstream>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/plugins.hpp"
#include "pintle/node.pintle.hpp"

namespace pintle::cli {

namespace json = boost::json;

std::string plugin_problem(const json::value& plugin) {
  const std::string state = text_member(plugin, "state");
  if (const std::string reason = text_member(plugin, "reason"); !reason.empty()) return reason;
  for (const json::value& condition : list_member(plugin, "conditions")) {
    if (flag_member(condition, "status", true)) continue;
    std::string text = text_member(condition, "type") + " is false";
    for (const char* key : {"reason", "message"}) {
      if (const std::string more = text_member(condition, key); !more.empty()) text += ": " + more;
    }
    return text;
  }
  for (const json::value& need : list_member(plugin, "needs")) {
    if (list_member(need, "bound").empty() && text_member(need, "when") != "optional" && state != "stopped" &&
        state != "skipped") {
      return "nobody provides " + text_member(need, "interface") + ", which it needs (" + text_member(need, "name") +
             ")";
    }
  }
  return {};
}

Color state_color(const std::string& state) {
  if (state == "running") return Color::green;
  if (state == "failed" || state == "quarantined") return Color::red;
  if (state == "skipped" || state == "stopped" || state == "destroyed") return Color::dim;
  return Color::yellow;
}

std::string process_memory(int64_t pid) {
  if (pid <= 0) return {};
  std::ifstream rollup("/proc/" + std::to_string(pid) + "/smaps_rollup");
  for (std::string line; std::getline(rollup, line);) {
    if (line.starts_with("Pss:")) return short_bytes(std::strtoull(line.c_str() + 4, nullptr, 10) * 1024);
  }
  return {};
}

Cell plugin_name_cell(const json::value& plugin) {
  const std::string name = text_member(plugin, "name");
  return text_member(plugin, "state") == "retiring" ? text_member(plugin, "key") : name;
}

namespace {

std::string uptime(const json::value& status) {
  const std::string since = age(text_member(status, "started"));
  return since.empty() ? "" : " since " + since;
}

/// The node as its agent tells it, a core/v1 Node; null if there is no agent.
json::value kubernetes_node(Context& context) {
  node::v1::DescribeNodeRequest request;
  node::v1::DescribeNodeResponse response;
  if (!context.admin().call(node::v1::NodeAgentInterface::info, "DescribeNode", request, response,
                            {"", std::chrono::seconds(2)}))
    return nullptr;
  boost::system::error_code error;
  json::value node = json::parse(response.json(), error);
  return error ? json::value() : node;
}

/// What pods may have, and what the node runs short of.
void print_pods_and_pressure(Context& context, const json::value& node) {
  const json::value& status = member(node, "status");
  if (!status.is_object()) return;
  const json::value &capacity = member(status, "capacity"), &allocatable = member(status, "allocatable");
  std::string room;
  for (const char* name : {"cpu", "memory", "ephemeral-storage", "pods"}) {
    std::string has = text_member(capacity, name), gives = text_member(allocatable, name);
    if (has.empty()) continue;
    if (std::string_view(name) == "memory" || std::string_view(name) == "ephemeral-storage") {
      has = short_quantity(has);
      gives = short_quantity(gives);
    }
    room += (room.empty() ? "" : ", ") + std::string(name) + " " + gives + (has == gives ? "" : " of " + has);
  }
  context.out << "Pods     may have " << room << "\n";
  for (const json::value& condition : list_member(status, "conditions")) {
    const std::string type = text_member(condition, "type");
    if (!type.ends_with("Pressure") || text_member(condition, "status") != "True") continue;
    context.out << "Pressure "
                << colored(type + " since " + age(text_member(condition, "lastTransitionTime")) +
                               ": pods are evicted, or wait; `pintle pod ls` shows them",
                           Color::red, context.color)
                << "\n";
  }
}

int show_status(Context& context, const NoOptions&) {
  Result<json::value> answer = context.admin().json("GET", "/v1/status", "", std::chrono::seconds(10));
  if (!answer) return context.fail(answer.status());
  json::value& status = *answer;
  const bool ready = flag_member(status, "ready");
  const json::value node = kubernetes_node(context);
  if (node.is_object() && status.is_object()) status.get_object()["kubernetes"] = node;
  if (context.printed(status)) return ready ? exit_ok : exit_unavailable;

  const json::array& plugins = list_member(status, "plugins");
  size_t not_ready = 0, wanted = 0;
  for (const json::value& plugin : plugins) {
    const std::string plugin_state = text_member(plugin, "state");
    if (!flag_member(plugin, "required", true) || plugin_state == "retiring" || plugin_state == "skipped") continue;
    ++wanted;
    if (!flag_member(plugin, "ready")) ++not_ready;
  }
  const std::string version = text_member(status, "version"), state = text_member(status, "state");
  const int64_t pid = integer_member(status, "pid");
  const std::string memory = process_memory(pid);
  context.out << "Node     " << one_line(text_member(status, "node")) << "\n"
              << "Profile  " << one_line(text_member(status, "profile")) << "\n"
              << "Pintled  " << version << ", " << state << uptime(status) << " (pid " << pid
              << (memory.empty() ? "" : ", " + memory) << ")\n"
              << "Ready    ";
  if (ready) {
    context.out << colored("yes", Color::green, context.color) << "\n";
  } else {
    context.out << colored("no", Color::red, context.color)
                << (not_ready == 0 ? ""
                                   : ": " + std::to_string(not_ready) + " of " + std::to_string(wanted) +
                                         " required plugins " + (not_ready == 1 ? "is" : "are") + " not ready")
                << "\n";
  }
  print_pods_and_pressure(context, node);
  context.out << "\n";

  Table table({{"PLUGIN"},
               {"STATE"},
               {"SINCE", false, true},
               {"RESTARTS", false, true},
               {"ISOLATION"},
               {"MEMORY", false, true},
               {"VERSION", true},
               {"PID", true, true},
               {"TRUST", true},
               {"LOG", true},
               {"PROBLEM"}});
  for (const json::value& plugin : plugins) {
    const std::string plugin_state = text_member(plugin, "state"), isolation = text_member(plugin, "isolation");
    const int64_t plugin_pid = integer_member(plugin, "pid");
    const bool lives = plugin_state != "skipped" && plugin_state != "stopped" && plugin_state != "failed" &&
                       plugin_state != "quarantined";
    const bool half = plugin_state == "running" && !flag_member(plugin, "ready", true);
    table.add(
        {plugin_name_cell(plugin),
         {half ? "running, not ready" : plugin_state, half ? Color::yellow : state_color(plugin_state)},
         age(text_member(plugin, "since")),
         std::to_string(integer_member(plugin, "restarts")),
         isolation,
         isolation == "process" && lives ? process_memory(plugin_pid) : "",
         text_member(plugin, "version"),
         plugin_pid == 0 ? "" : std::to_string(plugin_pid),
         text_member(plugin, "trust"),
         text_member(plugin, "log_level"),
         {plugin_problem(plugin), plugin_state == "skipped" || plugin_state == "stopped" ? Color::dim : Color::red}});
  }
  table.print(context.out, context.format == Format::wide, context.color);
  return ready ? exit_ok : exit_unavailable;
}

}  // namespace

void add_status(CLI::App& app, Context& context) {
  command<NoOptions>(app, context, "status", "The node on one screen; exit code 0 if it is ready, 5 if not",
                     declare_none, show_status);
}

}  // namespace pintle::cli
