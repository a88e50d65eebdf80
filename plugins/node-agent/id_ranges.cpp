#include "plugins/node-agent/id_ranges.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <mutex>
#include <optional>

#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

namespace json = boost::json;

constexpr const char* kFile = "user-namespace.json";
constexpr uint64_t kUsualBase = 65536;
// The kernel's (uid_t)-1 is no id, and what is above 2^31 is a negative number to some programs.
constexpr uint64_t kEndOfIds = 0x7fff0000;

struct Area {
  uint64_t first, end;
  bool meets(uint64_t from, uint64_t to) const { return from < end && first < to; }
};

/// Of the first of our users that the file names.
std::optional<Area> own_area(const std::vector<SubordinateIds>& lines) {
  for (const char* user : {"pintle", "kubelet"})
    for (const SubordinateIds& line : lines)
      if (line.user == user) return Area{line.first, line.first + line.count};
  return std::nullopt;
}

Result<PodIds> read_ids(const std::string& folder) {
  const Result<std::string> text = files::read_file(folder + "/" + kFile, 1000);
  if (!text) return text.status();
  json::error_code error;
  const json::value value = json::parse(*text, error);
  const auto number = [&](const char* name) -> uint32_t {
    const json::value* found = !error && value.is_object() ? value.get_object().if_contains(name) : nullptr;
    json::error_code wrong;
    const uint32_t result = found ? found->to_number<uint32_t>(wrong) : 0;
    return wrong ? 0 : result;
  };
  const PodIds ids{number("first"), number("count")};
  if (ids.first == 0 || ids.count == 0) return data_loss(folder + "/" + kFile + " is damaged");
  return ids;
}

}  // namespace

std::vector<SubordinateIds> parse_subordinate_ids(std::string_view text) {
  std::vector<SubordinateIds> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) continue;
    SubordinateIds ids{std::string(line.substr(0, first)), 0, 0};
    const auto number = [](std::string_view digits, uint64_t& value) {
      const auto [at, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
      return error == std::errc() && at == digits.data() + digits.size() && value <= UINT32_MAX;
    };
    if (number(line.substr(first + 1, second - first - 1), ids.first) && number(line.substr(second + 1), ids.count))
      lines.push_back(std::move(ids));
  }
  return lines;
}

Result<PodIds> choose_ids(const IdRangeSettings& settings, const std::vector<PodIds>& taken, std::string_view subuid,
                          std::string_view subgid) {
  const std::vector<SubordinateIds> users = parse_subordinate_ids(subuid), groups = parse_subordinate_ids(subgid);
  std::vector<Area> closed;
  for (const PodIds& ids : taken) closed.push_back({ids.first, uint64_t{ids.first} + ids.count});
  for (const auto* lines : {&users, &groups})
    for (const SubordinateIds& line : *lines)
      if (line.user != "pintle" && line.user != "kubelet") closed.push_back({line.first, line.first + line.count});
  Area area{settings.base != 0 ? settings.base : kUsualBase, kEndOfIds};
  if (settings.base == 0) {
    const std::optional<Area> own = own_area(users), own_groups = own_area(groups);
    if (own.has_value() != own_groups.has_value() ||
        (own && (own->first != own_groups->first || own->end != own_groups->end)))
      return failed_precondition("the ranges of the user \"pintle\" (or \"kubelet\") in " + settings.subuid + " and " +
                                 settings.subgid + " have to be the same");
    if (own) area = *own;
  }
  for (uint64_t first = area.first; first + settings.ids_per_pod <= area.end;) {
    const uint64_t end = first + settings.ids_per_pod;
    const auto other =
        std::find_if(closed.begin(), closed.end(), [&](const Area& one) { return one.meets(first, end); });
    if (other == closed.end()) return PodIds{static_cast<uint32_t>(first), settings.ids_per_pod};
    // On the grid, so that ranges do not leave gaps that fit nobody.
    while (first < other->end) first += settings.ids_per_pod;
  }
  return resource_exhausted("no range of " + std::to_string(settings.ids_per_pod) +
                            " ids is free for the pod's users between " + std::to_string(area.first) + " and " +
                            std::to_string(area.end) + "; see userNamespaces in the config of node-agent");
}

Result<PodIds> ids_of_pod(const IdRangeSettings& settings, const std::string& pods, const std::string& uid) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  Result<PodIds> own = read_ids(pods + "/" + uid);
  if (own || own.status().code() != Code::not_found) return own;
  Result<files::Descriptor> folder = files::open_folder(pods);
  if (!folder) return folder.status();
  const Result<std::vector<std::string>> names = files::list_folder(folder->get());
  if (!names) return names.status();
  std::vector<PodIds> taken;
  for (const std::string& name : *names) {
    const Result<PodIds> ids = read_ids(pods + "/" + name);
    // A range that cannot be read may be anyone's.
    if (!ids && ids.status().code() != Code::not_found) return ids.status().with_context("choose ids for a pod");
    if (ids) taken.push_back(*ids);
  }
  const auto text_of = [](const std::string& path) {
    Result<std::string> text = files::read_file(path);
    return text ? std::move(*text) : std::string();
  };
  own = choose_ids(settings, taken, text_of(settings.subuid), text_of(settings.subgid));
  if (!own) return own;
  const json::object record{{"first", own->first}, {"count", own->count}};
  Result<files::Descriptor> mine = files::open_folder(pods + "/" + uid);
  if (!mine) return mine.status();
  if (Status written = files::write_file(mine->get(), kFile, json::serialize(record) + "\n", files::Durability::synced);
      !written)
    return written;
  return own;
}

}  // namespace pintle::agent
