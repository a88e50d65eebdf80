#include "sdk/support/plugin_file/manifest.hpp"

#include <boost/json.hpp>
#include <charconv>
#include <set>

namespace pintle::plugin {
namespace {

namespace json = boost::json;

/// Reads members and remembers the first that is wrong.
class Reader {
 public:
  Reader(std::string_view name, std::string where, const json::object& object)
      : name_(name), where_(std::move(where)), object_(object) {}

  std::string text(std::string_view key, bool required = false) {
    const json::value* value = object_.if_contains(key);
    if (value == nullptr) {
      if (required) complain(key, "is missing");
      return {};
    }
    if (!value->is_string() || value->get_string().size() > 4096 || (required && value->get_string().empty())) {
      complain(key, "must be a text");
      return {};
    }
    return std::string(value->get_string());
  }
  uint64_t number(std::string_view key, uint64_t otherwise) {
    const json::value* value = object_.if_contains(key);
    if (value == nullptr) return otherwise;
    json::error_code error;
    const auto out = value->to_number<uint64_t>(error);
    if (error) complain(key, "must be a whole number, not negative");
    return error ? otherwise : out;
  }
  std::vector<std::string> texts(std::string_view key) {
    std::vector<std::string> out;
    each(key, [&](const json::value& value, const std::string&) {
      if (value.is_string())
        out.emplace_back(value.get_string());
      else
        complain(key, "must be a list of texts");
    });
    return out;
  }
  template <class Function>
  void each(std::string_view key, Function function) {
    const json::value* value = object_.if_contains(key);
    if (value == nullptr) return;
    if (!value->is_array() || value->get_array().size() > 256) return complain(key, "must be a list of at most 256");
    int index = 0;
    for (const json::value& item : value->get_array())
      function(item, where_ + std::string(key) + "[" + std::to_string(index++) + "]");
  }
  void complain(std::string_view key, std::string_view what) {
    if (wrong_.is_ok())
      wrong_ = invalid_argument(std::string(name_) + ": " + where_ + std::string(key) + " " + std::string(what));
  }
  void take(const Reader& other) {
    if (wrong_.is_ok()) wrong_ = other.wrong_;
  }
  const Status& wrong() const { return wrong_; }

 private:
  std::string_view name_;
  std::string where_;
  const json::object& object_;
  Status wrong_;
};

}  // namespace

const char* when_name(When when) {
  switch (when) {
    case When::start:
      return "start";
    case When::late:
      return "late";
    case When::optional:
      break;
  }
  return "optional";
}

Result<uint64_t> parse_bytes(std::string_view quantity) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(quantity.data(), quantity.data() + quantity.size(), value);
  const std::string_view unit(end, static_cast<size_t>(quantity.data() + quantity.size() - end));
  uint64_t factor = 0;
  if (unit.empty())
    factor = 1;
  else if (unit == "k")
    factor = 1000;
  else if (unit == "M")
    factor = 1000'000;
  else if (unit == "G")
    factor = 1000'000'000;
  else if (unit == "Ki")
    factor = 1u << 10;
  else if (unit == "Mi")
    factor = 1u << 20;
  else if (unit == "Gi")
    factor = 1u << 30;
  if (error != std::errc() || factor == 0 || value > UINT64_MAX / factor)
    return invalid_argument("\"" + std::string(quantity) + "\" is not a number of bytes; write \"64Mi\" or \"1Gi\"");
  return value * factor;
}

Result<Manifest> parse_manifest(std::string_view text, std::string_view name) {
  json::error_code error;
  json::parse_options options;
  options.max_depth = 16;
  const json::value parsed = json::parse(text, error, {}, options);
  if (error || !parsed.is_object()) return invalid_argument(std::string(name) + ": the manifest is not a JSON object");
  Reader reader(name, "manifest: ", parsed.get_object());
  Manifest out;
  out.id = reader.text("id", true);
  out.version = reader.text("version", true);
  out.summary = reader.text("summary");
  out.maturity = reader.text("maturity");
  out.posture = reader.text("posture");
  out.capabilities = reader.texts("capabilities");
  if (const std::string limit = reader.text("memoryLimit"); !limit.empty()) {
    Result<uint64_t> bytes = parse_bytes(limit);
    if (bytes)
      out.memory_limit = *bytes;
    else
      reader.complain("memoryLimit", bytes.status().message());
  }
  std::set<std::string> names;
  reader.each("provides", [&](const json::value& item, const std::string& where) {
    if (!item.is_object()) return reader.complain("provides", "must be a list of objects");
    Reader inner(name, where + ".", item.get_object());
    Provided provided;
    provided.interface = inner.text("interface", true);
    provided.revision = static_cast<uint32_t>(inner.number("revision", 1));
    provided.features = inner.texts("features");
    provided.feature_bits = inner.number("featureBits", 0);
    reader.take(inner);
    if (!names.insert("provides " + provided.interface).second)
      reader.complain("provides", "names " + provided.interface + " twice");
    out.provides.push_back(std::move(provided));
  });
  reader.each("needs", [&](const json::value& item, const std::string& where) {
    if (!item.is_object()) return reader.complain("needs", "must be a list of objects");
    Reader inner(name, where + ".", item.get_object());
    Need need;
    need.interface = inner.text("interface", true);
    need.name = inner.text("name", true);
    need.revision = static_cast<uint32_t>(inner.number("revision", 1));
    const std::string when = inner.text("when");
    if (when == "late")
      need.when = When::late;
    else if (when == "optional")
      need.when = When::optional;
    else if (!when.empty() && when != "start")
      inner.complain("when", "must be start, late or optional");
    const std::string wants = inner.text("wants");
    need.many = wants == "many";
    if (!wants.empty() && wants != "many" && wants != "one") inner.complain("wants", "must be one or many");
    reader.take(inner);
    if (!names.insert("needs " + need.name).second) reader.complain("needs", "has the name " + need.name + " twice");
    out.needs.push_back(std::move(need));
  });
  if (!reader.wrong().is_ok()) return reader.wrong();
  return out;
}

}  // namespace pintle::plugin
