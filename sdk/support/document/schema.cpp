#include "sdk/support/document/schema.hpp"

#include <re2/re2.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "sdk/support/document/nearest.hpp"

namespace pintle::document {

namespace json = boost::json;

namespace {

constexpr size_t most_problems = 100;
constexpr uint32_t deepest_schema = 32;

enum Type : uint8_t { object = 1, array = 2, string = 4, integer = 8, number = 16, boolean = 32, null = 64 };

struct TypeName {
  Type type;
  std::string_view keyword;
  std::string_view person;
};
constexpr TypeName type_names[] = {
    {object, "object", "a mapping"}, {array, "array", "a list"},
    {string, "string", "a text"},    {integer, "integer", "an integer"},
    {number, "number", "a number"},  {boolean, "boolean", "true or false"},
    {null, "null", "null"},
};

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }
std::string_view view(json::string_view text) { return {text.data(), text.size()}; }

// The types that a value has; an integer is a number as well.
uint8_t types_of(const json::value& value) {
  switch (value.kind()) {
    case json::kind::object:
      return object;
    case json::kind::array:
      return array;
    case json::kind::string:
      return string;
    case json::kind::int64:
    case json::kind::uint64:
      return integer | number;
    case json::kind::double_:
      return number;
    case json::kind::bool_:
      return boolean;
    case json::kind::null:
      return null;
  }
  return 0;
}

std::string list_of(const std::vector<std::string>& words) {
  std::string list;
  for (size_t i = 0; i < words.size(); ++i) list += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
  return list;
}

std::string people_types(uint8_t types) {
  std::vector<std::string> words;
  for (const TypeName& name : type_names) {
    if ((types & name.type) != 0) words.emplace_back(name.person);
  }
  return list_of(words);
}

std::string shortened(const json::value& value) {
  std::string text = json::serialize(value);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::string number_of(double value) {
  const auto whole = static_cast<int64_t>(value);
  return static_cast<double>(whole) == value ? std::to_string(whole) : std::to_string(value);
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

// One schema, compiled: absent keywords are absent here.
struct Schema::Rule {
  struct Property {
    std::string name;
    std::shared_ptr<const Rule> rule;
  };
  uint8_t types = 0;                 // allowed ones; 0: all
  std::vector<json::value> choices;  // enum, or const as the only one
  bool has_choices = false;
  std::vector<Property> properties;
  std::vector<std::string> property_names;
  std::vector<std::string> required;
  bool closed = false;  // additionalProperties: false
  std::shared_ptr<const Rule> additional;
  std::shared_ptr<const Rule> items;
  std::optional<uint64_t> min_items, max_items, min_length, max_length;
  std::optional<double> minimum, maximum;
  std::shared_ptr<const RE2> pattern;
  std::string format;
  std::vector<std::shared_ptr<const Rule>> one_of, any_of;
  std::optional<json::value> default_value;
  std::string description;

  const Rule* property(std::string_view name) const {
    for (const Property& one : properties) {
      if (one.name == name) return one.rule.get();
    }
    return nullptr;
  }
};

namespace {

using Rule = Schema::Rule;

// ---- Compiling
// ------------------------------------------------------------------------------------------------------------

class Compiler {
 public:
  explicit Compiler(std::string_view name) : name_(name) {}

  Result<std::shared_ptr<const Rule>> rule(const json::value& schema, const std::string& pointer, uint32_t depth) {
    const json::object* keywords = schema.if_object();
    if (keywords == nullptr) return wrong(pointer, "a schema must be an object");
    if (depth > deepest_schema)
      return wrong(pointer, "is nested deeper than " + std::to_string(deepest_schema) + " levels");
    auto compiled = std::make_shared<Rule>();
    for (const auto& member : *keywords) {
      const std::string keyword(view(member.key()));
      if (Status status = one(*compiled, keyword, member.value(), pointer + "/" + pointer_token(keyword), depth);
          !status) {
        return status;
      }
    }
    for (const std::string& name : compiled->required) {
      if (compiled->closed && compiled->property(name) == nullptr) {
        return wrong(pointer + "/required", "\"" + name + "\" is required but not among the properties");
      }
    }
    return std::shared_ptr<const Rule>(std::move(compiled));
  }

 private:
  Status wrong(const std::string& pointer, const std::string& what) const {
    return invalid_argument(name_ + ": at " + (pointer.empty() ? "/" : pointer) + ": " + what);
  }

  Status one(Rule& rule, const std::string& keyword, const json::value& value, const std::string& at, uint32_t depth) {
    if (keyword == "type") return types(rule, value, at);
    if (keyword == "properties") return properties(rule, value, at, depth);
    if (keyword == "required") return texts(rule.required, value, at);
    if (keyword == "additionalProperties") {
      if (const bool* allowed = value.if_bool()) {
        rule.closed = !*allowed;
        return Status::ok();
      }
      return sub(rule.additional, value, at, depth);
    }
    if (keyword == "items") return sub(rule.items, value, at, depth);
    if (keyword == "enum") {
      const json::array* choices = value.if_array();
      if (choices == nullptr || choices->empty()) return wrong(at, "must be a list of values");
      rule.choices.assign(choices->begin(), choices->end());
      rule.has_choices = true;
      return Status::ok();
    }
    if (keyword == "const") {
      rule.choices = {value};
      rule.has_choices = true;
      return Status::ok();
    }
    if (keyword == "oneOf") return several(rule.one_of, value, at, depth);
    if (keyword == "anyOf") return several(rule.any_of, value, at, depth);
    if (keyword == "pattern") return pattern(rule, value, at);
    if (keyword == "format") return format(rule, value, at);
    if (keyword == "minimum") return bound(rule.minimum, value, at);
    if (keyword == "maximum") return bound(rule.maximum, value, at);
    if (keyword == "minItems") return count(rule.min_items, value, at);
    if (keyword == "maxItems") return count(rule.max_items, value, at);
    if (keyword == "minLength") return count(rule.min_length, value, at);
    if (keyword == "maxLength") return count(rule.max_length, value, at);
    if (keyword == "default") {
      rule.default_value = value;
      return Status::ok();
    }
    if (keyword == "description") {
      if (!value.is_string()) return wrong(at, "must be a text");
      rule.description = view(value.get_string());
      return Status::ok();
    }
    for (std::string_view annotation : {"title", "examples", "$schema", "$id", "$comment", "deprecated"}) {
      if (keyword == annotation) return Status::ok();
    }
    static const std::vector<std::string> known = {"type",      "properties", "required",    "additionalProperties",
                                                   "items",     "enum",       "const",       "oneOf",
                                                   "anyOf",     "pattern",    "format",      "minimum",
                                                   "maximum",   "minItems",   "maxItems",    "minLength",
                                                   "maxLength", "default",    "description", "title"};
    return wrong(at, "the keyword \"" + keyword + "\" is not supported" + suggestion(keyword, known));
  }

  Status types(Rule& rule, const json::value& value, const std::string& at) {
    std::vector<std::string> names;
    if (value.is_string()) {
      names.emplace_back(view(value.get_string()));
    } else if (Status status = texts(names, value, at); !status) {
      return status;
    }
    for (const std::string& name : names) {
      const auto known = std::find_if(std::begin(type_names), std::end(type_names),
                                      [&](const TypeName& one) { return one.keyword == name; });
      if (known == std::end(type_names)) return wrong(at, "there is no type \"" + name + "\"");
      rule.types |= known->type;
    }
    return Status::ok();
  }

  Status properties(Rule& rule, const json::value& value, const std::string& at, uint32_t depth) {
    const json::object* members = value.if_object();
    if (members == nullptr) return wrong(at, "must be an object");
    for (const auto& member : *members) {
      Rule::Property property{std::string(view(member.key())), nullptr};
      if (Status status = sub(property.rule, member.value(), at + "/" + pointer_token(property.name), depth); !status)
        return status;
      rule.property_names.push_back(property.name);
      rule.properties.push_back(std::move(property));
    }
    return Status::ok();
  }

  Status sub(std::shared_ptr<const Rule>& into, const json::value& value, const std::string& at, uint32_t depth) {
    auto compiled = rule(value, at, depth + 1);
    if (compiled) into = std::move(*compiled);
    return compiled.status();
  }

  Status several(std::vector<std::shared_ptr<const Rule>>& into, const json::value& value, const std::string& at,
                 uint32_t depth) {
    const json::array* branches = value.if_array();
    if (branches == nullptr || branches->empty()) return wrong(at, "must be a list of schemas");
    for (size_t i = 0; i < branches->size(); ++i) {
      if (Status status = sub(into.emplace_back(), (*branches)[i], at + "/" + std::to_string(i), depth); !status)
        return status;
    }
    return Status::ok();
  }

  Status texts(std::vector<std::string>& into, const json::value& value, const std::string& at) {
    const json::array* list = value.if_array();
    if (list == nullptr) return wrong(at, "must be a list of texts");
    for (const json::value& element : *list) {
      if (!element.is_string()) return wrong(at, "must be a list of texts");
      into.emplace_back(view(element.get_string()));
    }
    return Status::ok();
  }

  Status pattern(Rule& rule, const json::value& value, const std::string& at) {
    if (!value.is_string()) return wrong(at, "must be a text");
    RE2::Options options;
    options.set_log_errors(false);
    options.set_max_mem(1 << 20);
    auto expression =
        std::make_shared<RE2>(re2::StringPiece(value.get_string().data(), value.get_string().size()), options);
    if (!expression->ok()) return wrong(at, "is no regular expression (RE2): " + expression->error());
    rule.pattern = std::move(expression);
    return Status::ok();
  }

  Status format(Rule& rule, const json::value& value, const std::string& at) {
    static const std::vector<std::string> known = {"ip", "ipv4", "ipv6", "cidr", "duration", "quantity", "path"};
    const std::string name = value.is_string() ? std::string(view(value.get_string())) : json::serialize(value);
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return wrong(at, "the format \"" + name + "\" is not supported" + suggestion(name, known));
    }
    rule.format = name;
    return Status::ok();
  }

  Status bound(std::optional<double>& into, const json::value& value, const std::string& at) {
    if ((types_of(value) & number) == 0) return wrong(at, "must be a number");
    into = value.to_number<double>();
    return Status::ok();
  }

  Status count(std::optional<uint64_t>& into, const json::value& value, const std::string& at) {
    if (!value.is_int64() || value.get_int64() < 0) return wrong(at, "must be a count");
    into = static_cast<uint64_t>(value.get_int64());
    return Status::ok();
  }

  std::string name_;
};

// ---- Checking
// -------------------------------------------------------------------------------------------------------------

struct Finding {
  std::string pointer;
  bool at_key;
  std::string message;
};

class Checker {
 public:
  std::vector<Finding> findings;

  void check(const Rule& rule, const json::value& value, const std::string& pointer) {
    if (findings.size() >= most_problems) return;
    if (rule.types != 0 && (rule.types & types_of(value)) == 0) {
      return found(pointer, "must be " + people_types(rule.types) + ", is " + shortened(value));
    }
    if (rule.has_choices) choices(rule, value, pointer);
    if (const json::object* members = value.if_object()) mapping(rule, *members, pointer);
    if (const json::array* elements = value.if_array()) list(rule, *elements, pointer);
    if (value.is_string()) text(rule, view(value.get_string()), pointer);
    if ((types_of(value) & number) != 0) numeric(rule, value.to_number<double>(), pointer);
    if (!rule.any_of.empty()) branches(rule.any_of, value, pointer, false);
    if (!rule.one_of.empty()) branches(rule.one_of, value, pointer, true);
  }

 private:
  void found(const std::string& pointer, std::string message, bool at_key = false) {
    if (findings.size() < most_problems) findings.push_back({pointer, at_key, std::move(message)});
  }

  void choices(const Rule& rule, const json::value& value, const std::string& pointer) {
    if (std::find(rule.choices.begin(), rule.choices.end(), value) != rule.choices.end()) return;
    if (rule.choices.size() == 1)
      return found(pointer, "must be " + shortened(rule.choices[0]) + ", is " + shortened(value));
    std::vector<std::string> texts;
    for (const json::value& choice : rule.choices) {
      texts.push_back(choice.is_string() ? std::string(view(choice.get_string())) : shortened(choice));
    }
    std::string message = "must be one of " + list_of(texts) + ", is " + shortened(value);
    if (value.is_string()) {
      if (const std::string right = nearest(view(value.get_string()), texts); !right.empty())
        message += "; did you mean " + right + "?";
    }
    found(pointer, std::move(message));
  }

  void mapping(const Rule& rule, const json::object& members, const std::string& pointer) {
    for (const auto& member : members) {
      const std::string_view key = view(member.key());
      const std::string at = pointer + "/" + pointer_token(key);
      if (const Rule* property = rule.property(key)) {
        check(*property, member.value(), at);
      } else if (rule.additional) {
        check(*rule.additional, member.value(), at);
      } else if (rule.closed) {
        std::vector<std::string> absent;
        for (const std::string& name : rule.property_names) {
          if (!members.contains(name)) absent.push_back(name);
        }
        const std::string right = nearest(key, absent);
        found(at,
              "unknown key" + (right.empty() ? rule.property_names.empty() ? "; none is known here"
                                                                           : suggestion("", rule.property_names)
                                             : "; did you mean " + right + "?"),
              true);
      }
    }
    for (const std::string& name : rule.required) {
      if (members.contains(name)) continue;
      const Rule* property = rule.property(name);
      const bool described = property != nullptr && !property->description.empty();
      found(pointer, "lacks the key " + name + (described ? " (" + property->description + ")" : ""));
    }
  }

  void list(const Rule& rule, const json::array& elements, const std::string& pointer) {
    if (rule.min_items && elements.size() < *rule.min_items) {
      found(pointer, "has " + std::to_string(elements.size()) + " elements; at least " +
                         std::to_string(*rule.min_items) + " are needed");
    }
    if (rule.max_items && elements.size() > *rule.max_items) {
      found(pointer, "has " + std::to_string(elements.size()) + " elements; at most " +
                         std::to_string(*rule.max_items) + " are allowed");
    }
    if (!rule.items) return;
    for (size_t i = 0; i < elements.size() && findings.size() < most_problems; ++i) {
      check(*rule.items, elements[i], pointer + "/" + std::to_string(i));
    }
  }

  void text(const Rule& rule, std::string_view text, const std::string& pointer) {
    const auto shown = [&] { return shortened(json::value(json::string_view(text.data(), text.size()))); };
    if (rule.min_length && characters(text) < *rule.min_length) {
      found(pointer, text.empty() ? "must not be empty"
                                  : shown() + " is shorter than " + std::to_string(*rule.min_length) + " characters");
    }
    if (rule.max_length && characters(text) > *rule.max_length) {
      found(pointer, shown() + " is longer than " + std::to_string(*rule.max_length) + " characters");
    }
    if (rule.pattern && !RE2::PartialMatch(re2::StringPiece(text.data(), text.size()), *rule.pattern)) {
      found(pointer, shown() + " does not match " + rule.pattern->pattern() +
                         (rule.description.empty() ? "" : " (" + rule.description + ")"));
    }
    if (!rule.format.empty()) {
      if (const std::string problem = format_problem(rule.format, text); !problem.empty())
        found(pointer, shown() + " " + problem);
    }
  }

  void numeric(const Rule& rule, double value, const std::string& pointer) {
    if (rule.minimum && value < *rule.minimum)
      found(pointer, "must be at least " + number_of(*rule.minimum) + ", is " + number_of(value));
    if (rule.maximum && value > *rule.maximum)
      found(pointer, "must be at most " + number_of(*rule.maximum) + ", is " + number_of(value));
  }

  void branches(const std::vector<std::shared_ptr<const Rule>>& rules, const json::value& value,
                const std::string& pointer, bool only_one) {
    size_t right = 0;
    uint8_t allowed = 0;
    std::optional<std::vector<Finding>> closest;  // of a branch whose type fits
    for (const auto& rule : rules) {
      Checker branch;
      branch.check(*rule, value, pointer);
      if (branch.findings.empty()) {
        ++right;
        continue;
      }
      const uint8_t types = rule->types == 0 ? uint8_t{0x7f} : rule->types;
      allowed |= types;
      if ((types & types_of(value)) != 0 && (!closest || branch.findings.size() < closest->size()))
        closest = std::move(branch.findings);
    }
    if (right > 1 && only_one) return found(pointer, "fits several of the schemas of which it must fit exactly one");
    if (right > 0) return;
    if (!closest) return found(pointer, "must be " + people_types(allowed) + ", is " + shortened(value));
    for (Finding& finding : *closest) found(finding.pointer, std::move(finding.message), finding.at_key);
  }
};

void fill(const Rule& rule, json::value& value) {
  if (json::object* members = value.if_object()) {
    for (const Rule::Property& property : rule.properties) {
      json::value* present = members->if_contains(property.name);
      if (present == nullptr && property.rule->default_value) {
        present = &members->emplace(property.name, *property.rule->default_value).first->value();
      }
      if (present != nullptr) fill(*property.rule, *present);
    }
    if (rule.additional) {
      for (auto& member : *members) {
        if (rule.property(view(member.key())) == nullptr) fill(*rule.additional, member.value());
      }
    }
  }
  if (json::array* elements = value.if_array(); elements != nullptr && rule.items) {
    for (json::value& element : *elements) fill(*rule.items, element);
  }
  for (const auto* several : {&rule.one_of, &rule.any_of}) {
    for (const auto& branch : *several) {
      Checker checker;
      checker.check(*branch, value, "");
      if (checker.findings.empty()) {
        fill(*branch, value);
        break;
      }
    }
  }
}

// A default that its own schema refuses would be blamed on whoever left the key out.
std::string wrong_default(const Rule& rule, const std::string& pointer) {
  if (rule.default_value) {
    json::value filled = *rule.default_value;
    fill(rule, filled);
    Checker checker;
    checker.check(rule, filled, "");
    if (!checker.findings.empty()) return "at " + pointer + "/default: " + checker.findings[0].message;
  }
  for (const Rule::Property& property : rule.properties) {
    std::string problem = wrong_default(*property.rule, pointer + "/properties/" + pointer_token(property.name));
    if (!problem.empty()) return problem;
  }
  if (rule.items) return wrong_default(*rule.items, pointer + "/items");
  return {};
}

}  // namespace

std::string Problem::text() const { return where.text() + ": " + path + ": " + message; }

Result<Schema> Schema::compile(const json::value& schema, std::string_view name) {
  auto root = Compiler(name).rule(schema, "", 0);
  if (!root) return root.status();
  if (const std::string problem = wrong_default(**root, ""); !problem.empty()) {
    return invalid_argument(std::string(name) + ": " + problem);
  }
  return Schema(std::move(*root));
}

Result<Schema> Schema::parse(std::string_view json_text, std::string_view name) {
  Result<Document> document = read_document(json_text, name);
  if (!document) return document.status();
  return compile(document->value(), name);
}

std::vector<Problem> Schema::check(const Document& document, std::string_view pointer) const {
  const std::optional<Document> part = document.at(pointer);
  Checker checker;
  checker.check(*root_, part ? part->value() : json::value(json::object()), std::string(pointer));
  std::vector<Problem> problems;
  for (const Finding& finding : checker.findings) {
    problems.push_back({finding.at_key ? document.where_key(finding.pointer) : document.where(finding.pointer),
                        readable_path(finding.pointer), finding.message});
  }
  std::stable_sort(problems.begin(), problems.end(), [](const Problem& a, const Problem& b) {
    return std::tie(a.where.file, a.where.line, a.where.column) < std::tie(b.where.file, b.where.line, b.where.column);
  });
  return problems;
}

json::value Schema::with_defaults(json::value value) const {
  fill(*root_, value);
  return value;
}

}  // namespace pintle::document
