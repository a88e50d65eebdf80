// pintle-plugin-host: one plugin in a process of its own.
//
// Descriptor 3 is one end of a socketpair; the other end is pintled. The first frame says what to run: the plugin's sealed
// file comes with it. Then the process gives up what the plugin may not have, loads it, and serves until the socket ends.

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <deque>

#include "kernel/isolation/confinement.hpp"
#include "kernel/isolation/peer.hpp"
#include "kernel/loader/library.hpp"

namespace pintle::kernel {
namespace {

constexpr int socket_descriptor = 3;

class PluginHost final : public Services {
 public:
  PluginHost() : engine_(*this, {.threads = 1, .blocking_threads = 16}) {}

  int run();

  Result<pintle_process> spawn(Instance&, const pintle_spawn&, pintle_exited, void* context) override;
  Result<int> listen(Instance&, const std::string& name, const std::string& address) override;
  Status listen_end(Instance&, const std::string& name) override;
  void log(const std::string& plugin, uint32_t level, std::string message, std::vector<LogField> fields) override;
  void condition_changed(Instance&) override;
  void retired(Instance&) override;
  void failed(Instance&, const std::string& reason) override;

 private:
  /// pintled, as the plugin's engine sees it: who calls the plugin, and who answers its needs.
  class ChildEnd final : public Peer {
   public:
    ChildEnd(PluginHost& host, Instance& instance, files::Descriptor socket)
        : Peer(host.engine_, instance, std::move(socket), true), host_(host) {}
    void lost(const std::string&) override { _exit(0); }
    uint64_t binding_of(const FrameHead& head) override {
      return head.code < host_.provided_.size() ? host_.provided_[head.code] : 0;
    }
    uint64_t remote_binding(uint32_t index) override {
      std::lock_guard lock(host_.lock_);
      return index < host_.remote_bindings_.size() ? host_.remote_bindings_[index].remote : 0;
    }
    void post(const FrameHead& head, std::span<const Bytes> parts = {}, std::span<const int32_t> descriptors = {}) {
      send(head, parts, descriptors);
    }

   private:
    PluginHost& host_;
  };

  struct Told {
    Status status;
    uint64_t value = 0;
    files::Descriptor descriptor;
  };

  Status load(Frame& hello);
  void take(Frame& frame);
  void take_bindings(const Frame& frame);
  void done(const FrameHead& to, const Status& status);
  Result<Told> ask(FrameHead head, std::span<const Bytes> parts, std::span<const int32_t> descriptors);

