#include "kernel/admin/admin.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/json.hpp>
#include <charconv>
#include <deque>
#include <future>
#include <map>

namespace pintle::kernel {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace json = boost::json;
using Socket = asio::basic_stream_socket<asio::local::stream_protocol, asio::strand<asio::io_context::executor_type>>;
using Acceptor =
    asio::basic_socket_acceptor<asio::local::stream_protocol, asio::strand<asio::io_context::executor_type>>;
using Request = http::request<http::string_body>;

constexpr uint64_t body_limit = 4u << 20;
constexpr auto stream_heartbeat = std::chrono::seconds(10);
constexpr uint32_t stream_credit = 64;
constexpr uint64_t client_gone = UINT64_MAX;  // in place of a call's id

struct Answer {
  unsigned status = 200;
  std::string type = "application/json";
  std::string body;
};

unsigned http_status(Code code) {
  switch (code) {
    case Code::ok:
      return 200;
    case Code::invalid_argument:
    case Code::out_of_range:
      return 400;
    case Code::unauthenticated:
      return 401;
    case Code::permission_denied:
      return 403;
    case Code::not_found:
      return 404;
    case Code::already_exists:
    case Code::aborted:
      return 409;
    case Code::failed_precondition:
      return 412;
    case Code::resource_exhausted:
      return 429;
    case Code::cancelled:
      return 499;
    case Code::unimplemented:
      return 501;
    case Code::unavailable:
      return 503;
    case Code::deadline_exceeded:
      return 504;
    case Code::internal:
    case Code::unknown:
    case Code::data_loss:
      break;
  }
  return 500;
}

std::string error_body(const Status& status) {
  return json::serialize(json::object{{"code", code_name(status.code())}, {"message", status.message()}});
}
Answer error_answer(const Status& status) {
  return {http_status(status.code()), "application/json", error_body(status) + "\n"};
}
Answer json_answer(const json::value& value) { return {200, "application/json", json::serialize(value) + "\n"}; }

/// A request's target, taken apart and percent-decoded.
struct Target {
  std::vector<std::string> path;
  std::map<std::string, std::string> query;

  std::string parameter(const std::string& name) const {
    const auto found = query.find(name);
    return found == query.end() ? std::string() : found->second;
  }
};

std::string decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, value, 16).ptr == text.data() + i + 3) {
      out += static_cast<char>(value);
      i += 2;
    } else {
      out += text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

Target parse_target(std::string_view text) {
  Target out;
  const size_t mark = text.find('?');
  std::string_view path = text.substr(0, mark), query = mark == std::string_view::npos ? "" : text.substr(mark + 1);
  while (!path.empty()) {
    path.remove_prefix(path.front() == '/' ? 1 : 0);
    const size_t end = std::min(path.find('/'), path.size());
    if (end != 0) out.path.push_back(decoded(path.substr(0, end)));
    path.remove_prefix(end);
  }
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view item = query.substr(0, end);
    const size_t equals = std::min(item.find('='), item.size());
    out.query[decoded(item.substr(0, equals))] = decoded(item.substr(std::min(equals + 1, item.size())));
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return out;
}

/// Waits for a callback of another thread: `begin(resolve)` is run, and `resolve(value)` ends the wait.
template <class T>
asio::awaitable<T> wait_for(std::function<void(std::function<void(T)>)> begin) {
  auto initiate = [begin = std::move(begin)](auto handler) {
    auto executor = asio::get_associated_executor(handler);
    auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    begin([shared, executor](T value) {
      asio::post(executor, [shared, value = std::move(value)]() mutable { (*shared)(std::move(value)); });
    });
  };
  return asio::async_initiate<const asio::use_awaitable_t<>, void(T)>(std::move(initiate), asio::use_awaitable);
}

/// Lines or frames for a client that stays: filled by any thread, emptied by the session.
class Feed : public std::enable_shared_from_this<Feed> {
 public:
  explicit Feed(Socket& socket) : timer_(socket.get_executor()) {}

  void push(std::string bytes) {
    {
      std::lock_guard lock(lock_);
      if (bytes_ > max_bytes) return;  // the client does not read; it gets a gap rather than our memory
      bytes_ += bytes.size();
      waiting_.push_back(std::move(bytes));
    }
    wake();
  }
  void end() {
    {
      std::lock_guard lock(lock_);
      ended_ = true;
    }
    wake();
  }
  /// Empty: nothing came for a heartbeat, or the feed has ended.
  asio::awaitable<std::string> next(bool& ended) {
    for (int round = 0;; ++round) {
      std::string out = take(ended);
      if (!out.empty() || ended || round == 1) co_return out;
      timer_.expires_after(stream_heartbeat);
      boost::system::error_code ignored;
      // What came between `take` and here has posted its wake-up to this strand: it cancels the wait that now begins.
      auto token = asio::redirect_error(asio::use_awaitable, ignored);
      co_await timer_.async_wait(token);
    }
  }

 private:
  static constexpr size_t max_bytes = 8u << 20;
  void wake() {
    asio::post(timer_.get_executor(), [self = shared_from_this()] { self->timer_.cancel(); });
  }
  std::string take(bool& ended) {
    std::lock_guard lock(lock_);
    std::string out;
    for (std::string& bytes : waiting_) out += bytes;
    waiting_.clear();
    bytes_ = 0;
    ended = ended_;
    return out;
  }
  asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>,
                             Socket::executor_type>
      timer_;
  std::mutex lock_;
  std::deque<std::string> waiting_;
  size_t bytes_ = 0;
  bool ended_ = false;
};

std::string frame(char kind, std::string_view bytes) {
  std::string out(1, kind);
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(bytes.size() >> shift);
  return out.append(bytes);
}

}  // namespace

