// pintle top: what the node, its pods and their containers use, now.

#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <map>
#include <sstream>
#include <thread>

#include "kernel/cli/cli.hpp"
#include "pintle/node.pintle.hpp"

namespace pintle::cli {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;
using node::v1::NodeAgentInterface;

namespace {

struct TopOptions {
  std::string pod_namespace, sort_by = "cpu";
  bool all_namespaces = false, containers = false, once = false;
  double seconds = 1;
};

struct Sample {
  Clock::time_point time;
  json::value summary;
};

/// One row: a pod, or a container of one.
struct Row {
  std::string pod_namespace, pod, container, started;
  double cores = 0, received = 0, sent = 0;  // a second
  int64_t memory = 0, disk = 0, processes = 0;
};

Result<Sample> take_sample(Context& context) {
  const node::v1::GetUsageRequest request;
  node::v1::GetUsageResponse response;
  if (Status status = context.admin().call(NodeAgentInterface::info, "GetUsage", request, response); !status)
    return status;
  boost::system::error_code error;
  json::value summary = json::parse(response.json(), error);
  if (error) return data_loss("the node's answer cannot be read: " + error.message());
  return Sample{Clock::now(), std::move(summary)};
}

const json::value& at(const json::value& object, std::initializer_list<std::string_view> path) {
  const json::value* found = &object;
  for (const std::string_view key : path) found = &member(*found, key);
  return *found;
}

int64_t cpu_time(const json::value& of) { return integer_member(member(of, "cpu"), "usageCoreNanoSeconds"); }

/// How fast a counter grows, a second; one that began anew grows from nothing.
double rate(int64_t before, int64_t now, double seconds) {
  return seconds <= 0 || before < 0 ? 0 : static_cast<double>(now < before ? now : now - before) / seconds;
}

std::string key_of(const json::value& pod, const std::string& container = {}) {
  return text_member(member(pod, "podRef"), "uid") + "/" + container;
}

std::vector<Row> rows_of(const Sample& before, const Sample& now, const TopOptions& options) {
  std::map<std::string, const json::value*> known;
  for (const json::value& pod : list_member(before.summary, "pods")) {
    known[key_of(pod)] = &pod;
    for (const json::value& one : list_member(pod, "containers")) known[key_of(pod, text_member(one, "name"))] = &one;
  }
  const double seconds = std::chrono::duration<double>(now.time - before.time).count();
  const auto former = [&](const std::string& key) -> const json::value* {
    const auto found = known.find(key);
    return found == known.end() ? nullptr : found->second;
  };
  std::vector<Row> rows;
  for (const json::value& pod : list_member(now.summary, "pods")) {
    Row row;
    row.pod_namespace = text_member(member(pod, "podRef"), "namespace");
    row.pod = text_member(member(pod, "podRef"), "name");
    if (!options.all_namespaces && !options.pod_namespace.empty() && row.pod_namespace != options.pod_namespace)
      continue;
    if (!options.containers) {
      const json::value* old = former(key_of(pod));
      row.started = text_member(pod, "startTime");
      row.cores = rate(old ? cpu_time(*old) : -1, cpu_time(pod), seconds) * 1e-9;
      row.memory = integer_member(member(pod, "memory"), "workingSetBytes");
      row.disk = integer_member(member(pod, "ephemeral-storage"), "usedBytes");
      row.processes = integer_member(member(pod, "process_stats"), "process_count");
      for (const auto& [name, into] : {std::pair("rxBytes", &row.received), std::pair("txBytes", &row.sent)})
        *into = rate(old ? integer_member(member(*old, "network"), name) : -1,
                     integer_member(member(pod, "network"), name), seconds);
      rows.push_back(std::move(row));
      continue;
    }
    for (const json::value& one : list_member(pod, "containers")) {
      Row container = row;
      container.container = text_member(one, "name");
      const json::value* old = former(key_of(pod, container.container));
      container.started = text_member(one, "startTime");
      container.cores = rate(old ? cpu_time(*old) : -1, cpu_time(one), seconds) * 1e-9;
      container.memory = integer_member(member(one, "memory"), "workingSetBytes");
      container.disk =
          integer_member(member(one, "rootfs"), "usedBytes") + integer_member(member(one, "logs"), "usedBytes");
      rows.push_back(std::move(container));
    }
  }
  std::stable_sort(rows.begin(), rows.end(), [&](const Row& a, const Row& b) {
    return options.sort_by == "memory" ? a.memory > b.memory : a.cores > b.cores;
  });
  return rows;
}

/// "250m" of a core, as kubectl top has it.
std::string millicores(double cores) { return std::to_string(std::llround(cores * 1000)) + "m"; }

std::string bytes_text(int64_t bytes) { return short_bytes(static_cast<uint64_t>(std::max<int64_t>(bytes, 0))); }

std::string share(int64_t part, int64_t whole) {
  return whole <= 0
             ? ""
             : " (" + std::to_string(std::llround(100.0 * static_cast<double>(part) / static_cast<double>(whole))) +
                   "%)";
}

struct NodeLine {
  double cores = 0;
  int64_t all_cores = 0, memory = 0, all_memory = 0, disk = 0, all_disk = 0;
};

NodeLine node_of(const Sample& before, const Sample& now) {
  const json::value& node = member(now.summary, "node");
  NodeLine line;
  const double seconds = std::chrono::duration<double>(now.time - before.time).count();
  line.cores = rate(cpu_time(member(before.summary, "node")), cpu_time(node), seconds) * 1e-9;
  line.all_cores = sysconf(_SC_NPROCESSORS_ONLN);
  line.memory = integer_member(member(node, "memory"), "workingSetBytes");
  line.all_memory = line.memory + integer_member(member(node, "memory"), "availableBytes");
  line.all_disk = integer_member(member(node, "fs"), "capacityBytes");
  line.disk = integer_member(member(node, "fs"), "usedBytes");
  return line;
}

json::object as_json(const Sample& before, const Sample& now, const std::vector<Row>& rows, const TopOptions& options) {
  const NodeLine node = node_of(before, now);
  json::array listed;
  for (const Row& row : rows) {
    json::object one{{"namespace", row.pod_namespace}, {"pod", row.pod}};
    if (options.containers) one["container"] = row.container;
    one["cpuCores"] = row.cores;
    one["memoryBytes"] = row.memory;
    one["diskBytes"] = row.disk;
    one["started"] = row.started;
    if (!options.containers) {
      one["receivedBytesPerSecond"] = row.received;
      one["sentBytesPerSecond"] = row.sent;
      one["processes"] = row.processes;
    }
    listed.push_back(std::move(one));
  }
  return {{"node", json::object{{"name", text_member(member(now.summary, "node"), "nodeName")},
                                {"cpuCores", node.cores},
                                {"cpuCoresAll", node.all_cores},
                                {"memoryBytes", node.memory},
                                {"memoryBytesAll", node.all_memory},
                                {"diskBytes", node.disk},
                                {"diskBytesAll", node.all_disk},
                                {"pods", list_member(now.summary, "pods").size()},
                                {"processes", integer_member(at(now.summary, {"node", "rlimit"}), "curproc")}}},
          {options.containers ? "containers" : "pods", std::move(listed)}};
}

void print(std::ostream& out, const Sample& before, const Sample& now, const std::vector<Row>& rows,
           const TopOptions& options, bool wide, bool color) {
  const NodeLine node = node_of(before, now);
  out << colored(text_member(member(now.summary, "node"), "nodeName"), Color::bold, color) << "   CPU "
      << millicores(node.cores) << " of " << node.all_cores << " cores"
      << share(std::llround(node.cores * 1000), node.all_cores * 1000) << "   memory " << bytes_text(node.memory)
      << " of " << bytes_text(node.all_memory) << share(node.memory, node.all_memory) << "   disk "
      << bytes_text(node.disk) << " of " << bytes_text(node.all_disk) << share(node.disk, node.all_disk) << "   "
      << list_member(now.summary, "pods").size() << " pods\n\n";
  std::vector<Table::Column> columns{{"NAMESPACE"}, {"POD"}};
  if (options.containers) columns.push_back({"CONTAINER"});
  for (const char* heading : {"CPU", "MEMORY", "DISK"}) columns.push_back({heading, false, true});
  if (!options.containers)
    for (const char* heading : {"RECEIVED/s", "SENT/s", "PROCESSES"}) columns.push_back({heading, false, true});
  columns.push_back({"AGE", false, true});
  Table table(std::move(columns));
  for (const Row& row : rows) {
    std::vector<Cell> cells{row.pod_namespace, row.pod};
    if (options.containers) cells.emplace_back(row.container);
    cells.insert(cells.end(), {millicores(row.cores), bytes_text(row.memory), bytes_text(row.disk)});
    if (!options.containers)
      cells.insert(cells.end(), {bytes_text(std::llround(row.received)), bytes_text(std::llround(row.sent)),
                                 std::to_string(row.processes)});
    cells.emplace_back(age(row.started));
    table.add(std::move(cells));
  }
  if (!table.empty()) table.print(out, wide, color);
}

/// Over what stands there, from the upper left corner; what does not fit on the terminal is left out.
void redraw(std::ostream& out, const std::string& text) {
  winsize size{};
  const size_t height = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 2 ? size.ws_row - 1u : 24;
  std::istringstream lines(text);
  out << "\x1b[H";
  std::string line;
  for (size_t i = 0; i < height && std::getline(lines, line); ++i) out << line << "\x1b[K\n";
  out << "\x1b[J" << std::flush;
}

int top(Context& context, const TopOptions& options) {
  const bool is_table = context.format == Format::table || context.format == Format::wide;
  const bool is_live = !options.once && is_table && isatty(STDOUT_FILENO) == 1;
  Result<Sample> before = take_sample(context);
  if (!before) return context.fail(before.status());
  if (is_live) context.out << "\x1b[2J";
  while (true) {
    std::this_thread::sleep_for(std::chrono::duration<double>(options.seconds));
    Result<Sample> now = take_sample(context);
    if (!now) return context.fail(now.status());
    const std::vector<Row> rows = rows_of(*before, *now, options);
    if (context.printed(as_json(*before, *now, rows, options))) return exit_ok;
    std::ostringstream text;
    print(text, *before, *now, rows, options, context.format == Format::wide, context.color);
    if (!is_live) {
      context.out << text.str();
      return exit_ok;
    }
    redraw(context.out, text.str());
    before = std::move(now);
  }
}

}  // namespace

void add_top(CLI::App& app, Context& context) {
  command<TopOptions>(
      app, context, "top", "What the node and its pods use, live on a terminal",
      [](CLI::App& sub, TopOptions& options) {
        sub.add_option("--sort-by", options.sort_by, "What comes first: cpu or memory")
            ->check(CLI::IsMember({"cpu", "memory"}))
            ->type_name("WHAT");
        sub.add_flag("--containers", options.containers, "A line for each container instead of each pod");
        sub.add_option("-n,--namespace", options.pod_namespace, "Only this namespace")->type_name("NAMESPACE");
        sub.add_flag("-A,--all-namespaces", options.all_namespaces, "All namespaces, as without -n");
        sub.add_flag("--once,--no-stream", options.once, "Once, even on a terminal");
        sub.add_option("-d,--delay", options.seconds, "Between two looks")
            ->check(CLI::Range(0.1, 3600.0))
            ->type_name("SECONDS");
      },
      top);
}

}  // namespace pintle::cli
