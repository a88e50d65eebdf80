#include "cri/oci/spec.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

#include "cri/api.pb.h"
#include "cri/oci/mounts.hpp"
#include "cri/oci/seccomp.hpp"
#include "cri/oci/users.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::oci {
namespace {

namespace json = boost::json;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

class SpecTest : public ::testing::Test {
 protected:
  SpecTest() {
    host_ = HostFacts::detect(cgroup::Mode::v2);
    host_.capabilities.insert({"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW"});
    config_.add_command("/bin/sh");
  }
  Result<Spec> make() {
    SpecRequest request;
    request.config = &config_;
    request.sandbox = &sandbox_;
    request.image = image_;
    request.places = places_;
    request.root = "/rootfs";
    request.host = &host_;
    return make_spec(request);
  }
  json::object document() {
    auto spec = make();
    EXPECT_TRUE(spec.is_ok()) << spec.status().message();
    return spec ? spec->document : json::object();
  }
  static std::vector<std::string> texts(const json::value& value) {
    std::vector<std::string> all;
    for (const json::value& item : value.as_array()) all.emplace_back(item.as_string());
    return all;
  }
  runtime::v1::LinuxContainerSecurityContext& context() { return *config_.mutable_linux()->mutable_security_context(); }
  runtime::v1::ContainerConfig config_;
  runtime::v1::PodSandboxConfig sandbox_;
  ImageDefaults image_;
  PodPlaces places_;
  HostFacts host_;
};

TEST_F(SpecTest, CommandOverridesEntrypointAndDropsTheImagesCommand) {
  image_.entrypoint = {"entry"};
  image_.command = {"image-command"};
  using Strings = std::vector<std::string>;
  config_.clear_command();
  EXPECT_EQ(*arguments_of(config_, image_), (Strings{"entry", "image-command"}));
  config_.add_args("arg");
  EXPECT_EQ(*arguments_of(config_, image_), (Strings{"entry", "arg"}));
  config_.add_command("command");
  EXPECT_EQ(*arguments_of(config_, image_), (Strings{"command", "arg"}));
  config_.clear_args();
  EXPECT_EQ(*arguments_of(config_, image_), (Strings{"command"}));
  EXPECT_EQ(arguments_of({}, {}).status().code(), Code::invalid_argument);
}

TEST_F(SpecTest, LaterEnvironmentTakesThePlaceOfEarlier) {
  image_.environment = {"PATH=/image", "A=image", "B=image"};
  auto* env = config_.add_envs();
  env->set_key("A");
  env->set_value("x=y");
  sandbox_.set_hostname("pod1");
  EXPECT_EQ(texts(document().at("process").at("env")),
            (std::vector<std::string>{"PATH=/image", "HOSTNAME=pod1", "A=x=y", "B=image"}));
  env->set_key("A=B");
  EXPECT_EQ(make().status().code(), Code::invalid_argument);
}

TEST_F(SpecTest, CapabilitiesAreTheDefaultsWithAddAndDrop) {
  const auto granted = [&] { return texts(document().at("process").at("capabilities").at("effective")); };
  EXPECT_THAT(granted(), Contains("CAP_CHOWN"));
  EXPECT_THAT(granted(), Not(Contains("CAP_SYS_ADMIN")));
  context().mutable_capabilities()->add_add_capabilities("net_admin");
  context().mutable_capabilities()->add_drop_capabilities("CAP_CHOWN");
  EXPECT_THAT(granted(), Contains("CAP_NET_ADMIN"));
  EXPECT_THAT(granted(), Not(Contains("CAP_CHOWN")));
  context().mutable_capabilities()->add_drop_capabilities("ALL");
  EXPECT_EQ(granted(), std::vector<std::string>{"CAP_NET_ADMIN"});
  context().mutable_capabilities()->add_add_capabilities("FLY");
  EXPECT_THAT(make().status().message(), HasSubstr("'FLY' is unknown"));
  context().mutable_capabilities()->clear_add_capabilities();
  host_.capabilities.erase("CAP_SYS_BOOT");
  context().mutable_capabilities()->add_add_capabilities("SYS_BOOT");
  EXPECT_EQ(make().status().code(), Code::failed_precondition);
}

TEST_F(SpecTest, ProcAndSysAreMaskedAndAFilterIsSetUnlessPrivileged) {
  context().mutable_seccomp()->set_profile_type(runtime::v1::SecurityProfile::RuntimeDefault);
  json::object spec = document();
  EXPECT_THAT(texts(spec.at("linux").at("maskedPaths")), Contains("/proc/kcore"));
  EXPECT_THAT(texts(spec.at("linux").at("readonlyPaths")), Contains("/proc/sys"));
  EXPECT_EQ(spec.at("linux").at("seccomp").at("defaultErrnoRet"), ENOSYS);
  context().add_masked_paths("/proc/only");
  EXPECT_EQ(texts(document().at("linux").at("maskedPaths")), std::vector<std::string>{"/proc/only"});
  context().set_privileged(true);
  spec = document();
  EXPECT_FALSE(spec.at("linux").as_object().contains("maskedPaths"));
  EXPECT_FALSE(spec.at("linux").as_object().contains("seccomp"));
  EXPECT_EQ(make()->devices.size(), 1u);
}

TEST_F(SpecTest, SeccompProfilesAreChosenAsAsked) {
  context().mutable_seccomp()->set_profile_type(runtime::v1::SecurityProfile::Unconfined);
  EXPECT_FALSE(document().at("linux").as_object().contains("seccomp"));
  context().mutable_seccomp()->set_profile_type(runtime::v1::SecurityProfile::RuntimeDefault);
  EXPECT_TRUE(document().at("linux").as_object().contains("seccomp"));
  context().mutable_seccomp()->set_profile_type(runtime::v1::SecurityProfile::Localhost);
  context().mutable_seccomp()->set_localhost_ref("/nowhere/profile.json");
  EXPECT_EQ(make().status().code(), Code::failed_precondition);
  context().mutable_seccomp()->set_localhost_ref("profile.json");
  EXPECT_EQ(make().status().code(), Code::invalid_argument);
  const std::string path = testing::TempDir() + "pintle-seccomp-profile-" + std::to_string(getpid()) + ".json";
  std::ofstream(path) << R"({"defaultAction": "SCMP_ACT_LOG"})";
  context().mutable_seccomp()->set_localhost_ref(path);
  EXPECT_EQ(document().at("linux").at("seccomp").at("defaultAction").as_string(), "SCMP_ACT_LOG");
  std::ofstream(path) << R"({"defaultAction": "SCMP_ACT_LOG", "includes": {}})";
  EXPECT_THAT(make().status().message(), HasSubstr("\"includes\""));
  std::filesystem::remove(path);
  context().clear_seccomp();
  EXPECT_FALSE(document().at("linux").as_object().contains("seccomp")) << "nothing was asked for";
  context().set_seccomp_profile_path("runtime/default");
  EXPECT_TRUE(document().at("linux").as_object().contains("seccomp"));
  context().set_seccomp_profile_path("nonsense");
  EXPECT_EQ(make().status().code(), Code::invalid_argument);
}

TEST_F(SpecTest, LabelsNeedAHostThatHasThem) {
  host_.has_selinux = host_.has_apparmor = false;
  context().mutable_selinux_options()->set_level("s0:c1,c2");
  EXPECT_THAT(make().status().message(), HasSubstr("this node has no SELinux"));
  host_.has_selinux = true;
  EXPECT_EQ(document().at("process").at("selinuxLabel").as_string(), "system_u:system_r:container_t:s0:c1,c2");
  EXPECT_EQ(document().at("linux").at("mountLabel").as_string(), "system_u:system_r:container_t:s0:c1,c2");
  context().mutable_selinux_options()->set_type("a b");
  EXPECT_EQ(make().status().code(), Code::invalid_argument);
  context().clear_selinux_options();
  context().mutable_apparmor()->set_profile_type(runtime::v1::SecurityProfile::Localhost);
  context().mutable_apparmor()->set_localhost_ref("tight");
  EXPECT_THAT(make().status().message(), HasSubstr("this node has no AppArmor"));
}

TEST_F(SpecTest, AppArmorProfilesAreChosenAsAskedWhereTheyAreLoaded) {
  using runtime::v1::SecurityProfile;
  const auto profile = [&]() -> std::string {
    const json::object process = document().at("process").as_object();
    return process.contains("apparmorProfile") ? std::string(process.at("apparmorProfile").as_string()) : "none";
  };
  host_.has_apparmor = true;
  host_.apparmor_profiles = testing::TempDir() + "pintle-apparmor-profiles-" + std::to_string(getpid());
  std::ofstream(host_.apparmor_profiles) << "/usr/bin/man (enforce)\ntight (complain)\n";
  EXPECT_EQ(profile(), "none") << "the default one is not there";
  EXPECT_THAT(make()->remarks, Contains(HasSubstr("apt install apparmor")));
  std::ofstream(host_.apparmor_profiles, std::ios::app) << "pintle-default (enforce)\n";
  EXPECT_EQ(profile(), "pintle-default") << "unless something else is asked for";
  const auto ask = [&](auto type, const std::string& name = "") {
    context().mutable_apparmor()->set_profile_type(type);
    context().mutable_apparmor()->set_localhost_ref(name);
  };
  ask(SecurityProfile::RuntimeDefault);
  EXPECT_EQ(profile(), "pintle-default");
  ask(SecurityProfile::Unconfined);
  EXPECT_EQ(profile(), "none");
  for (const char* name : {"tight", "localhost/tight", "/usr/bin/man"}) {
    ask(SecurityProfile::Localhost, name);
    EXPECT_EQ(profile(), std::string(name).substr(std::string(name).starts_with("localhost/") ? 10 : 0));
  }
  for (const char* name : {"tigh", "man", "missing", ""}) {
    ask(SecurityProfile::Localhost, name);
    EXPECT_EQ(make().status().code(), Code::failed_precondition) << name;
    EXPECT_THAT(make().status().message(), HasSubstr("is not loaded on this node"));
  }
  context().clear_apparmor();
  for (const auto& [old, expected] : {std::pair("localhost/tight", "tight"), std::pair("unconfined", "none"),
                                      std::pair("runtime/default", "pintle-default")}) {
    context().set_apparmor_profile(old);
    EXPECT_EQ(profile(), expected) << old;
  }
  context().set_apparmor_profile("tight");
  EXPECT_EQ(make().status().code(), Code::invalid_argument);
  context().clear_apparmor_profile();
  context().set_privileged(true);
  EXPECT_EQ(profile(), "none");
  context().set_privileged(false);
  host_.has_apparmor = false;
  ask(SecurityProfile::RuntimeDefault);
  EXPECT_EQ(profile(), "none") << "nothing is confined on a node without AppArmor";
  EXPECT_THAT(make()->remarks, Contains(HasSubstr("this node has no AppArmor")));
  std::filesystem::remove(host_.apparmor_profiles);
}

TEST_F(SpecTest, NamespacesAreJoinedByPathAndTheNodesAreLeftOut) {
  places_.network_namespace = "/run/netns/a";
  places_.ipc_namespace = "/run/ipc/a";
  const json::value namespaces = document().at("linux").at("namespaces");
  EXPECT_EQ(
      namespaces,
      json::parse(
          R"([{"type":"mount"},{"type":"network","path":"/run/netns/a"},{"type":"ipc","path":"/run/ipc/a"},{"type":"pid"},{"type":"cgroup"}])"));
  context().mutable_namespace_options()->set_pid(runtime::v1::NamespaceMode::NODE);
  host_.cgroup_mode = cgroup::Mode::hybrid;
  places_ = {};
  EXPECT_EQ(document().at("linux").at("namespaces"), json::parse(R"([{"type":"mount"}])"));
}

TEST_F(SpecTest, MountsOfTheContainerTakeThePlaceOfDefaultsAndParentsComeFirst) {
  places_.hosts = "/pod/hosts";
  auto* inner = config_.add_mounts();
  inner->set_host_path("/tmp");
  inner->set_container_path("/data/inner/");
  auto* outer = config_.add_mounts();
  outer->set_host_path("/usr");
  outer->set_container_path("/data");
  outer->set_readonly(true);
  auto* hosts = config_.add_mounts();
  hosts->set_host_path("/etc/hostname");
  hosts->set_container_path("/etc/hosts");
  const json::object spec = document();
  std::map<std::string, size_t> places;
  size_t index = 0;
  for (const json::value& mount : spec.at("mounts").as_array()) {
    const std::string path(mount.at("destination").as_string());
    EXPECT_EQ(places.count(path), 0u) << path;
    places[path] = index++;
    if (path == "/etc/hosts") {
      EXPECT_EQ(mount.at("source"), "/etc/hostname");
    }
    if (path == "/data") {
      EXPECT_THAT(texts(mount.at("options")), Contains("ro"));
    }
  }
  EXPECT_LT(places.at("/data"), places.at("/data/inner"));
  EXPECT_LT(places.at("/dev"), places.at("/dev/shm"));
}

TEST_F(SpecTest, WrongMountsAreNamed) {
  auto* mount = config_.add_mounts();
  mount->set_container_path("/data");
  mount->set_host_path("/nowhere/at/all");
  EXPECT_EQ(make().status().code(), Code::not_found);
  mount->set_host_path("relative");
  EXPECT_EQ(make().status().code(), Code::invalid_argument);
  mount->set_host_path("/tmp");
  for (const char* path : {"", "/", "data", "/a/../b"}) {
    mount->set_container_path(path);
    EXPECT_EQ(make().status().code(), Code::invalid_argument) << path;
  }
}

TEST_F(SpecTest, PropagationIsThatOfTheTopmostMount) {
  const std::string info =
      "20 1 8:1 / / rw shared:1 - ext4 a rw\n"
      "21 20 8:2 / /data rw - ext4 b rw\n"
      "22 20 8:3 / /data/slave rw master:1 - ext4 b rw\n";
  EXPECT_EQ(propagation_of(info, "/usr"), "shared");
  EXPECT_EQ(propagation_of(info, "/data/x"), "private");
  EXPECT_EQ(propagation_of(info, "/database"), "shared");
  EXPECT_EQ(propagation_of(info, "/data/slave"), "slave");
}

TEST_F(SpecTest, SysctlsAreOfNamespacesAndPlain) {
  EXPECT_TRUE(check_sysctl("net.core.somaxconn", "1024", true, true).is_ok());
  EXPECT_TRUE(check_sysctl("net.ipv4.ip_local_port_range", "1024 65000", true, true).is_ok());
  EXPECT_FALSE(check_sysctl("net.core.somaxconn", "1024", false, true).is_ok());
  EXPECT_FALSE(check_sysctl("kernel.core_pattern", "|/bin/sh", true, true).is_ok());
  EXPECT_FALSE(check_sysctl("net.x", "1+kernel.core_pattern=|x", true, true).is_ok());
  EXPECT_FALSE(check_sysctl("net/../kernel/x", "1", true, true).is_ok());
  EXPECT_FALSE(check_sysctl("kernel.shm_rmid_forced", "1\n2", true, true).is_ok());
}

TEST_F(SpecTest, ANegativeOomScoreIsClampedWithoutTheCapability) {
  config_.mutable_linux()->mutable_resources()->set_oom_score_adj(-500);
  host_.can_lower_oom_score = false;
  host_.own_oom_score = 0;
  auto spec = make();
  ASSERT_TRUE(spec.is_ok());
  EXPECT_EQ(spec->document.at("process").at("oomScoreAdj"), 0);
  EXPECT_EQ(spec->remarks.size(), 1u);
  host_.can_lower_oom_score = true;
  EXPECT_EQ(document().at("process").at("oomScoreAdj"), -500);
}

TEST_F(SpecTest, DevicesAreMadeAndOpened) {
  auto* device = config_.add_devices();
  device->set_host_path("/dev/null");
  device->set_container_path("/dev/mine");
  device->set_permissions("r");
  const auto spec = make();
  ASSERT_TRUE(spec.is_ok()) << spec.status().message();
  EXPECT_EQ(spec->document.at("linux").at("devices").at(0).at("path"), "/dev/mine");
  EXPECT_EQ(spec->devices.back().access, "r");
  device->set_permissions("rx");
  EXPECT_EQ(make().status().code(), Code::invalid_argument);
  device->set_permissions("");
  device->set_host_path("/etc/passwd");
  EXPECT_EQ(make().status().code(), Code::invalid_argument);
}

TEST_F(SpecTest, AnExecKeepsWhoTheContainerIs) {
  context().set_no_new_privs(true);
  const json::object process = make_exec_process(document(), {"ls"}, {"A=1"}, true);
  EXPECT_EQ(process.at("args"), json::parse(R"(["ls"])"));
  EXPECT_EQ(process.at("noNewPrivileges"), true);
  EXPECT_EQ(process.at("terminal"), true);
  EXPECT_THAT(texts(process.at("env")), Contains("A=1"));
  EXPECT_THAT(texts(process.at("env")), Contains("TERM=xterm"));
}

TEST(Seccomp, AdministrationNeedsItsCapability) {
  const auto finds = [](const std::vector<SeccompRule>& rules, std::string_view call, bool allow) {
    for (const SeccompRule& rule : rules) {
      if (rule.allow == allow && std::find(rule.calls.begin(), rule.calls.end(), call) != rule.calls.end()) return true;
    }
    return false;
  };
  const auto plain = default_seccomp_rules({}), admin = default_seccomp_rules({"CAP_SYS_ADMIN"});
  EXPECT_TRUE(finds(plain, "mount", false));
  EXPECT_FALSE(finds(plain, "mount", true));
  EXPECT_TRUE(finds(admin, "mount", true));
  EXPECT_FALSE(finds(admin, "mount", false));
  EXPECT_FALSE(finds(plain, "clone3", true) || finds(plain, "clone3", false)) << "ENOSYS, so that clone is tried";
  EXPECT_TRUE(finds(plain, "keyctl", false));
  EXPECT_TRUE(finds(admin, "kexec_load", false));
  for (const SeccompRule& rule : plain) {
    std::set<std::string_view> unique(rule.calls.begin(), rule.calls.end());
    EXPECT_EQ(unique.size(), rule.calls.size()) << "a call stands twice";
  }
}

TEST(Seccomp, TheCompiledFilterIsKept) {
  auto first = compiled_seccomp({"CAP_CHOWN"});
  ASSERT_TRUE(first.is_ok()) << first.status().message();
  EXPECT_GT(first->size(), 1000u);
  EXPECT_EQ(*compiled_seccomp({"CAP_KILL"}), *first);
  EXPECT_NE(*compiled_seccomp({"CAP_SYS_ADMIN"}), *first);
}

class UsersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/pintle-users-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    path_ = name;
    std::filesystem::create_directories(path_ + "/root/etc");
    write("root/etc/passwd", "root:x:0:0::/:/bin/sh\nbroken\nweb:x:7:8::/:/bin/sh\n");
    write("root/etc/group", "root:x:0:\nweb:x:8:\nextra:x:9:other,web\nlast:x:10:web");
    root_ = std::move(*files::open_folder(path_ + "/root"));
  }
  void TearDown() override { std::filesystem::remove_all(path_); }
  void write(const std::string& name, const std::string& text) { std::ofstream(path_ + "/" + name) << text; }
  std::string path_;
  files::Descriptor root_;
  runtime::v1::LinuxContainerSecurityContext context_;
};

