#include "cri/grpc_server.hpp"

#include <fcntl.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "cri/coordination.hpp"

namespace pintle::cri {
namespace {

using namespace std::chrono_literals;

constexpr int kMaxMessage = 16 << 20;  // what kubelet and crictl use
constexpr size_t kQuotaBytes = 48u << 20;
constexpr uint32_t kStreamCredit = 64;

struct Method {
  Implementation* implementation;
  uint32_t number;
  bool streams;
};

grpc::Slice slice_of(const uint8_t* bytes, size_t size) { return {bytes, size}; }

grpc::ByteBuffer buffer_of(const uint8_t* bytes, size_t size) {
  const grpc::Slice slice = slice_of(bytes, size);
  return {&slice, 1};
}

}  // namespace

/// One call on the wire. Born on gRPC's thread, which owns it until every operation it began has ended; the lane knows it by id.
struct WireCall {
  enum class Event { arrived, read, written, finished, done };
  struct Tag {
    WireCall* call;
    Event event;
  };

  WireCall(uint64_t number, grpc::AsyncGenericService& service, grpc::ServerCompletionQueue& queue)
      : id(number), stream(&context) {
    operations = 2;
    context.AsyncNotifyWhenDone(&done);
    service.RequestCall(&context, &stream, &queue, &queue, &arrived);
  }

  const uint64_t id;
  grpc::GenericServerContext context;
  grpc::GenericServerAsyncReaderWriter stream;
  grpc::ByteBuffer request;
  Method method{};
  std::chrono::steady_clock::time_point deadline{};
  Tag arrived{this, Event::arrived}, read{this, Event::read}, written{this, Event::written},
      finished{this, Event::finished}, done{this, Event::done};
  std::atomic<int> operations{0};

  // The way back. Written by the lane, continued by gRPC's thread.
  std::mutex mutex;
  std::deque<grpc::ByteBuffer> unsent;
  bool writing = false;
  bool ending = false;
  bool ended = false;
  grpc::Status end;

  void finish(const grpc::Status& status) {
    ended = true;
    operations.fetch_add(1);
    stream.Finish(status, &finished);
  }
  /// With the mutex held: begins the next write, or the end once all is written.
  void advance() {
    if (writing || ended) return;
    if (!unsent.empty()) {
      writing = true;
      operations.fetch_add(1);
      const grpc::ByteBuffer next = std::move(unsent.front());
      unsent.pop_front();
      stream.Write(next, &written);
    } else if (ending) {
      finish(end);
    }
  }
};

struct GrpcServer::State : std::enable_shared_from_this<GrpcServer::State> {
  State(Host& real_host, std::string caller_name, const std::vector<Implementation*>& served)
      : host(real_host), caller(std::move(caller_name)), ended(real_host) {
    for (Implementation* implementation : served) {
      const InterfaceInfo& info = implementation->interface_info();
      for (const MethodInfo& method : info.methods) {
        methods.emplace("/" + std::string(info.name) + "/" + std::string(method.name),
                        Method{implementation, method.number, method.streams});
      }
    }
    api.size = sizeof api;
    api.complete = &State::complete;
    api.send = &State::send;
    api.log = [](pintle_host* self, uint32_t level, pintle_text message, const pintle_field* fields, uint32_t count) {
      Host& real = from(self).host;
      real.api()->log(real.raw(), level, message, fields, count);
    };
    config.size = sizeof config;
    facade.emplace(&api, reinterpret_cast<pintle_host*>(this), config);
  }

  static State& from(pintle_host* self) { return *reinterpret_cast<State*>(self); }

  // ---- Lane -------------------------------------------------------------------------------------------------------
  Status listen(UniqueFd listening) {
    const int flags = ::fcntl(listening.get(), F_GETFL);
    if (flags < 0 || ::fcntl(listening.get(), F_SETFL, flags | O_NONBLOCK) != 0)
      return status_from_errno(errno, "set up the CRI socket");
    socket = std::move(listening);
    Result<Watch> watching = host.watch(socket.get(), POLLIN, [this](uint32_t) { accept(); });
    if (!watching) return watching.status();
    watch = std::move(*watching);
    return Status::ok();
  }

