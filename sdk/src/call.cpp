#include <fcntl.h>
#include <unistd.h>

#include <pintle/call.hpp>

namespace pintle {
namespace {

constexpr uint32_t stream_credit = 64;

/// Shows a Protobuf message and attachments as a `pintle_message` while a function runs.
template <class F>
auto with_message(const google::protobuf::MessageLite* header, const Attachments* attachments, F&& function) {
  uint8_t small[1024];
  std::string large;
  pintle_message message{};
  message.size = sizeof(message);
  if (header) {
    message.header_size = header->ByteSizeLong();
    uint8_t* bytes = small;
    if (message.header_size > sizeof(small)) {
      large.resize(message.header_size);
      bytes = reinterpret_cast<uint8_t*>(large.data());
    }
    header->SerializeWithCachedSizesToArray(bytes);
    message.header = bytes;
  }
  if (!attachments || (attachments->buffers.empty() && attachments->descriptors.empty())) return function(message);
  std::vector<pintle_buffer*> buffers;
  std::vector<int32_t> descriptors;
  for (const Buffer& buffer : attachments->buffers) buffers.push_back(buffer.get());
  for (const UniqueFd& descriptor : attachments->descriptors) descriptors.push_back(descriptor.get());
  message.buffers = buffers.data();
  message.buffer_count = static_cast<uint32_t>(buffers.size());
  message.descriptors = descriptors.data();
  message.descriptor_count = static_cast<uint32_t>(descriptors.size());
  return function(message);
}

void keep(const pintle_message& message, Attachments& attachments) {
  for (uint32_t i = 0; i < message.buffer_count; ++i) attachments.buffers.push_back(Buffer::share(message.buffers[i]));
  for (uint32_t i = 0; i < message.descriptor_count; ++i) {
    attachments.descriptors.emplace_back(fcntl(message.descriptors[i], F_DUPFD_CLOEXEC, 3));
  }
}

}  // namespace

// ---- Caller --------------------------------------------------------------------------------------------------------------

namespace detail {

bool PendingCall::await_suspend(std::coroutine_handle<> handle) {
  handle_ = handle;
  if (!host_ || binding_ == 0) {
    status_ = unavailable("no plugin provides what was called: look at `pintle status`");
    return false;
  }
  pintle_call_options options{};
  options.size = sizeof(options);
  options.timeout_ns = static_cast<uint64_t>(options_.timeout.count() > 0 ? options_.timeout.count() : 0);
  options.parent_call_id = options_.parent;
  if (stream_) {
    options.initial_credit = stream_credit;
    options.on_message = &PendingCall::streamed;
  }
  uint64_t call_id = 0;
  const pintle_code code = with_message(&request_, options_.attach, [&](const pintle_message& message) {
    return host_->api()->call(host_->raw(), binding_, method_, &message, &options, &PendingCall::completed, this,
                              &call_id);
  });
  if (code != PINTLE_OK) {
    status_ =
        Status(static_cast<Code>(code), code == PINTLE_RESOURCE_EXHAUSTED
                                            ? "too many calls to this plugin are under way: try again"
                                            : "the call was not accepted: its provider has gone or may not be called");
    return false;
  }
  if (options_.call_id) *options_.call_id = call_id;
  return true;
}

void PendingCall::completed(void* context, uint64_t, const pintle_status* status, const pintle_message* reply) {
  auto* self = static_cast<PendingCall*>(context);
  if (status->code != PINTLE_OK) {
    self->status_ = Status(static_cast<Code>(status->code), std::string(view(status->message)));
  } else if (reply && !self->stream_ &&
             !self->response_.ParseFromArray(reply->header, static_cast<int>(reply->header_size))) {
    self->status_ = internal_error("the provider's answer is not the message that its interface promises");
  } else if (reply && self->options_.receive) {
    keep(*reply, *self->options_.receive);
  }
  self->handle_.resume();
}

void PendingCall::streamed(void* context, uint64_t call_id, const pintle_message* message) {
  auto* self = static_cast<PendingCall*>(context);
  Attachments attachments;
  keep(*message, attachments);
  try {
    (*self->stream_)({message->header, message->header_size}, attachments);
  } catch (const std::exception& error) {
    self->host_->error("an exception left the handler of a stream", {{"what", error.what()}});
  }
  self->host_->api()->grant(self->host_->raw(), call_id, 1);
}

}  // namespace detail

// ---- Implementer ---------------------------------------------------------------------------------------------------------

Call::Call(Host& host, const pintle_call& info, const pintle_message& message)
    : host_(host), id_(info.call_id), caller_(view(info.caller)), credit_(info.initial_credit) {
  if (info.remaining_ns) deadline_ = std::chrono::steady_clock::now() + std::chrono::nanoseconds(info.remaining_ns);
  keep(message, received_);
}

Call::~Call() {
  if (registered_) registered_->forget(id_);
  if (alive_) *alive_ = false;
  if (!finished_) finish(internal_error("the plugin dropped the call without an answer"), nullptr);
}

std::optional<std::chrono::nanoseconds> Call::remaining() const {
  if (deadline_ == std::chrono::steady_clock::time_point{}) return std::nullopt;
  return std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(deadline_ - std::chrono::steady_clock::now()));
}

