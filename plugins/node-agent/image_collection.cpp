#include "plugins/node-agent/image_collection.hpp"

#include <algorithm>
#include <boost/json.hpp>

namespace pintle::agent {

namespace json = boost::json;

ImageUses ImageUses::from_record(std::string_view record) {
  ImageUses uses;
  boost::system::error_code error;
  const json::value value = json::parse(record, error);
  if (error || !value.is_object()) return uses;
  for (const auto& [id, entry] : value.get_object()) {
    if (!entry.is_object()) continue;
    const auto time = [&](const char* name) {
      const json::value* member = entry.get_object().if_contains(name);
      return member && member->is_int64() ? member->get_int64() : 0;
    };
    uses.uses_[std::string(id)] = {time("seen"), time("used")};
  }
  return uses;
}

std::string ImageUses::to_record() const {
  json::object record;
  for (const auto& [id, use] : uses_) record[id] = json::object{{"seen", use.seen}, {"used", use.used}};
  return json::serialize(record);
}

bool ImageUses::update(const std::vector<KnownImage>& images, const std::set<std::string>& in_use, int64_t now) {
  std::map<std::string, Use> uses;
  for (const KnownImage& image : images) {
    const auto before = uses_.find(image.id);
    Use& use = uses[image.id];
    use = before == uses_.end() ? Use{now, 0} : before->second;
    if (in_use.contains(image.id) || in_use_.contains(image.id)) use.used = now;
  }
  // What goes on being used need not be written down each time.
  const bool differs = in_use != in_use_ || uses.size() != uses_.size() ||
                       !std::equal(uses.begin(), uses.end(), uses_.begin(),
                                   [](const auto& a, const auto& b) { return a.first == b.first; });
  uses_ = std::move(uses);
  in_use_ = in_use;
  return differs;
}

std::vector<KnownImage> ImageUses::removable(const std::vector<KnownImage>& images, const std::set<std::string>& in_use,
                                             std::chrono::nanoseconds minimum_age, int64_t now) const {
  std::vector<KnownImage> list;
  const auto use_of = [&](const KnownImage& image) {
    const auto known = uses_.find(image.id);
    return known == uses_.end() ? Use{now, 0} : known->second;
  };
  for (const KnownImage& image : images)
    if (!image.is_pinned && !in_use.contains(image.id) && now - use_of(image).seen >= minimum_age.count())
      list.push_back(image);
  std::stable_sort(list.begin(), list.end(), [&](const KnownImage& a, const KnownImage& b) {
    return std::make_pair(use_of(a).used, use_of(a).seen) < std::make_pair(use_of(b).used, use_of(b).seen);
  });
  return list;
}

std::chrono::nanoseconds ImageUses::unused_for(const std::string& id, int64_t now) const {
  const auto known = uses_.find(id);
  if (known == uses_.end()) return std::chrono::nanoseconds(0);
  return std::chrono::nanoseconds(now - std::max(known->second.used, known->second.seen));
}

}  // namespace pintle::agent
