#include "sdk/support/systemd/manager.hpp"

#include <systemd/sd-bus.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>

namespace pintle::systemd {
namespace {

constexpr char kDestination[] = "org.freedesktop.systemd1";
constexpr char kPath[] = "/org/freedesktop/systemd1";
constexpr char kInterface[] = "org.freedesktop.systemd1.Manager";
constexpr char kUnitInterface[] = "org.freedesktop.systemd1.Unit";
constexpr char kPrivateAddress[] = "unix:path=/run/systemd/private";
constexpr uint64_t kCallPatience = 25'000'000;  // microseconds
constexpr std::chrono::seconds kJobPatience{30};
constexpr size_t kMostIdle = 4;
// systemd removes the cgroup of a service that has no process, also where it counts as active.
constexpr char kSleeper[] = "/bin/sleep";

constexpr char kWayOut[] =
    "; start D-Bus (systemctl start dbus.socket; apt install dbus), or set cgroupDriver to cgroupfs";

std::string reason(int error) { return std::strerror(error < 0 ? -error : error); }

struct Error {
  sd_bus_error value = SD_BUS_ERROR_NULL;
  Error() = default;
  Error(const Error&) = delete;
  Error& operator=(const Error&) = delete;
  ~Error() { sd_bus_error_free(&value); }
  bool is(const char* name) const { return sd_bus_error_has_name(&value, name); }
};

struct Message {
  sd_bus_message* value = nullptr;
  Message() = default;
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;
  ~Message() { sd_bus_message_unref(value); }
};

Status status_of(const Error& error, int code, const std::string& what) {
  const std::string text = what + ": " + (error.value.message ? error.value.message : reason(code));
  if (error.is("org.freedesktop.systemd1.NoSuchUnit")) return not_found(text);
  if (error.is("org.freedesktop.systemd1.UnitExists")) return already_exists(text);
  if (error.is(SD_BUS_ERROR_INVALID_ARGS) || error.is(SD_BUS_ERROR_PROPERTY_READ_ONLY)) return invalid_argument(text);
  if (error.is(SD_BUS_ERROR_ACCESS_DENIED)) return permission_denied(text);
  if (code == -ETIMEDOUT) return deadline_exceeded(what + ": systemd did not answer in time");
  if (code == -ECONNRESET || code == -ENOTCONN || code == -EPIPE || code == -ECONNREFUSED || code == -ENOENT ||
      error.is(SD_BUS_ERROR_SERVICE_UNKNOWN) || error.is(SD_BUS_ERROR_DISCONNECTED) || error.is(SD_BUS_ERROR_NO_REPLY))
    return unavailable(text + kWayOut);
  return internal_error(text);
}

int append(sd_bus_message* message, const Property& property) {
  const char* name = property.name.c_str();
  if (const auto* number = std::get_if<uint64_t>(&property.value))
    return sd_bus_message_append(message, "(sv)", name, "t", *number);
  if (const auto* flag = std::get_if<bool>(&property.value))
    return sd_bus_message_append(message, "(sv)", name, "b", static_cast<int>(*flag));
  if (const auto* text = std::get_if<std::string>(&property.value))
    return sd_bus_message_append(message, "(sv)", name, "s", text->c_str());
  const auto* texts = std::get_if<std::vector<std::string>>(&property.value);
  const auto* bytes = std::get_if<std::vector<uint8_t>>(&property.value);
  int result = sd_bus_message_open_container(message, 'r', "sv");
  if (result >= 0) result = sd_bus_message_append_basic(message, 's', name);
  if (result >= 0) result = sd_bus_message_open_container(message, 'v', texts ? "as" : "ay");
  if (result >= 0 && texts) {
    result = sd_bus_message_open_container(message, 'a', "s");
    for (const std::string& text : *texts)
      if (result >= 0) result = sd_bus_message_append_basic(message, 's', text.c_str());
    if (result >= 0) result = sd_bus_message_close_container(message);
  } else if (result >= 0) {
    result = sd_bus_message_append_array(message, 'y', bytes->data(), bytes->size());
  }
  if (result >= 0) result = sd_bus_message_close_container(message);
  if (result >= 0) result = sd_bus_message_close_container(message);
  return result;
}

int append(sd_bus_message* message, const Properties& properties) {
  int result = sd_bus_message_open_container(message, 'a', "(sv)");
  for (const Property& property : properties)
    if (result >= 0) result = append(message, property);
  return result < 0 ? result : sd_bus_message_close_container(message);
}

/// Jobs that have ended while somebody waits for one.
struct Ended {
  std::string wanted;                                       ///< the job's object path; empty: not known yet
  std::string result;                                       ///< "done", "failed", ...; empty: not ended
  std::vector<std::pair<std::string, std::string>> before;  ///< those that ended before the job was known
};

int on_job_removed(sd_bus_message* message, void* data, sd_bus_error*) {
  auto& ended = *static_cast<Ended*>(data);
  uint32_t id = 0;
  const char *path = nullptr, *unit = nullptr, *result = nullptr;
  if (sd_bus_message_read(message, "uoss", &id, &path, &unit, &result) < 0) return 0;
  if (ended.wanted.empty()) {
    ended.before.emplace_back(path, result);
  } else if (ended.wanted == path) {
    ended.result = result;
  }
  return 0;
}

}  // namespace

class Manager::Connection {
 public:
  Connection() = default;
  Connection(Connection&& other) noexcept
      : bus_(std::exchange(other.bus_, nullptr)), is_private_(other.is_private_), is_broken_(other.is_broken_) {}
  Connection& operator=(Connection&&) = delete;
  ~Connection() { sd_bus_flush_close_unref(bus_); }

