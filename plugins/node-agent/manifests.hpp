#pragma once

/// Pod manifests as text: reading, checking, and the identity of a pod that comes from a file.
///
/// A manifest is YAML or JSON with any number of core/v1 Pods, and the Secrets with which their images are pulled
/// (pull_secrets.hpp). All of them are right, or the whole text is refused with every
/// problem in one line, each with file, line and column. What this release cannot run is refused as well: a field that was
/// passed over in silence would be a promise that is not kept.
///
/// A pod from a file is known by namespace and name. Its uid is a hash of the node's name, the file's path and the pod as it was
/// written (defaults, comments and white space do not count): an edited manifest is another pod, which takes the place of the
/// former one. A uid that stands in the manifest is only a part of what is hashed.

#include <cstdint>
#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/node-agent/pull_secrets.hpp"
#include "sdk/api/problem.hpp"

namespace k8s::io::api::core::v1 {
class Pod;
}

namespace pintle::agent {

namespace core = k8s::io::api::core::v1;

/// A pod that shall run. Immutable once it was read.
struct WantedPod {
  std::string uid;
  std::string namespace_name;
  std::string name;
  std::string path;                      ///< of the manifest file
  int64_t created_at = 0;                ///< when this agent took it, nanoseconds since 1970
  std::shared_ptr<const core::Pod> pod;  ///< with defaults, uid, namespace and node name
  std::string yaml;                      ///< the pod as a manifest of its own

  /// "default/web"
  std::string key() const { return namespace_name + "/" + name; }
};

struct ReadOptions {
  std::string origin;  ///< what messages call the text
  std::string path;    ///< the manifest file
  std::string node;
};

/// What a text brings.
struct Manifest {
  std::vector<WantedPod> pods;
  std::vector<std::shared_ptr<const PullSecret>> secrets;
};

/// INVALID_ARGUMENT with all that is wrong.
Result<Manifest> read_manifest(std::string_view text, const ReadOptions& options);

/// A PodList becomes the documents that it lists; any other text stays as it is.
std::string unfold_list(const std::string& text, const std::string& origin);
/// Whether a text is a list without a pod: the one way to say "none" that cannot be a cut or missing answer.
bool is_empty_list(const std::string& text, const std::string& origin);

/// A wanted pod as a record on disk, and back: what was accepted is remembered while its file is broken.
std::string to_record(const WantedPod& pod);
Result<WantedPod> from_record(std::string_view record);
/// Uids become names of folders: of what the runtime tells only real ones count.
bool is_uid(std::string_view uid);

/// What a pod asks for that this release does not do yet: "probes are not supported yet". The closed list of all such fields.
api::Problems find_unsupported(const core::Pod& pod);

}  // namespace pintle::agent
