#pragma once

/// What stands in for a party on the other side of the wire: the same on both sides.
///
/// Calls that reach the stand-in's instance become frames; frames of calls become calls that the instance makes. Ids of calls
/// are each side's own engine's: what comes back from the other side is judged by the engine (`complete`, `send` and `grant` by
/// who does not own the call are NOT_FOUND), so a forged id does no harm.

#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "sdk/support/engine/engine.hpp"
#include "sdk/support/wire/wire.hpp"

namespace pintle::kernel {

using namespace engine;
using namespace wire;

class Peer : public Handler {
 public:
  Peer(Engine& engine, Instance& instance, files::Descriptor socket, bool waits)
      : engine_(engine), instance_(instance), wire_(std::move(socket)), waits_(waits) {}

  void handle(Instance&, const pintle_call& call, const pintle_message& message) override;
  void cancelled(Instance&, uint64_t call_id) override;
  void stream_message(Instance&, uint64_t call_id, const pintle_message& message) override;
  void stream_credit(Instance&, uint64_t call_id, uint32_t credit) override;

  Wire& wire() { return wire_; }
  /// Takes a frame of calls and streams; false if it is of another kind.
  bool take(Frame& frame);

 protected:
  /// The other end does not read, or is gone.
  virtual void lost(const std::string& why) = 0;
  /// The binding that a call of the other side is for; 0: there is none.
  virtual uint64_t binding_of(const FrameHead& head) = 0;
  /// What the other side calls the binding that a call came by.
  virtual uint64_t remote_binding(uint32_t interface_index) = 0;
  virtual void queued() {}

  void send(const FrameHead& head, std::span<const Bytes> parts = {}, std::span<const int32_t> descriptors = {});
  void send_message(const FrameHead& head, std::span<const Bytes> before, const pintle_message& message);
  /// Calls of the other side are over; their completions go nowhere.
  void forget_calls();

  Engine& engine_;
  Instance& instance_;

 private:
  /// A call of the other side, under way here.
  struct Incoming {
    Peer* peer;
    uint64_t remote_id, local_id;
  };
  bool dispatch(Frame& frame);
  void take_call(Frame& frame);
  static void call_ended(void* context, uint64_t id, const pintle_status* status, const pintle_message* reply);
  static void call_message(void* context, uint64_t id, const pintle_message* message);
  static void call_credit(void* context, uint64_t id, uint32_t credit);

  Wire wire_;
  const bool waits_;  // for room, when it sends
  std::mutex calls_lock_;
  std::unordered_map<uint64_t, std::unique_ptr<Incoming>> incoming_;  // by remote id
};

}  // namespace pintle::kernel
