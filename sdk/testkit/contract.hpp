#pragma once

/// The contract suites: what every provider of an interface promises, checked from outside, in messages.
///
/// One suite serves every implementation, in C and C++, in process and isolated: it reaches the plugin only through a
/// `ContractTarget`. Each interface gets the general part (each method ends exactly once and after its call returned, refuses what
/// is no message of its kind, says why it fails, honours credit, deadlines and cancelling, and a method number that does not exist
/// is UNIMPLEMENTED) and, where there is one, the part of its own (`contract_<interface>.cpp`).
///
/// A method that answers UNIMPLEMENTED is neither passed nor broken: it is listed apart, so that a vendor sees what is left to do.

#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fake_node.hpp"  // beside this file, in the tree as in the installed SDK

namespace pintle::testkit {

/// How a suite reaches the plugin under test.
class ContractTarget {
 public:
  virtual ~ContractTarget() = default;
  virtual CallOutcome call(uint32_t interface_index, uint32_t method, std::string_view header,
                           const RawCall& options) = 0;
};

struct ContractFinding {
  std::string interface_name;
  std::string method;
  std::string what;
};

struct ContractReport {
  size_t passed = 0;
  std::vector<ContractFinding> unimplemented;
  std::vector<ContractFinding> broken;
  std::vector<std::string> unknown_interfaces;  ///< without a schema here: only the vendor can check them
  bool is_green() const { return unimplemented.empty() && broken.empty(); }
};

/// Runs the suites of all interfaces that the plugin provides, in the manifest's order.
ContractReport check_contract(ContractTarget& target, std::span<const std::string> provides);

/// Every interface that this SDK has a schema of.
std::span<const InterfaceInfo* const> known_interfaces();
/// The schema of an interface by its name; null if this SDK does not know it.
const InterfaceInfo* find_interface(std::string_view name);

/// A target on the fake node.
class FakeNodeTarget : public ContractTarget {
 public:
  FakeNodeTarget(FakeNode& node, FakeInstance& plugin)
      : node_(node), plugin_(plugin), client_(node.client("contract")) {}
  CallOutcome call(uint32_t interface_index, uint32_t method, std::string_view header,
                   const RawCall& options) override {
    return node_.call(client_, plugin_, interface_index, method, header, options);
  }

 private:
  FakeNode& node_;
  FakeInstance& plugin_;
  FakeInstance& client_;
};

}  // namespace pintle::testkit
