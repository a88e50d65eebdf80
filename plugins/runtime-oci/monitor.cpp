#include "plugins/runtime-oci/monitor.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <charconv>
#include <chrono>

#include "plugins/runtime-oci/mapped_users.hpp"
#include "plugins/runtime-oci/placement.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::runtime_oci {
namespace {

constexpr char kSearchPath[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr char kReopenLog[] = "2 0 0\n";
constexpr int kReopenPatience = 2000;  // milliseconds
// Milliseconds; long, because a container that finds its reader gone again dies of it. One that is dead is noticed at once.
constexpr int kStartPatience = 30'000;

/// Whether the launcher takes the container's processes into the cgroup, which was made here.
bool is_joined_by_launcher(const Node& node, const ContainerRecord& record) {
  return node.programs.kind == RuntimeKind::crun && record.scope.empty();
}

/// The launcher's arguments up to and with the runtime's path. Where it does not join the cgroup, the runtime does.
std::vector<std::string> launch_arguments(const Node& node, const ContainerRecord& record, bool terminal,
                                          const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = more;
  if (is_joined_by_launcher(node, record)) {
    for (std::string& file : node.cgroups.tasks_files(record.cgroup)) {
      arguments.push_back("--tasks");
      arguments.push_back(std::move(file));
    }
    if (std::string folder = node.cgroups.unified_folder(record.cgroup); !folder.empty()) {
      arguments.push_back("--cgroup2");
      arguments.push_back(std::move(folder));
    }
  }
  if (terminal) arguments.push_back("--terminal");
  arguments.push_back("--");
  arguments.push_back(node.programs.runtime);
  return arguments;
}

std::vector<std::string> global_options(const Node& node, const ContainerRecord& record) {
  std::vector<std::string> options = {"--root", node.folders.oci};
  if (!record.scope.empty()) {
    options.push_back("--systemd-cgroup");
  } else if (node.programs.kind == RuntimeKind::crun) {
    options.push_back("--cgroup-manager=disabled");
  }
  return options;
}

}  // namespace

std::vector<std::string> runtime_arguments(const Node& node, const ContainerRecord& record,
                                           std::vector<std::string> arguments) {
  std::vector<std::string> all = {node.programs.runtime};
  for (std::string& option : global_options(node, record)) all.push_back(std::move(option));
  for (std::string& argument : arguments) all.push_back(std::move(argument));
  return all;
}

Command monitor_command(const Node& node, const Prepared& prepared) {
  const ContainerRecord& record = prepared.record;
  const std::string folder = node.folders.container(record.id);
  const bool launches = is_joined_by_launcher(node, record) || !prepared.shown_at.empty();
  Command command;
  command.program = node.programs.monitor;
  command.arguments = {"conmon",
                       "--sync",  // no second fork: the process that the host starts is the monitor itself
                       "-b",
                       folder,
                       "-c",
                       record.id,
                       "-u",
                       record.id,
                       "-n",
                       record.name.empty() ? record.id : record.name,
                       "-r",
                       launches ? node.programs.launcher : node.programs.runtime,
                       "-p",
                       folder + "/pid",
                       "--exit-dir",
                       node.folders.exits,
                       "-l",
                       record.log_path.empty() ? "none" : "k8s-file:" + record.log_path,
                       "--no-sync-log",
                       "--full-attach",
                       "--log-level",
                       "error"};
  if (prepared.terminal) command.arguments.push_back("-t");
  if (prepared.standard_input) {
    command.arguments.push_back("-i");
    if (!prepared.input_once) command.arguments.push_back("--leave-stdin-open");
  }
  std::vector<std::string> runtime;
  std::vector<std::string> shows;
  if (!prepared.shown_at.empty()) shows = {"--show", folder, prepared.shown_at};
  if (launches) runtime = launch_arguments(node, record, false, shows);
  for (std::string& option : global_options(node, record)) runtime.push_back(std::move(option));
  for (const std::string& argument : runtime) command.arguments.push_back("--runtime-arg=" + argument);
  command.environment = {kSearchPath, "_OCI_SYNCPIPE=3"};
  command.directory = folder;
  command.cgroups = node.cgroups.folders(monitors_places(node).front());
  command.new_session = true;
  command.detached = true;
  return command;
}

Command exec_command(const Node& node, const ContainerRecord& record, bool terminal, const std::string& pid_file) {
  Command command;
  command.environment = {kSearchPath};
  const std::vector<std::string> exec = {"exec", "--process", "/proc/self/fd/3", "--pid-file", pid_file, record.id};
  std::vector<std::string> launch = {"pintle-oci-launch"};
  // runc works in the root, wherever it is that the container's spec says.
  std::vector<std::string> shows;
  if (const std::string folder = node.folders.container(record.id);
      node.programs.kind == RuntimeKind::runc && is_shown(folder))
    shows = {"--show", folder, shown_folder()};
  for (std::string& argument : launch_arguments(node, record, terminal, shows)) launch.push_back(std::move(argument));
  for (std::string& option : global_options(node, record)) launch.push_back(std::move(option));
  launch.insert(launch.end(), exec.begin(), exec.end());
  command.program = node.programs.launcher;
  command.arguments = std::move(launch);
  command.new_session = !terminal;  // the launcher makes the terminal's session itself
  return command;
}

Result<int> parse_sync(std::string_view line) {
  boost::json::error_code error;
  const boost::json::value value = boost::json::parse(line.substr(0, line.find('\n')), error);
  const boost::json::value* pid = !error && value.is_object() ? value.get_object().if_contains("pid") : nullptr;
  if (!pid || !pid->is_int64())
    return internal_error("the monitor ended without a word" + std::string(line.empty() ? "" : ": ") +
                          std::string(line.substr(0, 500)));
  if (pid->get_int64() > 0) return static_cast<int>(pid->get_int64());
  const boost::json::value* message = value.get_object().if_contains("message");
  std::string text =
      message && message->is_string() ? std::string(message->get_string()) : "the OCI runtime failed without a word";
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  // What the image or the request got wrong is not our failure.
  const bool callers = text.find("executable file") != std::string::npos ||
                       text.find("No such file or directory") != std::string::npos ||
                       text.find("no such file or directory") != std::string::npos ||
                       text.find("ermission denied") != std::string::npos;
  return Status(callers ? Code::invalid_argument : Code::internal, text);
}

Result<std::optional<Exit>> read_exit(const Node& node, const std::string& id) {
  const std::string path = node.folders.exits + "/" + id;
  auto file = files::open_at(AT_FDCWD, path, O_RDONLY);
  if (!file) {
    if (file.status().code() == Code::not_found) return std::optional<Exit>();
    return file.status();
  }
  struct stat about {};
  auto text = files::read_all(file->get(), 100);
  if (!text || fstat(file->get(), &about) != 0) return data_loss("read the exit file " + path);
  Exit exit;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), exit.code);
  (void)end;
  if (error != std::errc()) exit.code = 255;  // truncated by a full disk: it has ended all the same
  exit.finished_at = about.st_mtim.tv_sec * 1'000'000'000ll + about.st_mtim.tv_nsec;
  return std::optional<Exit>(exit);
}

