#include "plugins/runtime-oci/record.hpp"

#include <signal.h>
#include <string.h>

#include <boost/json.hpp>
#include <charconv>
#include <chrono>

#include "sdk/support/files/files.hpp"

namespace pintle::runtime_oci {
namespace {

namespace json = boost::json;
constexpr std::string_view kPhases[] = {"creating", "created", "started", "exited", "removing"};
constexpr int kVersion = 1;

json::object to_object(const std::map<std::string, std::string>& map) {
  json::object object;
  for (const auto& [key, value] : map) object[key] = value;
  return object;
}

json::object to_object(const ProcessIdentity& process) {
  return {{"pid", process.pid}, {"startTime", process.start_time}};
}

/// Reads with defaults, and remembers whether what is there has the right type.
class Reader {
 public:
  explicit Reader(const json::object& object) : object_(object) {}
  std::string text(std::string_view key) {
    const json::value* value = object_.if_contains(key);
    if (!value) return {};
    if (!value->is_string()) return good_ = false, std::string();
    return std::string(value->get_string());
  }
  int64_t number(std::string_view key) {
    const json::value* value = object_.if_contains(key);
    if (!value) return 0;
    json::error_code error;
    const int64_t result = value->to_number<int64_t>(error);
    if (error) good_ = false;
    return result;
  }
  bool flag(std::string_view key) {
    const json::value* value = object_.if_contains(key);
    if (value && !value->is_bool()) good_ = false;
    return value && value->is_bool() && value->get_bool();
  }
  std::map<std::string, std::string> map(std::string_view key) {
    std::map<std::string, std::string> result;
    const json::value* value = object_.if_contains(key);
    if (!value) return result;
    if (!value->is_object()) return good_ = false, result;
    for (const auto& item : value->get_object()) {
      if (item.value().is_string()) result.emplace(item.key(), item.value().get_string());
    }
    return result;
  }
  ProcessIdentity process(std::string_view key) {
    const json::value* value = object_.if_contains(key);
    if (!value || !value->is_object()) return good_ = false, ProcessIdentity{};
    Reader inner(value->get_object());
    ProcessIdentity result{static_cast<int>(inner.number("pid")), static_cast<uint64_t>(inner.number("startTime"))};
    good_ = good_ && inner.good_;
    return result;
  }
  bool good() const { return good_; }

