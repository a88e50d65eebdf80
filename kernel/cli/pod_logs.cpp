// pintle pod logs: reads a container's log file; with -f through rotations, until the container has ended.

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/pods.hpp"
#include "pintle/node.pb.h"
#include "sdk/support/container_log/log_files.hpp"

namespace pintle::cli {

using namespace container_log;

namespace {

class LogReader {
 public:
  LogReader(Context& context, const PodLogOptions& options, ContainerInfo container)
      : context_(context), options_(options), container_(std::move(container)), log_(container_.log_path) {}

  Status run() {
    if (container_.log_path.empty()) return failed_precondition("the container " + container_.name + " keeps no log");
    // Watching begins before reading: what is written in between is told.
    if (options_.follow) {
      if (Status status = watch(); !status) return status;
    }
    LogFiles::From from;
    from.tail_lines = options_.tail;
    if (Status status = log_.open(from); !status) return status;
    if (Status status = drain(); !status || !options_.follow) return finish(status);
    return finish(follow());
  }

 private:
  Status finish(const Status& status) {
    if (const std::string rest = log_.finish(); !rest.empty()) print(rest);
    return status;
  }

  Status watch() {
    notify_.reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!notify_.valid()) return resource_exhausted(std::string("cannot watch the log: ") + std::strerror(errno));
    // The folder, because a rotated log is a new file of the same name.
    const std::string folder = container_.log_path.substr(0, container_.log_path.rfind('/'));
    if (inotify_add_watch(notify_.get(), folder.c_str(),
                          IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE) < 0) {
      return not_found(folder + ": cannot be watched: " + std::strerror(errno));
    }
    return Status::ok();
  }

  // Reads to the end of what is written.
  Status drain() {
    for (;;) {
      const Result<bool> more = log_.read([this](std::string_view line) { print(line); });
      if (!more) return more.status().with_context(container_.log_path);
      if (!*more) break;
      if (!context_.out.good()) return cancelled("nobody reads the output any more");
    }
    context_.out.flush();
    return Status::ok();
  }

  void print(std::string_view line) {
    LogRecord record;
    if (!parse_log_line(line, record)) record = {"", false, false, line};
    std::ostream& stream = record.is_error ? context_.error : context_.out;
    if (options_.timestamps && !continued_[record.is_error] && !record.time.empty()) stream << record.time << " ";
    stream << record.text;
    if (!record.is_partial) stream << "\n";
    continued_[record.is_error] = record.is_partial;
  }

  Status follow() {
    for (;;) {
      pollfd waiting{notify_.get(), POLLIN, 0};
      const int ready = poll(&waiting, 1, 1000);
      std::array<char, 4096> events;
      while (ready > 0 && read(notify_.get(), events.data(), events.size()) > 0) {
      }
      // Asked before the last reading: what the container wrote before it ended is in the file by then. pintled may be away for
      // a while; the container goes on, and so does its log.
      const bool ended = ready == 0 && has_ended();
      if (Status status = drain(); !status) return status;
      if (ended) return Status::ok();
    }
  }

  bool has_ended() {
    Result<ContainerInfo> now = container_status(context_, container_.id);
    return now ? !now->running : now.status().code() == Code::not_found;
  }

  Context& context_;
  const PodLogOptions& options_;
  ContainerInfo container_;
  LogFiles log_;
  files::Descriptor notify_;
  bool continued_[2] = {false, false};
};

}  // namespace

int show_pod_logs(Context& context, const PodLogOptions& options) {
  Result<PodName> name = parse_pod_name(options.pod, options.pod_namespace);
  if (!name) return context.fail(name.status());
  Result<ContainerInfo> container = find_container(context, *name, options.container, options.previous);
  if (!container) return context.fail(container.status());
  Result<ContainerInfo> status = container_status(context, container->id);
  if (!status) return context.fail(status.status());
  const Status done = LogReader(context, options, *status).run();
  return done || done.code() == Code::cancelled ? static_cast<int>(exit_ok) : context.fail(done);
}

}  // namespace pintle::cli
