// What no text may do: crash, run away, or be written as something that is read differently.

#include <cstdint>
#include <cstdlib>

#include "sdk/support/document/document.hpp"
#include "sdk/support/document/schema.hpp"

using pintle::document::Document;
using pintle::document::Schema;

namespace {

bool has_long_key(const boost::json::value& value) {
  if (const auto* object = value.if_object()) {
    for (const auto& member : *object) {
      if (member.key().size() > 1000 / 6 || has_long_key(member.value())) return true;
    }
  } else if (const auto* array = value.if_array()) {
    for (const auto& element : *array) {
      if (has_long_key(element)) return true;
    }
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto documents = pintle::document::read_documents(text, "fuzz");
  if (!documents) return 0;
  for (const Document& document : *documents) {
    if (!has_long_key(document.value())) {
      auto again = pintle::document::read_document(pintle::document::write_yaml(document.value()), "again");
      if (again ? again->value() != document.value() : !document.value().is_null()) std::abort();
    }
    auto schema = Schema::compile(document.value(), "fuzz");
    for (const Document& other : *documents) {
      if (schema && schema->check(other).empty()) (void)schema->with_defaults(other.value());
      const Document merged = Document::overlay(document, other);
      (void)merged.where("/a/0/b");
    }
    if (documents->size() > 16) break;
  }
  return 0;
}
