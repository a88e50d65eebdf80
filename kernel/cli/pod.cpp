// pintle pod: the pods of this node.

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <filesystem>
#include <iostream>
#include <iterator>

#include "cri/api.pintle.hpp"
#include "kernel/cli/cli.hpp"
#include "kernel/cli/pods.hpp"
#include "pintle/node.pintle.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::cli {

namespace json = boost::json;
using node::v1::NodeAgentInterface;
using runtime::v1::RuntimeServiceInterface;

namespace {

struct PodOptions {
  std::string name;
  std::vector<std::string> names;
  std::string pod_namespace;
  std::vector<std::string> files;
  std::string container;
  std::vector<std::string> command;
  uint32_t grace = 0;
  bool has_grace = false;
  bool dry_run = false;
  uint32_t timeout = 0;
};

json::value object_of(const node::v1::Pod& pod) {
  boost::system::error_code error;
  json::value value = json::parse(pod.json(), error);
  return error ? json::value{{"metadata",
                              {{"name", pod.reference().name()}, {"namespace", pod.reference().namespace_()}}}}
               : value;
}

Color phase_color(const std::string& phase) {
  if (phase == "Running" || phase == "Succeeded") return Color::green;
  return phase == "Failed" ? Color::red : Color::yellow;
}

std::string addresses_of(const node::v1::Pod& pod) {
  std::string list;
  for (const std::string& address : pod.addresses()) list += (list.empty() ? "" : ",") + address;
  return list;
}

int list(Context& context, const PodOptions& options) {
  node::v1::ListPodsRequest request;
  node::v1::ListPodsResponse response;
  if (Status status = context.admin().call(NodeAgentInterface::info, "ListPods", request, response); !status)
    return context.fail(status);
  json::array all_pods;
  Table table({{"NAMESPACE"},
               {"NAME"},
               {"READY"},
               {"STATUS"},
               {"RESTARTS", false, true},
               {"AGE", false, true},
               {"ADDRESS"},
               {"SOURCE", true},
               {"UID", true},
               {"SANDBOX", true},
               {"PROBLEM"}});
  for (const node::v1::Pod& pod : response.pods()) {
    if (!options.pod_namespace.empty() && pod.reference().namespace_() != options.pod_namespace) continue;
    std::string status = pod_status(object_of(pod));
    if (status.empty()) status = pod.phase();
    all_pods.push_back({{"namespace", pod.reference().namespace_()},
                        {"name", pod.reference().name()},
                        {"uid", pod.uid()},
                        {"phase", pod.phase()},
                        {"status", status},
                        {"ready", pod.ready_containers()},
                        {"containers", pod.containers()},
                        {"restarts", pod.restarts()},
                        {"created", format_time(pod.created_at())},
                        {"addresses", json::array(pod.addresses().begin(), pod.addresses().end())},
                        {"source", pod.source()},
                        {"sandbox", pod.sandbox_id()},
                        {"message", pod.message()}});
    const bool all = pod.ready_containers() == pod.containers();
    table.add({pod.reference().namespace_(),
               pod.reference().name(),
               {std::to_string(pod.ready_containers()) + "/" + std::to_string(pod.containers()),
                all ? Color::none : Color::yellow},
               {status, status == pod.phase() ? phase_color(status) : Color::yellow},
               std::to_string(pod.restarts()),
               age(pod.created_at()),
               addresses_of(pod),
               pod.source(),
               pod.uid(),
               pod.sandbox_id().substr(0, 13),
               {pod.message(), Color::red}});
  }
  if (context.printed({{"pods", all_pods}})) return exit_ok;
  if (table.empty()) {
    context.note("no pods; add one with: pintle pod apply -f FILE");
    return exit_ok;
  }
  table.print(context.out, context.format == Format::wide, context.color);
  return exit_ok;
}

int describe(Context& context, const PodOptions& options) {
  Result<PodName> name = parse_pod_name(options.name, options.pod_namespace);
  if (!name) return context.fail(name.status());
  Result<node::v1::Pod> found = find_pod(context, *name);
  if (!found) return context.fail(found.status());
  const node::v1::Pod& pod = *found;
  const json::value object = object_of(pod);
  if (context.printed(object)) return exit_ok;

  const auto line = [&](const std::string& heading, const std::string& text, Color color = Color::none) {
    if (!text.empty())
      context.out << heading << std::string(11 - heading.size(), ' ') << colored(one_line(text), color, context.color)
                  << "\n";
  };
  line("Name", pod.reference().name());
  line("Namespace", pod.reference().namespace_());
  line("UID", pod.uid());
  line("Source", pod.source());
  line("Phase", pod.phase(), phase_color(pod.phase()));
  line("Problem", pod.message(), Color::red);
  line("Ready", std::to_string(pod.ready_containers()) + " of " + std::to_string(pod.containers()) + " containers");
  line("Addresses", addresses_of(pod));
  line("Created", format_time(pod.created_at()));
  line("Sandbox", pod.sandbox_id());

  Table containers({{"CONTAINER"}, {"READY"}, {"RESTARTS", false, true}, {"IMAGE"}, {"STATE"}});
  for (const char* kind : {"initContainerStatuses", "containerStatuses"}) {
    for (const json::value& status : list_member(member(object, "status"), kind)) {
      containers.add({text_member(status, "name"), flag_member(status, "ready") ? "yes" : "no",
                      std::to_string(integer_member(status, "restartCount")), text_member(status, "image"),
                      container_state(status)});
    }
  }
  if (!containers.empty()) {
    context.out << "Containers:\n";
    containers.print(context.out, true, context.color, 2);
  }
  Table events({{"AGE", false, true}, {"TYPE"}, {"REASON"}, {"COUNT", false, true}, {"MESSAGE"}});
  for (const node::v1::PodEvent& event : pod.events()) {
    events.add({age(event.time()),
                {event.type(), event.type() == "Normal" ? Color::none : Color::yellow},
                event.reason(),
                std::to_string(event.count()),
                event.message()});
  }
  if (!events.empty()) {
    context.out << "Events:\n";
    events.print(context.out, true, context.color, 2);
  }
  return exit_ok;
}

Result<std::vector<std::string>> manifest_files(const std::string& path) {
  std::error_code error;
  if (path == "-" || !std::filesystem::is_directory(path, error)) return std::vector<std::string>{path};
  std::vector<std::string> files;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
    const std::string extension = entry->path().extension();
    if (extension == ".yaml" || extension == ".yml" || extension == ".json") files.push_back(entry->path());
  }
  if (error) return invalid_argument(path + ": cannot be listed: " + error.message());
  if (files.empty()) return not_found(path + ": holds no .yaml, .yml or .json file");
  std::sort(files.begin(), files.end());
  return files;
}

