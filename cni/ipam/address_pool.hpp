#pragma once

/// Host-local address management: which pod of this node has which address.
///
/// What it is. An `AddressPool` hands out one address of each family from the ranges of a network, to an *owner*: the
/// sandbox and the interface in it, on behalf of a *holder* (the instance of a network plugin, or the CNI executable).
/// Several instances, processes and plugins share one pool by sharing its folder: all they do happens under flock(2) of
/// its file "lock".
///
/// Vocabulary.
///   range   a subnet, the part of it that is handed out, and its gateway. Ranges of one family stand in for one
///   another: an owner
///           gets an address from the first that has a free one.
///   last    the address that a range gave out last. The search goes on behind it and wraps, so that an address rests
///   as long as
///           possible before the next pod gets it.
///
/// Life cycle of an address: free --allocate--> held --release, or collect--> free. `allocate` again with the same
/// owner and holder answers the same addresses again.
///
/// On disk: one text file for each subnet, "10.85.0.0-16": a first line that names it, then a line for each allocation and release,
/// appended; now and then it is written anew without what cancels out, and renamed into place. Each line ends with its checksum.
/// Appending costs 0.02 ms and replacing 0.3 ms (ext4 allocates the new blocks and frees the old ones at the rename).
/// Nothing is synced: an allocation means something only as long as its network namespace lives, which is until the
/// machine goes down, and the page cache outlives every process. Syncing would add 0.2 to 20 ms to the start of each pod
/// and buy nothing. The first line names the boot it belongs to; after the next boot allocations are void, and only `last` is kept.
///
/// A file that is torn, damaged or of somebody else is set aside as "10.85.0.0-16.damaged" and built anew from what this process
/// had read of it before. Whenever a process reads a file for the first time, it adds the `survivors`: what the machine itself shows to
/// be in use; so a file that lost its last lines is made whole as well.
///
///     auto pool = AddressPool::open(folder, {*AddressRange::of(subnet)}, survivors, log);
///     auto addresses = (*pool)->allocate({"network-bridge@1", "4f2a...", "eth0"});
///     (*pool)->release({"network-bridge@1", "4f2a...", "eth0"});
///
/// Sources: the host-local plugin of the CNI project for the vocabulary (ranges, gateway, last reserved address).

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/support/files/files.hpp"
#include "sdk/support/netlink/ip.hpp"

namespace pintle::cni {

struct AddressRange {
  netlink::IpPrefix subnet;
  netlink::IpAddress first;  ///< the first and the last that may be handed out
  netlink::IpAddress last;
  netlink::IpAddress gateway;  ///< never handed out

  /// All usable addresses of the subnet with its first as the gateway. INVALID_ARGUMENT if there is no room for a
  /// gateway and a pod, or the subnet is no unicast one.
  static Result<AddressRange> of(const netlink::IpPrefix& subnet);
};

struct AddressOwner {
  std::string holder;  ///< who answers for it: "network-bridge@1"
  std::string sandbox;
  std::string interface;  ///< inside of the sandbox
  auto operator<=>(const AddressOwner&) const = default;
};

struct AllocatedAddress {
  netlink::IpPrefix address;  ///< with the subnet's length: "10.85.0.7/16"
  netlink::IpAddress gateway;
  bool operator==(const AllocatedAddress&) const = default;
};

struct HeldAddress {
  netlink::IpAddress address;
  AddressOwner owner;
};

/// Thread-safe; calls wait for one another and for other processes.
class AddressPool {
 public:
  /// What is in use by the look of the machine; asked when a file is read for the first time, or has to be built anew.
  using Survivors = std::function<std::vector<HeldAddress>()>;
  /// Told what was set aside and why: one line for a log.
  using OnRecovery = std::function<void(const std::string&)>;

  /// Makes the folder if need be. INVALID_ARGUMENT if ranges overlap one another.
  static Result<std::unique_ptr<AddressPool>> open(const std::string& folder, std::vector<AddressRange> ranges,
                                                   Survivors survivors, OnRecovery on_recovery);

  /// One address of each family that the ranges have, the first range's family first; all or nothing.
  /// RESOURCE_EXHAUSTED when a family has none left (the message counts who holds how many) or the disk is full.
  Result<std::vector<AllocatedAddress>> allocate(const AddressOwner& owner);
  /// Success as well when the owner holds nothing. When the disk is full the addresses stay reserved until the next
  /// call that can write, or the next `collect`: releasing never fails for that.
  Status release(const AddressOwner& owner);
  /// Records addresses that are known to be in use, as after the loss of the folder. An address that somebody else
  /// holds by the file is left to him, and is named in the status (ALREADY_EXISTS) when all others were recorded.
  Status adopt(const AddressOwner& owner, const std::vector<netlink::IpAddress>& addresses);
  /// Releases what `holder` holds for owners of which `exists` says no, and returns these owners.
  Result<std::vector<AddressOwner>> collect(std::string_view holder,
                                            const std::function<bool(const AddressOwner&)>& exists);
  /// All that is held in the ranges, by whomever, in the order of addresses.
  Result<std::vector<HeldAddress>> list();
  const std::vector<AddressRange>& ranges() const { return ranges_; }

 private:
  struct State {
    AddressRange range;
    std::string name;        // of the file
    files::Descriptor file;  // as long as it is open its inode is not used for another
    uint64_t inode = 0;
    uint64_t size = 0;  // of what has been read or written of it
    size_t lines = 0;
    bool was_read = false;
    netlink::IpAddress last;
    std::map<netlink::IpAddress, AddressOwner> held;
  };

  AddressPool(files::Descriptor folder, std::string path, std::vector<AddressRange> ranges, Survivors survivors,
              OnRecovery on_recovery);
  Status refresh();
  Status refresh(State& state);
  Status read(State& state);
  void rebuild(State& state, const std::string& why);
  void add_survivors(State& state);
  /// Appends lines to the file, or makes it.
  Status append(State& state, const std::string& lines, size_t count);
  /// Writes the file anew.
  Status compact(State& state);
  /// Takes addresses from the owners that the condition names, on disk as well; how many. When the disk is full they are taken in memory and
  /// the status says so.
  Status drop(State& state, const std::function<bool(const AddressOwner&)>& condition);
  std::optional<netlink::IpAddress> find_free(const State& state) const;
  Status exhausted(int family) const;

  std::mutex mutex_;
  files::Descriptor folder_;
  std::string path_;
  std::string boot_;
  std::vector<AddressRange> ranges_;
  std::vector<State> states_;
  std::vector<AddressOwner> unsaved_releases_;
  Survivors survivors_;
  OnRecovery on_recovery_;
};

/// The lines of a range's file; apart for tests and the fuzzer.
struct RangeFile {
  netlink::IpPrefix subnet;
  std::string boot;
  netlink::IpAddress last;
  std::map<netlink::IpAddress, AddressOwner> held;
  size_t lines = 0;
};
std::string first_line(const netlink::IpPrefix& subnet, std::string_view boot);
/// Where the search for a free address goes on, when no allocation says it.
std::string last_line(const netlink::IpAddress& address);
std::string allocation_line(const netlink::IpAddress& address, const AddressOwner& owner);
std::string release_line(const netlink::IpAddress& address);
/// Applies whole lines behind the first to `held` and `last`; returns how many bytes that was: a line without its end is left.
/// DATA_LOSS says what is wrong with one.
Result<size_t> apply_lines(std::string_view text, RangeFile& file);
/// The whole text, with `used` bytes of whole lines.
Result<RangeFile> read_range_file(std::string_view text, size_t& used);

}  // namespace pintle::cni
