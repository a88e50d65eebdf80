#pragma once

/// How results look: tables for people, JSON and YAML for programs.

#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::cli {

enum class Format { table, wide, json, yaml };

enum class Color { none, red, green, yellow, dim, bold };

/// The text in a colour, or as it is if colours are off.
std::string colored(std::string_view text, Color color, bool enabled);

struct Cell {
  Cell(std::string content = "", Color hue = Color::none) : text(std::move(content)), color(hue) {}
  Cell(const char* content) : text(content) {}
  std::string text;
  Color color = Color::none;
};

/// Rows under headings, each column as wide as its widest cell, two spaces between columns. An empty cell shows as "-", but in the
/// last column. Control characters are replaced, so that no text of a container reaches the terminal as a command.
class Table {
 public:
  struct Column {
    std::string heading;
    bool wide_only = false;
    bool right = false;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void add(std::vector<Cell> row);
  bool empty() const { return rows_.empty(); }
  void print(std::ostream& out, bool wide, bool color, size_t indent = 0) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

/// JSON with an indent of two, members in their own order. Ends with a new line.
std::string pretty_json(const boost::json::value& value);

/// A text in one line without control characters.
std::string one_line(std::string_view text);

/// "5s", "3m12s", "2h3m", "4d2h": never more than two units.
std::string short_duration(std::chrono::nanoseconds duration);
/// The time since an RFC 3339 time in UTC ("2026-01-01T10:00:00.000Z") or since nanoseconds of 1970; empty if it is none, or 0.
std::string age(std::string_view rfc3339);
std::string age(int64_t nanoseconds_since_1970);
/// An RFC 3339 time in UTC as nanoseconds since 1970; 0 if it is none.
int64_t parse_time(std::string_view rfc3339);
/// "2026-01-01T10:00:00Z".
std::string format_time(int64_t nanoseconds_since_1970);
/// "512", "1.5Ki", "64Mi", in powers of 1024.
std::string short_bytes(uint64_t bytes);
/// The same of a Kubernetes quantity of bytes ("24593412Ki", "1500M"); a text that is none stays as it is.
std::string short_quantity(const std::string& quantity);

/// Members of JSON objects that may be absent or of another type than expected.
std::string text_member(const boost::json::value& object, std::string_view key);
int64_t integer_member(const boost::json::value& object, std::string_view key);
bool flag_member(const boost::json::value& object, std::string_view key, bool absent = false);
/// An empty array if there is none.
const boost::json::array& list_member(const boost::json::value& object, std::string_view key);
/// Null if there is none.
const boost::json::value& member(const boost::json::value& object, std::string_view key);

}  // namespace pintle::cli
