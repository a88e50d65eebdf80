#include "sdk/testkit/plugin_template.hpp"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "sdk/support/document/document.hpp"
#include "sdk/support/document/schema.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/testkit/contract.hpp"
#include "sdk/testkit/plugin_check.hpp"

namespace pintle::testkit {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class PluginTemplate : public testing::Test {
 protected:
  PluginTemplate() {
    std::string pattern = (fs::temp_directory_path() / "plugin-template-test-XXXXXX").string();
    folder = mkdtemp(pattern.data());
  }
  ~PluginTemplate() override { fs::remove_all(folder); }
  NewPlugin wanted(const std::string& interface_name, const std::string& language = "c++") const {
    return {"acme-thing", interface_name, language, (folder / "new").string(), TEMPLATES};
  }
  std::string text(const std::string& name) const { return *files::read_file((folder / "new" / name).string()); }
  fs::path folder;
};

TEST_F(PluginTemplate, WritesAllMethodsOfEveryInterfaceInBothLanguages) {
  Result<document::Schema> schema = document::Schema::parse(manifest_schema(), "manifest.schema.json");
  ASSERT_TRUE(schema);
  for (const InterfaceInfo* info : known_interfaces()) {
    for (const std::string language : {"c++", "c"}) {
      const Result<std::vector<std::string>> written = write_plugin(wanted(std::string(info->name), language));
      ASSERT_TRUE(written) << written.status().message();
      const std::string code = text(language == "c" ? "plugin.c" : "plugin.cpp");
      for (const MethodInfo& method : info->methods)
        EXPECT_THAT(code, HasSubstr(std::string(method.name) + " is still to be written"));
      for (const std::string& file : *written) {
        EXPECT_THAT(*files::read_file(file), Not(testing::ContainsRegex("@[A-Z_]+@"))) << file;
      }
      Result<document::Document> manifest = document::read_document(text("manifest.json"), "manifest.json");
      ASSERT_TRUE(manifest);
      for (const document::Problem& problem : schema->check(*manifest)) ADD_FAILURE() << problem.text();
      fs::remove_all(folder / "new");
    }
  }
}

TEST_F(PluginTemplate, SuggestsTheNearestInterface) {
  const Result<std::vector<std::string>> written = write_plugin(wanted("PodNetwrok"));
  EXPECT_EQ(written.status().code(), Code::invalid_argument);
  EXPECT_THAT(written.status().message(), AllOf(HasSubstr("did you mean PodNetwork?"), HasSubstr("RuntimeBackend")));
  EXPECT_FALSE(fs::exists(folder / "new"));
}

TEST_F(PluginTemplate, RefusesWhatIsNoNameOrLanguage) {
  for (const char* name : {"", "Acme", "acme_thing", "-acme", "acme-", "acme/../thing"}) {
    NewPlugin plugin = wanted("Echo");
    plugin.name = name;
    EXPECT_EQ(write_plugin(plugin).status().code(), Code::invalid_argument) << name;
  }
  EXPECT_EQ(write_plugin(wanted("Echo", "rust")).status().code(), Code::invalid_argument);
}

TEST_F(PluginTemplate, LeavesAFolderAloneThatHoldsSomething) {
  fs::create_directory(folder / "new");
  std::ofstream(folder / "new" / "precious") << "text";
  EXPECT_EQ(write_plugin(wanted("Echo")).status().code(), Code::already_exists);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "new"), {}), 1);
}

}  // namespace
}  // namespace pintle::testkit
