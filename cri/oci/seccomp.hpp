#pragma once

/// The default system-call filter of containers.
///
/// A list of what programs need, by purpose; what administers the host is allowed only together with the capability that the kernel
/// asks for it anyway. Two answers to the rest: calls that we know and refuse give EPERM, so that programs report what is
/// missing; calls that we do not know give ENOSYS, so that a newer C library takes its older way. Only the native architecture is
/// listed, because compiling costs time for each one.
///
/// The same table becomes JSON for the OCI runtime, or a compiled filter (libseccomp), which is kept: a node has few
/// different sets of capabilities.

#include <boost/json/object.hpp>
#include <cstdint>
#include <pintle/status.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::oci {

struct SeccompArgument {
  unsigned index;
  uint64_t value;        ///< of the comparison; with `mask` what is left of the argument has to equal it
  uint64_t mask = 0;     ///< 0: plain equality
  bool differs = false;  ///< the argument must not equal `value`
};

struct SeccompRule {
  bool allow = true;  ///< else EPERM
  std::vector<std::string_view> calls;
  std::vector<SeccompArgument> arguments;  ///< all must hold; empty: whatever they are
};

/// The rules for a container with these capabilities ("CAP_SYS_ADMIN").
std::vector<SeccompRule> default_seccomp_rules(const std::set<std::string>& capabilities);

/// `linux.seccomp` of the OCI runtime spec.
boost::json::object seccomp_document(const std::vector<SeccompRule>& rules);

/// The classic BPF program, in base64 as crun's annotation takes it. Kept for each set of capabilities. Any thread.
Result<std::string> compiled_seccomp(const std::set<std::string>& capabilities);

}  // namespace pintle::oci