  Status open() {
    const int shared = sd_bus_open_system(&bus_);
    if (shared < 0) {
      // Root reaches systemd without the bus, too. All signals come on that one, wanted or not: it is not kept.
      is_private_ = true;
      int direct = sd_bus_new(&bus_);
      if (direct >= 0) direct = sd_bus_set_address(bus_, kPrivateAddress);
      if (direct >= 0) direct = sd_bus_start(bus_);
      if (direct < 0)
        return unavailable("systemd does not answer, neither on the system's D-Bus (" + reason(shared) +
                           ") nor at /run/systemd/private (" + reason(direct) + ")" + kWayOut);
    }
    Error error;
    Message reply;
    // Without it systemd sends no signals.
    const int told =
        sd_bus_call_method(bus_, kDestination, kPath, kInterface, "Subscribe", &error.value, &reply.value, "");
    if (told < 0 && !error.is("org.freedesktop.systemd1.AlreadySubscribed"))
      return status_of(error, told, "subscribe to systemd's jobs");
    return {};
  }

  bool can_be_kept() const { return bus_ && !is_private_ && !is_broken_ && sd_bus_is_open(bus_) > 0; }

  /// Calls a method of the manager whose arguments `fill` appends. With `reply` null it answers with a job, which is waited for.
  template <class Fill>
  Status call(const char* method, const std::string& what, Fill fill, Message* reply) {
    Ended ended;
    sd_bus_slot* slot = nullptr;
    int result = 0;
    if (!reply) {
      result = sd_bus_match_signal_async(bus_, &slot, kDestination, kPath, kInterface, "JobRemoved", on_job_removed,
                                         nullptr, &ended);
    }
    Message request, own;
    Message& answer = reply ? *reply : own;
    Error error;
    if (result >= 0)
      result = sd_bus_message_new_method_call(bus_, &request.value, kDestination, kPath, kInterface, method);
    if (result >= 0) result = fill(request.value);
    if (result >= 0) result = sd_bus_call(bus_, request.value, kCallPatience, &error.value, &answer.value);
    Status status;
    if (result < 0) {
      is_broken_ = !error.value.name || result == -ETIMEDOUT;
      status = status_of(error, result, what);
    } else if (!reply) {
      status = wait_for_job(answer.value, ended, what);
    }
    sd_bus_slot_unref(slot);
    return status;
  }

