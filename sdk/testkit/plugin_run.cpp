#include "sdk/testkit/plugin_run.hpp"

#include <dlfcn.h>
#include <locale.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <sstream>

#include "sdk/support/files/files.hpp"
#include "sdk/testkit/contract.hpp"

namespace pintle::testkit {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

std::string text_of_json(const json::value& object, std::string_view key) {
  const json::value* value = object.is_object() ? object.get_object().if_contains(key) : nullptr;
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

/// "SIGSEGV (Segmentation fault)".
std::string signal_name(int number) {
  const char* name = sigabbrev_np(number);
  const char* description = sigdescr_np(number);
  return name && description ? "SIG" + std::string(name) + " (" + description + ")" : std::to_string(number);
}

// ---- The child's side ------------------------------------------------------------------------------------------------------

/// Says line by line, as JSON, what is under way and what came of it: {"begin"}, {"step"}, {"alive"}, and {"end"} when all is done.
class Reporter {
 public:
  explicit Reporter(int descriptor) : descriptor_(descriptor) {}
  void begin(const std::string& what) { say({{"begin", what}}); }
  void alive() { say({{"alive", true}}); }
  void step(const CheckStep& step) {
    json::array findings(step.findings.begin(), step.findings.end());
    say({{"step", step.name},
         {"outcome", static_cast<int>(step.outcome)},
         {"summary", step.summary},
         {"findings", findings}});
  }
  void end() { say({{"end", true}}); }
  bool skip(const std::string& name, const std::string& why) {
    step({name, Outcome::skipped, why, {}});
    return false;
  }

 private:
  void say(const json::object& line) {
    if (!files::write_all(descriptor_, json::serialize(line) + "\n")) _exit(1);  // nobody listens any more
  }
  int descriptor_;
};

/// What belongs to the whole process, so that a plugin must leave it alone.
struct ProcessState {
  std::array<void (*)(int), 65> signals{};
  sigset_t blocked{};
  mode_t mask = 0;
  std::string folder, locale;
  std::vector<std::string> environment;

  static ProcessState now() {
    ProcessState state;
    for (int number = 1; number <= 64; ++number) {
      struct sigaction action {};
      if (sigaction(number, nullptr, &action) == 0) state.signals[static_cast<size_t>(number)] = action.sa_handler;
    }
    sigemptyset(&state.blocked);
    pthread_sigmask(SIG_BLOCK, nullptr, &state.blocked);
    state.mask = umask(0);
    umask(state.mask);
    std::error_code error;
    state.folder = std::filesystem::current_path(error).string();
    state.locale = setlocale(LC_ALL, nullptr);
    for (char** variable = environ; variable && *variable; ++variable) state.environment.emplace_back(*variable);
    return state;
  }

  std::vector<std::string> changes_to(const ProcessState& after) const {
    std::vector<std::string> changes;
    for (size_t number = 1; number < signals.size(); ++number) {
      if (signals[number] != after.signals[number]) {
        changes.push_back("it handles the signal " + signal_name(static_cast<int>(number)) + ", which is the host's");
      }
    }
    if (std::memcmp(&blocked, &after.blocked, sizeof blocked) != 0)
      changes.emplace_back("it changed the signals that are blocked");
    if (mask != after.mask) changes.emplace_back("it changed the umask");
    if (folder != after.folder) changes.emplace_back("it changed the working directory");
    if (locale != after.locale) changes.emplace_back("it changed the locale");
    if (environment != after.environment) changes.emplace_back("it changed the environment");
    return changes;
  }
};

/// Says now and then that turns still run: what stands still is stuck, what waits for an answer is not.
class Heartbeat {
 public:
  Heartbeat(Reporter& reporter, FakeNode& node, milliseconds patience)
      : reporter_(reporter), host_(node.client("heartbeat").host()), interval_(patience / 4) {
    arm();
  }
  ~Heartbeat() { host_.api()->timer_cancel(host_.raw(), timer_); }
  Heartbeat(const Heartbeat&) = delete;

 private:
  void arm() {
    host_.api()->timer(host_.raw(), static_cast<uint64_t>(std::chrono::nanoseconds(interval_).count()), beat, this,
                       &timer_);
  }
  static void beat(void* context) {
    auto& self = *static_cast<Heartbeat*>(context);
    self.reporter_.alive();
    self.arm();
  }
  Reporter& reporter_;
  Host& host_;
  milliseconds interval_;
  uint64_t timer_ = 0;
};

/// Names each call before it is made, so that a crash or hang in it is attributed.
class ReportingTarget : public ContractTarget {
 public:
  ReportingTarget(Reporter& reporter, FakeNodeTarget& node, uint32_t index, const InterfaceInfo& info)
      : reporter_(reporter), node_(node), index_(index), info_(info) {}

  CallOutcome call(uint32_t, uint32_t method, std::string_view header, const RawCall& options) override {
    const auto found =
        std::find_if(info_.methods.begin(), info_.methods.end(), [&](const auto& one) { return one.number == method; });
    const std::string name =
        found == info_.methods.end() ? "method " + std::to_string(method) : std::string(found->name);
    // The suites call some methods a thousand times.
    if (name != last_) reporter_.begin("contract of " + std::string(info_.name) + ": " + name);
    last_ = name;
    return node_.call(index_, method, header, options);
  }

 private:
  Reporter& reporter_;
  FakeNodeTarget& node_;
  uint32_t index_;
  const InterfaceInfo& info_;
  std::string last_;
};

CheckStep check_entry(const PluginRun& run) {
  CheckStep step{"entry", Outcome::failed, "", {}};
  // As the host does it: our own libraries come from beside its own, before the plugin, and are found by their names then.
  for (const std::string& library : run.image.libraries) {
    for (const std::string& folder : own_library_folders()) {
      if (dlopen((folder + "/" + library).c_str(), RTLD_NOW | RTLD_LOCAL)) break;
    }
  }
  void* library = dlopen(run.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    step.summary = std::string("it does not load: ") + dlerror();
    return step;
  }
  const auto* entry = static_cast<const pintle_plugin*>(dlsym(library, "pintle_plugin_entry"));
  if (!entry) {
    step.summary = "it has no symbol pintle_plugin_entry";
    return step;
  }
  step.summary = std::to_string(entry->size) + " bytes, ABI " + std::to_string(entry->abi_major) + "." +
                 std::to_string(entry->abi_minor);
  if (entry->size < sizeof(pintle_plugin)) {
    step.findings.push_back("its size is " + std::to_string(entry->size) + ", but a plugin of this ABI has " +
                            std::to_string(sizeof(pintle_plugin)) + " bytes");
    return step;
  }
  const auto same = [&](const char* what, pintle_text found, const std::string& expected, const char* where) {
    if (view(found) != expected) step.findings.push_back(std::string(what) + " is not that of the " + where);
  };
  if (entry->abi_major != run.image.abi_major || entry->abi_minor != run.image.abi_minor) {
    step.findings.emplace_back("its ABI is not that of the note");
  }
  same("its id", entry->id, run.image.id, "note");
  same("its version", entry->version, run.version, "manifest");
  same("its manifest", entry->manifest, run.image.manifest, "section .pintle.manifest");
  same("its config schema", entry->config_schema, run.image.config_schema, "section .pintle.schema");
  const auto there = [&](const char* name, bool is_there) {
    if (!is_there) step.findings.push_back(std::string("its function `") + name + "` is missing");
  };
  there("create", entry->create), there("start", entry->start), there("drain", entry->drain),
      there("retire", entry->retire);
  there("stop", entry->stop), there("destroy", entry->destroy), there("handle", entry->handle);
  there("cancelled", entry->cancelled), there("stream_message", entry->stream_message);
  there("stream_credit", entry->stream_credit), there("bindings", entry->bindings);
  if (step.findings.empty()) step.outcome = Outcome::passed;
  return step;
}

/// Whether the method is a feature of its interface (the one of its name) that the plugin says it does not have.
bool is_left_out(const std::string& method, const InterfaceInfo& info, const PluginRun::Provided& provided) {
  std::string feature = method;
  for (char& letter : feature) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  const auto has = [&](const auto& features) {
    return std::find(features.begin(), features.end(), feature) != features.end();
  };
  return has(info.features) && !has(provided.features);
}

void check_contracts(const PluginRun& run, Reporter& reporter, FakeNode& node, FakeInstance& plugin) {
  FakeNodeTarget target(node, plugin);
  for (uint32_t index = 0; index < run.provides.size(); ++index) {
    const PluginRun::Provided& provided = run.provides[index];
    const std::string& name = provided.interface_name;
    const InterfaceInfo* info = find_interface(name);
    if (!info) {
      reporter.skip("contract of " + name, "this SDK has no schema of it");
      continue;
    }
    ReportingTarget reporting(reporter, target, index, *info);
    const ContractReport report = check_contract(reporting, std::span(&name, 1));
    CheckStep step{"contract of " + name, Outcome::passed, std::to_string(report.passed) + " promises kept", {}};
    for (const ContractFinding& finding : report.broken) step.findings.push_back(finding.method + ": " + finding.what);
    size_t unimplemented = 0;
    std::string left_out;
    for (const ContractFinding& finding : report.unimplemented) {
      if (is_left_out(finding.method, *info, provided)) {
        left_out += (left_out.empty() ? "" : ", ") + finding.method;
      } else {
        step.findings.push_back(finding.method + " is unimplemented");
        ++unimplemented;
      }
    }
    if (!left_out.empty()) step.summary += ", left out by its features: " + left_out;
    if (unimplemented > 0) {
      step.outcome = Outcome::unfinished;
      step.summary += ", " + std::to_string(unimplemented) + " of " + std::to_string(info->methods.size()) +
                      " methods unimplemented";
    }
    if (!report.broken.empty()) step.outcome = Outcome::failed;
    reporter.step(step);
  }
}

/// One step of an instance's life; whether it went well.
bool check_life(Reporter& reporter, const std::string& name, const std::function<Status()>& function) {
  reporter.begin(name);
  const auto began = Clock::now();
  const Status status = function();
  const auto took = std::chrono::duration_cast<milliseconds>(Clock::now() - began);
  reporter.step({name,
                 status ? Outcome::passed : Outcome::failed,
                 status ? "in " + std::to_string(took.count()) + " ms" : status.to_string(),
                 {}});
  return status.is_ok();
}

/// The life of one instance; false if its contracts could not be asked for.
bool live(const PluginRun& run, Reporter& reporter, FakeNode& node) {
  FakeInstance* plugin = nullptr;
  if (run.config.empty()) return reporter.skip("create", "it needs a config: give one");
  const bool created = check_life(reporter, "create", [&] {
    InstanceOptions options;
    options.config = run.config;
    Result<FakeInstance*> loaded = node.try_load(run.path, options);
    if (loaded) plugin = *loaded;
    return loaded.status();
  });
  if (!created) return false;
  bool started = false;
  if (!run.start_needs.empty()) {
    std::string needs;
    for (const std::string& need : run.start_needs) needs += (needs.empty() ? "" : ", ") + need;
    reporter.skip("start", "it starts after what it needs, and nobody provides that here: " + needs);
  } else {
    started = check_life(reporter, "start", [&] { return node.start(*plugin); });
  }
  if (started) check_contracts(run, reporter, node, *plugin);
  check_life(reporter, "stop", [&] {
    Status status;
    if (started) status = node.drain(*plugin);
    if (Status stopped = node.stop(*plugin); status.is_ok()) status = stopped;
    node.destroy(*plugin);
    return status;
  });
  return started;
}

void child_main(const PluginRun& run, Reporter& reporter) {
  reporter.begin("entry");
  const CheckStep entry = check_entry(run);
  reporter.step(entry);
  if (entry.outcome != Outcome::passed) return;
  const ProcessState before = ProcessState::now();
  std::vector<std::string> violations;
  bool lived = false;
  {
    FakeNode node;
    const Heartbeat heartbeat(reporter, node, run.patience);
    lived = live(run, reporter, node);
    violations = node.violations();
    reporter.begin("stop");
  }
  if (!lived) {
    for (const PluginRun::Provided& provided : run.provides) {
      reporter.skip("contract of " + provided.interface_name, "it was not started");
    }
  }
  for (std::string& change : before.changes_to(ProcessState::now())) violations.push_back(std::move(change));
  reporter.step({"conduct", violations.empty() ? Outcome::passed : Outcome::failed,
                 "promises of the ABI, state of the process", violations});
}

// ---- The parent's side -----------------------------------------------------------------------------------------------------

void bring_loopback_up() {
  const files::Descriptor socket_of(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  ioctl(socket_of.get(), SIOCSIFFLAGS, &request);
}

/// The first process of the child's namespaces: starts the one that does the work, waits for it, and takes all others with it when
/// it ends. Ends as the worker did.
[[noreturn]] void be_init(const PluginRun& run, const std::string& folder, int report, int output, bool alone) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setsid();
  if (alone) {
    mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
    bring_loopback_up();
  }
  const pid_t worker = fork();
  if (worker == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);  // a sanitizer's would hide what ended it
    signal(SIGPIPE, SIG_IGN);                                               // as in pintled
    const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(nothing, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    setenv("TMPDIR", folder.c_str(), 1);
    Reporter reporter(report);
    try {
      child_main(run, reporter);
    } catch (const std::exception& error) {
      reporter.step({"conduct", Outcome::failed, std::string("the check itself failed: ") + error.what(), {}});
    }
    fflush(nullptr);
    reporter.end();
    _exit(0);
  }
  close(report);
  int status = 0;
  for (pid_t ended = 0; ended != worker;) {
    ended = waitpid(-1, &status, 0);
    if (ended < 0 && errno != EINTR) _exit(126);
  }
  // The first process of a namespace cannot end itself by a signal, so the number goes as shells write it.
  _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

/// The last lines that the child wrote, for a finding.
std::vector<std::string> last_lines(int output) {
  std::vector<std::string> lines;
  lseek(output, 0, SEEK_SET);
  Result<std::string> text = files::read_all(output, 64u << 20);
  if (!text) return lines;
  std::istringstream stream(*text);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(line);
    if (lines.size() > 5) lines.erase(lines.begin());
  }
  return lines;
}

/// Reads the child's report until it ends or takes too long over one thing.
class Watcher {
 public:
  Watcher(int report, std::vector<CheckStep>& steps) : report_(report), steps_(steps) {}

  /// False: nothing was said for so long; it is stuck in `under_way()`.
  bool watch(milliseconds patience) {
    for (;;) {
      pollfd polled{report_, POLLIN, 0};
      const int ready = poll(&polled, 1, static_cast<int>(patience.count()));
      if (ready < 0 && errno == EINTR) continue;
      if (ready == 0) return false;
      char bytes[4096];
      const ssize_t got = read(report_, bytes, sizeof bytes);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return true;
      pending_.append(bytes, static_cast<size_t>(got));
      for (size_t end = pending_.find('\n'); end != std::string::npos; end = pending_.find('\n')) {
        take(pending_.substr(0, end));
        pending_.erase(0, end + 1);
      }
    }
  }
  const std::string& under_way() const { return under_way_; }
  /// The child has done all that there was to do.
  bool complete() const { return complete_; }

 private:
  void take(const std::string& text) {
    boost::system::error_code error;
    const json::value line = json::parse(text, error);
    if (error || !line.is_object()) return;
    const auto number = [&](std::string_view key) {
      const json::value* value = line.get_object().if_contains(key);
      return value && value->is_int64() ? value->get_int64() : 0;
    };
    if (const std::string begun = text_of_json(line, "begin"); !begun.empty()) {
      under_way_ = begun;
      return;
    }
    complete_ |= line.get_object().contains("end");
    if (!line.get_object().contains("step")) return;
    CheckStep step{text_of_json(line, "step"),
                   static_cast<Outcome>(std::clamp<int64_t>(number("outcome"), 0, 3)),
                   text_of_json(line, "summary"),
                   {}};
    const json::value* findings = line.get_object().if_contains("findings");
    if (findings && findings->is_array()) {
      for (const json::value& finding : findings->get_array()) {
        if (finding.is_string()) step.findings.emplace_back(finding.get_string());
      }
    }
    steps_.push_back(std::move(step));
  }

  int report_;
  std::vector<CheckStep>& steps_;
  std::string pending_, under_way_;
  bool complete_ = false;
};

}  // namespace

void run_plugin(const PluginRun& run, std::vector<CheckStep>& steps) {
  int ends[2];
  std::string folder = (std::filesystem::temp_directory_path() / "pintle-check-XXXXXX").string();
  files::Descriptor output(memfd_create("plugin-check-output", MFD_CLOEXEC));
  if (!output.valid() || !mkdtemp(folder.data()) || pipe2(ends, O_CLOEXEC) != 0) {
    steps.push_back({"entry", Outcome::failed, status_from_errno(errno, "cannot start a child").message(), {}});
    return;
  }
  const files::Descriptor reading(ends[0]);
  files::Descriptor writing(ends[1]);
  fflush(nullptr);
  // Straight into the new namespaces: after unshare(2) only a grandchild would be in the process namespace. As root only; otherwise
  // the child shares the namespaces and its process group is what ends with it.
  constexpr unsigned long spaces = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
  bool alone = true;
  auto child = static_cast<pid_t>(syscall(SYS_clone, spaces | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (child < 0) {
    alone = false;
    child = fork();
  }
  if (child == 0) be_init(run, folder, writing.get(), output.get(), alone);
  if (child < 0) {
    steps.push_back({"entry", Outcome::failed, status_from_errno(errno, "cannot start a child").message(), {}});
    return;
  }
  writing.reset();
  Watcher watcher(reading.get(), steps);
  const bool in_time = watcher.watch(run.patience);
  if (!in_time) kill(alone ? child : -child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!alone) kill(-child, SIGKILL);  // what it started and left behind
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  if (watcher.complete()) return;

  const std::string& under_way = watcher.under_way();
  const std::string name = under_way.substr(0, under_way.find(": "));
  const std::string in = under_way.size() > name.size() ? " in " + under_way.substr(name.size() + 2) : "";
  CheckStep step{name.empty() ? "entry" : name, Outcome::failed, "", {}};
  if (!in_time) {
    step.summary =
        "it hangs" + in + ": no function of a plugin may block its lane, and every call must end by its deadline";
  } else if (code > 128) {
    step.summary = "it was ended" + in + " by the signal " + signal_name(code - 128);
  } else {
    step.summary =
        "it ended its process" + in + " with exit code " + std::to_string(code) + "; a plugin never calls exit";
  }
  for (const std::string& line : last_lines(output.get())) step.findings.push_back("it wrote: " + line);
  steps.push_back(std::move(step));
}

}  // namespace pintle::testkit
