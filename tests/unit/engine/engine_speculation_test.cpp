// Prompt lookup: what comes is what would come without, in fewer steps.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class EngineSpeculationTest : public EngineTest {
 protected:
  EngineSpeculationTest() { model_ = make_repeating_model(); }
  static std::vector<EngineRequest> with_lookup(std::vector<EngineRequest> requests) {
    for (EngineRequest& request : requests) request.lookup_tokens = 16;
    return requests;
  }
  static EngineRequest with_lookup(EngineRequest request) {
    request.lookup_tokens = 16;
    return request;
  }
  // Prompts of all lengths and every policy that may draft.
  static std::vector<EngineRequest> requests_of_all_kinds(int count, int max_tokens) {
    std::vector<EngineRequest> requests = mixed_requests(count, max_tokens);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      EngineRequest& request = requests[i];
      auto& compression = request.cache_policies[0].compression;
      if (compression && compression->policy == BasePolicy::kH2o) compression->policy = BasePolicy::kTova;
      if (request.sampling.temperature > 0) request.sampling.temperature = 0.3F;
      if (i % 7 == 2) request.sampling.repetition_penalty = 1.05F;
      if (i % 7 == 4) request.sampling.frequency_penalty = 0.05F;
      if (i % 9 == 5) request.sampling.min_tokens = max_tokens / 2, request.sampling.ignore_eos = false;
    }
    return requests;
  }
  static void expect_same_reports(const FinishEvent& a, const FinishEvent& b, const std::string& what) {
    EXPECT_EQ(a.reason, b.reason) << what;
    EXPECT_EQ(a.compression.kv_bytes_held, b.compression.kv_bytes_held) << what;
    EXPECT_EQ(a.compression.kv_bytes_before, b.compression.kv_bytes_before) << what;
    EXPECT_EQ(a.compression.prune_count, b.compression.prune_count) << what;
    EXPECT_EQ(a.compression.tokens_evicted.max, b.compression.tokens_evicted.max) << what;
  }
};

TEST_F(EngineSpeculationTest, SameTokensAndReportsInFewerSteps) {
  auto engine = make_engine(16384);
  int drafted = 0;
  int accepted = 0;
  int wrong_while_pruning = 0;
  for (const EngineRequest& request : requests_of_all_kinds(48, 150)) {
    const Outcome plain = run(*engine, request);
    const Outcome fast = run(*engine, with_lookup(request));
    EXPECT_EQ(fast.tokens, plain.tokens) << request.request_id;
    expect_same_reports(fast.finish, plain.finish, request.request_id);
    EXPECT_EQ(plain.finish.drafted_tokens, 0);
    EXPECT_LE(fast.finish.accepted_draft_tokens, fast.finish.drafted_tokens);
    drafted += fast.finish.drafted_tokens;
    accepted += fast.finish.accepted_draft_tokens;
    if (fast.finish.compression.prune_count > 1)
      wrong_while_pruning += fast.finish.drafted_tokens - fast.finish.accepted_draft_tokens;
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(drafted, accepted + 100) << "wrong drafts are what has to be forgotten";
  EXPECT_GT(wrong_while_pruning, 20);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineSpeculationTest, SameTokensInABatch) {
  auto engine = make_engine(16384);
  const std::vector<EngineRequest> requests = requests_of_all_kinds(12, 120);
  std::vector<std::vector<TokenId>> expected;
  for (const EngineRequest& request : requests) expected.push_back(run(*engine, request).tokens);
  std::vector<EngineRequest> some = requests;
  for (std::size_t i = 0; i < some.size(); i += 2) some[i].lookup_tokens = 8;
  for (const auto& batch : {with_lookup(requests), some}) {
    const std::vector<Outcome> outcomes = run_together(*engine, batch);
    int accepted = 0;
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      EXPECT_EQ(outcomes[i].tokens, expected[i]) << "request " << i;
      if (batch[i].lookup_tokens == 0) {
        EXPECT_EQ(outcomes[i].finish.drafted_tokens, 0);
      }
      accepted += outcomes[i].finish.accepted_draft_tokens;
    }
    EXPECT_GT(accepted, 20);
  }
  expect_no_blocks_used(*engine);
}

