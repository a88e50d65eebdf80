#include "cni/ipam/address_pool.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>

namespace pintle::cni {
namespace {

using netlink::IpAddress;
using netlink::IpPrefix;

constexpr size_t kLargestFile = 256 << 20;
/// Lines that cancel out are tolerated up to this many besides as many as there are allocations.
constexpr size_t kSpareLines = 256;

std::string file_name(const IpPrefix& subnet) {
  return subnet.address().to_string() + "-" + std::to_string(subnet.length());
}

/// A word of a range's file: what would break its lines is refused before it gets there.
bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= 255 &&
         std::none_of(text.begin(), text.end(), [](char c) { return c <= ' ' || c == 127; });
}

std::string this_boot() {
  Result<std::string> id = files::read_file("/proc/sys/kernel/random/boot_id");
  if (!id) return "unknown";
  while (!id->empty() && id->back() == '\n') id->pop_back();
  return *id;
}

/// Removes what a process that was killed had written aside and did not come to rename.
Status sweep(int folder) {
  const Result<files::Lock> lock = files::Lock::acquire(folder, "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  const Result<std::vector<std::string>> names = files::list_folder(folder);
  if (!names) return names.status();
  for (const std::string& name : *names) {
    if (name.starts_with('.')) unlinkat(folder, name.c_str(), 0);
  }
  return Status::ok();
}

}  // namespace

Result<AddressRange> AddressRange::of(const IpPrefix& subnet) {
  const IpPrefix network = subnet.network();
  const auto complain = [&](std::string_view why) {
    return invalid_argument("subnet " + subnet.to_string() + ": " + std::string(why));
  };
  if (network.address().is_multicast_or_unspecified()) return complain("pods need a unicast subnet");
  const unsigned host_bits = network.address().bits() - network.length();
  if (host_bits < 1) return complain("there is no room for a gateway and a pod; take a shorter prefix");
  // The first address of an IPv6 subnet is every router's (RFC 4291, 2.6.1); IPv4's first and last are the network's
  // and the broadcast address. Point-to-point subnets have neither (RFC 3021, RFC 6164).
  const bool point_to_point = host_bits == 1;
  AddressRange range{.subnet = network, .first = network.first(), .last = network.last(), .gateway = network.first()};
  if (!point_to_point) {
    range.first = range.gateway = *range.first.plus(1);
    if (range.first.is_v4()) range.last = *range.last.previous();
  }
  return range;
}

Result<std::unique_ptr<AddressPool>> AddressPool::open(const std::string& folder, std::vector<AddressRange> ranges,
                                                       Survivors survivors, OnRecovery on_recovery) {
  if (ranges.empty()) return invalid_argument("an address pool needs a range");
  for (size_t i = 0; i < ranges.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (ranges[i].subnet.overlaps(ranges[j].subnet)) {
        return invalid_argument("the subnets " + ranges[j].subnet.to_string() + " and " + ranges[i].subnet.to_string() +
                                " overlap; name each address once");
      }
    }
  }
  if (Status made = files::make_folders(folder); !made) return made;
  Result<files::Descriptor> descriptor = files::open_folder(folder);
  if (!descriptor) return descriptor.status();
  if (Status swept = sweep(descriptor->get()); !swept) return swept.with_context("open " + folder);
  return std::unique_ptr<AddressPool>(
      new AddressPool(std::move(*descriptor), folder, std::move(ranges), std::move(survivors), std::move(on_recovery)));
}

AddressPool::AddressPool(files::Descriptor folder, std::string path, std::vector<AddressRange> ranges,
                         Survivors survivors, OnRecovery on_recovery)
    : folder_(std::move(folder)),
      path_(std::move(path)),
      boot_(this_boot()),
      ranges_(std::move(ranges)),
      survivors_(std::move(survivors)),
      on_recovery_(std::move(on_recovery)) {
  for (const AddressRange& range : ranges_) {
    State state;
    state.range = range;
    state.name = file_name(range.subnet);
    state.last = range.last;
    states_.push_back(std::move(state));
  }
}

