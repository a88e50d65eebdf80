#pragma once

/// The containers of one instance, on its lane.
///
///            create                start               the process ends
///     (none) ------> created ----------------> started -----------------> exited
///                       \______________ remove _|__________________________/
///                                          v
///                                       (none)
///
/// Each step is on disk before it is answered (record.hpp). `recover` finds after any crash what is really there: what runs goes
/// on and is watched again, what has ended tells its exit code from the monitor's exit file, what was half made or half removed is
/// removed.
///
/// Ends are noticed by inotify on the monitors' exit files. A monitor that dies without one is noticed by its pidfd; then the
/// container's own process is watched instead, and its exit code cannot be known any more.
///
/// Steps of one container happen one at a time, those of different ones side by side. What blocks runs on blocking threads.

#include <functional>
#include <map>
#include <memory>
#include <pintle/call.hpp>
#include <pintle/host.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <set>
#include <string>

#include "cri/images/store.hpp"
#include "pintle/runtime.pintle.hpp"
#include "plugins/runtime-oci/bundle.hpp"
#include "plugins/runtime-oci/lane.hpp"

namespace pintle::runtime_oci {

class Containers {
 public:
  Containers(Host& host, std::shared_ptr<const Node> node, std::shared_ptr<images::Store> store);

  /// Takes over what is on the machine; before anything else.
  Task<Status> recover();
  /// From now on containers are created only for sandboxes that have one here; `host.retired()` is said when the last container
  /// is gone.
  void retire();
  size_t size() const { return entries_.size(); }
  /// Whether containers of other sandboxes have their cgroups in this one.
  bool has_others_in(const std::string& cgroup, const std::string& sandbox_id) const;

  Task<Result<runtime::v1::CreateContainerResponse>> create(Call& call,
                                                            const runtime::v1::CreateContainerRequest& request);
  Task<Result<runtime::v1::StartContainerResponse>> start(const std::string& id);
  Result<runtime::v1::SignalContainerResponse> signal(const std::string& id, int number);
  Task<Result<runtime::v1::RemoveContainerResponse>> remove(const std::string& id);
  runtime::v1::ListContainersResponse list(const std::string& id) const;
  Task<Result<runtime::v1::ExecResponse>> exec(Call& call, const runtime::v1::ExecRequest& request);
  Task<Result<runtime::v1::UpdateResourcesResponse>> update(const runtime::v1::UpdateResourcesRequest& request);
  Task<Result<runtime::v1::StatsResponse>> stats(const std::string& id);
  Task<Result<runtime::v1::ReopenLogResponse>> reopen(const std::string& id);
  Broadcast<runtime::v1::Event>& events() { return events_; }

 private:
  struct Entry;
  using EntryPointer = std::shared_ptr<Entry>;

  Task<Status> run_monitor(EntryPointer entry, const Prepared& prepared, std::chrono::nanoseconds patience);
  /// Another program is about to move processes of ours into a cgroup: for some time the kernel's lock for that is kept open.
  void expect_moves();
  Task<void> keep_attach_lock_open();
  Task<Status> run_runtime(EntryPointer entry, std::vector<std::string> arguments);
  Status watch_exits();
  /// Makes the folder of the exit files, and watches it.
  Status make_exits();
  void watch_monitor(const EntryPointer& entry);
  void note_kill_beside(const Entry& killed);
  void watch_process(const EntryPointer& entry);
  Task<void> settle(EntryPointer entry, bool monitor_ended);
  void release_later(const EntryPointer& entry);
  Task<void> release(EntryPointer entry);
  Task<Status> dismantle_entry(EntryPointer entry);
  void forget(const EntryPointer& entry);
  void publish(const Entry& entry);
  void empty_trash_later();
  Task<void> empty_trash_now();
  bool has_sandbox(const std::string& id) const;
  Result<EntryPointer> find(const std::string& id) const;
  static runtime::v1::Container describe(const Entry& entry);
  void remark_once(const std::string& text);

  Host& host_;
  std::shared_ptr<const Node> node_;
  std::shared_ptr<images::Store> store_;
  std::map<std::string, EntryPointer, std::less<>> entries_;
  Broadcast<runtime::v1::Event> events_;
  UniqueFd exits_;
  Watch exits_watch_;
  std::chrono::steady_clock::time_point moves_until_;
  bool attach_lock_is_kept_ = false;
  bool retiring_ = false;
  bool trash_is_emptied_ = false;
  bool trash_has_more_ = false;
  std::set<std::string> remarked_;
  uint64_t exec_number_ = 0;
  Metric count_, created_, failed_, out_of_memory_, create_seconds_;
};

}  // namespace pintle::runtime_oci
