#include "plugins/runtime-oci/bundle.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <set>

#include "cri/images/overlay.hpp"
#include "cri/oci/users.hpp"
#include "pintle/runtime.pb.h"
#include "plugins/runtime-oci/mapped_users.hpp"
#include "plugins/runtime-oci/monitor.hpp"
#include "plugins/runtime-oci/placement.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/systemd/slices.hpp"

namespace pintle::runtime_oci {
namespace {

constexpr char kRecord[] = "state.json";

/// CRI numbers signals in an order of its own, so they are told by name: "SIGNAL_SIGTERM", "SIGNAL_SIGRTMINPLUS3".
int stop_signal_of(const ::runtime::v1::ContainerConfig& config, const std::string& image) {
  if (config.stop_signal() != ::runtime::v1::Signal::SIGNAL_RUNTIME_DEFAULT) {
    std::string name = ::runtime::v1::Signal_Name(config.stop_signal()).substr(sizeof "SIGNAL_" - 1);
    if (const size_t plus = name.find("PLUS"); plus != std::string::npos) name.replace(plus, 4, "+");
    if (const size_t minus = name.find("MINUS"); minus != std::string::npos) name.replace(minus, 5, "-");
    if (const int number = signal_number(name)) return number;
  }
  const int number = signal_number(image);
  return number ? number : SIGTERM;
}

Status make_root(const std::string& folder, const images::Root& image, const MappedUsers& users) {
  images::Overlay overlay;
  auto lower = show_layers(users, image.lower, folder);
  if (!lower) return lower.status();
  overlay.lower = std::move(*lower);
  overlay.upper = folder + "/upper";
  overlay.work = folder + "/work";
  const std::string target = folder + "/rootfs";
  for (const std::string& path : {overlay.work, target}) {
    if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return status_from_errno(errno, "make " + path);
  }
  // The mount's root shows the attributes of `upper`: those of the image's own root.
  struct stat base {};
  if (stat(image.lower.front().c_str(), &base) != 0) return status_from_errno(errno, "look at " + image.lower.front());
  if (mkdir(overlay.upper.c_str(), 0755) != 0 ||
      chown(overlay.upper.c_str(), users.on_node(base.st_uid), users.on_node(base.st_gid)) != 0 ||
      chmod(overlay.upper.c_str(), base.st_mode & 07777) != 0) {
    return status_from_errno(errno, "make " + overlay.upper);
  }
  if (Status mounted = images::mount_overlay(overlay, target); !mounted) return mounted;
  // The overlay keeps mounts of its own.
  return users.are_mapped() ? images::unmount_all(folder + "/" + kShownLayers) : Status::ok();
}

/// A folder of the node that is to be mounted and is missing is made, as other runtimes do.
Status make_host_folders(const ::runtime::v1::ContainerConfig& config) {
  for (const ::runtime::v1::Mount& mount : config.mounts()) {
    const std::string& path = mount.host_path();
    if (!path.starts_with('/') || access(path.c_str(), F_OK) == 0 || errno != ENOENT) continue;
    if (Status made = files::make_folders(path, 0755); !made)
      return made.with_context("mount at " + mount.container_path());
  }
  return {};
}

/// The mount points of the runtime are made by it; a missing working directory too, so nothing else is touched in the root.
Result<oci::Spec> make_spec(const Node& node, const std::string& folder,
                            const runtime::v1::CreateContainerRequest& request, const images::Config& image,
                            const Place& place, const MappedUsers& users) {
  if (Status made = make_host_folders(request.config()); !made) return made;
  auto root = files::open_folder(folder + "/rootfs");
  if (!root) return root.status();
  oci::SpecRequest wanted;
  wanted.config = &request.config();
  wanted.sandbox = &request.sandbox().config();
  wanted.image = {image.entrypoint, image.command, image.environment, image.working_directory, image.user};
  const runtime::v1::Sandbox& sandbox = request.sandbox();
  wanted.places = {
      sandbox.network_namespace(), sandbox.ipc_namespace(), sandbox.uts_namespace(), sandbox.pid_namespace(),
      sandbox.resolv_conf(),       sandbox.hosts(),         sandbox.hostname_file(), sandbox.shm()};
  wanted.root = (users.are_mapped() ? shown_folder() : folder) + "/rootfs";
  wanted.users = {users.first, users.count, sandbox.user_namespace()};
  wanted.host = &node.host;
  wanted.hook_folders = node.settings.hook_folders;
  wanted.compiled_seccomp = node.programs.kind == RuntimeKind::crun;
  if (node.programs.kind == RuntimeKind::runc || !place.scope.empty()) wanted.cgroups_path = place.cgroups_path;
  auto identity = oci::resolve_identity(root->get(), request.config().linux().security_context(), image.user);
  if (!identity) return identity.status();
  wanted.identity = std::move(*identity);
  auto spec = oci::make_spec(wanted);
  if (spec && users.are_mapped()) {
    Status shown = show_binds(users, spec->document, folder);
    if (!shown) return shown;
  }
  if (!spec || place.scope.empty()) return spec;
  auto annotations = scope_annotations(spec->limits);
  if (!annotations) return annotations.status();
  boost::json::value& all = spec->document["annotations"];
  if (!all.is_object()) all.emplace_object();
  for (const auto& [key, text] : *annotations) all.get_object()[key] = text;
  return spec;
}

Status rename_to_trash(const Node& node, const std::string& path) {
  const std::string target = node.folders.trash + "/" + path.substr(path.rfind('/') + 1) + "-" + files::random_hex(8);
  if (rename(path.c_str(), target.c_str()) != 0 && errno != ENOENT) return status_from_errno(errno, "remove " + path);
  return {};
}

Status remove_exit(const Node& node, const std::string& id) {
  const std::string path = node.folders.exits + "/" + id;
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return status_from_errno(errno, "remove " + path);
  return {};
}

/// SIGKILL to the process if it is still the same one.
void kill_process(const ProcessIdentity& process) {
  if (process.pid <= 0) return;
  files::Descriptor handle(static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0)));
  if (handle.valid() && is_alive(process)) syscall(SYS_pidfd_send_signal, handle.get(), SIGKILL, nullptr, 0);
}

