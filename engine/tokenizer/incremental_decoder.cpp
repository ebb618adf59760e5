#include "engine/tokenizer/incremental_decoder.h"

#include <algorithm>

#include "engine/tokenizer/utf8.h"

namespace kvcrush {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Moves everything up to an unfinished last sequence from `bytes` to `text`, broken parts as U+FFFD.
void move_whole_characters(std::string& bytes, std::string& text) {
  std::size_t offset = 0;
  while (offset < bytes.size()) {
    const utf8::Step step = utf8::next(bytes, offset);
    if (step.form == utf8::Form::kUnfinished) break;
    if (step.form == utf8::Form::kValid) {
      text.append(bytes, offset, step.num_bytes);
    } else {
      text += kReplacement;
    }
    offset += step.num_bytes;
  }
  bytes.erase(0, offset);
}

struct StopMatch {
  std::size_t begin = std::string::npos;
  const std::string* stop = nullptr;
};

// Only matches that reach beyond `old_size` count: what was there before had its chance when it arrived.
StopMatch find_stop(const std::string& text, std::size_t old_size, const std::vector<std::string>& stops) {
  StopMatch best;
  for (const std::string& stop : stops) {
    const std::size_t from = old_size + 1 > stop.size() ? old_size + 1 - stop.size() : 0;
    const std::size_t begin = text.find(stop, from);
    if (begin == std::string::npos) continue;
    const bool longer = begin == best.begin && stop.size() > best.stop->size();
    if (best.stop == nullptr || begin < best.begin || longer) best = {begin, &stop};
  }
  return best;
}

// Length of the longest suffix of `text` that begins a stop string without completing it.
std::size_t held_back_bytes(std::string_view text, const std::vector<std::string>& stops) {
  std::size_t held = 0;
  for (const std::string& stop : stops) {
    for (std::size_t length = std::min(text.size(), stop.size() - 1); length > held; --length) {
      if (text.ends_with(std::string_view(stop).substr(0, length))) held = length;
    }
  }
  return held;
}

}  // namespace

std::string replace_broken_utf8(std::string_view bytes) {
  std::string rest(bytes);
  std::string text;
  move_whole_characters(rest, text);
  if (!rest.empty()) text += kReplacement;
  return text;
}

IncrementalDecoder::IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer,
                                       std::vector<std::string> stop, bool skip_special_tokens,
                                       bool begins_text)
    : tokenizer_(std::move(tokenizer)), stop_(std::move(stop)), skip_special_tokens_(skip_special_tokens) {
  KVCRUSH_CHECK(tokenizer_ != nullptr);
  strip_space_ = begins_text && tokenizer_->spec().strip_first_space;
  std::erase_if(stop_, [](const std::string& text) { return text.empty(); });
  // Whole characters only, so that cutting the text where a stop string begins never cuts a character.
  for (std::string& text : stop_) text = replace_broken_utf8(text);
}

std::string IncrementalDecoder::push(TokenId token, bool may_stop) {
  if (stop_match_) return {};
  if (skip_special_tokens_ && tokenizer_->is_special(token)) return {};
  std::string_view bytes = tokenizer_->token_bytes(token);
  if (strip_space_ && !bytes.empty()) {
    if (bytes.front() == ' ') bytes.remove_prefix(1);
    strip_space_ = false;
  }
  pending_bytes_ += bytes;
  const std::size_t old_size = pending_text_.size();
  move_whole_characters(pending_bytes_, pending_text_);
  if (may_stop) {
    if (const StopMatch match = find_stop(pending_text_, old_size, stop_); match.stop != nullptr) {
      stop_match_ = *match.stop;
      std::string text = pending_text_.substr(0, match.begin);
      pending_text_.clear();
      pending_bytes_.clear();
      return text;
    }
  }
  const std::size_t certain = pending_text_.size() - held_back_bytes(pending_text_, stop_);
  std::string text = pending_text_.substr(0, certain);
  pending_text_.erase(0, certain);
  return text;
}

std::string IncrementalDecoder::flush() {
  std::string text = std::move(pending_text_) + replace_broken_utf8(pending_bytes_);
  pending_text_.clear();
  pending_bytes_.clear();
  return text;
}

}  // namespace kvcrush
