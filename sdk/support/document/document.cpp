#include "sdk/support/document/document.hpp"

#include <algorithm>
#include <charconv>

namespace pintle::document {
namespace {

namespace json = boost::json;

std::string unescape(std::string_view token) {
  std::string key;
  for (size_t i = 0; i < token.size(); ++i) {
    if (token[i] == '~' && i + 1 < token.size() && (token[i + 1] == '0' || token[i + 1] == '1')) {
      key.push_back(token[++i] == '0' ? '~' : '/');
    } else {
      key.push_back(token[i]);
    }
  }
  return key;
}

std::optional<size_t> array_index(std::string_view token) {
  size_t index = 0;
  const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), index);
  if (token.empty() || error != std::errc() || end != token.data() + token.size()) return std::nullopt;
  return index;
}

}  // namespace

std::string Location::text() const {
  if (line == 0) return file;
  return file + ":" + std::to_string(line) + ":" + std::to_string(column);
}

std::string pointer_token(std::string_view key) {
  std::string token;
  for (char c : key) {
    if (c == '~') {
      token += "~0";
    } else if (c == '/') {
      token += "~1";
    } else {
      token.push_back(c);
    }
  }
  return token;
}

std::string readable_path(std::string_view pointer) {
  if (pointer.empty()) return "the document";
  std::string path;
  while (!pointer.empty()) {
    pointer.remove_prefix(1);
    const size_t end = std::min(pointer.find('/'), pointer.size());
    const std::string token = unescape(pointer.substr(0, end));
    pointer.remove_prefix(end);
    if (array_index(token)) {
      path += "[" + token + "]";
    } else {
      if (!path.empty()) path += ".";
      path += token;
    }
  }
  return path;
}

Document Document::of_value(json::value value, std::string name) {
  Document document;
  append_unplaced(value, document.nodes_);
  document.value_ = std::move(value);
  document.files_.push_back(std::move(name));
  return document;
}

void Document::append_unplaced(const json::value& value, std::vector<Node>& nodes) {
  const size_t self = nodes.size();
  nodes.emplace_back();
  if (const json::object* object = value.if_object()) {
    for (const auto& member : *object) append_unplaced(member.value(), nodes);
  } else if (const json::array* array = value.if_array()) {
    for (const json::value& element : *array) append_unplaced(element, nodes);
  }
  nodes[self].size = static_cast<uint32_t>(nodes.size() - self);
}

const std::string& Document::file() const { return files_[nodes_.empty() ? 0 : nodes_[0].file]; }

Document::Found Document::find(std::string_view pointer) const {
  Found found{&value_, 0, true};
  while (!pointer.empty()) {
    if (pointer[0] != '/') return {found.value, found.node, false};
    pointer.remove_prefix(1);
    const size_t end = std::min(pointer.find('/'), pointer.size());
    const std::string token = unescape(pointer.substr(0, end));
    pointer.remove_prefix(end);

    size_t child = found.node + 1;
    const json::value* next = nullptr;
    if (const json::object* object = found.value->if_object()) {
      for (const auto& member : *object) {
        if (member.key() == json::string_view(token)) {
          next = &member.value();
          break;
        }
        child += nodes_[child].size;
      }
    } else if (const json::array* array = found.value->if_array()) {
      const auto index = array_index(token);
      if (index && *index < array->size()) {
        for (size_t i = 0; i < *index; ++i) child += nodes_[child].size;
        next = &(*array)[*index];
      }
    }
    if (next == nullptr) return {found.value, found.node, false};
    found = {next, child, true};
  }
  return found;
}

Location Document::where(std::string_view pointer) const {
  const Node& node = nodes_[find(pointer).node];
  return {files_[node.file], node.line, node.column};
}

Location Document::where_key(std::string_view pointer) const {
  const Node& node = nodes_[find(pointer).node];
  if (node.key_line == 0) return {files_[node.file], node.line, node.column};
  return {files_[node.file], node.key_line, node.key_column};
}

std::optional<Document> Document::at(std::string_view pointer) const {
  const Found found = find(pointer);
  if (!found.exact) return std::nullopt;
  Document part;
  part.value_ = *found.value;
  part.files_ = files_;
  const auto begin = nodes_.begin() + static_cast<ptrdiff_t>(found.node);
  part.nodes_.assign(begin, begin + begin->size);
  return part;
}

// One overlay under way: appends the nodes of the result, while the values of both sides are walked.
struct Overlay {
  using Node = Document::Node;
  const Document& base;
  const Document& patch;
  Document result;
  uint32_t patch_files = 0;  // where the patch's file names begin among the result's

  void copy(const Document& from, size_t node) {
    const bool of_patch = &from == &patch;
    for (size_t i = node; i < node + from.nodes_[node].size; ++i) {
      Node one = from.nodes_[i];
      if (of_patch) one.file += patch_files;
      result.nodes_.push_back(one);
    }
  }

  // The patch's value where the base has nothing (RFC 7386: as if the base were an empty object): nulls within mappings
  // go.
  json::value take(const json::value& value, size_t node) {
    const json::object* object = value.if_object();
    if (object == nullptr) {
      copy(patch, node);
      return value;
    }
    const size_t self = result.nodes_.size();
    Node head = patch.nodes_[node];
    head.file += patch_files;
    result.nodes_.push_back(head);
    json::object taken;
    size_t child = node + 1;
    for (const auto& member : *object) {
      if (!member.value().is_null()) taken.emplace(member.key(), take(member.value(), child));
      child += patch.nodes_[child].size;
    }
    result.nodes_[self].size = static_cast<uint32_t>(result.nodes_.size() - self);
    return taken;
  }

  json::value merge(const json::value& below, size_t below_node, const json::value& above, size_t above_node) {
    const json::object* lower = below.if_object();
    const json::object* upper = above.if_object();
    if (lower == nullptr || upper == nullptr) return take(above, above_node);

    const size_t self = result.nodes_.size();
    Node head = patch.nodes_[above_node];
    head.file += patch_files;
    result.nodes_.push_back(head);
    json::object merged;
    size_t child = below_node + 1;
    for (const auto& member : *lower) {
      const auto* change = upper->find(member.key());
      if (change == upper->end()) {
        copy(base, child);
        merged.emplace(member.key(), member.value());
      } else if (!change->value().is_null()) {
        merged.emplace(member.key(),
                       merge(member.value(), child, change->value(), member_node(*upper, above_node, change)));
      }
      child += base.nodes_[child].size;
    }
    child = above_node + 1;
    for (const auto& member : *upper) {
      if (!lower->contains(member.key()) && !member.value().is_null())
        merged.emplace(member.key(), take(member.value(), child));
      child += patch.nodes_[child].size;
    }
    result.nodes_[self].size = static_cast<uint32_t>(result.nodes_.size() - self);
    return merged;
  }

  size_t member_node(const json::object& object, size_t node, json::object::const_iterator wanted) const {
    size_t child = node + 1;
    for (auto member = object.begin(); member != wanted; ++member) child += patch.nodes_[child].size;
    return child;
  }
};

Document Document::overlay(const Document& base, const Document& patch) {
  Overlay overlay{base, patch, {}, static_cast<uint32_t>(base.files_.size())};
  overlay.result.files_ = base.files_;
  overlay.result.files_.insert(overlay.result.files_.end(), patch.files_.begin(), patch.files_.end());
  overlay.result.value_ = overlay.merge(base.value_, 0, patch.value_, 0);
  return std::move(overlay.result);
}

}  // namespace pintle::document
