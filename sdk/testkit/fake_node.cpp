#include "sdk/testkit/fake_node.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace pintle::testkit {

using Clock = std::chrono::steady_clock;

struct FakeNode::ActiveCall {
  FakeInstance* caller;
  FakeInstance* provider;
  pintle_call_options options;
  pintle_completion completion;
  void* context;
  Clock::time_point deadline;
  bool completed = false;        // by the provider or the node; the completion may still wait for its turn
  bool answered = false;         // by the provider
  uint32_t provider_credit = 0;  // messages that the provider may still send
};
struct FakeNode::Watched {
  FakeInstance* instance;
  int descriptor;
  uint32_t events;
  pintle_ready ready;
  void* context;
};
struct FakeNode::Timed {
  FakeInstance* instance;
  Clock::time_point at;
  pintle_function function;
  void* context;
};
struct FakeNode::Child {
  FakeInstance* instance;
  int pid;
  int pidfd;
  pintle_exited exited;
  void* context;
  bool detached;
};

namespace {

/// A message that owns its bytes, so that it can wait for its turn; overwritten when it ends, so that who kept a pointer is seen.
struct OwnedMessage {
  explicit OwnedMessage(const pintle_message& from) : header(from.header, from.header + from.header_size) {
    for (uint32_t i = 0; i < from.buffer_count; ++i) buffers.push_back(Buffer::share(from.buffers[i]));
    for (uint32_t i = 0; i < from.descriptor_count; ++i) {
      descriptors.emplace_back(fcntl(from.descriptors[i], F_DUPFD_CLOEXEC, 3));
    }
    for (const Buffer& buffer : buffers) raw_buffers.push_back(buffer.get());
    for (const UniqueFd& descriptor : descriptors) raw_descriptors.push_back(descriptor.get());
  }
  ~OwnedMessage() {
    std::fill(header.begin(), header.end(), 0xdd);
    std::fill(raw_buffers.begin(), raw_buffers.end(), nullptr);
  }
  pintle_message raw() const {
    pintle_message message{};
    message.size = sizeof(message);
    message.header = header.data();
    message.header_size = header.size();
    message.buffers = raw_buffers.data();
    message.buffer_count = static_cast<uint32_t>(raw_buffers.size());
    message.descriptors = raw_descriptors.data();
    message.descriptor_count = static_cast<uint32_t>(raw_descriptors.size());
    return message;
  }
  std::vector<uint8_t> header;
  std::vector<Buffer> buffers;
  std::vector<UniqueFd> descriptors;
  std::vector<pintle_buffer*> raw_buffers;
  std::vector<int32_t> raw_descriptors;
};

std::string string_of(pintle_text text) { return std::string(view(text)); }

}  // namespace

/// The host's table: each function finds its instance and node behind the opaque pointer.
struct FakeApi {
  static FakeInstance& instance(pintle_host* host) { return *reinterpret_cast<FakeInstance*>(host); }
  static FakeNode& node(pintle_host* host) { return *instance(host).node_; }