Result<std::vector<AllocatedAddress>> AddressPool::allocate(const AddressOwner& owner) {
  if (!is_word(owner.holder) || !is_word(owner.sandbox) || !is_word(owner.interface)) {
    return invalid_argument("an address owner is named by words without spaces: '" + owner.holder + "', '" +
                            owner.sandbox + "', '" + owner.interface + "'");
  }
  const std::lock_guard guard(mutex_);
  Result<files::Lock> lock = files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  if (Status status = refresh(); !status) return status;

  std::vector<AllocatedAddress> answer;
  std::vector<State*> changed;
  std::set<int> served;
  for (const State& state : states_) {
    for (const auto& [address, holder] : state.held) {
      if (holder != owner || !served.insert(address.family()).second) continue;
      answer.push_back({IpPrefix(address, state.range.subnet.length()), state.range.gateway});
    }
  }
  Status failure;
  for (State& state : states_) {
    const int family = state.range.subnet.address().family();
    if (served.contains(family)) continue;
    const std::optional<IpAddress> free = find_free(state);
    if (!free) continue;
    served.insert(family);
    state.held.emplace(*free, owner);
    state.last = *free;
    changed.push_back(&state);
    answer.push_back({IpPrefix(*free, state.range.subnet.length()), state.range.gateway});
  }
  for (const State& state : states_) {
    const int family = state.range.subnet.address().family();
    if (failure && !served.contains(family)) failure = exhausted(family);
  }
  size_t written = 0;
  for (State* state : changed) {
    if (failure) failure = append(*state, allocation_line(state->last, owner), 1);
    if (failure) ++written;
  }
  if (!failure) {
    for (size_t i = 0; i < changed.size(); ++i) {
      State& state = *changed[i];
      const auto is_owner = [&](const AddressOwner& other) { return other == owner; };
      if (i >= written) std::erase_if(state.held, [&](const auto& entry) { return is_owner(entry.second); });
      if (i < written && !drop(state, is_owner)) unsaved_releases_.push_back(owner);
    }
    return failure;
  }
  const int first_family = ranges_.front().subnet.address().family();
  std::stable_partition(answer.begin(), answer.end(), [&](const AllocatedAddress& allocated) {
    return allocated.address.address().family() == first_family;
  });
  return answer;
}

Status AddressPool::release(const AddressOwner& owner) {
  const std::lock_guard guard(mutex_);
  Result<files::Lock> lock = files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  if (Status status = refresh(); !status) return status;
  for (State& state : states_) {
    if (!drop(state, [&](const AddressOwner& other) { return other == owner; })) unsaved_releases_.push_back(owner);
  }
  return Status::ok();
}

Status AddressPool::adopt(const AddressOwner& owner, const std::vector<IpAddress>& addresses) {
  const std::lock_guard guard(mutex_);
  Result<files::Lock> lock = files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  if (Status status = refresh(); !status) return status;
  Status result;
  for (State& state : states_) {
    std::string lines;
    size_t count = 0;
    for (const IpAddress& address : addresses) {
      if (!state.range.subnet.contains(address)) continue;
      const auto [entry, added] = state.held.emplace(address, owner);
      if (added) lines += allocation_line(address, owner);
      if (added) ++count;
      if (entry->second != owner) {
        result = already_exists("address " + address.to_string() + " of sandbox " + owner.sandbox +
                                " is recorded for sandbox " + entry->second.sandbox + " of " + entry->second.holder);
      }
    }
    if (count == 0) continue;
    if (Status saved = append(state, lines, count); !saved) return saved;
  }
  return result;
}

Result<std::vector<AddressOwner>> AddressPool::collect(std::string_view holder,
                                                       const std::function<bool(const AddressOwner&)>& exists) {
  const std::lock_guard guard(mutex_);
  Result<files::Lock> lock = files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  if (Status status = refresh(); !status) return status;
  std::set<AddressOwner> gone;
  for (State& state : states_) {
    const auto is_gone = [&](const AddressOwner& owner) { return owner.holder == holder && !exists(owner); };
    for (const auto& [address, owner] : state.held) {
      if (is_gone(owner)) gone.insert(owner);
    }
    if (Status saved = drop(state, is_gone); !saved) return saved;
  }
  return std::vector<AddressOwner>(gone.begin(), gone.end());
}

