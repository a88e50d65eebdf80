#include "plugins/node-agent/node_pressure.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "k8s/core/v1/pod.pb.h"
#include "plugins/node-agent/eviction_order.hpp"
#include "plugins/node-agent/image_collection.hpp"
#include "plugins/node-agent/node_resources.hpp"
#include "plugins/node-agent/pod_verdict.hpp"

namespace pintle::agent {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::shared_ptr<const WantedPod> pod_of(const std::string& name, const std::string& more,
                                        const std::string& resources) {
  Result<Manifest> read = read_manifest("apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {" + more +
                                            "containers: [{name: c, image: i, resources: {" + resources + "}}]}",
                                        {"test", "/x/" + name, "node"});
  EXPECT_TRUE(read) << read.status().message();
  return std::make_shared<WantedPod>(std::move(read->pods.front()));
}

PodUse use_of_memory(const std::string& name, int64_t mebibytes, const std::string& more = "",
                     const std::string& resources = "") {
  PodUse use;
  use.pod = pod_of(name, more, resources);
  use.measured = true;
  use.memory = mebibytes << 20;
  use.processes = mebibytes;
  use.containers["c"].memory = use.memory;
  return use;
}

std::vector<std::string> names(const std::vector<PodUse>& pods) {
  std::vector<std::string> list;
  for (const PodUse& pod : pods) list.push_back(pod.pod->name);
  return list;
}

TEST(EvictionOrder, takes_those_beyond_their_requests_first_then_by_priority_then_by_how_far) {
  const std::vector<PodUse> pods{
      use_of_memory("within", 900, "", "requests: {memory: 1Gi}"),
      use_of_memory("important", 500, "priority: 10, "),
      use_of_memory("less", 100),
      use_of_memory("more", 300, "", "requests: {memory: 100Mi}"),
      use_of_memory("own", 2000, "priority: 2000000000, "),
      use_of_memory("class", 2000, "priorityClassName: system-node-critical, "),
  };
  EXPECT_THAT(names(in_order_of_eviction(pods, Signal::memory_available, {})),
              ElementsAre("more", "less", "important", "within"));
  EXPECT_THAT(names(in_order_of_eviction(pods, Signal::pid_available, {})),
              ElementsAre("within", "more", "less", "important"))
      << "nobody asks for processes";
}

TEST(EvictionOrder, takes_what_it_knows_nothing_of_first) {
  std::vector<PodUse> pods{use_of_memory("big", 100), use_of_memory("unknown", 0)};
  pods[1].measured = false;
  EXPECT_THAT(names(in_order_of_eviction(pods, Signal::memory_available, {})), ElementsAre("unknown", "big"));
}

TEST(EvictionOrder, counts_only_what_lies_on_the_file_system_that_runs_short) {
  PodUse volumes = use_of_memory("volumes", 1), layer = use_of_memory("layer", 1);
  volumes.volume_bytes = 500;
  layer.containers["c"].writable_bytes = 900;
  layer.containers["c"].log_inodes = 7;
  EXPECT_THAT(names(in_order_of_eviction({layer, volumes}, Signal::nodefs_available, {true, false})),
              ElementsAre("volumes", "layer"));
  EXPECT_THAT(names(in_order_of_eviction({volumes, layer}, Signal::imagefs_available, {false, true})),
              ElementsAre("layer", "volumes"));
  EXPECT_EQ(use_of(layer, Signal::nodefs_inodes_free, {true, true}), 7);
}

TEST(EvictionOrder, tells_what_was_short_and_who_used_it) {
  const Threshold threshold{Signal::memory_available, {.quantity = 100 << 20}, {}, {}};
  EXPECT_EQ(eviction_message(use_of_memory("web", 256), threshold, {95 << 20, 4ll << 30}, {}),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 95Mi. Container c was using "
            "256Mi, request is 0, has larger consumption of memory.");
}

EvictionSettings settings(const std::string& config) {
  Result<EvictionSettings> read = read_eviction_settings(boost::json::parse(config));
  EXPECT_TRUE(read) << read.status().message();
  return read ? *read : EvictionSettings();
}

TEST(ThresholdWatch, acts_at_once_on_a_hard_threshold_and_late_on_a_soft_one) {
  ThresholdWatch watch(settings(R"({"evictionHard": {"memory.available": "100Mi"},
      "evictionSoft": {"memory.available": "200Mi"}, "evictionSoftGracePeriod": {"memory.available": "1m30s"}})"));
  const ThresholdWatch::Clock::time_point begin{};
  watch.update({{Signal::memory_available, {150 << 20, 1 << 30}}}, begin);
  EXPECT_THAT(watch.acting(begin + 89s), IsEmpty());
  EXPECT_TRUE(watch.any_met());
  EXPECT_THAT(watch.acting(begin + 90s), testing::SizeIs(1));
  watch.update({{Signal::memory_available, {50 << 20, 1 << 30}}}, begin);
  ASSERT_THAT(watch.acting(begin), testing::SizeIs(1));
  EXPECT_TRUE(watch.acting(begin).front().is_hard());
}

TEST(ThresholdWatch, is_content_again_only_with_something_to_spare) {
  ThresholdWatch watch(settings(
      R"({"evictionHard": {"nodefs.available": "10%"}, "evictionMinimumReclaim": {"nodefs.available": "50"}})"));
  const ThresholdWatch::Clock::time_point begin{};
  watch.update({{Signal::nodefs_available, {120, 1000}}}, begin);
  EXPECT_FALSE(watch.any_met());
  watch.update({{Signal::nodefs_available, {99, 1000}}}, begin);
  EXPECT_TRUE(watch.any_met());
  watch.update({{Signal::nodefs_available, {149, 1000}}}, begin);
  EXPECT_TRUE(watch.any_met());
  watch.update({{Signal::nodefs_available, {150, 1000}}}, begin);
  EXPECT_FALSE(watch.any_met());
}

TEST(ThresholdWatch, keeps_a_condition_for_the_transition_period) {
  ThresholdWatch watch(
      settings(R"({"evictionHard": {"pid.available": "100"}, "evictionPressureTransitionPeriod": "30s"})"));
  const ThresholdWatch::Clock::time_point begin{};
  watch.update({{Signal::pid_available, {99, 1000}}}, begin);
  EXPECT_THAT(watch.conditions(begin), ElementsAre("PIDPressure"));
  watch.update({{Signal::pid_available, {500, 1000}}}, begin + 10s);
  EXPECT_THAT(watch.conditions(begin + 29s), ElementsAre("PIDPressure"));
  EXPECT_THAT(watch.conditions(begin + 30s), IsEmpty());
}

TEST(EvictionSettings, name_what_is_wrong) {
  const auto refusal = [](const std::string& config) {
    return read_eviction_settings(boost::json::parse(config)).status().message();
  };
  EXPECT_THAT(refusal(R"({"evictionHard": {"memory.available": "lots"}})"),
              testing::AllOf(HasSubstr("evictionHard.memory.available"), HasSubstr("100Mi")));
  EXPECT_THAT(refusal(R"({"evictionHard": {"nodefs.available": "110%"}})"), HasSubstr("evictionHard.nodefs.available"));
  EXPECT_THAT(refusal(R"({"evictionSoft": {"memory.available": "1Gi"}})"),
              HasSubstr("evictionSoftGracePeriod.memory.available"));
  EXPECT_THAT(refusal(R"({"evictionPressureTransitionPeriod": "soon"})"), HasSubstr("1m30s"));
  EXPECT_THAT(settings(R"({"evictionHard": {"memory.available": "0%"}})").thresholds, IsEmpty());
}

TEST(Durations, are_read_as_in_go) {
  EXPECT_EQ(*parse_duration("1h2m3.5s"), 1h + 2min + 3500ms);
  EXPECT_EQ(*parse_duration("0"), 0s);
  for (const char* wrong : {"", "5", "-1s", "1d", "s", "1s2"}) EXPECT_FALSE(parse_duration(wrong)) << wrong;
}

TEST(NodeSignals, leave_what_the_kernel_can_drop_at_once_out_of_the_working_set) {
  const std::string meminfo = "MemTotal:        1000 kB\nMemFree:          200 kB\nInactive(file):   300 kB\n";
  EXPECT_EQ(memory_available(meminfo, "total_inactive_file 102400\ninactive_file 1\n", 400 << 10)->available,
            700 << 10);
  EXPECT_EQ(memory_available(meminfo, "inactive_file 102400\n", std::nullopt)->available, 300 << 10);
  EXPECT_EQ(memory_available(meminfo, "", std::nullopt)->available, 500 << 10);
  EXPECT_FALSE(memory_available("", "", std::nullopt));
}

NodeResources node_of(const std::string& config) {
  Result<NodeResources> node = read_node_resources(
      boost::json::parse(config), {{"cpu", 2000}, {"memory", 1000 << 20}, {"ephemeral-storage", 1000}, {"pods", 3}},
      {.thresholds = {{Signal::memory_available, {.quantity = 100 << 20}, {}, {}}}});
  EXPECT_TRUE(node) << node.status().message();
  return node ? *node : NodeResources();
}

TEST(NodeResources, keep_what_is_reserved_from_pods) {
  const NodeResources node =
      node_of(R"({"systemReserved": {"memory": "200Mi", "cpu": "500m"}, "kubeReserved": {"memory": "100Mi"}})");
  EXPECT_EQ(node.allocatable.at("memory"), 600 << 20);
  EXPECT_EQ(node.allocatable.at("cpu"), 1500);
  EXPECT_EQ(node.for_pods("memory"), 700 << 20) << "pods are evicted before the kernel kills among them";
  EXPECT_THAT(
      read_node_resources(boost::json::parse(R"({"kubeReserved": {"memory": "2Gi"}})"), {{"memory", 1 << 30}}, {})
          .status()
          .message(),
      HasSubstr("leave nothing"));
}

TEST(NodeResources, refuse_a_pod_that_does_not_fit_in_kubelets_words) {
  const NodeResources node = node_of("{}");
  const auto web = pod_of("web", "", "requests: {cpu: 1500m, memory: 10Mi}");
  EXPECT_FALSE(admit_by_resources(node, {}, *web->pod));
  const std::optional<PodVerdict> refusal = admit_by_resources(node, {web}, *web->pod);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, "OutOfcpu");
  EXPECT_EQ(refusal->message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000");
  EXPECT_EQ(admit_by_resources(node, {}, *pod_of("big", "", "requests: {memory: 950Mi}")->pod)->reason, "OutOfmemory");
  EXPECT_EQ(admit_by_resources(node, {}, *pod_of("big", "", "requests: {ephemeral-storage: 2k}")->pod)->reason,
            "OutOfephemeral-storage");
  const auto small = pod_of("small", "", "");
  EXPECT_EQ(admit_by_resources(node, {small, small, small}, *small->pod)->reason, "OutOfpods");
}

TEST(NodeResources, displace_the_fewest_of_the_lowest_priority) {
  const NodeResources node = node_of("{}");
  const auto low = pod_of("low", "priority: 1, ", "requests: {cpu: 200m}");
  const auto middle = pod_of("middle", "priority: 5, ", "requests: {cpu: 1500m}");
  const auto critical = pod_of("critical", "priority: 2000000000, ", "requests: {cpu: 1800m}");
  EXPECT_THAT(to_preempt(node, {middle, low}, *pod_of("c", "priority: 2000000000, ", "requests: {cpu: 1600m}")->pod),
              ElementsAre(middle));
  EXPECT_THAT(to_preempt(node, {middle, low}, *critical->pod), ElementsAre(middle))
      << "low does not need to go as well";
  EXPECT_THAT(to_preempt(node, {critical}, *critical->pod), IsEmpty());
}

TEST(PodVerdict, holds_for_the_boot_in_which_it_was_passed) {
  const PodVerdict verdict{.reason = "Evicted", .message = "low", .frees_disk = true, .disruption_message = "low"};
  const std::string record = to_record(verdict, "boot-1");
  const Result<std::optional<PodVerdict>> back = verdict_from_record(record, "boot-1");
  ASSERT_TRUE(back && *back);
  EXPECT_EQ((*back)->reason, "Evicted");
  EXPECT_TRUE((*back)->frees_disk);
  EXPECT_FALSE(*verdict_from_record(record, "boot-2"));
  EXPECT_FALSE(verdict_from_record("{}", "boot-1"));
}

std::vector<std::string> ids(const std::vector<KnownImage>& images) {
  std::vector<std::string> list;
  for (const KnownImage& image : images) list.push_back(image.id);
  return list;
}

TEST(ImageUses, let_the_longest_unused_go_first) {
  const std::vector<KnownImage> images{{"new", {}, 1, false},
                                       {"used", {}, 1, false},
                                       {"never", {}, 1, false},
                                       {"pinned", {}, 1, true},
                                       {"running", {}, 1, false}};
  const std::vector<KnownImage> former(images.begin() + 1, images.end());
  ImageUses uses;
  EXPECT_TRUE(uses.update(former, {"used", "running"}, 100));
  EXPECT_FALSE(uses.update(former, {"used", "running"}, 150)) << "nothing to be written";
  EXPECT_TRUE(uses.update(former, {"running"}, 200));
  EXPECT_TRUE(uses.update(images, {"running"}, 300));
  EXPECT_THAT(ids(uses.removable(images, {"running"}, std::chrono::nanoseconds(100), 399)),
              ElementsAre("never", "used"));
  EXPECT_THAT(ids(uses.removable(images, {"running"}, std::chrono::nanoseconds(100), 400)),
              ElementsAre("never", "new", "used"));
  EXPECT_EQ(uses.unused_for("used", 450), std::chrono::nanoseconds(250));
}

TEST(ImageUses, outlive_the_process) {
  const std::vector<KnownImage> images{{"used", {}, 1, false}, {"never", {}, 1, false}};
  ImageUses before;
  before.update(images, {"used"}, 100);
  before.update(images, {}, 200);
  ImageUses after = ImageUses::from_record(before.to_record());
  after.update(images, {}, 300);
  EXPECT_THAT(ids(after.removable(images, {}, std::chrono::nanoseconds(0), 300)), ElementsAre("never", "used"));
  EXPECT_THAT(ids(ImageUses::from_record("{").removable(images, {}, std::chrono::nanoseconds(1), 300)), IsEmpty());
}

TEST(StorageLimits, are_told_in_kubelets_words) {
  PodUse use = use_of_memory("web", 1, "volumes: [{name: data, emptyDir: {sizeLimit: 10}}], ",
                             "limits: {ephemeral-storage: 100}");
  EXPECT_TRUE(has_storage_limit(*use.pod->pod));
  EXPECT_EQ(broken_storage_limit(use), "");
  use.volumes["data"] = 11;
  EXPECT_EQ(broken_storage_limit(use), "Usage of EmptyDir volume \"data\" exceeds the limit \"10\".");
  use.volumes["data"] = 10;
  use.volume_bytes = 10;
  use.containers["c"].log_bytes = 91;
  EXPECT_EQ(broken_storage_limit(use), "Pod ephemeral local storage usage exceeds the total limit of containers 100.");
  use.volume_bytes = 0;
  EXPECT_EQ(broken_storage_limit(use), "");
}

}  // namespace
}  // namespace pintle::agent