  static pintle_code call(pintle_host* host, uint64_t binding_id, uint32_t method, const pintle_message* message,
                          const pintle_call_options* options, pintle_completion completion, void* context,
                          uint64_t* call_id) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    const auto bound = self.bindings_.find(binding_id);
    if (bound == self.bindings_.end()) return PINTLE_NOT_FOUND;
    FakeInstance* provider = bound->second.first;
    const uint32_t interface_index = bound->second.second;
    if (!provider || !provider->object_) return PINTLE_UNAVAILABLE;
    const uint64_t id = self.next_id_++;
    auto active = std::make_unique<FakeNode::ActiveCall>();
    const uint64_t timeout = options && options->timeout_ns ? options->timeout_ns : 30'000'000'000ull;
    *active = {&instance(host), provider, options ? *options : pintle_call_options{},
               completion,      context,  Clock::now() + std::chrono::nanoseconds(timeout),
               false,           false,    options ? options->initial_credit : 0};
    const uint32_t credit = active->provider_credit;
    self.calls_.emplace(id, std::move(active));
    *call_id = id;
    auto owned = std::make_shared<std::unique_ptr<OwnedMessage>>(std::make_unique<OwnedMessage>(*message));
    const std::string caller = "plugin:" + instance(host).name();
    self.enqueue([&self, provider, interface_index, method, id, credit, timeout, owned, caller] {
      if (!provider->object_ || !self.calls_.count(id)) return;
      pintle_call info{};
      info.size = sizeof(info);
      info.interface_index = interface_index;
      info.method = method;
      info.initial_credit = credit;
      info.call_id = id;
      info.remaining_ns = timeout;
      info.caller = text_of(caller);
      const pintle_message raw = (*owned)->raw();
      provider->table_->handle(provider->object_, &info, &raw);
      owned->reset();  // overwrites what was borrowed
    });
    return PINTLE_OK;
  }

  static pintle_code cancel(pintle_host* host, uint64_t call_id) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    const auto found = self.calls_.find(call_id);
    if (found == self.calls_.end() || found->second->caller != &instance(host)) return PINTLE_NOT_FOUND;
    FakeInstance* provider = found->second->provider;
    self.enqueue([&self, provider, call_id] {
      if (provider->object_ && self.calls_.count(call_id)) provider->table_->cancelled(provider->object_, call_id);
    });
    return PINTLE_OK;
  }

  static pintle_code complete(pintle_host* host, uint64_t call_id, const pintle_status* status,
                              const pintle_message* reply) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    const auto found = self.calls_.find(call_id);
    if (found == self.calls_.end()) return PINTLE_NOT_FOUND;
    if (found->second->provider != &instance(host)) {
      self.violations_.push_back(instance(host).name() + " completed a call that it does not serve");
      return PINTLE_NOT_FOUND;
    }
    if (std::exchange(found->second->answered, true)) {
      self.violations_.push_back(instance(host).name() + " completed one call twice");
    }
    if (found->second->completed) return PINTLE_NOT_FOUND;
    if (status->code == PINTLE_OK && !reply) {
      self.violations_.push_back(instance(host).name() + " completed a call with success but without a reply");
    }
    if (status->code != PINTLE_OK && status->message.size == 0) {
      self.violations_.push_back(instance(host).name() + " failed a call without a message for a person");
    }
    self.finish(call_id, status->code, string_of(status->message), reply);
    return PINTLE_OK;
  }

  static pintle_code send(pintle_host* host, uint64_t call_id, const pintle_message* message) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    const auto found = self.calls_.find(call_id);
    if (found == self.calls_.end() || found->second->completed) return PINTLE_NOT_FOUND;
    FakeNode::ActiveCall& active = *found->second;
    if (active.provider == &instance(host)) {
      if (!active.options.on_message || active.provider_credit == 0) {
        if (!active.options.on_message) {
          self.violations_.push_back(instance(host).name() + " sent a stream on a call that takes none");
        }
        return PINTLE_RESOURCE_EXHAUSTED;
      }
      --active.provider_credit;
      auto owned = std::make_shared<std::unique_ptr<OwnedMessage>>(std::make_unique<OwnedMessage>(*message));
      self.enqueue([&self, call_id, owned] {
        const auto still = self.calls_.find(call_id);
        if (still == self.calls_.end() || still->second->caller->gone_) return;
        const pintle_message raw = (*owned)->raw();
        still->second->options.on_message(still->second->context, call_id, &raw);
        owned->reset();
      });
      return PINTLE_OK;
    }
    if (active.caller != &instance(host)) return PINTLE_NOT_FOUND;
    FakeInstance* provider = active.provider;
    auto owned = std::make_shared<std::unique_ptr<OwnedMessage>>(std::make_unique<OwnedMessage>(*message));
    self.enqueue([&self, provider, call_id, owned] {
      if (!provider->object_ || !self.calls_.count(call_id)) return;
      const pintle_message raw = (*owned)->raw();
      provider->table_->stream_message(provider->object_, call_id, &raw);
      owned->reset();
    });
    return PINTLE_OK;
  }

  static pintle_code grant(pintle_host* host, uint64_t call_id, uint32_t credit) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    const auto found = self.calls_.find(call_id);
    if (found == self.calls_.end() || found->second->completed || found->second->caller != &instance(host)) {
      return PINTLE_NOT_FOUND;
    }
    found->second->provider_credit += credit;
    FakeInstance* provider = found->second->provider;
    self.enqueue([&self, provider, call_id, credit] {
      const auto still = self.calls_.find(call_id);
      if (!provider->object_ || still == self.calls_.end() || still->second->completed) return;
      provider->table_->stream_credit(provider->object_, call_id, credit);
    });
    return PINTLE_OK;
  }

  static pintle_code post(pintle_host* host, pintle_function function, void* context) {
    node(host).enqueue([poster = &instance(host), function, context] {
      if (!poster->gone_) function(context);
    });
    return PINTLE_OK;
  }

  static pintle_code post_blocking(pintle_host* host, pintle_function function, void* context) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    self.threads_.emplace_back([function, context] { function(context); });
    return PINTLE_OK;
  }

  static pintle_code timer(pintle_host* host, uint64_t delay_ns, pintle_function function, void* context,
                           uint64_t* timer_id) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    *timer_id = self.next_id_++;
    auto timed = std::make_unique<FakeNode::Timed>();
    *timed = {&instance(host), Clock::now() + std::chrono::nanoseconds(delay_ns), function, context};
    self.timers_.emplace(*timer_id, std::move(timed));
    self.enqueue([] {});
    return PINTLE_OK;
  }
  static pintle_code timer_cancel(pintle_host* host, uint64_t timer_id) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    return self.timers_.erase(timer_id) ? PINTLE_OK : PINTLE_NOT_FOUND;
  }

  static pintle_code watch(pintle_host* host, int32_t descriptor, uint32_t events, pintle_ready ready, void* context,
                           uint64_t* watch_id) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    if (fcntl(descriptor, F_GETFD) < 0) return PINTLE_INVALID_ARGUMENT;
    *watch_id = self.next_id_++;
    auto watched = std::make_unique<FakeNode::Watched>();
    *watched = {&instance(host), descriptor, events, ready, context};
    self.watches_.emplace(*watch_id, std::move(watched));
    self.enqueue([] {});
    return PINTLE_OK;
  }
  static pintle_code unwatch(pintle_host* host, uint64_t watch_id) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    return self.watches_.erase(watch_id) ? PINTLE_OK : PINTLE_NOT_FOUND;
  }

  static pintle_code spawn(pintle_host* host, const pintle_spawn* wanted, pintle_exited exited, void* context,
                           pintle_process* process) {
    FakeNode& self = node(host);
    std::vector<std::string> arguments, environment;
    for (uint32_t i = 0; i < wanted->argument_count; ++i) arguments.push_back(string_of(wanted->arguments[i]));
    for (uint32_t i = 0; i < wanted->environment_count; ++i) environment.push_back(string_of(wanted->environment[i]));
    std::vector<char*> argv, envp;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    for (std::string& variable : environment) envp.push_back(variable.data());
    argv.push_back(nullptr);
    envp.push_back(nullptr);
    const std::string program = string_of(wanted->program);
    const std::string directory = wanted->directory.size ? string_of(wanted->directory) : "/";
    std::vector<std::string> cgroup_files;
    for (uint32_t i = 0; i < wanted->cgroup_count; ++i) {
      cgroup_files.push_back(string_of(wanted->cgroups[i]) + "/cgroup.procs");
    }
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0) return PINTLE_RESOURCE_EXHAUSTED;
    const pid_t pid = fork();  // a test's process: the real host starts children without copying itself
    if (pid < 0) return PINTLE_RESOURCE_EXHAUSTED;
    if (pid == 0) {
      for (const std::string& file : cgroup_files) {
        const int joined = open(file.c_str(), O_WRONLY | O_CLOEXEC);
        if (joined < 0 || ::write(joined, "0", 1) != 1) _exit(126);
      }
      if (wanted->flags & PINTLE_SPAWN_NEW_SESSION) setsid();
      std::vector<int> kept;
      for (uint32_t i = 0; i < wanted->descriptor_count; ++i) {
        const int from = wanted->descriptors[i] >= 0 ? wanted->descriptors[i] : open("/dev/null", O_RDWR);
        kept.push_back(fcntl(from, F_DUPFD, 1000));
      }
      const int report_to = fcntl(report[1], F_DUPFD_CLOEXEC, 2000);
      for (size_t i = 0; i < kept.size(); ++i) dup2(kept[i], static_cast<int>(i));
      syscall(SYS_close_range, static_cast<unsigned>(kept.size()), 1999u, 0u);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      signal(SIGPIPE, SIG_DFL);
      if (chdir(directory.c_str()) == 0) execve(program.c_str(), argv.data(), envp.data());
      const int error = errno;
      if (::write(report_to, &error, sizeof error) < 0) _exit(125);
      _exit(127);
    }
    close(report[1]);
    int error = 0;
    const ssize_t got = read(report[0], &error, sizeof error);
    close(report[0]);
    if (got == sizeof error) {
      waitpid(pid, nullptr, 0);
      return error == ENOENT ? PINTLE_NOT_FOUND : PINTLE_PERMISSION_DENIED;
    }
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    std::lock_guard lock(self.mutex_);
    auto child = std::make_unique<FakeNode::Child>();
    *child = {&instance(host), pid,     fcntl(pidfd, F_DUPFD_CLOEXEC, 3),
              exited,          context, (wanted->flags & PINTLE_SPAWN_DETACHED) != 0};
    self.children_.emplace(pid, std::move(child));
    process->pid = pid;
    process->pidfd = pidfd;
    self.enqueue([] {});
    return PINTLE_OK;
  }

  static pintle_code listen(pintle_host* host, pintle_text name, pintle_text address, int32_t* descriptor) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    const std::string key = instance(host).name() + "/" + string_of(name);
    const std::string where = string_of(address);
    if (!self.listeners_.count(key)) {
      if (where.rfind("unix:", 0) != 0) return PINTLE_UNIMPLEMENTED;
      sockaddr_un unix_address{};
      unix_address.sun_family = AF_UNIX;
      const std::string path = where.substr(5);
      if (path.size() >= sizeof unix_address.sun_path) return PINTLE_INVALID_ARGUMENT;
      std::memcpy(unix_address.sun_path, path.data(), path.size());
      ::unlink(path.c_str());
      const int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      if (bind(made, reinterpret_cast<sockaddr*>(&unix_address), sizeof unix_address) < 0 || ::listen(made, 128) < 0) {
        close(made);
        return PINTLE_UNAVAILABLE;
      }
      self.listeners_[key] = made;
    }
    *descriptor = fcntl(self.listeners_[key], F_DUPFD_CLOEXEC, 3);
    return PINTLE_OK;
  }
  static pintle_code listen_end(pintle_host* host, pintle_text name) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    const auto found = self.listeners_.find(instance(host).name() + "/" + string_of(name));
    if (found == self.listeners_.end()) return PINTLE_NOT_FOUND;
    close(found->second);
    self.listeners_.erase(found);
    return PINTLE_OK;
  }

  static void log(pintle_host* host, uint32_t level, pintle_text message, const pintle_field* fields, uint32_t count) {
    std::string line = string_of(message);
    for (uint32_t i = 0; i < count; ++i) line += " " + string_of(fields[i].name) + "=" + string_of(fields[i].value);
    if (level >= PINTLE_LOG_WARN || getenv("PINTLE_TEST_LOG")) {
      std::fprintf(stderr, "[%s] %s\n", instance(host).name().c_str(), line.c_str());
    }
    std::lock_guard lock(node(host).mutex_);
    instance(host).log_.push_back(std::move(line));
  }
  static uint32_t log_level(pintle_host*) { return PINTLE_LOG_DEBUG; }

  static pintle_code metric(pintle_host* host, const pintle_metric* metric, uint64_t* metric_id) {
    const std::string name = string_of(metric->name);
    const auto allowed = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == ':'; };
    if (name.empty() || !std::all_of(name.begin(), name.end(), allowed)) return PINTLE_INVALID_ARGUMENT;
    std::lock_guard lock(node(host).mutex_);
    *metric_id = node(host).next_id_++;
    return PINTLE_OK;
  }
  static pintle_code metric_update(pintle_host*, uint64_t, double) { return PINTLE_OK; }

  static pintle_code condition(pintle_host* host, pintle_text type, uint32_t is_true, pintle_text reason,
                               pintle_text message) {
    std::lock_guard lock(node(host).mutex_);
    instance(host).conditions_.push_back(string_of(type) + "=" + (is_true ? "True " : "False ") + string_of(reason) +
                                         ": " + string_of(message));
    return PINTLE_OK;
  }

  static pintle_code buffer_new(pintle_host*, uint64_t length, pintle_buffer** buffer, uint8_t** data) {
    Buffer made = Buffer::from(std::string(length, '\0'));
    *data = const_cast<uint8_t*>(made.bytes().data());
    made.get()->retain(made.get());
    *buffer = made.get();
    return PINTLE_OK;
  }

  static pintle_code lifecycle_done(pintle_host* host, uint64_t token, const pintle_status* status) {
    FakeNode& self = node(host);
    std::lock_guard lock(self.mutex_);
    if (!instance(host)
             .lifecycle_.emplace(token, Status(static_cast<Code>(status->code), string_of(status->message)))
             .second) {
      self.violations_.push_back(instance(host).name() + " said lifecycle_done twice for one token");
    }
    self.enqueue([] {});
    return PINTLE_OK;
  }
  static pintle_code retired(pintle_host* host) {
    std::lock_guard lock(node(host).mutex_);
    instance(host).said_retired_ = true;
    node(host).enqueue([] {});
    return PINTLE_OK;
  }

  static const pintle_host_api* table() {
    static const pintle_host_api api = {sizeof(pintle_host_api),
                                        PINTLE_ABI_MAJOR,
                                        PINTLE_ABI_MINOR,
                                        call,
                                        cancel,
                                        complete,
                                        send,
                                        grant,
                                        post,
                                        post_blocking,
                                        timer,
                                        timer_cancel,
                                        watch,
                                        unwatch,
                                        spawn,
                                        listen,
                                        listen_end,
                                        log,
                                        log_level,
                                        metric,
                                        metric_update,
                                        condition,
                                        buffer_new,
                                        lifecycle_done,
                                        retired};
    return &api;
  }
};