 private:
  const json::object& object_;
  bool good_ = true;
};

}  // namespace

std::string ContainerRecord::to_json() const {
  json::object object{{"version", kVersion},
                      {"id", id},
                      {"sandbox", sandbox_id},
                      {"image", image_id},
                      {"logPath", log_path},
                      {"cgroup", cgroup},
                      {"name", name},
                      {"attempt", attempt},
                      {"labels", to_object(labels)},
                      {"annotations", to_object(annotations)},
                      {"stopSignal", stop_signal},
                      {"sharesProcesses", shares_processes},
                      {"phase", kPhases[static_cast<size_t>(phase)]},
                      {"bootId", boot_id},
                      {"process", to_object(process)},
                      {"monitor", to_object(monitor)},
                      {"createdAt", created_at},
                      {"startedAt", started_at},
                      {"finishedAt", finished_at},
                      {"exitCode", exit_code},
                      {"outOfMemory", out_of_memory},
                      {"message", message}};
  if (!scope.empty()) object["scope"] = json::object{{"unit", scope}, {"killsBesideBefore", kills_beside_before}};
  return json::serialize(object) + "\n";
}

Result<ContainerRecord> ContainerRecord::parse(std::string_view text) {
  json::error_code error;
  const json::value value = json::parse(text, error);
  if (error || !value.is_object()) return data_loss("it is no JSON object");
  Reader reader(value.get_object());
  if (reader.number("version") != kVersion) return data_loss("its version is unknown");
  ContainerRecord record;
  record.id = reader.text("id");
  record.sandbox_id = reader.text("sandbox");
  record.image_id = reader.text("image");
  record.log_path = reader.text("logPath");
  record.cgroup = reader.text("cgroup");
  if (const json::value* scope = value.get_object().if_contains("scope"); scope && scope->is_object()) {
    Reader inner(scope->get_object());
    record.scope = inner.text("unit");
    record.kills_beside_before = static_cast<uint64_t>(inner.number("killsBesideBefore"));
    if (!inner.good()) return data_loss("its scope is damaged");
  }
  record.name = reader.text("name");
  record.attempt = static_cast<uint32_t>(reader.number("attempt"));
  record.labels = reader.map("labels");
  record.annotations = reader.map("annotations");
  record.stop_signal = static_cast<int>(reader.number("stopSignal"));
  record.shares_processes = reader.flag("sharesProcesses");
  record.boot_id = reader.text("bootId");
  record.process = reader.process("process");
  record.monitor = reader.process("monitor");
  record.created_at = reader.number("createdAt");
  record.started_at = reader.number("startedAt");
  record.finished_at = reader.number("finishedAt");
  record.exit_code = static_cast<int>(reader.number("exitCode"));
  record.out_of_memory = reader.flag("outOfMemory");
  record.message = reader.text("message");
  const std::string phase = reader.text("phase");
  bool known = false;
  for (size_t i = 0; i < std::size(kPhases); ++i) {
    if (phase != kPhases[i]) continue;
    record.phase = static_cast<Phase>(i);
    known = true;
  }
  if (!reader.good() || !known || !is_container_id(record.id))
    return data_loss("a value in it is missing or of the wrong type");
  return record;
}

bool is_container_id(std::string_view id) {
  return id.size() == 64 && id.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

Result<uint64_t> start_time_of(int pid) {
  auto text = files::read_file("/proc/" + std::to_string(pid) + "/stat", 4096);
  const auto gone = [&] { return not_found("process " + std::to_string(pid) + " is gone"); };
  if (!text) return gone();
  // The name in parentheses may hold anything; what follows the last ')' are fields 3 and on (proc(5)).
  const size_t end = text->rfind(')');
  if (end == std::string::npos || end + 2 >= text->size()) return gone();
  if ((*text)[end + 2] == 'Z' || (*text)[end + 2] == 'X') return gone();
  std::string_view rest = std::string_view(*text).substr(end + 2);
  for (int field = 3; field < 22; ++field) {
    const size_t blank = rest.find(' ');
    if (blank == std::string_view::npos) return gone();
    rest.remove_prefix(blank + 1);
  }
  uint64_t ticks = 0;
  std::from_chars(rest.data(), rest.data() + rest.size(), ticks);
  return ticks;
}

bool is_alive(const ProcessIdentity& process) {
  if (process.pid <= 0) return false;
  auto start = start_time_of(process.pid);
  return start && *start == process.start_time;
}

std::string boot_id() {
  static const std::string id = [] {
    auto text = files::read_file("/proc/sys/kernel/random/boot_id", 100);
    if (!text) return std::string();
    while (!text->empty() && text->back() == '\n') text->pop_back();
    return *text;
  }();
  return id;
}

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int signal_number(std::string_view text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (!text.empty() && error == std::errc() && end == text.data() + text.size())
    return number > 0 && number <= 64 ? number : 0;
  std::string name;
  for (const char c : text.substr(0, 20)) name += static_cast<char>(toupper(static_cast<unsigned char>(c)));
  if (name.starts_with("SIG")) name.erase(0, 3);
  const auto realtime = [&](std::string_view prefix, int base, char sign) {
    if (!name.starts_with(prefix)) return 0;
    const std::string_view rest = std::string_view(name).substr(prefix.size());
    if (rest.empty()) return base;
    int offset = 0;
    if (rest[0] != sign) return 0;
    const auto [stop, bad] = std::from_chars(rest.data() + 1, rest.data() + rest.size(), offset);
    if (bad != std::errc() || stop != rest.data() + rest.size() || offset > 30) return 0;
    return sign == '+' ? base + offset : base - offset;
  };
  // The kernel's numbers, not those that the C library leaves over: images mean the kernel's.
  if (const int found = realtime("RTMIN", 34, '+')) return found;
  if (const int found = realtime("RTMAX", 64, '-')) return found;
  for (int candidate = 1; candidate < 32; ++candidate) {
    const char* known = sigabbrev_np(candidate);
    if (known && name == known) return candidate;
  }
  if (name == "IOT") return SIGABRT;
  if (name == "CLD") return SIGCHLD;
  return 0;
}

}  // namespace pintle::runtime_oci