/// The container for which a monitor, the launcher or the OCI runtime runs: each has the bundle's folder on its command line. Empty
/// if it is not one of this instance.
std::string container_of_program(const Node& node, int pid) {
  auto text = files::read_file("/proc/" + std::to_string(pid) + "/cmdline", 1u << 16);
  if (!text) return {};
  const std::string mark = std::string(1, '\0') + node.folders.containers + "/";
  const size_t at = text->find(mark);
  if (at == std::string::npos) return {};
  return text->substr(at + mark.size(), 64);
}

}  // namespace

Status save(const Node& node, const ContainerRecord& record, bool durable) {
  auto folder = files::open_folder(node.folders.container(record.id));
  if (!folder) return folder.status();
  return files::write_file(folder->get(), kRecord, record.to_json(),
                           durable ? files::Durability::synced : files::Durability::cached)
      .with_context("container " + record.id);
}

Result<Prepared> prepare(const Node& node, images::Store& store, const runtime::v1::CreateContainerRequest& request) {
  const std::string& id = request.container_id();
  const std::string folder = node.folders.container(id);
  Prepared prepared;
  prepared.terminal = request.config().tty();
  prepared.standard_input = request.config().stdin();
  prepared.input_once = request.config().stdin_once();
  ContainerRecord& record = prepared.record;
  record.id = id;
  record.sandbox_id = request.sandbox().id();
  record.image_id = request.image_id();
  record.log_path = request.log_path();
  const Place place = place_of(node, request.sandbox().cgroup_parent(), id);
  record.cgroup = place.cgroup;
  record.scope = place.scope;
  record.kills_beside_before = out_of_memory_kills_beside(node, record);
  record.name = request.config().metadata().name();
  record.attempt = request.config().metadata().attempt();
  record.labels = {request.config().labels().begin(), request.config().labels().end()};
  record.annotations = {request.config().annotations().begin(), request.config().annotations().end()};
  record.shares_processes =
      !request.sandbox().pid_namespace().empty() ||
      request.config().linux().security_context().namespace_options().pid() == ::runtime::v1::NamespaceMode::NODE;
  record.boot_id = boot_id();
  if (!record.log_path.empty() && !record.log_path.starts_with('/'))
    return invalid_argument("log path '" + record.log_path + "' has to be absolute");

  auto image = store.lease(request.image_id(), id, node.key);
  if (!image) return image.status();
  Status status;
  if (mkdir(folder.c_str(), 0700) != 0) {
    status = status_from_errno(errno, "make " + folder);
    (void)store.release(id);
    return status;
  }
  record.stop_signal = stop_signal_of(request.config(), image->image->config.stop_signal);
  status = save(node, record, false);
  auto users = MappedUsers::of(request.sandbox());
  if (status) status = users.status();
  if (status) status = make_root(folder, *image, *users);
  if (status) {
    if (users->are_mapped()) prepared.shown_at = shown_folder();
    auto spec = make_spec(node, folder, request, image->image->config, place, *users);
    status = spec.status();
    if (status) {
      auto bundle = files::open_folder(folder);
      status = bundle ? files::write_file(bundle->get(), "config.json", boost::json::serialize(spec->document),
                                          files::Durability::cached)
                      : bundle.status();
      prepared.remarks = std::move(spec->remarks);
      prepared.limits = spec->limits;
    }
    // runc makes the cgroup itself and would refuse one that holds limits already.
    if (status && node.programs.kind == RuntimeKind::crun && record.scope.empty()) {
      status = node.cgroups.create(record.cgroup);
      if (status) status = node.cgroups.apply(record.cgroup, spec->limits);
      if (status) status = node.cgroups.allow_devices(record.cgroup, spec->devices);
    }
    if (status && users->are_mapped()) status = open_cgroups(node.cgroups.folders(record.cgroup));
    if (status && !node.cgroups.exists(monitors_places(node).front())) status = make_monitors_place(node);
  }
  if (!status) {
    if (Status undone = dismantle(node, store, record); !undone) {
      return Status(status.code(), status.message() + " (and while undoing it: " + undone.message() + ")");
    }
    return status;
  }
  return prepared;
}

