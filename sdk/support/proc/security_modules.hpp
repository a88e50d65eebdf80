#pragma once

/// Which security modules confine processes on this host.

namespace pintle::proc {

/// Whether AppArmor is on (Documentation/admin-guide/LSM/apparmor.rst: /sys/module/apparmor/parameters/enabled). Reads one small file; any
/// thread.
bool has_apparmor();

}  // namespace pintle::proc
