#include "kernel/node/crash.hpp"

#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cstring>
#include <map>

#include "sdk/support/engine/lane.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::kernel {
namespace {

constexpr int64_t window_ms = 10 * 60 * 1000;
constexpr int too_often = 3;
constexpr size_t kept_records = 100;

int crash_folder = -1;

/// A line made without allocation or locale: all that a signal handler may do.
class Line {
 public:
  Line& add(const char* text) {
    while (*text != 0 && size_ < sizeof bytes_) bytes_[size_++] = *text++;
    return *this;
  }
  Line& add(uint64_t number, unsigned base = 10) {
    char digits[32];
    const auto end = std::to_chars(digits, digits + sizeof digits - 1, number, static_cast<int>(base)).ptr;
    *end = 0;
    return add(digits);
  }
  void end() { bytes_[std::min(size_, sizeof bytes_ - 1)] = 0; }
  const char* bytes() const { return bytes_; }
  size_t size() const { return size_; }

 private:
  char bytes_[4096];
  size_t size_ = 0;
};

void write_record(int signal, siginfo_t* info, void*) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const uint64_t milliseconds =
      static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
  Line name, text;
  name.add(milliseconds).add("-").add(static_cast<uint64_t>(getpid())).add(".json").end();
  const char* owner = engine::running_owner();
  text.add("{\"time\":")
      .add(milliseconds)
      .add(",\"signal\":")
      .add(static_cast<uint64_t>(signal))
      .add(",\"address\":\"0x");
  text.add(reinterpret_cast<uint64_t>(info->si_addr), 16)
      .add("\",\"instance\":\"")
      .add(owner != nullptr ? owner : "")
      .add("\",\"frames\":[");
  void* frames[48];
  const int count = backtrace(frames, 48);
  for (int i = 0; i < count; ++i)
    text.add(i == 0 ? "\"0x" : ",\"0x").add(reinterpret_cast<uint64_t>(frames[i]), 16).add("\"");
  text.add("]}\n");
  const int file = openat(crash_folder, name.bytes(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (file >= 0 && write(file, text.bytes(), text.size()) >= 0) fsync(file);
  Line said;
  said.add("pintled: signal ")
      .add(static_cast<uint64_t>(signal))
      .add(" in ")
      .add(owner != nullptr ? owner : "its own code")
      .add("\n");
  static_cast<void>(write(STDERR_FILENO, said.bytes(), said.size()) > 0);
  raise(signal);  // SA_RESETHAND: this time it ends the process
}

}  // namespace

Status record_crashes(const std::string& folder) {
  if (Status made = files::make_folders(folder, 0700); !made) return made;
  Result<files::Descriptor> opened = files::open_folder(folder);
  if (!opened) return opened.status();
  crash_folder = opened->release();
  struct sigaction action {};
  action.sa_sigaction = write_record;
  action.sa_flags = static_cast<int>(SA_SIGINFO | SA_ONSTACK | SA_RESETHAND);
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigaction(number, &action, nullptr);
  return {};
}

std::set<std::string> crashed_too_often(const std::string& folder, int64_t now_ms) {
  std::set<std::string> out;
  Result<files::Descriptor> opened = files::open_folder(folder);
  if (!opened) return out;
  Result<std::vector<std::string>> names = files::list_folder(opened->get());
  if (!names) return out;
  std::sort(names->begin(), names->end());
  for (size_t i = 0; i + kept_records < names->size(); ++i) unlinkat(opened->get(), (*names)[i].c_str(), 0);
  std::map<std::string, int> counts;
  for (const std::string& name : *names) {
    int64_t time = 0;
    std::from_chars(name.data(), name.data() + name.size(), time);
    if (now_ms - time > window_ms) continue;
    Result<std::string> text = files::read_file(opened->get(), name, 1u << 16);
    boost::json::error_code error;
    const boost::json::value value = text ? boost::json::parse(*text, error) : boost::json::value();
    const boost::json::value* key = !error && value.is_object() ? value.get_object().if_contains("instance") : nullptr;
    if (key == nullptr || !key->is_string()) continue;
    const std::string instance(key->get_string());
    const std::string plain = instance.substr(0, instance.find('@'));
    if (!plain.empty() && plain != "pintled" && ++counts[plain] >= too_often) out.insert(plain);
  }
  return out;
}

}  // namespace pintle::kernel
