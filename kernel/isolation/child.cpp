#include "kernel/isolation/child.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "kernel/isolation/peer.hpp"
#include "kernel/node/node.hpp"
#include "sdk/support/cgroup/cgroup.hpp"

namespace pintle::kernel {
namespace {

constexpr uint64_t millisecond = 1'000'000;
constexpr uint64_t ping_interval = 250 * millisecond, ping_limit = 1000 * millisecond;
constexpr uint64_t create_limit = 10'000 * millisecond;
constexpr uint64_t metrics_limit = 300 * millisecond;
constexpr uint64_t default_memory = 64u << 20;
constexpr int max_processes = 256;
constexpr int frames_at_once = 32;
constexpr const char* plugin_cgroups = "/pintle/plugins";

class Isolated final : public ChildProcess, public std::enable_shared_from_this<Isolated> {
 public:
  Isolated(Node& node, Instance& instance, std::function<void(std::string)> on_death, files::Descriptor socket)
      : node_(node), instance_(instance), on_death_(std::move(on_death)), peer_(*this, std::move(socket)) {}

  Status launch(const ChildOptions& options, int child_socket);

  std::unique_ptr<Handler> make_handler() override;
  int32_t pid() const override { return pid_; }
  void kill(const std::string& reason) override;
  void set_log_level(uint32_t level) override { peer_.post(frame_head(FrameKind::log_level, 0, level)); }
  void fetch_metrics(std::function<void()> done) override;

  /// Sends a request that a `done` frame answers.
  void request(FrameHead head, std::span<const Bytes> parts, Done done);
  void read_frames();
  void take(Frame& frame);
  void ask(Frame& frame);
  void ended(int wait_status);
  void ping();
  void wait_for_room();

  class ParentEnd final : public Peer {
   public:
    ParentEnd(Isolated& owner, files::Descriptor socket)
        : Peer(owner.node_.engine(), owner.instance_, std::move(socket), false), owner_(owner) {}
    void lost(const std::string& why) override { owner_.kill(why); }
    uint64_t binding_of(const FrameHead& head) override { return head.binding; }
    uint64_t remote_binding(uint32_t) override { return 0; }
    void queued() override { owner_.wait_for_room(); }
    void post(const FrameHead& head, std::span<const Bytes> parts = {}, std::span<const int32_t> descriptors = {}) {
      send(head, parts, descriptors);
    }
    void forget() { forget_calls(); }

   private:
    Isolated& owner_;
  };

  Node& node_;
  Instance& instance_;
  std::function<void(std::string)> on_death_;
  ParentEnd peer_;
  int32_t pid_ = 0;
  files::Descriptor pidfd_;
  std::string cgroup_;

  std::mutex lock_;
  std::string killed_because_;
  bool over_ = false;
  uint64_t read_watch_ = 0, write_watch_ = 0, ping_timer_ = 0;
  uint64_t last_request_ = 0, ponged_ = 0, pinged_at_ = 0;
  std::atomic<uint64_t> pinged_{0};
  std::map<uint64_t, Done> requests_;
  std::vector<std::function<void()>> metrics_wanted_;
};

/// The instance's handler: its turns go over the wire.
class RemoteHandler final : public Handler {
 public:
  explicit RemoteHandler(std::shared_ptr<Isolated> child) : child_(std::move(child)) {}

