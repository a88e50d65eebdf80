#include "plugins/node-agent/volumes.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "sdk/support/files/files.hpp"

namespace pintle::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Volumes : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  std::string read(const std::string& path) const {
    Result<std::string> text = files::read_file(folder_ + "/" + path);
    return text ? *text : "no " + path;
  }
  std::string data() const { return fs::read_symlink(folder_ + "/..data").string(); }

  std::string folder_ = testing::TempDir() + "pintle-volumes-test-" + std::to_string(getpid());
};

TEST_F(Volumes, projections_are_exchanged_all_at_once_and_only_when_they_differ) {
  ASSERT_TRUE(write_projection(folder_, {{"a", {"1", 0644}}, {"deep/b", {"2", 0400}}}));
  EXPECT_EQ(read("a"), "1");
  EXPECT_EQ(read("deep/b"), "2");
  EXPECT_EQ(fs::read_symlink(folder_ + "/deep"), "..data/deep");
  const std::string first = data();
  ASSERT_TRUE(write_projection(folder_, {{"a", {"1", 0644}}, {"deep/b", {"2", 0400}}}));
  EXPECT_EQ(data(), first) << "nothing was written";

  ASSERT_TRUE(write_projection(folder_, {{"a", {"changed", 0644}}, {"c", {"3", 0644}}}));
  EXPECT_NE(data(), first);
  EXPECT_EQ(read("a"), "changed");
  EXPECT_EQ(read("c"), "3");
  EXPECT_FALSE(fs::exists(folder_ + "/deep")) << "a file that is wanted no more";
  EXPECT_FALSE(fs::exists(folder_ + "/" + first)) << "the former files";
  ASSERT_TRUE(write_projection(folder_, {{"a", {"changed", 0600}}, {"c", {"3", 0644}}}));
  struct stat info {};
  ASSERT_EQ(stat((folder_ + "/a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(Volumes, what_an_interruption_left_behind_goes_with_the_next_exchange) {
  ASSERT_TRUE(write_projection(folder_, {{"a", {"1", 0644}}}));
  fs::create_directories(folder_ + "/..made_halfway");
  fs::create_symlink("nowhere", folder_ + "/..data_tmp");
  ASSERT_TRUE(write_projection(folder_, {{"a", {"2", 0644}}}));
  EXPECT_EQ(read("a"), "2");
  EXPECT_FALSE(fs::exists(folder_ + "/..made_halfway"));
  EXPECT_FALSE(fs::is_symlink(folder_ + "/..data_tmp"));
}

TEST_F(Volumes, a_group_may_read_or_write_what_it_is_given) {
  fs::create_directories(folder_ + "/in/deep");
  std::ofstream(folder_ + "/in/file") << "x";
  ASSERT_EQ(chmod((folder_ + "/in/file").c_str(), 0600), 0);
  fs::create_symlink("/etc/hostname", folder_ + "/in/link");
  struct stat before {};
  ASSERT_EQ(stat("/etc/hostname", &before), 0);
  ASSERT_TRUE(give_to_group(folder_ + "/in", 4242, true));
  struct stat info {};
  ASSERT_EQ(stat((folder_ + "/in/file").c_str(), &info), 0);
  EXPECT_EQ(info.st_gid, 4242u);
  EXPECT_EQ(info.st_mode & 0777, 0660u);
  ASSERT_EQ(stat((folder_ + "/in/deep").c_str(), &info), 0);
  EXPECT_TRUE(info.st_mode & S_ISGID);
  ASSERT_EQ(stat("/etc/hostname", &info), 0);
  EXPECT_EQ(info.st_gid, before.st_gid) << "links are not followed";
}

TEST_F(Volumes, a_sub_path_never_leads_out_of_its_volume) {
  fs::create_directories(folder_ + "/volume");
  fs::create_symlink("/", folder_ + "/volume/root");
  fs::create_symlink("..", folder_ + "/volume/up");
  for (const char* path : {"root", "root/etc", "up", "up/volume", "root/made-by-a-test"}) {
    const Status status = pin_sub_path(folder_ + "/volume", path, folder_ + "/target");
    EXPECT_EQ(status.code(), Code::failed_precondition) << path;
    EXPECT_THAT(status.message(), HasSubstr("leads out of the volume")) << path;
  }
  EXPECT_FALSE(fs::exists(folder_ + "/target"));
  EXPECT_FALSE(fs::exists("/made-by-a-test"));
}

}  // namespace
}  // namespace pintle::agent
