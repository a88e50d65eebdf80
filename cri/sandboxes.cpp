#include "cri/sandboxes.hpp"

#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <pintle/all.hpp>
#include <pintle/failures.hpp>

#include "cri/containers.hpp"
#include "cri/namespaces.hpp"
#include "cri/node_files.hpp"
#include "cri/process_namespaces.hpp"
#include "sdk/support/systemd/slices.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;

// How long a single answer of another plugin may take before the pod is given up.
constexpr std::chrono::nanoseconds kAttachTimeout = 60s;
constexpr std::chrono::nanoseconds kBackendTimeout = 60s;
constexpr size_t kMaxName = 253;  // of a Kubernetes object
constexpr int kMaxHostPort = 65535;

Status check_name(std::string_view what, std::string_view value) {
  const bool good = value.size() <= kMaxName && std::all_of(value.begin(), value.end(), [](unsigned char c) {
                      return c > 0x20 && c != 0x7f && c != '/';
                    });
  if (good) return Status::ok();
  return invalid_argument("metadata." + std::string(what) + " \"" + std::string(value.substr(0, 80)) +
                          "\": at most 253 characters, no spaces, slashes or control characters");
}

std::string node_hostname() {
  char name[65] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "";
}

/// What the blocking part of making a sandbox needs, by value: it runs on another thread.
struct Foundation {
  const RecordStore* records;
  std::string id, record, state_folder, hostname, resolv_conf;
  NamespaceRequest namespaces;
};

Result<Namespaces> lay_foundation(const Foundation& wanted) {
  if (Status written = wanted.records->write(wanted.id, wanted.record, Durability::cached); !written) return written;
  if (Status made = files::make_folders(wanted.state_folder); !made) return made;
  const Result<files::Descriptor> folder = files::open_folder(wanted.state_folder);
  if (!folder) return folder.status();
  const auto write = [&](const char* name, const std::string& text) {
    return files::write_file(folder->get(), name, text, Durability::cached, 0644);
  };
  if (Status written = write("hostname", wanted.hostname + "\n"); !written) return written;
  if (Status written = write("resolv.conf", wanted.resolv_conf.empty() ? node_resolv_conf() : wanted.resolv_conf);
      !written) {
    return written;
  }
  return make_namespaces(wanted.namespaces);
}

Status write_hosts(const std::string& state_folder, const std::string& text) {
  const Result<files::Descriptor> folder = files::open_folder(state_folder);
  if (!folder) return folder.status();
  return files::write_file(folder->get(), "hosts", text, Durability::cached, 0644);
}

/// To the pod's root, where that is not the node's.
Status give_files(const std::string& state_folder, uint32_t owner) {
  if (owner == 0) return Status::ok();
  for (const char* name : {"/hosts", "/resolv.conf", "/hostname"}) {
    const std::string path = state_folder + name;
    if (::chown(path.c_str(), owner, owner) != 0) return status_from_errno(errno, "give " + path + " to the pod");
  }
  return Status::ok();
}

/// Of a config that was checked.
IdRange ids_of(const api::PodSandboxConfig& config) {
  const Result<IdRange> ids = id_range_of(config.linux().security_context().namespace_options());
  return ids ? *ids : IdRange();
}

bool wants_user_namespace(const api::PodSandboxConfig& config) { return ids_of(config).is_mapped(); }

boost::json::object json_map(const google::protobuf::Map<std::string, std::string>& map) {
  boost::json::object object;
  for (const auto& [key, value] : map) object[key] = value;
  return object;
}

}  // namespace

NamespaceChoice namespace_choice(const api::PodSandboxConfig& config) {
  const api::NamespaceOption& options = config.linux().security_context().namespace_options();
  return {options.network() != api::NODE, options.ipc() != api::NODE, options.pid() == api::POD};
}