namespace {
pintle_host* host_of(FakeInstance& instance) { return reinterpret_cast<pintle_host*>(&instance); }
}  // namespace

// ---- Instances -----------------------------------------------------------------------------------------------------------

FakeNode::FakeNode() : wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  std::string pattern = (std::filesystem::temp_directory_path() / "pintle-test-XXXXXX").string();
  if (!mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder: " + pattern);
  directory_ = pattern;
}

FakeNode::~FakeNode() {
  for (const auto& instance : instances_) {
    if (instance->object_) destroy(*instance);
  }
  for (std::thread& thread : threads_) thread.join();
  for (const auto& [pid, child] : children_) {
    close(child->pidfd);
    if (child->detached) continue;  // it outlives its host, as on a real node
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  for (const auto& [name, descriptor] : listeners_) close(descriptor);
  close(wake_);
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

FakeInstance& FakeNode::make(InstanceOptions options) {
  auto instance = std::make_unique<FakeInstance>();
  instance->node_ = this;
  if (options.key.empty()) options.key = options.name + "@1";
  const auto folder = [&](std::string& path, const char* kind) {
    if (path.empty()) path = directory_ + "/" + kind + "/" + options.key;
    std::filesystem::create_directories(path);
  };
  folder(options.state_directory, "state");
  folder(options.run_directory, "run");
  folder(options.shared_directory, "shared");
  instance->options_ = std::move(options);
  InstanceOptions& kept = instance->options_;
  instance->config_ = {sizeof(pintle_instance_config),
                       kept.retiring ? uint32_t{PINTLE_INSTANCE_RETIRING} : 0u,
                       text_of(kept.name),
                       text_of(kept.key),
                       text_of(instance->node_name_),
                       text_of(kept.config),
                       text_of(kept.state_directory),
                       text_of(kept.run_directory),
                       text_of(kept.shared_directory)};
  instances_.push_back(std::move(instance));
  return *instances_.back();
}

Status FakeNode::create(FakeInstance& instance) {
  pintle_status status{};
  status.size = sizeof(status);
  const pintle_code code =
      instance.table_->create(FakeApi::table(), host_of(instance), &instance.config_, &instance.object_, &status);
  if (code == PINTLE_OK) return Status::ok();
  return {static_cast<Code>(code), string_of(status.message)};
}

Result<FakeInstance*> FakeNode::try_load(const std::string& path, InstanceOptions options) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: a plugin's code is never unloaded
  if (!library) return failed_precondition(std::string("load ") + path + ": " + dlerror());
  const auto* table = static_cast<const pintle_plugin*>(dlsym(library, "pintle_plugin_entry"));
  if (!table) return invalid_argument(path + ": it has no symbol pintle_plugin_entry, so it is not a plugin");
  if (options.name.empty()) options.name = string_of(table->id);
  FakeInstance& instance = make(std::move(options));
  instance.table_ = table;
  boost::system::error_code error;
  const boost::json::value manifest = boost::json::parse(view(table->manifest), error);
  if (error || !manifest.is_object()) return invalid_argument(path + ": its manifest is not a JSON object");
  const auto names = [&](const char* list, const char* key, std::vector<std::string>& into) {
    const boost::json::value* entries = manifest.as_object().if_contains(list);
    if (!entries || !entries->is_array()) return;
    for (const boost::json::value& entry : entries->as_array()) {
      const boost::json::value* name = entry.is_object() ? entry.as_object().if_contains(key) : nullptr;
      into.push_back(name && name->is_string() ? std::string(name->as_string()) : std::string());
    }
  };
  names("provides", "interface", instance.provides_);
  names("needs", "name", instance.needs_);
  Status created = create(instance);
  if (!created) return created;
  return &instance;
}

FakeInstance& FakeNode::load(const std::string& path, InstanceOptions options) {
  Result<FakeInstance*> loaded = try_load(path, std::move(options));
  if (!loaded) throw std::runtime_error(loaded.status().to_string());
  return **loaded;
}

namespace {
/// Facts and factory of a class of the test's own, kept as long as its instance.
struct ClassFactory {
  std::vector<std::string> provides, needs;
  std::vector<pintle_text> provide_texts, need_texts;
  PluginFacts facts{};
  std::unique_ptr<Plugin> (*factory)(Host&) = nullptr;
};
thread_local ClassFactory* creating = nullptr;  // `create` of the C table has no place for a context
}  // namespace

FakeInstance& FakeNode::add_class(std::string name, std::vector<std::string> provides, std::vector<std::string> needs,
                                  InstanceOptions options, std::unique_ptr<Plugin> (*factory)(Host&)) {
  options.name = std::move(name);
  FakeInstance& instance = make(std::move(options));
  auto made = std::make_shared<ClassFactory>();
  made->provides = provides;
  made->needs = needs;
  for (const std::string& interface_name : made->provides) made->provide_texts.push_back(text_of(interface_name));
  for (const std::string& need : made->needs) made->need_texts.push_back(text_of(need));
  made->facts = {made->provide_texts.data(), static_cast<uint32_t>(made->provide_texts.size()), made->need_texts.data(),
                 static_cast<uint32_t>(made->need_texts.size())};
  made->factory = factory;
  instance.factory_ = made;
  instance.provides_ = std::move(provides);
  instance.needs_ = std::move(needs);
  instance.own_table_ = std::make_unique<pintle_plugin>();
  *instance.own_table_ = {sizeof(pintle_plugin),
                          PINTLE_ABI_MAJOR,
                          PINTLE_ABI_MINOR,
                          text_of(instance.options_.name),
                          text_of("0.0.0"),
                          text_of("{}"),
                          text_of("{}"),
                          [](const pintle_host_api* api, pintle_host* host, const pintle_instance_config* config,
                             void** object, pintle_status* status) {
                            return PluginEdge::create(creating->facts, creating->factory, api, host, config, object,
                                                      status);
                          },
                          PluginEdge::start,
                          PluginEdge::drain,
                          PluginEdge::retire,
                          PluginEdge::stop,
                          PluginEdge::destroy,
                          PluginEdge::handle,
                          PluginEdge::cancelled,
                          PluginEdge::stream_message,
                          PluginEdge::stream_credit,
                          PluginEdge::bindings};
  instance.table_ = instance.own_table_.get();
  creating = made.get();
  Status created = create(instance);
  creating = nullptr;
  if (!created) throw std::runtime_error(created.to_string());
  return instance;
}

FakeInstance& FakeNode::client(std::string name) {
  InstanceOptions options;
  options.name = std::move(name);
  FakeInstance& instance = make(std::move(options));
  instance.client_host_ = std::make_unique<Host>(FakeApi::table(), host_of(instance), instance.config_);
  return instance;
}

Binding FakeNode::binding(FakeInstance& caller, FakeInstance& provider, std::string_view interface_name) {
  (void)caller;
  std::lock_guard lock(mutex_);
  for (uint32_t index = 0; index < provider.provides_.size(); ++index) {
    if (provider.provides_[index] != interface_name) continue;
    Binding made;
    made.id = next_id_++;
    made.revision = 1;
    made.features = provider.options_.features;
    made.retiring = provider.options_.retiring;
    made.provider = provider.name();
    made.key = provider.key();
    bindings_[made.id] = {&provider, index};
    return made;
  }
  throw std::runtime_error(provider.name() + " does not provide " + std::string(interface_name));
}

void FakeNode::bind(FakeInstance& instance, const std::string& need, const std::vector<FakeInstance*>& providers,
                    const std::string& interface_name) {
  const auto at = std::find(instance.needs_.begin(), instance.needs_.end(), need);
  if (at == instance.needs_.end()) throw std::runtime_error(instance.name() + " has no need " + need);
  std::vector<Binding> made;
  for (FakeInstance* provider : providers) {
    made.push_back(binding(instance, *provider, interface_name.empty() ? provider->provides_.at(0) : interface_name));
  }
  std::vector<pintle_binding> raw;
  for (const Binding& one : made) {
    raw.push_back({sizeof(pintle_binding), one.retiring ? uint32_t{PINTLE_BINDING_RETIRING} : 0u, one.id, one.revision,
                   0, one.features, text_of(one.provider), text_of(one.key)});
  }
  instance.table_->bindings(instance.object_, static_cast<uint32_t>(at - instance.needs_.begin()), raw.data(),
                            static_cast<uint32_t>(raw.size()));
}

uint64_t FakeNode::begin(FakeInstance& instance, LifecycleFunction function) {
  const uint64_t token = next_id_++;
  (instance.table_->*function)(instance.object_, token);
  return token;
}

Status FakeNode::end(FakeInstance& instance, uint64_t token) {
  if (!run_until([&] { return instance.lifecycle_.count(token) != 0; }, std::chrono::seconds(30))) {
    return deadline_exceeded(instance.name() + " did not say lifecycle_done within 30 s");
  }
  return instance.lifecycle_[token];
}

void FakeNode::destroy(FakeInstance& instance) {
  void* object = std::exchange(instance.object_, nullptr);
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();  // blocking work reports to an instance that is still there
  instance.gone_ = true;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(timers_, [&](const auto& entry) { return entry.second->instance == &instance; });
    for (const auto& [id, active] : calls_) {
      if (active->caller != &instance || active->completed) continue;
      enqueue([provider = active->provider, call_id = id] {
        if (provider->object_) provider->table_->cancelled(provider->object_, call_id);
      });
      finish(id, PINTLE_CANCELLED, "the caller has gone", nullptr);
    }
    std::erase_if(watches_, [&](const auto& entry) { return entry.second->instance == &instance; });
    for (const auto& [id, active] : calls_) {
      if (active->provider == &instance && !active->completed)
        finish(id, PINTLE_UNAVAILABLE, "the provider has gone", nullptr);
    }
  }
  if (object) instance.table_->destroy(object);
}

