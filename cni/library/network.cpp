#include "cni/library/network.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "cni/protocol.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::cni {
namespace {

namespace json = boost::json;

std::string file_name(const CachedAttachment& attachment) {
  return attachment.list.name + "-" + attachment.target.container + "-" + attachment.target.interface + ".json";
}

std::string joined_arguments(const Target& target) {
  std::string text;
  for (const auto& [key, value] : target.arguments) text += (text.empty() ? "" : ";") + key + "=" + value;
  return text;
}

/// What a plugin is told of the runtime's capabilities: those that it declares.
json::object runtime_config(const PluginConfig& plugin, const Target& target) {
  json::object config;
  for (const auto& [key, value] : target.capabilities) {
    if (plugin.capabilities.contains(std::string(key))) config.insert_or_assign(key, value);
  }
  return config;
}

std::string first_line(const std::string& text) {
  std::string line = text.substr(0, std::min<size_t>(text.find('\n'), 300));
  std::ranges::replace_if(
      line, [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return line;
}

/// A failed plugin's words: its error object, else what it wrote to standard error.
Status complaint(const Outcome& outcome) {
  const Result<json::object> error = parse_object("error", outcome.output);
  if (error && error->contains("code")) return status_of_error(*error);
  std::string how = WIFSIGNALED(outcome.wait_status)
                        ? "it was ended by signal " + std::to_string(WTERMSIG(outcome.wait_status))
                        : "it ended with code " + std::to_string(WEXITSTATUS(outcome.wait_status));
  if (const std::string line = first_line(outcome.errors); !line.empty()) how += ": " + line;
  return internal_error(how);
}

Result<std::string> text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_string()) return data_loss("'" + std::string(key) + "' is missing");
  return std::string(value->get_string());
}

}  // namespace

// ---- The cache ----------------------------------------------------------------------------------------------------------------

std::string write_cached(const CachedAttachment& attachment) {
  json::array arguments;
  for (const auto& [key, value] : attachment.target.arguments) arguments.push_back(json::array{key, value});
  json::object object{{"version", 1},
                      {"container", attachment.target.container},
                      {"nameSpace", attachment.target.name_space},
                      {"interface", attachment.target.interface},
                      {"arguments", std::move(arguments)},
                      {"capabilities", attachment.target.capabilities},
                      {"list", to_json(attachment.list)}};
  if (attachment.result) object["result"] = attachment.raw_result;
  return json::serialize(object) + "\n";
}

Result<CachedAttachment> read_cached(std::string_view text) {
  Result<json::object> object = parse_object("cached attachment", text);
  if (!object) return data_loss(object.status().message());
  const json::value* version = object->if_contains("version");
  const json::value* list = object->if_contains("list");
  if (!version || *version != 1 || !list) return data_loss("its version is not 1, or 'list' is missing");
  const Result<std::string> container = text_of(*object, "container"), name_space = text_of(*object, "nameSpace"),
                            interface = text_of(*object, "interface");
  if (!container || !name_space || !interface) return data_loss("'container', 'nameSpace' or 'interface' is missing");
  Result<NetworkList> parsed = parse_network_list(json::serialize(*list));
  if (!parsed) return data_loss(parsed.status().message());
  CachedAttachment attachment{.target = {.container = *container, .name_space = *name_space, .interface = *interface},
                              .list = std::move(*parsed),
                              .result = {},
                              .raw_result = {}};
  if (!check_name("container", attachment.target.container) || !netlink::check_link_name(attachment.target.interface)) {
    return data_loss("'container' or 'interface' is no name");
  }
  if (const json::value* arguments = object->if_contains("arguments"); arguments && arguments->is_array()) {
    for (const json::value& item : arguments->get_array()) {
      const json::array* pair = item.if_array();
      if (!pair || pair->size() != 2 || !(*pair)[0].is_string() || !(*pair)[1].is_string())
        return data_loss("'arguments' is damaged");
      attachment.target.arguments.emplace_back((*pair)[0].get_string(), (*pair)[1].get_string());
    }
  }
  const json::value* capabilities = object->if_contains("capabilities");
  if (capabilities && capabilities->is_object()) attachment.target.capabilities = capabilities->get_object();
  if (const json::value* result = object->if_contains("result")) {
    if (!result->is_object()) return data_loss("'result' is no object");
    Result<AddResult> read = parse_add_result(*result);
    if (!read) return data_loss(read.status().message());
    attachment.result = std::move(*read);
    attachment.raw_result = result->get_object();
  }
  return attachment;
}

