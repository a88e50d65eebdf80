#pragma once

/// Amounts of resources: "500m", "1.5", "64Mi", "1e3".
///
/// A quantity is a decimal number, exact to a billionth, of at most 2^63-1 in magnitude, with the notation that it was
/// written in: decimal suffixes (n u m k M G T P E), binary suffixes (Ki Mi Gi Ti Pi Ei) or a decimal exponent. More
/// precise numbers are rounded away from zero, larger ones are capped. The canonical form has no fraction and the
/// largest suffix that loses nothing: "0.5" is "500m", "1024Mi" is "1Gi", "1.5Gi" is "1536Mi". As k8s.io/apimachinery's
/// resource.Quantity defines it.

#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace k8s::io::apimachinery::pkg::api::resource {
class Quantity;
}

namespace pintle::api {

class PINTLE_API_EXPORT Quantity {
 public:
  enum class Notation : uint8_t { decimal, binary, exponent };

  Quantity() = default;
  /// A whole number of units ("3", bytes, cores).
  static Quantity of(int64_t units, Notation notation = Notation::decimal);
  static Quantity of_milli(int64_t thousandths, Notation notation = Notation::decimal);
  /// INVALID_ARGUMENT says what a quantity looks like.
  static Result<Quantity> parse(std::string_view text);
  /// Of a message as it is in an object; an absent or unreadable text is zero.
  static Quantity of(const k8s::io::apimachinery::pkg::api::resource::Quantity& message);

  /// Canonical form.
  std::string text() const;
  /// Rounded up to whole units, or thousandths; capped at the largest int64_t.
  int64_t units() const;
  int64_t milli() const;
  bool is_zero() const { return nano_ == 0; }
  bool is_negative() const { return nano_ < 0; }
  /// Whether it is a whole number of units.
  bool is_whole() const;

  Quantity& operator+=(const Quantity& other);
  Quantity& operator-=(const Quantity& other);
  friend Quantity operator+(Quantity a, const Quantity& b) { return a += b; }
  friend Quantity operator-(Quantity a, const Quantity& b) { return a -= b; }
  /// By value; the notation does not matter.
  friend bool operator==(const Quantity& a, const Quantity& b) { return a.nano_ == b.nano_; }
  friend bool operator<(const Quantity& a, const Quantity& b) { return a.nano_ < b.nano_; }
  friend bool operator>(const Quantity& a, const Quantity& b) { return b < a; }

 private:
  __extension__ using Nano = __int128;
  Nano nano_ = 0;
  Notation notation_ = Notation::decimal;
};

}  // namespace pintle::api
