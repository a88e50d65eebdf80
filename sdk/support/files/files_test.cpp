#include "sdk/support/files/files.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

namespace pintle::files {
namespace {

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/pintle-files-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    path_ = name;
    folder_ = std::move(*open_folder(path_));
  }
  void TearDown() override {
    auto top = open_folder("/tmp");
    EXPECT_TRUE(remove_tree(top->get(), path_.substr(5)).is_ok());
  }
  std::string path_;
  Descriptor folder_;
};

TEST_F(FilesTest, WrittenFileReplacesTheOldOneAndLeavesNothingAside) {
  ASSERT_TRUE(write_file(folder_.get(), "a", "one", Durability::synced).is_ok());
  ASSERT_TRUE(write_file(folder_.get(), "a", "two", Durability::cached).is_ok());
  EXPECT_EQ(*read_file(folder_.get(), "a"), "two");
  EXPECT_EQ(list_folder(folder_.get())->size(), 1u);
}

TEST_F(FilesTest, WriteReplacesASymlinkInsteadOfFollowingIt) {
  ASSERT_TRUE(write_file(folder_.get(), "target", "kept", Durability::cached).is_ok());
  ASSERT_EQ(symlinkat("target", folder_.get(), "link"), 0);
  ASSERT_TRUE(write_file(folder_.get(), "link", "new", Durability::cached).is_ok());
  EXPECT_EQ(*read_file(folder_.get(), "target"), "kept");
  EXPECT_EQ(*read_file(folder_.get(), "link"), "new");
}

TEST_F(FilesTest, ReadRefusesWhatIsLargerThanItsLimit) {
  ASSERT_TRUE(write_file(folder_.get(), "a", "12345", Durability::cached).is_ok());
  EXPECT_EQ(read_file(folder_.get(), "a", 4).status().code(), Code::resource_exhausted);
  EXPECT_TRUE(read_file(folder_.get(), "a", 5).is_ok());
}

TEST_F(FilesTest, RemoveTreeDoesNotFollowSymlinks) {
  ASSERT_TRUE(make_folders(path_ + "/tree/deep/er").is_ok());
  ASSERT_TRUE(make_folders(path_ + "/outside").is_ok());
  auto outside = open_folder(path_ + "/outside");
  ASSERT_TRUE(write_file(outside->get(), "kept", "x", Durability::cached).is_ok());
  ASSERT_EQ(symlink((path_ + "/outside").c_str(), (path_ + "/tree/deep/way-out").c_str()), 0);
  ASSERT_TRUE(remove_tree(folder_.get(), "tree").is_ok());
  EXPECT_NE(access((path_ + "/tree").c_str(), F_OK), 0);
  EXPECT_EQ(access((path_ + "/outside/kept").c_str(), F_OK), 0);
  EXPECT_TRUE(remove_tree(folder_.get(), "tree").is_ok()) << "a missing name is success";
}

TEST_F(FilesTest, ExclusiveLockExcludesOthersOfTheSameProcessUntilItGoes) {
  {
    auto first = Lock::acquire(folder_.get(), "lock", Lock::Kind::exclusive);
    ASSERT_TRUE(first.is_ok());
    EXPECT_EQ(Lock::try_acquire(folder_.get(), "lock", Lock::Kind::shared).status().code(), Code::unavailable);
  }
  auto one = Lock::try_acquire(folder_.get(), "lock", Lock::Kind::shared);
  EXPECT_TRUE(one.is_ok());
  EXPECT_TRUE(Lock::try_acquire(folder_.get(), "lock", Lock::Kind::shared).is_ok());
}

TEST_F(FilesTest, SealingWaitsForWhoeverHasThePagesInHand) {
  const Descriptor file(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(file.get(), 4096), 0);
  // The kernel refuses to seal what can be written to through a mapping, by the same error.
  void* writable = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  ASSERT_NE(writable, MAP_FAILED);
  std::thread letting_go([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    munmap(writable, 4096);
  });
  EXPECT_FALSE(is_sealed(file.get()));
  EXPECT_TRUE(seal(file.get()));
  letting_go.join();
  EXPECT_TRUE(is_sealed(file.get()));
  EXPECT_LT(write(file.get(), "x", 1), 0);
  EXPECT_EQ(seal(file.get()).code(), Code::permission_denied) << "nobody can seal it again";
  EXPECT_FALSE(is_sealed(STDIN_FILENO));
}

TEST_F(FilesTest, MeasureCountsHardLinksOnce) {
  ASSERT_TRUE(make_folders(path_ + "/tree").is_ok());
  auto tree = open_folder(path_ + "/tree");
  ASSERT_TRUE(write_file(tree->get(), "a", std::string(8192, 'x'), Durability::cached).is_ok());
  ASSERT_EQ(linkat(tree->get(), "a", tree->get(), "b", 0), 0);
  EXPECT_EQ(measure_tree(folder_.get(), "tree").inodes, 2u);
}

}  // namespace
}  // namespace pintle::files