Status Network::save(const CachedAttachment& attachment) const {
  if (Status made = files::make_folders(options_.cache); !made) return made;
  const Result<files::Descriptor> folder = files::open_folder(options_.cache);
  if (!folder) return folder.status();
  return files::write_file(folder->get(), file_name(attachment), write_cached(attachment), files::Durability::cached);
}

Status Network::forget(const CachedAttachment& attachment) const {
  const std::string path = options_.cache + "/" + file_name(attachment);
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return Status::ok();
  return status_from_errno(errno, "remove " + path);
}

Result<std::vector<CachedAttachment>> Network::cached(std::vector<std::string>& damaged) const {
  if (Status made = files::make_folders(options_.cache); !made) return made;
  const Result<files::Descriptor> folder = files::open_folder(options_.cache);
  if (!folder) return folder.status();
  const Result<std::vector<std::string>> names = files::list_folder(folder->get());
  if (!names) return names.status();
  std::vector<CachedAttachment> attachments;
  for (const std::string& name : *names) {
    if (name.starts_with('.') || !name.ends_with(".json")) continue;
    const Result<std::string> text = files::read_file(folder->get(), name);
    if (!text) return text.status();
    Result<CachedAttachment> attachment = read_cached(*text);
    if (attachment && file_name(*attachment) == name) {
      attachments.push_back(std::move(*attachment));
      continue;
    }
    renameat(folder->get(), name.c_str(), folder->get(), (name + ".damaged").c_str());
    damaged.push_back(options_.cache + "/" + name + ": " +
                      (attachment ? "its name is not that of its attachment" : attachment.status().message()));
  }
  return attachments;
}

// ---- Running plugins ----------------------------------------------------------------------------------------------------------

Result<std::string> Network::find(const std::string& type) const {
  std::string looked;
  for (const std::string& folder : options_.binaries) {
    const std::string path = folder + "/" + type;
    if (access(path.c_str(), X_OK) == 0) return path;
    looked += (looked.empty() ? "" : ", ") + folder;
  }
  return not_found("CNI plugin '" + type + "' is not in " + looked +
                   "; install it (Debian: containernetworking-plugins)");
}

Status Network::find_plugins() const {
  for (const PluginConfig& plugin : list_.plugins) {
    if (Result<std::string> path = find(plugin.type); !path) return path.status();
  }
  return Status::ok();
}

Task<Result<json::object>> Network::invoke(std::string command, const NetworkList& list, const PluginConfig& plugin,
                                           Target target, json::object extra) {
  const Result<std::string> program = find(plugin.type);
  if (!program) co_return program.status();
  json::object config = plugin.object;
  config["name"] = list.name;
  config["cniVersion"] = list.version;
  config.erase("capabilities");
  json::object runtime = runtime_config(plugin, target);
  if (!runtime.empty()) config["runtimeConfig"] = std::move(runtime);
  for (auto& [key, value] : extra) config.insert_or_assign(key, value);

  std::string path;
  for (const std::string& folder : options_.binaries) path += (path.empty() ? "" : ":") + folder;
  Run request{.program = *program,
              .environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                              "CNI_COMMAND=" + command, "CNI_PATH=" + path},
              .input = json::serialize(config),
              .timeout = options_.timeout};
  if (!target.container.empty()) {
    request.environment.push_back("CNI_CONTAINERID=" + target.container);
    request.environment.push_back("CNI_NETNS=" + target.name_space);
    request.environment.push_back("CNI_IFNAME=" + target.interface);
    request.environment.push_back("CNI_ARGS=" + joined_arguments(target));
  }
  const std::string what = "CNI plugin " + plugin.type + ", " + command;
  Task<Result<Outcome>> running = runner_.run(std::move(request));
  Result<Outcome> outcome = co_await std::move(running);
  if (!outcome) co_return outcome.status().with_context(what);
  if (!WIFEXITED(outcome->wait_status) || WEXITSTATUS(outcome->wait_status) != 0)
    co_return complaint(*outcome).with_context(what);
  if (command != "ADD") co_return json::object();
  Result<json::object> answer = parse_object(what + ": result", outcome->output);
  if (!answer) co_return internal_error(answer.status().message());
  co_return std::move(*answer);
}

// ---- The commands -------------------------------------------------------------------------------------------------------------

