#include "plugins/node-agent/pod_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <sstream>

#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/cri_config.hpp"
#include "plugins/node-agent/pod_resources.hpp"
#include "plugins/node-agent/volumes.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

constexpr const char* kRecord = "pod.json";
constexpr const char* kVerdict = "verdict.json";
constexpr const char* kReady = "ready";

Status remove_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  Result<files::Descriptor> parent = files::open_folder(path.substr(0, slash));
  if (!parent) return parent.status().code() == Code::not_found ? Status::ok() : parent.status();
  return files::remove_tree(parent->get(), path.substr(slash + 1));
}

bool mounts_at(const core::Container& container, std::string_view path) {
  return std::any_of(container.volume_mounts().begin(), container.volume_mounts().end(),
                     [&](const core::VolumeMount& mount) { return mount.mount_path() == path; });
}

/// With names of its own, or else the runtime's file is right.
bool wants_hosts(const core::PodSpec& spec) {
  return spec.host_aliases_size() > 0 || (!spec.subdomain().empty() && !spec.host_network());
}

std::string hosts_text(const core::Pod& pod, const RunningFacts& facts, const std::string& domain) {
  const core::PodSpec& spec = pod.spec();
  std::string text;
  if (spec.host_network()) {
    if (Result<std::string> own = files::read_file("/etc/hosts"); own) text = *own;
    if (!text.empty() && text.back() != '\n') text += '\n';
  } else {
    text =
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n"
        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    const std::string name = short_hostname_of(pod);
    const std::string full = full_hostname_of(pod, domain);
    for (const std::string& address : facts.pod_addresses)
      text += address + "\t" + (full == name ? name : full + "\t" + name) + "\n";
  }
  for (const core::HostAlias& alias : spec.host_aliases()) {
    text += alias.ip();
    for (const std::string& name : alias.hostnames()) text += "\t" + name;
    text += "\n";
  }
  return text;
}

}  // namespace

std::vector<std::string> PodFiles::uids() const {
  Result<files::Descriptor> pods = files::open_folder(folder_ + "/pods");
  if (!pods) return {};
  Result<std::vector<std::string>> names = files::list_folder(pods->get());
  return names ? *names : std::vector<std::string>();
}

std::vector<std::shared_ptr<const WantedPod>> PodFiles::load(std::vector<std::string>& problems) const {
  std::vector<std::shared_ptr<const WantedPod>> pods;
  for (const std::string& uid : uids()) {
    const std::string path = pod_folder(uid) + "/" + kRecord;
    Result<std::string> text = files::read_file(path);
    if (!text) {
      if (text.status().code() != Code::not_found) problems.push_back(text.status().message());
      continue;
    }
    Result<WantedPod> pod = from_record(*text);
    if (!pod || pod->uid != uid) {
      problems.push_back(path + ": " + (pod ? "names another uid" : pod.status().message()));
      continue;
    }
    pods.push_back(std::make_shared<WantedPod>(std::move(*pod)));
  }
  return pods;
}