namespace {

/// Several steps of which each is tried; the first one's code, and what all of them said.
class Steps {
 public:
  void note(const Status& status) {
    if (status) return;
    errors_ += (errors_.empty() ? "" : "; ") + status.message();
    if (code_ == Code::ok) code_ = status.code();
  }
  bool are_done() const { return code_ == Code::ok; }
  Status status(const std::string& what) const { return are_done() ? Status() : Status(code_, what + errors_); }

 private:
  std::string errors_;
  Code code_ = Code::ok;
};

}  // namespace

Status release_ended(const Node& node, const ContainerRecord& record) {
  Steps steps;
  steps.note(remove_container_place(node, record));
  steps.note(images::unmount_all(node.folders.container(record.id) + "/rootfs"));
  steps.note(hide(node.folders.container(record.id)));
  return steps.status("");
}

Status dismantle(const Node& node, images::Store& store, ContainerRecord record) {
  Steps steps;
  const std::string folder = node.folders.container(record.id);

  record.phase = Phase::removing;
  if (record.boot_id == boot_id()) {
    kill_process(record.monitor);
    kill_process(record.process);
  }
  steps.note(release_ended(node, record));
  steps.note(rename_to_trash(node, node.folders.oci + "/" + record.id));
  steps.note(remove_exit(node, record.id));
  steps.note(store.release(record.id));
  if (steps.are_done()) steps.note(rename_to_trash(node, folder));
  if (!steps.are_done()) (void)save(node, record, false);
  return steps.status("remove container " + record.id + ": ");
}

Status empty_trash(const Node& node) {
  auto trash = files::open_folder(node.folders.trash);
  if (!trash) return trash.status();
  auto names = files::list_folder(trash->get());
  if (!names) return names.status();
  Status first;
  for (const std::string& name : *names) {
    if (Status status = files::remove_tree(trash->get(), name); !status && first) first = status;
  }
  return first;
}

