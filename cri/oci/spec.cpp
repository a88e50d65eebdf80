#include "cri/oci/spec.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>

#include "cri/api.pb.h"
#include "cri/oci/apparmor.hpp"
#include "cri/oci/hooks.hpp"
#include "cri/oci/mounts.hpp"
#include "cri/oci/seccomp.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/proc/security_modules.hpp"
#include "sdk/support/process/capabilities.hpp"

namespace pintle::oci {
namespace {

namespace json = boost::json;
using ::runtime::v1::LinuxContainerSecurityContext;
using ::runtime::v1::NamespaceMode;
using ::runtime::v1::SecurityProfile;

constexpr const char* kDefaultCapabilities[] = {
    "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",    "CAP_MKNOD",
    "CAP_NET_RAW", "CAP_SETGID",       "CAP_SETUID",           "CAP_SETFCAP",   "CAP_SETPCAP",
    "CAP_KILL",    "CAP_AUDIT_WRITE",  "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"};
constexpr const char* kMaskedPaths[] = {"/proc/asound",     "/proc/acpi",        "/proc/interrupts",
                                        "/proc/kcore",      "/proc/keys",        "/proc/latency_stats",
                                        "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                                        "/proc/scsi",       "/sys/firmware",     "/sys/devices/virtual/powercap"};
constexpr const char* kReadonlyPaths[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
constexpr char kDefaultPath[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr char kSeccompAnnotation[] = "run.oci.seccomp_bpf_data";

template <class Texts>
json::array array_of(const Texts& texts) {
  json::array array;
  for (const auto& text : texts) array.push_back(json::string(std::string_view(text)));
  return array;
}

/// Puts "NAME=value" in the place of an earlier one of the same name, or at the end.
void set_environment(std::vector<std::string>& environment, const std::string& entry) {
  const size_t length = entry.find('=') + 1;
  for (std::string& other : environment) {
    if (other.compare(0, length, entry, 0, length) == 0) {
      other = entry;
      return;
    }
  }
  environment.push_back(entry);
}

Result<std::vector<std::string>> environment_of(const SpecRequest& request) {
  std::vector<std::string> environment = {kDefaultPath};
  if (request.config->tty()) environment.push_back("TERM=xterm");
  if (request.sandbox && !request.sandbox->hostname().empty())
    environment.push_back("HOSTNAME=" + request.sandbox->hostname());
  for (const std::string& entry : request.image.environment) {
    if (entry.find('=') != std::string::npos && entry[0] != '=') set_environment(environment, entry);
  }
  for (const auto& entry : request.config->envs()) {
    if (entry.key().empty() || entry.key().find('=') != std::string::npos ||
        entry.key().find('\0') != std::string::npos || entry.value().find('\0') != std::string::npos) {
      return invalid_argument("environment variable '" + entry.key().substr(0, 100) +
                              "': the name is empty or holds '=', or a zero byte is in it");
    }
    set_environment(environment, entry.key() + "=" + entry.value());
  }
  return environment;
}

/// "CAP_X" of what CRI calls "X", "x" or "CAP_X"; empty if there is no such.
std::string capability_name(std::string name) {
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (!name.starts_with("CAP_")) name = "CAP_" + name;
  for (const char* known : capability_names) {
    if (name == known) return name;
  }
  return {};
}

struct Capabilities {
  std::set<std::string> granted;
  std::set<std::string> ambient;
};

Result<Capabilities> capabilities_of(const LinuxContainerSecurityContext& context, const HostFacts& host) {
  Capabilities result;
  if (context.privileged()) {
    result.granted = host.capabilities;
    return result;
  }
  for (const char* name : kDefaultCapabilities) {
    if (host.capabilities.count(name)) result.granted.insert(name);
  }
  const auto each = [&](const auto& names, auto use) -> Status {
    for (const std::string& text : names) {
      const std::string name = text == "ALL" || text == "all" ? "ALL" : capability_name(text);
      if (name.empty()) return invalid_argument("capability '" + text.substr(0, 50) + "' is unknown");
      if (Status status = use(name); !status) return status;
    }
    return {};
  };
  const auto& asked = context.capabilities();
  // "ALL" first, so that {add: [X], drop: [ALL]} means X alone and {add: [ALL], drop: [X]} all but X.
  Status status = each(asked.add_capabilities(), [&](const std::string& name) {
    if (name == "ALL") result.granted = host.capabilities;
    return Status();
  });
  if (status) {
    status = each(asked.drop_capabilities(), [&](const std::string& name) {
      if (name == "ALL") result.granted.clear();
      return Status();
    });
  }
  const auto add = [&](const std::string& name) -> Status {
    if (name == "ALL") return {};
    if (!host.capabilities.count(name))
      return failed_precondition(name + " is asked for, but no process of this host can have it");
    result.granted.insert(name);
    return {};
  };
  if (status) status = each(asked.add_capabilities(), add);
  if (status)
    status = each(asked.add_ambient_capabilities(), [&](const std::string& name) -> Status {
      if (name != "ALL") result.ambient.insert(name);
      return add(name);
    });
  if (status) {
    status = each(asked.drop_capabilities(), [&](const std::string& name) {
      result.granted.erase(name);
      result.ambient.erase(name);
      return Status();
    });
  }
  if (!status) return status;
  return result;
}

struct Filter {
  enum class Kind { standard, none, file } kind = Kind::standard;
  json::object document;  ///< of a file
};

constexpr size_t kProfileLimit = 1u << 20;

/// A profile of the node's, in the form of the OCI runtime spec (linux.seccomp).
Result<Filter> read_profile(const std::string& path) {
  const std::string what = "seccomp profile " + path.substr(0, 300);
  if (!path.starts_with('/') || path.find("/../") != std::string::npos || path.ends_with("/.."))
    return invalid_argument(what + ": localhost_ref has to be an absolute path without '..'");
  auto text = files::read_file(path, kProfileLimit);
  if (text.status().code() == Code::not_found)
    return failed_precondition(what + " is not on this node: put it there, or use RuntimeDefault");
  if (!text) return text.status().with_context(what);
  json::error_code error;
  json::value value = json::parse(*text, error);
  if (error || !value.is_object()) return failed_precondition(what + " is no JSON object");
  static const std::set<std::string_view> known = {"defaultAction", "defaultErrnoRet", "architectures", "flags",
                                                   "syscalls"};
  json::object& document = value.get_object();
  for (const auto& [key, ignored] : document) {
    if (!known.contains(key))
      return failed_precondition(
          what + ": \"" + std::string(key) +
          "\" is no key of a seccomp profile as the OCI runtime spec has it; it takes defaultAction, "
          "defaultErrnoRet, architectures, flags and syscalls");
  }
  const json::value* action = document.if_contains("defaultAction");
  if (!action || !action->is_string())
    return failed_precondition(what + ": \"defaultAction\" is missing, such as SCMP_ACT_ERRNO");
  return Filter{Filter::Kind::file, std::move(document)};
}

Result<Filter> seccomp_of(const LinuxContainerSecurityContext& context) {
  const Filter standard, none{Filter::Kind::none, {}};
  if (context.privileged()) return none;
  const std::string& path = context.seccomp_profile_path();
  if (context.has_seccomp()) {
    if (context.seccomp().profile_type() == SecurityProfile::Localhost)
      return read_profile(context.seccomp().localhost_ref());
    return context.seccomp().profile_type() == SecurityProfile::Unconfined ? none : standard;
  }
  if (path.starts_with("localhost/")) return read_profile(path.substr(sizeof "localhost/" - 1));
  // Who asks for nothing gets nothing, as the conformance suite of CRI has it; the node agent asks for the default.
  if (path.empty() || path == "unconfined") return none;
  if (path == "runtime/default" || path == "docker/default") return standard;
  return invalid_argument("seccomp profile '" + path.substr(0, 100) +
                          "' is unknown; use runtime/default, localhost/PATH or unconfined");
}

/// "user:role:type:level"; empty for none.
Result<std::string> selinux_of(const LinuxContainerSecurityContext& context, const HostFacts& host) {
  const auto& options = context.selinux_options();
  if (options.user().empty() && options.role().empty() && options.type().empty() && options.level().empty())
    return std::string();
  for (const std::string* part : {&options.user(), &options.role(), &options.type(), &options.level()}) {
    const bool plain = std::all_of(part->begin(), part->end(), [](unsigned char c) {
      return std::isalnum(c) || std::string_view("_.-:,").find(static_cast<char>(c)) != std::string_view::npos;
    });
    if (!plain)
      return invalid_argument("SELinux option '" + part->substr(0, 100) + "' holds characters that no label has");
  }
  if (!host.has_selinux) return failed_precondition("an SELinux label is asked for, but this node has no SELinux");
  const auto or_else = [](const std::string& text, const char* other) { return text.empty() ? other : text; };
  return or_else(options.user(), "system_u") + ":" + or_else(options.role(), "system_r") + ":" +
         or_else(options.type(), "container_t") + ":" + or_else(options.level(), "s0");
}

Status check_unsupported(const LinuxContainerSecurityContext& context, const PodUsers& users) {
  const auto& options = context.namespace_options();
  const bool own_users = options.has_userns_options() && options.userns_options().mode() == NamespaceMode::POD;
  if (own_users != (users.count != 0)) {
    return invalid_argument("namespace_options.userns_options: a container has the users of its pod");
  }
  if (options.pid() == NamespaceMode::TARGET)
    return unimplemented("the process namespace of another container is not supported yet");
  return {};
}

json::array namespaces_of(const SpecRequest& request) {
  const auto& options = request.config->linux().security_context().namespace_options();
  json::array namespaces{json::object{{"type", "mount"}}};
  const auto join = [&](const char* type, const std::string& path) {
    if (!path.empty()) namespaces.push_back(json::object{{"type", type}, {"path", path}});
  };
  join("user", request.users.user_namespace);
  join("network", request.places.network_namespace);
  join("ipc", request.places.ipc_namespace);
  join("uts", request.places.uts_namespace);
  if (options.pid() != NamespaceMode::NODE) {
    if (request.places.pid_namespace.empty()) {
      namespaces.push_back(json::object{{"type", "pid"}});
    } else {
      join("pid", request.places.pid_namespace);
    }
  }
  // On v1 a cgroup namespace would be a view of hierarchies that programs do not expect; engines agree to leave it out.
  if (request.host->cgroup_mode == cgroup::Mode::v2) namespaces.push_back(json::object{{"type", "cgroup"}});
  return namespaces;
}

json::object resources_of(const cgroup::Limits& limits, const std::vector<cgroup::DeviceRule>& rules) {
  json::array devices{json::object{{"allow", false}, {"access", "rwm"}}};
  for (const cgroup::DeviceRule& rule : rules) {
    for (const char kind : rule.kind == 'a' ? std::string("cb") : std::string(1, rule.kind)) {
      json::object one{{"allow", true}, {"type", std::string(1, kind)}, {"access", rule.access}};
      if (rule.major) one["major"] = *rule.major;
      if (rule.minor) one["minor"] = *rule.minor;
      devices.push_back(std::move(one));
    }
  }
  json::object cpu, memory, resources{{"devices", std::move(devices)}};
  if (limits.cpu_shares) cpu["shares"] = *limits.cpu_shares;
  if (limits.cpu_quota) cpu["quota"] = *limits.cpu_quota;
  if (limits.cpu_period) cpu["period"] = *limits.cpu_period;
  if (!limits.cpuset_cpus.empty()) cpu["cpus"] = limits.cpuset_cpus;
  if (!limits.cpuset_mems.empty()) cpu["mems"] = limits.cpuset_mems;
  if (limits.memory) memory["limit"] = *limits.memory;
  if (limits.memory_and_swap) memory["swap"] = *limits.memory_and_swap;
  if (!cpu.empty()) resources["cpu"] = std::move(cpu);
  if (!memory.empty()) resources["memory"] = std::move(memory);
  if (limits.processes) resources["pids"] = json::object{{"limit", *limits.processes}};
  json::array huge_pages;
  for (const auto& [size, bytes] : limits.huge_pages)
    huge_pages.push_back(json::object{{"pageSize", size}, {"limit", bytes}});
  if (!huge_pages.empty()) resources["hugepageLimits"] = std::move(huge_pages);
  json::object unified;
  for (const auto& [key, value] : limits.unified) unified[key] = value;
  if (!unified.empty()) resources["unified"] = std::move(unified);
  return resources;
}

}  // namespace

HostFacts HostFacts::detect(cgroup::Mode cgroup_mode) {
  HostFacts facts;
  facts.cgroup_mode = cgroup_mode;
  uint64_t permitted = 0;
  if (auto status = files::read_file("/proc/self/status", 1u << 16)) {
    const size_t at = status->find("\nCapBnd:");
    if (at != std::string::npos) permitted = std::strtoull(status->c_str() + at + 8, nullptr, 16);
  }
  for (size_t i = 0; i < std::size(capability_names); ++i) {
    if (permitted >> i & 1) facts.capabilities.insert(capability_names[i]);
  }
  facts.can_lower_oom_score = facts.capabilities.count("CAP_SYS_RESOURCE") != 0;
  if (auto score = files::read_file("/proc/self/oom_score_adj", 100)) facts.own_oom_score = std::atoi(score->c_str());
  facts.has_apparmor = proc::has_apparmor();
  facts.has_selinux = files::open_at(-100, "/sys/fs/selinux/enforce", 0).is_ok();
  return facts;
}

cgroup::Limits limits_of(const ::runtime::v1::LinuxContainerResources& resources) {
  cgroup::Limits limits;
  if (resources.cpu_shares() > 0) limits.cpu_shares = static_cast<uint64_t>(resources.cpu_shares());
  if (resources.cpu_quota() != 0) limits.cpu_quota = resources.cpu_quota();
  if (resources.cpu_period() > 0) limits.cpu_period = static_cast<uint64_t>(resources.cpu_period());
  if (resources.memory_limit_in_bytes() != 0) limits.memory = resources.memory_limit_in_bytes();
  if (resources.memory_swap_limit_in_bytes() != 0) limits.memory_and_swap = resources.memory_swap_limit_in_bytes();
  limits.cpuset_cpus = resources.cpuset_cpus();
  limits.cpuset_mems = resources.cpuset_mems();
  for (const auto& page : resources.hugepage_limits()) limits.huge_pages.emplace_back(page.page_size(), page.limit());
  for (const auto& [key, value] : resources.unified()) limits.unified[key] = value;
  return limits;
}

Result<std::vector<std::string>> arguments_of(const ::runtime::v1::ContainerConfig& config,
                                              const ImageDefaults& image) {
  std::vector<std::string> arguments;
  if (config.command_size()) {
    arguments.assign(config.command().begin(), config.command().end());
    arguments.insert(arguments.end(), config.args().begin(), config.args().end());
  } else {
    arguments = image.entrypoint;
    if (config.args_size()) {
      arguments.insert(arguments.end(), config.args().begin(), config.args().end());
    } else {
      arguments.insert(arguments.end(), image.command.begin(), image.command.end());
    }
  }
  if (arguments.empty())
    return invalid_argument("no command: neither the container nor its image names one; set 'command'");
  for (const std::string& argument : arguments) {
    if (argument.find('\0') != std::string::npos)
      return invalid_argument("an argument of the command holds a zero byte");
  }
  return arguments;
}

Status check_sysctl(const std::string& name, const std::string& value, bool own_network, bool own_ipc) {
  const auto plain = [](const std::string& text, const char* more) {
    return !text.empty() && text.size() <= 256 && std::all_of(text.begin(), text.end(), [&](unsigned char c) {
      return std::isalnum(c) || std::string_view(more).find(static_cast<char>(c)) != std::string_view::npos;
    });
  };
  if (!plain(name, "._-/") || name.find("..") != std::string::npos)
    return invalid_argument("sysctl '" + name.substr(0, 100) + "' is no name of a sysctl");
  if (!plain(value, " \t._-+:,/"))
    return invalid_argument("sysctl " + name + ": the value holds characters that no sysctl needs");
  std::string dotted = name;
  std::replace(dotted.begin(), dotted.end(), '/', '.');
  const bool ipc = dotted.starts_with("kernel.shm") || dotted.starts_with("kernel.msg") || dotted == "kernel.sem" ||
                   dotted.starts_with("fs.mqueue.");
  const bool network = dotted.starts_with("net.");
  if (!ipc && !network)
    return invalid_argument(
        "sysctl " + name +
        " is not of a namespace; a pod may set kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.*");
  if ((ipc && !own_ipc) || (network && !own_network))
    return invalid_argument("sysctl " + name + " would change the node, because the pod uses its namespace");
  return {};
}

Result<Spec> make_spec(const SpecRequest& request) {
  const ::runtime::v1::ContainerConfig& config = *request.config;
  const LinuxContainerSecurityContext& context = config.linux().security_context();
  const HostFacts& host = *request.host;
  const bool privileged = context.privileged();
  Spec spec;

  if (Status status = check_unsupported(context, request.users); !status) return status;
  auto arguments = arguments_of(config, request.image);
  if (!arguments) return arguments.status();
  auto environment = environment_of(request);
  if (!environment) return environment.status();
  auto capabilities = capabilities_of(context, host);
  if (!capabilities) return capabilities.status();
  auto filter = seccomp_of(context);
  if (!filter) return filter.status();
  auto apparmor = apparmor_profile_of(context, host, spec.remarks);
  if (!apparmor) return apparmor.status();
  auto selinux = selinux_of(context, host);
  if (!selinux) return selinux.status();
  auto mounts = make_mounts(request, privileged);
  if (!mounts) return mounts.status();
  auto devices = make_devices(config, privileged);
  if (!devices) return devices.status();
  std::string directory = !config.working_dir().empty() ? config.working_dir() : request.image.working_directory;
  if (directory.empty()) directory = "/";
  if (directory[0] != '/')
    return invalid_argument("working directory '" + directory.substr(0, 200) + "' has to be absolute");

  json::object sysctls;
  if (request.sandbox) {
    for (const auto& [name, value] : request.sandbox->linux().sysctls()) {
      if (Status status = check_sysctl(name, value, !request.places.network_namespace.empty(),
                                       !request.places.ipc_namespace.empty());
          !status)
        return status;
      sysctls[name] = value;
    }
  }

  const json::array granted = array_of(capabilities->granted), ambient = array_of(capabilities->ambient);
  int64_t oom_score = config.linux().resources().oom_score_adj();
  if (oom_score < -1000 || oom_score > 1000)
    return invalid_argument("oom_score_adj " + std::to_string(oom_score) + " is not between -1000 and 1000");
  if (oom_score < host.own_oom_score && !host.can_lower_oom_score) {
    spec.remarks.push_back("oom_score_adj " + std::to_string(oom_score) +
                           " needs CAP_SYS_RESOURCE, which this host does not give; " +
                           std::to_string(host.own_oom_score) + " is used");
    oom_score = host.own_oom_score;
  }
  HookFacts facts;
  facts.command = arguments->front();
  facts.has_bind_mounts = config.mounts_size() > 0;
  if (request.sandbox)
    for (const auto& [name, value] : request.sandbox->annotations()) facts.annotations[name] = value;
  for (const auto& [name, value] : config.annotations()) facts.annotations[name] = value;
  auto hooks = read_hooks(request.hook_folders, facts);
  if (!hooks) return hooks.status();

  json::array groups;
  for (const uint32_t group : request.identity.additional_groups) groups.push_back(group);
  json::object process{
      {"terminal", config.tty()},
      {"user",
       {{"uid", request.identity.user}, {"gid", request.identity.group}, {"additionalGids", std::move(groups)}}},
      {"args", array_of(*arguments)},
      {"env", array_of(*environment)},
      {"cwd", directory},
      {"capabilities",
       {{"bounding", granted},
        {"effective", granted},
        {"permitted", granted},
        {"inheritable", ambient},
        {"ambient", ambient}}},
      {"noNewPrivileges", context.no_new_privs()},
      {"oomScoreAdj", oom_score}};

  if (!apparmor->empty()) process["apparmorProfile"] = *apparmor;
  if (!selinux->empty()) process["selinuxLabel"] = *selinux;

  spec.limits = limits_of(config.linux().resources());
  spec.devices = std::move(devices->rules);
  json::object linux{{"namespaces", namespaces_of(request)}};
  if (!devices->documents.empty()) linux["devices"] = std::move(devices->documents);
  if (!sysctls.empty()) linux["sysctl"] = std::move(sysctls);
  if (!mounts->root_propagation.empty()) linux["rootfsPropagation"] = mounts->root_propagation;
  if (!request.cgroups_path.empty()) {
    linux["cgroupsPath"] = request.cgroups_path;
    linux["resources"] = resources_of(spec.limits, spec.devices);
  }
  if (request.users.count != 0) linux["uidMappings"] = linux["gidMappings"] = id_mappings(request.users);
  if (!privileged) {
    const bool unmasked =
        request.users.count != 0 && context.masked_paths_size() == 0 && context.readonly_paths_size() == 0;
    if (!unmasked) {
      linux["maskedPaths"] = context.masked_paths_size() ? array_of(context.masked_paths()) : array_of(kMaskedPaths);
      linux["readonlyPaths"] =
          context.readonly_paths_size() ? array_of(context.readonly_paths()) : array_of(kReadonlyPaths);
    }
  }
  // The files are the container's own; processes of other labels have no business there.
  if (!selinux->empty()) linux["mountLabel"] = *selinux;
  json::object annotations;
  if (filter->kind == Filter::Kind::file) {
    linux["seccomp"] = std::move(filter->document);
  } else if (filter->kind == Filter::Kind::standard) {
    if (request.compiled_seccomp) {
      auto compiled = compiled_seccomp(capabilities->granted);
      if (!compiled) return compiled.status();
      annotations[kSeccompAnnotation] = *compiled;
    } else {
      linux["seccomp"] = seccomp_document(default_seccomp_rules(capabilities->granted));
    }
  }

  spec.document = json::object{{"ociVersion", "1.0.2"},
                               {"process", std::move(process)},
                               {"root", {{"path", request.root}, {"readonly", context.readonly_rootfs()}}},
                               {"mounts", std::move(mounts->documents)},
                               {"linux", std::move(linux)}};
  if (!annotations.empty()) spec.document["annotations"] = std::move(annotations);
  if (!hooks->empty()) spec.document["hooks"] = std::move(*hooks);
  return spec;
}

json::object make_exec_process(const json::object& container, const std::vector<std::string>& command,
                               const std::vector<std::string>& environment, bool terminal) {
  json::object process = container.at("process").as_object();
  process["args"] = array_of(command);
  process["terminal"] = terminal;
  process.erase("consoleSize");
  std::vector<std::string> merged;
  for (const json::value& entry : process.at("env").as_array()) merged.emplace_back(entry.as_string());
  if (terminal) {
    const bool has_term =
        std::any_of(merged.begin(), merged.end(), [](const std::string& entry) { return entry.starts_with("TERM="); });
    if (!has_term) merged.push_back("TERM=xterm");
  }
  for (const std::string& entry : environment) set_environment(merged, entry);
  process["env"] = array_of(merged);
  return process;
}

}  // namespace pintle::oci
