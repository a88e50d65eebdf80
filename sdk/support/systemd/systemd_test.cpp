#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sdk/support/systemd/manager.hpp"
#include "sdk/support/systemd/slices.hpp"

namespace pintle::systemd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Slices, AreNamedAsKubeletNamesThem) {
  EXPECT_EQ(slice_path("/kubepods"), "/kubepods.slice");
  EXPECT_EQ(slice_path("/kubepods/burstable/pod1234-abcd-5678-efgh"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_abcd_5678_efgh.slice");
  EXPECT_EQ(slice_path("//my-pods//a/"), "/my_pods.slice/my_pods-a.slice");
  EXPECT_EQ(slice_path(""), "");
}

TEST(Slices, LieWhereTheirNameSays) {
  for (const char* spelled : {"a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"}) {
    const auto path = expand_slice(spelled);
    ASSERT_TRUE(path.is_ok()) << path.status().message();
    EXPECT_EQ(*path, "/a.slice/a-b.slice/a-b-c.slice") << spelled;
  }
  EXPECT_EQ(*expand_slice("system.slice"), "/system.slice");
  EXPECT_EQ(unit_of("/a.slice/a-b.slice"), "a-b.slice");
}

TEST(Slices, WithImpossibleNamesAreRefused) {
  for (const char* bad : {"", ".slice", "/", "a", "/a/b", "-.slice", "-a.slice", "a-.slice", "a--b.slice", "a b.slice",
                          "a\n.slice", "/b.slice/a-b.slice", "/a-b.slice", "/a.slice/x/a-b.slice"})
    EXPECT_EQ(expand_slice(bad).status().code(), Code::invalid_argument) << "'" << bad << "'";
  EXPECT_THAT(expand_slice("/b.slice/a-b.slice").status().message(), HasSubstr("by its name it is /a.slice/a-b.slice"));
  EXPECT_FALSE(expand_slice(std::string(300, 'a') + ".slice").is_ok());
}

template <class Value>
Value value_of(const Properties& properties, const std::string& name) {
  for (const Property& property : properties) {
    if (property.name == name && std::holds_alternative<Value>(property.value)) return std::get<Value>(property.value);
  }
  ADD_FAILURE() << "no " << name;
  return {};
}

TEST(Properties, TellLimitsInSystemdsUnits) {
  cgroup::Limits limits;
  limits.cpu_shares = 1024;
  limits.cpu_quota = 25'000;
  limits.cpu_period = 50'000;
  limits.memory = 64 << 20;
  limits.memory_and_swap = 96 << 20;
  limits.processes = 20;
  limits.cpuset_cpus = "0-1,9";
  const auto properties = properties_of(limits);
  ASSERT_TRUE(properties.is_ok());
  EXPECT_EQ(value_of<uint64_t>(*properties, "CPUWeight"), 39u);
  EXPECT_EQ(value_of<uint64_t>(*properties, "CPUQuotaPerSecUSec"), 500'000u);
  EXPECT_EQ(value_of<uint64_t>(*properties, "CPUQuotaPeriodUSec"), 50'000u);
  EXPECT_EQ(value_of<uint64_t>(*properties, "MemoryMax"), 64u << 20);
  EXPECT_EQ(value_of<uint64_t>(*properties, "MemorySwapMax"), 32u << 20);
  EXPECT_EQ(value_of<uint64_t>(*properties, "TasksMax"), 20u);
  EXPECT_THAT(value_of<std::vector<uint8_t>>(*properties, "AllowedCPUs"), ElementsAre(0b11, 0b10));
  EXPECT_TRUE(properties_of({})->empty());
}

TEST(Properties, TellThatThereIsNoLimit) {
  cgroup::Limits limits;
  limits.cpu_quota = -1;
  limits.memory = limits.memory_and_swap = limits.processes = -1;
  const auto properties = properties_of(limits);
  ASSERT_TRUE(properties.is_ok());
  for (const char* name : {"CPUQuotaPerSecUSec", "MemoryMax", "MemorySwapMax", "TasksMax"})
    EXPECT_EQ(value_of<uint64_t>(*properties, name), kInfinity) << name;
}

TEST(Properties, RoundAQuotaUpToWhatSystemdKeeps) {
  cgroup::Limits limits;
  limits.cpu_quota = 33'333;
  EXPECT_EQ(value_of<uint64_t>(*properties_of(limits), "CPUQuotaPerSecUSec"), 340'000u);
}

TEST(Properties, TakeFilesThatSystemdHasAWordFor) {
  cgroup::Limits limits;
  limits.unified = {{"memory.min", "1048576"}, {"memory.high", "max"}, {"cpu.max", "50000 100000"}, {"io.weight", "7"}};
  const auto properties = properties_of(limits);
  ASSERT_TRUE(properties.is_ok());
  EXPECT_EQ(value_of<uint64_t>(*properties, "MemoryMin"), 1u << 20);
  EXPECT_EQ(value_of<uint64_t>(*properties, "MemoryHigh"), kInfinity);
  EXPECT_EQ(value_of<uint64_t>(*properties, "CPUQuotaPerSecUSec"), 500'000u);
  EXPECT_EQ(properties->size(), 4u);
  for (const auto& [file, value] : {std::pair("memory.max", "1G"), std::pair("cpu.max", "half"),
                                    std::pair("cpu.max", "1 0"), std::pair("cpu.max", "99999999999999 1")}) {
    limits.unified = {{file, value}};
    EXPECT_EQ(properties_of(limits).status().code(), Code::invalid_argument) << file << " " << value;
  }
}

TEST(Properties, RefuseSetsThatAreNone) {
  for (const char* bad : {"", "a", "1-", "-1", "3-1", "0,,1", "99999"})
    EXPECT_EQ(bits_of(bad).status().code(), Code::invalid_argument) << "'" << bad << "'";
}

TEST(Manager, SaysTheWayOutWhereSystemdDoesNotAnswer) {
  if (Manager::runs_here()) GTEST_SKIP() << "systemd runs this machine";
  const Status status = Manager().start_slice("pintle-test.slice", "test", {});
  EXPECT_EQ(status.code(), Code::unavailable);
  EXPECT_THAT(status.message(), HasSubstr("set cgroupDriver to cgroupfs"));
}

}  // namespace
}  // namespace pintle::systemd
