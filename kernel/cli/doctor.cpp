// pintle doctor: runs the checks and shows what they found.

#include "kernel/cli/doctor.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "kernel/cli/cli.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::cli {

namespace {

constexpr struct {
  const char* heading;
  Check check;
} groups[] = {{"Kernel", check_kernel},   {"Control groups", check_cgroups}, {"Programs", check_programs},
              {"Network", check_network}, {"System", check_system},          {"Pintle", check_pintle}};

constexpr int patience_ms = 10'000;

// Waits for a child until the time is over, then kills it. Its wait status, or nothing.
std::optional<int> wait_for(pid_t child) {
  const files::Descriptor handle(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  pollfd waiting{handle.get(), POLLIN, 0};
  const bool ended = handle.valid() && poll(&waiting, 1, patience_ms) == 1;
  if (!ended) kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  return ended ? std::optional(status) : std::nullopt;
}

}  // namespace

std::optional<std::string> Host::read(const std::string& path) const {
  Result<std::string> text = files::read_file(this->path(path), 1u << 20);
  if (!text) return std::nullopt;
  text->erase(text->find_last_not_of(" \n\t") + 1);
  return *text;
}

bool Host::exists(const std::string& path) const { return access(this->path(path).c_str(), F_OK) == 0; }

std::vector<std::string> Host::list(const std::string& folder) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path(folder), error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool Host::can_try() const { return is_real() && geteuid() == 0; }

std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string folders = std::string(path == nullptr ? "" : path) +
                        ":/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin:/usr/libexec/podman";
  for (size_t at = 0; at < folders.size();) {
    const size_t end = std::min(folders.find(':', at), folders.size());
    const std::string candidate = folders.substr(at, end - at) + "/" + name;
    if (end > at && access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return {};
}

ProgramResult run_program(const std::vector<std::string>& arguments) {
  ProgramResult result;
  const std::string program = find_program(arguments.at(0));
  int ends[2];
  if (program.empty() || pipe2(ends, O_CLOEXEC) != 0) return result;
  files::Descriptor reading(ends[0]), writing(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, writing.get(), 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  std::vector<char*> words;
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  pid_t child = 0;
  const int failed = posix_spawn(&child, program.c_str(), &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return result;
  writing.reset();
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
    pollfd waiting{reading.get(), POLLIN, 0};
    std::array<char, 16384> block;
    if (left <= 0 || poll(&waiting, 1, static_cast<int>(left)) != 1) break;
    const ssize_t got = ::read(reading.get(), block.data(), block.size());
    if (got <= 0 || result.output.size() > (16u << 20)) break;
    result.output.append(block.data(), static_cast<size_t>(got));
  }
  const std::optional<int> status = wait_for(child);
  if (status && WIFEXITED(*status)) result.exit = WEXITSTATUS(*status);
  return result;
}

int try_in_child(const std::function<int()>& attempt) {
  const pid_t child = fork();
  if (child < 0) return errno;
  if (child == 0) _exit(attempt() & 0xff);
  const std::optional<int> status = wait_for(child);
  if (!status) return ETIMEDOUT;
  return WIFEXITED(*status) ? WEXITSTATUS(*status) : EINTR;
}

std::vector<int> parse_version(std::string_view text) {
  std::vector<int> numbers;
  size_t at = text.find_first_of("0123456789");
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    int number = 0;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9' && number < 100'000'000)
      number = number * 10 + (text[at++] - '0');
    numbers.push_back(number);
    if (at >= text.size() || text[at] != '.') break;
    ++at;
  }
  return numbers;
}

namespace {

struct DoctorOptions {
  bool strict = false;
};

constexpr const char* health_names[] = {"ok", "warn", "fail"};
constexpr Color health_colors[] = {Color::green, Color::yellow, Color::red};

int examine(Context& context, const DoctorOptions& options) {
  const Host host("", &context);
  size_t counts[3] = {0, 0, 0};
  boost::json::array all;
  for (const auto& group : groups) {
    bool headed = false;
    for (const Finding& finding : group.check(host)) {
      const auto index = static_cast<size_t>(finding.health);
      ++counts[index];
      all.push_back({{"group", group.heading},
                     {"name", finding.name},
                     {"health", health_names[index]},
                     {"what", finding.what},
                     {"why", finding.why},
                     {"mend", finding.mend}});
      if (context.format == Format::json || context.format == Format::yaml) continue;
      if (!std::exchange(headed, true)) context.out << colored(group.heading, Color::bold, context.color) << "\n";
      std::string health = health_names[index], name = finding.name;
      health.resize(5, ' ');
      name.resize(std::max<size_t>(name.size(), 18), ' ');
      context.out << "  " << colored(health, health_colors[index], context.color) << " " << name << " "
                  << one_line(finding.what) << "\n";
      const std::string margin(8, ' ');
      if (!finding.why.empty()) context.out << margin << "why:  " << one_line(finding.why) << "\n";
      if (!finding.mend.empty()) context.out << margin << "mend: " << one_line(finding.mend) << "\n";
    }
  }
  const bool bad = counts[2] > 0 || (options.strict && counts[1] > 0);
  const int exit = bad ? exit_failure : exit_ok;
  if (context.printed({{"ok", counts[0]}, {"warn", counts[1]}, {"fail", counts[2]}, {"checks", all}})) return exit;
  context.out << "\n" << counts[0] << " ok, " << counts[1] << " warnings, " << counts[2] << " failures\n";
  if (geteuid() != 0) context.note("not root: what only root can try was skipped; sudo pintle doctor sees more");
  return exit;
}

}  // namespace

void add_doctor(CLI::App& app, Context& context) {
  command<DoctorOptions>(
      app, context, "doctor",
      "What this host lacks or has set in our way, and how to mend it; exit code 1 if something fails",
      [](CLI::App& sub, DoctorOptions& options) {
        sub.add_flag("--strict", options.strict, "Warnings give exit code 1 as well");
      },
      examine);
}

}  // namespace pintle::cli