Status PodFiles::save(const WantedPod& pod) const {
  const std::string path = pod_folder(pod.uid);
  if (Status made = files::make_folders(path, 0700); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(path);
  if (!folder) return folder.status();
  return files::write_file(folder->get(), kRecord, to_record(pod), files::Durability::cached);
}

std::map<std::string, PodVerdict> PodFiles::load_verdicts(const std::string& boot_id,
                                                          std::vector<std::string>& problems) const {
  std::map<std::string, PodVerdict> verdicts;
  for (const std::string& uid : uids()) {
    const std::string path = pod_folder(uid) + "/" + kVerdict;
    const Result<std::string> text = files::read_file(path, 1u << 20);
    if (!text) continue;
    Result<std::optional<PodVerdict>> verdict = verdict_from_record(*text, boot_id);
    if (!verdict)
      problems.push_back(path + ": " + verdict.status().message());
    else if (*verdict)
      verdicts[uid] = std::move(**verdict);
  }
  return verdicts;
}

Status PodFiles::save_verdict(const std::string& uid, const PodVerdict& verdict, const std::string& boot_id) const {
  if (Status made = files::make_folders(pod_folder(uid), 0700); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(pod_folder(uid));
  if (!folder) return folder.status();
  return files::write_file(folder->get(), kVerdict, to_record(verdict, boot_id), files::Durability::synced);
}

void PodFiles::forget_verdict(const std::string& uid) const {
  (void)unlink((pod_folder(uid) + "/" + kVerdict).c_str());
}

Result<PodPlaces> PodFiles::prepare(const WantedPod& pod, const std::string& log_folder,
                                    const CgroupSettings& cgroups) const {
  for (const auto* list : {&pod.pod->spec().init_containers(), &pod.pod->spec().containers()})
    for (const core::Container& container : *list)
      if (Status made = files::make_folders(log_folder + "/" + container.name(), 0755); !made) return made;
  if (Status made = make_pod_cgroup(cgroups, cgroup_of(pod, cgroups.root),
                                    cpu_shares(requested_by(*pod.pod, "cpu").amount.milli()));
      !made)
    return made;
  PodPlaces places;
  if (const Result<std::string> ready = files::read_file(pod_folder(pod.uid) + "/" + kReady); ready) {
    std::istringstream lines(*ready);
    for (std::string id; lines >> id;) places.ready.insert(id);
  }
  if (pod.pod->spec().has_host_users() && !pod.pod->spec().host_users()) {
    Result<PodIds> ids = ids_of_pod(ids_, folder_ + "/pods", pod.uid);
    if (!ids) return ids.status();
    places.ids = *ids;
  }
  for (const core::Volume& volume : pod.pod->spec().volumes()) {
    Result<std::string> place = make_volume(*pod.pod, volume, volumes_folder(pod.uid) + "/" + volume.name());
    if (!place) return place.status();
    places.volumes[volume.name()] = std::move(*place);
  }
  return places;
}

Status PodFiles::keep_ready(const std::string& uid, const std::set<std::string>& containers) const {
  Result<files::Descriptor> folder = files::open_folder(pod_folder(uid));
  if (!folder) return folder.status();
  std::string text;
  for (const std::string& id : containers) text += id + "\n";
  // What a power cut undoes belongs to containers that it ends.
  return files::write_file(folder->get(), kReady, text, files::Durability::cached);
}

bool PodFiles::has_container_files(const core::Pod& pod, const core::Container& container) {
  return wants_hosts(pod.spec()) || std::any_of(container.volume_mounts().begin(), container.volume_mounts().end(),
                                                [](const core::VolumeMount& mount) {
                                                  return !mount.sub_path().empty() || !mount.sub_path_expr().empty();
                                                });
}

Result<ContainerFiles> PodFiles::prepare_container(const WantedPod& pod, const core::Container& container,
                                                   const RunningFacts& facts,
                                                   const std::map<std::string, std::string>& volumes,
                                                   const std::string& cluster_domain) const {
  ContainerFiles made;
  const std::string folder = pod_folder(pod.uid);
  if (wants_hosts(pod.pod->spec()) && !mounts_at(container, "/etc/hosts")) {
    Result<files::Descriptor> opened = files::open_folder(folder);
    if (!opened) return opened.status();
    // In its place, so that containers that have it mounted see it too.
    Result<files::Descriptor> file =
        files::open_at(opened->get(), "etc-hosts", O_CREAT | O_TRUNC | O_WRONLY | O_NOFOLLOW, 0644);
    if (!file) return file.status();
    if (Status written = files::write_all(file->get(), hosts_text(*pod.pod, facts, cluster_domain)); !written)
      return written;
    if (fchmod(file->get(), 0644) != 0) return status_from_errno(errno, "chmod etc-hosts");
    made.hosts = folder + "/etc-hosts";
  }
  std::map<std::string, std::string> values;
  for (auto& [name, value] : environment_of(*pod.pod, container, facts)) values[name] = std::move(value);
  for (int i = 0; i < container.volume_mounts_size(); ++i) {
    const core::VolumeMount& mount = container.volume_mounts(i);
    if (mount.sub_path().empty() && mount.sub_path_expr().empty()) continue;
    const std::string what = "volumeMounts[" + std::to_string(i) + "] at " + mount.mount_path();
    std::string path = mount.sub_path();
    if (path.empty()) {
      path = expand(mount.sub_path_expr(), values);
      if (path.find("$(") != std::string::npos)
        return failed_precondition(what + ": subPathExpr \"" + mount.sub_path_expr() +
                                   "\" names a variable that is not set");
      if (path.empty() || path.front() == '/')
        return failed_precondition(what + ": subPathExpr becomes \"" + path + "\", which is no relative path");
    }
    const std::string target = folder + "/subpaths/" + container.name() + "/" + std::to_string(i);
    if (Status pinned = pin_sub_path(volumes.at(mount.name()), path, target); !pinned) return pinned.with_context(what);
    made.sub_paths[i] = target;
  }
  return made;
}

Status PodFiles::empty(const std::string& uid, const std::string& log_folder) const {
  const Status logs = log_folder.empty() ? Status::ok() : remove_path(log_folder);
  for (const char* part : {"/subpaths", "/volumes"}) {
    if (Status unmounted = unmount_below(pod_folder(uid) + part); !unmounted) return unmounted;
    if (Status removed = remove_path(pod_folder(uid) + part); !removed) return removed;
  }
  return logs;
}

Status PodFiles::remove(const std::string& uid, const std::string& log_folder) const {
  Status logs = log_folder.empty() ? Status::ok() : remove_path(log_folder);
  discard_pod_cgroup(cgroups_, uid);
  if (Status unmounted = unmount_below(pod_folder(uid)); !unmounted) return unmounted;
  Status state = remove_path(pod_folder(uid));
  return logs ? state : logs;
}

}  // namespace pintle::agent
