#pragma once

/// The node agent: keeps the pods whose manifests lie in a folder as they should be.
///
/// What it is. The lower half of Kubernetes' kubelet: manifests in, containers through the CRI, status out. It needs nothing but
/// a container runtime, so a node without a cluster runs pods with it.
///
///     folder of manifests --> ManifestFolder --wanted pods--> PodWorker (one a name) --> RuntimeService, ImageService
///     HTTP(S) server -------> UrlManifests -------^
///     POST to the node API -> PostedManifests ----^
///          ^  inotify, re-read every 20 s                          |   ^
///     ApplyPods, RemovePod                                      status events of containers
///
/// Vocabulary. A pod is *wanted* if a manifest has it. It is known by *key*, "namespace/name", and by *uid*, which changes with
/// every edit (manifests.hpp). A *run* is one uid's stay on the node (pod_worker.hpp). *Ours* is what carries our annotation
/// in the runtime; pods of others (crictl, a kubelet) are never touched.
///
/// Start. What the runtime has of ours is adopted by uid; what no manifest wants any more is ended. Pods run on while the agent is
/// away, so stopping it stops nothing. A folder that cannot be read, or a file that is broken, ends no pod either.
///
/// Change. The runtime tells container events; if it cannot, the agent compares its lists once a second. Either way everything is
/// compared once in a re-read period, as events can get lost. Cost follows change: a pod without news costs nothing.
///
/// Instances. All instances of the plugin share one folder of state and the pods in it; the one that holds its lock acts. A new
/// instance takes over as soon as the former one lets go.
///
/// Static pods appear under the name of their manifest. (A kubelet appends the node's name, because its mirror pods share one
/// namespace with those of other nodes; there are no mirror pods here yet.)
///
/// All on the plugin's lane.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <pintle/host.hpp>
#include <set>
#include <string>
#include <vector>

#include "cri/api.pintle.hpp"
#include "pintle/node.pb.h"
#include "plugins/node-agent/folder_watch.hpp"
#include "plugins/node-agent/garbage_collection.hpp"
#include "plugins/node-agent/log_rotation.hpp"
#include "plugins/node-agent/manifest_folder.hpp"
#include "plugins/node-agent/node_pressure.hpp"
#include "plugins/node-agent/node_resources.hpp"
#include "plugins/node-agent/node_shutdown.hpp"
#include "plugins/node-agent/pod_worker.hpp"
#include "plugins/node-agent/posted_manifests.hpp"
#include "plugins/node-agent/storage_meter.hpp"
#include "plugins/node-agent/url_manifests.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

struct AgentSettings {
  std::string manifests;
  std::chrono::nanoseconds reread = std::chrono::seconds(20);
  std::string state_folder;  ///< shared by all instances
  NodeFacts node;
  IdRangeSettings ids;
  BackoffSettings backoff;
  LogSettings container_logs;
  UrlSettings url;
  PressureSettings pressure;
  ShutdownSettings shutdown;
  CollectionSettings collection;
  int64_t dead_kept = 1;                 ///< of each container, besides its newest; -1: all
  std::chrono::nanoseconds dead_for{0};  ///< before that they are not removed
  NodeResources resources;
};

class Agent {
 public:
  Agent(Host& host, AgentSettings settings);

  /// The provider of either interface has changed. Before `start`, too.
  void bind(cri::RuntimeServiceStub runtime, cri::ImageServiceStub images);
  /// Adopts what runs and begins; or waits for the former instance in the background.
  Task<Status> start();
  /// Lets go of everything; pods run on. Completes when nothing is under way any more.
  Task<void> quiesce();

  node::v1::DescribeNodeResponse describe_node() const;
  node::v1::ListPodsResponse list(const node::v1::PodReference& only);
  Task<Result<node::v1::ApplyPodsResponse>> apply(node::v1::ApplyPodsRequest request);
  Task<Result<node::v1::RemovePodResponse>> remove(node::v1::RemovePodRequest request);

  // For the node API (node_api.hpp).
  struct Posted {
    std::shared_ptr<const WantedPod> pod;
    std::string change;  ///< "created", "configured", "unchanged"
  };
  /// Takes the manifests of a POST, durably. INVALID_ARGUMENT: what is wrong; ALREADY_EXISTS: another source has the pod.
  Task<Result<std::vector<Posted>>> post(std::string text);
  /// Ends a pod that was posted. NOT_FOUND; FAILED_PRECONDITION: it comes from another source.
  Task<Status> take_back(std::string key, std::optional<int64_t> grace_seconds);
  /// What is known of a pod, also of one that is ending; null: nothing.
  std::shared_ptr<const WantedPod> find_pod(const std::string& key) const;
  /// Runs when this instance begins to act on pods. Before `start`.
  void on_begin(std::function<void()> function) { on_begin_ = std::move(function); }
  bool has_begun() const { return begun_ && !context_.stopping; }
  const WorkerContext& context() const { return context_; }

 private:
  struct Target {
    WantedPod pod;
    std::string file;    ///< name in the folder
    std::string change;  ///< "created", "configured", "unchanged"
  };

  struct SecretTarget {
    std::string file;    ///< name in the folder
    std::string change;  ///< as of a pod
  };

  Task<Status> begin();
  Task<void> take_over();
  Task<void> follow_events();
  Task<void> poll_while_there_are_no_events();
  Task<void> tick();
  Task<void> follow_url();
  Wanted wanted() const;
  void report_url();
  Task<Status> adopt_all();
  Task<Status> compare_with_runtime(bool wake_all);
  Task<Status> read_folder(ReadRequest request);
  void folder_changed(FolderChange change);
  Task<void> read_changed();
  void reconcile();
  void report_files(const Wanted& wanted);
  std::shared_ptr<PodWorker> worker_for(const std::string& key);
  std::shared_ptr<PodWorker> worker_of_uid(const std::string& uid) const;
  void start_loop(Task<void> loop);
  Result<std::vector<Target>> targets_of(const std::vector<WantedPod>& pods,
                                         const node::v1::ApplyPodsRequest& request) const;
  std::optional<PodVerdict> admit(const PodWorker& asking, const WantedPod& pod);
  void reconsider_refused();
  Result<SecretTarget> target_of(const PullSecret& secret) const;
  static Task<void> counted(Agent* agent, Task<void> loop);

  Host& host_;
  AgentSettings settings_;
  WorkerContext context_;
  cri::RuntimeServiceStub runtime_;
  cri::ImageServiceStub images_;
  files::Lock lock_;
  WebClient web_;
  StorageMeter storage_;
  ManifestFolder folder_;
  UrlManifests url_;
  PostedManifests posted_;
  FolderWatch watch_;
  LogRotation log_rotation_;
  FolderChange pending_;
  bool reading_ = false, read_again_ = false;
  bool begun_ = false;
  std::function<void()> on_begin_;
  bool folder_readable_ = true;
  Workers workers_;
  NodePressure pressure_;
  NodeShutdown shutdown_;
  GarbageCollection collection_;
  std::map<std::string, std::shared_ptr<const WantedPod>> accepted_;  ///< by uid
  std::map<std::string, size_t> fingerprints_;                        ///< by uid: what the runtime has of it
  std::map<std::string, std::string> reported_;                       ///< by file: the problem that was told last
  uint64_t events_call_ = 0;
  size_t loops_ = 0;
  Wakeup loop_ended_, events_wakeup_, poll_wakeup_, tick_wakeup_, lock_wakeup_, url_wakeup_;
  Metric pods_metric_, broken_metric_;
};

}  // namespace pintle::agent
