#include "sdk/api/json_plan.hpp"

#include <memory>
#include <mutex>
#include <shared_mutex>

namespace pintle::api {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

namespace {

void add_fields(Plan& plan, const Descriptor* type, std::vector<const FieldDescriptor*>& inlined_in) {
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    const FieldRules& rules = field->options().GetExtension(field_rules);
    if (rules.inline_()) {
      inlined_in.push_back(field);
      add_fields(plan, field->message_type(), inlined_in);
      inlined_in.pop_back();
      continue;
    }
    PlannedField planned;
    planned.field = field;
    planned.inlined_in = inlined_in;
    planned.name = field->json_name();
    planned.always = rules.always();
    planned.pointer = rules.pointer();
    planned.omit_zero = rules.omit_zero();
    planned.type = field->is_map() ? field->message_type()->map_value()->message_type() : field->message_type();
    plan.fields.push_back(std::move(planned));
  }
}

std::unique_ptr<Plan> make_plan(const Descriptor* type) {
  auto plan = std::make_unique<Plan>();
  plan->type = type;
  plan->encoding = type->options().GetExtension(json_encoding);
  const Kind& kind = type->options().GetExtension(object_kind);
  plan->api_version = kind.api_version();
  plan->kind = kind.kind();
  std::vector<const FieldDescriptor*> inlined_in;
  add_fields(*plan, type, inlined_in);
  for (const PlannedField& field : plan->fields) plan->by_name.emplace(field.name, &field);
  return plan;
}

}  // namespace

const Plan& plan_of(const Descriptor* type) {
  static std::shared_mutex mutex;
  static std::unordered_map<const Descriptor*, std::unique_ptr<Plan>>& plans =
      *new std::unordered_map<const Descriptor*, std::unique_ptr<Plan>>;
  {
    const std::shared_lock lock(mutex);
    if (const auto found = plans.find(type); found != plans.end()) return *found->second;
  }
  std::unique_ptr<Plan> plan = make_plan(type);
  const std::unique_lock lock(mutex);
  return *plans.emplace(type, std::move(plan)).first->second;
}

const Plan& plan_of(const PlannedField& field) {
  const Plan* plan = field.plan.load(std::memory_order_acquire);
  if (!plan) {
    plan = &plan_of(field.type);
    field.plan.store(plan, std::memory_order_release);
  }
  return *plan;
}

}  // namespace pintle::api