Result<std::vector<HeldAddress>> AddressPool::list() {
  const std::lock_guard guard(mutex_);
  Result<files::Lock> lock = files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  if (Status status = refresh(); !status) return status;
  std::vector<HeldAddress> all;
  for (const State& state : states_) {
    for (const auto& [address, owner] : state.held) all.push_back({address, owner});
  }
  return all;
}

Status AddressPool::refresh() {
  for (State& state : states_) {
    if (Status status = refresh(state); !status)
      return status.with_context("addresses of " + state.range.subnet.to_string());
  }
  const std::vector<AddressOwner> releases = std::exchange(unsaved_releases_, {});
  if (releases.empty()) return Status::ok();
  const auto was_released = [&](const AddressOwner& owner) {
    return std::find(releases.begin(), releases.end(), owner) != releases.end();
  };
  bool all_saved = true;
  for (State& state : states_) all_saved = drop(state, was_released) && all_saved;
  if (!all_saved) unsaved_releases_ = releases;
  return Status::ok();
}

Status AddressPool::refresh(State& state) {
  struct stat now {};
  if (fstatat(folder_.get(), state.name.c_str(), &now, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno != ENOENT) return status_from_errno(errno, "look at " + path_ + "/" + state.name);
    const bool had_it = state.file.valid();
    state.file.reset();
    if (had_it || !state.was_read) rebuild(state, had_it ? "it has vanished" : "");
    return Status::ok();
  }
  if (state.file.valid() && now.st_ino == state.inode && static_cast<uint64_t>(now.st_size) == state.size) {
    return Status::ok();
  }
  Status status = read(state);
  // Anything else (no descriptor left, no memory) says nothing about the file.
  const bool is_damaged = status.code() == Code::data_loss || status.code() == Code::invalid_argument;
  if (!status && !is_damaged) return status;
  if (is_damaged) rebuild(state, status.message());
  if (!std::exchange(state.was_read, true)) add_survivors(state);
  return Status::ok();
}

/// Only what was appended since, if the file is the same.
Status AddressPool::read(State& state) {
  struct stat now {};
  Result<files::Descriptor> file = files::open_at(folder_.get(), state.name, O_RDWR | O_APPEND | O_NOFOLLOW);
  if (!file) return file.status();
  if (fstat(file->get(), &now) != 0) return status_from_errno(errno, "look at it");
  const bool is_same = state.file.valid() && now.st_ino == state.inode;
  if (is_same && static_cast<uint64_t>(now.st_size) < state.size) return data_loss("it was cut");
  const uint64_t start = is_same ? state.size : 0;
  if (lseek(file->get(), static_cast<off_t>(start), SEEK_SET) < 0) return status_from_errno(errno, "read it");
  const Result<std::string> text = files::read_all(file->get(), kLargestFile);
  if (!text) return text.status();

  size_t used = 0;
  if (is_same) {
    RangeFile tail{.subnet = state.range.subnet,
                   .boot = boot_,
                   .last = state.last,
                   .held = std::move(state.held),
                   .lines = state.lines};
    const Result<size_t> applied = apply_lines(*text, tail);
    state.held = std::move(tail.held);
    if (!applied) return applied.status();
    used = *applied;
    state.last = tail.last;
    state.lines = tail.lines;
  } else {
    Result<RangeFile> whole = read_range_file(*text, used);
    if (!whole) return whole.status();
    if (whole->subnet != state.range.subnet) return data_loss("it is of subnet " + whole->subnet.to_string());
    state.last = whole->last;
    state.lines = whole->lines;
    state.held = std::move(whole->held);
    state.file = std::move(*file);
    state.inode = now.st_ino;
    if (whole->boot != boot_) {
      state.held.clear();
      if (!compact(state)) state.file.reset();
      return Status::ok();
    }
  }
  state.size = start + used;
  // A line without its end is of a process that was stopped while it wrote: nobody has been told of it.
  if (used < text->size() && ftruncate(state.file.get(), static_cast<off_t>(state.size)) != 0) {
    return status_from_errno(errno, "cut a torn line off");
  }
  return Status::ok();
}

