#include "cri/images/store.hpp"

#include <thread>

#include "cri/images/test_archive.hpp"

namespace pintle::images {
namespace {

std::string tree_of(const std::string& path) {
  std::string listing;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) listing += entry.path().string() + "\n";
  return listing;
}

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "the image store needs root";
    reopen();
  }
  void reopen() {
    store_.reset();
    auto store = Store::open(scratch_.path() + "/store", {});
    ASSERT_TRUE(store.is_ok()) << store.status().message();
    store_ = std::move(*store);
  }
  static std::string layer(const std::string& content) { return Tar().file("etc/content", content).finish(); }
  static ImageParts image(const std::string& content, const std::string& name) {
    const std::string plain = layer(content);
    return make_image({{plain, plain}}, name, {{"Cmd", {"/bin/sh"}}, {"Env", {"A=1"}}, {"User", "7"}});
  }
  Result<std::vector<std::shared_ptr<const Image>>> load(const ImageParts& parts, const std::string& reference = "") {
    return store_->load(scratch_.write("image.tar", to_tar(parts)), reference);
  }
  size_t count(const std::string& folder) {
    size_t number = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(scratch_.path() + "/store/" + folder))
      ++number;
    return number;
  }
  Scratch scratch_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, LoadsAnOciArchiveAndFindsItByReferenceIdAndPrefix) {
  const ImageParts parts = image("one", "web:latest");
  auto loaded = load(parts);
  ASSERT_TRUE(loaded.is_ok()) << loaded.status().message();
  ASSERT_EQ(loaded->size(), 1u);
  const Image& found = *loaded->front();
  EXPECT_EQ(found.id, parts.id);
  EXPECT_EQ(found.references, std::vector<std::string>{"docker.io/library/web:latest"});
  EXPECT_EQ(found.digests(), std::vector<std::string>{"docker.io/library/web@" + parts.manifest.to_string()});
  EXPECT_EQ(found.config.command, std::vector<std::string>{"/bin/sh"});
  EXPECT_EQ(found.config.user, "7");
  EXPECT_EQ(found.config.created_at, 1704164645'000'000'000);
  for (const std::string& name :
       {std::string("web"), std::string("docker.io/library/web:latest"), parts.id.to_string(),
        parts.id.hex().substr(0, 12), "web@" + parts.manifest.to_string(), "sha256:" + parts.id.hex().substr(0, 5)}) {
    auto image = store_->find(name);
    ASSERT_TRUE(image.is_ok()) << name << image.status().message();
    EXPECT_TRUE(*image) << name;
  }
  EXPECT_FALSE(*store_->find("other"));
  EXPECT_EQ(scratch_.read("store/snapshots/" + found.chain[0].hex() + "/fs/etc/content"), "one");
  EXPECT_EQ(count("ingest"), 0u);
  EXPECT_GT(store_->usage().bytes, 0u);
}

TEST_F(StoreTest, LoadsLayoutFoldersCompressedArchivesAndDescriptors) {
  const ImageParts parts = image("one", "team/web:1");
  for (const auto& [name, bytes] : parts.files) scratch_.write("layout/" + name, bytes);
  ASSERT_TRUE(store_->load(scratch_.path() + "/layout", "").is_ok());
  for (const Compression compression : {Compression::gzip, Compression::zstd}) {
    auto loaded = store_->load(scratch_.write("image.tar", to_tar(parts, compression)), "");
    ASSERT_TRUE(loaded.is_ok()) << loaded.status().message();
  }
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  files::Descriptor reading(ends[0]);
  std::thread writer([fd = ends[1], bytes = to_tar(image("two", "piped:1"))] {
    files::Descriptor writing(fd);
    EXPECT_TRUE(files::write_all(writing.get(), bytes).is_ok());
  });
  auto piped = store_->load(reading.get(), "");
  writer.join();
  ASSERT_TRUE(piped.is_ok()) << piped.status().message();
  EXPECT_EQ(store_->list()->size(), 2u) << "the same content is one image, however it came";
}

TEST_F(StoreTest, LoadsWhatDockerSaves) {
  const std::string plain = layer("saved");
  const ImageParts parts = make_image({{plain, plain}}, "");
  const std::string archive =
      Tar()
          .file(parts.id.hex() + ".json", parts.config)
          .file("0123/layer.tar", plain)
          .symlink("4567/layer.tar", "../0123/layer.tar")
          .file("manifest.json", R"([{"Config":")" + parts.id.hex() +
                                     R"(.json","RepoTags":["web:3","web:three"],"Layers":["4567/layer.tar"]}])")
          .finish();
  auto loaded = store_->load(scratch_.write("image.tar", archive), "");
  ASSERT_TRUE(loaded.is_ok()) << loaded.status().message();
  EXPECT_EQ(loaded->front()->id, parts.id);
  EXPECT_EQ(loaded->front()->references,
            (std::vector<std::string>{"docker.io/library/web:3", "docker.io/library/web:three"}));
}

