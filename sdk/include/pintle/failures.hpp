#pragma once

#include <pintle/status.hpp>
#include <string>

namespace pintle {

/// Collects the errors of a teardown that goes on after each: the first one's code, all messages.
class Failures {
 public:
  void note(const Status& status) {
    if (status) return;
    if (first_) first_ = status;
    text_ += (text_.empty() ? "" : "; ") + status.message();
  }
  bool none() const { return first_.is_ok(); }
  Status status() const { return none() ? Status::ok() : Status(first_.code(), text_); }

 private:
  Status first_;
  std::string text_;
};

}  // namespace pintle
