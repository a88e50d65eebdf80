#include "sdk/api/json.hpp"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <limits>

#include "sdk/api/base64.hpp"
#include "sdk/api/json_plan.hpp"
#include "sdk/api/quantity.hpp"
#include "sdk/api/time.hpp"
#include "sdk/support/document/nearest.hpp"

namespace pintle::api {

namespace json = boost::json;
using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

namespace {

const FieldDescriptor* numbered(const Message& message, int number) {
  return message.GetDescriptor()->FindFieldByNumber(number);
}

/// As a person writes it: Boost would give "5E-1" for 0.5.
std::string number_text(const json::value& value) {
  if (!value.is_double()) return json::serialize(value);
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value.get_double());
  return {text.data(), end};
}

/// "the number 8080", "a list": what stands where something else should.
std::string described(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "nothing";
    case json::kind::bool_:
      return value.get_bool() ? "the boolean true" : "the boolean false";
    case json::kind::int64:
    case json::kind::uint64:
    case json::kind::double_:
      return "the number " + number_text(value);
    case json::kind::string: {
      constexpr size_t shown = 40;
      std::string_view text = value.get_string();
      return "the text \"" + std::string(text.substr(0, shown)) + (text.size() > shown ? "...\"" : "\"");
    }
    case json::kind::array:
      return "a list";
    case json::kind::object:
      return "an object";
  }
  return "nothing";
}

// ---- Reading
// ---------------------------------------------------------------------------------------------------------------

class Decoder {
 public:
  Decoder(const DecodeOptions& options, Problems& problems) : options_(options), problems_(problems) {}

  void message(const json::value& value, const Plan& plan, Message& message, const std::string& pointer) {
    switch (plan.encoding) {
      case OBJECT:
        return object(value, plan, message, pointer);
      case QUANTITY:
        return quantity(value, message, pointer);
      case INT_OR_STRING:
        return int_or_string(value, message, pointer);
      case TIME:
      case MICRO_TIME:
        return time(value, message, pointer);
      case DURATION:
        return wrong(pointer, "a duration", value);
      case RAW:
        message.GetReflection()->SetString(&message, numbered(message, 1), json::serialize(value));
        return;
      case ITEMS:
        return repeated(value, plan.fields.front(), message, pointer);
      default:
        return;
    }
  }

 private:
  void problem(const std::string& pointer, std::string text) { problems_.push_back({pointer, std::move(text)}); }
  void wrong(const std::string& pointer, std::string_view wanted, const json::value& value) {
    problem(pointer, "must be " + std::string(wanted) + ", is " + described(value));
  }

  void object(const json::value& value, const Plan& plan, Message& message, const std::string& pointer) {
    if (!value.is_object()) return wrong(pointer, "an object", value);
    for (const auto& member : value.get_object()) {
      const auto found = plan.by_name.find(member.key());
      if (found == plan.by_name.end()) {
        unknown(member, plan, pointer);
        continue;
      }
      if (member.value().is_null()) continue;
      const PlannedField& planned = *found->second;
      Message* owner = &message;
      for (const FieldDescriptor* step : planned.inlined_in)
        owner = owner->GetReflection()->MutableMessage(owner, step);
      field(member.value(), planned, *owner, child(pointer, member.key()));
    }
  }

  void unknown(const json::key_value_pair& member, const Plan& plan, const std::string& pointer) {
    const std::string_view key = member.key();
    if (!plan.kind.empty() && (key == "apiVersion" || key == "kind")) {
      const std::string& right = key == "kind" ? plan.kind : plan.api_version;
      if (!member.value().is_string() || member.value().get_string() != right)
        problem(child(pointer, key), "must be \"" + right + "\", is " + described(member.value()));
      return;
    }
    if (!options_.strict) return;
    std::vector<std::string> names;
    for (const PlannedField& field : plan.fields) names.push_back(field.name);
    problem(child(pointer, key), "unknown field" + document::suggestion(key, names));
  }

  void field(const json::value& value, const PlannedField& planned, Message& message, const std::string& pointer) {
    const FieldDescriptor* field = planned.field;
    if (field->is_map()) return map(value, planned, message, pointer);
    if (field->is_repeated()) return repeated(value, planned, message, pointer);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
      return this->message(value, plan_of(planned), *message.GetReflection()->MutableMessage(&message, field), pointer);
    scalar(value, field, message, pointer, false);
  }