Status check_sandbox_config(const api::PodSandboxConfig& config) {
  if (!config.has_metadata() || config.metadata().name().empty()) {
    return invalid_argument("config.metadata.name is empty: a pod sandbox needs a name");
  }
  const api::PodSandboxMetadata& metadata = config.metadata();
  for (const auto& [what, value] : {std::pair("name", metadata.name()), std::pair("namespace", metadata.namespace_()),
                                    std::pair("uid", metadata.uid())}) {
    if (Status good = check_name(what, value); !good) return good;
  }
  const api::NamespaceOption& options = config.linux().security_context().namespace_options();
  const NamespaceChoice choice = namespace_choice(config);
  if (Result<IdRange> ids = id_range_of(options); !ids) return ids.status();
  if (Status good = check_hostname(config.hostname()); !good) return good;
  if (Status good = check_dns(config.dns_config()); !good) return good;
  const std::map<std::string, std::string> sysctls(config.linux().sysctls().begin(), config.linux().sysctls().end());
  if (Status good = check_sysctls(sysctls, choice.own_network, choice.own_ipc, choice.own_network); !good) return good;
  for (const api::PortMapping& mapping : config.port_mappings()) {
    if (mapping.host_port() < 0 || mapping.host_port() > kMaxHostPort || mapping.container_port() < 0 ||
        mapping.container_port() > kMaxHostPort) {
      return invalid_argument("port_mappings: ports are 0 to 65535");
    }
  }
  if (!config.log_directory().empty() && config.log_directory().front() != '/') {
    return invalid_argument("log_directory \"" + config.log_directory() + "\" must be an absolute path");
  }
  const std::string& parent = config.linux().cgroup_parent();
  if (parent.find("..") != std::string::npos || parent.find('\n') != std::string::npos) {
    return invalid_argument("linux.cgroup_parent \"" + parent +
                            "\" must be a plain path below the cgroup hierarchies' roots");
  }
  if (systemd::is_slice(parent)) return systemd::expand_slice(parent).status().with_context("linux.cgroup_parent");
  return Status::ok();
}

std::string Sandboxes::name_of(const api::PodSandboxMetadata& metadata) {
  return metadata.name() + "_" + metadata.namespace_() + "_" + metadata.uid() + "_" +
         std::to_string(metadata.attempt());
}

// ---- Making -------------------------------------------------------------------------------------------------------

Task<Result<std::string>> Sandboxes::run(CallContext context, const api::RunPodSandboxRequest& request) {
  const api::PodSandboxConfig& config = request.config();
  if (Status good = check_sandbox_config(config); !good) co_return good;
  Result<Providers::Choice> runtime = engine_.providers().choose_runtime(request.runtime_handler());
  if (!runtime) co_return runtime.status();
  if (wants_user_namespace(config) && !runtime->binding.has_feature(RuntimeStub::Interface::feature_user_namespaces)) {
    co_return unimplemented(
        "runtime " + runtime->binding.key +
        " has no user namespaces: leave namespace_options.userns_options out, or set its mode to NODE");
  }
  auto sandbox = std::make_shared<Sandbox>(engine_.host());
  SandboxRecord& record = sandbox->record;
  if (namespace_choice(config).own_network) {
    Result<Binding> network = engine_.providers().choose_network();
    if (!network) co_return network.status();
    record.set_network(network->key);
  }
  record.set_id(make_id());
  *record.mutable_config() = config;
  record.set_runtime_handler(request.runtime_handler());
  record.set_backend_handler(runtime->handler);
  record.set_runtime(runtime->binding.key);
  record.set_created_at(now_ns());
  record.set_run_folder(engine_.settings().run_folder + "/sandboxes/" + record.id());
  record.set_state_folder(engine_.settings().state_folder + "/pods/" + record.id());
  const std::string& parent = config.linux().cgroup_parent();
  // A slice may be called by its name alone; where it lies is told by that.
  record.set_cgroup_parent(systemd::is_slice(parent) ? *systemd::expand_slice(parent) : parent);
  summarize(*sandbox);
  if (Status inserted = engine_.sandbox_index().insert(name_of(config.metadata()), record.id(), sandbox); !inserted)
    co_return inserted;

  const Mutex::Lock lock = co_await sandbox->mutex.lock();
  Task<Status> making = make(context, sandbox);
  const Status made = co_await std::move(making);
  if (made) {
    engine_.publish(record.id(), api::CONTAINER_CREATED_EVENT, *sandbox);
    engine_.publish(record.id(), api::CONTAINER_STARTED_EVENT, *sandbox);
    co_return record.id();
  }
  Task<Status> taking_down = take_down(sandbox);
  const Status taken_down = co_await std::move(taking_down);
  if (!taken_down) {
    engine_.host().warn("a sandbox that failed could not be taken down completely; it is tried again",
                        {{"sandbox", record.id()}, {"why", taken_down.message()}});
  }
  co_return made;
}