// ---- Turns ---------------------------------------------------------------------------------------------------------------

void FakeNode::enqueue(std::function<void()> turn) {
  std::lock_guard lock(mutex_);
  turns_.push_back(std::move(turn));
  const uint64_t one = 1;
  if (::write(wake_, &one, sizeof one) < 0) return;  // the counter is full: it wakes all the same
}

/// Ends a call: at most once, on a turn of its own.
void FakeNode::finish(uint64_t call_id, pintle_code code, std::string message, const pintle_message* reply) {
  ActiveCall& active = *calls_.at(call_id);
  active.completed = true;
  auto owned =
      std::make_shared<std::unique_ptr<OwnedMessage>>(reply ? std::make_unique<OwnedMessage>(*reply) : nullptr);
  enqueue([this, call_id, code, message = std::move(message), owned] {
    const auto found = calls_.find(call_id);
    if (found == calls_.end()) return;
    const std::unique_ptr<ActiveCall> ended = std::move(found->second);
    calls_.erase(found);
    const pintle_status status = {sizeof(pintle_status), code, text_of(message)};
    pintle_message raw{};
    if (*owned) raw = (*owned)->raw();
    if (!ended->caller->gone_)
      ended->completion(ended->context, call_id, &status, *owned && code == PINTLE_OK ? &raw : nullptr);
    owned->reset();
  });
}

