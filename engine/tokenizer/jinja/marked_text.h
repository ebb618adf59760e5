// A string that remembers which of its bytes came out of a message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace kvcrush::jinja {

class MarkedText {
 public:
  // Bytes up to `end` (from the previous run's end) are all of one origin. Neighbouring runs differ.
  struct Run {
    std::size_t end = 0;
    bool from_message = false;
  };

  MarkedText() = default;
  explicit MarkedText(std::string_view text, bool from_message = false) { append(text, from_message); }

  const std::string& text() const { return text_; }
  const std::vector<Run>& runs() const { return runs_; }
  std::size_t size() const { return text_.size(); }
  // What a copy takes: where runs are short, most of it is marks.
  std::size_t memory_bytes() const { return text_.size() + runs_.size() * sizeof(Run); }

  void append(std::string_view text, bool from_message);
  void append(const MarkedText& other) { append(other, 0, other.size()); }
  // Bytes [begin, end) of `other`.
  void append(const MarkedText& other, std::size_t begin, std::size_t end);
  MarkedText slice(std::size_t begin, std::size_t end) const;
  bool from_message_at(std::size_t offset) const;

 private:
  std::string text_;
  std::vector<Run> runs_;
};

}  // namespace kvcrush::jinja
