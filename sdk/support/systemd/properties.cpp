#include <algorithm>
#include <charconv>

#include "sdk/support/systemd/manager.hpp"

namespace pintle::systemd {
namespace {

constexpr uint64_t kSecond = 1'000'000;     // microseconds
constexpr uint64_t kPeriod = 100'000;       // the kernel's own
constexpr uint64_t kWholePercent = 10'000;  // of a second: systemd keeps no finer quota
constexpr uint64_t kMostCpus = 8192;

uint64_t amount(int64_t value) { return value < 0 ? kInfinity : static_cast<uint64_t>(value); }

/// The values of cgroup v2's files: a number or "max".
std::optional<uint64_t> read_amount(std::string_view text) {
  if (text == "max") return kInfinity;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void set_quota(Properties& properties, int64_t quota, uint64_t period) {
  uint64_t each_second = kInfinity;
  if (quota >= 0) {
    each_second = static_cast<uint64_t>(quota) * kSecond / std::max<uint64_t>(period, 1);
    each_second = (each_second + kWholePercent - 1) / kWholePercent * kWholePercent;
  }
  properties.push_back({"CPUQuotaPerSecUSec", each_second});
  properties.push_back({"CPUQuotaPeriodUSec", period});
}

}  // namespace

Result<std::vector<uint8_t>> bits_of(std::string_view list) {
  std::vector<uint8_t> bits;
  const std::string shown = "'" + std::string(list.substr(0, 100)) + "' is no list such as 0-2,5";
  while (!list.empty()) {
    const std::string_view part = list.substr(0, list.find(','));
    list.remove_prefix(std::min(part.size() + 1, list.size()));
    const size_t dash = part.find('-');
    const auto first = read_amount(part.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : read_amount(part.substr(dash + 1));
    if (!first || !last || *last < *first || *last >= kMostCpus) return invalid_argument(shown);
    if (bits.size() <= *last / 8) bits.resize(*last / 8 + 1);
    for (uint64_t each = *first; each <= *last; ++each) bits[each / 8] |= static_cast<uint8_t>(1u << each % 8);
  }
  if (bits.empty()) return invalid_argument(shown);
  return bits;
}

Result<Properties> properties_of(const cgroup::Limits& limits) {
  Properties properties;
  if (limits.cpu_shares) properties.push_back({"CPUWeight", cgroup::weight_of_shares(*limits.cpu_shares)});
  if (limits.cpu_quota || limits.cpu_period)
    set_quota(properties, limits.cpu_quota.value_or(-1), limits.cpu_period.value_or(kPeriod));
  if (limits.memory) properties.push_back({"MemoryMax", amount(*limits.memory)});
  if (limits.memory_and_swap) {
    const int64_t memory = std::max<int64_t>(limits.memory.value_or(0), 0);
    properties.push_back({"MemorySwapMax", *limits.memory_and_swap < 0
                                               ? kInfinity
                                               : amount(std::max<int64_t>(*limits.memory_and_swap - memory, 0))});
  }
  if (limits.processes) properties.push_back({"TasksMax", amount(*limits.processes)});
  for (const auto& [list, name] :
       {std::pair(&limits.cpuset_cpus, "AllowedCPUs"), std::pair(&limits.cpuset_mems, "AllowedMemoryNodes")}) {
    if (list->empty()) continue;
    auto bits = bits_of(*list);
    if (!bits) return bits.status().with_context(name);
    properties.push_back({name, std::move(*bits)});
  }
  static constexpr std::pair<const char*, const char*> words[] = {
      {"memory.min", "MemoryMin"}, {"memory.low", "MemoryLow"},          {"memory.high", "MemoryHigh"},
      {"memory.max", "MemoryMax"}, {"memory.swap.max", "MemorySwapMax"}, {"cpu.weight", "CPUWeight"},
      {"pids.max", "TasksMax"}};
  for (const auto& [file, name] : words) {
    const auto found = limits.unified.find(file);
    if (found == limits.unified.end()) continue;
    const auto value = read_amount(found->second);
    if (!value)
      return invalid_argument("unified cgroup setting " + std::string(file) + ": '" + found->second.substr(0, 100) +
                              "' is neither a number nor max");
    properties.push_back({name, *value});
  }
  if (const auto found = limits.unified.find("cpu.max"); found != limits.unified.end()) {
    const std::string_view text = found->second;
    const size_t space = text.find(' ');
    const auto quota = read_amount(text.substr(0, space));
    const auto period = space == std::string_view::npos ? std::optional(kPeriod) : read_amount(text.substr(space + 1));
    if (!quota || !period || *period == 0 || *period > kSecond || (*quota != kInfinity && *quota > INT64_MAX / kSecond))
      return invalid_argument("unified cgroup setting cpu.max: '" + std::string(text.substr(0, 100)) +
                              "' is not as '50000 100000' or 'max'");
    set_quota(properties, *quota == kInfinity ? -1 : static_cast<int64_t>(*quota), *period);
  }
  return properties;
}

}  // namespace pintle::systemd