void apply_exit(const Node& node, ContainerRecord& record, const Exit& exit) {
  const bool was_started = record.phase == Phase::started;
  record.phase = Phase::exited;
  record.exit_code = exit.code;
  // The file's time has the coarseness of the kernel's clock tick.
  record.finished_at = std::max(exit.finished_at, record.started_at);
  record.out_of_memory = access((node.folders.container(record.id) + "/oom").c_str(), F_OK) == 0;
  if (!record.out_of_memory && exit.code == 137) {
    // conmon hears of it by an event that may lose the race with the end itself.
    auto stats = node.cgroups.stats(record.cgroup);
    record.out_of_memory =
        stats ? stats->out_of_memory_kills > 0 : out_of_memory_kills_beside(node, record) > record.kills_beside_before;
  }
  if (!was_started && record.message.empty()) record.message = "it ended before it was started";
  (void)save(node, record, false);
}

Status release_start(const Node& node, const ContainerRecord& record) {
  const std::string path = node.folders.oci + "/" + record.id + "/exec.fifo";
  const bool is_crun = node.programs.kind == RuntimeKind::crun;
  // crun's container waits for a byte; runc's opens its end when somebody reads, and writes one.
  auto fifo = files::open_at(AT_FDCWD, path, (is_crun ? O_WRONLY : O_RDONLY) | O_NONBLOCK);
  if (!fifo) return failed_precondition("the start FIFO " + path + " is not open: " + fifo.status().message());
  char byte = 0;
  if (is_crun) {
    // In crun's own order: without the FIFO the container counts as running.
    unlink(path.c_str());
    if (write(fifo->get(), &byte, 1) != 1) return status_from_errno(errno, "write " + path);
    return {};
  }
  const files::Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, record.process.pid, 0)));
  pollfd waiting[] = {{fifo->get(), POLLIN, 0}, {process.get(), POLLIN, 0}};
  if (poll(waiting, 2, kStartPatience) <= 0 || (waiting[0].revents & POLLIN) == 0 || read(fifo->get(), &byte, 1) != 1)
    return failed_precondition("the container does not answer at " + path);
  unlink(path.c_str());
  return {};
}

Status reopen_log(const Node& node, const ContainerRecord& record) {
  if (record.log_path.empty()) return failed_precondition("container " + record.id + " has no log");
  const std::string folder = record.log_path.substr(0, record.log_path.rfind('/')),
                    name = record.log_path.substr(folder.size() + 1);
  files::Descriptor watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch.valid() || inotify_add_watch(watch.get(), folder.c_str(), IN_CREATE | IN_MOVED_TO) < 0) {
    return status_from_errno(errno, "watch " + folder);
  }
  const std::string control = node.folders.container(record.id) + "/ctl";
  auto fifo = files::open_at(AT_FDCWD, control, O_WRONLY | O_NONBLOCK);
  if (!fifo)
    return failed_precondition("container " + record.id + " has no monitor that could open its log again (" +
                               fifo.status().message() + ")");
  // conmon makes its next log beside the former one, and ends if it cannot. We can be told.
  const std::string aside = record.log_path + ".tmp";
  auto made = files::open_at(AT_FDCWD, aside, O_WRONLY | O_CREAT | O_NOFOLLOW, 0640);
  if (!made) return made.status();
  if (Status status = files::write_all(fifo->get(), kReopenLog); !status) {
    unlink(aside.c_str());
    return status;
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(kReopenPatience);
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now()).count();
    pollfd ready{watch.get(), POLLIN, 0};
    if (left <= 0 || poll(&ready, 1, static_cast<int>(left)) == 0) break;
    alignas(inotify_event) char buffer[4096];
    const ssize_t count = read(watch.get(), buffer, sizeof buffer);
    for (ssize_t at = 0; count > 0 && at < count;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      if (event->len && name == event->name) return {};
      at += static_cast<ssize_t>(sizeof *event + event->len);
    }
  }
  return deadline_exceeded("the monitor of container " + record.id + " did not open " + record.log_path +
                           " again within 2 s");
}

}  // namespace pintle::runtime_oci
