#pragma once

/// What a host lacks, or has set in Pintle's way, and how to mend it.
///
/// A check is a function from the `Host` to findings. It tries what it says wherever that is possible without a trace: namespaces,
/// an overlay mount, a bridge and nf_tables are made in a child process in namespaces of its own, which end with it. What needs
/// root says so and is skipped without it.

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::cli {

struct Context;

enum class Health { ok, warn, fail };

struct Finding {
  std::string name;  // "ip-forward"
  Health health = Health::ok;
  std::string what;  // as it is now, in one line
  std::string why;   // it matters; empty if ok
  std::string mend;  // how; empty if ok
};

/// The host as checks see it. Tests give another root than "/".
class Host {
 public:
  explicit Host(std::string root = "", Context* context = nullptr) : root_(std::move(root)), context_(context) {}

  /// The text of a file without the white space at its end; nothing if it cannot be read.
  std::optional<std::string> read(const std::string& path) const;
  bool exists(const std::string& path) const;
  /// Names in a folder, sorted; none if it cannot be listed.
  std::vector<std::string> list(const std::string& folder) const;
  std::string path(const std::string& absolute) const { return root_ + absolute; }
  bool is_real() const { return root_.empty(); }
  /// Runs with root's rights on the real host.
  bool can_try() const;
  /// The running daemon, to be asked; null in tests.
  Context* context() const { return context_; }

 private:
  std::string root_;
  Context* context_;
};

struct ProgramResult {
  int exit = -1;  // -1: it could not be run, or took too long
  std::string output;
};
/// Runs a program of PATH with nothing on its input and at most ten seconds; no shell.
ProgramResult run_program(const std::vector<std::string>& arguments);
/// The absolute path of a program of PATH and of the places where distributions keep container tools; empty if there is none.
std::string find_program(const std::string& name);

/// Runs `attempt` in a child process; its answer is 0 or an errno. ETIMEDOUT after ten seconds, EINTR if it died.
int try_in_child(const std::function<int()>& attempt);

/// "crun version 1.8.1" -> {1, 8, 1}; empty if there is no number.
std::vector<int> parse_version(std::string_view text);

using Check = std::vector<Finding> (*)(const Host&);

// One group of checks a file.
std::vector<Finding> check_kernel(const Host& host);
std::vector<Finding> check_cgroups(const Host& host);
std::vector<Finding> check_programs(const Host& host);
std::vector<Finding> check_network(const Host& host);
std::vector<Finding> check_system(const Host& host);
std::vector<Finding> check_pintle(const Host& host);

}  // namespace pintle::cli
