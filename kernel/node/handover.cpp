#include "kernel/node/handover.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/mman.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "sdk/support/process/own_program.hpp"

namespace pintle::kernel {
namespace {

constexpr const char* variable = "PINTLE_HANDOVER";

}  // namespace

Status hand_over(Listeners& listeners, Processes& processes, char** arguments) {
  // A connection that some library accepted without close-on-exec would stay open with nobody behind it: its client would wait
  // for ever instead of connecting again.
  if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) != 0) return status_from_errno(errno, "close_range");
  std::string text;
  for (const Listeners::Socket& socket : listeners.list()) {
    fcntl(socket.descriptor, F_SETFD, 0);
    text += "socket " + std::to_string(socket.descriptor) + " " + socket.owner + " " + socket.name + " " +
            socket.address + "\n";
  }
  for (int32_t pid : processes.children()) text += "child " + std::to_string(pid) + "\n";
  const int memory = memfd_create("pintle-handover", 0);
  if (memory < 0) return status_from_errno(errno, "memfd_create");
  if (Status written = files::write_all(memory, text); !written) return written;
  lseek(memory, 0, SEEK_SET);
  setenv(variable, std::to_string(memory).c_str(), 1);
  const std::string path = process::own_program();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(path.c_str(), arguments);
  return status_from_errno(errno, "execute " + path);
}

void take_over(Listeners& listeners, Processes& processes) {
  if (const char* number = std::getenv(variable); number != nullptr) {
    files::Descriptor memory(std::atoi(number));
    unsetenv(variable);
    Result<std::string> text = files::read_all(memory.get(), 1u << 20);
    std::istringstream lines(text ? *text : std::string());
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string kind;
      words >> kind;
      if (kind == "socket") {
        Listeners::Socket socket;
        if (words >> socket.descriptor >> socket.owner >> socket.name >> socket.address)
          listeners.adopt(std::move(socket));
      } else if (kind == "child") {
        int32_t pid = 0;
        if (words >> pid) processes.adopt(pid);
      }
    }
  }
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(1, &names);
  for (int i = 0; i < count; ++i) {
    const std::string name = names[i];
    const size_t slash = name.find('/');
    if (slash != std::string::npos)
      listeners.adopt({name.substr(0, slash), name.substr(slash + 1), "", SD_LISTEN_FDS_START + i});
    std::free(names[i]);
  }
  std::free(names);
}

}  // namespace pintle::kernel