struct AdminServer::State : std::enable_shared_from_this<State> {
  State(Node& n, AdminHooks h)
      : node(n), hooks(std::move(h)), acceptor(asio::make_strand(n.engine().reactor().context())) {}

  asio::awaitable<void> accept();
  asio::awaitable<void> session(Socket socket, uid_t uid);
  asio::awaitable<Answer> answer(const Request& request, const Target& target, uid_t uid);
  asio::awaitable<Answer> plugin_answer(const Request& request, const Target& target);
  asio::awaitable<Answer> profile_answer(const Request& request, const Target& target);
  asio::awaitable<Answer> call_answer(const Request& request, const Target& target, uid_t uid);
  asio::awaitable<void> follow_logs(Socket& socket, const Target& target);
  asio::awaitable<void> stream_call(Socket& socket, const Request& request, const Target& target, uid_t uid);
  asio::awaitable<void> feed_client(Socket& socket, std::string_view type, std::shared_ptr<Feed> feed,
                                    std::string heartbeat);
  asio::awaitable<Answer> on_node(std::function<Answer()> function);
  Instance& caller(uid_t uid);

  Node& node;
  const AdminHooks hooks;
  Acceptor acceptor;  // used on its strand only
  std::mutex lock;
  std::map<uid_t, Instance*> callers;
};

AdminServer::AdminServer(Node& node, AdminHooks hooks, int listening_socket)
    : state_(std::make_shared<State>(node, std::move(hooks))) {
  state_->acceptor.assign(asio::local::stream_protocol(), listening_socket);
  asio::co_spawn(state_->acceptor.get_executor(), state_->accept(), asio::detached);
}

/// Nobody is accepted any more once it returns, unless all threads are stuck.
AdminServer::~AdminServer() {
  auto closed = std::make_shared<std::promise<void>>();
  asio::post(state_->acceptor.get_executor(), [state = state_, closed] {
    boost::system::error_code ignored;
    state->acceptor.close(ignored);
    closed->set_value();
  });
  static_cast<void>(closed->get_future().wait_for(std::chrono::seconds(1)));
}

