#include "cni/ipam/address_pool.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <set>

namespace pintle::cni {
namespace {

using netlink::IpAddress;
using netlink::IpPrefix;

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
    states_.push_back({.range = range, .file = file_name(range.subnet), .last = range.last});
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
  refresh();

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
  for (State* state : changed) {
    if (failure) failure = save(*state);
  }
  if (!failure) {
    for (State* state : changed) {
      drop(*state, [&](const AddressOwner& other) { return other == owner; });
      state->text.clear();
    }
    unsaved_releases_.push_back(owner);
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
  refresh();
  for (State& state : states_) {
    if (drop(state, [&](const AddressOwner& other) { return other == owner; }) == 0) continue;
    if (!save(state)) unsaved_releases_.push_back(owner);
  }
  return Status::ok();
}

Status AddressPool::adopt(const AddressOwner& owner, const std::vector<IpAddress>& addresses) {
  const std::lock_guard guard(mutex_);
  Result<files::Lock> lock = files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  refresh();
  Status result;
  for (State& state : states_) {
    bool changed = false;
    for (const IpAddress& address : addresses) {
      if (!state.range.subnet.contains(address)) continue;
      const auto [entry, added] = state.held.emplace(address, owner);
      changed = changed || added;
      if (!added && entry->second != owner) {
        result = already_exists("address " + address.to_string() + " of sandbox " + owner.sandbox +
                                " is recorded for sandbox " + entry->second.sandbox + " of " + entry->second.holder);
      }
    }
    if (changed) {
      if (Status saved = save(state); !saved) return saved;
    }
  }
  return result;
}

Result<std::vector<AddressOwner>> AddressPool::collect(std::string_view holder,
                                                       const std::function<bool(const AddressOwner&)>& exists) {
  const std::lock_guard guard(mutex_);
  Result<files::Lock> lock = files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  refresh();
  std::set<AddressOwner> gone;
  for (State& state : states_) {
    const auto is_gone = [&](const AddressOwner& owner) { return owner.holder == holder && !exists(owner); };
    for (const auto& [address, owner] : state.held) {
      if (is_gone(owner)) gone.insert(owner);
    }
    if (drop(state, is_gone) == 0) continue;
    if (Status saved = save(state); !saved) return saved;
  }
  return std::vector<AddressOwner>(gone.begin(), gone.end());
}

Result<std::vector<HeldAddress>> AddressPool::list() {
  const std::lock_guard guard(mutex_);
  Result<files::Lock> lock = files::Lock::acquire(folder_.get(), "lock", files::Lock::Kind::exclusive);
  if (!lock) return lock.status();
  refresh();
  std::vector<HeldAddress> all;
  for (const State& state : states_) {
    for (const auto& [address, owner] : state.held) all.push_back({address, owner});
  }
  return all;
}

void AddressPool::refresh() {
  for (State& state : states_) refresh(state);
  const std::vector<AddressOwner> releases = std::exchange(unsaved_releases_, {});
  const auto was_released = [&](const AddressOwner& owner) {
    return std::find(releases.begin(), releases.end(), owner) != releases.end();
  };
  for (State& state : states_) {
    if (releases.empty() || drop(state, was_released) == 0 || save(state)) continue;
    unsaved_releases_ = releases;
  }
}

void AddressPool::refresh(State& state) {
  const Result<std::string> text = files::read_file(folder_.get(), state.file);
  if (!text && text.status().code() == Code::not_found)
    return rebuild(state, state.text.empty() ? "" : "it has vanished");
  if (text && !text->empty() && *text == state.text) return;

  const Result<RangeFile> file = text ? read_range_file(*text) : Result<RangeFile>(text.status());
  if (!file) return rebuild(state, file.status().message());
  if (file->subnet != state.range.subnet) return rebuild(state, "it is of subnet " + file->subnet.to_string());
  state.text = *text;
  state.last = file->last;
  state.held = file->held;
  if (file->boot != boot_) state.held.clear();
}

void AddressPool::rebuild(State& state, const std::string& why) {
  if (!why.empty()) {
    renameat(folder_.get(), state.file.c_str(), folder_.get(), (state.file + ".damaged").c_str());
    if (on_recovery_) {
      on_recovery_("address file " + path_ + "/" + state.file + " was set aside and built anew: " + why);
    }
  }
  for (const HeldAddress& survivor : survivors_ ? survivors_() : std::vector<HeldAddress>()) {
    if (state.range.subnet.contains(survivor.address)) state.held.emplace(survivor.address, survivor.owner);
  }
  // A full disk is met again, and told, by whoever changes something.
  if (!state.held.empty() || !why.empty()) (void)save(state).is_ok();
}

Status AddressPool::save(State& state) {
  state.text.clear();
  std::string text =
      write_range_file({.subnet = state.range.subnet, .boot = boot_, .last = state.last, .held = state.held});
  const Status status = files::write_file(folder_.get(), state.file, text, files::Durability::cached);
  if (!status) return status.with_context("record addresses of " + state.range.subnet.to_string());
  state.text = std::move(text);
  return Status::ok();
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

size_t AddressPool::drop(State& state, const std::function<bool(const AddressOwner&)>& condition) const {
  return std::erase_if(state.held, [&](const auto& entry) { return condition(entry.second); });
}

}  // namespace pintle::cni
