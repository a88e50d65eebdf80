// Pods that come through the node API.

#include "plugins/node-agent/agent.hpp"

namespace pintle::agent {

namespace {

std::string place_of(const WantedPod& pod) {
  return pod.path.starts_with('/') ? "the manifest " + pod.path : "the server " + pod.path;
}

}  // namespace

Task<Result<std::vector<Agent::Posted>>> Agent::post(std::string text) {
  if (!has_begun()) co_return unavailable("the agent does not act on pods yet: try again");
  Result<std::vector<WantedPod>> read = posted_.read(text);
  if (!read) co_return read.status();
  const Wanted wanted = this->wanted();
  std::vector<Posted> answer;
  PostedManifests::Pods pods;
  for (WantedPod& pod : *read) {
    const auto other = wanted.pods.find(pod.key());
    if (other != wanted.pods.end() && other->second->path != kPostedPath)
      co_return already_exists("the pod " + pod.key() + " comes from " + place_of(*other->second) +
                               ": change it there, or take another name");
    const auto former = posted_.pods().find(pod.key());
    const std::string change = former == posted_.pods().end()   ? "created"
                               : former->second->uid == pod.uid ? "unchanged"
                                                                : "configured";
    pods.push_back(std::make_shared<const WantedPod>(std::move(pod)));
    answer.push_back({pods.back(), change});
  }
  Task<Status> keeping = posted_.keep(std::move(pods));
  if (Status kept = co_await std::move(keeping); !kept) co_return kept;
  reconcile();
  co_return answer;
}

Task<Status> Agent::take_back(std::string key, std::optional<int64_t> grace_seconds) {
  if (!has_begun()) co_return unavailable("the agent does not act on pods yet: try again");
  const auto worker = workers_.find(key);
  const bool running = worker != workers_.end() && !worker->second->is_finished();
  if (!posted_.pods().contains(key)) {
    const Wanted wanted = this->wanted();
    if (const auto other = wanted.pods.find(key); other != wanted.pods.end())
      co_return failed_precondition("the pod " + key + " comes from " + place_of(*other->second) +
                                    ": take it out there");
    if (!running)
      co_return not_found("no pod " + key +
                          ": it was never handed in, or has been taken back and has ended; GET /pods " +
                          "lists those that are here");
  }
  if (running && grace_seconds) worker->second->set_grace(*grace_seconds);
  Task<Status> forgetting = posted_.forget(key);
  if (Status forgotten = co_await std::move(forgetting); !forgotten) co_return forgotten;
  reconcile();
  co_return Status::ok();
}

std::shared_ptr<const WantedPod> Agent::find_pod(const std::string& key) const {
  const auto worker = workers_.find(key);
  if (worker == workers_.end() || worker->second->is_finished()) return nullptr;
  return worker->second->known();
}

}  // namespace pintle::agent