asio::awaitable<void> AdminServer::State::accept() {
  const auto self = shared_from_this();
  for (;;) {
    Socket socket(asio::make_strand(node.engine().reactor().context()));
    boost::system::error_code error;
    auto token = asio::redirect_error(asio::use_awaitable, error);
    co_await acceptor.async_accept(socket, token);
    if (error == asio::error::operation_aborted || error == asio::error::bad_descriptor) co_return;
    if (error) {  // out of descriptors, mostly: the next one may find some
      asio::steady_timer pause(acceptor.get_executor(), std::chrono::milliseconds(100));
      co_await pause.async_wait(token);
      continue;
    }
    ucred peer{};
    socklen_t size = sizeof peer;
    getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &size);
    auto executor = socket.get_executor();
    asio::co_spawn(executor, session(std::move(socket), peer.uid), asio::detached);
  }
}

asio::awaitable<void> AdminServer::State::session(Socket socket, uid_t uid) {
  const auto self = shared_from_this();
  boost::beast::flat_buffer buffer;
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  for (;;) {
    http::request_parser<http::string_body> parser;
    parser.body_limit(body_limit);
    co_await http::async_read(socket, buffer, parser, token);
    if (error && error != http::error::body_limit) co_return;
    const Request& request = parser.get();
    Answer result;
    if (uid != 0 && uid != geteuid()) {
      result = error_answer(permission_denied("only root and pintled's own user may use this socket"));
    } else if (error) {
      result = error_answer(invalid_argument("the request's body is larger than 4 MiB"));
    } else {
      const std::string_view text(request.target().data(), request.target().size());
      const Target target = parse_target(text);
      if (target.path == std::vector<std::string>{"v1", "logs"} && request.method() == http::verb::get) {
        co_await follow_logs(socket, target);
        co_return;
      }
      if (target.path.size() == 4 && target.path[1] == "interfaces" && target.parameter("stream") == "1" &&
          request.method() == http::verb::post) {
        co_await stream_call(socket, request, target, uid);
        co_return;
      }
      result = co_await answer(request, target, uid);
    }
    http::response<http::string_body> response(static_cast<http::status>(result.status), request.version());
    response.set(http::field::content_type, result.type);
    response.keep_alive(request.keep_alive() && !error);
    response.body() = std::move(result.body);
    response.prepare_payload();
    co_await http::async_write(socket, response, token);
    if (error || !response.keep_alive()) co_return;
  }
}

asio::awaitable<Answer> AdminServer::State::on_node(std::function<Answer()> function) {
  return wait_for<Answer>([this, function = std::move(function)](std::function<void(Answer)> resolve) {
    post_turn(node.lane(), [function, resolve] { resolve(function()); });
  });
}

asio::awaitable<Answer> AdminServer::State::answer(const Request& request, const Target& target, uid_t uid) {
  const auto& path = target.path;
  const bool get = request.method() == http::verb::get;
  if (path.size() == 1 && get && path[0] == "healthz") co_return Answer{200, "text/plain", "ok\n"};
  if (path.size() == 1 && get && path[0] == "readyz") {
    auto look = [this] {
      std::string lines;
      for (const std::string& line : node.unready()) lines += line + "\n";
      return lines.empty() ? Answer{200, "text/plain", "ok\n"} : Answer{503, "text/plain", lines};
    };
    co_return co_await on_node(look);
  }
  if (path.size() == 1 && get && path[0] == "metrics") {
    auto fetch = [this](std::function<void(bool)> resolve) { node.fetch_metrics([resolve] { resolve(true); }); };
    co_await wait_for<bool>(fetch);
    auto render = [this] { return Answer{200, "text/plain; version=0.0.4", node.render_metrics()}; };
    co_return co_await on_node(render);
  }
  if (path.size() < 2 || path[0] != "v1")
    co_return error_answer(not_found("nothing is at \"" + std::string(request.target()) + "\""));
  if (path[1] == "status" && path.size() == 2 && get) {
    auto look = [this] {
      json::object status = node.status_json();
      status["version"] = hooks.version;
      return json_answer(status);
    };
    co_return co_await on_node(look);
  }
  if (path[1] == "plugins") co_return co_await plugin_answer(request, target);
  if (path[1] == "profile" && path.size() == 2) co_return co_await profile_answer(request, target);
  if (path[1] == "reexec" && path.size() == 2 && request.method() == http::verb::post) {
    hooks.reexec();
    co_return Answer{202, "application/json", "{\"reexec\":true}\n"};
  }
  if (path[1] == "interfaces" && path.size() == 4 && request.method() == http::verb::post)
    co_return co_await call_answer(request, target, uid);
  co_return error_answer(
      not_found("no " + std::string(request.method_string()) + " at \"" + std::string(request.target()) + "\""));
}