Task<Status> Sandboxes::make(CallContext context, std::shared_ptr<Sandbox> sandbox) {
  SandboxRecord& record = sandbox->record;
  const api::PodSandboxConfig& config = record.config();
  const NamespaceChoice choice = namespace_choice(config);
  const auto gone = [&] {
    return context.is_cancelled() ? cancelled("the client has gone before the sandbox was ready") : Status::ok();
  };

  Foundation wanted;
  wanted.records = &engine_.sandbox_records();
  wanted.id = record.id();
  wanted.record = record.SerializeAsString();
  wanted.state_folder = record.state_folder();
  wanted.hostname = choice.own_network && !config.hostname().empty() ? config.hostname() : node_hostname();
  wanted.resolv_conf = resolv_conf_text(config.dns_config());
  wanted.namespaces.folder = record.run_folder();
  wanted.namespaces.network = wanted.namespaces.uts = choice.own_network;
  wanted.namespaces.ipc = choice.own_ipc;
  wanted.namespaces.hostname = config.hostname();
  wanted.namespaces.sysctls = {config.linux().sysctls().begin(), config.linux().sysctls().end()};
  wanted.namespaces.shm_bytes = engine_.settings().shm_bytes;
  wanted.namespaces.ids = ids_of(config);
  const std::string hostname = wanted.hostname;
  auto lay = [wanted = std::move(wanted)] { return lay_foundation(wanted); };
  Task<Result<Namespaces>> laying = engine_.host().blocking(std::move(lay));
  Result<Namespaces> namespaces = co_await std::move(laying);
  if (!namespaces) co_return namespaces.status();
  record.set_network_namespace(namespaces->network);
  record.set_ipc_namespace(namespaces->ipc);
  record.set_uts_namespace(namespaces->uts);
  record.set_shm(choice.own_ipc ? namespaces->shm : "/dev/shm");
  record.set_network_inode(namespaces->network_inode);
  record.set_ipc_inode(namespaces->ipc_inode);
  record.set_uts_inode(namespaces->uts_inode);
  record.set_user_namespace(namespaces->user);
  record.set_user_inode(namespaces->user_inode);
  if (Status status = gone(); !status) co_return status;

  if (choice.shared_processes && !wants_sandbox_container(record.runtime())) {
    Task<Result<ProcessNamespace>> sharing =
        make_process_namespace(engine_.host(), engine_.settings().pod_init, process_cgroup_of(*sandbox), record.id(),
                               record.run_folder(), record.user_namespace());
    Result<ProcessNamespace> shared = co_await std::move(sharing);
    if (!shared) co_return shared.status();
    record.set_pid_namespace(shared->path);
    record.set_pid_inode(shared->inode);
    record.set_first_process(shared->first_process);
  }
  if (wants_sandbox_container(record.runtime())) {
    // The backend's container brings the network namespace that is attached.
    Task<Status> creating = create_in_backend(context, sandbox);
    if (Status created = co_await std::move(creating); !created) co_return created;
    Task<Status> attaching = attach_network(context, sandbox);
    if (Status attached = co_await std::move(attaching); !attached) co_return attached;
  } else {
    std::vector<Task<Status>> both;
    both.push_back(create_in_backend(context, sandbox));
    both.push_back(attach_network(context, sandbox));
    Task<Status> making = all(std::move(both));
    if (Status made = co_await std::move(making); !made) co_return made;
  }
  if (Status status = gone(); !status) co_return status;

  record.set_phase(PHASE_READY);
  auto finish = [records = &engine_.sandbox_records(), id = record.id(), bytes = record.SerializeAsString(),
                 folder = record.state_folder(), hosts = hosts_text(hostname, addresses(*sandbox)),
                 owner = ids_of(config).host_id] {
    if (Status written = write_hosts(folder, hosts); !written) return written;
    if (Status given = give_files(folder, owner); !given) return given;
    return records->write(id, bytes, Durability::synced);
  };
  Task<Status> finishing = engine_.host().blocking(std::move(finish));
  if (Status finished = co_await std::move(finishing); !finished) co_return finished;
  summarize(*sandbox);
  co_return gone();
}

