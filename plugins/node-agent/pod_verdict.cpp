#include "plugins/node-agent/pod_verdict.hpp"

#include <boost/json.hpp>

#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace json = boost::json;

std::string to_record(const PodVerdict& verdict, std::string_view boot_id) {
  return json::serialize(json::object{{"boot", boot_id},
                                      {"reason", verdict.reason},
                                      {"message", verdict.message},
                                      {"freesDisk", verdict.frees_disk},
                                      {"keepsVolumes", verdict.keeps_volumes},
                                      {"disruption", verdict.disruption_message}});
}

Result<std::optional<PodVerdict>> verdict_from_record(std::string_view record, std::string_view boot_id) {
  boost::system::error_code error;
  const json::value value = json::parse(record, error);
  const json::object* object = error ? nullptr : value.if_object();
  const auto text = [&](const char* name) -> std::string {
    const json::value* member = object ? object->if_contains(name) : nullptr;
    return member && member->is_string() ? std::string(member->get_string()) : std::string();
  };
  const auto flag = [&](const char* name) {
    const json::value* member = object->if_contains(name);
    return member && *member == json::value(true);
  };
  if (text("reason").empty()) return invalid_argument("is no record of a verdict on a pod");
  if (text("boot") != boot_id) return std::optional<PodVerdict>();
  PodVerdict verdict{.reason = text("reason"),
                     .message = text("message"),
                     .grace_seconds = 0,
                     .is_refusal = false,
                     .frees_disk = flag("freesDisk"),
                     .keeps_volumes = flag("keepsVolumes"),
                     .disruption_message = text("disruption")};
  return std::optional(std::move(verdict));
}

std::string boot_id() {
  Result<std::string> text = files::read_file("/proc/sys/kernel/random/boot_id", 100);
  if (!text) return {};
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return *text;
}

}  // namespace pintle::agent
