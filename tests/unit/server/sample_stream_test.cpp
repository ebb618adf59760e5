#include "server/sample_stream.h"

#include <gtest/gtest.h>

#include "tests/unit/server/test_models.h"
#include "tests/unit/tokenizer/small_pieces.h"

namespace kvcrush {
namespace {

using test::bytes_of;

TokenEvent token_event(TokenId token) {
  TokenEvent event;
  event.index = 3;
  event.token = token;
  return event;
}

class Sample {
 public:
  explicit Sample(TextRules rules = {}) : stream_(test::byte_tokenizer(), std::move(rules), 3) {}

  // Whether the last token matched a stop string.
  bool tokens(std::string_view text) {
    bool matched = false;
    for (const TokenId id : bytes_of(text)) matched = stream_.absorb(token_event(id));
    return matched;
  }
  v1::GenerateResponse finish(FinishReason reason, int completion_tokens = 99) {
    FinishEvent event;
    event.index = 3;
    event.reason = reason;
    event.prompt_tokens = 5;
    event.completion_tokens = completion_tokens;
    stream_.absorb(event);
    return stream_.take_chunk();
  }

  SampleStream stream_;
};

TEST(SampleStream, TokensGatherUntilTaken) {
  Sample sample;
  EXPECT_FALSE(sample.stream_.has_chunk());
  sample.tokens("ab");
  ASSERT_TRUE(sample.stream_.has_chunk());
  const v1::GenerateResponse chunk = sample.stream_.take_chunk();
  EXPECT_EQ(chunk.text(), "ab");
  EXPECT_EQ(chunk.index(), 3);
  EXPECT_EQ(chunk.token_ids_size(), 2);
  EXPECT_FALSE(chunk.has_finish());
  EXPECT_FALSE(sample.stream_.has_chunk());
  const v1::GenerateResponse last = sample.finish(FinishReason::kLength);
  EXPECT_EQ(last.text(), "");
  EXPECT_EQ(last.token_ids_size(), 0);
  EXPECT_EQ(last.finish().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(last.finish().usage().completion_tokens(), 2);
  EXPECT_EQ(last.finish().usage().prompt_tokens(), 5);
  EXPECT_TRUE(sample.stream_.finished());
}

TEST(SampleStream, ReportsHowTheCacheWasKept) {
  v1::KvCompression applied;
  applied.set_policy(v1::BASE_POLICY_TOVA);
  SampleStream stream(test::byte_tokenizer(), {}, 0, applied);
  EXPECT_EQ(stream.score(), nullptr);
  stream.absorb(FinishEvent());
  EXPECT_EQ(stream.take_chunk().finish().compression().applied().policy(), v1::BASE_POLICY_TOVA);
}

TEST(SampleStream, ScoresWaitForTheEndAndTheEngineCountsTheirTokens) {
  Sample sample;
  ScoreEvent score;
  score.logprobs = {-1, -2};
  sample.stream_.absorb(score);
  EXPECT_FALSE(sample.stream_.has_chunk());
  EXPECT_EQ(sample.finish(FinishReason::kLength, 2).finish().usage().completion_tokens(), 2);
  ASSERT_NE(sample.stream_.score(), nullptr);
  EXPECT_EQ(sample.stream_.score()->logprobs, (std::vector<float>{-1, -2}));
}

TEST(SampleStream, HalfACharacterWaits) {
  Sample sample;
  sample.tokens("\xC3");
  v1::GenerateResponse chunk = sample.stream_.take_chunk();
  EXPECT_EQ(chunk.text(), "");
  EXPECT_EQ(chunk.token_ids_size(), 1);
  sample.tokens("\xA9");
  EXPECT_EQ(sample.stream_.take_chunk().text(), "\xC3\xA9");
  sample.tokens("\xC3");
  EXPECT_EQ(sample.finish(FinishReason::kLength).text(), "\xEF\xBF\xBD");
}

TEST(SampleStream, StopStringEndsTextAndLaterTokensDoNotCount) {
  Sample sample({{"END"}, 0});
  EXPECT_FALSE(sample.tokens("abEN"));
  EXPECT_TRUE(sample.tokens("D"));
  EXPECT_FALSE(sample.tokens("more"));
  const v1::GenerateResponse chunk = sample.finish(FinishReason::kLength);
  EXPECT_EQ(chunk.text(), "ab");
  EXPECT_EQ(chunk.token_ids_size(), 5);
  EXPECT_EQ(chunk.finish().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(chunk.finish().stop_match(), "END");
  EXPECT_EQ(chunk.finish().usage().completion_tokens(), 5);
  EXPECT_EQ(sample.stream_.end()->reason, FinishReason::kStop);
}

TEST(SampleStream, TextThatOnlyBeganAStopStringIsGivenAtTheEnd) {
  Sample sample({{"END"}, 0});
  sample.tokens("abEN");
  EXPECT_EQ(sample.stream_.take_chunk().text(), "ab");
  const v1::GenerateResponse chunk = sample.finish(FinishReason::kAbort);
  EXPECT_EQ(chunk.text(), "EN");
  EXPECT_EQ(chunk.finish().reason(), v1::FINISH_REASON_ABORT);
  EXPECT_EQ(chunk.finish().stop_match(), "");
}

TEST(SampleStream, StopStringsBeforeMinTokensDoNotCount) {
  Sample sample({{"aa"}, 4});
  EXPECT_FALSE(sample.tokens("aab"));
  EXPECT_FALSE(sample.tokens("a"));
  EXPECT_TRUE(sample.tokens("a"));
  EXPECT_EQ(sample.finish(FinishReason::kStop).text(), "aab");
  Sample at_the_edge({{"aa"}, 2});
  EXPECT_TRUE(at_the_edge.tokens("aa"));
}

TEST(SampleStream, EndTokensAreInTheIdsAndNotInTheText) {
  Sample sample;
  sample.tokens("a");
  TokenEvent end = token_event('b');
  end.is_end_token = true;
  sample.stream_.absorb(end);
  const v1::GenerateResponse chunk = sample.finish(FinishReason::kStop);
  EXPECT_EQ(chunk.text(), "a");
  EXPECT_EQ(chunk.token_ids_size(), 2);
  EXPECT_EQ(chunk.finish().usage().completion_tokens(), 2);
}

TEST(SampleStream, SpecialTokensAreNotShown) {
  Sample sample;
  sample.stream_.absorb(token_event(test::kEndToken));
  sample.tokens("a");
  EXPECT_EQ(sample.finish(FinishReason::kLength).text(), "a");
}

// The tokens of `text` as SentencePiece has them, "▁", "h" and bytes, streamed.
std::string stream_pieces(std::string_view text, bool begins_text) {
  const auto tokenizer = Tokenizer::create(test::small_pieces({"\u2581", "h"})).value();
  TextRules rules;
  rules.begins_text = begins_text;
  SampleStream stream(tokenizer, rules, 0);
  std::string streamed;
  const std::vector<TokenId> ids = tokenizer->encode(text).value();
  for (const TokenId id : ids) {
    stream.absorb(token_event(id));
    streamed += stream.take_chunk().text() + "|";
  }
  return streamed;
}

TEST(SampleStream, PiecesOfSentencePiece) {
  EXPECT_EQ(stream_pieces("h \u00E4h", true), "|h| ||\u00E4|h|");    // an answer in a chat
  EXPECT_EQ(stream_pieces("h \u00E4h", false), " |h| ||\u00E4|h|");  // what goes on after a prompt
}

TEST(SampleStream, LogprobsFollowTheTokens) {
  Sample sample;
  TokenEvent event = token_event('a');
  event.logprob = LogprobEntry{'a', -0.5f};
  event.top_logprobs = {{'b', -0.25f}, {0xFF, -2.0f}};
  sample.stream_.absorb(event);
  const v1::GenerateResponse chunk = sample.stream_.take_chunk();
  ASSERT_EQ(chunk.logprobs_size(), 1);
  EXPECT_EQ(chunk.logprobs(0).sampled().token(), "a");
  EXPECT_EQ(chunk.logprobs(0).sampled().logprob(), -0.5f);
  ASSERT_EQ(chunk.logprobs(0).top_size(), 2);
  EXPECT_EQ(chunk.logprobs(0).top(0).token_id(), 'b');
  EXPECT_EQ(chunk.logprobs(0).top(1).token(), "\xEF\xBF\xBD");
}

TEST(SampleStream, UnreadBytesCountEveryPartAndGoWithTheChunk) {
  Sample sample;
  EXPECT_EQ(sample.stream_.unread_bytes(), 0u);
  sample.tokens("a");
  const std::size_t one_token = sample.stream_.unread_bytes();
  EXPECT_GT(one_token, sizeof(v1::GenerateResponse));
  sample.tokens("bc");
  EXPECT_EQ(sample.stream_.unread_bytes(), one_token + 2 * (1 + sizeof(TokenId)));
  const std::size_t before_logprobs = sample.stream_.unread_bytes();
  TokenEvent event = token_event('d');
  event.logprob = LogprobEntry{'d', -0.5f};
  event.top_logprobs.assign(20, LogprobEntry{'e', -2.0f});
  sample.stream_.absorb(event);
  EXPECT_GT(sample.stream_.unread_bytes(), before_logprobs + 21 * sizeof(v1::TokenLogprob));
  static_cast<void>(sample.stream_.take_chunk());
  EXPECT_EQ(sample.stream_.unread_bytes(), 0u);
  sample.tokens("e");
  sample.stream_.drop_chunks();
  EXPECT_EQ(sample.stream_.unread_bytes(), 0u);
  EXPECT_FALSE(sample.stream_.has_chunk());
}

TEST(SampleStream, TellsWhetherItEndedInTheQueue) {
  SampleStream stream(test::byte_tokenizer(), {}, 0);
  FinishEvent event;
  event.reason = FinishReason::kDeadline;
  event.queue_ms = event.total_ms = 1500;
  stream.absorb(event);
  EXPECT_TRUE(stream.end()->in_queue);
  EXPECT_EQ(stream.end()->total_ms, 1500);
  EXPECT_EQ(stream.take_chunk().finish().reason(), v1::FINISH_REASON_DEADLINE);
  SampleStream other(test::byte_tokenizer(), {}, 0);
  event.queue_ms = 10;
  other.absorb(event);
  EXPECT_FALSE(other.end()->in_queue);
}

}  // namespace
}  // namespace kvcrush