TEST_F(StoreTest, ANameIsNeededWhereTheArchiveBringsNone) {
  const ImageParts parts = image("one", "latest");
  auto loaded = load(parts);
  ASSERT_FALSE(loaded.is_ok());
  EXPECT_NE(loaded.status().message().find("has no name"), std::string::npos);
  EXPECT_EQ(count("blobs/sha256"), 0u);
  loaded = load(parts, "pintle.local/web");
  ASSERT_TRUE(loaded.is_ok()) << loaded.status().message();
  EXPECT_EQ(loaded->front()->references, std::vector<std::string>{"pintle.local/web:latest"});
}

TEST_F(StoreTest, DamagedImagesAreRefusedAndLeaveNothing) {
  const std::string before = tree_of(scratch_.path() + "/store");
  const auto refused = [&](const ImageParts& parts, const std::string& word) {
    auto loaded = load(parts);
    ASSERT_FALSE(loaded.is_ok()) << word;
    EXPECT_EQ(loaded.status().code(), Code::invalid_argument) << loaded.status().message();
    EXPECT_NE(loaded.status().message().find(word), std::string::npos) << loaded.status().message();
    ASSERT_TRUE(store_->empty_trash().is_ok());
    EXPECT_EQ(tree_of(scratch_.path() + "/store"), before);
  };
  ImageParts parts = image("one", "web:1");
  parts.files[0].second += "x";
  refused(parts, "truncated or damaged");
  parts = image("one", "web:1");
  parts.files[0].second.resize(700);
  refused(parts, "truncated or damaged");
  parts = image("one", "web:1");
  parts.files.erase(parts.files.begin());
  refused(ImageParts(parts), "");
  const std::string other = layer("other"), plain = layer("one");
  refused(make_image({{other, plain}}, "web:1"), "but the image config says");
  refused(make_image({{plain, plain}}, "web:1", {}, "s390x"), "s390x");
  refused(make_image({{plain, plain}}, "We b:1"), "image reference");
  const std::string hostile = Tar().file("../x", "bad").finish();
  refused(make_image({{plain, plain}, {hostile, hostile}}, "web:1"), "'..'");
}

TEST_F(StoreTest, FilesThatAreNoArchivesAreNamed) {
  for (const auto& [bytes, word] : {std::pair<std::string, std::string>{"", "empty"},
                                    {"hello", "damaged"},
                                    {Tar().file("a", "b").finish(), "index.json"}}) {
    auto loaded = store_->load(scratch_.write("x.tar", bytes), "");
    ASSERT_FALSE(loaded.is_ok());
    EXPECT_EQ(loaded.status().code(), Code::invalid_argument) << loaded.status().message();
    EXPECT_NE(loaded.status().message().find(word), std::string::npos) << loaded.status().message();
    EXPECT_NE(loaded.status().message().find("x.tar"), std::string::npos);
  }
  EXPECT_EQ(store_->load("/nowhere/x.tar", "").status().code(), Code::not_found);
  EXPECT_EQ(store_->load("relative.tar", "").status().code(), Code::invalid_argument);
}

