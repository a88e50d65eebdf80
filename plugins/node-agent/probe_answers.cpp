#include "plugins/node-agent/probe_answers.hpp"

#include <charconv>
#include <cstdint>
#include <optional>

namespace pintle::agent {

namespace {

using Kind = ProbeAnswer::Kind;

constexpr size_t kMostOutput = 1024;
constexpr size_t kFrameHeader = 5;  // a flag of compression, and the length in four bytes
constexpr int kServing = 1, kUnimplemented = 12, kNotFound = 5;

/// A number of Protobuf's variable length; nothing if it is cut off or too long.
std::optional<uint64_t> take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (bytes.empty()) return std::nullopt;
    const auto byte = static_cast<uint8_t>(bytes.front());
    bytes.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return value;
  }
  return std::nullopt;
}

/// Field 1 (`status`, an enumeration) of a HealthCheckResponse; 0, as it is when the field is missing; nothing for garbage.
std::optional<uint64_t> serving_status(std::string_view message) {
  uint64_t status = 0;
  while (!message.empty()) {
    const std::optional<uint64_t> key = take_varint(message);
    if (!key || *key >> 3 == 0) return std::nullopt;
    std::optional<uint64_t> skip;
    switch (*key & 7) {
      case 0: {
        const std::optional<uint64_t> value = take_varint(message);
        if (!value) return std::nullopt;
        if (*key >> 3 == 1) status = *value;
        continue;
      }
      case 1:
        skip = 8;
        break;
      case 2:
        skip = take_varint(message);
        break;
      case 5:
        skip = 4;
        break;
      default:
        return std::nullopt;
    }
    if (!skip || *skip > message.size()) return std::nullopt;
    message.remove_prefix(static_cast<size_t>(*skip));
  }
  return status;
}

}  // namespace

std::string presentable(std::string_view text, size_t most) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  std::string shown(text.substr(0, most));
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return shown;
}

ProbeAnswer judge_http(int status, std::string_view body) {
  if (status >= 200 && status < 300) return {Kind::success, presentable(body, kMostOutput)};
  if (status >= 300 && status < 400)
    return {Kind::warning, "Probe terminated redirects, Response body: " + presentable(body, kMostOutput)};
  return {Kind::failure, "HTTP probe failed with statuscode: " + std::to_string(status)};
}

ProbeAnswer judge_exec(int exit_code, std::string_view output) {
  return {exit_code == 0 ? Kind::success : Kind::failure, presentable(output, kMostOutput)};
}

std::string grpc_health_request(std::string_view service) {
  std::string message;
  if (!service.empty()) {
    message += '\x0a';
    for (size_t rest = service.size();; rest >>= 7) {
      message += static_cast<char>(rest > 0x7f ? (rest & 0x7f) | 0x80 : rest);
      if (rest <= 0x7f) break;
    }
    message += service;
  }
  std::string frame(1, '\0');
  for (int shift = 24; shift >= 0; shift -= 8) frame += static_cast<char>((message.size() >> shift) & 0xff);
  return frame + message;
}

ProbeAnswer judge_grpc(int http_status, std::string_view body, std::string_view grpc_status,
                       std::string_view grpc_message) {
  if (http_status != 200)
    return {Kind::failure, "health rpc probe failed with HTTP status " + std::to_string(http_status)};
  int code = -1;
  std::from_chars(grpc_status.data(), grpc_status.data() + grpc_status.size(), code);
  if (code == kUnimplemented)
    return {Kind::failure, "this server does not implement the grpc health protocol (grpc.health.v1.Health): " +
                               presentable(grpc_message, kMostOutput)};
  if (code == kNotFound)
    return {Kind::failure, "service unknown to the server: " + presentable(grpc_message, kMostOutput)};
  if (code != 0)
    return {Kind::failure, code < 0 ? std::string("health rpc ended without a status")
                                    : "health rpc probe failed: status " + std::to_string(code) + ": " +
                                          presentable(grpc_message, kMostOutput)};
  const auto unreadable = [] { return ProbeAnswer{Kind::failure, "health rpc answered with something unreadable"}; };
  if (body.size() < kFrameHeader || body[0] != 0) return unreadable();
  size_t length = 0;
  for (size_t i = 1; i < kFrameHeader; ++i) length = length << 8 | static_cast<uint8_t>(body[i]);
  if (length != body.size() - kFrameHeader) return unreadable();
  const std::optional<uint64_t> status = serving_status(body.substr(kFrameHeader));
  if (!status) return unreadable();
  if (*status == kServing) return {Kind::success, "service healthy"};
  const char* names[] = {"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"};
  return {Kind::failure, "service unhealthy (responded with \"" +
                             (*status < 4 ? std::string(names[*status]) : std::to_string(*status)) + "\")"};
}

}  // namespace pintle::agent
