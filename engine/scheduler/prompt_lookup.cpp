#include "engine/scheduler/prompt_lookup.h"

#include <algorithm>
#include <bit>

namespace kvcrush {

namespace {

constexpr int kMinMatch = 2;    // what heads_ is about
constexpr int kLongMatch = 32;  // nothing longer is looked for
constexpr int kMaxCandidates = 16;
constexpr std::size_t kLeastHeads = 1024;
constexpr double kNewest = 0.125;  // weight of the last prediction

}  // namespace

std::vector<TokenId> PromptLookup::propose(std::span<const TokenId> tokens, int most, double least_chance) {
  follow(tokens);
  std::vector<TokenId> drafts;
  if (predicted_ < 0) return drafts;
  double chance = 1;
  for (int i = 0; i < std::min(most, max_drafts_); ++i) {
    chance *= hit_rates_[class_of(matched_ + i)];
    if (chance < least_chance) break;
    // A run that repeats itself goes on into its own drafts.
    const auto source = static_cast<std::size_t>(predicted_ + i);
    drafts.push_back(source < tokens.size() ? tokens[source] : drafts[source - tokens.size()]);
  }
  return drafts;
}

void PromptLookup::follow(std::span<const TokenId> tokens) {
  const auto count = static_cast<int>(tokens.size());
  make_room(tokens);
  const bool is_prompt = num_seen_ == 0;  // nothing was predicted for it
  for (int i = num_seen_; i < count; ++i) {
    if (predicted_ >= 0) {
      const bool hit = tokens[static_cast<std::size_t>(predicted_)] == tokens[static_cast<std::size_t>(i)];
      double& rate = hit_rates_[class_of(matched_)];
      rate += kNewest * ((hit ? 1.0 : 0.0) - rate);
      predicted_ = hit ? predicted_ + 1 : -1;
      ++matched_;
    }
    if (predicted_ < 0 && (!is_prompt || i + 1 == count)) find(tokens.first(static_cast<std::size_t>(i) + 1));
    enter(tokens, i);
  }
  num_seen_ = count;
}

// Of matches of the same length the newest.
void PromptLookup::find(std::span<const TokenId> tokens) {
  const auto end = static_cast<int>(tokens.size());
  matched_ = 0;
  if (end < kMinMatch) return;
  const TokenId* const newest = tokens.data() + end - 1;
  int position = heads_[bucket_of(newest[-1], newest[0])];
  for (int i = 0; i < kMaxCandidates && position >= 0 && matched_ < kLongMatch; ++i) {
    const TokenId* const candidate = tokens.data() + position;
    const int most = std::min(position + 1, kLongMatch);
    int length = 0;
    while (length < most && candidate[-length] == newest[-length]) ++length;
    if (length >= kMinMatch && length > matched_) {
      matched_ = length;
      predicted_ = position + 1;
    }
    position = earlier_[static_cast<std::size_t>(position)];
  }
}

void PromptLookup::enter(std::span<const TokenId> tokens, int position) {
  const auto index = static_cast<std::size_t>(position);
  if (position == 0) {
    earlier_.push_back(-1);
    return;
  }
  std::int32_t& head = heads_[bucket_of(tokens[index - 1], tokens[index])];
  earlier_.push_back(head);
  head = position;
}

// Twice as many heads as tokens, so that few pairs share one; entered anew whenever the tokens have doubled.
void PromptLookup::make_room(std::span<const TokenId> tokens) {
  if (tokens.size() <= heads_.size() && !heads_.empty()) return;
  heads_.assign(std::max(kLeastHeads, std::bit_ceil(2 * tokens.size())), -1);
  earlier_.clear();
  for (int i = 0; i < num_seen_; ++i) enter(tokens, i);
}

std::size_t PromptLookup::bucket_of(TokenId first, TokenId second) const {
  const std::uint64_t pair = static_cast<std::uint64_t>(static_cast<std::uint32_t>(first)) << 32 |
                             static_cast<std::uint32_t>(second);
  return (pair * 0x9E3779B97F4A7C15U >> 32) & (heads_.size() - 1);
}

std::size_t PromptLookup::class_of(int matched) {
  const int width = std::bit_width(static_cast<unsigned>(matched));
  return static_cast<std::size_t>(std::clamp(width - 2, 0, kNumClasses - 1));
}

}  // namespace kvcrush
