#pragma once

/// Making and unmaking what a container is on disk and in the kernel, around the OCI runtime. All functions here block and
/// run on a blocking thread.

#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "cri/images/store.hpp"
#include "plugins/runtime-oci/record.hpp"
#include "plugins/runtime-oci/settings.hpp"

namespace pintle::runtime::v1 {
class CreateContainerRequest;
}

namespace pintle::runtime_oci {

struct Prepared {
  ContainerRecord record;  ///< phase `creating`, on disk
  bool terminal = false;
  bool standard_input = false;
  bool input_once = false;
  std::string
      shown_at;  ///< where the OCI runtime sees the container's folder (mapped_users.hpp); empty: at its own place
  cgroup::Limits limits;
  std::vector<std::string> remarks;  ///< for the log
};

/// Leases the image, mounts the root, writes the spec, makes the cgroup. Nothing remains on failure.
Result<Prepared> prepare(const Node& node, images::Store& store, const runtime::v1::CreateContainerRequest& request);

/// Writes the record. A durable one is synced.
Status save(const Node& node, const ContainerRecord& record, bool durable);

/// Gives back what only a running container needs: its cgroup, with whatever is left in it, and its mounted root. Goes on after an
/// error and reports all; what has been given back already is no error.
Status release_ended(const Node& node, const ContainerRecord& record);

/// Kills whatever is left of the container and removes all that was made for it. Goes on after an error and reports all; then
/// the record stays, in phase `removing`, so that it can be tried again. What is removed waits in the trash for `empty_trash`.
Status dismantle(const Node& node, images::Store& store, ContainerRecord record);

/// Deletes what was removed. May take long.
Status empty_trash(const Node& node);

/// What a container that was found on disk turned out to be.
struct Found {
  ContainerRecord record;
  bool keep = false;   ///< else it is to be dismantled
  std::string remark;  ///< for the log; empty: nothing to say
};

/// Looks at every container on disk and what became of it. A damaged record is set aside and its container marked to be
/// dismantled, with whatever can be found out about it.
Result<std::vector<Found>> look(const Node& node);

/// Removes leases, exit files, runtime states and monitors that belong to no container in `known`.
Status sweep(const Node& node, images::Store& store, const std::vector<std::string>& known);

/// Kills monitors of this instance's containers that are not in `known`, and what they run to create them, and waits until these have
/// ended (at most 5 s): an OCI runtime that is halfway through would make again what is being removed. Blocks.
void end_stray_programs(const Node& node, const std::vector<std::string>& known);

}  // namespace pintle::runtime_oci