  void accept() {
    for (;;) {
      UniqueFd connection(::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!connection) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno != EAGAIN)
          host.warn("a connection to the CRI socket could not be accepted",
                    {{"why", status_from_errno(errno, "accept").message()}});
        return;
      }
      if (!server && !begin()) return;
      grpc::AddInsecureChannelFromFd(server.get(), connection.release());
    }
  }

  bool begin() {
    grpc::ServerBuilder builder;
    builder.RegisterAsyncGenericService(&service);
    grpc::ResourceQuota quota("cri");
    quota.Resize(kQuotaBytes);
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(kMaxMessage);
    builder.SetMaxSendMessageSize(kMaxMessage);
    // A Unix socket has no bandwidth to probe.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    queue = builder.AddCompletionQueue();
    server = builder.BuildAndStart();
    if (!server) {
      host.error("gRPC could not be started: the CRI socket does not answer");
      return false;
    }
    thread = std::thread([this] { run(); });
    return true;
  }

  void serve(WireCall* wire) {
    if (closed) return release(wire);
    calls.emplace(wire->id, wire);
    grpc::Slice slice;
    pintle_message message{};
    message.size = sizeof message;
    // One contiguous piece is what the parser wants; small requests are one already.
    if (wire->request.TrySingleSlice(&slice).ok() || wire->request.DumpToSingleSlice(&slice).ok()) {
      message.header = slice.begin();
      message.header_size = slice.size();
    }
    pintle_call info{};
    info.size = sizeof info;
    info.method = wire->method.number;
    info.call_id = wire->id;
    info.caller = text_of(caller);
    if (wire->method.streams) info.initial_credit = kStreamCredit;
    if (wire->deadline != std::chrono::steady_clock::time_point{}) {
      const auto left = wire->deadline - std::chrono::steady_clock::now();
      info.remaining_ns = static_cast<uint64_t>(std::max<int64_t>(1, std::chrono::nanoseconds(left).count()));
    }
    wire->method.implementation->handle(*facade, info, message);
  }

  void cancelled(uint64_t id, Implementation* implementation) {
    if (calls.contains(id)) implementation->cancelled(id);
  }
  void credit(uint64_t id, Implementation* implementation) {
    if (calls.contains(id)) implementation->credit(id, 1);
  }

  static pintle_code complete(pintle_host* self, uint64_t call_id, const pintle_status* status,
                              const pintle_message* reply) {
    State& state = from(self);
    const auto found = state.calls.find(call_id);
    if (found == state.calls.end()) return PINTLE_NOT_FOUND;
    WireCall* wire = found->second;
    state.calls.erase(found);
    const grpc::Status end(static_cast<grpc::StatusCode>(status->code), std::string(view(status->message)));
    {
      const std::lock_guard<std::mutex> guard(wire->mutex);
      if (end.ok() && reply && !wire->method.streams) {
        wire->ended = true;
        wire->operations.fetch_add(1);
        wire->stream.WriteAndFinish(buffer_of(reply->header, reply->header_size), grpc::WriteOptions(), end,
                                    &wire->finished);
      } else {
        wire->ending = true;
        wire->end = end;
        wire->advance();
      }
    }
    state.release(wire);
    if (state.calls.empty()) state.ended.notify_all();
    return PINTLE_OK;
  }

  static pintle_code send(pintle_host* self, uint64_t call_id, const pintle_message* message) {
    const auto found = from(self).calls.find(call_id);
    if (found == from(self).calls.end()) return PINTLE_NOT_FOUND;
    WireCall* wire = found->second;
    const std::lock_guard<std::mutex> guard(wire->mutex);
    wire->unsent.push_back(buffer_of(message->header, message->header_size));
    wire->advance();
    return PINTLE_OK;
  }

  // ---- gRPC's thread ----------------------------------------------------------------------------------------------
  void run() {
    next_call();
    void* tag = nullptr;
    bool good = false;
    while (queue->Next(&tag, &good)) {
      const auto [wire, event] = *static_cast<WireCall::Tag*>(tag);
      handle(wire, event, good);
      release(wire);
    }
  }

  void next_call() { new WireCall(next_id.fetch_add(1), service, *queue); }

  void handle(WireCall* wire, WireCall::Event event, bool good) {
    switch (event) {
      case WireCall::Event::arrived:
        if (!good) {
          // The server ends. "Done" never comes for a call that has not arrived.
          wire->operations.fetch_sub(1);
          return;
        }
        next_call();
        if (const auto known = methods.find(wire->context.method()); known != methods.end()) {
          wire->method = known->second;
          if (wire->context.deadline() != std::chrono::system_clock::time_point::max()) {
            wire->deadline =
                std::chrono::steady_clock::now() + (wire->context.deadline() - std::chrono::system_clock::now());
          }
          wire->operations.fetch_add(1);
          wire->stream.Read(&wire->request, &wire->read);
        } else {
          const std::lock_guard<std::mutex> guard(wire->mutex);
          wire->finish(
              {grpc::StatusCode::UNIMPLEMENTED, "method " + wire->context.method() + " is not served here: CRI v1 is"});
        }
        return;
      case WireCall::Event::read:
        if (!good) {
          const std::lock_guard<std::mutex> guard(wire->mutex);
          wire->finish({grpc::StatusCode::INVALID_ARGUMENT, "the call came without a request"});
          return;
        }
        wire->operations.fetch_add(1);  // the lane's: until `complete`
        host.post([self = shared_from_this(), wire] { self->serve(wire); });
        return;
      case WireCall::Event::written: {
        const std::lock_guard<std::mutex> guard(wire->mutex);
        wire->writing = false;
        if (!good) wire->unsent.clear();
        wire->advance();
        if (good)
          host.post([self = shared_from_this(), id = wire->id, implementation = wire->method.implementation] {
            self->credit(id, implementation);
          });
        return;
      }
      case WireCall::Event::done:
        if (wire->context.IsCancelled() && wire->method.implementation) {
          host.post([self = shared_from_this(), id = wire->id, implementation = wire->method.implementation] {
            self->cancelled(id, implementation);
          });
        }
        return;
      case WireCall::Event::finished:
        return;
    }
  }

  /// An operation has ended; the last one takes the call with it.
  void release(WireCall* wire) {
    if (wire->operations.fetch_sub(1) == 1) delete wire;
  }

  /// Ends what is still under way, as a host does at a deadline: what its handler answers later finds no call.
  void close() {
    watch = Watch();
    closed = true;
    const std::string why = "the CRI service is restarting: try again";
    pintle_status status{};
    status.size = sizeof status;
    status.code = PINTLE_UNAVAILABLE;
    status.message = text_of(why);
    // Each one anew: a handler that learns that its client has gone may end others with it.
    while (!calls.empty()) {
      const uint64_t id = calls.begin()->first;
      Implementation* implementation = calls.begin()->second->method.implementation;
      complete(reinterpret_cast<pintle_host*>(this), id, &status, nullptr);
      implementation->cancelled(id);
    }
  }

  /// Blocks until gRPC's threads have ended. Any thread, after `close`; two may be at it, when a host does not wait for `drain`.
  void end() {
    const std::lock_guard<std::mutex> guard(end_mutex);
    if (!server) return;
    server->Shutdown(std::chrono::system_clock::now() + 100ms);
    queue->Shutdown();
    thread.join();
    server.reset();
  }

  Host& host;
  const std::string caller;
  std::unordered_map<std::string, Method> methods;
  pintle_host_api api{};
  pintle_instance_config config{};
  std::optional<Host> facade;
  UniqueFd socket;
  Watch watch;
  std::unordered_map<uint64_t, WireCall*> calls;  // being served
  Notification ended;
  bool closed = false;
  std::atomic<uint64_t> next_id{1};
  grpc::AsyncGenericService service;
  std::unique_ptr<grpc::ServerCompletionQueue> queue;
  std::unique_ptr<grpc::Server> server;
  std::thread thread;
  std::mutex end_mutex;
};

GrpcServer::GrpcServer(Host& host, std::string caller, std::vector<Implementation*> implementations)
    : state_(std::make_shared<State>(host, std::move(caller), implementations)) {}

GrpcServer::~GrpcServer() {
  state_->close();
  state_->end();
}

Status GrpcServer::listen(UniqueFd socket) { return state_->listen(std::move(socket)); }

size_t GrpcServer::calls_under_way() const { return state_->calls.size(); }

Task<void> GrpcServer::stop(std::chrono::nanoseconds patience) {
  state_->watch = Watch();
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!state_->calls.empty()) {
    Task<bool> waiting = state_->ended.wait(deadline - std::chrono::steady_clock::now());
    if (!co_await std::move(waiting)) break;
  }
  state_->close();
  auto end = [state = state_] {
    state->end();
    return Status::ok();
  };
  Task<Status> ending = state_->host.blocking(std::move(end));
  (void)co_await std::move(ending);
}

}  // namespace pintle::cri
