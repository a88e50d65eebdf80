#pragma once

/// What the suites are written with: one interface of a plugin, asked method by method, and the findings noted down.

#include <google/protobuf/message_lite.h>

#include <functional>
#include <optional>
#include <string>

#include "sdk/testkit/contract.hpp"

namespace pintle::testkit {

class InterfaceCheck {
 public:
  InterfaceCheck(ContractTarget& target, uint32_t index, const InterfaceInfo& info, ContractReport& report)
      : target_(target), index_(index), info_(info), report_(report) {}

  const InterfaceInfo& info() const { return info_; }
  bool is_unimplemented(std::string_view method) const;
  CallOutcome raw(std::string_view method, std::string_view header, const RawCall& options = {});

  /// One call that should end as the expectation says; nothing is checked when the method is unimplemented.
  template <class Request>
  CallOutcome call(std::string_view method, const Request& request, const RawCall& options = {}) {
    return raw(method, request.SerializeAsString(), options);
  }
  /// Notes a passed check, or a broken one with what was seen.
  bool expect(bool held, std::string_view method, const std::string& promise, const std::string& seen = "");
  bool expect_code(const CallOutcome& outcome, std::string_view method, std::initializer_list<Code> allowed,
                   const std::string& promise);
  template <class Response>
  std::optional<Response> expect_answer(const CallOutcome& outcome, std::string_view method,
                                        const std::string& promise) {
    if (!expect_code(outcome, method, {Code::ok}, promise)) return std::nullopt;
    Response response;
    if (!expect(response.ParseFromString(outcome.header), method, "its answer is the message of its schema"))
      return std::nullopt;
    return response;
  }
  void note_unimplemented(std::string_view method);

 private:
  ContractTarget& target_;
  uint32_t index_;
  const InterfaceInfo& info_;
  ContractReport& report_;
};

/// The part that every interface has.
void check_general(InterfaceCheck& check);
// The parts of their own.
void check_echo(InterfaceCheck& check);
void check_runtime_backend(InterfaceCheck& check);
void check_image_backend(InterfaceCheck& check);
void check_pod_network(InterfaceCheck& check);

}  // namespace pintle::testkit
