#include "plugins/network-cni/host_runner.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "sdk/support/files/files.hpp"

namespace pintle::network_cni {
namespace {

constexpr size_t kMostOutput = 1 << 20;
constexpr size_t kMostErrors = 64 << 10;

/// One of a child's outputs while it is read.
struct Stream {
  UniqueFd reading;
  std::string text;
  size_t limit = 0;
  bool overflowed = false;
  Watch watch;

  /// False at the end.
  bool read_what_is_there() {
    char buffer[16384];
    while (true) {
      const ssize_t count = read(reading.get(), buffer, sizeof buffer);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EAGAIN) return true;
      if (count <= 0) return false;
      const size_t room = limit - text.size();
      overflowed = overflowed || static_cast<size_t>(count) > room;
      text.append(buffer, std::min(room, static_cast<size_t>(count)));
      if (overflowed) return true;
    }
  }
};

/// The writing end.
Result<UniqueFd> open_stream(Stream& stream, size_t limit) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return status_from_errno(errno, "make a pipe");
  stream.reading = UniqueFd(ends[0]);
  stream.limit = limit;
  UniqueFd writing(ends[1]);
  if (fcntl(stream.reading.get(), F_SETFL, O_NONBLOCK) != 0)
    return status_from_errno(errno, "make a pipe non-blocking");
  return writing;
}

/// A file in memory: a child that does not read its input cannot hold us up.
Result<UniqueFd> input_of(const std::string& text) {
  UniqueFd input(memfd_create("cni-config", MFD_CLOEXEC));
  if (!input) return status_from_errno(errno, "make a file in memory");
  if (Status written = files::write_all(input.get(), text); !written) return written;
  if (lseek(input.get(), 0, SEEK_SET) < 0) return status_from_errno(errno, "rewind a file in memory");
  return input;
}

}  // namespace

Task<Result<cni::Outcome>> HostRunner::run(cni::Run request) {
  Stream output, errors;
  Result<UniqueFd> input = input_of(request.input);
  if (!input) co_return input.status();
  Result<UniqueFd> output_end = open_stream(output, kMostOutput);
  if (!output_end) co_return output_end.status();
  Result<UniqueFd> errors_end = open_stream(errors, kMostErrors);
  if (!errors_end) co_return errors_end.status();

  Command command;
  command.program = request.program;
  command.arguments = {request.program};
  command.environment = std::move(request.environment);
  command.descriptors = {input->get(), output_end->get(), errors_end->get()};
  Result<Process> process = host_.spawn(command);
  if (!process) co_return process.status();
  *output_end = UniqueFd();
  *errors_end = UniqueFd();

  bool timed_out = false;
  Timer timer = host_.timer(request.timeout, [&process, &timed_out] {
    timed_out = true;
    const Status killed = process->signal(SIGKILL);
    static_cast<void>(killed);  // it has just ended by itself
  });
  for (Stream* stream : {&output, &errors}) {
    Result<Watch> watch = host_.watch(stream->reading.get(), POLLIN, [stream, &process](uint32_t) {
      const bool goes_on = stream->read_what_is_there();
      if (stream->overflowed) {
        const Status killed = process->signal(SIGKILL);
        static_cast<void>(killed);  // it has just ended by itself
      }
      if (!goes_on || stream->overflowed) stream->watch = Watch();
    });
    if (watch) stream->watch = std::move(*watch);
  }
  cni::Outcome outcome;
  outcome.wait_status = co_await process->exited();
  timer.cancel();
  for (Stream* stream : {&output, &errors}) {
    stream->watch = Watch();
    stream->read_what_is_there();
  }
  if (output.overflowed || errors.overflowed)
    co_return Status(Code::resource_exhausted, "it printed too much, and was killed");
  if (timed_out) {
    co_return deadline_exceeded("it did not end within " + std::to_string(request.timeout.count() / 1000) +
                                " seconds, and was killed");
  }
  outcome.output = std::move(output.text);
  outcome.errors = std::move(errors.text);
  co_return outcome;
}

}  // namespace pintle::network_cni
