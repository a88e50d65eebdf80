#include "sdk/support/document/document.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "sdk/support/document/nearest.hpp"

namespace pintle::document {
namespace {

namespace json = boost::json;

json::value read_value(std::string_view text) {
  auto document = read_document(text, "t.yaml");
  EXPECT_TRUE(document) << document.status().message();
  return document ? document->value() : json::value();
}

std::string read_error(std::string_view text, const ReadLimits& limits = {}) {
  auto document = read_document(text, "t.yaml", limits);
  EXPECT_FALSE(document) << "was read as " << json::serialize(document->value());
  return document ? "" : document.status().message();
}

TEST(ReadYaml, TreatsPlainScalarsAsKubernetesDoes) {
  EXPECT_EQ(read_value("[true, yes, On, FALSE, off, n]"), json::parse("[true,true,true,false,false,false]"));
  EXPECT_EQ(read_value("[~, null, NULL, {a: }]"), json::parse(R"([null,null,null,{"a":null}])"));
  EXPECT_EQ(read_value("[1, -2, +3, 0x1f, 0b101, 0644, 0o644, 1_000]"), json::parse("[1,-2,3,31,5,420,420,1000]"));
  EXPECT_EQ(read_value("[1.5, -.5, 1e3, 2.]"), json::parse("[1.5,-0.5,1000.0,2.0]"));
  EXPECT_EQ(read_value("18446744073709551615").as_uint64(), UINT64_MAX);
  EXPECT_EQ(read_value("-9223372036854775808").as_int64(), INT64_MIN);
}

TEST(ReadYaml, KeepsTextsThatOnlyLookLikeSomethingElse) {
  EXPECT_EQ(read_value("['true', \"1\", '', !!str 5]"), json::parse(R"(["true","1","","5"])"));
  EXPECT_EQ(read_value("[2001-01-01, 10.85.0.0/16, 1.2.3, 100m, 64Mi, tRue, 0x, '~', 1e]"),
            json::parse(R"(["2001-01-01","10.85.0.0/16","1.2.3","100m","64Mi","tRue","0x","~","1e"])"));
  EXPECT_EQ(read_value("|\n  5\n"), json::value("5\n"));
}

TEST(ReadYaml, TakesKeysAsTheyAreWritten) {
  EXPECT_EQ(read_value("{1: a, true: b, 'x y': c, 0x10: d, y: e, &k on: f, l: *k}"),
            json::parse(R"({"1":"a","true":"b","x y":"c","0x10":"d","y":"e","on":"f","l":true})"));
}

TEST(ReadYaml, RefusesWhatJsonCannotSay) {
  EXPECT_EQ(read_error("a: .inf"), "t.yaml:1:4: .inf is a number that JSON does not have; quote it if it is a text");
  EXPECT_EQ(read_error("a: 1e999"), "t.yaml:1:4: the number 1e999 is too large; quote it if it is a text");
  EXPECT_EQ(read_error("? [a]\n: b"), "t.yaml:1:3: a key must be a text, not a mapping or a sequence");
  EXPECT_EQ(read_error("~: a"), "t.yaml:1:1: a key must be a text, not null; quote it if it is one");
  EXPECT_EQ(read_error("a: !acme x"),
            "t.yaml:1:4: the tag !acme is not known; known are !!str, !!bool, !!int, !!float and !!null");
}

TEST(ReadYaml, RefusesAKeyThatStandsTwiceAndNamesBothPlaces) {
  EXPECT_EQ(read_error("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n"),
            "t.yaml:5:3: the key \"c\" stands here and on line 3; keep one of them");
  EXPECT_EQ(read_error("{1: a, '1': b}"), "t.yaml:1:8: the key \"1\" stands here and on line 1; keep one of them");
}

TEST(ReadYaml, SaysWhereTheSyntaxIsBroken) {
  EXPECT_TRUE(read_error("a:\n  - b\n c: d\n").starts_with("t.yaml:3:2: ")) << read_error("a:\n  - b\n c: d\n");
  EXPECT_TRUE(read_error("a: 1\nb: \xff\n").starts_with("t.yaml:2:4: ")) << read_error("a: 1\nb: \xff\n");
}

TEST(ReadYaml, ExpandsAliasesAndMergeKeys) {
  EXPECT_EQ(read_value("a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, l: 3}\nd: {<<: [{m: 1}, *x, {m: 2}]}"),
            json::parse(R"({"a":{"k":1,"l":2},"b":{"k":1,"l":2},"c":{"l":3,"k":1},"d":{"m":1,"k":1,"l":2}})"));
  EXPECT_EQ(read_error("a: *b"), "t.yaml:1:4: the alias *b has no anchor &b that ends before it");
  EXPECT_EQ(read_error("a: &a [*a]"), "t.yaml:1:8: the alias *a has no anchor &a that ends before it");
}

TEST(ReadYaml, SplitsDocumentsAndLeavesOutEmptyOnes) {
  auto documents = read_documents("# nothing\n---\na: 1\n---\n---\nb: 2\n...\n", "t.yaml");
  ASSERT_TRUE(documents) << documents.status().message();
  ASSERT_EQ(documents->size(), 2u);
  EXPECT_EQ((*documents)[1].value(), json::parse(R"({"b":2})"));
  EXPECT_EQ((*documents)[1].where("/b").text(), "t.yaml:6:4");
  EXPECT_EQ(read_error("a: 1\n---\nb: 2\n"), "t.yaml:3:1: a second document begins here; the text must hold one only");
  EXPECT_EQ(read_error("# nothing\n"), "t.yaml: is empty; it must hold one document");
}

TEST(ReadLimits, EndHostileText) {
  EXPECT_EQ(read_error(std::string(100'000, '[')), "t.yaml:1:66: nested deeper than 64 levels");
  EXPECT_TRUE(read_error(std::string(5u << 20, ' ')).ends_with("at most 4194304 are read"));

  std::string laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n";
  for (char level = 'b'; level < 'k'; ++level) {
    const std::string below(1, static_cast<char>(level - 1));
    laughs += std::string(1, level) + ": &" + level + " [";
    for (int i = 0; i < 10; ++i) laughs += (i == 0 ? "*" : ", *") + below;
    laughs += "]\n";
  }
  EXPECT_NE(read_error(laughs).find("more than 500000 values"), std::string::npos);
  const ReadLimits forty{.nodes = 40};
  EXPECT_TRUE(read_document("[[[1, 2, 3, 4, 5, 6, 7, 8, 9]]]", "t.yaml", forty));
  EXPECT_NE(read_error("&a [&b [&c [1, 2, 3, 4, 5, 6, 7, 8, 9]]]", forty).find("more than 40 values"),
            std::string::npos)
      << "what anchors keep is counted";
  EXPECT_NE(read_error("[1, 2, 3, 4]", {.nodes = 4}).find("more than 4 values"), std::string::npos);
}

TEST(ReadJson, TakesWhatYamlWouldStumbleOver) {
  EXPECT_EQ(read_value("{\n\t\"a\":1,\"b\":\"\\/ \\u00e4 \\ud83d\\ude00 \\\\ud83d\",\"c\":[1E2,-0.5]}"),
            json::parse("{\"a\":1,\"b\":\"\\/ \\u00e4 \\ud83d\\ude00 \\\\ud83d\",\"c\":[1E2,-0.5]}"));
}

TEST(Places, AreThoseOfKeysAndValues) {
  auto document = read_document("a:\n  b: [x, {c: 1}]\n  \"d/e\": 5\n", "t.yaml");
  ASSERT_TRUE(document);
  EXPECT_EQ(document->where("").text(), "t.yaml:1:1");
  EXPECT_EQ(document->where("/a/b/1/c").text(), "t.yaml:2:14");
  EXPECT_EQ(document->where_key("/a/b/1/c").text(), "t.yaml:2:11");
  EXPECT_EQ(document->where("/a/d~1e").text(), "t.yaml:3:10");
  EXPECT_EQ(document->where("/a/b/7/c").text(), "t.yaml:2:6") << "the nearest node above";
  EXPECT_EQ(document->where_key("/a/b/x").text(), "t.yaml:2:3");
  EXPECT_EQ(readable_path("/a/b/1/d~1e"), "a.b[1].d/e");

  const auto part = document->at("/a/b");
  ASSERT_TRUE(part);
  EXPECT_EQ(part->where("/1").text(), "t.yaml:2:10");
  EXPECT_FALSE(document->at("/a/x"));
}

TEST(Places, FollowMergeKeysToWhereTheMemberWasWritten) {
  auto document = read_document("x: &x {k: 1}\ny:\n  <<: *x\n  l: 2\n", "t.yaml");
  ASSERT_TRUE(document);
  EXPECT_EQ(document->where("/y/k").text(), "t.yaml:1:11");
  EXPECT_EQ(document->where("/y/l").text(), "t.yaml:4:6");
}

TEST(Overlay, MergesMappingsReplacesListsAndTakesNullsAway) {
  auto base = read_document("a: {x: 1, y: 2, z: {k: 1}}\nl: [1, 2]\nn: 5\n", "base.yaml");
  auto patch = read_document("l: [3]\na: {y: null, z: {m: {o: null, p: 1}}, w: 4}\nn: {deep: 1}\n", "patch.yaml");
  ASSERT_TRUE(base && patch);
  const Document merged = Document::overlay(*base, *patch);
  EXPECT_EQ(merged.value(), json::parse(R"({"a":{"x":1,"z":{"k":1,"m":{"p":1}},"w":4},"l":[3],"n":{"deep":1}})"));
  EXPECT_EQ(merged.where("/a/x").text(), "base.yaml:1:8");
  EXPECT_EQ(merged.where("/a/z/k").text(), "base.yaml:1:24");
  EXPECT_EQ(merged.where("/a/z/m/p").text(), "patch.yaml:2:34");
  EXPECT_EQ(merged.where("/a/w").text(), "patch.yaml:2:42");
  EXPECT_EQ(merged.where("/l/0").text(), "patch.yaml:1:5");
  EXPECT_EQ(merged.where("/n/deep").text(), "patch.yaml:3:11");
}

TEST(Overlay, OfThreeFilesKeepsEachPlace) {
  auto one = read_document("a: {x: 1}", "1"), two = read_document("a: {y: 2}", "2"),
       three = read_document("a: {z: 3}", "3");
  ASSERT_TRUE(one && two && three);
  const Document merged = Document::overlay(Document::overlay(*one, *two), *three);
  EXPECT_EQ(merged.where("/a/x").text() + " " + merged.where("/a/y").text() + " " + merged.where("/a/z").text(),
            "1:1:8 2:1:8 3:1:8");
}

TEST(WriteYaml, IsReadAsTheSameValue) {
  const json::value value = json::parse(R"({
    "plain": "some text", "bool": "yes", "number": "0644", "empty": "", "lines": "a\nb\n", "colon": "a: b", "comment": "a #b",
    "list": [1, -2.5, 3.0, [], {}, [["x"], {"k": [1]}], {"a": {"b": null}, "c": [{"d": 1}]}], "dash": "- x", "5": true,
    "control": "\u0085\u007f\ufeff\u0001", "emoji": "\ud83d\ude00", "dots": "...", "big": 1e300, "null": null, "<<": {"k": 1}})");
  const std::string text = write_yaml(value);
  auto again = read_document(text, "written");
  ASSERT_TRUE(again) << again.status().message() << "\n" << text;
  EXPECT_EQ(again->value(), value) << text;
  EXPECT_EQ(write_yaml(json::parse(R"({"a":[{"b":1,"c":["x"]}],"d":{"e":"f"}})")),
            "a:\n- b: 1\n  c:\n  - x\nd:\n  e: f\n");
}

TEST(ReadFile, TellsAbsentFromUnreadable) {
  char folder[] = "/tmp/pintle-document-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/a.yaml";
  EXPECT_EQ(read_document_file(path).status().code(), Code::not_found);
  EXPECT_EQ(read_document_file(folder).status().message(), std::string(folder) + ": is not a regular file");
  std::ofstream(path) << "a: 1\n";
  auto document = read_document_file(path);
  ASSERT_TRUE(document);
  EXPECT_EQ(document->where("/a").text(), path + ":1:4");
  EXPECT_EQ(read_document_file(path, {.bytes = 3}).status().code(), Code::resource_exhausted);
  unlink(path.c_str());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(read_document_file(path).status().code(), Code::invalid_argument) << "a pipe must not be waited for";
  unlink(path.c_str());
  rmdir(folder);
}

TEST(Nearest, FindsWhatWasMeant) {
  const std::vector<std::string> names = {"podCIDR", "gateway", "masquerade", "mtu"};
  EXPECT_EQ(nearest("podcidr", names), "podCIDR");
  EXPECT_EQ(nearest("pod_cidr", names), "podCIDR");
  EXPECT_EQ(nearest("getaway", names), "gateway");
  EXPECT_EQ(nearest("mut", names), "mtu");
  EXPECT_EQ(nearest("unrelated", names), "");
  EXPECT_EQ(suggestion("zzz", names), "; known are podCIDR, gateway, masquerade, mtu");
}

}  // namespace
}  // namespace pintle::document
