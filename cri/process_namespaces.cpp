#include "cri/process_namespaces.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/crc.hpp>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <set>

#include "cri/namespaces.hpp"
#include "cri/records.hpp"
#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::cri {
namespace {

constexpr unsigned kEndPatience = 2000;  // milliseconds

Result<std::vector<std::string>> make_cgroup(const std::string& path) {
  const Result<cgroup::Layout> layout = cgroup::Layout::detect();
  if (!layout) return layout.status();
  if (Status created = layout->create(path); !created) return created;
  return layout->folders(path);
}

Result<ProcessNamespace> pin(const std::string& answer, const std::string& run_folder) {
  ProcessNamespace made;
  const char* const end = answer.data() + answer.size();
  if (std::from_chars(answer.data(), end, made.first_process).ec != std::errc() || made.first_process <= 1) {
    return internal_error("the pod's first process did not tell its PID");
  }
  made.inode = namespace_of_process(made.first_process, "pid");
  made.path = run_folder + "/pid";
  if (Status pinned = repin(made.first_process, "pid", made.inode, made.path); !pinned) return pinned;
  return made;
}

}  // namespace

std::string process_cgroup(const std::string& root, const std::string& pod_cgroup, const std::string& sandbox_id) {
  return pod_cgroup.empty() ? root + "/" + sandbox_id : pod_cgroup + "/pintle-" + sandbox_id;
}

Task<Result<ProcessNamespace>> make_process_namespace(Host& host, std::string program, std::string cgroup,
                                                      std::string sandbox_id, std::string run_folder,
                                                      std::string user_namespace) {
  if (::access(program.c_str(), X_OK) != 0) {
    co_return failed_precondition(
        "the pod's containers shall share their processes, but " + program +
        " is not on this host: install Pintle's package again, or set namespace_options.pid to CONTAINER");
  }
  auto prepare = [cgroup] { return make_cgroup(cgroup); };
  Task<Result<std::vector<std::string>>> preparing = host.blocking(std::move(prepare));
  Result<std::vector<std::string>> folders = co_await std::move(preparing);
  if (!folders) co_return folders.status();
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) co_return status_from_errno(errno, "make a pipe");
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  Command command;
  command.program = program;
  command.arguments = {"pintle-pod-init", sandbox_id};
  if (!user_namespace.empty()) command.arguments.push_back(user_namespace);
  command.descriptors = {-1, writing.get(), -1};
  command.cgroups = std::move(*folders);
  command.new_session = true;
  command.detached = true;
  Result<Process> starter = host.spawn(command);
  writing.reset();
  if (!starter) co_return starter.status().with_context("start " + program);
  auto ending = starter->exited();
  const int wait_status = co_await ending;
  char answer[32] = {};
  const ssize_t got = ::read(reading.get(), answer, sizeof answer - 1);
  if (!WIFEXITED(wait_status) || WEXITSTATUS(wait_status) != 0 || got <= 0) {
    co_return internal_error(program + " could not make a process namespace: its exit status was " +
                             std::to_string(wait_status));
  }
  auto finish = [text = std::string(answer, static_cast<size_t>(got)), run_folder] { return pin(text, run_folder); };
  Task<Result<ProcessNamespace>> finishing = host.blocking(std::move(finish));
  co_return co_await std::move(finishing);
}

Status end_process_namespace(const std::string& cgroup, const std::string& root) {
  const Result<cgroup::Layout> layout = cgroup::Layout::detect();
  if (!layout) return layout.status();
  if (!layout->exists(cgroup)) return Status::ok();
  Status ended = layout->kill(cgroup);
  if (ended) ended = layout->remove(cgroup, kEndPatience);
  layout->discard(root);
  return ended;
}

bool has_process_namespace(const std::string& cgroup) {
  const Result<cgroup::Layout> layout = cgroup::Layout::detect();
  if (!layout) return false;
  const Result<std::vector<pid_t>> processes = layout->processes(cgroup);
  return processes && !processes->empty();
}

std::vector<std::string> all_process_namespaces(const std::string& root) {
  const Result<cgroup::Layout> layout = cgroup::Layout::detect();
  std::set<std::string> found;
  if (!layout) return {};
  for (const std::string& path : layout->folders(root)) {
    const Result<files::Descriptor> folder = files::open_folder(path);
    if (!folder) continue;
    const Result<std::vector<std::string>> names = files::list_folder(folder->get());
    if (!names) continue;
    std::copy_if(names->begin(), names->end(), std::inserter(found, found.end()),
                 [](const std::string& name) { return is_id(name); });
  }
  return {found.begin(), found.end()};
}

std::string process_namespaces_root(std::string_view state_folder) {
  boost::crc_32_type checksum;
  checksum.process_bytes(state_folder.data(), state_folder.size());
  char text[9];
  std::snprintf(text, sizeof text, "%08x", static_cast<unsigned>(checksum.checksum()));
  return std::string("/pintle/pods-") + text;
}

}  // namespace pintle::cri
