// Text to documents: libyaml's events, counted, to values and their places.

#include <fcntl.h>
#include <sys/stat.h>
#include <yaml.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "sdk/support/document/document.hpp"
#include "sdk/support/document/scalar.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::document {

namespace json = boost::json;

namespace {

class Event {
 public:
  Event() = default;
  ~Event() { clear(); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  bool next(yaml_parser_t& parser) {
    clear();
    filled_ = yaml_parser_parse(&parser, &event_) != 0;
    return filled_;
  }
  const yaml_event_t* operator->() const { return &event_; }

 private:
  void clear() {
    if (filled_) yaml_event_delete(&event_);
    filled_ = false;
  }
  yaml_event_t event_{};
  bool filled_ = false;
};

std::string_view as_view(const yaml_char_t* text) {
  return text == nullptr ? std::string_view() : std::string_view(reinterpret_cast<const char*>(text));
}

int hex_value(std::string_view digits) {
  int value = 0;
  for (char c : digits) {
    const int digit = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                               : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

bool begins_like_json(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && (text[first] == '{' || text[first] == '[');
}

// JSON spells a character beyond U+FFFF as two escapes (a surrogate pair), YAML as one: "\ud83d\ude00" becomes
// "\U0001f600".
std::string join_surrogate_pairs(std::string_view text) {
  std::string joined;
  joined.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 >= text.size()) {
      joined.push_back(text[i]);
      continue;
    }
    const auto unit = [&](size_t at) {
      return at + 6 <= text.size() && text[at] == '\\' && text[at + 1] == 'u' ? hex_value(text.substr(at + 2, 4)) : -1;
    };
    const int high = unit(i), low = unit(i + 6);
    if (high >= 0xD800 && high < 0xDC00 && low >= 0xDC00 && low < 0xE000) {
      char escape[11];
      std::snprintf(escape, sizeof escape, "\\U%08x", 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00));
      joined += escape;
      i += 11;
    } else {
      joined.push_back(text[i]);
      joined.push_back(text[++i]);
    }
  }
  return joined;
}

}  // namespace