TEST_F(StoreTest, AReferenceMovesToTheNewImageAndTheOldOneStaysUntilItIsRemoved) {
  const Digest old_id = load(image("one", "web:1"))->front()->id;
  ASSERT_TRUE(load(image("two", "web:1")).is_ok());
  auto old_image = store_->find(old_id.to_string());
  ASSERT_TRUE(*old_image);
  EXPECT_TRUE((*old_image)->references.empty());
  EXPECT_EQ(*store_->remove(old_id.to_string()), std::vector<Digest>{old_id});
  EXPECT_EQ(store_->list()->size(), 1u);
}

TEST_F(StoreTest, WhatWasLoadedIsPinnedUntilSomebodyElseSaysOrAnotherImageTakesItsName) {
  const Digest first = load(image("one", "web:1"))->front()->id;
  EXPECT_TRUE((*store_->find("web:1"))->pinned);
  EXPECT_FALSE((*store_->set_pinned("web:1", false))->pinned);
  reopen();
  EXPECT_FALSE((*store_->find("web:1"))->pinned);
  ASSERT_TRUE((*store_->set_pinned("web:1", true))->pinned);
  reopen();
  EXPECT_TRUE((*store_->find("web:1"))->pinned);
  ASSERT_TRUE(load(image("two", "web:1")).is_ok());
  EXPECT_TRUE((*store_->find("web:1"))->pinned);
  EXPECT_FALSE((*store_->find(first.to_string()))->pinned) << "nobody can name it any more";
  EXPECT_EQ(*store_->set_pinned("absent:1", true), nullptr);
}

TEST_F(StoreTest, RemovingTheLastReferenceRemovesTheImageButNotWhatOthersShare) {
  const std::string base = layer("base"), one = Tar().file("one", "1").finish(), two = Tar().file("two", "2").finish();
  const ImageParts first = make_image({{base, base}, {one, one}}, "first:1"),
                   second = make_image({{base, base}, {two, two}}, "second:1");
  ASSERT_TRUE(load(first).is_ok());
  ASSERT_TRUE(load(first, "alias:1").is_ok());
  ASSERT_TRUE(load(second).is_ok());
  EXPECT_EQ(count("snapshots"), 3u);
  EXPECT_TRUE(store_->remove("alias:1")->empty());
  EXPECT_EQ(*store_->remove("first:1"), std::vector<Digest>{first.id});
  EXPECT_EQ(count("snapshots"), 2u);
  EXPECT_EQ(count("blobs/sha256"), 4u);
  EXPECT_GT(count("trash"), 0u);
  ASSERT_TRUE(store_->empty_trash().is_ok());
  EXPECT_EQ(count("trash"), 0u);
  EXPECT_TRUE(store_->remove("first:1")->empty()) << "what is gone is removed";
  auto again = store_->lease("second:1", "c1", "test");
  ASSERT_TRUE(again.is_ok());
  EXPECT_EQ(again->lower.size(), 2u);
}

TEST_F(StoreTest, AnImageInUseIsNotRemoved) {
  ASSERT_TRUE(load(image("one", "web:1")).is_ok());
  ASSERT_TRUE(store_->lease("web:1", "container1", "runtime-oci@1").is_ok());
  auto removed = store_->remove("web:1");
  ASSERT_FALSE(removed.is_ok());
  EXPECT_EQ(removed.status().code(), Code::failed_precondition);
  EXPECT_NE(removed.status().message().find("container1"), std::string::npos);
  ASSERT_TRUE(store_->release("container1").is_ok());
  EXPECT_EQ(store_->remove("web:1")->size(), 1u);
  EXPECT_EQ(store_->lease("web:1", "container1", "runtime-oci@1").status().code(), Code::not_found);
}

