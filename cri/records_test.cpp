#include "cri/records.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace pintle::cri {
namespace {

namespace fs = std::filesystem;

class Records : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/pintle-records-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }
  RecordStore open() {
    Result<RecordStore> store = RecordStore::open(root_ / "records");
    if (!store) throw std::runtime_error(store.status().to_string());
    return std::move(*store);
  }
  static std::string read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void replace(const fs::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }
  fs::path root_;
};

TEST_F(Records, IdsAreHexadecimalAndNeverRepeat) {
  std::set<std::string> seen;
  for (int count = 0; count < 1000; ++count) {
    const std::string id = make_id();
    EXPECT_TRUE(is_id(id)) << id;
    EXPECT_TRUE(seen.insert(id).second);
  }
  EXPECT_FALSE(is_id("../" + make_id().substr(3)));
  EXPECT_FALSE(is_id(make_id().substr(1)));
}

TEST_F(Records, ARecordIsReadBackByTheNextProcess) {
  const std::string id = make_id();
  const std::string payload("binary\0bytes", 12);
  ASSERT_TRUE(open().write(id, "former", Durability::cached));
  ASSERT_TRUE(open().write(id, payload, Durability::synced));
  Result<RecordStore::Contents> contents = open().load();
  ASSERT_TRUE(contents) << contents.status().to_string();
  ASSERT_EQ(contents->records.size(), 1u);
  EXPECT_EQ(contents->records[0].id, id);
  EXPECT_EQ(contents->records[0].payload, payload);
  EXPECT_TRUE(contents->damaged.empty());
}

TEST_F(Records, RecordsAreReadableByTheirOwnerOnly) {
  const std::string id = make_id();
  ASSERT_TRUE(open().write(id, "secret environment", Durability::cached));
  struct stat info {};
  ASSERT_EQ(::stat((root_ / "records" / id).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((root_ / "records").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(Records, EveryTruncationIsSetAsideAndTheRestStillLoads) {
  const std::string whole = make_id();
  ASSERT_TRUE(open().write(whole, "whole", Durability::cached));
  const std::string file = frame_record("a payload of some length");
  for (size_t length = 0; length < file.size(); ++length) {
    const std::string id = make_id();
    replace(root_ / "records" / id, file.substr(0, length));
    Result<RecordStore::Contents> contents = open().load();
    ASSERT_TRUE(contents);
    ASSERT_EQ(contents->damaged.size(), 1u) << "length " << length;
    EXPECT_EQ(contents->damaged[0].id, id);
    EXPECT_TRUE(fs::exists(root_ / "records" / "damaged" / id));
    ASSERT_EQ(contents->records.size(), 1u);
    EXPECT_EQ(contents->records[0].id, whole);
  }
}

TEST_F(Records, AnyFlippedByteIsNoticed) {
  const std::string file = frame_record("a payload");
  for (size_t index = 0; index < file.size(); ++index) {
    std::string broken = file;
    broken[index] = static_cast<char>(broken[index] ^ 0x20);
    EXPECT_FALSE(unframe_record(broken)) << "byte " << index;
  }
  EXPECT_TRUE(unframe_record(file));
}

TEST_F(Records, AWriteThatWasCutOffLeavesTheFormerRecord) {
  const std::string id = make_id();
  ASSERT_TRUE(open().write(id, "former", Durability::synced));
  replace(root_ / "records" / ("." + id + ".new-0123abcd"), "half of the next o");
  Result<RecordStore::Contents> contents = open().load();
  ASSERT_TRUE(contents);
  ASSERT_EQ(contents->records.size(), 1u);
  EXPECT_EQ(contents->records[0].payload, "former");
  EXPECT_FALSE(fs::exists(root_ / "records" / ("." + id + ".new-0123abcd")));
}

TEST_F(Records, RemovalIsIdempotentAndLeavesNothing) {
  const std::string id = make_id();
  RecordStore store = open();
  ASSERT_TRUE(store.write(id, "x", Durability::cached));
  EXPECT_TRUE(store.remove(id));
  EXPECT_TRUE(store.remove(id));
  store.empty_trash();
  EXPECT_TRUE(fs::is_empty(root_ / "records" / "trash"));
  EXPECT_TRUE(store.load()->records.empty());
}

TEST_F(Records, AFullDiskIsResourceExhaustedAndKeepsTheFormerRecord) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a small tmpfs needs root";
  const fs::path disk = root_ / "disk";
  fs::create_directory(disk);
  ASSERT_EQ(::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k"), 0);
  {
    Result<RecordStore> store = RecordStore::open(disk / "records");
    ASSERT_TRUE(store);
    const std::string id = make_id();
    ASSERT_TRUE(store->write(id, "former", Durability::synced));
    Status full = store->write(id, std::string(128 << 10, 'x'), Durability::synced);
    EXPECT_EQ(full.code(), Code::resource_exhausted) << full.to_string();
    Result<RecordStore::Contents> contents = store->load();
    ASSERT_TRUE(contents);
    ASSERT_EQ(contents->records.size(), 1u);
    EXPECT_EQ(contents->records[0].payload, "former");
    EXPECT_EQ(std::distance(fs::directory_iterator(disk / "records"), {}), 3)
        << "record, trash and damaged, nothing half written";
    EXPECT_TRUE(store->remove(id));
  }
  ::umount2(disk.c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace pintle::cri
