#pragma once

/// Which images go when the disk fills up, as kubelet reckons: those that no container and no wanted pod uses, the longest unused first.
///
/// When an image was last used is remembered over restarts, in one file; an image that is in use is used now. Pinned ones stay. The
/// record is pure; who asks and removes is GarbageCollection.

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::agent {

struct KnownImage {
  std::string id;
  std::vector<std::string> names;  ///< references that it has
  int64_t bytes = 0;
  bool is_pinned = false;
};

class ImageUses {
 public:
  struct Use {
    int64_t seen = 0;  ///< when it was first here, nanoseconds since 1970
    int64_t used = 0;  ///< when it was last used; 0: never that we know of
    bool operator==(const Use&) const = default;
  };

  /// What is unreadable is forgotten: its images count as new.
  static ImageUses from_record(std::string_view record);
  std::string to_record() const;

  /// `in_use` are ids. True if there is something new to be kept: an image came, went, or is not used any more.
  bool update(const std::vector<KnownImage>& images, const std::set<std::string>& in_use, int64_t now);

  /// Those that may go, the longest unused first: they are not in use, not pinned, and here for `minimum_age`.
  std::vector<KnownImage> removable(const std::vector<KnownImage>& images, const std::set<std::string>& in_use,
                                    std::chrono::nanoseconds minimum_age, int64_t now) const;
  /// For how long it was not used.
  std::chrono::nanoseconds unused_for(const std::string& id, int64_t now) const;

 private:
  std::map<std::string, Use> uses_;
  std::set<std::string> in_use_;
};

}  // namespace pintle::agent