  void repeated(const json::value& value, const PlannedField& planned, Message& message, const std::string& pointer) {
    if (!value.is_array()) return wrong(pointer, "a list", value);
    const FieldDescriptor* field = planned.field;
    const Reflection* reflection = message.GetReflection();
    size_t index = 0;
    for (const json::value& element : value.get_array()) {
      const std::string at = child(pointer, index++);
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        Message* added = reflection->AddMessage(&message, field);
        if (!element.is_null()) this->message(element, plan_of(planned), *added, at);
      } else {
        scalar(element, field, message, at, true);
      }
    }
  }

  void map(const json::value& value, const PlannedField& planned, Message& message, const std::string& pointer) {
    if (!value.is_object()) return wrong(pointer, "an object", value);
    const Descriptor* entry_type = planned.field->message_type();
    for (const auto& member : value.get_object()) {
      Message* entry = message.GetReflection()->AddMessage(&message, planned.field);
      entry->GetReflection()->SetString(entry, entry_type->map_key(), std::string(member.key()));
      const FieldDescriptor* to = entry_type->map_value();
      const std::string at = child(pointer, member.key());
      if (planned.type) {
        Message* target = entry->GetReflection()->MutableMessage(entry, to);
        if (!member.value().is_null()) this->message(member.value(), plan_of(planned), *target, at);
      } else if (!member.value().is_null()) {
        scalar(member.value(), to, *entry, at, false);
      }
    }
  }

  template <class Integer>
  bool integer(const json::value& value, const std::string& pointer, Integer& result) {
    int64_t wide = 0;
    if (value.is_int64()) {
      wide = value.get_int64();
    } else if (value.is_double() && std::nearbyint(value.get_double()) == value.get_double() &&
               std::abs(value.get_double()) < 9e15) {
      wide = static_cast<int64_t>(value.get_double());
    } else if (!value.is_uint64()) {
      wrong(pointer, "a whole number", value);
      return false;
    }
    if (value.is_uint64() || wide < std::numeric_limits<Integer>::min() || wide > std::numeric_limits<Integer>::max()) {
      problem(pointer, "must be between " + std::to_string(std::numeric_limits<Integer>::min()) + " and " +
                           std::to_string(std::numeric_limits<Integer>::max()) + ", is " + described(value));
      return false;
    }
    result = static_cast<Integer>(wide);
    return true;
  }

  /// Sets a scalar, or adds it to a repeated field.
  void scalar(const json::value& value, const FieldDescriptor* field, Message& message, const std::string& pointer,
              bool add) {
    const Reflection* reflection = message.GetReflection();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING: {
        if (!value.is_string()) {
          if (value.is_number() || value.is_bool())
            return problem(pointer, "must be a text, is " + described(value) + ": put it in quotes");
          return wrong(pointer, "a text", value);
        }
        std::string text(value.get_string());
        if (field->type() == FieldDescriptor::TYPE_BYTES) {
          std::optional<std::string> bytes = base64_decode(text);
          if (!bytes) return problem(pointer, "must be base64, is " + described(value));
          text = std::move(*bytes);
        }
        add ? reflection->AddString(&message, field, std::move(text))
            : reflection->SetString(&message, field, std::move(text));
        return;
      }
      case FieldDescriptor::CPPTYPE_BOOL:
        if (!value.is_bool()) return wrong(pointer, "true or false", value);
        add ? reflection->AddBool(&message, field, value.get_bool())
            : reflection->SetBool(&message, field, value.get_bool());
        return;
      case FieldDescriptor::CPPTYPE_INT32: {
        int32_t number = 0;
        if (!integer(value, pointer, number)) return;
        add ? reflection->AddInt32(&message, field, number) : reflection->SetInt32(&message, field, number);
        return;
      }
      case FieldDescriptor::CPPTYPE_INT64: {
        int64_t number = 0;
        if (!integer(value, pointer, number)) return;
        add ? reflection->AddInt64(&message, field, number) : reflection->SetInt64(&message, field, number);
        return;
      }
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        if (!value.is_number()) return wrong(pointer, "a number", value);
        const double number = value.to_number<double>();
        add ? reflection->AddDouble(&message, field, number) : reflection->SetDouble(&message, field, number);
        return;
      }
      default:
        return problem(pointer, "has a type that this version does not know");
    }
  }

  void quantity(const json::value& value, Message& message, const std::string& pointer) {
    if (!value.is_string() && !value.is_number()) return wrong(pointer, "a quantity (\"500m\", \"64Mi\", 2)", value);
    const std::string text = value.is_string() ? std::string(value.get_string()) : number_text(value);
    Result<Quantity> quantity = Quantity::parse(text);
    if (!quantity) return problem(pointer, quantity.status().message());
    message.GetReflection()->SetString(&message, numbered(message, 1), quantity->text());
  }

  void int_or_string(const json::value& value, Message& message, const std::string& pointer) {
    const Reflection* reflection = message.GetReflection();
    if (value.is_string()) {
      reflection->SetInt64(&message, numbered(message, 1), 1);
      reflection->SetString(&message, numbered(message, 3), std::string(value.get_string()));
      return;
    }
    if (!value.is_number()) return wrong(pointer, "a number or a text", value);
    int32_t number = 0;
    if (!integer(value, pointer, number)) return;
    reflection->SetInt64(&message, numbered(message, 1), 0);
    reflection->SetInt32(&message, numbered(message, 2), number);
  }

  void time(const json::value& value, Message& message, const std::string& pointer) {
    if (!value.is_string()) return wrong(pointer, "a time (\"2026-01-31T12:00:00Z\")", value);
    Result<Instant> instant = parse_time(value.get_string());
    if (!instant) return problem(pointer, instant.status().message());
    message.GetReflection()->SetInt64(&message, numbered(message, 1), instant->seconds);
    message.GetReflection()->SetInt32(&message, numbered(message, 2), instant->nanos);
  }

  const DecodeOptions& options_;
  Problems& problems_;
};