Result<std::vector<Found>> look(const Node& node) {
  auto containers = files::open_folder(node.folders.containers);
  if (!containers) return containers.status();
  auto names = files::list_folder(containers->get());
  if (!names) return names.status();
  std::vector<Found> all;
  for (const std::string& id : *names) {
    if (!is_container_id(id)) continue;
    Found found;
    const std::string folder = node.folders.container(id);
    auto text = files::read_file(folder + "/" + kRecord);
    auto record = text ? ContainerRecord::parse(*text) : Result<ContainerRecord>(text.status());
    if (!record || record->id != id) {
      found.remark = "container " + id + ": its record is damaged (" + record.status().message() +
                     "); it is set aside and the container removed";
      if (text)
        (void)rename((folder + "/" + kRecord).c_str(), (node.folders.state + "/damaged-" + id + ".json").c_str());
      found.record.id = id;
      found.record.boot_id = boot_id();
      const Place place = place_of(node, "", id);
      found.record.cgroup = place.cgroup;
      found.record.scope = place.scope;
      if (auto pid = files::read_file(folder + "/pid", 100)) {
        // Its cgroup tells whether the process is the container's, and where else it may be than below our own parent.
        const int number = std::atoi(pid->c_str());
        auto membership = files::read_file("/proc/" + std::to_string(number) + "/cgroup", 1u << 16);
        auto start = start_time_of(number);
        const size_t at = membership ? membership->find(id) : std::string::npos;
        if (start && at != std::string::npos) {
          found.record.process = {number, *start};
          const size_t line = membership->rfind(':', at) + 1;
          found.record.cgroup = membership->substr(line, membership->find('\n', at) - line);
          const std::string unit = systemd::unit_of(found.record.cgroup);
          found.record.scope = unit.ends_with(".scope") ? unit : "";
        }
      }
      all.push_back(std::move(found));
      continue;
    }
    found.record = std::move(*record);
    ContainerRecord& known = found.record;
    found.keep = known.phase != Phase::creating && known.phase != Phase::removing;
    if (known.phase == Phase::created || known.phase == Phase::started) {
      const bool same_boot = known.boot_id == boot_id();
      if (!same_boot || !is_alive(known.process)) {
        if (auto exit = read_exit(node, id); exit && *exit) {
          apply_exit(node, known, **exit);
        } else if (!same_boot || !is_alive(known.monitor)) {
          known.phase = Phase::exited;
          known.exit_code = 137;
          known.finished_at = now();
          known.message =
              same_boot ? "it ended while nobody watched: its monitor was gone" : "it ended with the machine";
          found.remark = "container " + id + ": " + known.message;
          (void)save(node, known, false);
        }
      }
    }
    all.push_back(std::move(found));
  }
  return all;
}

void end_stray_programs(const Node& node, const std::vector<std::string>& known) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (std::chrono::steady_clock::now() < until) {
    std::vector<files::Descriptor> strays;
    for (const std::string& place : monitors_places(node)) {
      auto pids = node.cgroups.processes(place);
      if (!pids) continue;
      for (const pid_t pid : *pids) {
        files::Descriptor handle(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
        const std::string id = container_of_program(node, pid);
        if (!handle.valid() || id.empty() || std::find(known.begin(), known.end(), id) != known.end()) continue;
        syscall(SYS_pidfd_send_signal, handle.get(), SIGKILL, nullptr, 0);
        strays.push_back(std::move(handle));
      }
    }
    if (strays.empty()) return;
    for (const files::Descriptor& stray : strays) {
      pollfd ended{stray.get(), POLLIN, 0};
      (void)poll(&ended, 1, 1000);
    }
  }
}

Status sweep(const Node& node, images::Store& store, const std::vector<std::string>& known) {
  const std::set<std::string> keep(known.begin(), known.end());
  Status first;
  const auto note = [&](const Status& status) {
    if (!status && first) first = status;
  };
  auto leases = store.leases();
  if (!leases) return leases.status();
  for (const images::Lease& lease : *leases) {
    if (lease.owner == node.key && !keep.count(lease.user)) note(store.release(lease.user));
  }
  const auto forget = [&](const std::string& folder, const auto& remove) {
    auto opened = files::open_folder(folder);
    auto names = opened ? files::list_folder(opened->get()) : Result<std::vector<std::string>>(opened.status());
    if (!names) return note(names.status());
    for (const std::string& name : *names)
      if (is_container_id(name) && !keep.count(name)) note(remove(name));
  };
  forget(node.folders.oci, [&](const std::string& id) { return rename_to_trash(node, node.folders.oci + "/" + id); });
  forget(node.folders.exits, [&](const std::string& id) { return remove_exit(node, id); });
  return first;
}

}  // namespace pintle::runtime_oci