TEST_F(StoreTest, AMissingSnapshotIsUnpackedAgainWhenItIsNeeded) {
  const Digest chain = load(image("one", "web:1"))->front()->chain[0];
  std::filesystem::remove_all(scratch_.path() + "/store/snapshots/" + chain.hex());
  auto root = store_->lease("web:1", "c", "test");
  ASSERT_TRUE(root.is_ok()) << root.status().message();
  EXPECT_EQ(*files::read_file(root->lower[0] + "/etc/content"), "one");
}

TEST_F(StoreTest, TruncatedRecordsAreTakenFromTheirCopy) {
  const std::string path = scratch_.path() + "/store/images.json";
  ASSERT_TRUE(load(image("one", "web:1")).is_ok());
  for (const uintmax_t size : {20, 0}) {
    std::filesystem::resize_file(path, size);
    reopen();
    EXPECT_FALSE(store_->warnings().empty());
    EXPECT_TRUE(*store_->find("web:1"));
  }
  EXPECT_EQ(count("damaged"), 2u);
  std::filesystem::remove(path);
  reopen();
  EXPECT_TRUE(*store_->find("web:1"));
}

TEST_F(StoreTest, ADamagedCopyIsWrittenAgain) {
  ASSERT_TRUE(load(image("one", "web:1")).is_ok());
  const std::string path = scratch_.path() + "/store/images.json";
  std::filesystem::resize_file(path + ".copy", 20);
  reopen();
  EXPECT_EQ(*files::read_file(path), *files::read_file(path + ".copy"));
  EXPECT_TRUE(store_->warnings().empty());
}

TEST_F(StoreTest, TruncatedBlobsAreSetAsideAndLoadedAgain) {
  const ImageParts parts = image("one", "web:1");
  auto loaded = load(parts);
  const Digest layer_digest = loaded->front()->layers[0];
  std::filesystem::resize_file(scratch_.path() + "/store/blobs/sha256/" + layer_digest.hex(), 10);
  reopen();
  EXPECT_EQ(count("damaged"), 1u);
  EXPECT_TRUE(*store_->find("web:1")) << "an unpacked image still runs";
  ASSERT_TRUE(load(parts).is_ok());
  EXPECT_TRUE(scratch_.exists("store/blobs/sha256/" + layer_digest.hex()));

  std::filesystem::resize_file(scratch_.path() + "/store/blobs/sha256/" + parts.id.hex(), 10);
  reopen();
  EXPECT_FALSE(*store_->find("web:1"));
  ASSERT_TRUE(load(parts).is_ok());
  EXPECT_TRUE(*store_->find("web:1"));
}

TEST_F(StoreTest, WhatACrashLeftIsSweptWhenTheStoreIsOpened) {
  ASSERT_TRUE(load(image("one", "web:1")).is_ok());
  const std::string before = tree_of(scratch_.path() + "/store");
  scratch_.write("store/blobs/sha256/" + std::string(64, 'a'), "orphan");
  scratch_.write("store/ingest/left/file", "orphan");
  scratch_.write("store/snapshots/.new-left/fs/x", "orphan");
  scratch_.write("store/snapshots/" + std::string(64, 'b') + "/fs/x", "orphan");
  reopen();
  ASSERT_TRUE(store_->empty_trash().is_ok());
  EXPECT_EQ(tree_of(scratch_.path() + "/store"), before);
}

TEST_F(StoreTest, TwoInstancesSeeEachOthersImages) {
  auto other = Store::open(scratch_.path() + "/store", {});
  ASSERT_TRUE(other.is_ok());
  ASSERT_TRUE(load(image("one", "web:1")).is_ok());
  EXPECT_TRUE(*(*other)->find("web:1"));
  ASSERT_TRUE((*other)->lease("web:1", "c", "other").is_ok());
  EXPECT_EQ(store_->remove("web:1").status().code(), Code::failed_precondition);
}

}  // namespace
}  // namespace pintle::images
