#pragma once

/// Calls between plugins, seen from C++: the parts that generated stubs and skeletons are made of.
///
/// A *stub* (caller) turns `co_await stub.Attach(request)` into a message to a binding. A *skeleton* (implementer) is a class with
/// one virtual coroutine for each method; a plugin derives from it and overrides what it can do, the rest answers UNIMPLEMENTED.
///
///     class Bridge : public network::v1::PodNetwork {
///       Task<Result<network::v1::AttachResponse>> Attach(Call& call, const network::v1::AttachRequest& request) override;
///     };
///
///     network::v1::PodNetworkStub network = need<network::v1::PodNetworkStub>("network");
///     Result<network::v1::AttachResponse> answer = co_await network.Attach(request, {.timeout = 10s});
///
/// Streams. A method that returns `stream` gets a `StreamWriter` and awaits each write until the caller's credit allows it; on the
/// stub's side a function is called for each message, and the awaited result is the end of the stream.

#include <google/protobuf/message_lite.h>
#include <pintle/abi.h>

#include <array>
#include <chrono>
#include <deque>
#include <functional>
#include <pintle/buffer.hpp>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace pintle {

struct MethodInfo {
  uint32_t number;
  std::string_view name;
  bool streams;
  uint32_t since;
  std::string_view request;  ///< the messages' full names, "pintle.network.v1.AttachRequest"
  std::string_view response;
};

struct InterfaceInfo {
  std::string_view name;
  uint32_t revision;
  std::span<const MethodInfo> methods;
  std::span<const std::string_view> features;
  std::string_view schema;  ///< the file that defines it, without its ending: "pintle/network"
};

/// One provider that answers a need.
struct Binding {
  uint64_t id = 0;
  uint32_t revision = 0;
  uint64_t features = 0;
  bool retiring = false;
  std::string provider;  ///< the instance, "runtime-oci"
  std::string key;       ///< the same over restarts, "runtime-oci@2"

  explicit operator bool() const { return id != 0; }
  bool has_feature(unsigned bit) const { return (features >> bit) & 1; }
};

// ---- Caller --------------------------------------------------------------------------------------------------------------

/// Trivially destructible on purpose: it is written in braces inside of `co_await` expressions (see task.hpp).
struct CallOptions {
  std::chrono::nanoseconds timeout{0};  ///< zero: the host's default
  uint64_t parent = 0;                  ///< `Call::id()` of the call being served: its trace and deadline go on
  const Attachments* attach = nullptr;  ///< borrowed until the call has been accepted
  Attachments* receive = nullptr;       ///< where the reply's attachments go; null: dropped
  uint64_t* call_id = nullptr;          ///< where the id goes once the call is accepted, for `Host::cancel`
};

namespace detail {

/// A call under way: sends in `await_suspend`, is completed by the host.
class PendingCall {
 public:
  bool await_ready() const { return false; }
  bool await_suspend(std::coroutine_handle<> handle);

 protected:
  using Stream = std::function<void(std::span<const uint8_t> header, Attachments& attachments)>;

  PendingCall(Host* host, uint64_t binding, uint32_t method, const google::protobuf::MessageLite& request,
              google::protobuf::MessageLite& response, CallOptions options, Stream* stream)
      : host_(host),
        binding_(binding),
        method_(method),
        request_(request),
        response_(response),
        options_(options),
        stream_(stream) {}
  ~PendingCall() = default;
  Status take_status() { return std::move(status_); }

 private:
  static void completed(void* context, uint64_t call_id, const pintle_status* status, const pintle_message* reply);
  static void streamed(void* context, uint64_t call_id, const pintle_message* message);

  Host* host_;
  uint64_t binding_;
  uint32_t method_;
  const google::protobuf::MessageLite& request_;
  google::protobuf::MessageLite& response_;
  CallOptions options_;
  Stream* stream_;
  std::coroutine_handle<> handle_;
  Status status_;
};

template <class Response>
struct ResponseHolder {
  Response response;
};

}  // namespace detail

/// The awaitable of a unary call. The request is borrowed until it is awaited.
template <class Response>
class UnaryCall : detail::ResponseHolder<Response>, public detail::PendingCall {
 public:
  UnaryCall(Host* host, uint64_t binding, uint32_t method, const google::protobuf::MessageLite& request,
            CallOptions options)
      : PendingCall(host, binding, method, request, this->response, options, nullptr) {}
  UnaryCall(const UnaryCall&) = delete;
  Result<Response> await_resume() {
    Status status = take_status();
    if (!status) return status;
    return std::move(this->response);
  }
};

/// The awaitable of a call whose answer is a stream: `on_message` runs for each message, the result is the stream's end.
template <class Message>
class StreamCall : detail::ResponseHolder<Message>, public detail::PendingCall {
 public:
  using OnMessage = std::function<void(const Message&, Attachments&)>;
  StreamCall(Host* host, uint64_t binding, uint32_t method, const google::protobuf::MessageLite& request,
             OnMessage on_message, CallOptions options)
      : PendingCall(host, binding, method, request, this->response, options, &stream_),
        on_message_(std::move(on_message)) {
    stream_ = [this](std::span<const uint8_t> header, Attachments& attachments) {
      if (message_.ParseFromArray(header.data(), static_cast<int>(header.size()))) on_message_(message_, attachments);
    };
  }
  StreamCall(const StreamCall&) = delete;
  Status await_resume() { return take_status(); }