// ---- Writing
// ---------------------------------------------------------------------------------------------------------------

json::value encode_message(const Message& message, const Plan& plan, bool with_kind);

json::value encode_scalar(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string scratch;
      const std::string& text = index < 0 ? reflection->GetStringReference(message, field, &scratch)
                                          : reflection->GetRepeatedStringReference(message, field, index, &scratch);
      return json::string(field->type() == FieldDescriptor::TYPE_BYTES ? base64_encode(text) : text);
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      return index < 0 ? reflection->GetBool(message, field) : reflection->GetRepeatedBool(message, field, index);
    case FieldDescriptor::CPPTYPE_INT32:
      return index < 0 ? reflection->GetInt32(message, field) : reflection->GetRepeatedInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return index < 0 ? reflection->GetInt64(message, field) : reflection->GetRepeatedInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return index < 0 ? reflection->GetDouble(message, field) : reflection->GetRepeatedDouble(message, field, index);
    default:
      return nullptr;
  }
}

bool is_zero(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return true;
    case json::kind::bool_:
      return !value.get_bool();
    case json::kind::int64:
      return value.get_int64() == 0;
    case json::kind::double_:
      return value.get_double() == 0;
    case json::kind::string:
      return value.get_string().empty();
    case json::kind::array:
      return value.get_array().empty();
    default:
      return false;
  }
}

json::object encode_map(const Message& message, const PlannedField& planned) {
  const Reflection* reflection = message.GetReflection();
  const Descriptor* entry_type = planned.field->message_type();
  std::vector<std::pair<std::string, json::value>> members;
  const int size = reflection->FieldSize(message, planned.field);
  members.reserve(static_cast<size_t>(size));
  for (int i = 0; i < size; ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, planned.field, i);
    std::string key = entry.GetReflection()->GetString(entry, entry_type->map_key());
    const FieldDescriptor* value = entry_type->map_value();
    members.emplace_back(std::move(key), planned.type ? encode_message(entry.GetReflection()->GetMessage(entry, value),
                                                                       plan_of(planned), false)
                                                      : encode_scalar(entry, value, -1));
  }
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  json::object result;
  for (auto& [key, value] : members) result.emplace(key, std::move(value));
  return result;
}