  Status property(const std::string& object, const char* interface, const char* name, std::string& into) {
    Error error;
    char* text = nullptr;
    const int result =
        sd_bus_get_property_string(bus_, kDestination, object.c_str(), interface, name, &error.value, &text);
    if (result < 0) return status_of(error, result, std::string("ask systemd for ") + name);
    into = text;
    free(text);
    return {};
  }
  Status property(const std::string& object, const char* interface, const char* name, bool& into) {
    Error error;
    int flag = 0;
    const int result =
        sd_bus_get_property_trivial(bus_, kDestination, object.c_str(), interface, name, &error.value, 'b', &flag);
    if (result < 0) return status_of(error, result, std::string("ask systemd for ") + name);
    into = flag != 0;
    return {};
  }

 private:
  Status wait_for_job(sd_bus_message* answer, Ended& ended, const std::string& what) {
    const char* job = nullptr;
    if (const int result = sd_bus_message_read(answer, "o", &job); result < 0)
      return internal_error(what + ": systemd's answer names no job: " + reason(result));
    ended.wanted = job;
    for (const auto& [path, outcome] : ended.before)
      if (path == ended.wanted) ended.result = outcome;
    const auto until = std::chrono::steady_clock::now() + kJobPatience;
    while (ended.result.empty()) {
      const auto left =
          std::chrono::duration_cast<std::chrono::microseconds>(until - std::chrono::steady_clock::now()).count();
      int result = sd_bus_process(bus_, nullptr);
      if (result == 0 && left > 0) result = sd_bus_wait(bus_, static_cast<uint64_t>(left));
      if (result < 0 && result != -EINTR) {
        is_broken_ = true;
        return unavailable(what + ": systemd went away meanwhile: " + reason(result) + kWayOut);
      }
      if (left <= 0) {
        is_broken_ = true;
        return deadline_exceeded(what +
                                 ": systemd did not finish within 30 s (systemctl list-jobs shows what it waits for)");
      }
    }
    if (ended.result == "done" || ended.result == "skipped") return {};
    return internal_error(what + ": systemd's job ended as '" + ended.result + "' (journalctl says why)");
  }

  sd_bus* bus_ = nullptr;
  bool is_private_ = false;
  bool is_broken_ = false;
};

/// Connections that are idle: opening one costs more than a request.
class Manager::Connections {
 public:
  Result<Connection> take() {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      while (!idle_.empty()) {
        Connection connection = std::move(idle_.back());
        idle_.pop_back();
        if (connection.can_be_kept()) return connection;
      }
    }
    Connection connection;
    if (Status opened = connection.open(); !opened) return opened;
    return connection;
  }
  void give_back(Connection connection) {
    if (!connection.can_be_kept()) return;
    const std::lock_guard<std::mutex> guard(mutex_);
    if (idle_.size() < kMostIdle) idle_.push_back(std::move(connection));
  }

  /// A kept connection may have been closed by the other side since; then a new one tries once more.
  template <class Use>
  Status use(Use work) {
    for (int attempt = 0;; ++attempt) {
      auto connection = take();
      if (!connection) return connection.status();
      Status status = work(*connection);
      const bool again = status.code() == Code::unavailable && attempt == 0;
      give_back(std::move(*connection));
      if (!again) return status;
    }
  }

 private:
  std::mutex mutex_;
  std::vector<Connection> idle_;
};

Manager::Manager() : connections_(std::make_shared<Connections>()) {}

// As sd_booted(3), without the library's cache: a test may ask in another mount namespace.
bool Manager::runs_here() { return access("/run/systemd/system/", F_OK) == 0; }

Status Manager::start_transient(const std::string& name, const Properties& properties) const {
  return connections_->use([&](Connection& connection) {
    return connection.call(
        "StartTransientUnit", "make " + name,
        [&](sd_bus_message* message) {
          int result = sd_bus_message_append(message, "ss", name.c_str(), "fail");
          if (result >= 0) result = append(message, properties);
          if (result >= 0) result = sd_bus_message_append(message, "a(sa(sv))", 0);
          return result;
        },
        nullptr);
  });
}

Status Manager::start_slice(const std::string& name, const std::string& description,
                            const Properties& properties) const {
  Properties all = properties;
  all.insert(all.begin(), {"Description", description});
  Status made = start_transient(name, all);
  if (made.code() != Code::already_exists) return made;
  made = start(name);
  return !made || properties.empty() ? made : set_properties(name, properties);
}