TEST_F(EngineSpeculationTest, SameTokensUnderPreemption) {
  auto engine = make_engine(16384);
  const std::vector<EngineRequest> requests = requests_of_all_kinds(10, 140);
  std::vector<std::vector<TokenId>> expected;
  for (const EngineRequest& request : requests) expected.push_back(run(*engine, request).tokens);
  for (const std::uint64_t swap_bytes : {std::uint64_t{0}, std::uint64_t{1} << 24}) {
    EngineConfig config = config_for(700);
    config.max_running_sequences = 12;
    config.swap_memory_bytes = swap_bytes;
    auto small = make_engine(config);
    const int preempted = observer_.num_preemptions;
    const int swapped = observer_.num_swaps;
    const std::vector<Outcome> outcomes = run_together(*small, with_lookup(requests));
    int accepted = 0;
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      EXPECT_EQ(outcomes[i].tokens, expected[i]) << "request " << i;
      accepted += outcomes[i].finish.accepted_draft_tokens;
    }
    EXPECT_GT(observer_.num_preemptions, preempted);
    EXPECT_EQ(observer_.num_swaps > swapped, swap_bytes > 0);
    EXPECT_GT(accepted, 20);
    expect_no_blocks_used(*small);
  }
}

TEST_F(EngineSpeculationTest, SameTokensInEverySample) {
  auto engine = make_engine(16384);
  for (const bool prunes : {false, true}) {
    EngineRequest request = greedy_request("r", random_prompt(150, kTinyVocab, 5), 150);
    request.sampling.temperature = 0.25F;
    request.sampling.seed = 7;
    request.num_samples = 3;
    if (prunes) {
      request.cache_policies[0].compression = quarter();
      request.cache_policies[0].compression->lookahead_tokens = 6;
    }
    Collector plain;
    Collector fast;
    ASSERT_TRUE(engine->submit(request, plain.stream()).ok());
    ASSERT_TRUE(plain.wait(3));
    ASSERT_TRUE(engine->submit(with_lookup(request), fast.stream()).ok());
    ASSERT_TRUE(fast.wait(3));
    int accepted = 0;
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(fast.tokens(i), plain.tokens(i)) << "sample " << i;
      expect_same_reports(fast.finish(i), plain.finish(i), "sample " + std::to_string(i));
      accepted += fast.finish(i).accepted_draft_tokens;
    }
    EXPECT_GT(accepted, 20);
    EXPECT_NE(plain.tokens(0), plain.tokens(1));
  }
  expect_no_blocks_used(*engine);
}

// An end token inside a run of right drafts ends the text there, and what lay behind it is given back.
TEST_F(EngineSpeculationTest, SameTokensToTheEnd) {
  auto engine = make_engine(16384);
  int ended_in_a_run = 0;
  for (int i = 0; i < 12; ++i) {
    EngineRequest request =
        greedy_request("r" + std::to_string(i), random_prompt(40 + 9 * i, kTinyVocab, 20 + i), 160);
    const std::vector<TokenId> tokens = run(*engine, request).tokens;
    // The token that comes first so late that drafting has begun.
    const auto late = std::find_if(tokens.begin() + 30, tokens.end(), [&](TokenId token) {
      return std::find(tokens.begin(), tokens.begin() + 30, token) == tokens.begin() + 30;
    });
    request.sampling.stop_token_ids = {late == tokens.end() ? tokens[90] : *late};
    request.sampling.min_tokens = late == tokens.end() ? 80 : 0;
    for (const int max_tokens : {160, 61}) {
      request.sampling.max_tokens = max_tokens;
      request.sampling.min_tokens = std::min(request.sampling.min_tokens, max_tokens);
      const Outcome plain = run(*engine, request);
      const Outcome fast = run(*engine, with_lookup(request));
      EXPECT_EQ(fast.tokens, plain.tokens) << "request " << i;
      expect_same_reports(fast.finish, plain.finish, "request " + std::to_string(i));
      ended_in_a_run +=
          plain.finish.reason == FinishReason::kStop && fast.finish.accepted_draft_tokens > 0 ? 1 : 0;
    }
  }
  EXPECT_GT(ended_in_a_run, 4);
  expect_no_blocks_used(*engine);
}

