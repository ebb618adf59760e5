#include "engine/tokenizer/jinja/marked_text.h"

#include <algorithm>

namespace kvcrush::jinja {
namespace {

// The run that byte `offset` lies in.
std::vector<MarkedText::Run>::const_iterator run_at(const std::vector<MarkedText::Run>& runs,
                                                    std::size_t offset) {
  return std::upper_bound(runs.begin(), runs.end(), offset,
                          [](std::size_t value, const MarkedText::Run& run) { return value < run.end; });
}

}  // namespace

void MarkedText::append(std::string_view text, bool from_message) {
  if (text.empty()) return;
  text_ += text;
  if (!runs_.empty() && runs_.back().from_message == from_message) {
    runs_.back().end = text_.size();
  } else {
    runs_.push_back({text_.size(), from_message});
  }
}

void MarkedText::append(const MarkedText& other, std::size_t begin, std::size_t end) {
  const std::string_view text = other.text_;
  for (auto run = run_at(other.runs_, begin); begin < end; ++run) {
    const std::size_t run_end = std::min(end, run->end);
    append(text.substr(begin, run_end - begin), run->from_message);
    begin = run_end;
  }
}

MarkedText MarkedText::slice(std::size_t begin, std::size_t end) const {
  MarkedText part;
  part.append(*this, begin, end);
  return part;
}

bool MarkedText::from_message_at(std::size_t offset) const {
  const auto run = run_at(runs_, offset);
  return run != runs_.end() && run->from_message;
}

}  // namespace kvcrush::jinja
