#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <coroutine>
#include <list>

#include "sdk/support/http_server/connection.hpp"
#include "sdk/support/http_server/http_server.hpp"

namespace pintle::http {

namespace {

constexpr std::chrono::milliseconds kAcceptAgain{100};
constexpr std::chrono::seconds kPatience{1};
constexpr int kAcceptAtOnce = 16;

std::string text_of(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& four = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &four.sin_addr, text, sizeof(text));
    return std::string(text) + ":" + std::to_string(ntohs(four.sin_port));
  }
  const auto& six = reinterpret_cast<const sockaddr_in6&>(address);
  inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text));
  return "[" + std::string(text) + "]:" + std::to_string(ntohs(six.sin6_port));
}

}  // namespace

struct Server::State : std::enable_shared_from_this<Server::State> {
  struct Listener {
    UniqueFd socket;
    Watch watch;
    bool is_watched = false;
  };

  State(Host& the_host, ServerSettings the_settings, Handler the_handler)
      : host(the_host), settings(the_settings), handler(std::move(the_handler)) {}

  /// Accepts while there is room; else the kernel keeps who comes.
  void watch_listeners() {
    is_crowded = connections.size() >= settings.limits.connections;
    const bool accepts = !stopping && !is_resting && !is_crowded;
    for (Listener& listener : listeners) {
      if (accepts == listener.is_watched) continue;
      listener.watch = Watch();
      listener.is_watched = false;
      if (!accepts) continue;
      Result<Watch> watch =
          host.watch(listener.socket.get(), POLLIN, [this, &listener](uint32_t) { accept(listener); });
      if (!watch) continue;
      listener.watch = std::move(*watch);
      listener.is_watched = true;
    }
  }

  void accept(Listener& listener) {
    for (int i = 0; i < kAcceptAtOnce && connections.size() < settings.limits.connections; ++i) {
      sockaddr_storage address{};
      socklen_t size = sizeof(address);
      UniqueFd socket(
          accept4(listener.socket.get(), reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (socket.get() < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) rest();
        break;
      }
      const int on = 1;
      setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      auto connection =
          std::make_shared<Connection>(host, settings.limits, is_crowded, std::move(socket), tls, text_of(address));
      connections.push_back(connection);
      Task<void> living = live(shared_from_this(), std::move(connection));
      host.detach(std::move(living));
    }
    if (connections.size() >= settings.limits.connections) make_room();
    watch_listeners();
  }

  /// The process has no descriptors left: a socket that stays readable must not keep the lane busy.
  void rest() {
    is_resting = true;
    again = host.timer(kAcceptAgain, [this] {
      is_resting = false;
      watch_listeners();
    });
  }

  void make_room() {
    Connection* oldest = nullptr;
    for (const auto& connection : connections) {
      const auto since = connection->idle_since();
      if (since && (!oldest || *since < *oldest->idle_since())) oldest = connection.get();
    }
    if (oldest) oldest->cut();
  }

  static Task<void> live(std::shared_ptr<State> state, std::shared_ptr<Connection> connection) {
    Task<void> serving = Connection::serve(connection, state->handler);
    co_await std::move(serving);
    state->connections.remove(connection);
    connection.reset();
    state->watch_listeners();
    if (state->connections.empty() && state->waiting_for_the_last)
      std::exchange(state->waiting_for_the_last, nullptr).resume();
  }

  Host& host;
  ServerSettings settings;
  Handler handler;
  std::shared_ptr<SSL_CTX> tls;
  std::list<Listener> listeners;
  std::list<std::shared_ptr<Connection>> connections;
  bool stopping = false, is_resting = false, is_crowded = false;
  std::coroutine_handle<> waiting_for_the_last;
  Timer again;
};

Server::Server(Host& host, ServerSettings settings, Handler handler)
    : state_(std::make_shared<State>(host, settings, std::move(handler))) {}

Server::~Server() {
  state_->stopping = true;
  state_->again = Timer();
  state_->listeners.clear();
}

Status Server::set_certificate(const TlsMaterial& material) {
  Result<std::shared_ptr<SSL_CTX>> tls = make_tls(material);
  if (!tls) return tls.status();
  state_->tls = std::move(*tls);
  return Status::ok();
}

Status Server::listen(UniqueFd socket) {
  if (state_->settings.tls && !state_->tls) return failed_precondition("a server with TLS needs a certificate first");
  state_->listeners.push_back({std::move(socket), Watch(), false});
  state_->watch_listeners();
  if (!state_->listeners.back().is_watched) return unavailable("the listening socket cannot be watched");
  return Status::ok();
}

Task<void> Server::stop() {
  const std::shared_ptr<State> state = state_;
  state->stopping = true;
  state->again = Timer();
  state->listeners.clear();
  for (const auto& connection : state->connections) connection->wind_up();
  state->again = state->host.timer(kPatience, [state = state.get()] {
    for (const auto& connection : state->connections) connection->cut();
  });
  struct LastOne {
    State& of;
    bool await_ready() const { return of.connections.empty(); }
    void await_suspend(std::coroutine_handle<> handle) { of.waiting_for_the_last = handle; }
    void await_resume() const {}
  };
  LastOne last{*state};
  co_await last;
  state->again = Timer();
}

size_t Server::connections() const { return state_->connections.size(); }

}  // namespace pintle::http
