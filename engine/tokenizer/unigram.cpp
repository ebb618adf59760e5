#include "engine/tokenizer/unigram.h"

#include <algorithm>

#include "engine/tokenizer/utf8.h"

namespace kvcrush {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the least likely token, in all implementations

}  // namespace

Unigram::Unigram(const TokenIndex& tokens, const std::vector<double>& log_probabilities,
                 const UnknownCharacters& unknown)
    : pieces_(1), unknown_(unknown) {
  double lowest = 0;
  bool first = true;
  for (const auto& [text, id] : tokens) {
    const double score = log_probabilities[static_cast<std::size_t>(id)];
    lowest = first ? score : std::min(lowest, score);
    first = false;
    std::uint32_t node = 0;
    for (const char byte : text) {
      const auto [it, inserted] =
          edges_.try_emplace(edge(node, byte), static_cast<std::uint32_t>(pieces_.size()));
      if (inserted) pieces_.emplace_back();
      node = it->second;
    }
    pieces_[node] = {score, id};
  }
  unknown_log_probability_ = lowest - kUnknownPenalty;
}

void Unigram::extend(std::string_view text, std::size_t begin, Scratch& scratch) const {
  const double so_far = scratch.best[begin].score;
  const std::size_t character_end = begin + utf8::next(text, begin).num_bytes;
  const auto offer = [&](std::size_t end, double log_probability, TokenId id) {
    Scratch::Step& step = scratch.best[end];
    const double score = so_far + log_probability;
    if (step.begin >= 0 && step.score >= score) return;
    step = {score, static_cast<std::int32_t>(begin), id};
  };
  bool character_is_token = false;
  std::uint32_t node = 0;
  for (std::size_t i = begin; i < text.size(); ++i) {
    const auto it = edges_.find(edge(node, text[i]));
    if (it == edges_.end()) break;
    node = it->second;
    if (pieces_[node].id < 0) continue;
    offer(i + 1, pieces_[node].log_probability, pieces_[node].id);
    character_is_token = character_is_token || i + 1 == character_end;
  }
  if (!character_is_token) offer(character_end, unknown_log_probability_, -1);
}

void Unigram::encode(std::string_view text, Scratch& scratch, std::vector<TokenId>& out) const {
  scratch.best.assign(text.size() + 1, {});
  for (std::size_t begin = 0; begin < text.size(); begin += utf8::next(text, begin).num_bytes) {
    // A token may end inside a character only where the file's tokens are broken: no path begins there.
    extend(text, begin, scratch);
  }
  scratch.ends.clear();
  for (auto end = static_cast<std::int32_t>(text.size()); end > 0;
       end = scratch.best[static_cast<std::size_t>(end)].begin) {
    scratch.ends.push_back(end);
  }
  bool after_unknown = false;
  for (auto end = scratch.ends.rbegin(); end != scratch.ends.rend(); ++end) {
    const Scratch::Step& step = scratch.best[static_cast<std::size_t>(*end)];
    if (step.id >= 0) {
      out.push_back(step.id);
    } else {
      const auto begin = static_cast<std::size_t>(step.begin);
      unknown_.append(text.substr(begin, static_cast<std::size_t>(*end) - begin), after_unknown, out);
    }
    after_unknown = step.id < 0;
  }
}

}  // namespace kvcrush
