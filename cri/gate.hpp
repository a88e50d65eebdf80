#pragma once

/// Holds calls back until the engine may serve.
///
/// When the plugin's config changes, the new instance is asked while the old one still owns the sandboxes. Its calls wait here
/// until it has taken over, which takes milliseconds, so that no client sees an error.

#include <memory>
#include <pintle/call.hpp>
#include <string>
#include <utility>

#include "cri/coordination.hpp"

namespace pintle::cri {

class Gate {
 public:
  explicit Gate(Host& host) : opened_(host) {}
  bool is_open() const { return open_; }
  void open() {
    open_ = true;
    opened_.notify_all();
  }
  void shut() { open_ = false; }
  Notification& opened() { return opened_; }

 private:
  bool open_ = false;
  Notification opened_;
};

/// A generated skeleton whose calls pass a gate.
template <class Service>
class Gated : public Service {
 public:
  explicit Gated(Gate& gate) : gate_(gate) {}

 protected:
  bool dispatch(std::unique_ptr<Call>& call, uint32_t method, std::span<const uint8_t> header) override {
    if (gate_.is_open()) return Service::dispatch(call, method, header);
    wait(this, std::move(call), method, std::string(header.begin(), header.end()));
    return true;
  }

 private:
  static pintle::detail::Detached wait(Gated* self, std::unique_ptr<Call> call, uint32_t method, std::string header) {
    while (!self->gate_.is_open() && !call->is_cancelled()) {
      Task<bool> waiting = self->gate_.opened().wait(std::chrono::seconds(1));
      (void)co_await std::move(waiting);
    }
    if (call->is_cancelled()) {
      call->finish(cancelled("the client has gone before the engine was ready"), nullptr);
      co_return;
    }
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(header.data()), header.size());
    if (!self->Service::dispatch(call, method, bytes))
      call->finish(unimplemented("the method is not known here"), nullptr);
  }

  Gate& gate_;
};

}  // namespace pintle::cri
