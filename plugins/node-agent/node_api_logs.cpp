// /containerLogs: a container's log as it is, or as it grows.

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/agent.hpp"
#include "plugins/node-agent/log_reader.hpp"
#include "plugins/node-agent/node_api.hpp"

namespace pintle::agent {

namespace {

constexpr std::chrono::seconds kQuickCall{10}, kLookForTheEnd{1};

bool has_container(const core::Pod& pod, const std::string& name) {
  const auto named = [&](const core::Container& container) { return container.name() == name; };
  return std::any_of(pod.spec().containers().begin(), pod.spec().containers().end(), named) ||
         std::any_of(pod.spec().init_containers().begin(), pod.spec().init_containers().end(), named);
}

/// Tells when something in a folder is written, made or renamed.
class FolderNews {
 public:
  Status watch(Host& host, const std::string& folder, Wakeup& news) {
    notify_ = UniqueFd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (notify_.get() < 0 ||
        inotify_add_watch(notify_.get(), folder.c_str(), IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM) < 0)
      return status_from_errno(errno, "watch " + folder);
    Result<Watch> watch = host.watch(notify_.get(), POLLIN, [this, &news](uint32_t) {
      std::array<char, 4096> events;
      while (read(notify_.get(), events.data(), events.size()) > 0) {
      }
      news.notify();
    });
    if (!watch) return watch.status();
    watch_ = std::move(*watch);
    return Status::ok();
  }

 private:
  UniqueFd notify_;
  Watch watch_;
};

/// The log of the container that was asked for, and its id.
struct Found {
  int refusal = 0;
  std::string text;
  std::string id, path;
};

Task<Found> find_log(const Agent& agent, std::string key, std::string container, bool previous) {
  const auto refuse = [](int status, std::string text) { return Found{status, std::move(text), {}, {}}; };
  const std::shared_ptr<const WantedPod> pod = agent.find_pod(key);
  const std::string name = key.substr(key.find('/') + 1);
  if (!pod) co_return refuse(404, "pod \"" + name + "\" does not exist");
  if (!has_container(*pod->pod, container))
    co_return refuse(404, "container \"" + container + "\" not found in pod \"" + name + "\"");
  const cri::RuntimeServiceStub& runtime = *agent.context().runtime;
  cri::ListContainersRequest ask;
  (*ask.mutable_filter()->mutable_label_selector())[label::kPodUid] = pod->uid;
  (*ask.mutable_filter()->mutable_label_selector())[label::kContainerName] = container;
  auto asking = runtime.ListContainers(ask, {.timeout = kQuickCall});
  const Result<cri::ListContainersResponse> listed = co_await asking;
  if (!listed) co_return refuse(500, "the runtime does not answer: " + listed.status().message());
  std::vector<const cri::Container*> attempts;
  for (const cri::Container& one : listed->containers())
    if (one.state() != cri::CONTAINER_CREATED) attempts.push_back(&one);
  std::sort(attempts.begin(), attempts.end(), [](const cri::Container* a, const cri::Container* b) {
    return std::pair(a->created_at(), a->metadata().attempt()) > std::pair(b->created_at(), b->metadata().attempt());
  });
  if (previous && attempts.size() < 2)
    co_return refuse(400, "previous terminated container \"" + container + "\" in pod \"" + name + "\" not found");
  if (attempts.empty())
    co_return refuse(400,
                     "container \"" + container + "\" in pod \"" + name + "\" is waiting to start: ContainerCreating");
  cri::ContainerStatusRequest ask_status;
  ask_status.set_container_id(attempts[previous ? 1 : 0]->id());
  auto asking_status = runtime.ContainerStatus(ask_status, {.timeout = kQuickCall});
  const Result<cri::ContainerStatusResponse> status = co_await asking_status;
  if (!status) co_return refuse(500, "the runtime does not answer: " + status.status().message());
  if (status->status().log_path().empty()) co_return refuse(404, "container \"" + container + "\" keeps no log");
  co_return Found{0, {}, ask_status.container_id(), status->status().log_path()};
}

Task<bool> has_ended(const cri::RuntimeServiceStub& runtime, std::string id) {
  cri::ContainerStatusRequest ask;
  ask.set_container_id(id);
  auto asking = runtime.ContainerStatus(ask, {.timeout = kQuickCall});
  const Result<cri::ContainerStatusResponse> status = co_await asking;
  if (!status) co_return status.status().code() == Code::not_found;
  co_return status->status().state() == cri::CONTAINER_EXITED;
}

}  // namespace

Task<void> NodeApi::serve_logs(http::Exchange& exchange) {
  const http::Request& request = exchange.request();
  const int64_t now = std::chrono::duration_cast<std::chrono::nanoseconds>(WallClock::now().time_since_epoch()).count();
  Result<LogQuery> query = parse_log_query(request.query, now);
  Found found;
  if (request.segments.size() != 4 || (request.method != "GET" && request.method != "HEAD"))
    found = {404, "404 page not found: /containerLogs/{namespace}/{pod}/{container} is read by GET", {}, {}};
  else if (!query)
    found = {400, query.status().message(), {}, {}};
  else {
    Task<Found> finding =
        find_log(agent_, request.segments[1] + "/" + request.segments[2], request.segments[3], query->previous);
    found = co_await std::move(finding);
  }
  std::shared_ptr<LogReader> reader;
  Wakeup news(host_);
  FolderNews folder;
  if (found.refusal == 0) {
    reader = std::make_shared<LogReader>(found.path, *query);
    // Watching begins before reading: what is written in between is told.
    if (query->follow)
      if (Status watching = folder.watch(host_, found.path.substr(0, found.path.rfind('/')), news); !watching)
        found = {500, watching.message(), {}, {}};
    auto open = [reader] { return reader->open(); };
    auto opening = host_.blocking(std::move(open));
    if (Status opened = co_await std::move(opening); !opened) found = {404, opened.message(), {}, {}};
  }
  if (found.refusal != 0) {
    Task<Status> refusing = exchange.answer({.status = found.refusal, .body = found.text + "\n", .headers = {}});
    (void)co_await std::move(refusing);
    co_return;
  }
  Task<Status> beginning = exchange.begin({.type = "text/plain", .headers = {}});
  Status written = co_await std::move(beginning);
  exchange.on_gone([&news] { news.notify(); });
  bool ended = false;
  while (written && !exchange.is_gone()) {
    auto read = [reader] { return reader->next(); };
    auto reading = host_.blocking(std::move(read));
    Result<std::string> piece = co_await std::move(reading);
    if (!piece) {
      exchange.abort();
      break;
    }
    if (!piece->empty()) {
      Task<Status> writing = exchange.write(std::move(*piece));
      written = co_await std::move(writing);
      continue;
    }
    if (reader->is_done() || !query->follow) break;
    if (ended) break;
    const WallTime until = WallClock::now() + kLookForTheEnd;
    auto waiting = news.wait(until);
    co_await waiting;
    if (WallClock::now() < until) continue;
    // Asked before the last reading: what the container wrote before it ended is in the file by then.
    Task<bool> asking = has_ended(*agent_.context().runtime, found.id);
    ended = co_await std::move(asking);
  }
  exchange.on_gone(nullptr);
}

}  // namespace pintle::agent