std::string Sandboxes::process_cgroup_of(const Sandbox& sandbox) const {
  const SandboxRecord& record = sandbox.record;
  return process_cgroup(engine_.settings().process_root, record.cgroup_parent(), record.id());
}

Task<Status> Sandboxes::attach_network(CallContext context, std::shared_ptr<Sandbox> sandbox) {
  SandboxRecord& record = sandbox->record;
  if (record.network().empty()) co_return Status::ok();
  Result<NetworkStub> network = engine_.providers().network(record.network());
  if (!network) co_return network.status();
  const api::PodSandboxConfig& config = record.config();
  network_api::AttachRequest request;
  request.set_sandbox_id(record.id());
  request.set_network_namespace(record.network_namespace());
  request.set_pod_name(config.metadata().name());
  request.set_pod_namespace(config.metadata().namespace_());
  request.set_pod_uid(config.metadata().uid());
  *request.mutable_port_mappings() = config.port_mappings();
  *request.mutable_annotations() = config.annotations();
  CallOptions options;
  options.timeout = context.at_most(kAttachTimeout);
  auto call = network->Attach(request, options);
  Result<network_api::AttachResponse> attached = co_await call;
  if (!attached) co_return attached.status().with_context("attach the pod to network " + record.network());
  *record.mutable_attachment() = std::move(*attached->mutable_attachment());
  co_return Status::ok();
}

Task<Status> Sandboxes::create_in_backend(CallContext context, std::shared_ptr<Sandbox> sandbox) {
  SandboxRecord& record = sandbox->record;
  Result<RuntimeStub> runtime = engine_.providers().runtime(record.runtime());
  if (!runtime) co_return runtime.status();
  runtime_api::CreateSandboxRequest request;
  *request.mutable_sandbox() = describe(*sandbox);
  request.set_runtime_handler(record.backend_handler());
  CallOptions options;
  options.timeout = context.at_most(kBackendTimeout);
  auto call = runtime->CreateSandbox(request, options);
  Result<runtime_api::CreateSandboxResponse> created = co_await call;
  if (!created) co_return created.status().with_context("runtime " + record.runtime());
  if (!created->network_namespace().empty()) {
    record.set_network_namespace(created->network_namespace());
    record.set_network_inode(0);  // the backend's to keep, not ours to pin
  }
  co_return Status::ok();
}

bool Sandboxes::wants_sandbox_container(const std::string& runtime_key) const {
  const Result<RuntimeStub> runtime = engine_.providers().runtime(runtime_key);
  return runtime && runtime->binding().has_feature(RuntimeStub::Interface::feature_sandbox_container);
}

// ---- Taking down --------------------------------------------------------------------------------------------------