asio::awaitable<Answer> AdminServer::State::plugin_answer(const Request& request, const Target& target) {
  const auto& path = target.path;
  const auto one = [this](const std::string& name) {
    Result<json::object> plugin = node.instance_json(name, true);
    return plugin ? json_answer(*plugin) : error_answer(plugin.status());
  };
  if (path.size() == 2 && request.method() == http::verb::get) {
    auto all = [this] { return json_answer(json::object{{"plugins", node.status_json().at("plugins")}}); };
    co_return co_await on_node(all);
  }
  const std::string name = path.size() > 2 ? path[2] : "";
  if (path.size() == 3 && request.method() == http::verb::get) {
    auto look = [one, name] { return one(name); };
    co_return co_await on_node(look);
  }
  if (path.size() == 4 && path[3] == "log-level" && request.method() == http::verb::put) {
    json::error_code error;
    const json::value body = json::parse(request.body(), error);
    const json::value* level = !error && body.is_object() ? body.get_object().if_contains("level") : nullptr;
    if (level == nullptr || !level->is_string())
      co_return error_answer(invalid_argument("the body must be {\"level\": \"debug\"}"));
    Result<uint32_t> parsed = parse_log_level(std::string_view(level->get_string()));
    if (!parsed) co_return error_answer(parsed.status());
    auto set = [this, name, value = *parsed](std::function<void(Status)> resolve) {
      node.set_log_level(name, value, resolve);
    };
    const Status status = co_await wait_for<Status>(set);
    co_return status.is_ok() ? json_answer(json::object{{"level", level->get_string()}}) : error_answer(status);
  }
  if (path.size() == 4 && request.method() == http::verb::post) {
    Status status;
    if (path[3] == "start") {
      auto start = [this, name](std::function<void(Status)> resolve) { node.start_instance(name, resolve); };
      status = co_await wait_for<Status>(start);
    } else if (path[3] == "stop") {
      auto stop = [this, name](std::function<void(Status)> resolve) { node.stop_instance(name, resolve); };
      status = co_await wait_for<Status>(stop);
    } else if (path[3] == "restart") {
      auto restart = [this, name](std::function<void(Result<bool>)> resolve) { node.restart_instance(name, resolve); };
      const Result<bool> reexec = co_await wait_for<Result<bool>>(restart);
      if (reexec && *reexec) {
        hooks.reexec();
        co_return Answer{202, "application/json", "{\"reexec\":true}\n"};
      }
      status = reexec.status();
    } else {
      status = not_found("a plugin can be asked to start, stop or restart, not to " + path[3]);
    }
    if (!status.is_ok()) co_return error_answer(status);
    auto look = [one, name] { return one(name); };
    co_return co_await on_node(look);
  }
  co_return error_answer(
      not_found("no " + std::string(request.method_string()) + " at \"" + std::string(request.target()) + "\""));
}

