#include "sdk/api/quantity.hpp"

#include <algorithm>
#include <array>
#include <boost/multiprecision/cpp_int.hpp>
#include <charconv>
#include <limits>
#include <optional>

#include "k8s/apimachinery/resource.pb.h"

namespace pintle::api {

namespace {

using boost::multiprecision::cpp_int;
__extension__ using Wide = __int128;

constexpr int64_t kNano = 1'000'000'000;
constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
constexpr Wide kLargestNano = static_cast<Wide>(kLargest) * kNano;
// No quantity within the limits needs more; a hostile text must not make us compute for long.
constexpr size_t kLongestText = 128;

struct Suffix {
  std::string_view text;
  int exponent;  // of ten, or of two in a binary suffix
  Quantity::Notation notation;
};

constexpr std::array<Suffix, 16> kSuffixes{{{"n", -9, Quantity::Notation::decimal},
                                            {"u", -6, Quantity::Notation::decimal},
                                            {"m", -3, Quantity::Notation::decimal},
                                            {"", 0, Quantity::Notation::decimal},
                                            {"k", 3, Quantity::Notation::decimal},
                                            {"M", 6, Quantity::Notation::decimal},
                                            {"G", 9, Quantity::Notation::decimal},
                                            {"T", 12, Quantity::Notation::decimal},
                                            {"P", 15, Quantity::Notation::decimal},
                                            {"E", 18, Quantity::Notation::decimal},
                                            {"Ki", 10, Quantity::Notation::binary},
                                            {"Mi", 20, Quantity::Notation::binary},
                                            {"Gi", 30, Quantity::Notation::binary},
                                            {"Ti", 40, Quantity::Notation::binary},
                                            {"Pi", 50, Quantity::Notation::binary},
                                            {"Ei", 60, Quantity::Notation::binary}}};

std::optional<Suffix> suffix_of(std::string_view text) {
  if (const auto found =
          std::find_if(kSuffixes.begin(), kSuffixes.end(), [&](const Suffix& s) { return s.text == text; });
      found != kSuffixes.end())
    return *found;
  if (text.size() < 2 || (text[0] != 'e' && text[0] != 'E')) return std::nullopt;
  const bool plus = text[1] == '+';
  text.remove_prefix(plus ? 2 : 1);
  if (plus && text.starts_with('-')) return std::nullopt;
  int exponent = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), exponent);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return Suffix{"", exponent, Quantity::Notation::exponent};
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string text_of(Wide value) {
  if (value == 0) return "0";
  const bool negative = value < 0;
  std::string digits;
  for (; value != 0; value /= 10)
    digits += static_cast<char>('0' + static_cast<int>(negative ? -(value % 10) : value % 10));
  if (negative) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

Wide round_away(Wide value, Wide unit) {
  const Wide rest = value % unit;
  if (rest == 0) return value / unit;
  return value / unit + (value > 0 ? 1 : -1);
}

Wide cap(Wide nano) { return std::clamp(nano, -kLargestNano, kLargestNano); }

}  // namespace

Quantity Quantity::of(int64_t units, Notation notation) {
  Quantity result;
  result.nano_ = cap(static_cast<Nano>(units) * kNano);
  result.notation_ = notation;
  return result;
}

Quantity Quantity::of_milli(int64_t thousandths, Notation notation) {
  Quantity result;
  result.nano_ = static_cast<Nano>(thousandths) * (kNano / 1000);
  result.notation_ = notation;
  return result;
}

Quantity Quantity::of(const k8s::io::apimachinery::pkg::api::resource::Quantity& message) {
  Result<Quantity> parsed = parse(message.string());
  return parsed ? *parsed : Quantity();
}

Result<Quantity> Quantity::parse(std::string_view text) {
  const auto wrong = [&] {
    return invalid_argument(
        "must be a quantity (a number with one of the suffixes n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or an "
        "exponent as in 1e3), is \"" +
        std::string(text.substr(0, 40)) + "\"");
  };
  if (text.empty() || text.size() > kLongestText) return wrong();
  std::string_view rest = text;
  const bool negative = rest.front() == '-';
  if (negative || rest.front() == '+') rest.remove_prefix(1);
  std::string digits;
  int decimals = 0;
  for (bool fraction = false; !rest.empty() && (is_digit(rest.front()) || (rest.front() == '.' && !fraction));
       rest.remove_prefix(1)) {
    if (rest.front() == '.') {
      fraction = true;
      continue;
    }
    digits += rest.front();
    decimals += fraction;
  }
  if (digits.empty()) return wrong();
  const std::optional<Suffix> suffix = suffix_of(rest);
  if (!suffix) return wrong();

  Quantity result;
  result.notation_ = suffix->notation;
  // A leading zero would make cpp_int read octal.
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size() - 1));
  cpp_int numerator(digits);
  cpp_int denominator = 1;
  const bool binary = suffix->notation == Notation::binary;
  if (binary) numerator <<= static_cast<unsigned>(suffix->exponent);
  constexpr int far = 300;
  const int power = 9 - decimals + (binary ? 0 : std::clamp(suffix->exponent, -far, far));
  (power >= 0 ? numerator : denominator) *=
      boost::multiprecision::pow(cpp_int(10), static_cast<unsigned>(std::abs(power)));
  cpp_int nano = (numerator + denominator - 1) / denominator;
  const cpp_int largest = cpp_int(kLargest) * kNano;
  if (nano > largest) nano = largest;
  result.nano_ = nano.convert_to<Nano>();
  if (negative) result.nano_ = -result.nano_;
  return result;
}

std::string Quantity::text() const {
  if (nano_ == 0) return "0";
  Notation notation = notation_;
  const bool whole = is_whole();
  if (notation == Notation::binary &&
      (!whole || (nano_ > -static_cast<Nano>(1024) * kNano && nano_ < static_cast<Nano>(1024) * kNano)))
    notation = Notation::decimal;
  Nano value = notation == Notation::binary ? nano_ / kNano : nano_;
  const int base = notation == Notation::binary ? 1024 : 1000;
  int power = notation == Notation::binary ? 0 : -3;
  for (; value % base == 0 && power < 6; value /= base) ++power;
  std::string result = text_of(value);
  if (power == 0) return result;
  if (notation == Notation::exponent) return result + "e" + std::to_string(power * 3);
  const int exponent = notation == Notation::binary ? power * 10 : power * 3;
  const auto suffix = std::find_if(kSuffixes.begin(), kSuffixes.end(),
                                   [&](const Suffix& s) { return s.notation == notation && s.exponent == exponent; });
  return result.append(suffix->text);
}

bool Quantity::is_whole() const { return nano_ % kNano == 0; }

int64_t Quantity::units() const { return static_cast<int64_t>(round_away(nano_, kNano)); }

int64_t Quantity::milli() const {
  const Nano milli = round_away(nano_, kNano / 1000);
  return static_cast<int64_t>(std::clamp<Nano>(milli, -static_cast<Nano>(kLargest), kLargest));
}

Quantity& Quantity::operator+=(const Quantity& other) {
  if (nano_ == 0) notation_ = other.notation_;
  nano_ = cap(nano_ + other.nano_);
  return *this;
}

Quantity& Quantity::operator-=(const Quantity& other) {
  if (nano_ == 0) notation_ = other.notation_;
  nano_ = cap(nano_ - other.nano_);
  return *this;
}

}  // namespace pintle::api
