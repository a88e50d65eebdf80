#pragma once

/// Manifests from an HTTP(S) server: asked for once a period, with the ETag of what is known, so that nothing is read twice.
///
/// While the server fails, or answers with what is broken, the pods of its last good answer stay; that answer lies on disk
/// (`url.json` in the agent's state), so they stay over restarts too. An answer is a text of any number of v1 Pods (as in a file of
/// manifests), or one v1 PodList. One that is right and has a pod no more ends that pod.
///
///     UrlManifests source(web, {.url = "https://fleet.example/node1.yaml"}, "node1", state_folder);
///     co_await source.load();                    // what was good the last time; blocks elsewhere
///     if (co_await source.poll()) reconcile();   // true: its pods or its trouble differ
///
/// All on the plugin's lane.

#include <chrono>
#include <memory>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <string>
#include <utility>
#include <vector>

#include "plugins/node-agent/manifests.hpp"
#include "plugins/node-agent/web_client.hpp"

namespace pintle::agent {

struct UrlSettings {
  std::string url;  ///< empty: no such source
  std::chrono::nanoseconds period = std::chrono::seconds(20);
  std::string authority;  ///< file of certificates that are trusted instead of the node's
  std::vector<std::pair<std::string, std::string>> headers;  ///< sent with each request
};

class UrlManifests {
 public:
  UrlManifests(Host& host, WebClient& web, UrlSettings settings, std::string node, std::string state_folder);

  const UrlSettings& settings() const { return settings_; }
  /// Pods that this server brought before this process began; they count until `load` or `poll` know better.
  void remember(std::vector<std::shared_ptr<const WantedPod>> pods) { pods_ = std::move(pods); }
  /// The last good answer, from the disk.
  Task<void> load();
  /// Asks once. True: pods or status are not what they were.
  Task<bool> poll();
  /// Those of the last good answer.
  const std::vector<std::shared_ptr<const WantedPod>>& pods() const { return pods_; }
  const std::vector<std::shared_ptr<const PullSecret>>& secrets() const { return secrets_; }
  /// Of the last poll.
  const Status& status() const { return status_; }

 private:
  Task<Status> ask(bool& differs);
  /// Pods and secrets, to be taken both or neither.
  struct Answer {
    std::vector<std::shared_ptr<const WantedPod>> pods;
    std::vector<std::shared_ptr<const PullSecret>> secrets;
  };
  Result<Answer> read(const std::string& text) const;
  void take(Answer answer);

  Host& host_;
  WebClient& web_;
  UrlSettings settings_;
  std::string node_;
  std::string state_folder_;
  std::string etag_, text_;
  Status status_;
  std::vector<std::shared_ptr<const WantedPod>> pods_;
  std::vector<std::shared_ptr<const PullSecret>> secrets_;
};

}  // namespace pintle::agent