asio::awaitable<Answer> AdminServer::State::profile_answer(const Request& request, const Target& target) {
  if (request.method() == http::verb::get) {
    auto look = [this] { return json_answer(node.plan_json()); };
    co_return co_await on_node(look);
  }
  if (request.method() != http::verb::put)
    co_return error_answer(not_found("the profile can be read (GET) and replaced (PUT)"));
  std::string profile;
  if (!request.body().empty()) {
    json::error_code error;
    const json::value body = json::parse(request.body(), error);
    if (error || !body.is_object())
      co_return error_answer(invalid_argument("the body must be {\"profile\": \"NAME or /path\"}"));
    if (const json::value* named = body.get_object().if_contains("profile"); named != nullptr && named->is_string())
      profile = named->get_string();
  }
  const bool dry_run = !target.parameter("dry_run").empty() && target.parameter("dry_run") != "0";
  auto read = [this, profile](std::function<void(Result<NodePlan>)> resolve) {
    node.engine().reactor().blocking([this, profile, resolve] { resolve(hooks.make_plan(profile)); });
  };
  Result<NodePlan> plan = co_await wait_for<Result<NodePlan>>(read);
  if (!plan) co_return error_answer(plan.status());
  auto apply = [this, plan = *plan, dry_run](std::function<void(Result<std::vector<Change>>)> resolve) {
    node.apply(plan, dry_run, resolve);
  };
  const Result<std::vector<Change>> changes = co_await wait_for<Result<std::vector<Change>>>(apply);
  if (!changes) co_return error_answer(changes.status());
  if (!dry_run) hooks.applied(profile);
  json::array list;
  bool failed = false;
  for (const Change& change : *changes) {
    failed = failed || change.change == "failed";
    list.push_back({{"name", change.name},
                    {"change", change.change},
                    {"key", change.key},
                    {"retiring", change.retiring},
                    {"message", change.message}});
  }
  Answer out = json_answer(json::object{{"changes", std::move(list)}});
  if (failed) out.status = 500;
  co_return out;
}

Instance& AdminServer::State::caller(uid_t uid) {
  std::lock_guard held(lock);
  Instance*& instance = callers[uid];
  if (instance == nullptr) {
    const std::string name = uid == 0 ? "user:root" : "user:" + std::to_string(uid);
    instance = &node.engine().add({name, name, "", name});
  }
  return *instance;
}

namespace {

struct CallTarget {
  std::string interface, provider;
  uint32_t method = 0;
  uint64_t timeout_ns = 0;
};

Result<CallTarget> call_target(const Target& target) {
  CallTarget out{target.path[2], target.parameter("provider"), 0, 0};
  const std::string& number = target.path[3];
  if (std::from_chars(number.data(), number.data() + number.size(), out.method).ptr != number.data() + number.size() ||
      number.empty())
    return invalid_argument("\"" + number + "\" is not a method's number");
  if (const std::string timeout = target.parameter("timeout"); !timeout.empty()) {
    double seconds = 0;
    if (std::from_chars(timeout.data(), timeout.data() + timeout.size(), seconds).ptr !=
            timeout.data() + timeout.size() ||
        !(seconds > 0) || seconds > 1e6)
      return invalid_argument("timeout=\"" + timeout + "\" is not a number of seconds");
    out.timeout_ns = static_cast<uint64_t>(seconds * 1e9);
  }
  return out;
}

pintle_message message_of(const std::string& body) {
  return {
      sizeof(pintle_message), 0, 0, 0, reinterpret_cast<const uint8_t*>(body.data()), body.size(), nullptr, nullptr};
}

std::string header_of(const pintle_message& message) {
  return {reinterpret_cast<const char*>(message.header), message.header_size};
}

}  // namespace

asio::awaitable<Answer> AdminServer::State::call_answer(const Request& request, const Target& target, uid_t uid) {
  const Result<CallTarget> parsed = call_target(target);
  if (!parsed) co_return error_answer(parsed.status());
  Instance& from = caller(uid);
  const std::string body = request.body();
  auto begin = [this, &from, &body, to = *parsed](std::function<void(Answer)> resolve) {
    post_turn(node.lane(), [this, &from, &body, to, resolve] {
      Result<uint64_t> binding = node.bind_host(from, to.interface, to.provider);
      if (!binding) return resolve(error_answer(binding.status()));
      call(from, *binding, to.method, message_of(body), to.timeout_ns, [resolve](Reply reply) {
        resolve(reply.status.is_ok() ? Answer{200, "application/x-protobuf", header_of(reply.message)}
                                     : error_answer(reply.status));
      });
      node.engine().unbind(*binding);
    });
  };
  co_return co_await wait_for<Answer>(begin);
}

