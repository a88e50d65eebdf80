#include "kernel/cli/output.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <cstdio>
#include <ctime>

namespace pintle::cli {

namespace json = boost::json;

namespace {

// Columns of a terminal, one a character: wide and combining characters are rare in names.
size_t width(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

void write_pretty(const json::value& value, size_t indent, std::string& out) {
  const auto line = [&](size_t depth) { out += "\n" + std::string(depth * 2, ' '); };
  if (const json::object* object = value.if_object(); object != nullptr && !object->empty()) {
    out += "{";
    bool first = true;
    for (const auto& one : *object) {
      if (!std::exchange(first, false)) out += ",";
      line(indent + 1);
      out += json::serialize(json::value(one.key())) + ": ";
      write_pretty(one.value(), indent + 1, out);
    }
    line(indent);
    out += "}";
  } else if (const json::array* array = value.if_array(); array != nullptr && !array->empty()) {
    out += "[";
    bool first = true;
    for (const json::value& element : *array) {
      if (!std::exchange(first, false)) out += ",";
      line(indent + 1);
      write_pretty(element, indent + 1, out);
    }
    line(indent);
    out += "]";
  } else {
    out += json::serialize(value);
  }
}

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::string colored(std::string_view text, Color color, bool enabled) {
  constexpr std::array<std::string_view, 6> codes = {"", "31", "32", "33", "2", "1"};
  if (!enabled || color == Color::none || text.empty()) return std::string(text);
  return "\x1b[" + std::string(codes[static_cast<size_t>(color)]) + "m" + std::string(text) + "\x1b[0m";
}

std::string one_line(std::string_view text) {
  std::string line;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    line.push_back(byte < 0x20 || byte == 0x7f ? ' ' : c);
  }
  return line;
}

void Table::add(std::vector<Cell> row) {
  row.resize(columns_.size());
  for (Cell& cell : row) cell.text = one_line(cell.text);
  rows_.push_back(std::move(row));
}

void Table::print(std::ostream& out, bool wide, bool color, size_t indent) const {
  std::vector<size_t> shown;
  for (size_t i = 0; i < columns_.size(); ++i) {
    if (wide || !columns_[i].wide_only) shown.push_back(i);
  }
  std::vector<size_t> widths(columns_.size());
  for (size_t i : shown) {
    widths[i] = width(columns_[i].heading);
    for (const auto& row : rows_) widths[i] = std::max(widths[i], std::max<size_t>(1, width(row[i].text)));
  }
  const auto print_row = [&](const auto& cell_of) {
    std::string line(indent, ' ');
    for (size_t i : shown) {
      Cell cell = cell_of(i);
      const bool last = i == shown.back();
      if (cell.text.empty() && !last) cell.text = "-";
      const std::string pad(widths[i] - width(cell.text), ' ');
      const std::string text = colored(cell.text, cell.color, color);
      line += columns_[i].right ? pad + text : last ? text : text + pad;
      if (!last) line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << "\n";
  };
  print_row([&](size_t i) { return Cell(columns_[i].heading, Color::bold); });
  for (const auto& row : rows_) print_row([&](size_t i) { return row[i]; });
}

std::string pretty_json(const json::value& value) {
  std::string out;
  write_pretty(value, 0, out);
  return out + "\n";
}

std::string short_duration(std::chrono::nanoseconds duration) {
  const int64_t seconds = std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::seconds>(duration).count());
  const auto two = [](int64_t large, const char* large_unit, int64_t small, const char* small_unit) {
    return std::to_string(large) + large_unit + (small == 0 ? "" : std::to_string(small) + small_unit);
  };
  if (seconds < 60) return std::to_string(seconds) + "s";
  if (seconds < 3600) return two(seconds / 60, "m", seconds % 60, "s");
  if (seconds < 86400) return two(seconds / 3600, "h", seconds / 60 % 60, "m");
  return two(seconds / 86400, "d", seconds / 3600 % 24, "h");
}

int64_t parse_time(std::string_view rfc3339) {
  std::tm parts{};
  int length = 0;
  const std::string text(rfc3339);
  if (std::sscanf(text.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d%n", &parts.tm_year, &parts.tm_mon, &parts.tm_mday,
                  &parts.tm_hour, &parts.tm_min, &parts.tm_sec, &length) != 6) {
    return 0;
  }
  parts.tm_year -= 1900;
  parts.tm_mon -= 1;
  int64_t nanoseconds = 0, unit = 100'000'000;
  if (text[static_cast<size_t>(length)] == '.') {
    for (size_t i = static_cast<size_t>(length) + 1; i < text.size() && text[i] >= '0' && text[i] <= '9' && unit > 0;
         ++i, unit /= 10) {
      nanoseconds += (text[i] - '0') * unit;
    }
  }
  return static_cast<int64_t>(timegm(&parts)) * 1'000'000'000 + nanoseconds;
}

std::string age(int64_t nanoseconds_since_1970) {
  return nanoseconds_since_1970 <= 0 ? "" : short_duration(std::chrono::nanoseconds(now() - nanoseconds_since_1970));
}

std::string age(std::string_view rfc3339) { return age(parse_time(rfc3339)); }

std::string format_time(int64_t nanoseconds_since_1970) {
  if (nanoseconds_since_1970 <= 0) return {};
  const std::time_t seconds = nanoseconds_since_1970 / 1'000'000'000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 32> text;
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

std::string short_bytes(uint64_t bytes) {
  constexpr std::array<const char*, 6> units = {"", "Ki", "Mi", "Gi", "Ti", "Pi"};
  auto amount = static_cast<double>(bytes);
  size_t unit = 0;
  while (amount >= 1024 && unit + 1 < units.size()) amount /= 1024, ++unit;
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), unit == 0 || amount >= 10 ? "%.0f%s" : "%.1f%s", amount, units[unit]);
  return text.data();
}

std::string short_quantity(const std::string& quantity) {
  constexpr std::array<std::pair<std::string_view, double>, 11> suffixes = {{{"", 1},
                                                                             {"Ki", 1024.0},
                                                                             {"Mi", 1048576.0},
                                                                             {"Gi", 1073741824.0},
                                                                             {"Ti", 1099511627776.0},
                                                                             {"Pi", 1125899906842624.0},
                                                                             {"k", 1e3},
                                                                             {"M", 1e6},
                                                                             {"G", 1e9},
                                                                             {"T", 1e12},
                                                                             {"P", 1e15}}};
  double number = 0;
  const auto [end, error] = std::from_chars(quantity.data(), quantity.data() + quantity.size(), number);
  if (error != std::errc() || number < 0) return quantity;
  const std::string_view suffix = std::string_view(quantity).substr(static_cast<size_t>(end - quantity.data()));
  for (const auto& [name, factor] : suffixes)
    if (suffix == name && number * factor < 9e18) return short_bytes(static_cast<uint64_t>(number * factor));
  return quantity;
}

const json::value& member(const json::value& object, std::string_view key) {
  static const json::value none;
  const json::object* members = object.if_object();
  const json::value* found =
      members == nullptr ? nullptr : members->if_contains(json::string_view(key.data(), key.size()));
  return found == nullptr ? none : *found;
}

std::string text_member(const json::value& object, std::string_view key) {
  const json::string* text = member(object, key).if_string();
  return text == nullptr ? std::string() : std::string(text->data(), text->size());
}

int64_t integer_member(const json::value& object, std::string_view key) {
  const json::value& value = member(object, key);
  boost::system::error_code error;
  const auto number = value.is_number() ? value.to_number<int64_t>(error) : 0;
  return error ? 0 : number;
}

bool flag_member(const json::value& object, std::string_view key, bool absent) {
  const bool* flag = member(object, key).if_bool();
  return flag == nullptr ? absent : *flag;
}

const json::array& list_member(const json::value& object, std::string_view key) {
  static const json::array none;
  const json::array* list = member(object, key).if_array();
  return list == nullptr ? none : *list;
}

}  // namespace pintle::cli
