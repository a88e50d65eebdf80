#include "cri/oci/apparmor.hpp"

#include "cri/api.pb.h"
#include "cri/oci/spec.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::oci {
namespace {

using ::runtime::v1::LinuxContainerSecurityContext;
using ::runtime::v1::SecurityProfile;

constexpr size_t kMostProfileBytes = 4u << 20;
constexpr size_t kLongestShown = 100;

// In a pattern, "[^x]" is one character that is not x, "*" stops at a slash and "**" does not. A "deny" counts before all that is allowed.
constexpr std::string_view kText = R"(profile pintle-default flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  umount,

  # Whoever runs containers ends them; among each other they are free.
  signal (receive) peer=unconfined,
  signal (receive) peer=crun,
  signal (receive) peer=runc,
  signal (send, receive) peer=pintle-default,
  ptrace (trace, read, tracedby, readby) peer=pintle-default,

  deny mount,

  # In /proc, all but the processes' own folders belongs to the node. Of its settings, those of a pod's own network, IPC objects and message
  # queues stay open: net/, kernel/msg*, kernel/sem*, kernel/shm*, fs/mqueue/.
  deny /proc/* w,
  deny /proc/{acpi,asound,bus,driver,dynamic_debug,fs,irq,scsi,tty}/** w,
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,
  deny /proc/sys/[^fkn]** w,
  deny /proc/sys/fs/[^m]** w,
  deny /proc/sys/kernel/[^ms]** w,
  deny /proc/sys/kernel/m[^s]** w,
  deny /proc/sys/kernel/s[^eh]** w,
  deny /proc/sys/kernel/seccomp/** w,

  # In /sys, the container's cgroup is its own.
  deny /sys/[^f]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/kernel/{debug,security,tracing}/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}
)";

struct Wish {
  enum class Kind { nothing, runtime_default, localhost, unconfined } kind = Kind::nothing;
  std::string name;
};

Result<Wish> wish_of(const LinuxContainerSecurityContext& context) {
  constexpr std::string_view kLocalhost = "localhost/";
  Wish wish;
  const std::string& old = context.apparmor_profile();
  if (context.has_apparmor()) {
    wish.name = context.apparmor().localhost_ref();
    switch (context.apparmor().profile_type()) {
      case SecurityProfile::Unconfined:
        wish.kind = Wish::Kind::unconfined;
        break;
      case SecurityProfile::Localhost:
        wish.kind = Wish::Kind::localhost;
        break;
      default:
        wish.kind = Wish::Kind::runtime_default;
    }
  } else if (old.starts_with(kLocalhost)) {
    wish = {.kind = Wish::Kind::localhost, .name = old};
  } else if (old == "unconfined") {
    wish.kind = Wish::Kind::unconfined;
  } else if (old == "runtime/default") {
    wish.kind = Wish::Kind::runtime_default;
  } else if (!old.empty()) {
    return invalid_argument("AppArmor profile '" + old.substr(0, kLongestShown) +
                            "' is unknown; use runtime/default, localhost/NAME or unconfined");
  }
  if (wish.name.starts_with(kLocalhost)) wish.name.erase(0, kLocalhost.size());
  return wish;
}

}  // namespace

std::string_view default_apparmor_profile() { return kText; }

bool is_apparmor_profile_loaded(const HostFacts& host, std::string_view name) {
  // A line of each: "NAME (enforce)".
  const auto loaded = files::read_file(host.apparmor_profiles, kMostProfileBytes);
  return loaded && !name.empty() && ("\n" + *loaded).find("\n" + std::string(name) + " (") != std::string::npos;
}

Result<std::string> apparmor_profile_of(const LinuxContainerSecurityContext& context, const HostFacts& host,
                                        std::vector<std::string>& remarks) {
  const Result<Wish> wish = wish_of(context);
  if (!wish) return wish.status();
  if (context.privileged() || wish->kind == Wish::Kind::unconfined) return std::string();
  if (wish->kind == Wish::Kind::localhost) {
    const std::string what = "AppArmor profile '" + wish->name.substr(0, kLongestShown) + "' is ";
    if (!host.has_apparmor) return failed_precondition(what + "asked for, but this node has no AppArmor");
    if (!is_apparmor_profile_loaded(host, wish->name))
      return failed_precondition(what + "not loaded on this node: load it with apparmor_parser");
    return wish->name;
  }
  if (host.has_apparmor && is_apparmor_profile_loaded(host, kDefaultApparmorProfile))
    return std::string(kDefaultApparmorProfile);
  if (host.has_apparmor)
    remarks.push_back("AppArmor is on, but its profile " + std::string(kDefaultApparmorProfile) +
                      " could not be loaded: containers run without; install apparmor_parser (apt install apparmor)");
  else if (wish->kind == Wish::Kind::runtime_default)
    remarks.push_back("AppArmor's default profile is asked for, but this node has no AppArmor: containers run without");
  return std::string();
}

}  // namespace pintle::oci