bool FakeNode::turn(Clock::time_point until) {
  std::function<void()> next;
  {
    std::lock_guard lock(mutex_);
    if (!turns_.empty()) {
      next = std::move(turns_.front());
      turns_.pop_front();
    }
  }
  if (next) {
    next();
    return true;
  }
  Clock::time_point wake_at = until;
  std::vector<pollfd> polled = {{wake_, POLLIN, 0}};
  std::vector<uint64_t> watch_ids;
  std::vector<int> pids;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, timed] : timers_) wake_at = std::min(wake_at, timed->at);
    for (const auto& [id, active] : calls_) wake_at = std::min(wake_at, active->deadline);
    for (const auto& [id, watched] : watches_) {
      polled.push_back({watched->descriptor, static_cast<short>(watched->events), 0});
      watch_ids.push_back(id);
    }
    for (const auto& [pid, child] : children_) {
      polled.push_back({child->pidfd, POLLIN, 0});
      pids.push_back(pid);
    }
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(wake_at - Clock::now()).count();
  poll(polled.data(), polled.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 10'000)));
  uint64_t drained = 0;
  while (read(wake_, &drained, sizeof drained) > 0) {
  }
  std::lock_guard lock(mutex_);
  const Clock::time_point now = Clock::now();
  for (auto at = timers_.begin(); at != timers_.end();) {
    if (at->second->at <= now) {
      turns_.push_back([owner = at->second->instance, function = at->second->function, context = at->second->context] {
        if (!owner->gone_) function(context);
      });
      at = timers_.erase(at);
    } else {
      ++at;
    }
  }
  for (const auto& [id, active] : calls_) {
    if (active->deadline <= now && !active->completed) {
      FakeInstance* provider = active->provider;
      turns_.push_back([provider, call_id = id] {
        if (provider->object_) provider->table_->cancelled(provider->object_, call_id);
      });
      finish(id, PINTLE_DEADLINE_EXCEEDED, "the deadline has passed", nullptr);
    }
  }
  for (size_t i = 0; i < watch_ids.size(); ++i) {
    if (!polled[1 + i].revents) continue;
    turns_.push_back([this, id = watch_ids[i], events = static_cast<uint32_t>(polled[1 + i].revents)] {
      const auto found = watches_.find(id);
      if (found != watches_.end()) found->second->ready(found->second->context, events);
    });
  }
  for (size_t i = 0; i < pids.size(); ++i) {
    if (!polled[1 + watch_ids.size() + i].revents) continue;
    int wait_status = 0;
    waitpid(pids[i], &wait_status, 0);
    const auto found = children_.find(pids[i]);
    close(found->second->pidfd);
    turns_.push_back([owner = found->second->instance, exited = found->second->exited, context = found->second->context,
                      pid = pids[i], wait_status] {
      if (!owner->gone_) exited(context, pid, wait_status);
    });
    children_.erase(found);
  }
  return !turns_.empty() || now < until;
}