  void create(Instance&, const InstanceConfig& config, Done done) override {
    FrameHead head = frame_head(FrameKind::create, 0, config.flags);
    const std::string texts =
        pack({config.node, config.config, config.state_directory, config.run_directory, config.shared_directory});
    const Bytes part = texts;
    child_->request(head, {&part, 1}, std::move(done));
  }
  void start(Instance&, uint64_t token) override { step(Instance::Step::start, token); }
  void drain(Instance&, uint64_t token) override { step(Instance::Step::drain, token); }
  void retire(Instance&, uint64_t token) override { step(Instance::Step::retire, token); }
  void stop(Instance&, uint64_t token) override { step(Instance::Step::stop, token); }
  void destroy(Instance&, Done done) override { child_->request(frame_head(FrameKind::destroy), {}, std::move(done)); }
  void handle(Instance& instance, const pintle_call& call, const pintle_message& message) override {
    child_->peer_.handle(instance, call, message);
  }
  void cancelled(Instance& instance, uint64_t id) override { child_->peer_.cancelled(instance, id); }
  void stream_message(Instance& instance, uint64_t id, const pintle_message& message) override {
    child_->peer_.stream_message(instance, id, message);
  }
  void stream_credit(Instance& instance, uint64_t id, uint32_t credit) override {
    child_->peer_.stream_credit(instance, id, credit);
  }
  void bindings(Instance&, uint32_t need, const std::vector<pintle_binding>& bindings) override {
    FrameHead head = frame_head(FrameKind::bindings, 0, need);
    std::string fixed;
    std::vector<std::string_view> texts;
    for (const pintle_binding& binding : bindings) {
      const uint64_t numbers[] = {binding.binding_id, binding.flags, binding.revision, binding.features};
      fixed.append(reinterpret_cast<const char*>(numbers), sizeof numbers);
      texts.push_back(view(binding.provider));
      texts.push_back(view(binding.key));
    }
    const std::string names = pack(texts);
    const Bytes parts[] = {fixed, names};
    child_->peer_.post(head, parts);
  }