Status Manager::start_holder(const std::string& name, const std::string& description, const std::string& slice,
                             const std::string& before) const {
  const Properties properties = {{"Description", description},
                                 {"Slice", slice},
                                 {"Type", std::string("exec")},
                                 {"Restart", std::string("always")},
                                 {"Delegate", true},
                                 // Only its own process: what else lives in it is ended by whoever put it there.
                                 {"KillMode", std::string("process")},

                                 {"TasksMax", kInfinity},
                                 {"CollectMode", std::string("inactive-or-failed")},
                                 {"Before", std::vector<std::string>{before}}};
  const Status made = connections_->use([&](Connection& connection) {
    return connection.call(
        "StartTransientUnit", "make " + name,
        [&](sd_bus_message* message) {
          int result = sd_bus_message_append(message, "ss", name.c_str(), "fail");
          if (result >= 0) result = sd_bus_message_open_container(message, 'a', "(sv)");
          for (const Property& property : properties)
            if (result >= 0) result = append(message, property);
          if (result >= 0)
            result =
                sd_bus_message_append(message, "(sv)", "ExecStart", "a(sasb)", 1, kSleeper, 2, kSleeper, "infinity", 0);
          if (result >= 0) result = sd_bus_message_close_container(message);
          if (result >= 0) result = sd_bus_message_append(message, "a(sa(sv))", 0);
          return result;
        },
        nullptr);
  });
  return made.code() == Code::already_exists ? start(name) : made;
}

/// Another may be starting it at this moment: that job is waited for, too.
Status Manager::start(const std::string& name) const {
  return connections_->use([&](Connection& connection) {
    return connection.call(
        "StartUnit", "start " + name,
        [&](sd_bus_message* message) { return sd_bus_message_append(message, "ss", name.c_str(), "replace"); },
        nullptr);
  });
}

Status Manager::set_properties(const std::string& name, const Properties& properties) const {
  return connections_->use([&](Connection& connection) {
    Message reply;
    return connection.call(
        "SetUnitProperties", "change " + name,
        [&](sd_bus_message* message) {
          const int result = sd_bus_message_append(message, "sb", name.c_str(), 1);
          return result < 0 ? result : append(message, properties);
        },
        &reply);
  });
}

Status Manager::stop(const std::string& name) const {
  const Status stopped = connections_->use([&](Connection& connection) {
    return connection.call(
        "StopUnit", "end " + name,
        [&](sd_bus_message* message) { return sd_bus_message_append(message, "ss", name.c_str(), "replace"); },
        nullptr);
  });
  if (stopped.code() == Code::not_found) return {};
  const Status forgotten = connections_->use([&](Connection& connection) {
    Message reply;
    return connection.call(
        "ResetFailedUnit", "forget that " + name + " failed",
        [&](sd_bus_message* message) { return sd_bus_message_append(message, "s", name.c_str()); }, &reply);
  });
  if (!stopped) return stopped;
  return forgotten.code() == Code::not_found ? Status::ok() : forgotten;
}

Result<Unit> Manager::look(const std::string& name) const {
  Unit unit;
  const Status looked = connections_->use([&](Connection& connection) -> Status {
    Message reply;
    Status found = connection.call(
        "GetUnit", "look for " + name,
        [&](sd_bus_message* message) { return sd_bus_message_append(message, "s", name.c_str()); }, &reply);
    if (!found) return found;
    const char* object = nullptr;
    if (const int result = sd_bus_message_read(reply.value, "o", &object); result < 0)
      return internal_error("look for " + name + ": " + reason(result));
    if (Status status = connection.property(object, kUnitInterface, "ActiveState", unit.active_state); !status)
      return status;
    if (Status status = connection.property(object, kUnitInterface, "Description", unit.description); !status)
      return status;
    if (Status status = connection.property(object, kUnitInterface, "Transient", unit.is_transient); !status)
      return status;
    const std::string kind = name.substr(name.rfind('.') + 1);
    const std::string interface = std::string(kDestination) + (kind == "slice"   ? ".Slice"
                                                               : kind == "scope" ? ".Scope"
                                                                                 : ".Service");
    return connection.property(object, interface.c_str(), "ControlGroup", unit.cgroup);
  });
  if (!looked) return looked;
  return unit;
}

}  // namespace pintle::systemd
