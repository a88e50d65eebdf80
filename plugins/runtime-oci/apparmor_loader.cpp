#include "plugins/runtime-oci/apparmor_loader.hpp"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cri/oci/apparmor.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::runtime_oci {
namespace {

constexpr size_t kMostWords = 500;

/// What a program wrote into a memory file, on one line.
std::string words_in(int file) {
  std::string text(kMostWords, '\0');
  const ssize_t count = pread(file, text.data(), text.size(), 0);
  text.resize(count > 0 ? static_cast<size_t>(count) : 0);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

}  // namespace

Task<Status> load_default_profile(Host& host, std::shared_ptr<const Node> node) {
  if (!node->host.has_apparmor) co_return Status::ok();
  const std::string program = node->programs.apparmor_parser;
  if (program.empty())
    co_return failed_precondition(
        "AppArmor is on, but apparmor_parser is not on this host: containers run without a profile unless they name "
        "one; install it (apt install apparmor)");
  const UniqueFd text(memfd_create("apparmor", MFD_CLOEXEC)), answer(memfd_create("apparmor", MFD_CLOEXEC));
  if (!text || !answer) co_return status_from_errno(errno, "make a memory file for AppArmor's profile");
  if (Status written = files::write_all(text.get(), oci::default_apparmor_profile()); !written) co_return written;
  lseek(text.get(), 0, SEEK_SET);
  Command command;
  command.program = program;
  command.arguments = {program, "--replace", "--skip-cache", "--quiet"};
  command.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  command.descriptors = {text.get(), answer.get(), answer.get()};
  Result<Process> process = host.spawn(command);
  if (!process) co_return process.status();
  const int ended = co_await process->exited();
  if (WIFEXITED(ended) && WEXITSTATUS(ended) == 0) co_return Status::ok();
  co_return internal_error("apparmor_parser did not load the profile " + std::string(oci::kDefaultApparmorProfile) +
                           ": " + words_in(answer.get()));
}

Task<void> keep_default_profile(Host& host, std::shared_ptr<const Node> node) {
  if (!node->host.has_apparmor || node->programs.apparmor_parser.empty()) co_return;
  const auto look = [node] { return oci::is_apparmor_profile_loaded(node->host, oci::kDefaultApparmorProfile); };
  Task<bool> looking = host.blocking(look);
  const bool is_loaded = co_await std::move(looking);
  if (is_loaded) co_return;
  Task<Status> loading = load_default_profile(host, node);
  const Status status = co_await std::move(loading);
  if (status)
    host.info("the AppArmor profile of containers had been removed; loaded it again");
  else
    host.warn(status.message());
}

}  // namespace pintle::runtime_oci
