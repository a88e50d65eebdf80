#pragma once

/// What the codec must know of a message type, worked out once from its descriptor and kept for the life of the
/// process.

#include <google/protobuf/descriptor.h>

#include <atomic>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "k8s/options.pb.h"

namespace pintle::api {

struct Plan;

struct PlannedField {
  const google::protobuf::FieldDescriptor* field = nullptr;
  std::vector<const google::protobuf::FieldDescriptor*>
      inlined_in;    ///< the inline messages between the plan's own and the field
  std::string name;  ///< in JSON
  bool always = false;
  bool pointer = false;
  bool omit_zero = false;
  const google::protobuf::Descriptor* type = nullptr;  ///< of a message, or of a map's values if they are messages
  mutable std::atomic<const Plan*> plan = nullptr;     ///< of `type`, found when it is first needed

  PlannedField() = default;
  PlannedField(PlannedField&& other) noexcept
      : field(other.field),
        inlined_in(std::move(other.inlined_in)),
        name(std::move(other.name)),
        always(other.always),
        pointer(other.pointer),
        omit_zero(other.omit_zero),
        type(other.type) {}
};

struct Plan {
  const google::protobuf::Descriptor* type = nullptr;
  Encoding encoding = OBJECT;
  std::string api_version, kind;  ///< empty: not a kind of the API
  std::vector<PlannedField> fields;
  std::unordered_map<std::string_view, const PlannedField*> by_name;
};

/// Any thread.
const Plan& plan_of(const google::protobuf::Descriptor* type);
const Plan& plan_of(const PlannedField& field);

}  // namespace pintle::api