asio::awaitable<void> AdminServer::State::feed_client(Socket& socket, std::string_view type, std::shared_ptr<Feed> feed,
                                                      std::string heartbeat) {
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  http::response<http::empty_body> head(http::status::ok, 11);
  head.set(http::field::content_type, boost::string_view(type.data(), type.size()));
  head.chunked(true);
  head.keep_alive(false);
  http::response_serializer<http::empty_body> serializer(head);
  co_await http::async_write_header(socket, serializer, token);
  // A client that hangs up makes the socket readable; nothing else is expected from it.
  socket.async_wait(Socket::wait_read, [feed](const boost::system::error_code&) { feed->end(); });
  for (bool ended = false; !error && !ended;) {
    std::string bytes = co_await feed->next(ended);
    if (bytes.empty()) bytes = ended ? "" : heartbeat;
    if (bytes.empty()) continue;
    auto chunk = http::make_chunk(asio::buffer(bytes));
    co_await asio::async_write(socket, chunk, token);
  }
  if (!error) {
    auto last = http::make_chunk_last();
    co_await asio::async_write(socket, last, token);
  }
  boost::system::error_code ignored;
  socket.close(ignored);
}

asio::awaitable<void> AdminServer::State::follow_logs(Socket& socket, const Target& target) {
  Logs::Query query;
  query.plugin = target.parameter("plugin");
  if (Result<uint32_t> level = parse_log_level(target.parameter("level")); level.is_ok()) query.level = *level;
  if (const std::string tail = target.parameter("tail"); !tail.empty())
    std::from_chars(tail.data(), tail.data() + tail.size(), query.tail);
  auto feed = std::make_shared<Feed>(socket);
  const auto line = [feed](const std::string& text) { feed->push(text + "\n"); };
  uint64_t follower = 0;
  if (target.parameter("follow") == "1") {
    follower = node.logs().follow(query, line);
  } else {
    for (const std::string& text : node.logs().read(query)) line(text);
    feed->end();
  }
  co_await feed_client(socket, "application/x-ndjson", feed, {});
  if (follower != 0) node.logs().unfollow(follower);
}

asio::awaitable<void> AdminServer::State::stream_call(Socket& socket, const Request& request, const Target& target,
                                                      uid_t uid) {
  auto feed = std::make_shared<Feed>(socket);
  const Result<CallTarget> parsed = call_target(target);
  Instance& from = caller(uid);
  auto id = std::make_shared<std::atomic<uint64_t>>(0);
  if (!parsed) {
    feed->push(frame(1, error_body(parsed.status())));
    feed->end();
  } else {
    post_turn(node.lane(), [self = shared_from_this(), &from, feed, id, body = request.body(), to = *parsed] {
      const auto end = [feed](const Status& status) {
        feed->push(frame(1, error_body(status)));
        feed->end();
      };
      Result<uint64_t> binding = self->node.bind_host(from, to.interface, to.provider);
      if (!binding) return end(binding.status());
      const uint64_t begun = call(
          from, *binding, to.method, message_of(body), to.timeout_ns, [end](Reply reply) { end(reply.status); },
          [feed](const pintle_message& message) { feed->push(frame(0, header_of(message))); }, stream_credit);
      self->node.engine().unbind(*binding);
      if (id->exchange(begun) == client_gone) from.cancel(begun);
    });
  }
  co_await feed_client(socket, "application/x-pintle-stream", feed, frame(2, {}));
  if (const uint64_t begun = id->exchange(client_gone); begun != 0) from.cancel(begun);
}

}  // namespace pintle::kernel
