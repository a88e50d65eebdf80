// ExecSync: a command in a running container, with its output collected on the lane.

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "cri/containers.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::nanoseconds kForever = 24h * 365;
constexpr std::chrono::nanoseconds kLongestEnd = 3s;  // of a command that its runtime has to kill

/// Reads a pipe as it fills, keeps the first `limit` bytes and drops the rest, so that the writer never blocks.
class Collector {
 public:
  Collector(UniqueFd pipe, size_t limit) : pipe_(std::move(pipe)), limit_(limit) {}

  Status follow(Host& host) {
    Result<Watch> watch = host.watch(pipe_.get(), POLLIN, [this](uint32_t) { drain(); });
    if (!watch) return watch.status();
    watch_ = std::move(*watch);
    return Status::ok();
  }
  /// Reads what is there at the moment.
  void drain() {
    char block[64 << 10];
    while (pipe_) {
      const ssize_t got = ::read(pipe_.get(), block, sizeof block);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) return;
      if (got <= 0) {
        watch_ = Watch();
        pipe_.reset();
        return;
      }
      const size_t room = limit_ - bytes_.size();
      bytes_.append(block, std::min(room, static_cast<size_t>(got)));
    }
  }
  std::string take() {
    watch_ = Watch();
    return std::move(bytes_);
  }

 private:
  UniqueFd pipe_;
  size_t limit_;
  std::string bytes_;
  Watch watch_;
};

struct Pipe {
  UniqueFd read, write;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return status_from_errno(errno, "make a pipe for a command's output");
  Pipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  // Only our end: the command shall see an ordinary, blocking pipe.
  if (::fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0)
    return status_from_errno(errno, "set up a pipe for a command's output");
  return pipe;
}

}  // namespace

Task<Result<api::ExecSyncResponse>> Containers::exec_sync(CallContext context, std::shared_ptr<Container> container,
                                                          const api::ExecSyncRequest& request, size_t limit) {
  if (request.cmd().empty()) co_return invalid_argument("cmd is empty: name the command to run");
  if (request.timeout() < 0) co_return invalid_argument("timeout is negative: give seconds, or 0 for none");
  if (container->gone || container->state() != api::CONTAINER_RUNNING) {
    co_return failed_precondition("container " + container->record.id() + " does not run");
  }
  Result<RuntimeStub> runtime = engine_.providers().runtime(container->record.runtime());
  if (!runtime) co_return runtime.status();
  Result<Pipe> output = make_pipe();
  if (!output) co_return output.status();
  Result<Pipe> errors = make_pipe();
  if (!errors) co_return errors.status();
  Attachments descriptors;
  descriptors.descriptors.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  descriptors.descriptors.push_back(std::move(output->write));
  descriptors.descriptors.push_back(std::move(errors->write));
  Collector out(std::move(output->read), limit), err(std::move(errors->read), limit);
  if (Status following = out.follow(engine_.host()); !following) co_return following;
  if (Status following = err.follow(engine_.host()); !following) co_return following;

  runtime_api::ExecRequest asking;
  asking.set_container_id(container->record.id());
  *asking.mutable_command() = request.cmd();
  const std::chrono::nanoseconds wanted = request.timeout() > 0 ? std::chrono::seconds(request.timeout()) : kForever;
  uint64_t call_id = 0;
  bool is_late = false;
  CallOptions options;
  options.timeout = context.at_most(wanted + kLongestEnd);
  options.attach = &descriptors;
  options.call_id = &call_id;
  // The command has gone when the client hears that it took too long.
  const Timer patience = engine_.host().timer(wanted, [&] {
    is_late = true;
    engine_.host().cancel(call_id);
  });
  auto executing = runtime->Exec(asking, std::move(options));
  Result<runtime_api::ExecResponse> executed = co_await executing;
  if (is_late || executed.status().code() == Code::deadline_exceeded) {
    co_return deadline_exceeded("command in container " + container->record.id() + " timed out after " +
                                std::to_string(request.timeout()) + " s");
  }
  if (!executed) co_return executed.status();
  // All that the command itself has written is in the pipes by now; what a child of it keeps open is not waited for.
  out.drain();
  err.drain();
  api::ExecSyncResponse response;
  response.set_stdout(out.take());
  response.set_stderr(err.take());
  response.set_exit_code(executed->exit_code());
  co_return response;
}

}  // namespace pintle::cri