TEST_F(UsersTest, NamesAndNumbersAreLookedUpInTheImage) {
  using Groups = std::vector<uint32_t>;
  auto identity = resolve_identity(root_.get(), context_, "web");
  ASSERT_TRUE(identity.is_ok());
  EXPECT_EQ(identity->user, 7u);
  EXPECT_EQ(identity->group, 8u);
  EXPECT_EQ(identity->additional_groups, (Groups{8, 9, 10}));
  EXPECT_EQ(resolve_identity(root_.get(), context_, "7")->group, 8u);
  EXPECT_EQ(resolve_identity(root_.get(), context_, "1234:extra")->group, 9u);
  EXPECT_EQ(resolve_identity(root_.get(), context_, "1234")->group, 0u);
  EXPECT_EQ(resolve_identity(root_.get(), context_, "")->user, 0u);
  EXPECT_EQ(resolve_identity(root_.get(), context_, "nobody").status().code(), Code::invalid_argument);
  context_.set_run_as_username("web");
  context_.add_supplemental_groups(77);
  EXPECT_EQ(resolve_identity(root_.get(), context_, "root")->additional_groups, (Groups{8, 9, 10, 77}));
  context_.set_supplemental_groups_policy(runtime::v1::SupplementalGroupsPolicy::Strict);
  EXPECT_EQ(resolve_identity(root_.get(), context_, "root")->additional_groups, (Groups{8, 77}));
  context_.mutable_run_as_user()->set_value(-1);
  EXPECT_EQ(resolve_identity(root_.get(), context_, "root").status().code(), Code::invalid_argument);
}

TEST_F(UsersTest, SymlinksOfTheImageStayInItsRoot) {
  write("outside", "evil:x:0:0::/:/bin/sh\n");
  std::filesystem::remove(path_ + "/root/etc/passwd");
  std::filesystem::create_symlink(path_ + "/outside", path_ + "/root/etc/passwd");
  EXPECT_FALSE(resolve_identity(root_.get(), context_, "evil").is_ok());
  std::filesystem::remove(path_ + "/root/etc/passwd");
  ASSERT_EQ(mkfifo((path_ + "/root/etc/passwd").c_str(), 0600), 0);
  EXPECT_TRUE(resolve_identity(root_.get(), context_, "5").is_ok()) << "a FIFO does not block";
}

}  // namespace
}  // namespace pintle::oci
