#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/loader/library.hpp"

namespace pintle::kernel {
namespace {

using testing::HasSubstr;

constexpr const char* key_pem =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE "
    "KEY-----\n";

std::span<const uint8_t> span(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

/// A folder as a package installs it: lib/libpintle_*.so.0, lib/plugins/echo-c.so, the signed list.
class LoaderTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/pintle-loader-test-XXXXXX";
    root_ = mkdtemp(folder);
    plugins_ = root_ + "/plugins";
    mkdir(plugins_.c_str(), 0700);
    plugin_ = plugins_ + "/echo-c.so";
    bytes_ = *files::read_file(ECHO_C, 1u << 30);
    put("echo-c.so", bytes_);
    sign_list();
  }
  void TearDown() override {
    Result<files::Descriptor> tmp = files::open_folder("/tmp");
    EXPECT_TRUE(files::remove_tree(tmp->get(), root_.substr(5)).is_ok());
  }
  void put(const std::string& name, const std::string& bytes) {
    Result<files::Descriptor> folder = files::open_folder(plugins_);
    ASSERT_TRUE(files::write_file(folder->get(), name, bytes, files::Durability::cached).is_ok());
  }
  void sign_list() {
    const std::string text = R"({"files":{"echo-c.so":")" + (*SealedFile::read(plugin_))->sha256() + "\"}}";
    put("plugins.manifest", text);
    put("plugins.manifest.sig", *sign(text, key_pem));
  }
  Loader loader() { return {plugins_, *public_half(key_pem)}; }

  std::string root_, plugins_, plugin_, bytes_;
};

TEST_F(LoaderTest, AShippedPluginIsTrustedAndRead) {
  Loader own = loader();
  const Result<VerifiedPlugin> plugin = own.verify(plugin_, false);
  ASSERT_TRUE(plugin) << plugin.status().message();
  EXPECT_TRUE(plugin->is_signed);
  EXPECT_EQ(plugin->manifest.id, "echo-c");
  ASSERT_EQ(plugin->manifest.provides.size(), 1u);
  const Result<const pintle_plugin*> entry = own.load(*plugin);
  ASSERT_TRUE(entry) << entry.status().message();
  EXPECT_EQ(*own.load(*plugin), *entry) << "the same build was loaded twice";
  EXPECT_EQ(own.loaded_build("echo-c"), plugin->file->sha256());
}

TEST_F(LoaderTest, EveryFlippedByteIsRefused) {
  Loader own = loader();
  for (size_t at = 0; at < bytes_.size(); at += bytes_.size() / 97) {
    std::string changed = bytes_;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    put("echo-c.so", changed);
    for (bool allow_unsigned : {false, true}) {
      const Result<VerifiedPlugin> plugin = own.verify(plugin_, allow_unsigned);
      ASSERT_FALSE(plugin) << "byte " << at;
      EXPECT_EQ(plugin.status().code(), Code::permission_denied);
    }
  }
}

TEST_F(LoaderTest, WhatIsLoadedIsWhatWasVerifiedThoughTheFileWasSwapped) {
  Loader own = loader();
  const Result<VerifiedPlugin> plugin = own.verify(plugin_, false);
  ASSERT_TRUE(plugin);
  put("echo-c.so", "not a plugin any more");
  const Result<const pintle_plugin*> entry = own.load(*plugin);
  ASSERT_TRUE(entry) << entry.status().message();
  EXPECT_EQ(std::string_view((*entry)->id.data, (*entry)->id.size), "echo-c");
  EXPECT_EQ(fcntl(plugin->file->descriptor(), F_ADD_SEALS, F_SEAL_WRITE), -1)
      << "the verified bytes can still be sealed, so they can be changed";
  EXPECT_LT(write(plugin->file->descriptor(), "x", 1), 0);
}

TEST_F(LoaderTest, UnsignedNeedsThePlansWord) {
  const std::string vendor = root_ + "/vendor.so";
  Result<files::Descriptor> folder = files::open_folder(root_);
  ASSERT_TRUE(files::write_file(folder->get(), "vendor.so", bytes_, files::Durability::cached).is_ok());
  Loader own = loader();
  const Result<VerifiedPlugin> refused = own.verify(vendor, false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.status().code(), Code::permission_denied);
  EXPECT_THAT(refused.status().message(), HasSubstr("allowUnsigned"));
  const Result<VerifiedPlugin> allowed = own.verify(vendor, true);
  ASSERT_TRUE(allowed);
  EXPECT_FALSE(allowed->is_signed);
}

TEST_F(LoaderTest, AListThatSomebodyElseSignedTrustsNothing) {
  std::string signature = *files::read_file(plugins_ + "/plugins.manifest.sig");
  signature[0] = static_cast<char>(signature[0] ^ 1);
  put("plugins.manifest.sig", signature);
  Loader own = loader();
  EXPECT_EQ(own.trust().code(), Code::permission_denied);
  EXPECT_FALSE(own.verify(plugin_, false));
}

TEST_F(LoaderTest, ACutOffFileIsRefusedUnlessOnlyItsSectionTableIsMissing) {
  int refused = 0;
  for (size_t size = 0; size < bytes_.size(); size += 1 + size / 16) {
    const Result<PluginFile> file = read_plugin_file(span(bytes_.substr(0, size)), "cut.so");
    EXPECT_TRUE(!file || (file->id == "echo-c" && size >= bytes_.size() / 3)) << size;
    refused += file.is_ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 50);
}

TEST_F(LoaderTest, APatchedManifestDoesNotMatchItsNote) {
  std::string changed = bytes_;
  const size_t at = changed.find("finished example in plain C");
  ASSERT_NE(at, std::string::npos);
  changed[at] = 'F';
  const Result<PluginFile> file = read_plugin_file(span(changed), "patched.so");
  ASSERT_FALSE(file);
  EXPECT_THAT(file.status().message(), HasSubstr("not the one that its note was made for"));
}

TEST_F(LoaderTest, AnotherAbiIsNamed) {
  std::string changed = bytes_;
  const size_t note = changed.find(std::string("\x01\0\0\0Pintle\0\0", 12));
  ASSERT_NE(note, std::string::npos);
  changed[note + 12] = 9;  // abi_major
  const Result<PluginFile> file = read_plugin_file(span(changed), "future.so");
  ASSERT_FALSE(file);
  EXPECT_EQ(file.status().code(), Code::failed_precondition);
  EXPECT_THAT(file.status().message(), HasSubstr("speaks ABI 9."));
}

TEST_F(LoaderTest, OtherFilesSayWhatTheyAre) {
  EXPECT_THAT(read_plugin_file("/bin/true").status().message(), HasSubstr("note of a Pintle plugin"));
  EXPECT_EQ(read_plugin_file("/nowhere.so").status().code(), Code::not_found);
  EXPECT_THAT(read_plugin_file(span("hello"), "x").status().message(), HasSubstr("not an ELF file"));
}

TEST(SealedFileTest, AFileThatCanStillBeChangedIsNotAdopted) {
  files::Descriptor file(memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(write(file.get(), "x", 1), 1);
  EXPECT_EQ(SealedFile::adopt(std::move(file), "open").status().code(), Code::permission_denied);
}

}  // namespace
}  // namespace pintle::kernel