Task<Status> Sandboxes::stop(CallContext, std::shared_ptr<Sandbox> sandbox) {
  const Mutex::Lock lock = co_await sandbox->mutex.lock();
  if (sandbox->gone || (sandbox->record.phase() == PHASE_NOT_READY && sandbox->record.detached()))
    co_return Status::ok();
  Failures failures;
  Task<Status> killing =
      each_container(sandbox, [this](auto container) { return engine_.containers().stop({}, container, 0s); });
  failures.note(co_await std::move(killing));
  Task<Status> detaching = detach_network(sandbox);
  failures.note(co_await std::move(detaching));
  if (wants_sandbox_container(sandbox->record.runtime())) {
    Task<Status> removing = remove_in_backend(sandbox);
    failures.note(co_await std::move(removing));
  }
  if (!sandbox->record.pid_namespace().empty()) {
    auto end = [cgroup = process_cgroup_of(*sandbox), root = engine_.settings().process_root] {
      return end_process_namespace(cgroup, root);
    };
    Task<Status> ending = engine_.host().blocking(std::move(end));
    failures.note(co_await std::move(ending));
    sandbox->record.set_first_process(0);
  }
  if (sandbox->record.phase() == PHASE_READY) {
    sandbox->record.set_phase(PHASE_NOT_READY);
    summarize(*sandbox);
    engine_.publish(sandbox->record.id(), api::CONTAINER_STOPPED_EVENT, *sandbox);
  }
  Task<Status> saving = save(sandbox, Durability::synced);
  failures.note(co_await std::move(saving));
  co_return failures.status();
}

Task<Status> Sandboxes::remove(CallContext, std::shared_ptr<Sandbox> sandbox) {
  const Mutex::Lock lock = co_await sandbox->mutex.lock();
  if (sandbox->gone) co_return Status::ok();
  sandbox->record.set_phase(PHASE_REMOVING);
  summarize(*sandbox);
  // Whatever happens from here on, the next start finishes it.
  Task<Status> saving = save(sandbox, Durability::cached);
  if (Status saved = co_await std::move(saving); !saved) {
    engine_.host().warn("the removal of a sandbox could not be noted",
                        {{"sandbox", sandbox->record.id()}, {"why", saved.message()}});
  }
  Failures failures;
  Task<Status> removing =
      each_container(sandbox, [this](auto container) { return engine_.containers().remove({}, container); });
  failures.note(co_await std::move(removing));
  if (failures.none()) {
    Task<Status> taking_down = take_down(sandbox);
    failures.note(co_await std::move(taking_down));
  } else {
    engine_.wake_janitor();
  }
  co_return failures.status();
}

Task<Status> Sandboxes::each_container(std::shared_ptr<Sandbox> sandbox,
                                       std::function<Task<Status>(std::shared_ptr<Container>)> act) {
  std::vector<Task<Status>> tasks;
  for (const std::string& id : sandbox->containers) {
    if (std::shared_ptr<Container> container = engine_.container_index().get(id))
      tasks.push_back(act(std::move(container)));
  }
  return all(std::move(tasks));
}

Task<Status> Sandboxes::detach_network(std::shared_ptr<Sandbox> sandbox) {
  SandboxRecord& record = sandbox->record;
  if (record.network().empty() || record.detached()) co_return Status::ok();
  Result<NetworkStub> network = engine_.providers().network(record.network());
  if (!network) co_return network.status();
  network_api::DetachRequest request;
  request.set_sandbox_id(record.id());
  request.set_network_namespace(record.network_namespace());
  CallOptions options;
  options.timeout = kAttachTimeout;
  auto call = network->Detach(request, std::move(options));
  Result<network_api::DetachResponse> detached = co_await call;
  if (!detached) co_return detached.status().with_context("detach the pod from network " + record.network());
  record.set_detached(true);
  co_return Status::ok();
}

Task<Status> Sandboxes::remove_in_backend(std::shared_ptr<Sandbox> sandbox) {
  Result<RuntimeStub> runtime = engine_.providers().runtime(sandbox->record.runtime());
  if (!runtime) co_return runtime.status();
  runtime_api::RemoveSandboxRequest request;
  request.set_sandbox_id(sandbox->record.id());
  request.set_cgroup_parent(sandbox->record.cgroup_parent());
  CallOptions options;
  options.timeout = kBackendTimeout;
  auto call = runtime->RemoveSandbox(request, options);
  Result<runtime_api::RemoveSandboxResponse> removed = co_await call;
  co_return removed.status().with_context("runtime " + sandbox->record.runtime());
}

