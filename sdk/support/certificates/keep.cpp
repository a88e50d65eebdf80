// Pairs in folders.

#include <algorithm>

#include "sdk/support/certificates/certificates.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::certificates {

namespace {

constexpr size_t kLargestFile = 1 << 20;

template <class T>
std::vector<T> sorted(std::vector<T> values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

/// Addresses are compared as certificates spell them.
bool says_what_is_asked(const Facts& facts, const Pair& pair, const Request& request, const Pair& authority, Time now) {
  return facts.common_name == request.common_name && sorted(facts.organizations) == sorted(request.organizations) &&
         sorted(facts.dns_names) == sorted(request.dns_names) && sorted(facts.addresses) == sorted(request.addresses) &&
         now < renew_at(facts) && check(pair, authority.certificate, request.use, now);
}

}  // namespace

Result<Pair> load(const std::string& folder, const std::string& name) {
  Pair pair;
  for (const auto& [ending, into] : {std::pair(".crt", &pair.certificate), std::pair(".key", &pair.key)}) {
    Result<std::string> text = files::read_file(folder + "/" + name + ending, kLargestFile);
    if (!text) return text.status();
    *into = std::move(*text);
  }
  return pair;
}

Status store(const std::string& folder, const std::string& name, const Pair& pair) {
  if (Status made = files::make_folders(folder, 0700); !made) return made;
  Result<files::Descriptor> opened = files::open_folder(folder);
  if (!opened) return opened.status();
  if (Status kept = files::write_file(opened->get(), name + ".key", pair.key, files::Durability::synced, 0600); !kept)
    return kept;
  return files::write_file(opened->get(), name + ".crt", pair.certificate, files::Durability::synced, 0644);
}

Result<Kept> keep_authority(const std::string& folder, const std::string& name, const std::string& common_name,
                            Time now) {
  Result<Pair> known = load(folder, name);
  if (!known && known.status().code() != Code::not_found) return known.status();
  Result<std::string> key = files::read_file(folder + "/" + name + ".key", kLargestFile);
  if (known) {
    const Result<Facts> facts = read_certificate(known->certificate);
    const bool is_sound = facts && facts->is_authority && issue(*known, {.common_name = "whether it can"}, now);
    if (is_sound && now < renew_at(*facts)) return Kept{std::move(*known), false};
  }
  // With the key it goes on as the same authority. Without one nothing that it has issued can be saved.
  Result<Pair> made = key ? make_authority(common_name, now, *key) : Result<Pair>(key.status());
  if (!made) made = make_authority(common_name, now);
  if (!made) return made.status().with_context(folder + "/" + name);
  if (Status stored = store(folder, name, *made); !stored) return stored;
  return Kept{std::move(*made), true};
}

Result<Kept> keep_issued(const std::string& folder, const std::string& name, const Pair& authority,
                         const Request& request, Time now) {
  Result<Pair> known = load(folder, name);
  if (known) {
    const Result<Facts> facts = read_certificate(known->certificate);
    if (facts && says_what_is_asked(*facts, *known, request, authority, now)) return Kept{std::move(*known), false};
  } else if (known.status().code() != Code::not_found) {
    return known.status();
  }
  Result<Pair> issued = issue(authority, request, now);
  if (!issued) return issued.status().with_context(folder + "/" + name);
  if (Status stored = store(folder, name, *issued); !stored) return stored;
  return Kept{std::move(*issued), true};
}

}  // namespace pintle::certificates
