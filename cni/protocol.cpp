#include "cni/protocol.hpp"

#include <algorithm>
#include <boost/json.hpp>

namespace pintle::cni {
namespace {

namespace json = boost::json;

constexpr size_t kLongestName = 128;
constexpr size_t kLargestText = 1 << 20;
constexpr size_t kDeepest = 32;

size_t rank(std::string_view version) {
  return static_cast<size_t>(std::ranges::find(kVersions, version) - kVersions.begin());
}

std::string text_under(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

Code code_of(uint32_t code) {
  switch (static_cast<ErrorCode>(code)) {
    case ErrorCode::incompatible_version:
    case ErrorCode::unsupported_field:
      return Code::unimplemented;
    case ErrorCode::unknown_container:
      return Code::not_found;
    case ErrorCode::invalid_environment:
    case ErrorCode::undecodable:
    case ErrorCode::invalid_config:
      return Code::invalid_argument;
    case ErrorCode::try_again_later:
    case ErrorCode::not_available:
    case ErrorCode::limited_connectivity:
      return Code::unavailable;
    default:
      return Code::internal;
  }
}

}  // namespace

bool is_version(std::string_view text) { return rank(text) < kVersions.size(); }
bool is_at_least(std::string_view version, std::string_view other) { return rank(version) >= rank(other); }

json::object to_json(const Error& error, std::string_view version) {
  json::object object{{"cniVersion", version}, {"code", static_cast<uint32_t>(error.code)}, {"msg", error.message}};
  if (!error.details.empty()) object["details"] = error.details;
  return object;
}

Error error_of(const Status& status) {
  const auto with = [&](ErrorCode code) { return Error{.code = code, .message = status.message(), .details = {}}; };
  switch (status.code()) {
    case Code::invalid_argument:
      return with(ErrorCode::invalid_config);
    case Code::not_found:
      return with(ErrorCode::unknown_container);
    case Code::unimplemented:
      return with(ErrorCode::unsupported_field);
    case Code::unavailable:
    case Code::deadline_exceeded:
    case Code::aborted:
      return with(ErrorCode::try_again_later);
    default:
      return with(ErrorCode::plugin_specific);
  }
}

Status status_of_error(const json::value& error) {
  const json::object* object = error.if_object();
  const json::value* number = object ? object->if_contains("code") : nullptr;
  if (!number) return internal_error("it failed without an error object");
  boost::system::error_code unreadable;
  const auto code = number->to_number<uint32_t>(unreadable);
  std::string words = text_under(*object, "msg");
  if (words.empty()) words = "it failed without a message";
  if (const std::string details = text_under(*object, "details"); !details.empty()) words += ": " + details;
  // One line, whatever the plugin wrote.
  std::ranges::replace_if(
      words, [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return Status(unreadable ? Code::internal : code_of(code),
                words.substr(0, 1000) + " (CNI code " + std::to_string(code) + ")");
}

Status check_name(std::string_view what, std::string_view name) {
  const auto is_alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool good =
      !name.empty() && name.size() <= kLongestName && is_alphanumeric(name.front()) &&
      std::ranges::all_of(name, [&](char c) { return is_alphanumeric(c) || c == '_' || c == '.' || c == '-'; });
  if (good) return Status::ok();
  return invalid_argument(std::string(what) + " '" + std::string(name.substr(0, kLongestName)) +
                          "': 1 to 128 letters, digits, '_', '.' and '-' are expected, the first a letter or digit");
}

Result<std::vector<std::pair<std::string, std::string>>> parse_arguments(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> arguments;
  while (!text.empty()) {
    const size_t end = std::min(text.find(';'), text.size());
    const std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (part.empty()) continue;
    const size_t sign = part.find('=');
    if (sign == std::string_view::npos || sign == 0) {
      return invalid_argument("CNI_ARGS: '" + std::string(part.substr(0, 100)) + "' is not KEY=VALUE");
    }
    arguments.emplace_back(part.substr(0, sign), part.substr(sign + 1));
  }
  return arguments;
}

Result<json::object> parse_object(std::string_view what, std::string_view text) {
  if (text.size() > kLargestText) return invalid_argument(std::string(what) + ": more than a mebibyte");
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = kDeepest;
  json::stream_parser parser({}, options);
  const size_t used = parser.write_some(text.data(), text.size(), error);
  if (!error && used == text.size()) parser.finish(error);
  if (error || used != text.size()) {
    const auto line =
        1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(std::min(used, text.size())), '\n');
    return invalid_argument(std::string(what) + ": it is no JSON: line " + std::to_string(line) + ": " +
                            (error ? error.message() : std::string("something stands behind its end")));
  }
  json::value value = parser.release();
  if (!value.is_object()) return invalid_argument(std::string(what) + ": a JSON object is expected");
  return std::move(value.get_object());
}

}  // namespace pintle::cni
