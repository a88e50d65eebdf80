#pragma once

/// systemd as the keeper of cgroups: units are made, limited and ended through its D-Bus (org.freedesktop.systemd1(5)).
///
/// Why. On a host that systemd runs, it writes to every cgroup that is not delegated: at `daemon-reload`, and whenever a unit beside it
/// changes. Limits that were written past it are lost then. What it was told it keeps.
///
/// A *transient unit* has no file; it lasts until it is stopped or the machine starts again:
///
///     slice     holds others: a pod's cgroup. Stays while it is empty.
///     scope     processes that systemd did not start: a container. OCI runtimes make it (`--systemd-cgroup`); it goes with its last process.
///     service   here one that only sleeps, so that there is a cgroup which is delegated to us and stays.
///
/// Every request is answered by a *job*; functions here return when it is done. They block, on any thread, for at most half a minute.
/// UNAVAILABLE: systemd does not answer; the message says the way out.
///
///     Manager systemd;
///     systemd.start_slice("kubepods-pod1.slice", "Pod web", properties_of(limits));
///     systemd.set_properties("pintle-4f2a.scope", properties_of(changed));
///     systemd.stop("kubepods-pod1.slice");
///
/// Copies share their connections.

#include <cstdint>
#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "sdk/support/cgroup/cgroup.hpp"

namespace pintle::systemd {

/// "no limit" in properties.
inline constexpr uint64_t kInfinity = UINT64_MAX;

struct Property {
  std::string name;
  /// As D-Bus has them: t, b, s, as, ay (a set as bits).
  std::variant<uint64_t, bool, std::string, std::vector<std::string>, std::vector<uint8_t>> value;
};
using Properties = std::vector<Property>;

/// Limits in systemd's words. What systemd has no word for (huge pages, other files of `unified`) is left out: that is written into the
/// cgroup, where nobody else writes it.
Result<Properties> properties_of(const cgroup::Limits& limits);

/// "0-2,5" as bits, the lowest first. INVALID_ARGUMENT for what is no such list.
Result<std::vector<uint8_t>> bits_of(std::string_view list);

struct Unit {
  std::string active_state;  ///< "active", "inactive", "failed", ...
  std::string description;
  std::string cgroup;  ///< its path; empty: none at this time
  bool is_transient = false;
};

class Manager {
 public:
  Manager();

  /// Whether systemd is this host's first process (sd_booted(3)).
  static bool runs_here();

  /// Makes the slice, or sets the properties of one that is there; slices above it come by themselves.
  Status start_slice(const std::string& name, const std::string& description, const Properties& properties) const;
  /// Makes a service that sleeps in a delegated cgroup, into which others may be put; success if it is there. It is stopped after
  /// `before` when the machine goes down. Stopping it ends the sleeper alone.
  Status start_holder(const std::string& name, const std::string& description, const std::string& slice,
                      const std::string& before) const;
  /// Until the machine starts again. NOT_FOUND: there is no such unit.
  Status set_properties(const std::string& name, const Properties& properties) const;
  /// Ends the unit with all that is in it, and forgets that it failed. Success if there is none.
  Status stop(const std::string& name) const;
  /// NOT_FOUND: none is loaded.
  Result<Unit> look(const std::string& name) const;

 private:
  class Connections;
  class Connection;
  Status start_transient(const std::string& name, const Properties& properties) const;
  Status start(const std::string& name) const;

  std::shared_ptr<Connections> connections_;
};

}  // namespace pintle::systemd