void AddressPool::rebuild(State& state, const std::string& why) {
  if (!why.empty()) {
    renameat(folder_.get(), state.name.c_str(), folder_.get(), (state.name + ".damaged").c_str());
    if (on_recovery_)
      on_recovery_("address file " + path_ + "/" + state.name + " was set aside and built anew: " + why);
  }
  state.file.reset();
  state.was_read = true;
  // A full disk is met again, and told, by whoever changes something.
  if (!state.held.empty()) (void)compact(state).is_ok();
  add_survivors(state);
}

void AddressPool::add_survivors(State& state) {
  std::string lines;
  size_t count = 0;
  for (const HeldAddress& survivor : survivors_ ? survivors_() : std::vector<HeldAddress>()) {
    if (!state.range.subnet.contains(survivor.address)) continue;
    if (!state.held.emplace(survivor.address, survivor.owner).second) continue;
    lines += allocation_line(survivor.address, survivor.owner);
    ++count;
  }
  if (count > 0) (void)append(state, lines, count).is_ok();
}

Status AddressPool::append(State& state, const std::string& lines, size_t count) {
  if (!state.file.valid()) return compact(state);
  if (state.lines + count > 2 * state.held.size() + kSpareLines && compact(state)) return Status::ok();
  const Status written = files::write_all(state.file.get(), lines);
  if (!written) {
    // The next reader would cut half a line off, too.
    if (ftruncate(state.file.get(), static_cast<off_t>(state.size)) != 0) state.file.reset();
    return written.with_context("record addresses of " + state.range.subnet.to_string());
  }
  state.size += lines.size();
  state.lines += count;
  return Status::ok();
}

Status AddressPool::compact(State& state) {
  std::string text = first_line(state.range.subnet, boot_);
  for (const auto& [address, owner] : state.held) text += allocation_line(address, owner);
  text += last_line(state.last);
  Status status = files::write_file(folder_.get(), state.name, text, files::Durability::cached);
  if (!status) return status.with_context("record addresses of " + state.range.subnet.to_string());
  Result<files::Descriptor> file = files::open_at(folder_.get(), state.name, O_RDWR | O_APPEND | O_NOFOLLOW);
  struct stat now {};
  if (!file) return file.status();
  if (fstat(file->get(), &now) != 0) return status_from_errno(errno, "look at " + path_ + "/" + state.name);
  state.file = std::move(*file);
  state.inode = now.st_ino;
  state.size = text.size();
  state.lines = state.held.size() + 1;
  return Status::ok();
}

Status AddressPool::drop(State& state, const std::function<bool(const AddressOwner&)>& condition) {
  std::string lines;
  size_t count = 0;
  for (auto entry = state.held.begin(); entry != state.held.end();) {
    if (!condition(entry->second)) {
      ++entry;
      continue;
    }
    lines += release_line(entry->first);
    ++count;
    entry = state.held.erase(entry);
  }
  if (count == 0) return Status::ok();
  const Status status = append(state, lines, count);
  // The file knows more than we do now: it is read again before it is used again.
  if (!status) state.file.reset();
  return status;
}

std::optional<IpAddress> AddressPool::find_free(const State& state) const {
  const AddressRange& range = state.range;
  const auto is_free = [&](const IpAddress& address) {
    return address != range.gateway && !state.held.contains(address);
  };
  std::optional<IpAddress> candidate = state.last.plus(1);
  if (!candidate || *candidate < range.first || *candidate > range.last) candidate = range.first;
  const IpAddress start = *candidate;
  do {
    if (is_free(*candidate)) return candidate;
    candidate = *candidate == range.last ? range.first : candidate->plus(1);
  } while (*candidate != start);
  return std::nullopt;
}

Status AddressPool::exhausted(int family) const {
  size_t held = 0;
  std::string subnets;
  for (const State& state : states_) {
    if (state.range.subnet.address().family() != family) continue;
    held += state.held.size();
    subnets += (subnets.empty() ? "" : ", ") + state.range.subnet.to_string();
  }
  return resource_exhausted("no free address in " + subnets + ": " + std::to_string(held) +
                            " are held; widen podCIDR or add another one");
}

}  // namespace pintle::cni
