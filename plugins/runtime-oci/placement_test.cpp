#include "plugins/runtime-oci/placement.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plugins/runtime-oci/record.hpp"

namespace pintle::runtime_oci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kId(64, '4');

cgroup::Layout layout(bool unified) {
  return *cgroup::Layout::parse(unified ? "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
                                        : "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
                                "cpu memory pids");
}

Node node_with(CgroupDriver driver) {
  Node node;
  node.cgroups = layout(true);
  node.driver = driver;
  return node;
}

TEST(Driver, IsSystemdWhereItRunsAHostWithV2) {
  EXPECT_EQ(*choose_driver("auto", layout(true), true), CgroupDriver::systemd);
  EXPECT_EQ(*choose_driver("auto", layout(true), false), CgroupDriver::cgroupfs);
  EXPECT_EQ(*choose_driver("auto", layout(false), true), CgroupDriver::cgroupfs);
  EXPECT_EQ(*choose_driver("cgroupfs", layout(true), true), CgroupDriver::cgroupfs);
  EXPECT_EQ(*choose_driver("systemd", layout(true), true), CgroupDriver::systemd);
}

TEST(Driver, ThatCannotBeHadIsRefusedWithTheWayOut) {
  const Status without = choose_driver("systemd", layout(true), false).status();
  EXPECT_EQ(without.code(), Code::failed_precondition);
  EXPECT_THAT(without.message(), HasSubstr("systemd does not run this host, or set it to auto or cgroupfs"));
  EXPECT_THAT(choose_driver("systemd", layout(false), true).status().message(),
              HasSubstr("boot with systemd.unified_cgroup_hierarchy=1"));
}

TEST(Place, OfAContainerIsAFolderWithCgroupfsAndAScopeWithSystemd) {
  const Place folder = place_of(node_with(CgroupDriver::cgroupfs), "/kubepods/pod1", kId);
  EXPECT_EQ(folder.cgroup, "/kubepods/pod1/" + kId);
  EXPECT_EQ(folder.cgroups_path, folder.cgroup);
  EXPECT_EQ(folder.scope, "");

  const Place scope = place_of(node_with(CgroupDriver::systemd), "/kubepods.slice/kubepods-pod1.slice", kId);
  EXPECT_EQ(scope.scope, "pintle-" + kId + ".scope");
  EXPECT_EQ(scope.cgroup, "/kubepods.slice/kubepods-pod1.slice/" + scope.scope);
  EXPECT_EQ(scope.cgroups_path, "kubepods-pod1.slice:pintle:" + kId);
}

TEST(Place, OfAContainerFollowsItsPodAndNotTheConfig) {
  EXPECT_EQ(place_of(node_with(CgroupDriver::systemd), "/kubepods/pod1", kId).scope, "");
  EXPECT_EQ(place_of(node_with(CgroupDriver::cgroupfs), "/a.slice", kId).scope, "pintle-" + kId + ".scope");
}

TEST(Place, WithoutAParentIsTheConfigs) {
  EXPECT_EQ(place_of(node_with(CgroupDriver::cgroupfs), "", kId).cgroup, "/pintle/" + kId);
  EXPECT_EQ(place_of(node_with(CgroupDriver::systemd), "", kId).cgroup, "/pintle.slice/pintle-" + kId + ".scope");
  Node node = node_with(CgroupDriver::systemd);
  node.settings.cgroup_parent = "/my/own-place";
  EXPECT_EQ(place_of(node, "", kId).cgroups_path, "my-own_place.slice:pintle:" + kId);
}

TEST(Place, OfMonitorsIsFoundUnderBothDrivers) {
  EXPECT_THAT(monitors_places(node_with(CgroupDriver::systemd)),
              ElementsAre("/pintle.slice/pintle-monitors.service", "/pintle/monitors"));
  EXPECT_THAT(monitors_places(node_with(CgroupDriver::cgroupfs)),
              ElementsAre("/pintle/monitors", "/pintle.slice/pintle-monitors.service"));
}

TEST(Parent, OfTheOtherDriversFormIsRefused) {
  const Status path = check_parent(node_with(CgroupDriver::systemd), "/kubepods/pod1-2");
  EXPECT_EQ(path.code(), Code::invalid_argument);
  EXPECT_THAT(path.message(), HasSubstr("name a slice, such as kubepods-pod1_2.slice"));
  const Status slice = check_parent(node_with(CgroupDriver::cgroupfs), "/kubepods.slice");
  EXPECT_EQ(slice.code(), Code::invalid_argument);
  EXPECT_THAT(slice.message(), HasSubstr("the cgroup driver is cgroupfs"));
  EXPECT_TRUE(check_parent(node_with(CgroupDriver::systemd), "/kubepods.slice").is_ok());
  EXPECT_TRUE(check_parent(node_with(CgroupDriver::cgroupfs), "/kubepods").is_ok());
  EXPECT_TRUE(check_parent(node_with(CgroupDriver::systemd), "").is_ok());
}

TEST(Scope, IsToldEveryLimitAndNoneThatNobodyAskedFor) {
  cgroup::Limits limits;
  limits.memory = 32 << 20;
  limits.cpu_quota = 10'000;
  auto annotations = scope_annotations(limits);
  ASSERT_TRUE(annotations.is_ok());
  EXPECT_EQ((*annotations)["org.systemd.property.MemoryMax"], "uint64 33554432");
  EXPECT_EQ((*annotations)["org.systemd.property.CPUQuotaPerSecUSec"], "uint64 100000");
  EXPECT_EQ((*annotations)["org.systemd.property.TasksMax"], "uint64 18446744073709551615");
  limits.processes = 7;
  EXPECT_EQ((*scope_annotations(limits))["org.systemd.property.TasksMax"], "uint64 7");
}

TEST(Scope, IsKeptInTheRecord) {
  ContainerRecord record;
  record.id = kId;
  EXPECT_EQ(record.to_json().find("scope"), std::string::npos);
  record.scope = "pintle-x.scope";
  record.kills_beside_before = 3;
  const auto again = ContainerRecord::parse(record.to_json());
  ASSERT_TRUE(again.is_ok());
  EXPECT_EQ(again->scope, "pintle-x.scope");
  EXPECT_EQ(again->kills_beside_before, 3u);
}

}  // namespace
}  // namespace pintle::runtime_oci
