#pragma once

/// Text that a person wrote, YAML or JSON, as values that remember where they stood.
///
/// Everything that people write for Pintle (profiles, Pod manifests, CNI configuration) is read here, so that every
/// complaint about it can say file, line and column. A `Document` is a `boost::json::value` and, beside it, the place
/// of every node of it:
///
///     Result<Document> profile = read_document(text, "edge.yaml");
///     if (!profile) return profile.status();                    // "edge.yaml:7:3: the key "spec" stands here and on
///     line 4; ..." profile->value().at("spec"); profile->where("/spec/plugins/lan").text();               //
///     "edge.yaml:9:5"
///
/// Nodes are named by JSON pointers (RFC 6901): "/spec/plugins/lan", "/spec/extends/0"; "" is the whole document.
///
/// YAML is read as Kubernetes reads it (its `sigs.k8s.io/yaml`), or a manifest would mean something else here than
/// there:
///   - plain `true`, `yes`, `on`, `y` and their opposites in lower, upper and title case are booleans; `~`, `null` and
///   nothing are null;
///   - plain numbers are numbers, also `0x1f`, `0b11`, `1_000`, and `0644` or `0o644`, which is 420; `.inf` and `.nan`
///   are refused,
///     as JSON has no word for them; a date stays text;
///   - what is quoted, or a block (`|`, `>`), is text, as is what has the tag `!!str`;
///   - anchors, aliases and merge keys (`<<`) work; a merged key gives way to one that is written out.
/// Keys are texts as they are written: `1: a` is `{"1": "a"}`, and `y: a` is not `{"true": "a"}`, as it is in
/// Kubernetes. Stricter than Kubernetes: a key that stands twice in one mapping is refused, and so is a tag that is not
/// one of YAML's own. JSON is read by the same road, as it is YAML's flow style.
///
/// Hostile text costs no more than its limits (`ReadLimits`): libyaml gives events, one at a time, and every one is
/// counted, those that aliases repeat as well.
///
/// Values and functions here may be used from any thread; one `Document` by one thread at a time while it is changed.

#include <boost/json.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::document {

struct ReadLimits {
  size_t bytes = 4u << 20;   // of text
  uint32_t depth = 64;       // of nested mappings and sequences
  uint32_t nodes = 500'000;  // in all documents of the text, those that aliases repeat counted each time
  uint32_t documents = 10'000;
};

/// A place in a text. Lines and columns count from 1; line 0: the value was not read from a text.
struct Location {
  std::string file;
  uint32_t line = 0;
  uint32_t column = 0;

  /// "edge.yaml:9:5", or only the file's name if there is no line.
  std::string text() const;
  bool operator==(const Location&) const = default;
};

class Document {
 public:
  /// A value without places; `name` is what messages call it.
  static Document of_value(boost::json::value value, std::string name);

  const boost::json::value& value() const { return value_; }
  /// The name of the text that the root came from.
  const std::string& file() const;

  /// Where the node begins; of a node that is not there, where the nearest one above it does.
  Location where(std::string_view pointer) const;
  /// Where the key of a mapping's member begins; as `where` for everything else.
  Location where_key(std::string_view pointer) const;

  /// One node as a document of its own, with its places. Nothing if it is not there.
  std::optional<Document> at(std::string_view pointer) const;

  /// `base` changed by `patch` as JSON Merge Patch (RFC 7386) does it: mappings merge, a null takes its key away,
  /// everything else replaces. Every node keeps the place where it was written.
  static Document overlay(const Document& base, const Document& patch);

 private:
  friend class Builder;
  friend struct Overlay;

  // Nodes in the order of a walk from the root, each before its children, which stand in the order of the value's own.
  struct Node {
    uint32_t key_line = 0, key_column = 0;
    uint32_t line = 0, column = 0;
    uint32_t file = 0;
    uint32_t size = 1;  // of the subtree, itself included
  };
  struct Found {
    const boost::json::value* value;
    size_t node;
    bool exact;
  };

  Found find(std::string_view pointer) const;
  static void append_unplaced(const boost::json::value& value, std::vector<Node>& nodes);

  boost::json::value value_;
  std::vector<Node> nodes_;
  std::vector<std::string> files_;
};

/// All documents of a text; those that are empty (comments only, nothing between two `---`) are left out. `name` is
/// what messages call the text. INVALID_ARGUMENT: "name:line:column: what is wrong"; RESOURCE_EXHAUSTED: beyond a
/// limit.
Result<std::vector<Document>> read_documents(std::string_view text, std::string_view name,
                                             const ReadLimits& limits = {});

/// A text that holds exactly one document.
Result<Document> read_document(std::string_view text, std::string_view name, const ReadLimits& limits = {});

/// The same from files. NOT_FOUND, PERMISSION_DENIED as the file system says; not a regular file: INVALID_ARGUMENT.
/// Blocks.
Result<std::vector<Document>> read_documents_file(const std::string& path, const ReadLimits& limits = {});
Result<Document> read_document_file(const std::string& path, const ReadLimits& limits = {});

/// One token of a JSON pointer: "~" and "/" escaped (RFC 6901).
std::string pointer_token(std::string_view key);
/// A pointer as people read it: "/spec/plugins/lan/ports/0" is "spec.plugins.lan.ports[0]"; "" is "the document".
std::string readable_path(std::string_view pointer);

/// A value as YAML in block style, mappings in their own order, texts quoted where YAML would read them as something
/// else. Ends with a new line. `read_document` of it gives the value again (keys up to 1,000 bytes).
std::string write_yaml(const boost::json::value& value);

}  // namespace pintle::document