 private:
  OnMessage on_message_;
  Message message_;
  Stream stream_;
};

/// The base of generated stubs: a binding of one interface. Copyable; an empty one answers UNAVAILABLE.
class Stub {
 public:
  Stub() = default;
  Stub(Host& host, Binding binding) : host_(&host), binding_(std::move(binding)) {}
  const Binding& binding() const { return binding_; }
  explicit operator bool() const { return static_cast<bool>(binding_); }

 protected:
  Host* host_ = nullptr;
  Binding binding_;
};

// ---- Implementer ---------------------------------------------------------------------------------------------------------

class Implementation;

/// A call being served. Lives until the handler has ended.
class Call {
 public:
  Call(Host& host, const pintle_call& info, const pintle_message& message);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  uint64_t id() const { return id_; }
  /// Who calls, as the host knows it: "plugin:node-agent", "user:0".
  std::string_view caller() const { return caller_; }
  /// What is left until the deadline; nothing if there is none.
  std::optional<std::chrono::nanoseconds> remaining() const;
  /// What came with the request.
  Attachments& received() { return received_; }
  /// What goes with the reply.
  Attachments& reply() { return reply_; }
  bool is_cancelled() const { return cancelled_; }
  /// Runs when the caller has cancelled or the deadline has passed.
  void on_cancel(std::function<void()> function) { on_cancel_ = std::move(function); }
  Host& host() { return host_; }

  // For generated code.
  void finish(const Status& status, const google::protobuf::MessageLite* response);
  void cancel();
  void credit(uint32_t amount);
  Status send(const google::protobuf::MessageLite& message, const Attachments* attachments);
  uint32_t available_credit() const { return credit_; }
  void wait_for_credit(std::coroutine_handle<> handle) { waiting_ = handle; }
  /// The handler goes on after the turn that brought the call: what was borrowed for the turn is copied now.
  void outlive_turn(Implementation* implementation) {
    registered_ = implementation;
    owned_caller_ = caller_;
    caller_ = owned_caller_;
  }
  /// Sets the flag to false when this object ends.
  void watch_end(bool* alive) { alive_ = alive; }

 private:
  Host& host_;
  uint64_t id_;
  std::string_view caller_;
  std::string owned_caller_;
  std::chrono::steady_clock::time_point deadline_{};
  Attachments received_;
  Attachments reply_;
  uint32_t credit_;
  bool cancelled_ = false;
  bool finished_ = false;
  std::function<void()> on_cancel_;
  std::coroutine_handle<> waiting_;
  Implementation* registered_ = nullptr;
  bool* alive_ = nullptr;
};

/// Writes the messages of a stream, one after the other.
template <class Message>
class StreamWriter {
 public:
  explicit StreamWriter(Call& call) : call_(call) {}
  /// Awaits the caller's credit, then sends. CANCELLED once the caller has gone: end the handler.
  auto write(const Message& message, const Attachments* attachments = nullptr) {
    struct Awaiter {
      Call& call;
      const Message& message;
      const Attachments* attachments;
      bool await_ready() const { return call.available_credit() > 0 || call.is_cancelled(); }
      void await_suspend(std::coroutine_handle<> handle) { call.wait_for_credit(handle); }
      Status await_resume() const { return call.send(message, attachments); }
    };
    return Awaiter{call_, message, attachments};
  }
  /// Sends if there is credit, else false and nothing was sent.
  bool try_write(const Message& message, const Attachments* attachments = nullptr) {
    return call_.available_credit() > 0 && !call_.is_cancelled() && call_.send(message, attachments).is_ok();
  }
  /// Completes when credit has come or the caller has gone: for handlers that are fed from elsewhere.
  Task<void> next_credit() {
    CreditAwaiter awaiter{call_};
    co_await awaiter;
  }
  Call& call() { return call_; }

 private:
  struct CreditAwaiter {
    Call& call;
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> handle) { call.wait_for_credit(handle); }
    void await_resume() const {}
  };
  Call& call_;
};

/// The base of generated skeletons: one interface of a plugin.
class Implementation {
 public:
  virtual ~Implementation() = default;
  virtual const InterfaceInfo& interface_info() const = 0;
  /// Takes one call from the C edge.
  void handle(Host& host, const pintle_call& info, const pintle_message& message);
  void cancelled(uint64_t call_id);
  void credit(uint64_t call_id, uint32_t amount);
  void forget(uint64_t call_id) { calls_.erase(call_id); }
  size_t calls_under_way() const { return calls_.size(); }

 protected:
  /// Starts serving; returns whether the number is a method of this interface.
  virtual bool dispatch(std::unique_ptr<Call>& call, uint32_t method, std::span<const uint8_t> header) = 0;

