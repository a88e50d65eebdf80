#pragma once

/// The CNI library: one network that third-party plugins make, as a container runtime uses it.
///
///     add     ADD of each plugin in order, each told what the one before answered (prevResult)
///     remove  DEL in the reverse order, with the configuration that the pod was added with
///     check   CHECK in order (0.4.0 and later); FAILED_PRECONDITION, with the plugin's words
///     collect GC with all attachments that are valid (1.1)
///     status  STATUS of each (1.1); success for older lists, whose plugins cannot be asked
///
/// The cache. Before the first plugin of an ADD runs, a file says which pod is about to be attached, and with which configuration; after the
/// last one it has the result too. So after a kill at any moment what was begun is known, and is removed by DEL whatever has become of
/// /etc/cni/net.d meanwhile.
///
///     (none) --add--> begun (file without result) --all ADD--> attached (file with result) --remove--> (none)
///                        |  an ADD failed: DEL of all, file removed
///
/// Children are started through a `Runner`, so that who embeds the library decides how. Single-threaded: calls for one attachment must not
/// overlap; those for different ones may.
///
///     Network network(list, {.binaries = {"/opt/cni/bin"}, .cache = "/var/lib/x"}, runner);
///     Result<AddResult> result = co_await network.add({.container = "4f2a", .name_space = "/run/netns/4f2a", .interface = "eth0"});
///
/// Source: https://www.cni.dev/docs/spec/, sections 2 to 4.

#include <chrono>
#include <optional>
#include <pintle/task.hpp>

#include "cni/library/network_list.hpp"
#include "cni/result.hpp"

namespace pintle::cni {

/// A plugin to run: the program's path, environment ("NAME=value"), standard input.
struct Run {
  std::string program;
  std::vector<std::string> environment;
  std::string input;
  std::chrono::milliseconds timeout{};
};
struct Outcome {
  int wait_status = 0;  ///< waitpid(2)
  std::string output;
  std::string errors;  ///< the beginning of standard error
};

class Runner {
 public:
  virtual ~Runner() = default;
  /// DEADLINE_EXCEEDED after the time (the child was killed); RESOURCE_EXHAUSTED when it printed more than a mebibyte.
  virtual Task<Result<Outcome>> run(Run request) = 0;
};

struct Target {
  std::string container;
  std::string name_space;  ///< path; may be gone for `remove`
  std::string interface = "eth0";
  std::vector<std::pair<std::string, std::string>> arguments = {};  ///< CNI_ARGS
  boost::json::object capabilities = {};  ///< runtimeConfig: portMappings, bandwidth, ips, mac, dns, ...
};

struct CachedAttachment {
  Target target;
  NetworkList list;
  std::optional<AddResult> result;  ///< absent: it was begun and not finished
  boost::json::object raw_result;   ///< as the last plugin printed it
};

struct NetworkOptions {
  std::vector<std::string> binaries = {"/opt/cni/bin", "/usr/lib/cni"};
  std::string cache;  ///< folder, made if need be
  std::chrono::milliseconds timeout{60'000};
};

/// The text of a cache file and back. DATA_LOSS says what is wrong.
std::string write_cached(const CachedAttachment& attachment);
Result<CachedAttachment> read_cached(std::string_view text);

class Network {
 public:
  /// Plugins are looked for when they are needed: an add-on may bring them later.
  Network(NetworkList list, NetworkOptions options, Runner& runner)
      : list_(std::move(list)), options_(std::move(options)), runner_(runner) {}

  const NetworkList& list() const { return list_; }
  /// NOT_FOUND names the plugin and where it was looked for.
  Status find_plugins() const;

  /// Nothing is left of a failed attempt, as far as the plugins' DEL succeeds.
  Task<Result<CachedAttachment>> add(Target target);
  /// Success as well when nothing is left. Goes on after a failure; the file stays then, so that it is tried again.
  Task<Status> remove(CachedAttachment attachment);
  Task<Status> check(CachedAttachment attachment);
  /// What is not among these is the plugins' to give up.
  Task<Status> collect(std::vector<CachedAttachment> valid);
  Task<Status> status();

  /// All files of the cache. Damaged ones are set aside as NAME.damaged and named in `damaged`.
  Result<std::vector<CachedAttachment>> cached(std::vector<std::string>& damaged) const;

 private:
  Result<std::string> find(const std::string& type) const;
  Task<Result<boost::json::object>> invoke(std::string command, const NetworkList& list, const PluginConfig& plugin,
                                           Target target, boost::json::object extra);
  Status save(const CachedAttachment& attachment) const;
  Status forget(const CachedAttachment& attachment) const;

  NetworkList list_;
  NetworkOptions options_;
  Runner& runner_;
};

}  // namespace pintle::cni