Task<Result<CachedAttachment>> Network::add(Target target) {
  if (Status status = check_name("container id", target.container); !status) co_return status;
  if (Status status = netlink::check_link_name(target.interface); !status) co_return status;
  CachedAttachment attachment{.target = std::move(target), .list = list_, .result = {}, .raw_result = {}};
  if (Status saved = save(attachment); !saved) co_return saved;
  Status status;
  for (const PluginConfig& plugin : attachment.list.plugins) {
    json::object extra;
    if (!attachment.raw_result.empty()) extra["prevResult"] = attachment.raw_result;
    Task<Result<json::object>> adding = invoke("ADD", attachment.list, plugin, attachment.target, std::move(extra));
    Result<json::object> answer = co_await std::move(adding);
    if (status = answer.status(); !status) break;
    const Result<AddResult> result = parse_add_result(*answer);
    if (status = result.status().with_context("CNI plugin " + plugin.type + ", ADD"); !status) break;
    attachment.result = *result;
    // A plugin may answer in another version than it was asked in; the next one is told in the list's.
    const json::value* version = answer->if_contains("cniVersion");
    const bool is_same = version && version->is_string() && version->get_string() == attachment.list.version;
    attachment.raw_result = is_same ? std::move(*answer) : to_json(*result, attachment.list.version);
  }
  if (status) status = save(attachment);
  if (status) co_return attachment;
  Task<Status> undoing = remove(attachment);
  const Status undone = co_await std::move(undoing);
  if (!undone) status = Status(status.code(), status.message() + "; undoing it failed as well: " + undone.message());
  co_return status;
}

Task<Status> Network::remove(CachedAttachment attachment) {
  Status first;
  std::vector<PluginConfig> reversed(attachment.list.plugins.rbegin(), attachment.list.plugins.rend());
  for (const PluginConfig& plugin : reversed) {
    json::object extra;
    const bool tells = !attachment.raw_result.empty() && is_at_least(attachment.list.version, "0.4.0");
    if (tells) extra["prevResult"] = attachment.raw_result;
    Task<Result<json::object>> removing = invoke("DEL", attachment.list, plugin, attachment.target, std::move(extra));
    Result<json::object> answer = co_await std::move(removing);
    if (!answer && first) first = answer.status();
  }
  if (!first) co_return first;
  co_return forget(attachment);
}

Task<Status> Network::check(CachedAttachment attachment) {
  if (!attachment.result)
    co_return failed_precondition("container " + attachment.target.container + " was not attached to the end");
  if (attachment.list.disable_check || !is_at_least(attachment.list.version, "0.4.0")) co_return Status::ok();
  for (const PluginConfig& plugin : attachment.list.plugins) {
    json::object extra{{"prevResult", attachment.raw_result}};
    Task<Result<json::object>> checking = invoke("CHECK", attachment.list, plugin, attachment.target, std::move(extra));
    Result<json::object> answer = co_await std::move(checking);
    if (!answer) co_return Status(Code::failed_precondition, answer.status().message());
  }
  co_return Status::ok();
}

Task<Status> Network::collect(std::vector<CachedAttachment> valid) {
  if (list_.disable_gc || !is_at_least(list_.version, "1.1.0")) co_return Status::ok();
  json::array named;
  for (const CachedAttachment& attachment : valid) {
    if (attachment.list.name != list_.name) continue;
    named.push_back(
        json::object{{"containerID", attachment.target.container}, {"ifname", attachment.target.interface}});
  }
  Status first;
  for (const PluginConfig& plugin : list_.plugins) {
    json::object extra{{"cni.dev/valid-attachments", named}};
    Task<Result<json::object>> collecting =
        invoke("GC", list_, plugin, Target{.container = {}, .name_space = {}}, std::move(extra));
    Result<json::object> answer = co_await std::move(collecting);
    if (!answer && first) first = answer.status();
  }
  co_return first;
}

Task<Status> Network::status() {
  if (Status found = find_plugins(); !found) co_return found;
  if (!is_at_least(list_.version, "1.1.0")) co_return Status::ok();
  for (const PluginConfig& plugin : list_.plugins) {
    Task<Result<json::object>> asking =
        invoke("STATUS", list_, plugin, Target{.container = {}, .name_space = {}}, json::object());
    Result<json::object> answer = co_await std::move(asking);
    if (!answer) co_return answer.status();
  }
  co_return Status::ok();
}

}  // namespace pintle::cni