Task<Status> Sandboxes::take_down(std::shared_ptr<Sandbox> sandbox) {
  SandboxRecord& record = sandbox->record;
  Failures failures;
  Task<Status> detaching = detach_network(sandbox);
  failures.note(co_await std::move(detaching));

  Task<Status> removing = remove_in_backend(sandbox);
  failures.note(co_await std::move(removing));

  const bool shared = namespace_choice(record.config()).shared_processes;
  auto clear = [shared, cgroup = process_cgroup_of(*sandbox), root = engine_.settings().process_root,
                run_folder = record.run_folder(), state_folder = record.state_folder()] {
    Failures left;
    if (shared) left.note(end_process_namespace(cgroup, root));
    left.note(release_namespaces(run_folder));
    const size_t slash = state_folder.rfind('/');
    const Result<files::Descriptor> parent = files::open_folder(state_folder.substr(0, slash));
    if (parent) left.note(files::remove_tree(parent->get(), state_folder.substr(slash + 1)));
    return left.status();
  };
  Task<Status> clearing = engine_.host().blocking(std::move(clear));
  failures.note(co_await std::move(clearing));

  if (!failures.none()) {
    // It stays visible as not ready, so that clients can ask for its removal too.
    record.set_phase(PHASE_REMOVING);
    summarize(*sandbox);
    Task<Status> saving = save(sandbox, Durability::cached);
    failures.note(co_await std::move(saving));
    engine_.wake_janitor();
    co_return failures.status();
  }
  auto forget = [records = &engine_.sandbox_records(), id = record.id()] { return records->remove(id); };
  Task<Status> forgetting = engine_.host().blocking(std::move(forget));
  if (Status forgotten = co_await std::move(forgetting); !forgotten) co_return forgotten;
  sandbox->gone = true;
  engine_.sandbox_index().erase(record.id());
  engine_.publish(record.id(), api::CONTAINER_DELETED_EVENT, *sandbox);
  auto unlink = [records = &engine_.sandbox_records()] {
    records->empty_trash();
    return Status::ok();
  };
  engine_.background("free removed records", engine_.host().blocking(std::move(unlink)));
  co_return Status::ok();
}

Task<Status> Sandboxes::mark_not_ready(std::shared_ptr<Sandbox> sandbox, std::string why) {
  const Mutex::Lock lock = co_await sandbox->mutex.lock();
  if (sandbox->gone || sandbox->record.phase() != PHASE_READY) co_return Status::ok();
  engine_.host().warn("a sandbox is not ready any more", {{"sandbox", sandbox->record.id()}, {"why", why}});
  sandbox->record.set_phase(PHASE_NOT_READY);
  summarize(*sandbox);
  engine_.publish(sandbox->record.id(), api::CONTAINER_STOPPED_EVENT, *sandbox);
  Task<Status> saving = save(sandbox, Durability::cached);
  co_return co_await std::move(saving);
}

Task<Status> Sandboxes::save(std::shared_ptr<Sandbox> sandbox, Durability durability) {
  if (sandbox->gone) co_return Status::ok();
  auto write = [records = &engine_.sandbox_records(), id = sandbox->record.id(),
                bytes = sandbox->record.SerializeAsString(),
                durability] { return records->write(id, bytes, durability); };
  Task<Status> writing = engine_.host().blocking(std::move(write));
  co_return co_await std::move(writing);
}

// ---- Showing ------------------------------------------------------------------------------------------------------

std::vector<std::string> Sandboxes::addresses(const Sandbox& sandbox) {
  std::vector<std::string> result;
  if (sandbox.record.detached()) return result;
  for (const network_api::Address& address : sandbox.record.attachment().addresses()) {
    result.push_back(address.address().substr(0, address.address().find('/')));
  }
  return result;
}

