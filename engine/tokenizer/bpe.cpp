#include "engine/tokenizer/bpe.h"

#include <algorithm>

#include "engine/core/readable.h"
#include "engine/tokenizer/byte_alphabet.h"

namespace kvcrush {
namespace {

// For the standard heap functions, which keep the greatest in front.
bool merges_later(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

}  // namespace

Result<Bpe> Bpe::create(const std::vector<std::string>& token_bytes, const std::vector<std::string>& merges,
                        bool whole_words_first) {
  Bpe bpe;
  bpe.byte_ids_.fill(-1);
  std::unordered_map<std::string_view, TokenId> ids;
  ids.reserve(token_bytes.size());
  for (std::size_t i = 0; i < token_bytes.size(); ++i) {
    if (token_bytes[i].empty()) continue;
    const auto id = static_cast<TokenId>(i);
    if (!ids.try_emplace(token_bytes[i], id).second) continue;
    if (token_bytes[i].size() == 1) bpe.byte_ids_[static_cast<std::uint8_t>(token_bytes[i][0])] = id;
  }
  KVCRUSH_RETURN_IF_ERROR(bpe.add_merges(ids, merges));
  if (whole_words_first) {
    bpe.words_ = std::move(ids);
    return bpe;
  }
  Scratch scratch;
  std::vector<TokenId> tokens;
  bpe.words_.reserve(ids.size());
  for (const auto& [bytes, id] : ids) {
    tokens.clear();
    bpe.merge(bytes, scratch, tokens);
    if (tokens.size() == 1 && tokens[0] == id) bpe.words_.emplace(bytes, id);
  }
  return bpe;
}

Status Bpe::add_merges(const std::unordered_map<std::string_view, TokenId>& ids,
                       const std::vector<std::string>& merges) {
  merges_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& line = merges[rank];
    const auto complain = [&](std::string_view why) {
      return invalid_argument("tokenizer merge " + std::to_string(rank) + " " + in_quotes(line) + ": " +
                              std::string(why));
    };
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == line.size()) {
      return complain("must be two tokens with one space between them");
    }
    const auto left = bytes_from_alphabet(std::string_view(line).substr(0, space));
    const auto right = bytes_from_alphabet(std::string_view(line).substr(space + 1));
    if (!left || !right) return complain("has a character that stands for no byte");
    const auto left_id = ids.find(*left);
    const auto right_id = ids.find(*right);
    const std::string joined = *left + *right;
    const auto merged_id = ids.find(joined);
    if (left_id == ids.end()) return complain("the left part is not a token");
    if (right_id == ids.end()) return complain("the right part is not a token");
    if (merged_id == ids.end()) return complain("the result is not a token");
    merges_.try_emplace(key(left_id->second, right_id->second),
                        Merge{static_cast<std::int32_t>(rank), merged_id->second});
  }
  return {};
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

void Bpe::merge(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  scratch.heap.clear();
  for (const char byte : word) {
    const TokenId id = byte_ids_[static_cast<std::uint8_t>(byte)];
    if (id < 0) continue;
    const auto index = static_cast<std::int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({id, index - 1, -1});
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
