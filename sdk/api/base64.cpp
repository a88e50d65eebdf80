#include "sdk/api/base64.hpp"

#include <openssl/evp.h>

#include <algorithm>

namespace pintle::api {

std::string base64_encode(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4, '\0');
  // EVP_EncodeBlock writes a terminator behind the text, where std::string has its own.
  EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()), reinterpret_cast<const unsigned char*>(bytes.data()),
                  static_cast<int>(bytes.size()));
  return text;
}

std::optional<std::string> base64_decode(std::string_view text) {
  std::string dense;
  dense.reserve(text.size());
  std::copy_if(text.begin(), text.end(), std::back_inserter(dense), [](char c) { return c != '\n' && c != '\r'; });
  if (dense.empty()) return std::string();
  // EVP_DecodeBlock takes white space at both ends and "=" anywhere in the last group: both are refused before.
  const auto in_alphabet = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
  };
  size_t padding = 0;
  while (padding < 2 && padding < dense.size() && dense[dense.size() - 1 - padding] == '=') ++padding;
  if (dense.size() % 4 != 0 ||
      !std::all_of(dense.begin(), dense.end() - static_cast<std::ptrdiff_t>(padding), in_alphabet))
    return std::nullopt;
  std::string bytes(dense.size() / 4 * 3, '\0');
  const int size =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                      reinterpret_cast<const unsigned char*>(dense.data()), static_cast<int>(dense.size()));
  if (size < 0) return std::nullopt;
  bytes.resize(static_cast<size_t>(size) - padding);
  return bytes;
}

}  // namespace pintle::api
