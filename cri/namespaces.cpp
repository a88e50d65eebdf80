#include "cri/namespaces.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <pintle/buffer.hpp>
#include <system_error>
#include <thread>

#include "sdk/support/files/files.hpp"

namespace pintle::cri {
namespace {

constexpr unsigned long kNsfs = 0x6e736673;  // NSFS_MAGIC of <linux/magic.h>, absent from older headers

/// The file system's type at a path; 0 if the path is not there.
unsigned long file_system_at(const std::string& path) {
  struct statfs info {};
  return ::statfs(path.c_str(), &info) == 0 ? static_cast<unsigned long>(info.f_type) : 0;
}

uint64_t inode_of(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

Status bind_file(const std::string& source, const std::string& target) {
  UniqueFd file(::open(target.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0400));
  if (!file) return status_from_errno(errno, "make " + target);
  if (::mount(source.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) != 0) {
    return status_from_errno(errno, "mount " + source + " on " + target);
  }
  return Status::ok();
}

/// Unmounts whatever is mounted on the path, layer by layer, and removes the file or folder itself.
Status release(const std::string& path, bool folder) {
  while (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
  }
  if (errno != EINVAL && errno != ENOENT) return status_from_errno(errno, "unmount " + path);
  const int removed = folder ? ::rmdir(path.c_str()) : ::unlink(path.c_str());
  return removed == 0 || errno == ENOENT ? Status::ok() : status_from_errno(errno, "remove " + path);
}

Status write_sysctl(const std::string& name, const std::string& value) {
  // Both spellings are in use: "net.ipv4.ip_forward", and "net/ipv4/conf/eth0.1/forwarding" where a part has a dot.
  std::string path = name;
  if (path.find('/') == std::string::npos) std::replace(path.begin(), path.end(), '.', '/');
  path.insert(0, "/proc/sys/");
  UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file && errno == ENOENT) return invalid_argument("sysctl " + name + ": this kernel does not have it");
  if (!file) return status_from_errno(errno, "sysctl " + name);
  if (::write(file.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
    if (errno == EINVAL || errno == ERANGE)
      return invalid_argument("sysctl " + name + ": the kernel refuses the value \"" + value + "\"");
    return status_from_errno(errno, "sysctl " + name);
  }
  return Status::ok();
}

Status bring_loopback_up() {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return status_from_errno(errno, "bring loopback up");
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return status_from_errno(errno, "bring loopback up");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return status_from_errno(errno, "bring loopback up");
  return Status::ok();
}

Status write_sysctls(const NamespaceRequest& request) {
  for (const auto& [name, value] : request.sysctls) {
    Status written = write_sysctl(name, value);
    if (written.code() == Code::permission_denied && request.ids.is_mapped()) {
      // Those of IPC are closed to root of the node, who is a stranger to a namespace of other users.
      const ActingAs acting(request.ids.host_id);
      written = write_sysctl(name, value);
    }
    if (!written) return written;
  }
  return Status::ok();
}

/// Runs on the thread that ends afterwards.
Status unshare_and_pin(const NamespaceRequest& request, Namespaces& made) {
  const int flags =
      (request.network ? CLONE_NEWNET : 0) | (request.ipc ? CLONE_NEWIPC : 0) | (request.uts ? CLONE_NEWUTS : 0);
  if (request.ids.is_mapped()) {
    const Result<NamespaceHolder> holder = NamespaceHolder::make(request.ids, flags);
    if (!holder) return holder.status();
    if (Status entered = holder->enter(flags); !entered) return entered;
    const std::string source = "/proc/" + std::to_string(holder->pid()) + "/ns/user";
    made.user = request.folder + "/user";
    made.user_inode = inode_of(source);
    if (Status pinned = bind_file(source, made.user); !pinned) return pinned;
  } else if (flags != 0 && ::unshare(flags) != 0) {
    return status_from_errno(errno, "unshare the pod's namespaces");
  }
  if (request.uts && !request.hostname.empty() &&
      ::sethostname(request.hostname.data(), request.hostname.size()) != 0) {
    return status_from_errno(errno, "set hostname " + request.hostname);
  }
  if (request.network) {
    if (Status up = bring_loopback_up(); !up) return up;
  }
  if (Status written = write_sysctls(request); !written) return written;
  const auto pin = [&](const char* kind, std::string& path, uint64_t& inode) {
    const std::string source = std::string("/proc/thread-self/ns/") + kind;
    path = request.folder + "/" + kind;
    inode = inode_of(source);
    return bind_file(source, path);
  };
  if (request.network) {
    if (Status pinned = pin("net", made.network, made.network_inode); !pinned) return pinned;
  }
  if (request.ipc) {
    if (Status pinned = pin("ipc", made.ipc, made.ipc_inode); !pinned) return pinned;
  }
  if (request.uts) {
    if (Status pinned = pin("uts", made.uts, made.uts_inode); !pinned) return pinned;
  }
  return Status::ok();
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view prefix) {
    return prefix.ends_with('.') ? name.starts_with(prefix) : name == prefix;
  });
}

}  // namespace

Result<Namespaces> make_namespaces(const NamespaceRequest& request) {
  if (Status made = files::make_folders(request.folder); !made) return made;
  Namespaces namespaces;
  Status status;
  try {
    std::thread([&] { status = unshare_and_pin(request, namespaces); }).join();
  } catch (const std::system_error& error) {
    status = resource_exhausted(std::string("start a thread for the pod's namespaces: ") + error.what());
  }
  if (status && request.ipc) {
    namespaces.shm = request.folder + "/shm";
    status = ensure_shm(namespaces.shm, request.shm_bytes, request.ids.host_id);
  }
  if (!status) {
    const Status released = release_namespaces(request.folder);
    if (!released) return Status(status.code(), status.message() + "; and cleaning up: " + released.message());
    return status;
  }
  return namespaces;
}

