#include "plugins/node-agent/id_ranges.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace pintle::agent {
namespace {

uint32_t first_of(const Result<PodIds>& ids) { return ids ? ids->first : 0; }

TEST(IdRanges, lie_side_by_side_and_fill_gaps) {
  const IdRangeSettings settings;
  EXPECT_EQ(first_of(choose_ids(settings, {}, "", "")), 65536u);
  EXPECT_EQ(first_of(choose_ids(settings, {{65536, 65536}, {196608, 65536}}, "", "")), 131072u);
  EXPECT_EQ(first_of(choose_ids(settings, {{65536, 65536}, {131072, 65536}}, "", "")), 196608u);
}

TEST(IdRanges, are_those_of_pintle_or_kubelet_where_the_node_names_them) {
  const IdRangeSettings settings;
  const char* text = "anna:100000:65536\nkubelet:1000000:131072\n";
  EXPECT_EQ(first_of(choose_ids(settings, {}, text, text)), 1000000u);
  EXPECT_EQ(first_of(choose_ids(settings, {{1000000, 65536}}, text, text)), 1065536u);
  EXPECT_EQ(choose_ids(settings, {{1000000, 65536}, {1065536, 65536}}, text, text).status().code(),
            Code::resource_exhausted);
  EXPECT_EQ(choose_ids(settings, {}, text, "kubelet:2000000:131072\n").status().code(), Code::failed_precondition);
}

TEST(IdRanges, leave_out_what_belongs_to_other_users) {
  const IdRangeSettings settings;
  // 100000 to 165535 touches the first two ranges.
  EXPECT_EQ(first_of(choose_ids(settings, {}, "anna:100000:65536\n", "")), 196608u);
  IdRangeSettings based;
  based.base = 1u << 20;
  EXPECT_EQ(first_of(choose_ids(based, {}, "kubelet:100000:65536\n", "")), 1u << 20);
}

TEST(IdRanges, stay_with_their_pod_and_never_have_two) {
  char path[] = "/tmp/id-ranges-XXXXXX";
  ASSERT_NE(mkdtemp(path), nullptr);
  const std::string pods = path;
  IdRangeSettings settings;
  settings.subuid = settings.subgid = pods + "/none";
  for (const char* uid : {"a", "b"}) std::filesystem::create_directory(pods + "/" + uid);
  const uint32_t a = first_of(ids_of_pod(settings, pods, "a")), b = first_of(ids_of_pod(settings, pods, "b"));
  EXPECT_NE(a, b);
  EXPECT_EQ(first_of(ids_of_pod(settings, pods, "a")), a);
  std::filesystem::remove_all(pods + "/a");
  std::filesystem::create_directory(pods + "/c");
  EXPECT_EQ(first_of(ids_of_pod(settings, pods, "c")), a);
  std::filesystem::resize_file(pods + "/c/user-namespace.json", 3);
  EXPECT_EQ(ids_of_pod(settings, pods, "c").status().code(), Code::data_loss);
  std::filesystem::create_directory(pods + "/d");
  EXPECT_FALSE(ids_of_pod(settings, pods, "d")) << "a range that cannot be read may be the one that is chosen";
  std::filesystem::remove_all(pods);
}

}  // namespace
}  // namespace pintle::agent
