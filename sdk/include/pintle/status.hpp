#pragma once

/// Errors are values.
///
/// Every fallible function of Pintle returns a `Status` (nothing to give) or a `Result<T>` (a value or a `Status`). The set of
/// codes is closed and has gRPC's numbers (https://grpc.github.io/grpc/core/md_doc_statuscodes.html), so that a status passes
/// through the plugin ABI, the CRI socket and the admin socket unchanged. The message is for a person: one line that says what
/// failed, where, and what would be right.
///
///     Result<Buffer> read = read_file(path);
///     if (!read) return read.status().with_context("load image archive");
///     use(*read);

#include <cassert>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace pintle {

enum class Code : uint32_t {
  ok = 0,
  cancelled = 1,
  unknown = 2,
  invalid_argument = 3,
  deadline_exceeded = 4,
  not_found = 5,
  already_exists = 6,
  permission_denied = 7,
  resource_exhausted = 8,
  failed_precondition = 9,
  aborted = 10,
  out_of_range = 11,
  unimplemented = 12,
  internal = 13,
  unavailable = 14,
  data_loss = 15,
  unauthenticated = 16,
};

/// The code's name as gRPC spells it ("NOT_FOUND"); "UNKNOWN" for a number outside of the set.
constexpr std::string_view code_name(Code code) {
  constexpr std::string_view names[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  const auto index = static_cast<uint32_t>(code);
  return index < std::size(names) ? names[index] : "UNKNOWN";
}

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  static Status ok() { return {}; }

  bool is_ok() const { return code_ == Code::ok; }
  explicit operator bool() const { return is_ok(); }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

  /// "where: message", the code unchanged. Nothing is done to an ok status.
  Status with_context(std::string_view where) const {
    if (is_ok()) return *this;
    return {code_, std::string(where) + ": " + message_};
  }
  /// "NOT_FOUND: message", for logs.
  std::string to_string() const { return is_ok() ? "OK" : std::string(code_name(code_)) + ": " + message_; }

 private:
  Code code_ = Code::ok;
  std::string message_;
};

/// A value or the reason why there is none. Reading the value of a failed result is a broken invariant.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) {
    assert(!std::get<1>(state_).is_ok() && "a Result without a value needs an error");
  }
  bool is_ok() const { return state_.index() == 0; }
  explicit operator bool() const { return is_ok(); }
  Status status() const { return is_ok() ? Status() : std::get<1>(state_); }

  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T&& operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }

 private:
  std::variant<T, Status> state_;
};

inline Status invalid_argument(std::string message) { return {Code::invalid_argument, std::move(message)}; }
inline Status not_found(std::string message) { return {Code::not_found, std::move(message)}; }
inline Status already_exists(std::string message) { return {Code::already_exists, std::move(message)}; }
inline Status failed_precondition(std::string message) { return {Code::failed_precondition, std::move(message)}; }
inline Status permission_denied(std::string message) { return {Code::permission_denied, std::move(message)}; }
inline Status resource_exhausted(std::string message) { return {Code::resource_exhausted, std::move(message)}; }
inline Status unavailable(std::string message) { return {Code::unavailable, std::move(message)}; }
inline Status unimplemented(std::string message) { return {Code::unimplemented, std::move(message)}; }
inline Status internal_error(std::string message) { return {Code::internal, std::move(message)}; }
inline Status data_loss(std::string message) { return {Code::data_loss, std::move(message)}; }
inline Status deadline_exceeded(std::string message) { return {Code::deadline_exceeded, std::move(message)}; }
inline Status cancelled(std::string message) { return {Code::cancelled, std::move(message)}; }

/// The status for a failed system call: `errno` mapped to the closest code, the message "what: strerror".
Status status_from_errno(int error, std::string_view what);

}  // namespace pintle
