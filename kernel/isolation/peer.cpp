#include "kernel/isolation/peer.hpp"

#include <cstring>

namespace pintle::kernel {

void Peer::send(const FrameHead& head, std::span<const Bytes> parts, std::span<const int32_t> descriptors) {
  switch (wire_.send(head, parts, descriptors, waits_)) {
    case Wire::Sent::yes:
      return;
    case Wire::Sent::queued:
      return queued();
    case Wire::Sent::refused:
      return lost("it does not read what it is sent");
  }
}

void Peer::send_message(const FrameHead& head, std::span<const Bytes> before, const pintle_message& message) {
  Bytes parts[max_parts];
  size_t count = 0;
  for (Bytes part : before) parts[count++] = part;
  parts[count++] = Bytes(reinterpret_cast<const char*>(message.header), message.header_size);
  for (uint32_t i = 0; i < message.buffer_count; ++i)
    parts[count++] = Bytes(reinterpret_cast<const char*>(message.buffers[i]->data), message.buffers[i]->length);
  send(head, {parts, count}, {message.descriptors, message.descriptor_count});
}

// ---- From here to there ------------------------------------------------------------------------------------------------------

void Peer::handle(Instance&, const pintle_call& call, const pintle_message& message) {
  FrameHead head = frame_head(FrameKind::call);
  head.mine = 1;
  head.id = call.call_id;
  head.method = call.method;
  head.code = call.interface_index;
  head.binding = remote_binding(call.interface_index);
  head.count = call.initial_credit;
  head.time = call.remaining_ns;
  std::memcpy(head.trace, call.trace, sizeof head.trace);
  const Bytes caller = view(call.caller);
  send_message(head, {&caller, 1}, message);
}

void Peer::cancelled(Instance&, uint64_t call_id) {
  FrameHead head = frame_head(FrameKind::cancel);
  head.mine = 1;
  head.id = call_id;
  send(head);
}

void Peer::stream_message(Instance&, uint64_t call_id, const pintle_message& message) {
  FrameHead head = frame_head(FrameKind::message);
  head.mine = 1;
  head.id = call_id;
  send_message(head, {}, message);
}

void Peer::stream_credit(Instance&, uint64_t call_id, uint32_t credit) {
  FrameHead head = frame_head(FrameKind::credit);
  head.mine = 1;
  head.id = call_id;
  head.count = credit;
  send(head);
}

void Peer::call_ended(void* context, uint64_t, const pintle_status* status, const pintle_message* reply) {
  auto* call = static_cast<Incoming*>(context);
  Peer& peer = *call->peer;
  FrameHead head = frame_head(FrameKind::completion, call->remote_id, status->code);
  {
    std::lock_guard lock(peer.calls_lock_);
    peer.incoming_.erase(call->remote_id);
  }
  const Bytes message = view(status->message);
  if (reply != nullptr) return peer.send_message(head, {&message, 1}, *reply);
  peer.send(head, {&message, 1});
}

void Peer::call_message(void* context, uint64_t, const pintle_message* message) {
  auto* call = static_cast<Incoming*>(context);
  call->peer->send_message(frame_head(FrameKind::message, call->remote_id), {}, *message);
}

void Peer::call_credit(void* context, uint64_t, uint32_t credit) {
  auto* call = static_cast<Incoming*>(context);
  call->peer->send(frame_head(FrameKind::credit, call->remote_id, 0, credit));
}

void Peer::forget_calls() {
  std::lock_guard lock(calls_lock_);
  incoming_.clear();
}

// ---- From there to here ------------------------------------------------------------------------------------------------------

bool Peer::take(Frame& frame) {
  // On the lane, so that what is called runs inline, and its completion is sent by this thread as well.
  Lane& lane = instance_.lane();
  if (!lane.try_enter_live()) return dispatch(frame);
  bool taken = false;
  {
    LaneScope scope(lane);
    taken = dispatch(frame);
  }
  lane.run_queued();
  return taken;
}

bool Peer::dispatch(Frame& frame) {
  const FrameHead& head = frame.head;
  uint64_t id = head.id;
  if (head.kind == FrameKind::call) {
    take_call(frame);
    return true;
  }
  if (head.kind != FrameKind::completion && head.kind != FrameKind::cancel && head.kind != FrameKind::message &&
      head.kind != FrameKind::credit)
    return false;
  if (head.mine != 0) {
    std::lock_guard lock(calls_lock_);
    const auto found = incoming_.find(head.id);
    if (found == incoming_.end() || found->second->local_id == 0) return true;  // it has ended here meanwhile
    id = found->second->local_id;
  }
  Frame::Message message;
  if (head.kind == FrameKind::completion) {
    const pintle_status status{sizeof(pintle_status), head.code, text(frame.parts.empty() ? Bytes() : frame.parts[0])};
    frame.message(1, message);
    if (head.mine == 0) instance_.complete(id, &status, head.code == PINTLE_OK ? &message.view : nullptr);
  } else if (head.kind == FrameKind::cancel) {
    if (head.mine != 0) instance_.cancel(id);
  } else if (head.kind == FrameKind::message) {
    frame.message(0, message);
    instance_.send(id, &message.view);
  } else {
    instance_.grant(id, head.count);
  }
  return true;
}

void Peer::take_call(Frame& frame) {
  const FrameHead& head = frame.head;
  auto owned = std::make_unique<Incoming>(Incoming{this, head.id, 0});
  Incoming* call = owned.get();
  {
    std::lock_guard lock(calls_lock_);
    if (!incoming_.emplace(head.id, std::move(owned)).second) return lost("it used the id of a call that is under way");
  }
  Frame::Message message;
  frame.message(1, message);
  const pintle_call_options options{
      sizeof(pintle_call_options), head.count, head.time == 0 ? UINT64_MAX : head.time, 0, call_message, call_credit};
  CallStamp stamp{nullptr, head.trace};
  if (!frame.parts.empty() && waits_)
    stamp.identity = engine_.intern(frame.parts[0]);  // the parent says who calls, never the child
  const uint64_t binding = binding_of(head);
  // The engine writes the id before anything can end the call, and `call` with it.
  const pintle_code code = engine_.call(instance_, binding, static_cast<uint32_t>(head.method), &message.view, &options,
                                        call_ended, call, &call->local_id, &stamp);
  if (code == PINTLE_OK) return;
  const pintle_status status{sizeof(pintle_status), code, text("the call was not accepted")};
  call_ended(call, 0, &status, nullptr);
}

}  // namespace pintle::kernel