json::array encode_list(const Message& message, const PlannedField& planned) {
  const Reflection* reflection = message.GetReflection();
  json::array result;
  const int size = reflection->FieldSize(message, planned.field);
  result.reserve(static_cast<size_t>(size));
  for (int i = 0; i < size; ++i) {
    if (planned.type)
      result.push_back(
          encode_message(reflection->GetRepeatedMessage(message, planned.field, i), plan_of(planned), false));
    else
      result.push_back(encode_scalar(message, planned.field, i));
  }
  return result;
}

void encode_field(const Message& message, const PlannedField& planned, bool in_kind, json::object& out) {
  const Reflection* reflection = message.GetReflection();
  const FieldDescriptor* field = planned.field;
  if (field->is_repeated()) {
    if (reflection->FieldSize(message, field) == 0) {
      if (!planned.always) return;
      // A server always has a list's items; other lists that nobody made are nil in Go.
      if (in_kind && planned.name == "items")
        out.emplace(planned.name, json::array());
      else
        out.emplace(planned.name, nullptr);
      return;
    }
    if (field->is_map())
      out.emplace(planned.name, encode_map(message, planned));
    else
      out.emplace(planned.name, encode_list(message, planned));
    return;
  }
  const bool present = reflection->HasField(message, field);
  if (planned.pointer && !present) {
    if (planned.always) out.emplace(planned.name, nullptr);
    return;
  }
  if (planned.type) {
    const Plan& plan = plan_of(planned);
    if (!present && planned.omit_zero) return;
    json::value value = encode_message(reflection->GetMessage(message, field), plan, false);
    if (plan.encoding == ITEMS && !planned.always && is_zero(value)) return;
    out.emplace(planned.name, std::move(value));
    return;
  }
  json::value value = encode_scalar(message, field, -1);
  if (!planned.pointer && !planned.always && is_zero(value)) return;
  out.emplace(planned.name, std::move(value));
}

/// The message that holds an inlined field; its default instance where it was never set.
const Message& owner_of(const Message& message, const PlannedField& planned) {
  const Message* owner = &message;
  for (const FieldDescriptor* step : planned.inlined_in) owner = &owner->GetReflection()->GetMessage(*owner, step);
  return *owner;
}

json::value encode_message(const Message& message, const Plan& plan, bool with_kind) {
  const Reflection* reflection = message.GetReflection();
  const auto text = [&](int number) { return reflection->GetString(message, numbered(message, number)); };
  switch (plan.encoding) {
    case QUANTITY: {
      const std::string quantity = text(1);
      return json::string(quantity.empty() ? "0" : quantity);
    }
    case INT_OR_STRING:
      if (reflection->GetInt64(message, numbered(message, 1)) == 1) return json::string(text(3));
      return reflection->GetInt32(message, numbered(message, 2));
    case TIME:
    case MICRO_TIME: {
      if (!reflection->HasField(message, numbered(message, 1)) && !reflection->HasField(message, numbered(message, 2)))
        return nullptr;
      const Instant instant{reflection->GetInt64(message, numbered(message, 1)),
                            reflection->GetInt32(message, numbered(message, 2))};
      return json::string(format_time(instant, plan.encoding == MICRO_TIME ? 6 : 0));
    }
    case RAW: {
      boost::system::error_code error;
      json::value value = json::parse(text(1), error);
      return error ? json::value(nullptr) : value;
    }
    case ITEMS:
      return encode_list(message, plan.fields.front());
    default:
      break;
  }
  json::object out;
  if (with_kind && !plan.kind.empty()) {
    out.emplace("apiVersion", plan.api_version);
    out.emplace("kind", plan.kind);
  }
  for (const PlannedField& planned : plan.fields)
    encode_field(owner_of(message, planned), planned, !plan.kind.empty(), out);
  return out;
}

}  // namespace

Problems decode(const json::value& value, Message& message, const DecodeOptions& options) {
  Problems problems;
  message.Clear();
  Decoder(options, problems).message(value, plan_of(message.GetDescriptor()), message, "");
  return problems;
}

json::value encode(const Message& message) { return encode_message(message, plan_of(message.GetDescriptor()), true); }

std::string encode_text(const Message& message) { return json::serialize(encode(message)); }

}  // namespace pintle::api
