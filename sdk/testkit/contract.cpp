#include "sdk/testkit/contract.hpp"

#include <algorithm>
#include <array>

#include "cri/api.pintle.hpp"
#include "pintle/example.pintle.hpp"
#include "pintle/image.pintle.hpp"
#include "pintle/network.pintle.hpp"
#include "pintle/node.pintle.hpp"
#include "pintle/runtime.pintle.hpp"
#include "sdk/testkit/contract_check.hpp"

namespace pintle::testkit {
namespace {

using namespace std::chrono_literals;

struct Known {
  const InterfaceInfo* info;
  void (*suite)(InterfaceCheck&);  // null: the general part is all
};

// One line an interface: the whole list of what has a schema.
constexpr Known schemas[] = {
    {&example::v1::EchoInterface::info, check_echo},
    {&runtime::v1::RuntimeBackendInterface::info, check_runtime_backend},
    {&image::v1::ImageBackendInterface::info, check_image_backend},
    {&network::v1::PodNetworkInterface::info, check_pod_network},
    {&node::v1::NodeAgentInterface::info, nullptr},
    {&::runtime::v1::RuntimeServiceInterface::info, nullptr},
    {&::runtime::v1::ImageServiceInterface::info, nullptr},
};

// Bytes that are no Protobuf message at all: a field whose length runs past the end.
constexpr std::string_view malformed = "\x0a\x7f";

std::string seen(const CallOutcome& outcome) {
  if (!outcome.accepted) return "the call was not accepted: " + outcome.status.to_string();
  if (outcome.completions == 0) return "it never ended";
  return "it answered " + outcome.status.to_string();
}

void check_ends_once(InterfaceCheck& check, const MethodInfo& method, const CallOutcome& outcome) {
  check.expect(outcome.accepted && outcome.completions == 1, method.name, "a call ends exactly once",
               outcome.completions > 1 ? "it ended " + std::to_string(outcome.completions) + " times" : seen(outcome));
  check.expect(!outcome.completed_inside_call, method.name, "a call never ends before it was accepted");
  if (!outcome.status) {
    check.expect(!outcome.status.message().empty(), method.name, "a failure says what, where and what would be right");
  }
}

}  // namespace

std::span<const InterfaceInfo* const> known_interfaces() {
  static const auto infos = [] {
    std::array<const InterfaceInfo*, std::size(schemas)> made{};
    std::transform(std::begin(schemas), std::end(schemas), made.begin(), [](const Known& known) { return known.info; });
    return made;
  }();
  return infos;
}

const InterfaceInfo* find_interface(std::string_view name) {
  for (const Known& known : schemas) {
    if (known.info->name == name) return known.info;
  }
  return nullptr;
}

ContractReport check_contract(ContractTarget& target, std::span<const std::string> provides) {
  ContractReport report;
  for (uint32_t index = 0; index < provides.size(); ++index) {
    const auto known = std::find_if(std::begin(schemas), std::end(schemas),
                                    [&](const Known& one) { return one.info->name == provides[index]; });
    if (known == std::end(schemas)) {
      report.unknown_interfaces.push_back(provides[index]);
      continue;
    }
    InterfaceCheck check(target, index, *known->info, report);
    check_general(check);
    if (known->suite) known->suite(check);
  }
  return report;
}

// ---- InterfaceCheck ------------------------------------------------------------------------------------------------------

bool InterfaceCheck::is_unimplemented(std::string_view method) const {
  return std::any_of(report_.unimplemented.begin(), report_.unimplemented.end(), [&](const ContractFinding& finding) {
    return finding.interface_name == info_.name && finding.method == method;
  });
}

void InterfaceCheck::note_unimplemented(std::string_view method) {
  report_.unimplemented.push_back({std::string(info_.name), std::string(method), "answers UNIMPLEMENTED"});
}

CallOutcome InterfaceCheck::raw(std::string_view method, std::string_view header, const RawCall& options) {
  const auto found = std::find_if(info_.methods.begin(), info_.methods.end(),
                                  [&](const MethodInfo& one) { return one.name == method; });
  return target_.call(index_, found->number, header, options);
}

bool InterfaceCheck::expect(bool held, std::string_view method, const std::string& promise,
                            const std::string& what_was_seen) {
  if (held) {
    ++report_.passed;
  } else {
    const std::string what = promise + (what_was_seen.empty() ? "" : ", but " + what_was_seen);
    report_.broken.push_back({std::string(info_.name), std::string(method), what});
  }
  return held;
}

bool InterfaceCheck::expect_code(const CallOutcome& outcome, std::string_view method,
                                 std::initializer_list<Code> allowed, const std::string& promise) {
  const bool held =
      outcome.completions == 1 && std::find(allowed.begin(), allowed.end(), outcome.status.code()) != allowed.end();
  return expect(held, method, promise, seen(outcome));
}

// ---- The general part ----------------------------------------------------------------------------------------------------

void check_general(InterfaceCheck& check) {
  for (const MethodInfo& method : check.info().methods) {
    RawCall options;
    options.timeout = 10s;
    if (method.streams) {
      options.initial_credit = 1;
      options.grant_on_message = false;
      options.timeout = 1s;
    }
    const CallOutcome outcome = check.raw(method.name, "", options);
    if (outcome.status.code() == Code::unimplemented) {
      check.note_unimplemented(method.name);
      continue;
    }
    check_ends_once(check, method, outcome);
    check.expect(outcome.status.code() != Code::internal, method.name, "an empty request is no internal error",
                 seen(outcome));
    if (!method.streams) {
      check.expect(outcome.status.code() != Code::deadline_exceeded, method.name,
                   "an empty request is answered within 10 s", seen(outcome));
    }
    check.expect(outcome.stream.size() <= 1, method.name, "no more stream messages come than there is credit",
                 std::to_string(outcome.stream.size()) + " came for a credit of 1");

    const CallOutcome refused = check.raw(method.name, malformed, options);
    check.expect_code(refused, method.name, {Code::invalid_argument}, "bytes that are no message are INVALID_ARGUMENT");

    if (method.streams) {
      RawCall cancelled = options;
      cancelled.timeout = 5s;
      cancelled.cancel_after_messages = 0;
      const CallOutcome ended = check.raw(method.name, "", cancelled);
      check.expect(ended.completions == 1 && ended.status.code() != Code::deadline_exceeded, method.name,
                   "a stream whose caller cancels ends", seen(ended));
    }
  }
}

}  // namespace pintle::testkit