  template <class Request, class Response, class Self>
  void serve(std::unique_ptr<Call>& call, std::span<const uint8_t> header,
             Task<Result<Response>> (Self::*method)(Call&, const Request&)) {
    Call& context = *call;
    serve_unary<Request, Response>(static_cast<Self*>(this), context, std::move(call), header, method);
  }
  template <class Request, class Message, class Self>
  void serve_stream(std::unique_ptr<Call>& call, std::span<const uint8_t> header,
                    Task<Status> (Self::*method)(Call&, const Request&, StreamWriter<Message>&)) {
    Call& context = *call;
    serve_streaming<Request, Message>(static_cast<Self*>(this), context, std::move(call), header, method);
  }

 private:
  template <class Request, class Response, class Self>
  static detail::Detached serve_unary(Self* self, Call& context, std::unique_ptr<Call> owner,
                                      std::span<const uint8_t> header,
                                      Task<Result<Response>> (Self::*method)(Call&, const Request&)) {
    std::unique_ptr<Call> call = std::move(owner);
    Request request;
    if (!parse(request, header, context)) co_return;
    Status failure;
    try {
      Task<Result<Response>> task = (self->*method)(context, request);
      Result<Response> result = co_await std::move(task);
      if (result) {
        context.finish(Status::ok(), &*result);
        co_return;
      }
      failure = result.status();
    } catch (...) {
      failure = status_of_current_exception();
    }
    context.finish(failure, nullptr);
  }

  template <class Request, class Message, class Self>
  static detail::Detached serve_streaming(Self* self, Call& context, std::unique_ptr<Call> owner,
                                          std::span<const uint8_t> header,
                                          Task<Status> (Self::*method)(Call&, const Request&, StreamWriter<Message>&)) {
    std::unique_ptr<Call> call = std::move(owner);
    Request request;
    if (!parse(request, header, context)) co_return;
    StreamWriter<Message> writer(context);
    Status end;
    try {
      Task<Status> task = (self->*method)(context, request, writer);
      end = co_await std::move(task);
    } catch (...) {
      end = status_of_current_exception();
    }
    const Message nothing;
    context.finish(end, &nothing);
  }

  static bool parse(google::protobuf::MessageLite& request, std::span<const uint8_t> header, Call& call);
  static Status status_of_current_exception() noexcept;

  std::unordered_map<uint64_t, Call*> calls_;
};

namespace detail {
template <class Response>
Task<Result<Response>> unimplemented_method(std::string_view interface_name, std::string_view method) {
  co_return unimplemented(std::string(interface_name) + "." + std::string(method) +
                          " is not implemented by this plugin");
}
inline Task<Status> unimplemented_stream(std::string_view interface_name, std::string_view method) {
  co_return unimplemented(std::string(interface_name) + "." + std::string(method) +
                          " is not implemented by this plugin");
}
}  // namespace detail

/// Hands messages to all who opened a stream; each subscriber's buffer is the same one, retained. Nothing is lost silently: what a
/// subscriber has no credit for waits, and one that falls `backlog` messages behind is ended with RESOURCE_EXHAUSTED, so that it
/// subscribes and lists again.
template <class Message>
class Broadcast {
 public:
  explicit Broadcast(size_t backlog = 4096) : backlog_(backlog) {}

  /// Serves one subscriber until it goes: what the handler of a streaming method returns.
  Task<Status> subscribe(StreamWriter<Message>& writer) {
    Subscriber self{writer, {}, false};
    subscribers_.push_back(&self);
    while (!writer.call().is_cancelled() && !self.overflowed) {
      Task<void> awake = writer.next_credit();
      co_await std::move(awake);
      while (!self.waiting.empty() && writer.try_write(self.waiting.front().first, &self.waiting.front().second)) {
        self.waiting.pop_front();
      }
    }
    std::erase(subscribers_, &self);
    if (self.overflowed) co_return resource_exhausted("the subscriber is too far behind: subscribe again, then list");
    co_return cancelled("the subscriber has gone");
  }
  /// To how many it went (or will go).
  uint32_t publish(const Message& message, const Attachments* attachments = nullptr) {
    uint32_t reached = 0;
    std::vector<Subscriber*> overflowing;
    for (Subscriber* subscriber : subscribers_) {
      if (subscriber->waiting.empty() && subscriber->writer.try_write(message, attachments)) {
        ++reached;
      } else if (subscriber->waiting.size() < backlog_) {
        subscriber->waiting.emplace_back(message,
                                         Attachments{attachments ? attachments->buffers : std::vector<Buffer>(), {}});
        ++reached;
      } else {
        subscriber->overflowed = true;
        overflowing.push_back(subscriber);
      }
    }
    for (Subscriber* subscriber : overflowing) subscriber->writer.call().credit(0);  // wakes it, to end
    return reached;
  }
  size_t subscribers() const { return subscribers_.size(); }

 private:
  struct Subscriber {
    StreamWriter<Message>& writer;
    std::deque<std::pair<Message, Attachments>> waiting;
    bool overflowed;
  };
  size_t backlog_;
  std::vector<Subscriber*> subscribers_;
};

}  // namespace pintle