class Builder {
 public:
  Builder(std::string_view text, std::string_view name, const ReadLimits& limits)
      : text_(text), name_(name), limits_(limits) {
    if (yaml_parser_initialize(&parser_) == 0) throw std::bad_alloc();
    yaml_parser_set_encoding(&parser_, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text_.data()), text_.size());
  }
  ~Builder() { yaml_parser_delete(&parser_); }
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  Result<std::vector<Document>> documents() {
    std::vector<Document> all;
    for (;;) {
      if (Status status = advance(); !status) return status;
      if (event_->type == YAML_STREAM_START_EVENT) continue;
      if (event_->type == YAML_STREAM_END_EVENT) return all;
      // A document: its start, one node, its end.
      anchors_.clear();
      if (Status status = advance(); !status) return status;
      const bool empty = event_->type == YAML_SCALAR_EVENT && event_->data.scalar.length == 0 &&
                         event_->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && event_->data.scalar.tag == nullptr;
      Document document;
      document.files_.emplace_back(name_);
      if (Status status = node(document.value_, document.nodes_, 0); !status) return status;
      if (Status status = advance(); !status) return status;
      if (empty) continue;
      if (all.size() == limits_.documents) {
        return resource_exhausted(name_ + ": more than " + std::to_string(limits_.documents) +
                                  " documents in one text");
      }
      all.push_back(std::move(document));
    }
  }

 private:
  using Node = Document::Node;
  struct Anchored {
    json::value value;
    std::vector<Node> nodes;
  };

  std::string place(const yaml_mark_t& mark) const {
    return name_ + ":" + std::to_string(mark.line + 1) + ":" + std::to_string(mark.column + 1) + ": ";
  }
  static Node places(const yaml_mark_t& mark) {
    return {0, 0, static_cast<uint32_t>(mark.line + 1), static_cast<uint32_t>(mark.column + 1), 0, 1};
  }
  Status wrong(const yaml_mark_t& mark, const std::string& what) const { return invalid_argument(place(mark) + what); }

  Status advance() {
    if (event_.next(parser_)) return Status::ok();
    const std::string problem = parser_.problem == nullptr ? "cannot be read as YAML" : parser_.problem;
    if (parser_.error == YAML_MEMORY_ERROR) return resource_exhausted(name_ + ": out of memory");
    if (parser_.error == YAML_READER_ERROR) {
      const std::string_view before = std::string_view(text_).substr(0, parser_.problem_offset);
      const size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
      yaml_mark_t mark{};
      mark.line = static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
      mark.column = before.size() - line_start;
      return wrong(mark, problem + "; the text must be UTF-8");
    }
    std::string context;
    if (parser_.context != nullptr) {
      context = std::string(" (") + parser_.context;
      if (parser_.context_mark.line != parser_.problem_mark.line) {
        context += " that begins on line " + std::to_string(parser_.context_mark.line + 1);
      }
      context += ")";
    }
    return wrong(parser_.problem_mark, problem + context);
  }

  Status charge(const yaml_mark_t& mark, size_t nodes) {
    if (nodes > limits_.nodes - spent_) {
      return resource_exhausted(place(mark) + "more than " + std::to_string(limits_.nodes) +
                                " values, counted with what aliases repeat");
    }
    spent_ += nodes;
    return Status::ok();
  }

  // The node that the present event begins. Its places are appended to `nodes`, its key's place is the caller's to fill
  // in.
  Status node(json::value& value, std::vector<Node>& nodes, uint32_t depth) {
    const yaml_mark_t mark = event_->start_mark;
    if (depth > limits_.depth) {
      return resource_exhausted(place(mark) + "nested deeper than " + std::to_string(limits_.depth) + " levels");
    }
    if (event_->type == YAML_ALIAS_EVENT) return alias(value, nodes);
    if (Status status = charge(mark, 1); !status) return status;

    const size_t self = nodes.size();
    nodes.push_back(places(mark));
    std::string anchor;
    Status status;
    if (event_->type == YAML_SCALAR_EVENT) {
      anchor = as_view(event_->data.scalar.anchor);
      status = scalar(value);
    } else if (event_->type == YAML_SEQUENCE_START_EVENT) {
      anchor = as_view(event_->data.sequence_start.anchor);
      status = sequence(value, nodes, depth);
    } else {
      anchor = as_view(event_->data.mapping_start.anchor);
      status = mapping(value, nodes, depth);
    }
    if (!status) return status;
    nodes[self].size = static_cast<uint32_t>(nodes.size() - self);
    if (anchor.empty()) return Status::ok();
    // An anchor keeps a copy, which costs like any other value: nested anchors would add up otherwise.
    if (status = charge(mark, nodes[self].size); !status) return status;
    anchors_[anchor] = {value, {nodes.begin() + static_cast<ptrdiff_t>(self), nodes.end()}};
    return Status::ok();
  }

  Status alias(json::value& value, std::vector<Node>& nodes) {
    const std::string name(as_view(event_->data.alias.anchor));
    const auto found = anchors_.find(name);
    if (found == anchors_.end()) {
      return wrong(event_->start_mark, "the alias *" + name + " has no anchor &" + name + " that ends before it");
    }
    if (Status status = charge(event_->start_mark, found->second.nodes.size()); !status) return status;
    value = found->second.value;
    const size_t self = nodes.size();
    nodes.insert(nodes.end(), found->second.nodes.begin(), found->second.nodes.end());
    nodes[self].key_line = nodes[self].key_column = 0;
    return Status::ok();
  }

  Status scalar(json::value& value) {
    const auto& data = event_->data.scalar;
    const std::string_view text(reinterpret_cast<const char*>(data.value), data.length);
    const std::string_view tag = as_view(data.tag);
    Result<json::value> meaning = !tag.empty() ? tagged_scalar(tag, text)
                                  : data.style == YAML_PLAIN_SCALAR_STYLE
                                      ? plain_scalar(text)
                                      : Result<json::value>(json::value(json::string_view(text.data(), text.size())));
    if (!meaning) return wrong(event_->start_mark, meaning.status().message());
    value = std::move(*meaning);
    return Status::ok();
  }

  Status collection_tag(const yaml_char_t* tag, std::string_view right) {
    const std::string_view written = as_view(tag);
    if (written.empty() || written == "!" || written == right) return Status::ok();
    return wrong(event_->start_mark, "the tag " + std::string(written) + " is not known");
  }

  Status sequence(json::value& value, std::vector<Node>& nodes, uint32_t depth) {
    if (Status status = collection_tag(event_->data.sequence_start.tag, YAML_SEQ_TAG); !status) return status;
    json::array& array = value.emplace_array();
    for (;;) {
      if (Status status = advance(); !status) return status;
      if (event_->type == YAML_SEQUENCE_END_EVENT) return Status::ok();
      json::value element;
      if (Status status = node(element, nodes, depth + 1); !status) return status;
      array.push_back(std::move(element));
    }
  }

  Status mapping(json::value& value, std::vector<Node>& nodes, uint32_t depth) {
    if (Status status = collection_tag(event_->data.mapping_start.tag, YAML_MAP_TAG); !status) return status;
    json::object& object = value.emplace_object();
    std::map<std::string, size_t> key_lines;
    std::vector<Anchored> merged;
    for (;;) {
      if (Status status = advance(); !status) return status;
      if (event_->type == YAML_MAPPING_END_EVENT) break;
      const yaml_mark_t mark = event_->start_mark;
      std::string key;
      bool is_merge = false;
      if (Status status = mapping_key(key, is_merge); !status) return status;
      if (const auto [first, fresh] = key_lines.emplace(key, mark.line + 1); !fresh) {
        return wrong(mark, "the key \"" + key + "\" stands here and on line " + std::to_string(first->second) +
                               "; keep one of them");
      }
      if (Status status = advance(); !status) return status;
      if (is_merge) {
        if (Status status = merge_sources(merged, mark, depth); !status) return status;
        continue;
      }
      const size_t child = nodes.size();
      json::value member;
      if (Status status = node(member, nodes, depth + 1); !status) return status;
      nodes[child].key_line = static_cast<uint32_t>(mark.line + 1);
      nodes[child].key_column = static_cast<uint32_t>(mark.column + 1);
      object.emplace(key, std::move(member));
    }
    for (const Anchored& source : merged) {
      size_t child = 1;
      for (const auto& member : source.value.get_object()) {
        const uint32_t size = source.nodes[child].size;
        if (object.emplace(member.key(), member.value()).second) {
          const auto begin = source.nodes.begin() + static_cast<ptrdiff_t>(child);
          nodes.insert(nodes.end(), begin, begin + size);
        }
        child += size;
      }
    }
    return Status::ok();
  }

  Status mapping_key(std::string& key, bool& is_merge) {
    if (event_->type == YAML_ALIAS_EVENT) {
      return wrong(event_->start_mark, "a key must be a text, not an alias");
    }
    if (event_->type != YAML_SCALAR_EVENT)
      return wrong(event_->start_mark, "a key must be a text, not a mapping or a sequence");
    const auto& data = event_->data.scalar;
    if (Status status = charge(event_->start_mark, 1); !status) return status;
    json::value meaning;
    if (Status status = scalar(meaning); !status) return status;
    if (meaning.is_null()) return wrong(event_->start_mark, "a key must be a text, not null; quote it if it is one");
    key.assign(reinterpret_cast<const char*>(data.value), data.length);
    is_merge = key == "<<" && data.style == YAML_PLAIN_SCALAR_STYLE && data.tag == nullptr;
    if (data.anchor != nullptr)
      anchors_[std::string(as_view(data.anchor))] = {std::move(meaning), {places(event_->start_mark)}};
    return Status::ok();
  }

  // What `<<:` names: a mapping, or a sequence of mappings of which the earlier one wins.
  Status merge_sources(std::vector<Anchored>& sources, const yaml_mark_t& mark, uint32_t depth) {
    Anchored source;
    if (Status status = node(source.value, source.nodes, depth + 1); !status) return status;
    if (source.value.is_object()) {
      sources.push_back(std::move(source));
      return Status::ok();
    }
    if (const json::array* array = source.value.if_array()) {
      size_t child = 1;
      for (const json::value& element : *array) {
        if (!element.is_object()) return wrong(mark, "<< takes mappings only");
        const auto begin = source.nodes.begin() + static_cast<ptrdiff_t>(child);
        sources.push_back({element, {begin, begin + begin->size}});
        child += begin->size;
      }
      return Status::ok();
    }
    return wrong(mark, "<< takes a mapping, or a sequence of mappings");
  }

  std::string text_;
  std::string name_;
  ReadLimits limits_;
  yaml_parser_t parser_{};
  Event event_;
  std::map<std::string, Anchored> anchors_;
  size_t spent_ = 0;
};

