#include "engine/tokenizer/bpe.h"

#include <algorithm>

#include "engine/tokenizer/utf8.h"

namespace kvcrush {
namespace {

// For the standard heap functions, which keep the greatest in front.
bool merges_later(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

}  // namespace

Bpe::Bpe(TokenIndex tokens, const std::vector<BpeMerge>& merges, BpeUnit unit, bool whole_words_first,
         const UnknownCharacters& unknown)
    : unit_(unit), unknown_(unknown) {
  find_units(tokens);
  merges_.reserve(merges.size());
  for (const BpeMerge& merge : merges) {
    merges_.try_emplace(key(merge.left, merge.right), Merge{merge.rank, merge.merged});
  }
  if (whole_words_first) {
    words_ = std::move(tokens);
    return;
  }
  Scratch scratch;
  std::vector<TokenId> merged;
  TokenIndex words;
  words.reserve(tokens.size());
  for (const auto& [text, id] : tokens) {
    merged.clear();
    merge(text, scratch, merged);
    if (merged.size() == 1 && merged[0] == id) words.emplace(text, id);
  }
  words_ = std::move(words);
}

void Bpe::find_units(const TokenIndex& tokens) {
  byte_ids_.fill(-1);
  for (const auto& [text, id] : tokens) {
    const auto first = static_cast<std::uint8_t>(text[0]);
    if (text.size() == 1) {
      byte_ids_[first] = id;
    } else if (unit_ == BpeUnit::kCharacters) {
      const utf8::Step step = utf8::next(text, 0);
      if (step.form == utf8::Form::kValid && step.num_bytes == text.size())
        character_ids_[step.code_point] = id;
    }
  }
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const {
  if (const auto it = words_.find(word); it != words_.end()) {
    out.push_back(it->second);
    return;
  }
  merge(word, scratch, out);
}

void Bpe::push_candidate(Scratch& scratch, std::int32_t left) const {
  const Scratch::Symbol& symbol = scratch.symbols[static_cast<std::size_t>(left)];
  if (symbol.next < 0) return;
  const TokenId right_id = scratch.symbols[static_cast<std::size_t>(symbol.next)].id;
  const auto it = merges_.find(key(symbol.id, right_id));
  if (it == merges_.end()) return;
  scratch.heap.push_back({it->second.rank, left, symbol.id, right_id});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), merges_later);
}

void Bpe::cut_into_bytes(std::string_view word, std::vector<TokenId>& units) const {
  for (const char byte : word) {
    const TokenId id = byte_ids_[static_cast<std::uint8_t>(byte)];
    if (id >= 0) units.push_back(id);
  }
}

void Bpe::cut_into_characters(std::string_view word, std::vector<TokenId>& units) const {
  bool after_unknown = false;
  for (std::size_t offset = 0; offset < word.size();) {
    const utf8::Step step = utf8::next(word, offset);
    TokenId id = -1;
    if (step.num_bytes == 1) {
      id = byte_ids_[static_cast<std::uint8_t>(word[offset])];
    } else if (const auto found = character_ids_.find(step.code_point); found != character_ids_.end()) {
      id = found->second;
    }
    if (id >= 0) {
      units.push_back(id);
    } else {
      unknown_.append(word.substr(offset, step.num_bytes), after_unknown, units);
    }
    after_unknown = id < 0;
    offset += step.num_bytes;
  }
}

void Bpe::merge(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  scratch.heap.clear();
  scratch.units.clear();
  if (unit_ == BpeUnit::kCharacters) {
    cut_into_characters(word, scratch.units);
  } else {
    cut_into_bytes(word, scratch.units);
  }
  for (const TokenId unit : scratch.units) {
    const auto index = static_cast<std::int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({unit, index - 1, -1});
  }
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) push_candidate(scratch, static_cast<std::int32_t>(i));

  while (!scratch.heap.empty()) {
    std::pop_heap(scratch.heap.begin(), scratch.heap.end(), merges_later);
    const Scratch::Candidate candidate = scratch.heap.back();
    scratch.heap.pop_back();
    Scratch::Symbol& left = symbols[static_cast<std::size_t>(candidate.left)];
    // Out of date: an earlier merge took one of the two.
    if (left.id != candidate.left_id || left.next < 0) continue;
    Scratch::Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    if (right.id != candidate.right_id) continue;

    left.id = merges_.find(key(left.id, right.id))->second.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = candidate.left;
    if (left.previous >= 0) push_candidate(scratch, left.previous);
    push_candidate(scratch, candidate.left);
  }
  for (const Scratch::Symbol& symbol : symbols) {
    if (symbol.id >= 0) out.push_back(symbol.id);
  }
}

}  // namespace kvcrush
