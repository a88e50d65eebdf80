#include "cri/images/unpack.hpp"

#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "cri/images/overlay.hpp"
#include "cri/images/snapshots.hpp"
#include "cri/images/test_archive.hpp"

namespace pintle::images {
namespace {

class UnpackTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "unpacking layers needs root";
  }
  Result<Unpacked> unpack(const std::string& bytes, UnpackLimits limits = {}) {
    scratch_.write("layer", bytes);
    (void)files::make_folders(scratch_.path() + "/root", 0755);
    auto layer = files::open_at(AT_FDCWD, scratch_.path() + "/layer", O_RDONLY);
    auto root = files::open_folder(scratch_.path() + "/root");
    return unpack_layer(layer->get(), root->get(), false, limits);
  }
  struct stat about(const std::string& name) {
    struct stat about {};
    EXPECT_EQ(lstat((scratch_.path() + "/" + name).c_str(), &about), 0) << name;
    return about;
  }
  Scratch scratch_;
};

TEST_F(UnpackTest, KeepsWhatAnImageIsMadeOf) {
  const std::string capability("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20);
  auto unpacked = unpack(Tar()
                             .folder("./etc/", 0711)
                             .file("./etc/passwd", "root", 0640, 7, 8)
                             .file("usr/bin/su", "x", 04755)
                             .hard_link("usr/bin/sudo", "usr/bin/su")
                             .symlink("bin", "usr/bin")
                             .device("dev/null", 1, 3)
                             .file("bin/through-symlink", "y")
                             .file("na\xc3\xafve/\xff\xfe", "odd names")
                             .file_with_attribute("ping", "security.capability", capability)
                             .finish());
  ASSERT_TRUE(unpacked.is_ok()) << unpacked.status().message();
  EXPECT_EQ(about("root/etc").st_mode & 07777, 0711u);
  EXPECT_EQ(about("root/etc").st_mtime, 1'700'000'000);
  EXPECT_EQ(about("root/etc/passwd").st_uid, 7u);
  EXPECT_EQ(about("root/etc/passwd").st_gid, 8u);
  EXPECT_EQ(about("root/etc/passwd").st_mtime, 1'700'000'000);
  EXPECT_EQ(about("root/usr/bin/su").st_mode & 07777, 04755u);
  EXPECT_EQ(about("root/usr").st_mode & 07777, 0755u);
  EXPECT_EQ(about("root/usr/bin/su").st_ino, about("root/usr/bin/sudo").st_ino);
  EXPECT_EQ(about("root/dev/null").st_rdev, makedev(1, 3));
  EXPECT_EQ(scratch_.read("root/usr/bin/through-symlink"), "y");
  EXPECT_EQ(scratch_.read("root/na\xc3\xafve/\xff\xfe"), "odd names");
  char value[64];
  EXPECT_EQ(getxattr((scratch_.path() + "/root/ping").c_str(), "security.capability", value, sizeof value), 20);
}

TEST_F(UnpackTest, CompressedLayersHaveTheDigestOfThePlainOne) {
  const std::string plain = Tar().file("a", "content").finish();
  const std::string gzip = Tar(Compression::gzip).file("a", "content").finish();
  const std::string zstd = Tar(Compression::zstd).file("a", "content").finish();
  EXPECT_NE(gzip, plain);
  EXPECT_EQ(unpack(plain)->diff_id, digest_of(plain));
  EXPECT_EQ(unpack(gzip)->diff_id, digest_of(plain));
  EXPECT_EQ(unpack(zstd)->diff_id, digest_of(plain));
}

TEST_F(UnpackTest, SymlinksCannotLeadOutOfTheRoot) {
  const std::string outside = scratch_.path() + "/outside";
  ASSERT_TRUE(files::make_folders(outside).is_ok());
  auto unpacked = unpack(Tar().symlink("absolute", outside).file("absolute/x", "bad").finish());
  EXPECT_FALSE(scratch_.exists("outside/x"));
  unpacked = unpack(Tar().symlink("up", "../outside").file("up/y", "bad").finish());
  EXPECT_FALSE(scratch_.exists("outside/y"));
  unpacked = unpack(Tar()
                        .symlink("chain1", "chain2")
                        .symlink("chain2", "../../../../../../tmp")
                        .file("chain1/pintle-escaped", "bad")
                        .finish());
  EXPECT_FALSE(std::filesystem::exists("/tmp/pintle-escaped"));
}

TEST_F(UnpackTest, ASymlinkInTheLastComponentIsReplacedNotFollowed) {
  scratch_.write("victim", "kept");
  auto unpacked = unpack(Tar().symlink("file", scratch_.path() + "/victim").file("file", "new").finish());
  ASSERT_TRUE(unpacked.is_ok()) << unpacked.status().message();
  EXPECT_EQ(scratch_.read("victim"), "kept");
  EXPECT_EQ(scratch_.read("root/file"), "new");
}

TEST_F(UnpackTest, ParentReferencesAreRefused) {
  for (const std::string name : {"../escaped", "a/../../escaped", "..", "a/.."}) {
    auto unpacked = unpack(Tar().file(name, "bad").finish());
    ASSERT_FALSE(unpacked.is_ok()) << name;
    EXPECT_EQ(unpacked.status().code(), Code::invalid_argument);
    EXPECT_NE(unpacked.status().message().find("'..'"), std::string::npos) << unpacked.status().message();
  }
  EXPECT_FALSE(scratch_.exists("escaped"));
}

TEST_F(UnpackTest, AbsoluteNamesMeanTheRoot) {
  auto unpacked = unpack(Tar().file("/pintle-absolute", "x").finish());
  ASSERT_TRUE(unpacked.is_ok()) << unpacked.status().message();
  EXPECT_EQ(scratch_.read("root/pintle-absolute"), "x");
  EXPECT_FALSE(std::filesystem::exists("/pintle-absolute"));
}

TEST_F(UnpackTest, HardLinksCannotReachOutside) {
  scratch_.write("secret", "secret");
  for (const std::string& target : {std::string("../secret"), scratch_.path() + "/secret"}) {
    EXPECT_FALSE(unpack(Tar().hard_link("stolen", target).finish()).is_ok()) << target;
  }
  EXPECT_FALSE(unpack(Tar().symlink("way", scratch_.path()).hard_link("stolen", "way/secret").finish()).is_ok());
  EXPECT_FALSE(scratch_.exists("root/stolen"));
}

TEST_F(UnpackTest, ForgedWhiteoutsAndOverlayAttributesAreNotTaken) {
  EXPECT_FALSE(unpack(Tar().device("hidden", 0, 0).finish()).is_ok());
  auto unpacked = unpack(Tar()
                             .file_with_attribute("a", "trusted.overlay.redirect", "/etc")
                             .file_with_attribute("b", "user.overlay.opaque", "y")
                             .finish());
  ASSERT_TRUE(unpacked.is_ok()) << unpacked.status().message();
  char value[64];
  EXPECT_LT(getxattr((scratch_.path() + "/root/a").c_str(), "trusted.overlay.redirect", value, sizeof value), 0);
  EXPECT_LT(getxattr((scratch_.path() + "/root/b").c_str(), "user.overlay.opaque", value, sizeof value), 0);
}

TEST_F(UnpackTest, BombsAreStopped) {
  UnpackLimits limits;
  limits.expansion.free_of_ratio = 1 << 20;
  limits.expansion.ratio = 50;
  auto unpacked = unpack(Tar(Compression::gzip).file("zeros", std::string(32 << 20, '\0')).finish(), limits);
  ASSERT_FALSE(unpacked.is_ok());
  EXPECT_EQ(unpacked.status().code(), Code::resource_exhausted);

  limits = {};
  limits.expansion.bytes = 1000;
  EXPECT_EQ(unpack(Tar().file("a", std::string(2000, 'x')).finish(), limits).status().code(), Code::resource_exhausted);

  limits = {};
  limits.entries = 3;
  EXPECT_EQ(unpack(Tar().file("a", "").file("b", "").file("c", "").file("d", "").finish(), limits).status().code(),
            Code::resource_exhausted);

  std::string deep;
  for (int i = 0; i < 600; ++i) deep += "d/";
  EXPECT_FALSE(unpack(Tar().folder(deep).finish()).is_ok());
}

TEST_F(UnpackTest, DamagedLayersAreRefused) {
  std::string gzip = Tar(Compression::gzip).file("a", "some content that is long enough").finish();
  EXPECT_FALSE(unpack(gzip.substr(0, gzip.size() / 2)).is_ok());
  const std::string plain = Tar().file("a", std::string(5000, 'x')).finish();
  EXPECT_FALSE(unpack(plain.substr(0, 2048)).is_ok());
  EXPECT_FALSE(unpack("this is no tar at all, but long enough to be looked at" + std::string(600, 'z')).is_ok());
}

class SnapshotsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "snapshots need root";
    (void)files::make_folders(scratch_.path() + "/trash");
    trash_ = std::move(*files::open_folder(scratch_.path() + "/trash"));
    snapshots_.emplace(std::move(*Snapshots::open(scratch_.path() + "/snapshots", trash_.get())));
  }
  Status add(const std::string& layer) {
    scratch_.write("layer", layer);
    auto file = files::open_at(AT_FDCWD, scratch_.path() + "/layer", O_RDONLY);
    diff_ids_.push_back(digest_of(layer));
    const auto chain = chain_ids(diff_ids_);
    return snapshots_->unpack(chain.back(), {chain.begin(), chain.end() - 1}, file->get(), diff_ids_.back(), {});
  }
  std::string top(const std::string& name) { return snapshots_->folder(chain_ids(diff_ids_).back()) + "/" + name; }
  /// Runs `check` with the path of the merged layers.
  template <class Check>
  void merged(Check check) {
    Overlay overlay;
    const auto chain = chain_ids(diff_ids_);
    for (auto id = chain.rbegin(); id != chain.rend(); ++id) overlay.lower.push_back(snapshots_->folder(*id));
    overlay.upper = scratch_.path() + "/upper";
    overlay.work = scratch_.path() + "/work";
    const std::string target = scratch_.path() + "/merged";
    for (const auto& path : {overlay.upper, overlay.work, target}) ASSERT_TRUE(files::make_folders(path).is_ok());
    const Status mounted = mount_overlay(overlay, target);
    ASSERT_TRUE(mounted.is_ok()) << mounted.message();
    check(target);
    EXPECT_TRUE(unmount_all(target).is_ok());
  }
  Scratch scratch_;
  files::Descriptor trash_;
  std::optional<Snapshots> snapshots_;
  std::vector<Digest> diff_ids_;
};

TEST_F(SnapshotsTest, WhiteoutsBecomeOverlayDevicesAndOpaqueFoldersHideWhatWasBelow) {
  ASSERT_TRUE(add(Tar().file("gone", "1").file("kept", "1").file("d/old", "1").file("r/old", "1").finish()).is_ok());
  const Status status = add(Tar()
                                .file(".wh.gone", "")
                                .file("d/new", "2")
                                .file("d/.wh..wh..opq", "")
                                .file("r/new", "2")
                                .file(".wh.r", "")
                                .finish());
  ASSERT_TRUE(status.is_ok()) << status.message();
  struct stat about {};
  ASSERT_EQ(lstat(top("gone").c_str(), &about), 0);
  EXPECT_TRUE(S_ISCHR(about.st_mode));
  EXPECT_EQ(about.st_rdev, 0u);
  merged([&](const std::string& root) {
    EXPECT_FALSE(std::filesystem::exists(root + "/gone"));
    EXPECT_TRUE(std::filesystem::exists(root + "/kept"));
    EXPECT_FALSE(std::filesystem::exists(root + "/d/old"));
    EXPECT_TRUE(std::filesystem::exists(root + "/d/new"));
    EXPECT_FALSE(std::filesystem::exists(root + "/r/old"));
    EXPECT_TRUE(std::filesystem::exists(root + "/r/new"))
        << "what the same layer makes is kept, in whatever order it is told";
  });
}

TEST_F(SnapshotsTest, FoldersAndFilesReplaceEachOther) {
  ASSERT_TRUE(add(Tar().file("a", "file").file("b/inside", "1").file("c/old", "1").finish()).is_ok());
  const Status status =
      add(Tar().folder("a").file("a/inside", "2").file("b", "file").file("c", "f").folder("c").finish());
  ASSERT_TRUE(status.is_ok()) << status.message();
  merged([&](const std::string& root) {
    EXPECT_EQ(*files::read_file(root + "/a/inside"), "2");
    EXPECT_EQ(*files::read_file(root + "/b"), "file");
    EXPECT_TRUE(std::filesystem::is_directory(root + "/c"));
    EXPECT_FALSE(std::filesystem::exists(root + "/c/old"));
  });
}

TEST_F(SnapshotsTest, LayersUseTheBasesSymlinksAttributesAndHardLinkTargets) {
  ASSERT_TRUE(add(Tar()
                      .folder("usr/bin", 0755)
                      .symlink("bin", "usr/bin")
                      .folder("tmp", 01777)
                      .file("usr/bin/base", "b")
                      .finish())
                  .is_ok());
  const Status status = add(Tar().file("bin/tool", "t").file("tmp/x", "x").hard_link("bin/alias", "bin/base").finish());
  ASSERT_TRUE(status.is_ok()) << status.message();
  merged([&](const std::string& root) {
    struct stat about {};
    ASSERT_EQ(lstat((root + "/bin").c_str(), &about), 0);
    EXPECT_TRUE(S_ISLNK(about.st_mode));
    EXPECT_EQ(*files::read_file(root + "/usr/bin/tool"), "t");
    EXPECT_EQ(*files::read_file(root + "/usr/bin/alias"), "b");
    ASSERT_EQ(stat((root + "/tmp").c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 07777, 01777u);
  });
}

TEST_F(SnapshotsTest, ManyLayersStackBeyondOnePageOfOptions) {
  for (int i = 0; i < 60; ++i) {
    const Status status = add(Tar().file("f" + std::to_string(i), "x").finish());
    ASSERT_TRUE(status.is_ok()) << i << " " << status.message();
  }
  merged([&](const std::string& root) {
    for (int i = 0; i < 60; ++i) EXPECT_TRUE(std::filesystem::exists(root + "/f" + std::to_string(i))) << i;
  });
}

TEST_F(SnapshotsTest, AWrongDiffIdLeavesNothing) {
  scratch_.write("layer", Tar().file("a", "x").finish());
  auto file = files::open_at(AT_FDCWD, scratch_.path() + "/layer", O_RDONLY);
  const Digest wrong = digest_of("something else");
  const Status status = snapshots_->unpack(wrong, {}, file->get(), wrong, {});
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path() + "/snapshots"));
}

TEST_F(SnapshotsTest, CleanRemovesWhatACrashLeftButNotWhatIsUnderWay) {
  ASSERT_TRUE(files::make_folders(scratch_.path() + "/snapshots/.new-left/fs").is_ok());
  ASSERT_TRUE(files::make_folders(scratch_.path() + "/snapshots/.new-busy/fs").is_ok());
  auto folder = files::open_folder(scratch_.path() + "/snapshots");
  auto busy = files::Lock::acquire(folder->get(), ".new-busy", files::Lock::Kind::exclusive);
  ASSERT_TRUE(snapshots_->clean().is_ok());
  EXPECT_FALSE(scratch_.exists("snapshots/.new-left"));
  EXPECT_TRUE(scratch_.exists("snapshots/.new-busy"));
}

}  // namespace
}  // namespace pintle::images