  Engine engine_;
  Instance* plugin_ = nullptr;
  Instance* host_ = nullptr;
  ChildEnd* peer_ = nullptr;
  std::vector<uint64_t> provided_;  // local bindings of pintled to the plugin, by interface
  std::mutex lock_;
  struct RemoteBinding {
    uint64_t remote = 0, local = 0;
  };
  std::vector<RemoteBinding> remote_bindings_;
  std::map<uint32_t, std::vector<uint64_t>> of_need_;  // remote bindings told last
  std::condition_variable told_;
  std::map<uint64_t, std::optional<Told>> asked_;
  std::map<int32_t, std::pair<pintle_exited, void*>> exits_;
  std::map<int32_t, int> early_exits_;  // of children whose pid the plugin has not been told yet
  uint64_t last_ask_ = 0;
  std::deque<Frame> postponed_;
  pthread_t reader_{};
};

int PluginHost::run() {
  signal(SIGPIPE, SIG_IGN);
  mallopt(M_ARENA_MAX, 2);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 1 << 20);
  pthread_setattr_default_np(&attributes);
  host_ = &engine_.add({"pintled", "pintled", "", {}});
  auto peer = std::make_unique<ChildEnd>(*this, *host_, files::Descriptor(socket_descriptor));
  peer_ = peer.get();
  host_->set_handler(std::move(peer));
  reader_ = pthread_self();
  Frame frame;
  std::string why;
  if (peer_->wire().receive(frame, true, why) != Wire::Got::frame || frame.head.kind != FrameKind::hello) {
    std::fprintf(stderr, "pintle-plugin-host: it is started by pintled, with its socket as descriptor 3\n");
    return 2;
  }
  if (Status loaded = load(frame); !loaded.is_ok()) {
    log("", PINTLE_LOG_ERROR, loaded.message(), {});
    return 3;
  }
  for (;;) {
    if (postponed_.empty()) {
      switch (peer_->wire().receive(frame, true, why)) {
        case Wire::Got::frame:
          break;
        case Wire::Got::nothing:
          continue;
        case Wire::Got::end:
          _exit(0);
        case Wire::Got::broken:
          _exit(4);
      }
    } else {
      frame = std::move(postponed_.front());
      postponed_.pop_front();
    }
    take(frame);
  }
}

Status PluginHost::load(Frame& hello) {
  Result<std::vector<std::string>> names =
      hello.parts.size() == 2 ? unpack(hello.parts[0]) : Result<std::vector<std::string>>(invalid_argument("no names"));
  Result<std::vector<std::string>> capabilities = hello.parts.size() == 2 ? unpack(hello.parts[1]) : names;
  if (!names || names->size() != 4 || !capabilities || hello.descriptors.size() != hello.head.count + 1)
    return invalid_argument("a greeting that does not add up");
  VerifiedPlugin plugin;
  Result<std::shared_ptr<SealedFile>> file = SealedFile::adopt(std::move(hello.descriptors[0]), (*names)[3]);
  if (!file) return file.status();
  plugin.file = *file;
  for (size_t i = 1; i < hello.descriptors.size(); ++i) {
    Result<std::shared_ptr<SealedFile>> library =
        SealedFile::adopt(std::move(hello.descriptors[i]), "library " + std::to_string(i));
    if (!library) return library.status();
    (*library)->unmap();
    plugin.libraries.push_back(*library);
  }
  Result<PluginFile> contents = read_plugin_file(plugin.file->bytes(), (*names)[3]);
  if (!contents) return contents.status();
  plugin.file->unmap();
  plugin.contents = *contents;
  Result<Manifest> manifest = parse_manifest(contents->manifest, (*names)[3]);
  if (!manifest) return manifest.status();
  if (Status confined = confine({*capabilities, hello.head.time}); !confined.is_ok()) return confined;
  engine_.reactor().on_stuck([this](const char* owner, uint64_t lasted, const std::string& stack) {
    log("", PINTLE_LOG_ERROR,
        "a turn of " + std::string(owner) + " has lasted for " + std::to_string(lasted / 1'000'000) + " ms",
        {{"stack", stack}});
  });
  engine_.start();
  engine_.reactor().enlist();
  plugin_ = &engine_.add({(*names)[0], (*names)[1], (*names)[2], {}});
  plugin_->log_level = hello.head.code;
  for (uint32_t i = 0; i < manifest->provides.size(); ++i)
    provided_.push_back(engine_.bind(*host_, *plugin_, i, manifest->provides[i].interface));
  static Loader loader({}, {});
  Result<const pintle_plugin*> entry = loader.load(plugin);
  if (!entry) return entry.status();
  plugin_->set_handler(make_plugin_handler(*entry));
  return {};
}

void PluginHost::done(const FrameHead& to, const Status& status) {
  FrameHead head = frame_head(FrameKind::done, to.id);
  head.method = static_cast<uint64_t>(to.kind);
  head.code = static_cast<uint32_t>(status.code());
  const Bytes message = status.message();
  peer_->post(head, {&message, 1});
}

void PluginHost::take(Frame& frame) {
  const FrameHead head = frame.head;
  if (peer_->take(frame)) return;
  switch (head.kind) {
    case FrameKind::create: {
      Result<std::vector<std::string>> texts = unpack(frame.parts.at(0));
      if (!texts || texts->size() != 5) _exit(4);
      plugin_->create({head.code, (*texts)[0], (*texts)[1], (*texts)[2], (*texts)[3], (*texts)[4]},
                      [this, head](Status status) { done(head, status); });
      return;
    }
    case FrameKind::step:
      return plugin_->step(static_cast<Instance::Step>(head.count),
                           [this, head](Status status) { done(head, status); });
    case FrameKind::destroy:
      return plugin_->destroy([this, head](Status status) { done(head, status); });
    case FrameKind::bindings:
      return take_bindings(frame);
    case FrameKind::ping:
      return post_turn(plugin_->lane(), [this, head] { peer_->post(frame_head(FrameKind::pong, head.id)); });
    case FrameKind::log_level:
      plugin_->log_level = head.code;
      return;
    case FrameKind::metrics: {
      FrameHead answer = frame_head(FrameKind::metrics);
      const std::string text = engine_.metrics().render();
      const Bytes part = text;
      return peer_->post(answer, {&part, 1});
    }
    case FrameKind::told: {
      std::lock_guard lock(lock_);
      auto asked = asked_.find(head.id);
      if (asked == asked_.end()) return;
      asked->second =
          Told{Status(static_cast<Code>(head.code), std::string(frame.parts.empty() ? Bytes() : frame.parts[0])),
               head.method, frame.descriptors.empty() ? files::Descriptor() : std::move(frame.descriptors[0])};
      told_.notify_all();
      return;
    }
    case FrameKind::exited: {
      const auto pid = static_cast<int32_t>(head.id);
      std::lock_guard lock(lock_);
      auto found = exits_.find(pid);
      if (found == exits_.end()) {
        early_exits_[pid] = static_cast<int>(head.code);
        return;
      }
      plugin_->process_exited(plugin_->life(), found->second.first, found->second.second, pid,
                              static_cast<int>(head.code));
      exits_.erase(found);
      return;
    }
    default:
      _exit(4);
  }
}

void PluginHost::take_bindings(const Frame& frame) {
  Result<std::vector<std::string>> names = unpack(frame.parts.at(1));
  const Bytes fixed = frame.parts.at(0);
  const size_t count = fixed.size() / 32;
  if (!names || names->size() != 2 * count) _exit(4);
  std::vector<pintle_binding> bindings;
  std::lock_guard lock(lock_);
  std::vector<uint64_t>& former = of_need_[frame.head.code];
  std::vector<uint64_t> present;
  for (size_t i = 0; i < count; ++i) {
    uint64_t numbers[4];
    std::memcpy(numbers, fixed.data() + i * sizeof numbers, sizeof numbers);
    auto slot = std::find_if(remote_bindings_.begin(), remote_bindings_.end(),
                             [&](const RemoteBinding& b) { return b.remote == numbers[0]; });
    if (slot == remote_bindings_.end()) {
      slot = std::find_if(remote_bindings_.begin(), remote_bindings_.end(),
                          [](const RemoteBinding& b) { return b.remote == 0; });
      if (slot == remote_bindings_.end()) slot = remote_bindings_.emplace(slot);
      *slot = {numbers[0], engine_.bind(*plugin_, *host_, static_cast<uint32_t>(slot - remote_bindings_.begin()))};
    }
    present.push_back(numbers[0]);
    bindings.push_back({sizeof(pintle_binding),
                        static_cast<uint32_t>(numbers[1]),
                        slot->local,
                        static_cast<uint32_t>(numbers[2]),
                        0,
                        numbers[3],
                        {},
                        {}});
  }
  for (uint64_t remote : former) {
    if (std::find(present.begin(), present.end(), remote) != present.end()) continue;
    for (RemoteBinding& slot : remote_bindings_) {
      if (slot.remote != remote) continue;
      engine_.unbind(slot.local);
      slot = {};
    }
  }
  former = std::move(present);
  plugin_->tell_bindings(frame.head.code, std::move(bindings), std::move(*names));
}

// ---- What the plugin asks of the host ----------------------------------------------------------------------------------------

Result<PluginHost::Told> PluginHost::ask(FrameHead head, std::span<const Bytes> parts,
                                         std::span<const int32_t> descriptors) {
  head.kind = FrameKind::ask;
  std::unique_lock lock(lock_);
  const uint64_t id = head.id = ++last_ask_;
  asked_.emplace(id, std::nullopt);
  lock.unlock();
  peer_->post(head, parts, descriptors);
  lock.lock();
  // The reader's own turn may ask: then it reads on by itself, and keeps what is not the answer for later.
  while (!asked_.at(id).has_value()) {
    if (!pthread_equal(pthread_self(), reader_)) {
      told_.wait(lock);
      continue;
    }
    lock.unlock();
    Frame frame;
    std::string why;
    if (peer_->wire().receive(frame, true, why) != Wire::Got::frame) _exit(0);
    if (frame.head.kind == FrameKind::told || frame.head.kind == FrameKind::exited) {
      take(frame);
    } else {
      postponed_.push_back(std::move(frame));
    }
    lock.lock();
  }
  Told out = std::move(*asked_.at(id));
  asked_.erase(id);
  if (!out.status.is_ok()) return out.status;
  return out;
}

Result<pintle_process> PluginHost::spawn(Instance&, const pintle_spawn& spawn, pintle_exited exited, void* context) {
  if (spawn.argument_count > 4096 || spawn.environment_count > 4096 || spawn.cgroup_count > 32 ||
      spawn.descriptor_count > PINTLE_MAX_DESCRIPTORS)
    return invalid_argument("more than 4096 arguments or variables, 16 descriptors or 32 cgroups");
  const auto list = [](const pintle_text* texts, uint32_t count) {
    std::vector<std::string_view> out;
    for (uint32_t i = 0; i < count; ++i) out.push_back(view(texts[i]));
    return pack(out);
  };
  const std::string head_texts = pack({view(spawn.program), spawn.directory.size != 0 ? view(spawn.directory) : "/"});
  const std::string arguments =
      spawn.argument_count != 0 ? list(spawn.arguments, spawn.argument_count) : pack({view(spawn.program)});
  const std::string environment = list(spawn.environment, spawn.environment_count),
                    cgroups = list(spawn.cgroups, spawn.cgroup_count);
  FrameHead head;
  head.code = static_cast<uint32_t>(AskKind::spawn);
  head.count = spawn.flags;
  head.method = spawn.descriptor_count;
  std::vector<int32_t> descriptors;
  for (uint32_t i = 0; i < spawn.descriptor_count; ++i) {
    if (spawn.descriptors[i] < 0) {
      head.time |= 1ull << i;
    } else {
      descriptors.push_back(spawn.descriptors[i]);
    }
  }
  const Bytes parts[] = {head_texts, arguments, environment, cgroups};
  Result<Told> told = ask(head, parts, descriptors);
  if (!told) return told.status();
  const auto pid = static_cast<int32_t>(told->value);
  std::lock_guard lock(lock_);
  if (auto early = early_exits_.find(pid); early != early_exits_.end()) {
    plugin_->process_exited(plugin_->life(), exited, context, pid, early->second);
    early_exits_.erase(early);
  } else {
    exits_[pid] = {exited, context};
  }
  return pintle_process{sizeof(pintle_process), pid, told->descriptor.release(), 0};
}

Result<int> PluginHost::listen(Instance&, const std::string& name, const std::string& address) {
  FrameHead head;
  head.code = static_cast<uint32_t>(AskKind::listen);
  const std::string texts = pack({name, address});
  const Bytes part = texts;
  Result<Told> told = ask(head, {&part, 1}, {});
  if (!told) return told.status();
  return told->descriptor.release();
}

Status PluginHost::listen_end(Instance&, const std::string& name) {
  FrameHead head;
  head.code = static_cast<uint32_t>(AskKind::listen_end);
  const std::string texts = pack({name});
  const Bytes part = texts;
  return ask(head, {&part, 1}, {}).status();
}

void PluginHost::log(const std::string&, uint32_t level, std::string message, std::vector<LogField> fields) {
  FrameHead head = frame_head(FrameKind::log, 0, level);
  std::vector<std::string_view> texts;
  for (const LogField& field : fields) {
    texts.push_back(field.name);
    texts.push_back(field.value);
  }
  const std::string packed = pack(texts);
  const Bytes parts[] = {message, packed};
  peer_->post(head, parts);
}

void PluginHost::condition_changed(Instance& instance) {
  const std::vector<Condition> conditions = instance.conditions();
  for (const Condition& condition : conditions) {
    FrameHead head = frame_head(FrameKind::condition, 0, condition.is_true);
    const std::string texts = pack({condition.type, condition.reason, condition.message});
    const Bytes part = texts;
    peer_->post(head, {&part, 1});
  }
}

void PluginHost::retired(Instance&) { peer_->post(frame_head(FrameKind::retired)); }

/// Its state is anybody's guess: a new process is better.
void PluginHost::failed(Instance& instance, const std::string& reason) {
  log(instance.name(), PINTLE_LOG_ERROR, reason, {});
  abort();
}

}  // namespace
}  // namespace pintle::kernel

int main() {
  static pintle::kernel::PluginHost host;
  return host.run();
}
