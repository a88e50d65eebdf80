#pragma once

/// CRI's gRPC socket: hands what comes over it to the same implementations that other plugins call, and knows none of them.
///
///     client --HTTP/2--> gRPC (its own threads) --bytes--> a turn on the lane --> Implementation::handle
///     client <--HTTP/2-- gRPC <------ bytes -------------- complete / send (of a host table that leads back here)
///
/// The listening socket is the host's: it stays open over restarts, so no connect is refused. The lane accepts, and gives each
/// connection's descriptor to gRPC, which never sees the socket's path. gRPC is started with the first connection: a node without CRI
/// clients does not pay for it. Methods are looked up by name in the implementations' own tables ("/runtime.v1.RuntimeService/Version"),
/// so a new method needs no line here. Any `:authority` is accepted; deadlines and cancellation reach the call being served.
///
/// gRPC 1.51 must not be forked once it runs: children come from the host's spawn, which does not fork this process.
///
/// Lane only. What gRPC throws or reports stays inside.

#include <chrono>
#include <memory>
#include <pintle/call.hpp>
#include <pintle/host.hpp>
#include <string>
#include <vector>

namespace pintle::cri {

class GrpcServer {
 public:
  /// `caller` is what the implementations are told of who calls.
  GrpcServer(Host& host, std::string caller, std::vector<Implementation*> implementations);
  ~GrpcServer();

  /// Accepts on a listening socket from now on.
  Status listen(UniqueFd socket);
  /// Accepts no more, waits for the calls under way (at most `patience`; what is left then is cancelled), and ends gRPC.
  Task<void> stop(std::chrono::nanoseconds patience);

  size_t calls_under_way() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace pintle::cri
