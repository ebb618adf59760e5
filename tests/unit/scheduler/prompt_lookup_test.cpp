#include "engine/scheduler/prompt_lookup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

namespace kvcrush {
namespace {

using Tokens = std::vector<TokenId>;

constexpr double kAnyChance = 0;
constexpr double kOneRunning = 2.0 / 9;  // the scheduler's least chance there

Tokens numbers(int first, int count) {
  Tokens tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

Tokens join(std::initializer_list<Tokens> parts) {
  Tokens all;
  for (const Tokens& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// A text whose end repeats `length` tokens of its beginning.
Tokens quoting(int length) {
  return join({numbers(0, 100), numbers(500, 20), numbers(10, length)});
}

TEST(PromptLookup, GoesOnAsTheEarlierOccurrenceDid) {
  PromptLookup lookup(8);
  EXPECT_EQ(lookup.propose(quoting(6), 8, kAnyChance), numbers(16, 8));
}

TEST(PromptLookup, ProposesNoMoreThanIsAskedFor) {
  EXPECT_EQ(PromptLookup(3).propose(quoting(6), 8, kAnyChance).size(), 3U);
  EXPECT_EQ(PromptLookup(8).propose(quoting(6), 5, kAnyChance).size(), 5U);
  EXPECT_TRUE(PromptLookup(8).propose(quoting(6), 0, kAnyChance).empty());
  EXPECT_TRUE(PromptLookup(8).propose(quoting(6), -3, kAnyChance).empty());
}

TEST(PromptLookup, FindsNothingWhereNothingRepeats) {
  EXPECT_TRUE(PromptLookup(8).propose(numbers(0, 300), 8, kAnyChance).empty());
  EXPECT_TRUE(PromptLookup(8).propose(Tokens{}, 8, kAnyChance).empty());
  EXPECT_TRUE(PromptLookup(8).propose(Tokens{1}, 8, kAnyChance).empty());
  EXPECT_TRUE(PromptLookup(8).propose(Tokens{1, 2}, 8, kAnyChance).empty());
  // One token is no match.
  EXPECT_TRUE(PromptLookup(8).propose(Tokens{1, 2, 3, 1}, 8, kAnyChance).empty());
}

TEST(PromptLookup, PrefersTheLongerMatchAndOfEqualOnesTheNewer) {
  const Tokens longer = join({{1, 2, 3, 4, 50}, {9, 3, 4, 60}, {8, 1, 2, 3, 4}});
  EXPECT_EQ(PromptLookup(1).propose(longer, 1, kAnyChance), Tokens{50});
  const Tokens equal = join({{7, 3, 4, 50}, {9, 3, 4, 60}, {8, 3, 4}});
  EXPECT_EQ(PromptLookup(1).propose(equal, 1, kAnyChance), Tokens{60});
}

TEST(PromptLookup, ARunThatRepeatsItselfGoesOnIntoItsDrafts) {
  EXPECT_EQ(PromptLookup(7).propose(Tokens{9, 1, 2, 3, 1, 2, 3}, 7, kAnyChance),
            (Tokens{1, 2, 3, 1, 2, 3, 1}));
  EXPECT_EQ(PromptLookup(3).propose(Tokens{5, 5, 5}, 3, kAnyChance), (Tokens{5, 5, 5}));
}

// Whether tokens come one by one, as without drafts, or several at a time.
TEST(PromptLookup, DoesNotDependOnHowTokensCome) {
  std::mt19937 random(3);
  Tokens text;
  for (int i = 0; i < 4000; ++i) text.push_back(static_cast<TokenId>(random() % 7));
  const std::span<const TokenId> all(text);
  PromptLookup single(16);
  PromptLookup several(16);
  single.propose(all.first(1500), 16, kAnyChance);
  several.propose(all.first(1500), 16, kAnyChance);
  std::size_t known = 1500;
  for (std::size_t end = 1501; end <= text.size(); ++end) {
    const Tokens drafts = single.propose(all.first(end), 16, kOneRunning);
    if (end < known + 1 + random() % 9) continue;
    known = end;
    ASSERT_EQ(several.propose(all.first(end), 16, kOneRunning), drafts) << end;
  }
}

// Checks proposals against the text itself, as the engine does with what it samples.
struct Replay {
  int steps = 0;
  int drafted = 0;
  int accepted = 0;
};
Replay replay(const Tokens& text, int num_prompt, int max_drafts, double least_chance) {
  PromptLookup lookup(max_drafts);
  const std::span<const TokenId> all(text);
  Replay replay;
  for (auto known = static_cast<std::size_t>(num_prompt) + 1; known < text.size(); ++replay.steps) {
    const Tokens drafts =
        lookup.propose(all.first(known), static_cast<int>(text.size() - known) - 1, least_chance);
    const auto wrong =
        std::mismatch(drafts.begin(), drafts.end(), text.begin() + static_cast<std::ptrdiff_t>(known));
    const auto right = wrong.first - drafts.begin();
    replay.drafted += static_cast<int>(drafts.size());
    replay.accepted += static_cast<int>(right);
    known += static_cast<std::size_t>(right) + 1;
  }
  return replay;
}

TEST(PromptLookup, QuotingTakesAFewSteps) {
  const Tokens text = join({numbers(0, 500), numbers(600, 5), numbers(40, 400)});
  const Replay with = replay(text, 502, 32, kOneRunning);
  EXPECT_LT(with.steps, 30);
  EXPECT_GT(with.accepted, with.drafted * 9 / 10);
}

// Pairs of a small vocabulary recur all the time, and what comes after them is another token each time.
TEST(PromptLookup, StopsWhereItIsWrong) {
  std::mt19937 random(5);
  Tokens text;
  for (int i = 0; i < 6000; ++i) text.push_back(static_cast<TokenId>(random() % 60));
  const Replay noise = replay(text, 4000, 32, kOneRunning);
  EXPECT_LT(noise.drafted, 60);
  // And goes on where it would be right again: after 32 tokens of a quotation at the latest.
  const Tokens quote = join({text, Tokens(text.begin() + 100, text.begin() + 400)});
  const Replay mixed = replay(quote, 4000, 32, kOneRunning);
  EXPECT_GT(mixed.accepted, noise.accepted + 240);
}

TEST(PromptLookup, AsksForSurerDraftsWhereTheyCostMore) {
  const Tokens text = quoting(6);
  std::size_t before = 65;
  for (const double least : {0.01, 0.2, 0.5, 0.95}) {
    const std::size_t drafts = PromptLookup(64).propose(text, 64, least).size();
    EXPECT_LT(drafts, before) << least;
    before = drafts;
  }
  EXPECT_EQ(before, 0U);
}

TEST(PromptLookup, AStepCostsTheSameAfterALongPrompt) {
  constexpr int kPrompt = 200'000;
  std::mt19937 random(9);
  Tokens text;
  for (int i = 0; i < kPrompt + 2000; ++i) text.push_back(static_cast<TokenId>(random() % 50));
  PromptLookup lookup(16);
  const std::span<const TokenId> all(text);
  const auto started = std::chrono::steady_clock::now();
  lookup.propose(all.first(kPrompt), 16, kOneRunning);
  for (std::size_t end = kPrompt + 1; end <= text.size(); ++end)
    lookup.propose(all.first(end), 16, kOneRunning);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  // Some 30 ms; a search through the prompt for each token would be 400 million comparisons.
  EXPECT_LT(seconds.count(), 1);
}

TEST(PromptLookup, FindsOldTokensInALongOutput) {
  Tokens text = numbers(0, 10);
  const Tokens rest = numbers(100, 9000);
  PromptLookup lookup(4);
  for (const TokenId token : rest) {
    text.push_back(token);
    lookup.propose(text, 4, kAnyChance);
  }
  for (const TokenId token : {2, 3, 4}) text.push_back(token);
  EXPECT_EQ(lookup.propose(text, 4, kAnyChance), numbers(5, 4));
}

}  // namespace
}  // namespace kvcrush