runtime_api::Sandbox Sandboxes::describe(const Sandbox& sandbox) {
  const SandboxRecord& record = sandbox.record;
  runtime_api::Sandbox described;
  described.set_id(record.id());
  *described.mutable_config() = record.config();
  described.set_network_namespace(record.network_namespace());
  described.set_ipc_namespace(record.ipc_namespace());
  described.set_uts_namespace(record.uts_namespace());
  described.set_pid_namespace(record.pid_namespace());
  described.set_cgroup_parent(record.cgroup_parent());
  described.set_resolv_conf(record.state_folder() + "/resolv.conf");
  described.set_hosts(record.state_folder() + "/hosts");
  described.set_hostname_file(record.state_folder() + "/hostname");
  described.set_shm(record.shm());
  described.set_user_namespace(record.user_namespace());
  return described;
}

void Sandboxes::summarize(Sandbox& sandbox) {
  const SandboxRecord& record = sandbox.record;
  api::PodSandbox& summary = sandbox.summary;
  if (summary.id().empty()) {
    summary.set_id(record.id());
    *summary.mutable_metadata() = record.config().metadata();
    summary.set_created_at(record.created_at());
    *summary.mutable_labels() = record.config().labels();
    *summary.mutable_annotations() = record.config().annotations();
    summary.set_runtime_handler(record.runtime_handler());
  }
  summary.set_state(record.phase() == PHASE_READY ? api::SANDBOX_READY : api::SANDBOX_NOTREADY);
}

api::PodSandboxStatus Sandboxes::status(const Sandbox& sandbox) const {
  const SandboxRecord& record = sandbox.record;
  api::PodSandboxStatus status;
  status.set_id(record.id());
  *status.mutable_metadata() = record.config().metadata();
  status.set_state(sandbox.summary.state());
  status.set_created_at(record.created_at());
  api::PodSandboxNetworkStatus* network = status.mutable_network();
  for (const std::string& address : addresses(sandbox)) {
    if (network->ip().empty()) {
      network->set_ip(address);
    } else {
      network->add_additional_ips()->set_ip(address);
    }
  }
  *status.mutable_linux()->mutable_namespaces()->mutable_options() =
      record.config().linux().security_context().namespace_options();
  *status.mutable_labels() = record.config().labels();
  *status.mutable_annotations() = record.config().annotations();
  status.set_runtime_handler(record.runtime_handler());
  return status;
}

std::string Sandboxes::verbose_info(const Sandbox& sandbox) const {
  const SandboxRecord& record = sandbox.record;
  const api::PodSandboxConfig& config = record.config();
  boost::json::array addresses_with_prefix;
  for (const network_api::Address& address : record.attachment().addresses()) {
    addresses_with_prefix.push_back({{"address", address.address()}, {"gateway", address.gateway()}});
  }
  boost::json::array containers;
  for (const std::string& id : sandbox.containers) containers.emplace_back(id);
  const boost::json::object info = {
      {"pid", record.first_process()},
      {"phase", record.phase() == PHASE_READY      ? "ready"
                : record.phase() == PHASE_REMOVING ? "removing"
                                                   : "not-ready"},
      {"runtime", record.runtime()},
      {"runtimeHandler", record.runtime_handler()},
      {"network", record.network()},
      {"interface", record.attachment().interface_name()},
      {"hostInterface", record.attachment().host_interface()},
      {"hardwareAddress", record.attachment().hardware_address()},
      {"addresses", std::move(addresses_with_prefix)},
      {"namespaces",
       {{"network", record.network_namespace()},
        {"ipc", record.ipc_namespace()},
        {"uts", record.uts_namespace()},
        {"user", record.user_namespace()}}},
      {"shm", record.shm()},
      {"cgroupParent", record.cgroup_parent()},
      {"resolvConf", record.state_folder() + "/resolv.conf"},
      {"containers", std::move(containers)},
      {"config",
       {{"hostname", config.hostname()},
        {"logDirectory", config.log_directory()},
        {"sysctls", json_map(config.linux().sysctls())}}},
  };
  return boost::json::serialize(info);
}

}  // namespace pintle::cri