 private:
  void step(Instance::Step step, uint64_t token) {
    FrameHead head = frame_head(FrameKind::step, 0, 0, static_cast<uint32_t>(step));
    child_->request(head, {}, [child = child_, token](Status status) {
      child->instance_.lifecycle_done(token, std::move(status));
    });
  }
  const std::shared_ptr<Isolated> child_;
};

std::unique_ptr<Handler> Isolated::make_handler() { return std::make_unique<RemoteHandler>(shared_from_this()); }

Status Isolated::launch(const ChildOptions& options, int child_socket) {
  const Manifest& manifest = options.plugin->manifest;
  const uint64_t memory = manifest.memory_limit != 0 ? manifest.memory_limit : default_memory;
  SpawnRequest request;
  request.program = options.plugin_host;
  request.arguments = {"pintle-plugin-host", instance_.key()};
  request.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"};
  request.descriptors = {-1, 2, 2, child_socket};
  request.dies_with_parent = true;
  // Without a cgroup the child limits its own memory.
  bool limited = false;
  if (Result<cgroup::Layout> layout = cgroup::Layout::detect(); layout.is_ok()) {
    cgroup_ = std::string(plugin_cgroups) + "/" + instance_.key() + "-" + std::to_string(getpid());
    cgroup::Limits limits;
    limits.memory = static_cast<int64_t>(memory);
    limits.processes = max_processes;
    limited = layout->create(cgroup_).is_ok() && layout->apply(cgroup_, limits).is_ok();
    if (limited) request.cgroups = layout->folders(cgroup_);
  }
  auto exited = [self = shared_from_this()](int32_t, int status) { self->ended(status); };
  Result<StartedProcess> started = node_.processes().start(request, exited);
  if (!started && limited) {
    request.cgroups.clear();
    limited = false;
    started = node_.processes().start(request, exited);
  }
  if (!started) return started.status();
  pid_ = started->pid;
  pidfd_ = std::move(started->pidfd);

  FrameHead hello = frame_head(FrameKind::hello, 0, instance_.log_level);
  hello.time = limited ? 0 : memory;
  hello.count = static_cast<uint32_t>(options.plugin->libraries.size());
  const std::string names = pack({instance_.name(), instance_.key(), instance_.plugin(), options.plugin->file->path()});
  std::vector<std::string_view> capabilities(manifest.capabilities.begin(), manifest.capabilities.end());
  const std::string allowed = pack(capabilities);
  const Bytes parts[] = {names, allowed};
  std::vector<int32_t> descriptors{options.plugin->file->descriptor()};
  for (const auto& library : options.plugin->libraries) descriptors.push_back(library->descriptor());
  peer_.post(hello, parts, descriptors);

  // Until it is created nobody pings it: loading may take its time, but not for ever.
  node_.engine().reactor().after(create_limit, [weak = weak_from_this()] {
    const std::shared_ptr<Isolated> self = weak.lock();
    if (self != nullptr && self->pinged_ == 0) self->kill("it was not created within 10 s");
  });
  std::lock_guard lock(lock_);
  Result<uint64_t> watch = node_.engine().reactor().watch(
      peer_.wire().descriptor(), POLLIN, [self = shared_from_this()](uint32_t) { self->read_frames(); });
  if (!watch) return watch.status();
  read_watch_ = *watch;
  return {};
}

void Isolated::kill(const std::string& reason) {
  std::lock_guard lock(lock_);
  if (over_ || !killed_because_.empty()) return;
  killed_because_ = reason;
  syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
}

void Isolated::ended(int wait_status) {
  std::string reason;
  std::map<uint64_t, Done> requests;
  std::vector<std::function<void()>> metrics;
  {
    std::lock_guard lock(lock_);
    over_ = true;
    Reactor& reactor = node_.engine().reactor();
    if (read_watch_ != 0) reactor.unwatch(read_watch_);
    if (write_watch_ != 0) reactor.unwatch(write_watch_);
    if (ping_timer_ != 0) reactor.cancel(ping_timer_);
    requests.swap(requests_);
    metrics.swap(metrics_wanted_);
    reason = killed_because_;
  }
  uint64_t memory_kills = 0;
  if (!cgroup_.empty()) {
    if (Result<cgroup::Layout> layout = cgroup::Layout::detect(); layout.is_ok()) {
      if (Result<cgroup::Stats> stats = layout->stats(cgroup_); stats.is_ok())
        memory_kills = stats->out_of_memory_kills;
      static_cast<void>(layout->remove(cgroup_, 50).is_ok());
    }
  }
  if (!reason.empty()) {
    reason = "it was killed: " + reason;
  } else if (memory_kills != 0) {
    reason = "it used more memory than its limit";
  } else if (WIFSIGNALED(wait_status)) {
    reason =
        "signal " + std::to_string(WTERMSIG(wait_status)) + " (" + sigabbrev_np(WTERMSIG(wait_status)) + ") ended it";
  } else {
    reason = "it exited with " + std::to_string(WEXITSTATUS(wait_status));
  }
  for (auto& [id, done] : requests) done(unavailable(instance_.key() + ": " + reason));
  for (auto& done : metrics) done();
  peer_.forget();
  on_death_(reason);
}

void Isolated::request(FrameHead head, std::span<const Bytes> parts, Done done) {
  {
    std::unique_lock lock(lock_);
    if (over_) {
      lock.unlock();
      return done(unavailable(instance_.key() + ": its process has ended"));
    }
    head.id = ++last_request_;
    requests_.emplace(head.id, std::move(done));
  }
  peer_.post(head, parts);
}

void Isolated::wait_for_room() {
  std::lock_guard lock(lock_);
  if (over_ || write_watch_ != 0) return;
  Result<uint64_t> watch =
      node_.engine().reactor().watch(peer_.wire().descriptor(), POLLOUT, [self = shared_from_this()](uint32_t) {
        const bool empty = self->peer_.wire().flush();
        std::lock_guard inner(self->lock_);
        if (self->write_watch_ == 0) return;
        if (!empty) return self->node_.engine().reactor().rearm(self->write_watch_);
        self->node_.engine().reactor().unwatch(std::exchange(self->write_watch_, 0));
      });
  if (watch) write_watch_ = *watch;
}

void Isolated::ping() {
  bool late = false;
  {
    std::lock_guard lock(lock_);
    if (over_) return;
    const uint64_t now = now_ns();
    if (pinged_ == ponged_) {
      ++pinged_;
      pinged_at_ = now;
    } else {
      late = now - pinged_at_ >= ping_limit;
    }
    ping_timer_ = node_.engine().reactor().after(ping_interval, [self = shared_from_this()] { self->ping(); });
    if (!late && pinged_at_ != now) return;
  }
  if (late) return kill("its lane did not move for a second");
  peer_.post(frame_head(FrameKind::ping, pinged_));
}

void Isolated::fetch_metrics(std::function<void()> done) {
  auto once = std::make_shared<std::function<void()>>(std::move(done));
  auto answer = [once] {
    if (auto function = std::exchange(*once, nullptr)) function();
  };
  {
    std::unique_lock lock(lock_);
    if (over_) {
      lock.unlock();
      return answer();
    }
    metrics_wanted_.push_back(answer);
  }
  node_.engine().reactor().after(metrics_limit, [this, self = shared_from_this()] {
    std::vector<std::function<void()>> wanted;
    {
      std::lock_guard lock(lock_);
      wanted.swap(metrics_wanted_);
    }
    for (auto& function : wanted) function();
  });
  peer_.post(frame_head(FrameKind::metrics));
}

void Isolated::read_frames() {
  for (int i = 0; i < frames_at_once; ++i) {
    Frame frame;
    std::string why;
    switch (peer_.wire().receive(frame, false, why)) {
      case Wire::Got::frame:
        take(frame);
        break;
      case Wire::Got::nothing:
        return node_.engine().reactor().rearm(read_watch_);
      case Wire::Got::end:
        return;  // its exit follows
      case Wire::Got::broken:
        return kill(why);
    }
  }
  node_.engine().reactor().rearm(read_watch_);
}

void Isolated::take(Frame& frame) {
  const FrameHead& head = frame.head;
  if (peer_.take(frame)) return;
  const auto texts = [&](size_t part) {
    Result<std::vector<std::string>> list =
        part < frame.parts.size() ? unpack(frame.parts[part])
                                  : Result<std::vector<std::string>>(invalid_argument("a part is missing"));
    return list ? std::move(*list) : std::vector<std::string>();
  };
  switch (head.kind) {
    case FrameKind::done: {
      Done done;
      {
        std::lock_guard lock(lock_);
        auto found = requests_.find(head.id);
        if (found == requests_.end()) return;
        done = std::move(found->second);
        requests_.erase(found);
      }
      const Bytes message = frame.parts.empty() ? Bytes() : frame.parts[0];
      if (head.code == PINTLE_OK && head.method == static_cast<uint64_t>(FrameKind::create)) ping();
      return done(head.code == PINTLE_OK ? Status()
                                         : Status(static_cast<Code>(std::min<uint32_t>(head.code, 16)),
                                                  std::string(message.substr(0, 4096))));
    }
    case FrameKind::pong: {
      std::lock_guard lock(lock_);
      if (head.id == pinged_) ponged_ = head.id;
      return;
    }
    case FrameKind::log: {
      std::vector<LogField> fields;
      const std::vector<std::string> list = texts(1);
      for (size_t i = 0; i + 1 < list.size() && i < 64; i += 2) fields.push_back({list[i], list[i + 1]});
      return node_.log(instance_.name(), std::min<uint32_t>(head.code, PINTLE_LOG_ERROR),
                       std::string(frame.parts.empty() ? Bytes() : frame.parts[0].substr(0, 65536)), std::move(fields));
    }
    case FrameKind::condition: {
      const std::vector<std::string> list = texts(0);
      if (list.size() == 3) instance_.set_condition({list[0], head.code != 0, list[1], list[2]});
      return;
    }
    case FrameKind::retired:
      return node_.retired(instance_);
    case FrameKind::metrics: {
      if (!frame.parts.empty())
        node_.engine().metrics().set_foreign(instance_.name(), std::string(frame.parts[0].substr(0, 1u << 20)));
      std::vector<std::function<void()>> wanted;
      {
        std::lock_guard lock(lock_);
        wanted.swap(metrics_wanted_);
      }
      for (auto& done : wanted) done();
      return;
    }
    case FrameKind::ask:
      return ask(frame);
    default:
      return kill("it sent a frame that only its host sends");
  }
}

/// What only this process can do for it.
void Isolated::ask(Frame& frame) {
  FrameHead told = frame_head(FrameKind::told, frame.head.id);
  Status outcome = invalid_argument("a request that does not add up");
  files::Descriptor result;
  std::vector<std::vector<std::string>> lists;
  for (Bytes part : frame.parts)
    if (Result<std::vector<std::string>> list = unpack(part); list.is_ok()) lists.push_back(std::move(*list));
  const auto what = static_cast<AskKind>(frame.head.code);
  if (what == AskKind::spawn && lists.size() == 4 && lists[0].size() == 2) {
    SpawnRequest request;
    request.program = lists[0][0];
    request.directory = lists[0][1];
    request.arguments = lists[1];
    request.environment = lists[2];
    request.cgroups = lists[3];
    request.flags = frame.head.count;
    size_t next = 0;  // bit i of `time`: descriptor i is /dev/null
    for (size_t i = 0; i < std::min<uint64_t>(frame.head.method, 64); ++i) {
      const bool null = (frame.head.time >> i) & 1;
      request.descriptors.push_back(null || next >= frame.descriptors.size() ? -1 : frame.descriptors[next++].get());
    }
    Result<StartedProcess> started =
        node_.processes().start(request, [weak = weak_from_this()](int32_t pid, int status) {
          const std::shared_ptr<Isolated> self = weak.lock();
          if (self == nullptr) return;
          self->peer_.post(frame_head(FrameKind::exited, static_cast<uint64_t>(pid), static_cast<uint32_t>(status)));
        });
    outcome = started.status();
    if (started) {
      told.method = static_cast<uint64_t>(started->pid);
      result = std::move(started->pidfd);
    }
  } else if (what == AskKind::listen && lists.size() == 1 && lists[0].size() == 2) {
    Result<int> socket = node_.listen(instance_, lists[0][0], lists[0][1]);
    outcome = socket.status();
    if (socket) result.reset(*socket);
  } else if (what == AskKind::listen_end && lists.size() == 1 && lists[0].size() == 1) {
    outcome = node_.listen_end(instance_, lists[0][0]);
  }
  told.code = static_cast<uint32_t>(outcome.code());
  const Bytes message = outcome.message();
  const int32_t descriptor = result.get();
  peer_.post(told, {&message, 1}, {&descriptor, result.valid() ? 1u : 0u});
}

}  // namespace

void ChildProcess::remove_remains() {
  Result<cgroup::Layout> layout = cgroup::Layout::detect();
  if (!layout) return;
  std::set<std::string> names;
  for (const std::string& folder : layout->folders(plugin_cgroups)) {
    Result<files::Descriptor> opened = files::open_folder(folder);
    Result<std::vector<std::string>> list =
        opened ? files::list_folder(opened->get()) : Result<std::vector<std::string>>(opened.status());
    if (list) names.insert(list->begin(), list->end());
  }
  for (const std::string& name : names) {
    const size_t dash = name.rfind('-');
    if (name.find('@') == std::string::npos || dash == std::string::npos) continue;
    const std::string pid = name.substr(dash + 1);
    // A daemon that replaced itself has its old PID; its new children come later than this runs, or are not empty.
    if (access(("/proc/" + pid).c_str(), F_OK) == 0 && pid != std::to_string(getpid())) continue;
    if (Result<std::vector<pid_t>> inside = layout->processes(std::string(plugin_cgroups) + "/" + name);
        inside && !inside->empty())
      continue;
    static_cast<void>(layout->remove(std::string(plugin_cgroups) + "/" + name, 0).is_ok());
  }
}

Result<std::shared_ptr<ChildProcess>> ChildProcess::start(Node& node, Instance& instance, ChildOptions options) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return status_from_errno(errno, "socketpair");
  files::Descriptor child_socket(pair[1]);
  auto child = std::make_shared<Isolated>(node, instance, std::move(options.on_death), files::Descriptor(pair[0]));
  if (Status launched = child->launch(options, child_socket.get()); !launched)
    return launched.with_context(options.plugin_host);
  return std::shared_ptr<ChildProcess>(std::move(child));
}

}  // namespace pintle::kernel