// The end token itself is a right draft with others after it, in blocks that only they need.
TEST_F(EngineSpeculationTest, SameTokensWhereTheEndIsInsideARun) {
  model_ = make_repeating_model(/*over_layers=*/15.0F);
  auto engine = make_engine(4096);
  int inside = 0;
  for (int length = 60; length < 92; ++length) {
    std::vector<TokenId> circle;
    for (int i = 0; i < length; ++i) circle.push_back(30 + i % 10);
    EngineRequest request = greedy_request("r", circle, 100);
    request.sampling.stop_token_ids = {30 + (length + 4) % 10};
    const Outcome plain = run(*engine, request);
    const Outcome fast = run(*engine, with_lookup(request));
    EXPECT_EQ(fast.tokens, plain.tokens) << length;
    expect_same_reports(fast.finish, plain.finish, std::to_string(length));
    // The first token comes without drafts, all others in one step that had more of them.
    const bool at_once = fast.tokens.size() == 5 && fast.finish.accepted_draft_tokens == 4;
    inside += at_once && fast.finish.drafted_tokens > 8 ? 1 : 0;
  }
  EXPECT_GT(inside, 20);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineSpeculationTest, SameTokensAndLogprobs) {
  auto engine = make_engine(4096);
  EngineRequest request = greedy_request("r", random_prompt(80, kTinyVocab, 4), 120);
  request.sampling.num_logprobs = 3;
  Collector plain;
  Collector fast;
  ASSERT_TRUE(engine->submit(request, plain.stream()).ok());
  ASSERT_TRUE(plain.wait());
  ASSERT_TRUE(engine->submit(with_lookup(request), fast.stream()).ok());
  ASSERT_TRUE(fast.wait());
  ASSERT_GT(fast.finish().accepted_draft_tokens, 10);
  const std::vector<TokenEvent> expected = plain.events();
  const std::vector<TokenEvent> actual = fast.events();
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].token, expected[i].token);
    EXPECT_EQ(actual[i].logprob->logprob, expected[i].logprob->logprob);
    ASSERT_EQ(actual[i].top_logprobs.size(), 3U);
    EXPECT_EQ(actual[i].top_logprobs[2].logprob, expected[i].top_logprobs[2].logprob);
  }
}

// The next turn of a conversation begins with this one's output, and with nothing that was only guessed.
TEST_F(EngineSpeculationTest, SameTokensAfterASharedOutput) {
  auto engine = make_engine(8192);
  const EngineRequest first = greedy_request("a", random_prompt(90, kTinyVocab, 8), 140);
  const Outcome spoken = run(*engine, with_lookup(first));
  ASSERT_GT(spoken.finish.drafted_tokens, 10);
  EngineRequest next = greedy_request("b", first.prompt_token_ids, 40);
  next.prompt_token_ids.insert(next.prompt_token_ids.end(), spoken.tokens.begin(), spoken.tokens.end());
  next.prompt_token_ids.push_back(5);
  const Outcome shared = run(*engine, next);
  EXPECT_GT(shared.finish.cached_prompt_tokens, 200);
  next.bypass_prefix_cache = true;
  EXPECT_EQ(run(*engine, next).tokens, shared.tokens);
}

TEST_F(EngineSpeculationTest, RefusesSumsOfAttention) {
  auto engine = make_engine(4096);
  EngineRequest request = with_lookup(greedy_request("r", random_prompt(80, kTinyVocab, 4), 20));
  request.cache_policies[0].compression = quarter(BasePolicy::kH2o);
  Collector collector;
  const Status status = engine->submit(request, collector.stream());
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("speculation.lookup_tokens is 16"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("allowed with it: 0"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace kvcrush