Status release_namespaces(const std::string& folder) {
  std::string failures;
  Code code = Code::ok;
  const auto note = [&](const Status& status) {
    if (status) return;
    if (code == Code::ok) code = status.code();
    failures += (failures.empty() ? "" : "; ") + status.message();
  };
  if (::access(folder.c_str(), F_OK) != 0 && errno == ENOENT) return Status::ok();
  for (const char* kind : {"net", "ipc", "uts", "pid", "user"}) note(release(folder + "/" + kind, false));
  note(release(folder + "/shm", true));
  if (::rmdir(folder.c_str()) != 0 && errno != ENOENT) note(status_from_errno(errno, "remove " + folder));
  return code == Code::ok ? Status::ok() : Status(code, failures);
}

bool is_pinned(const std::string& path, uint64_t inode) {
  return file_system_at(path) == kNsfs && inode_of(path) == inode;
}

uint64_t namespace_of_process(int pid, std::string_view kind) {
  return inode_of("/proc/" + std::to_string(pid) + "/ns/" + std::string(kind));
}

Status repin(int pid, std::string_view kind, uint64_t inode, const std::string& path) {
  const std::string source = "/proc/" + std::to_string(pid) + "/ns/" + std::string(kind);
  // Held open, so that what was compared is what gets mounted, whoever has the PID by then.
  UniqueFd held(::open(source.c_str(), O_RDONLY | O_CLOEXEC));
  if (!held) return status_from_errno(errno, "open " + source);
  struct stat info {};
  if (::fstat(held.get(), &info) != 0) return status_from_errno(errno, "stat " + source);
  if (info.st_ino != inode) return failed_precondition(source + " is another namespace than the pod's");
  if (Status made = files::make_folders(path.substr(0, path.rfind('/'))); !made) return made;
  if (Status released = release(path, false); !released) return released;
  return bind_file("/proc/thread-self/fd/" + std::to_string(held.get()), path);
}

Status ensure_shm(const std::string& path, uint64_t bytes, uint32_t owner) {
  if (file_system_at(path) == TMPFS_MAGIC) {
    struct stat own {
    }, parent{};
    if (::stat(path.c_str(), &own) == 0 && ::stat((path + "/..").c_str(), &parent) == 0 &&
        own.st_dev != parent.st_dev) {
      return Status::ok();
    }
  }
  if (Status made = files::make_folders(path); !made) return made;
  std::string options = "mode=1777,size=" + std::to_string(bytes);
  if (owner != 0) options += ",uid=" + std::to_string(owner) + ",gid=" + std::to_string(owner);
  if (::mount("shm", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options.c_str()) != 0) {
    return status_from_errno(errno, "mount /dev/shm of the pod on " + path);
  }
  return Status::ok();
}

Status check_sysctls(const std::map<std::string, std::string>& sysctls, bool own_network, bool own_ipc, bool own_uts) {
  for (const auto& [spelled, value] : sysctls) {
    std::string name = spelled;
    if (const size_t slash = name.find('/'); slash != std::string::npos)
      std::replace(name.begin(), name.end(), '/', '.');
    const bool alphabet = !name.empty() && name.size() < 256 && name.find("..") == std::string::npos &&
                          name.front() != '.' && std::all_of(name.begin(), name.end(), [](unsigned char c) {
                            return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
                          });
    if (!alphabet)
      return invalid_argument("sysctl \"" + spelled + "\": a name has letters, digits, '.', '_' and '-' only");
    const bool printable = value.size() < 256 && std::all_of(value.begin(), value.end(), [](unsigned char c) {
                             return (c >= 0x20 && c < 0x7f) || c == '\t';
                           });
    if (!printable) return invalid_argument("sysctl " + spelled + ": the value has characters that no sysctl takes");
    const bool network = is_one_of(name, {"net."});
    const bool ipc = is_one_of(name, {"fs.mqueue.", "kernel.sem", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni",
                                      "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"});
    const bool uts = is_one_of(name, {"kernel.domainname"});
    if (!network && !ipc && !uts) {
      return invalid_argument(
          "sysctl " + spelled +
          " is the node's own, not a pod's; a pod may set net.*, fs.mqueue.*, kernel.shm*, kernel.msg* and kernel.sem");
    }
    if ((network && !own_network) || (ipc && !own_ipc) || (uts && !own_uts)) {
      return invalid_argument(
          "sysctl " + spelled +
          ": the pod shares this namespace with the node; give it one of its own or drop the sysctl");
    }
  }
  return Status::ok();
}

Status check_hostname(std::string_view hostname) {
  const auto is_label_character = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_'; };
  bool good = hostname.size() <= 64;
  for (size_t start = 0; good && !hostname.empty() && start <= hostname.size();) {
    const size_t dot = std::min(hostname.find('.', start), hostname.size());
    const std::string_view label = hostname.substr(start, dot - start);
    good = !label.empty() && std::all_of(label.begin(), label.end(), is_label_character) && label.front() != '-';
    start = dot + 1;
  }
  if (good) return Status::ok();
  return invalid_argument("hostname \"" + std::string(hostname.substr(0, 80)) +
                          "\": at most 64 characters, labels of letters, digits and '-' joined by dots");
}

}  // namespace pintle::cri