Result<std::string> manifest_text(const std::string& path) {
  constexpr size_t most = 4u << 20;
  if (path == "-") {
    std::string text{std::istreambuf_iterator<char>(std::cin), {}};
    if (text.size() > most) return resource_exhausted("the standard input has more than 4 MiB");
    return text;
  }
  return files::read_file(path, most);
}

int apply(Context& context, const PodOptions& options) {
  int exit = exit_ok;
  json::array all;
  const auto failed = [&](const Status& status) {
    const int code = context.fail(status);
    if (exit == exit_ok) exit = code;
  };
  for (const std::string& path : options.files) {
    Result<std::vector<std::string>> files = manifest_files(path);
    if (!files) {
      failed(files.status());
      continue;
    }
    for (const std::string& file : *files) {
      Result<std::string> text = manifest_text(file);
      if (!text) {
        failed(text.status());
        continue;
      }
      node::v1::ApplyPodsRequest request;
      request.set_manifest(*text);
      request.set_origin(file == "-" ? "standard input" : file);
      request.set_dry_run(options.dry_run);
      node::v1::ApplyPodsResponse response;
      if (Status status = context.admin().call(NodeAgentInterface::info, "ApplyPods", request, response); !status) {
        failed(status);
        continue;
      }
      for (const node::v1::AppliedPod& pod : response.pods()) {
        const PodName name{pod.reference().namespace_(), pod.reference().name()};
        all.push_back({{"namespace", name.pod_namespace},
                       {"name", name.name},
                       {"kind", pod.kind().empty() ? "Pod" : pod.kind()},
                       {"change", pod.change()}});
        if (context.format == Format::table || context.format == Format::wide) {
          context.out << (pod.kind() == "Secret" ? "secret/" : "pod/") << name.text() << " " << pod.change()
                      << (options.dry_run ? " (dry run)" : "") << "\n";
        }
      }
    }
  }
  context.printed({{"pods", all}});
  return exit;
}

int remove(Context& context, const PodOptions& options) {
  int exit = exit_ok;
  for (const std::string& text : options.names) {
    Result<PodName> name = parse_pod_name(text, options.pod_namespace);
    Status status = name.status();
    if (name) {
      node::v1::RemovePodRequest request;
      request.mutable_pod()->set_namespace_(name->pod_namespace);
      request.mutable_pod()->set_name(name->name);
      request.set_grace_seconds(options.grace);
      request.set_has_grace(options.has_grace);
      node::v1::RemovePodResponse response;
      status = context.admin().call(NodeAgentInterface::info, "RemovePod", request, response);
    }
    if (!status) {
      const int failed = context.fail(status);
      if (exit == exit_ok) exit = failed;
    } else if (context.format == Format::table || context.format == Format::wide) {
      context.out << "pod/" << name->text() << " is being removed\n";
    }
  }
  return exit;
}