Result<std::vector<Document>> read_documents(std::string_view text, std::string_view name, const ReadLimits& limits) {
  if (text.size() > limits.bytes) {
    return resource_exhausted(std::string(name) + ": has " + std::to_string(text.size()) + " bytes; at most " +
                              std::to_string(limits.bytes) + " are read");
  }
  return Builder(begins_like_json(text) ? join_surrogate_pairs(text) : text, name, limits).documents();
}

Result<Document> read_document(std::string_view text, std::string_view name, const ReadLimits& limits) {
  Result<std::vector<Document>> all = read_documents(text, name, limits);
  if (!all) return all.status();
  if (all->empty()) return invalid_argument(std::string(name) + ": is empty; it must hold one document");
  if (all->size() > 1) {
    return invalid_argument((*all)[1].where("").text() +
                            ": a second document begins here; the text must hold one only");
  }
  return std::move(all->front());
}

namespace {

// Not waiting for a writer, should the path be a pipe.
Result<std::string> read_text(const std::string& path, size_t most) {
  Result<files::Descriptor> file = files::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
  if (!file) return file.status();
  struct stat facts {};
  if (fstat(file->get(), &facts) != 0 || !S_ISREG(facts.st_mode))
    return invalid_argument(path + ": is not a regular file");
  Result<std::string> text = files::read_all(file->get(), most);
  if (!text) return text.status().with_context(path);
  return text;
}

}  // namespace

Result<std::vector<Document>> read_documents_file(const std::string& path, const ReadLimits& limits) {
  Result<std::string> text = read_text(path, limits.bytes);
  if (!text) return text.status();
  return read_documents(*text, path, limits);
}

Result<Document> read_document_file(const std::string& path, const ReadLimits& limits) {
  Result<std::string> text = read_text(path, limits.bytes);
  if (!text) return text.status();
  return read_document(*text, path, limits);
}

}  // namespace pintle::document
