#include "cri/oci/users.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "cri/api.pb.h"
#include "sdk/support/files/files.hpp"

namespace pintle::oci {
namespace {

constexpr size_t kFileLimit = 8u << 20;

struct User {
  std::string name;
  uint32_t user = 0;
  uint32_t group = 0;
};

std::optional<uint32_t> number_of(std::string_view text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || value > 0x7fffffff)
    return std::nullopt;
  return value;
}

/// Absent files are empty: an image need not have them.
std::string read_in_root(int root, const char* path) {
  auto file = files::open_resolved(root, path, O_RDONLY | O_NONBLOCK, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  struct stat about {};
  if (!file || fstat(file->get(), &about) != 0 || !S_ISREG(about.st_mode)) return {};
  auto text = files::read_all(file->get(), kFileLimit);
  return text ? std::move(*text) : std::string();
}

template <class Use>
void each_line(std::string_view text, size_t fields, Use use) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    std::vector<std::string_view> parts;
    while (true) {
      const size_t colon = line.find(':');
      parts.push_back(line.substr(0, colon));
      if (colon == std::string_view::npos) break;
      line.remove_prefix(colon + 1);
    }
    if (parts.size() >= fields) use(parts);
  }
}

std::optional<User> find_user(std::string_view passwd, std::string_view name, std::optional<uint32_t> number) {
  std::optional<User> found;
  each_line(passwd, 4, [&](const std::vector<std::string_view>& parts) {
    const auto user = number_of(parts[2]), group = number_of(parts[3]);
    if (found || !user || !group || (number ? *user != *number : parts[0] != name)) return;
    found = User{std::string(parts[0]), *user, *group};
  });
  return found;
}

std::optional<uint32_t> find_group(std::string_view group, std::string_view name) {
  std::optional<uint32_t> found;
  each_line(group, 3, [&](const std::vector<std::string_view>& parts) {
    if (!found && parts[0] == name) found = number_of(parts[2]);
  });
  return found;
}

}  // namespace

Result<Identity> resolve_identity(int root, const ::runtime::v1::LinuxContainerSecurityContext& context,
                                  std::string_view image_user) {
  const std::string passwd = read_in_root(root, "etc/passwd"), group = read_in_root(root, "etc/group");
  std::string user_text, group_text;
  if (context.has_run_as_user()) {
    const int64_t user = context.run_as_user().value();
    if (user < 0 || user > 0x7fffffff)
      return invalid_argument("run_as_user " + std::to_string(user) + " is no user id");
    user_text = std::to_string(user);
  } else if (!context.run_as_username().empty()) {
    user_text = context.run_as_username();
  } else {
    const size_t colon = image_user.find(':');
    user_text = std::string(image_user.substr(0, colon));
    if (colon != std::string_view::npos) group_text = std::string(image_user.substr(colon + 1));
  }
  if (context.has_run_as_group()) {
    const int64_t number = context.run_as_group().value();
    if (number < 0 || number > 0x7fffffff)
      return invalid_argument("run_as_group " + std::to_string(number) + " is no group id");
    group_text = std::to_string(number);
  }

  Identity identity;
  std::string name;
  if (!user_text.empty()) {
    const auto number = number_of(user_text);
    const auto user = find_user(passwd, user_text, number);
    if (!user && !number)
      return invalid_argument("user '" + user_text.substr(0, 100) +
                              "' is not in the image's /etc/passwd; give a number or another name");
    identity.user = user ? user->user : *number;
    identity.group = user ? user->group : 0;
    if (user) name = user->name;
  } else if (const auto user = find_user(passwd, "", 0)) {
    identity.group = user->group;
    name = user->name;
  }
  if (!group_text.empty()) {
    auto number = number_of(group_text);
    if (!number) number = find_group(group, group_text);
    if (!number)
      return invalid_argument("group '" + group_text.substr(0, 100) +
                              "' is not in the image's /etc/group; give a number or another name");
    identity.group = *number;
  }

  std::vector<uint32_t>& groups = identity.additional_groups;
  groups.push_back(identity.group);
  if (context.supplemental_groups_policy() == ::runtime::v1::SupplementalGroupsPolicy::Merge && !name.empty()) {
    each_line(group, 4, [&](const std::vector<std::string_view>& parts) {
      std::string_view members = parts[3];
      const auto number = number_of(parts[2]);
      while (number && !members.empty()) {
        const size_t comma = members.find(',');
        if (members.substr(0, comma) == name) groups.push_back(*number);
        members.remove_prefix(comma == std::string_view::npos ? members.size() : comma + 1);
      }
    });
  }
  for (const int64_t number : context.supplemental_groups()) {
    if (number < 0 || number > 0x7fffffff)
      return invalid_argument("supplemental group " + std::to_string(number) + " is no group id");
    groups.push_back(static_cast<uint32_t>(number));
  }
  std::sort(groups.begin(), groups.end());
  groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  return identity;
}

}  // namespace pintle::oci