// The exit code is the command's; pintle's own failures are told apart by 125.
int exec(Context& context, const PodOptions& options) {
  const auto failed = [&](const Status& status) {
    context.fail(status);
    return static_cast<int>(exit_exec_failed);
  };
  Result<PodName> name = parse_pod_name(options.name, options.pod_namespace);
  if (!name) return failed(name.status());
  Result<ContainerInfo> container = find_container(context, *name, options.container, false);
  if (!container) return failed(container.status());
  if (!container->running)
    return failed(
        failed_precondition("the container " + container->name + " of pod " + name->text() + " is not running"));
  runtime::v1::ExecSyncRequest request;
  request.set_container_id(container->id);
  for (const std::string& word : options.command) request.add_cmd(word);
  request.set_timeout(options.timeout);
  runtime::v1::ExecSyncResponse response;
  const std::chrono::seconds patience(options.timeout == 0 ? 24 * 3600 : options.timeout + 10);
  if (Status status =
          context.admin().call(RuntimeServiceInterface::info, "ExecSync", request, response, {"", patience});
      !status) {
    return failed(status);
  }
  context.out << response.stdout() << std::flush;
  context.error << response.stderr() << std::flush;
  return response.exit_code();
}

void declare_namespace(CLI::App& sub, std::string& into) {
  sub.add_option("-n,--namespace", into, "Of pods that are named without one (default: default)")
      ->type_name("NAMESPACE");
}

}  // namespace

void add_pod(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("pod", "List, describe, apply and remove pods; their logs; commands in them");
  group->require_subcommand(1);
  command<PodOptions>(
      *group, context, "ls", "List the pods of this node",
      [](CLI::App& sub, PodOptions& options) {
        sub.add_option("-n,--namespace", options.pod_namespace, "Only this namespace")->type_name("NAMESPACE");
      },
      list);
  command<PodOptions>(
      *group, context, "describe", "All about one pod, with its events",
      [](CLI::App& sub, PodOptions& options) {
        sub.add_option("pod", options.name, "NAME or NAMESPACE/NAME")->required()->type_name("POD");
        declare_namespace(sub, options.pod_namespace);
      },
      describe);
  command<PodOptions>(
      *group, context, "apply", "Run the pods of core/v1 Pod manifests, or change them",
      [](CLI::App& sub, PodOptions& options) {
        sub.add_option("-f,--file", options.files, "Manifests: a file, a folder, or - for the standard input")
            ->required()
            ->expected(1)
            ->take_all()
            ->type_name("FILE");
        sub.add_flag("--dry-run", options.dry_run, "Check them, touch nothing");
      },
      apply);
  command<PodOptions>(
      *group, context, "rm", "End pods and remove their manifests",
      [](CLI::App& sub, PodOptions& options) {
        sub.add_option("pod", options.names, "NAME or NAMESPACE/NAME")->required()->type_name("POD");
        declare_namespace(sub, options.pod_namespace);
        sub.add_option_function<uint32_t>(
               "--grace",
               [&options](const uint32_t& seconds) {
                 options.grace = seconds;
                 options.has_grace = true;
               },
               "Time to end by itself, instead of the manifest's")
            ->type_name("SECONDS");
      },
      remove);
  command<PodLogOptions>(
      *group, context, "logs", "What a container wrote",
      [](CLI::App& sub, PodLogOptions& options) {
        sub.add_option("pod", options.pod, "NAME or NAMESPACE/NAME")->required()->type_name("POD");
        declare_namespace(sub, options.pod_namespace);
        sub.add_option("-c,--container", options.container, "Which container, if the pod has several")
            ->type_name("CONTAINER");
        sub.add_flag("-f,--follow", options.follow, "Go on as it comes, until the container ends");
        sub.add_flag("-p,--previous", options.previous, "Of the run before its last restart");
        sub.add_flag("--timestamps", options.timestamps, "Each line with its time");
        sub.add_option("--tail", options.tail, "Only the last lines")->type_name("LINES");
      },
      show_pod_logs);
  CLI::App* exec_command = command<PodOptions>(
      *group, context, "exec", "Run a command in a container; gives its output and its exit code",
      [](CLI::App& sub, PodOptions& options) {
        sub.add_option("pod", options.name, "NAME or NAMESPACE/NAME")->required()->type_name("POD");
        sub.add_option("command", options.command, "The command and its arguments, after --")
            ->required()

            ->type_name("COMMAND");
        declare_namespace(sub, options.pod_namespace);
        sub.add_option("-c,--container", options.container, "Which container, if the pod has several")
            ->type_name("CONTAINER");
        sub.add_option("--timeout", options.timeout, "End it after so long (default: never)")->type_name("SECONDS");
      },
      exec);
  exec_command->footer("  pintle pod exec web -- ls -l /etc");
}

}  // namespace pintle::cli