bool FakeNode::run_until(const std::function<bool()>& predicate, std::chrono::milliseconds limit) {
  const Clock::time_point until = Clock::now() + limit;
  while (!predicate()) {
    if (!turn(until)) return predicate();
  }
  return true;
}

namespace {
struct RawCallState {
  FakeNode* node;
  FakeInstance* caller;
  const pintle_host_api* api;
  CallOutcome outcome;
  RawCall options;
  bool inside = true;
};
}  // namespace

CallOutcome FakeNode::call(FakeInstance& caller, FakeInstance& provider, uint32_t interface_index, uint32_t method,
                           std::string_view header, const RawCall& options) {
  const uint64_t binding_id = next_id_++;
  bindings_[binding_id] = {&provider, interface_index};
  std::vector<uint8_t> bytes(header.begin(), header.end());
  std::vector<pintle_buffer*> buffers;
  for (const Buffer& buffer : options.buffers) buffers.push_back(buffer.get());
  pintle_message message{};
  message.size = sizeof(message);
  message.header = bytes.data();
  message.header_size = bytes.size();
  message.buffers = buffers.data();
  message.buffer_count = static_cast<uint32_t>(buffers.size());
  RawCallState state{this, &caller, FakeApi::table(), {}, options, true};
  pintle_call_options raw{};
  raw.size = sizeof(raw);
  raw.initial_credit = options.initial_credit;
  raw.timeout_ns = static_cast<uint64_t>(options.timeout.count());
  raw.on_message = [](void* context, uint64_t call_id, const pintle_message* part) {
    auto& self = *static_cast<RawCallState*>(context);
    self.outcome.stream.emplace_back(reinterpret_cast<const char*>(part->header), part->header_size);
    for (uint32_t i = 0; i < part->buffer_count; ++i) self.outcome.buffers.push_back(Buffer::share(part->buffers[i]));
    if (self.options.grant_on_message) self.api->grant(host_of(*self.caller), call_id, 1);
    if (self.options.cancel_after_messages && self.outcome.stream.size() >= *self.options.cancel_after_messages) {
      self.api->cancel(host_of(*self.caller), call_id);
    }
  };
  uint64_t call_id = 0;
  const auto completed = [](void* context, uint64_t, const pintle_status* status, const pintle_message* reply) {
    auto& self = *static_cast<RawCallState*>(context);
    ++self.outcome.completions;
    self.outcome.completed_inside_call = self.inside;
    self.outcome.status = Status(static_cast<Code>(status->code), string_of(status->message));
    if (!reply) return;
    self.outcome.header.assign(reinterpret_cast<const char*>(reply->header), reply->header_size);
    for (uint32_t i = 0; i < reply->buffer_count; ++i) self.outcome.buffers.push_back(Buffer::share(reply->buffers[i]));
  };
  const pintle_code code =
      FakeApi::call(host_of(caller), binding_id, method, &message, &raw, completed, &state, &call_id);
  state.inside = false;
  std::fill(bytes.begin(), bytes.end(), 0xdd);
  if (code != PINTLE_OK) {
    state.outcome.status = Status(static_cast<Code>(code), "not accepted");
    return state.outcome;
  }
  state.outcome.accepted = true;
  if (options.cancel_after_messages && *options.cancel_after_messages == 0) FakeApi::cancel(host_of(caller), call_id);
  run_until([&] { return state.outcome.completions > 0; },
            std::chrono::ceil<std::chrono::milliseconds>(options.timeout) + std::chrono::seconds(5));
  return state.outcome;
}

}  // namespace pintle::testkit