void Call::finish(const Status& status, const google::protobuf::MessageLite* response) {
  finished_ = true;
  pintle_status raw{};
  raw.size = sizeof(raw);
  raw.code = static_cast<pintle_code>(status.code());
  raw.message = text_of(status.message());
  // A stale id (deadline passed, caller gone) is NOT_FOUND: nobody waits any more, so there is nobody to tell.
  if (!status) {
    host_.api()->complete(host_.raw(), id_, &raw, nullptr);
    return;
  }
  with_message(response, &reply_,
               [&](const pintle_message& message) { return host_.api()->complete(host_.raw(), id_, &raw, &message); });
}

void Call::cancel() {
  cancelled_ = true;
  if (on_cancel_) {
    // The function may end the handler, and with it this object.
    bool alive = true;
    bool* const outer = std::exchange(alive_, &alive);
    const std::function<void()> function = std::exchange(on_cancel_, nullptr);
    function();
    if (!alive) {
      if (outer) *outer = false;
      return;
    }
    alive_ = outer;
  }
  if (waiting_) std::exchange(waiting_, nullptr).resume();
}

void Call::credit(uint32_t amount) {
  credit_ += amount;
  if (waiting_) std::exchange(waiting_, nullptr).resume();
}

Status Call::send(const google::protobuf::MessageLite& message, const Attachments* attachments) {
  if (cancelled_) return pintle::cancelled("the caller has gone");
  const pintle_code code = with_message(
      &message, attachments, [&](const pintle_message& raw) { return host_.api()->send(host_.raw(), id_, &raw); });
  if (code == PINTLE_OK) {
    --credit_;
    return Status::ok();
  }
  if (code == PINTLE_NOT_FOUND) return pintle::cancelled("the caller has gone");
  return {static_cast<Code>(code), "the stream's message was not taken"};
}

void Implementation::handle(Host& host, const pintle_call& info, const pintle_message& message) {
  auto call = std::make_unique<Call>(host, info, message);
  Call* raw = call.get();
  bool alive = true;
  raw->watch_end(&alive);
  if (!dispatch(call, info.method, {message.header, message.header_size})) {
    call->finish(unimplemented(std::string(interface_info().name) + " has no method number " +
                               std::to_string(info.method) + " in this plugin's revision"),
                 nullptr);
    return;
  }
  if (!alive) return;
  raw->watch_end(nullptr);
  raw->outlive_turn(this);
  calls_.emplace(info.call_id, raw);
}

void Implementation::cancelled(uint64_t call_id) {
  const auto found = calls_.find(call_id);
  if (found != calls_.end()) found->second->cancel();
}

void Implementation::credit(uint64_t call_id, uint32_t amount) {
  const auto found = calls_.find(call_id);
  if (found != calls_.end()) found->second->credit(amount);
}

bool Implementation::parse(google::protobuf::MessageLite& request, std::span<const uint8_t> header, Call& call) {
  if (request.ParseFromArray(header.data(), static_cast<int>(header.size()))) return true;
  call.finish(invalid_argument("the request is not an encoded " + request.GetTypeName()), nullptr);
  return false;
}

Status Implementation::status_of_current_exception() noexcept {
  try {
    throw;
  } catch (const std::exception& error) {
    return internal_error(std::string("an exception left the method: ") + error.what());
  } catch (...) {
    return internal_error("an exception of an unknown type left the method");
  }
}

}  // namespace pintle
